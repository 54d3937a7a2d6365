"""What may be claimed: other examples, collapses, ties, speed-ups; and the second stage of tuning."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench import study
from bench.commands import _compare
from bench.comparison import arms, compare, rule, verdict
from bench.comparison.arms import Arm, Row
from bench.comparison.numbers import History, Runs, Top
from bench.core import stats
from bench.core.errors import BadInput
from bench.core.spec import MethodGrid, Trial
from tests.support.comparisons import ETAS, compared, landscape, make_arms, noisy, ramp, row, setup, table
from tests.support.plot_rows import lora_grid

REFERENCE = Path(__file__).resolve().parents[3] / "results" / "reference"


# --- other evaluation examples ------------------------------------------------------------------------------------


def pairs_of(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[tuple[Row, Row]]:
    one = lora_grid((1e-3,), (1,), (0,))[0]
    n = len(first[0])

    def made(bits: np.ndarray) -> Row:
        return {**row(one, float(bits.mean()), right=bits), "n_eval": n}

    return [(made(a), made(b)) for a, b in zip(first, second, strict=True)]


def test_examples_lost_in_one_seed_each_do_not_outweigh_those_gained_in_all() -> None:
    """20 gained in all 8 seeds, 60 others lost in one: +1.43 points, 2.74 standard errors; McNemar had the other sign.

    p over all signs of 20 times 8 and 60 times 1: P(|S| >= 100), var S = 20 * 64 + 60 = 1340, a normal tail of .0063.
    """
    place = np.arange(872)
    base = [(place >= 20) & (place < 700) for _ in range(8)]
    arm = [(place < 700) & ~((place >= 100 + 8 * i) & (place < 108 + 8 * i) & (place < 160)) for i in range(8)]
    lost = sum(int((b & ~a).sum()) for a, b in zip(arm, base, strict=True))
    assert lost == 60
    found = compare._examples(pairs_of(arm, base))
    assert found is not None
    assert (found.arm_only, found.baseline_only) == (20, 60)
    assert found.mean == pytest.approx((20 - 60 / 8) / 872)
    assert found.stderr is not None
    assert found.mean / found.stderr == pytest.approx(2.742, abs=1e-3)
    assert found.p == pytest.approx(0.0059, abs=1e-4)
    again = compare._examples(pairs_of(base, arm))
    assert again is not None
    assert (again.mean, again.p) == (-found.mean, found.p)


def test_mora_6_on_the_stored_rows_holds_for_other_examples() -> None:
    rows = pq.read_table(REFERENCE / "sst2-compare-fresh.parquet").to_pylist()
    of = {(r["method"], r["mora_type"], r["seed"]): r for r in rows}
    pairs = [(of["mora", 6, seed], of["lora", None, seed]) for seed in range(1000, 1008)]
    found = compare._examples(pairs)
    assert found is not None
    assert found.stderr is not None
    assert found.mean / found.stderr == pytest.approx(-2.58, abs=0.005)
    assert found.p == pytest.approx(0.011, abs=0.0005)


def test_beyond_these_examples_needs_their_direction_too() -> None:
    """Another metric, better with a smaller share of right examples: nothing is shown beyond."""
    found = compared(noisy({"lora+": 0.02}))
    plus = found.differences[0]
    assert plus.examples is not None
    up = replace(plus.examples, mean=0.02, stderr=0.005, p=0.001)
    down = replace(up, mean=-0.02)
    assert "also beyond these examples" in verdict._examples(replace(plus, claim="better", examples=up), found)
    assert "also beyond these examples" in verdict._examples(replace(plus, claim="worse", examples=down), found)
    assert "not shown beyond these" in verdict._examples(replace(plus, claim="better", examples=down), found)


# --- collapses ----------------------------------------------------------------------------------------------------


def rows_of(scores: Sequence[float | None], flags: Sequence[bool] | None = None) -> list[Row]:
    flags = flags or [False] * len(scores)
    return [
        {"status": "ok" if s is not None else "diverged", "metric_value": s, "metric_stderr": 0.012, "collapsed": f}
        for s, f in zip(scores, flags, strict=True)
    ]


def test_a_collapse_is_a_divergence_a_flag_or_a_score_far_below_the_others() -> None:
    usual = [0.84, 0.85, 0.845, 0.843, 0.847]
    assert not any(rule.collapsed(rows_of(usual), higher_is_better=True))
    assert rule.collapsed(rows_of([*usual, 0.5, None]), higher_is_better=True) == [False] * 5 + [True, True]
    assert rule.collapsed(rows_of(usual, [True, *[False] * 4]), higher_is_better=True)[0]
    assert not any(rule.collapsed(rows_of([*usual, 0.99]), higher_is_better=True))  # far above is none
    losses = [1 - s for s in usual]
    assert rule.collapsed(rows_of([*losses, 0.9]), higher_is_better=False)[-1]
    # seeds that spread widely: none is far from the others
    assert not any(rule.collapsed(rows_of([0.95, 0.94, 0.7, 0.6, 0.55, 0.8]), higher_is_better=True))


def of(fresh: tuple[int, int], pool: tuple[int, int] = (6, 0), tuning: tuple[int, int] = (3, 0)) -> History:
    parts = {"tuning": tuning, "fresh": fresh, "pool": pool}
    return History(**{name: Runs(n=n, n_collapsed=k) for name, (n, k) in parts.items()})


@pytest.mark.parametrize(
    ("winner", "rival", "withheld"),
    [
        (of((8, 0)), of((8, 0)), ""),
        (of((8, 0), (5, 0)), of((8, 0)), "runs"),  # 13 runs
        (of((8, 0), (0, 0), (9, 0)), of((8, 0)), "runs"),  # those of tuning were chosen for having gone well
        (of((8, 1)), of((8, 0)), "collapses"),
        (of((8, 0), (6, 1)), of((8, 0)), "collapses"),
        (of((8, 0), tuning=(3, 1)), of((8, 0)), "collapses"),
        (of((8, 1)), of((8, 1)), ""),  # as often as its rival
        (of((8, 1), (20, 0)), of((8, 1), (0, 0)), ""),  # 1 of 31 against 1 of 11
        (of((8, 0)), of((8, 3), (0, 0)), ""),  # its rival alone collapses
    ],
)
def test_who_may_win(winner: History, rival: History, withheld: str) -> None:
    for side, (arm, base) in ((1, (winner, rival)), (-1, (rival, winner))):
        (found,) = rule.decide([0.01], [side], [arm], base)
        assert (found.side, found.withheld) == (0 if withheld else side, withheld)
        assert rule.decide([0.06], [side], [arm], base)[0].withheld == ""  # what is not rejected needs no excuse


def test_without_further_runs_nothing_is_won_and_the_sentence_says_how_many_are_needed() -> None:
    found = compared(noisy({"lora+": 0.02}), n_pool=0)
    assert (found.differences[0].claim, found.differences[0].withheld) == ("none", "runs")
    assert (
        "10 runs of LoRA+'s cell are too few to know that it does not collapse now and then (14"
        in verdict.sentences(found)[1]
    )
    assert compare.runs_wanted(found) == {"lora+": 4}
    lost = compared(noisy({"lora+": -0.02, "full": -0.02}), n_pool=0)
    assert compare.runs_wanted(lost) == {"lora": 4}  # the winner is LoRA


def test_a_collapse_that_only_the_further_runs_show_is_told_and_nothing_is_better() -> None:
    gaps = noisy({"lora+": 0.02}, sd=0.001)
    found = compared(lambda t: 0.5 if t.method == "lora+" and t.seed == 2003 else gaps(t))
    plus = found.differences[0]
    assert (plus.p_holm <= 0.05, plus.claim, plus.withheld) == (True, "none", "collapses")
    assert found.arms[1].history.pool == Runs(n=8, n_collapsed=1)
    text = verdict.sentences(found)
    assert "LoRA+'s cell collapsed or diverged in 1 of 20 runs and LoRA's in 0 of 20" in text[1]
    assert "(1 of 20 runs collapsed)" in text[0]
    limits = verdict.short(found)[2]
    assert "runs of the chosen cells that collapsed: LoRA+ 1 of 20" in limits
    (gaps_told,) = (item for item in limits if "80 %" in item)
    assert re.fullmatch(r"a true gap of [\d.]+ points for LoRA\+ would have been .*", gaps_told)


def test_what_was_swept_beside_method_and_rates_is_in_table_and_sentences() -> None:
    found = compared(noisy({"lora+": 0.02}), of=setup(varying=("lora_alpha", "target_modules")))
    header, _, plus, full = _compare.scores(found).splitlines()[:4]
    assert header.split()[:4] == ["method", "lora_alpha", "target_modules", "eta_A"]
    alpha = found.arms[1].settings["lora_alpha"]
    assert re.match(rf"LoRA\+ +{alpha:g} +query, value +", plus)
    assert re.match(r"full fine-tuning +- +- +", full)
    plus_told, full_told = (text for text in verdict.sentences(found)[1:3])
    assert f"lora_alpha {alpha:g}, target_modules query, value) is better than LoRA as tuned (eta_A" in plus_told
    assert "full fine-tuning as tuned (eta_A 0.00016) against LoRA as tuned (eta_A 0.0016, lora_alpha" in full_told


# --- ties, speed-ups, families --------------------------------------------------------------------------------------


def test_zero_differences_raise_the_smallest_p_that_is_told() -> None:
    gaps = noisy({"lora+": 0.02})
    base = noisy({})
    eight = setup(fresh_seeds=tuple(range(1000, 1008)))
    found = compared(lambda t: base(replace(t, method="lora")) if t.seed in (1001, 1004, 1006) else gaps(t), of=eight)
    plus = found.differences[0]
    assert (plus.n, plus.n_zeros, plus.attainable_p) == (8, 3, 2 * 2.0**-4)
    assert "8 pairs, 3 of them without a difference, could not have shown one" in verdict.sentences(found)[1]


def test_a_speed_up_needs_every_seed_where_the_family_is_large() -> None:
    """Of 10 seeds 8 faster and 2 slower: the medians differ twofold, the sign test after Holm says nothing."""
    fast = ramp({"lora": 20, "lora+": 10, "full": 20})
    slow = ramp({"lora": 10, "lora+": 20, "full": 20})
    found = compared(noisy({}), curve=lambda t: (slow if t.seed in (1000, 1001) else fast)(t))
    plus = found.speed_ups[0]
    assert (plus.n_faster, plus.n_ties, plus.steps) == (8, 0, 2.0)
    assert plus.p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert (plus.p_holm, plus.claim) == (2 * plus.p, "none")
    assert "no difference in steps can be claimed" in verdict.sentences(found)[3]
    every = compared(noisy({}), curve=fast).speed_ups[0]
    assert (every.p, every.p_holm, every.claim) == (2 / 1024, 4 / 1024, "faster")
    some = compared(noisy({}), curve=lambda t: ramp({"lora": 20, "lora+": 20 if t.seed < 1006 else 10, "full": 20})(t))
    assert (some.speed_ups[0].n_ties, some.speed_ups[0].attainable_p) == (6, 2 * 2 / 16)
    assert "10 pairs, 6 of them without a difference, could not have shown one" in verdict.sentences(some)[3]


def test_a_target_that_only_one_reaches_is_a_sign_and_neither_is_a_tie() -> None:
    found = compared(noisy({}), curve=ramp({"lora": 0, "lora+": 20, "full": 0}))
    plus, full = found.speed_ups
    assert (plus.n_faster, plus.claim, plus.steps) == (10, "faster", math.inf)
    assert (full.n_ties, full.p, full.claim, full.steps) == (10, 1.0, "none", None)


def test_the_stored_fresh_runs_are_still_read_and_say_what_they_lack() -> None:
    """The 40 fresh rows kept here, of the first version, with the tuning rows of their cells: no further runs."""
    loaded = study.load("sst2-compare", profile="quick")
    tuning, fresh = (
        {r["trial_id"]: r for r in pq.read_table(REFERENCE / f"{name}.parquet").to_pylist()}
        for name in ("sst2-compare", "sst2-compare-fresh")
    )
    first = next(iter(tuning.values()))
    chosen = {(r["method"], r["mora_type"], r["eta_A"], r["eta_B"]) for r in fresh.values()}

    def trials(grid: MethodGrid) -> list[Trial]:
        every = study.expand(
            replace(loaded, grids=(grid,)), data_hash=first["data_hash"], model_hash=first["model_hash"],
            default_targets=("query", "value"), task_name=first["task"], model_name=first["model"],
        )  # fmt: skip
        return [t.as_version_1(1000) for t in every if (t.method, t.mora_type, t.eta_A, t.eta_B) in chosen]

    found = arms.arms_of((grid.method, trials(grid)) for grid in loaded.grids)
    seeds = tuple(sorted({r["seed"] for r in fresh.values()}))
    result = compare.compare(setup(tuning_seeds=(0,), fresh_seeds=seeds), found, tuning=tuning, fresh=fresh)
    full = {d.arm: d for d in result.differences}["full"]
    assert full.interval is not None
    ends = (100 * full.interval.low, 100 * full.interval.high)
    assert ends == (pytest.approx(1.09, abs=0.005), pytest.approx(2.52, abs=0.005))
    assert (full.p_holm <= 0.05, full.claim, full.withheld) == (True, "none", "runs")
    assert [arm.history.every.n_collapsed for arm in result.arms] == [0] * 5


# --- the second stage of tuning ---------------------------------------------------------------------------------------


def test_the_best_cells_are_run_again_and_chosen_by_all_tuning_seeds() -> None:
    """LoRA's luckiest cell of the first stage, 6.4e-3, is not the best of the three over all seeds."""
    found, top = make_arms(), Top(n_cells=2, seeds=(500, 501))
    lucky = {6.4e-3: 0.95, 1.6e-3: 0.9, 4e-4: 0.5, 1e-4: 0.5}

    def score(t: object) -> float:
        if t.method != "lora":  # type: ignore[attr-defined]
            return landscape(t)  # type: ignore[arg-type]
        return 0.7 if t.eta_A == 6.4e-3 and t.seed >= 500 else lucky[t.eta_A]  # type: ignore[attr-defined]

    tuning = table([t for a in found for t in a.trials], score)  # type: ignore[arg-type]
    again = arms.top_trials(found, tuning, top, higher_is_better=True)
    assert len(again) == 3 * 2 * 2  # the same for every arm
    assert {t.eta_A for t in again if t.method == "lora"} == {6.4e-3, 1.6e-3}
    assert {t.seed for t in again} == {500, 501}
    assert arms.tuned(found[0], tuning, None, higher_is_better=True).trial.eta_A == 6.4e-3
    tuning |= table(again, score)  # type: ignore[arg-type]
    cell = arms.tuned(found[0], tuning, top, higher_is_better=True)
    assert (cell.trial.eta_A, cell.n, cell.objective) == (1.6e-3, 4, pytest.approx(0.9))
    chosen = compare.chosen_trials(found, tuning, (1000,), top=top, higher_is_better=True)
    assert chosen["lora"][0].eta_A == 1.6e-3


def test_a_cell_that_was_not_run_again_is_not_chosen() -> None:
    found, top = make_arms(), Top(n_cells=1, seeds=(500, 501))
    tuning = table([t for a in found for t in a.trials], landscape)
    tuning |= table(arms.top_trials(found, tuning, top, higher_is_better=True), lambda t: 0.1)
    assert arms.tuned(found[0], tuning, top, higher_is_better=True).trial.eta_A == 1.6e-3


def test_when_the_second_stage_is_run() -> None:
    loaded = study.load("demo-compare")
    few, three = replace(loaded, seeds=(0,)), replace(loaded, seeds=(0, 1, 500))
    assert arms.top_for(few, None, None) == Top(n_cells=3, seeds=(500, 501))
    assert arms.top_for(three, None, None) is None
    assert arms.top_for(three, 2, 1) == Top(n_cells=2, seeds=(501,))  # 500 is a seed of tuning already
    assert arms.top_for(few, 0, None) is None
    with pytest.raises(BadInput, match="--top-cells: must be >= 0, but got -1"):
        arms.top_for(few, -1, None)


def test_ties_are_not_broken_towards_the_smaller_rate() -> None:
    found = Arm(name="lora", trials=lora_grid(ETAS, (1,), (0,)))
    rows = table(found.trials, lambda t: {1e-4: 0.9, 4e-4: 0.5, 1.6e-3: 0.8, 6.4e-3: 0.9}[t.eta_A])
    assert arms.tuned(found, rows, None, higher_is_better=True).trial.eta_A == 6.4e-3


def test_holm_needs_eight_pairs_for_four_claims_and_is_told_in_the_power() -> None:
    assert stats.attainable_p(8, 4) <= stats.ALPHA < stats.attainable_p(7, 4)
    assert stats.detectable_difference(1.0, 8, n_claims=4) == pytest.approx(1.91, abs=0.01)
