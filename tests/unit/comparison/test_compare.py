"""The tuned comparison: planted gains are found, nulls are told, misses and divergences stay in, the chain resumes."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench import cli, store, study
from bench.commands import _stages
from bench.commands import compare as command
from bench.comparison import arms, compare, verdict
from bench.comparison.arms import Arm
from bench.comparison.numbers import to_json
from bench.core.errors import BadInput
from bench.core.record import CurvePoint, Outcome, Status
from bench.core.spec import MethodGrid, Pack, Study, Trial
from tests.support import sweep_helpers
from tests.support.comparisons import (
    ETAS,
    N_EVAL,
    SEEDS,
    compared,
    landscape,
    make_arms,
    noisy,
    ramp,
    row,
    setup,
    table,
)
from tests.support.plot_rows import lora_grid, trial

# --- arms ---------------------------------------------------------------------------------------------------------


def test_mora_types_are_arms_and_ratio_1_stays_with_lora_plus() -> None:
    mora = [trial("mora", 1e-3, mora_type=kind) for kind in (1, 6)]
    found = arms.arms_of([("lora+", lora_grid((1e-3,), (1, 4), (0, 1))), ("mora", mora)])
    assert [(a.name, a.n_cells) for a in found] == [("lora+", 2), ("mora type 1", 1), ("mora type 6", 1)]
    assert {t.method for t in found[0].trials} == {"lora", "lora+"}


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("demo", {"rank": "8"}, "every method must be tuned with as many cells, but got lora 7, lora+ 28"),
        ("demo", {"methods": "lora+,full"}, "must hold lora, the baseline, and another method"),
        ("demo", {"methods": "lora"}, "must hold lora, the baseline, and another method"),
        ("sst2-reference", {"methods": "lora,mora"}, "methods are compared at one rank"),
        ("demo-compare", {"sampler": "tpe", "n_trials": "9"}, "must be a grid, but got sampler tpe"),
        ("demo-compare", {"sampler": "halving", "widen": "true"}, "as many cells, but got widen = true"),
    ],
)
def test_what_could_not_be_compared_fairly_is_refused(name: str, changes: dict[str, str], line: str) -> None:
    loaded = study.load(name, overrides=changes)
    with pytest.raises(BadInput, match=re.escape(line)):
        arms.check(loaded, expanded(loaded))


def expanded(loaded: Study) -> tuple[Arm, ...]:
    def trials(grid: MethodGrid) -> tuple[Trial, ...]:
        one = replace(loaded, grids=(grid,))
        return study.expand(one, data_hash="d", model_hash="m", default_targets=("query", "value"))

    return arms.arms_of((grid.method, trials(grid)) for grid in loaded.grids)


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("name", ["demo-compare", "sst2-compare"])
def test_our_comparison_studies_are_fair(name: str, profile: str) -> None:
    loaded = study.load(name, profile=profile)
    found = expanded(loaded)
    arms.check(loaded, found)
    assert [a.name for a in found] == ["lora", "lora+", "mora type 1", "mora type 6", "full"]
    octaves = [math.log2(max(etas) / min(etas)) for a in found if (etas := [t.eta_A for t in a.trials])]
    assert max(octaves) - min(octaves) <= 0.55  # axes of the same width


def test_fresh_seeds_are_new_enough_and_grow_by_addition() -> None:
    loaded, five = study.load("demo-compare"), expanded(study.load("demo-compare"))
    assert arms.seeds_for(loaded, five, None) == tuple(range(1000, 1008))
    assert arms.seeds_for(loaded, five[:2], 6) == tuple(range(1000, 1006))
    with pytest.raises(BadInput, match=r"--fresh-seeds: must be >= 8, or no claim could be made .* is 0\.0625? "):
        arms.seeds_for(loaded, five, 7)
    assert arms.fresh_seeds(3, (1001, 5), first=1000) == (1000, 1002, 1003)


def test_fresh_trials_differ_in_seed_and_evaluation_grid_only() -> None:
    chosen = trial("lora", 1e-3, 0, ratio=1)
    again = arms.fresh_trials(chosen, (7, 8))
    assert [t.seed for t in again] == [7, 8]
    assert again[0].budget == replace(chosen.budget, eval_steps=12)  # 300 steps, 25 points
    assert replace(again[0], seed=0, budget=chosen.budget) == chosen


def test_the_cell_is_chosen_where_it_is_not_reported() -> None:
    found = make_arms()[0]
    rows = {
        t.trial_id: {**row(t, 0.9 - t.eta_A), "select_metric": 0.5 + t.eta_A} for t in found.trials
    }  # metric and selection disagree
    cell = arms.choose(arms.cells(found, rows, higher_is_better=True), higher_is_better=True)
    assert (cell.trial.eta_A, cell.chosen_by) == (6.4e-3, "select_metric")
    assert cell.metric == pytest.approx(0.9 - 6.4e-3)
    nothing_held_out = {key: {**r, "select_metric": None} for key, r in rows.items()}
    cell = arms.choose(arms.cells(found, nothing_held_out, higher_is_better=True), higher_is_better=True)
    assert (cell.trial.eta_A, cell.chosen_by) == (1e-4, "metric_value")


def test_a_diverged_seed_counts_as_the_worst_when_choosing() -> None:
    found = make_arms()[0]
    rows = table(found.trials, lambda t: None if t.eta_A == 1.6e-3 and t.seed == 1 else landscape(t))
    of_arm = arms.cells(found, rows, higher_is_better=True)
    assert arms.choose(of_arm, higher_is_better=True).trial.eta_A in (4e-4, 6.4e-3)
    assert {c.trial.eta_A: c.n_diverged for c in of_arm}[1.6e-3] == 1


# --- differences --------------------------------------------------------------------------------------------------


def test_a_planted_gain_and_a_planted_loss_are_claimed_and_paired_by_seed() -> None:
    found = compared(noisy({"lora+": 0.01, "full": -0.01}))
    plus, full = found.differences
    assert (plus.arm, plus.claim, full.arm, full.claim) == ("lora+", "better", "full", "worse")
    assert plus.interval is not None
    assert plus.interval.low < 0.01 < plus.interval.high
    # the luck of a seed (sd 0.02) is shared: unpaired, this gap would drown
    assert plus.interval.high - plus.interval.low < 0.012
    # full's p, 2 / 1024, is the smaller one and takes the factor 2
    assert (plus.p, plus.p_holm) == (4 / 1024, 4 / 1024)
    assert min(v for v in plus.values if v is not None) < 0
    text = verdict.sentences(found)
    assert text[1].startswith(
        "LoRA+ as tuned (eta_A 0.0004, ratio 4) is better than LoRA as tuned (eta_A 0.0016): +0.81 points (95% interval"
    )
    assert "n = 10 paired seeds, the better one in 90% of the seeds, sign-flip p = 0.00391, 0.00391 after" in text[1]
    assert "; collapsed: LoRA+ 0 of 20, LoRA 0 of 20 runs;" in text[1]
    assert text[2].startswith("full fine-tuning as tuned (eta_A 0.00016) is worse than LoRA as tuned (eta_A 0.0016): -")


def test_a_null_result_is_told_as_plainly() -> None:
    found = compared(noisy({}))
    assert [d.claim for d in found.differences] == ["none", "none"]
    text = verdict.sentences(found)[1]
    assert text.startswith("LoRA+ as tuned (eta_A 0.0004, ratio 4) against LoRA as tuned (eta_A 0.0016): no difference")
    assert "or more would have been claimed with a power of 80 %, after Holm" in text


def test_a_loss_is_better_where_lower_is_better() -> None:
    lower = setup(metric="eval_loss", higher_is_better=False)
    found = compared(noisy({"lora+": -0.01, "full": 0.01}), of=lower, tuned=lambda t: 1 - landscape(t))
    assert [d.claim for d in found.differences] == ["better", "worse"]


def test_too_few_seeds_claim_nothing_whatever_the_gap() -> None:
    found = compared(noisy({"lora+": 0.2}), of=setup(fresh_seeds=SEEDS[:6]))  # 2 / 64, times 2 by Holm
    assert found.differences[0].claim == "none"
    assert found.differences[0].attainable_p == 2 * 2 / 64
    assert "6 pairs could not have shown one (smallest p 0.062)" in verdict.sentences(found)[1]


def test_a_method_that_diverged_wins_nothing_but_may_lose() -> None:
    gaps = noisy({"lora+": 0.02, "full": -0.02})
    found = compared(lambda t: None if t.method == "lora+" and t.seed == 1003 else gaps(t))
    plus, full = found.differences
    assert (plus.n, plus.n_left_out, plus.values[3], plus.claim) == (9, 1, None, "none")
    assert plus.withheld == "collapses"
    assert "LoRA+'s cell collapsed or diverged in 1 of 20 runs and LoRA's in 0 of 20" in verdict.sentences(found)[1]
    assert full.claim == "worse"
    lost = compared(lambda t: None if t.method == "full" and t.seed == 1003 else gaps(t))
    assert lost.differences[1].claim == "worse"
    gone = compared(lambda t: None if t.method == "full" else gaps(t))
    assert (gone.differences[1].n, gone.differences[1].mean, gone.differences[1].p) == (0, None, 1.0)
    told = verdict.sentences(gone)[2]
    assert told.startswith("nothing can be said about full fine-tuning as tuned (eta_A 0.00016), for 10 of 10")


def test_the_same_cell_is_no_difference() -> None:
    same = lora_grid(ETAS, (1,), (0, 1))
    found = arms.arms_of([("lora", same), ("lora+", same)])
    tuning = table(same, landscape)
    chosen = compare.chosen_trials(found, tuning, SEEDS, higher_is_better=True)
    assert chosen["lora"] == chosen["lora+"]
    result = compare.compare(setup(), found, tuning=tuning, fresh=table(chosen["lora"], noisy({})))
    d = result.differences[0]
    assert (d.same_cell, d.mean, d.p, d.claim) == (True, 0.0, 1.0, "none")
    assert "tuning chose the same cell for both" in verdict.sentences(result)[1]


def test_examples_that_always_agree_are_counted_as_by_mcnemar() -> None:
    """LoRA is right on examples 0-99, LoRA+ on 5-119: 5 are LoRA's alone, 20 LoRA+'s alone, in every seed."""
    found = make_arms()
    tuning = table([t for a in found for t in a.trials], landscape)
    chosen = compare.chosen_trials(found, tuning, SEEDS, higher_is_better=True)
    place = np.arange(N_EVAL)
    right = {"lora": place < 100, "lora+": (place >= 5) & (place < 120), "full": place < 100}
    fresh = {
        t.trial_id: row(t, float(right[t.method].mean()), right=right[t.method])
        for members in chosen.values()
        for t in members
    }
    plus, full = compare.compare(setup(), found, tuning=tuning, fresh=fresh).differences
    assert plus.examples is not None
    assert (plus.examples.arm_only, plus.examples.baseline_only, plus.examples.n) == (20, 5, N_EVAL)
    assert plus.examples.p == pytest.approx(0.00408, abs=1e-5)  # 2 P(X <= 5), X ~ B(25, 1/2)
    assert set(plus.examples_by_seed) == {plus.examples}
    assert plus.examples.stderr == pytest.approx(np.std([1] * 20 + [-1] * 5 + [0] * 175, ddof=1) / math.sqrt(N_EVAL))
    assert full.examples is not None
    assert (full.examples.arm_only, full.examples.baseline_only, full.examples.p) == (0, 0, 1.0)


# --- tuning curves and sensitivity --------------------------------------------------------------------------------


def test_tuning_curves_are_exact_and_end_at_the_chosen_cell() -> None:
    found = compared(noisy({}))
    lora = found.arms[0].tuning
    scores = sorted(landscape(trial("lora", eta, ratio=1)) for eta in ETAS)
    assert [p.n_cells for p in lora.curve] == [1, 2, 3, 4]
    assert lora.curve[0].select == pytest.approx(np.mean(scores))
    assert lora.curve[1].select == pytest.approx(np.mean([max(a, b) for i, a in enumerate(scores) for b in scores[:i]]))
    assert lora.curve[-1].select == lora.select == pytest.approx(0.8)
    assert [p.train_seconds for p in lora.curve] == [4.0, 8.0, 12.0, 16.0]  # two seeds of 2 s each


def test_diverged_cells_stay_in_the_curve_as_the_worst_score() -> None:
    found = compared(noisy({}), tuned=lambda t: None if (t.method, t.eta_A) == ("lora", 6.4e-3) else landscape(t))
    lora = found.arms[0].tuning
    kept = [landscape(trial("lora", eta, ratio=1)) for eta in ETAS[:3]]
    worst = min(landscape(t) for a in make_arms() for t in a.trials if (t.method, t.eta_A) != ("lora", 6.4e-3))
    assert lora.curve[0].metric == pytest.approx(np.mean([*kept, worst]))
    assert lora.n_diverged_cells == 1
    assert lora.width is not None
    assert lora.width.open_high is False  # it ends at the cliff


def test_the_width_of_the_good_region() -> None:
    """LoRA falls by 0.02 an octave from 0.8: within 1 %, 0.008, lie 0.4 octaves on either side."""
    width = compared(noisy({})).arms[0].tuning.width
    assert width is not None
    assert width.octaves == pytest.approx(0.8)
    assert (width.low, width.high) == (pytest.approx(1.6e-3 / 2**0.4), pytest.approx(1.6e-3 * 2**0.4))


def test_best_cells_on_the_border_are_named() -> None:
    found = compared(noisy({}))
    assert found.arms[0].tuning.on_border == ()
    assert found.arms[1].tuning.on_border == (
        "eta_A 0.0004 is the largest of its grid",
        "lr_ratio 4 is the smallest of its grid",
    )
    assert (
        "Caution: LoRA+'s best cell lies on its grid's border (eta_A 0.0004 is the largest"
        in verdict.sentences(found)[-1]
    )


# --- time to target -----------------------------------------------------------------------------------------------


def test_twice_as_fast_to_tuned_loras_final_score() -> None:
    found = compared(noisy({}), curve=ramp({"lora": 20, "lora+": 10, "full": 0}))
    assert found.target is not None
    assert (found.target.value, found.target.n_seeds, found.target.eval_steps) == (pytest.approx(0.8), 2, 12)
    lora, plus, full = (a.reach for a in found.arms)
    assert (lora.median_steps, plus.median_steps, full.median_steps) == (240, 120, math.inf)
    assert (plus.n_missed, full.n_missed) == (0, 10)
    fast, lost = found.speed_ups
    assert (fast.steps, fast.steps_interval.low, fast.steps_interval.high, fast.seconds) == (2.0, 2.0, 2.0, None)
    assert (lost.steps, lost.steps_interval.high) == (0.0, 0.0)
    text = "\n".join(verdict.sentences(found))
    aim = "tuned LoRA's final accuracy (80.00)"
    assert f"LoRA+ as tuned reaches {aim} in 120 against 240 steps at the median: 2 times" in text
    assert "faster in steps, 2x lies within the interval; seconds need isolated timing: run make speed" in text
    assert "full fine-tuning 10 and LoRA 0 of 10 runs never reach it" in text
    assert f"full fine-tuning as tuned does not reach {aim} at the median, LoRA does in 240" in text


def test_seconds_are_steps_times_isolated_seconds() -> None:
    timed = setup(seconds_per_step={"lora": 0.1, "lora+": 0.2})
    found = compared(noisy({}), curve=ramp({"lora": 20, "lora+": 10, "full": 10}), of=timed)
    assert found.arms[0].reach.median_seconds == pytest.approx(24)
    assert found.speed_ups[0].seconds == pytest.approx(1.0)  # half the steps, each twice as long
    assert found.speed_ups[1].seconds is None  # full was not timed


@pytest.mark.parametrize(
    ("lora", "plus", "answer"),
    [
        (10, 10, "no difference in steps can be claimed"),
        (10, 20, "slower in steps"),
        (15, 10, "faster in steps, 2x lies above the interval"),
        (20, 0, "slower in steps"),
        (0, 20, "faster in steps, 2x lies below the interval"),
        (0, 0, "nothing can be said, since at the median neither reaches it"),
    ],
)
def test_is_it_twice_as_fast(lora: int, plus: int, answer: str) -> None:
    found = compared(noisy({}), curve=ramp({"lora": lora, "lora+": plus, "full": 1}))
    assert answer in verdict.sentences(found)[3]


def test_what_diverges_does_not_reach_the_target() -> None:
    found = compared(lambda t: None if t.seed == 1000 else 0.8, curve=ramp({"lora": 5, "lora+": 5, "full": 5}))
    assert [a.reach.n_missed for a in found.arms] == [1, 1, 1]
    assert [a.reach.steps[0] for a in found.arms] == [math.inf] * 3


# --- the chain ----------------------------------------------------------------------------------------------------


def test_the_json_is_plain_and_tells_infinite_from_missing() -> None:
    found = compared(noisy({"lora+": 0.01}), curve=ramp({"lora": 20, "lora+": 10, "full": 0}))
    text = json.dumps(to_json(found), allow_nan=False)
    document = json.loads(text)
    assert document["arms"][2]["reach"]["median_steps"] == "inf"
    assert document["arms"][2]["reach"]["median_seconds"] is None  # not timed
    assert document["speed_ups"][1]["steps"] == 0
    never = to_json(compared(noisy({}), curve=ramp({"lora": 0, "lora+": 10, "full": 0})))
    assert [s["steps"] for s in never["speed_ups"]] == ["inf", None]  # LoRA never does; neither does
    assert document["differences"][0]["interval"]["low"] == found.differences[0].interval.low  # type: ignore[union-attr]
    assert document["setup"]["fresh_seeds"] == list(SEEDS)
    assert to_json(compared(noisy({"lora+": 0.01}), curve=ramp({"lora": 20, "lora+": 10, "full": 0}))) == to_json(found)


STUDY = """# a comparison
task = "demo"
seeds = [0, 1]
[train]
max_steps = 20
eval_steps = 20
[grid.lora]
eta_A = [1e-4, 1e-3]
[grid."lora+"]
eta_A = 1e-3
lr_ratio = [4, 16]
"""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """Train nothing: scores are a function of the trial, LoRA+ is two points better; return the trials trained."""
    done: list[Trial] = []

    def train(pack: Pack, loaded: object, **_: object) -> list[Outcome]:
        done.extend(pack.trials)
        if pack.until is not None and pack.until < pack.trials[0].budget.max_steps:
            return [replace(sweep_helpers.at_rung(t, pack.until), train_loss=1 - worth(t)) for t in pack.trials]
        return [outcome(t) for t in pack.trials]

    def worth(t: Trial) -> float:
        good = t.eta_B == 4e-3 or t.eta_A == 1e-4
        return 0.7 + 0.01 * (t.seed % 7) + 0.02 * (t.method == "lora+") + (0.1 if good else 0)

    def outcome(t: Trial) -> Outcome:
        value = worth(t)
        points = tuple(
            CurvePoint(step=s, train_seconds=s * 0.1, train_loss=0.5, metric_value=value * s / 20)
            for s in range(t.budget.eval_steps, 21, t.budget.eval_steps)
        )
        return sweep_helpers.outcome(
            t, status=Status.OK, metric_value=value, select_metric=value, curve=points, n_eval=16, accuracy=value
        )

    monkeypatch.setattr("bench.executors.runtime._train", train)
    monkeypatch.setattr("bench.executors.runtime.load_for", lambda *_, **__: None)
    return done


def test_compare_tunes_runs_again_writes_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: list[Trial]
) -> None:
    (tmp_path / "tiny.toml").write_text(STUDY)
    options = ["compare", "--study", str(tmp_path / "tiny.toml"), "--results-dir", str(tmp_path), "--device", "cpu"]
    assert cli.main([*options, "--fresh-seeds", "6"]) == 0
    out = capsys.readouterr().out
    chain = re.match(
        r"the whole comparison takes about .*\n  tuning: about \d+ s\n"
        r"  the best 3 cells of each method again, 2 seeds: about \d+ s\n"
        r"  fresh runs, 6 seeds of 2 cells, evaluated (every step|every \d+ steps): about \d+ s\n", out)  # fmt: skip
    assert chain, "before anything is trained"
    told = "LoRA+ as tuned (eta_A 0.001, ratio 4) is better than LoRA as tuned (eta_A 0.0001): +2.00 points"
    assert f"{told} (95% interval +2.00 to +2.00, n = 6 paired seeds" in out
    assert "8 further runs of cells that would win, to see whether they collapse now and then" in out
    assert re.search(r"^LoRA\+ +1\.0e-03 +4 +84\.67 .* 0 of 18 ", out, re.MULTILINE)
    document = json.loads((tmp_path / "tiny" / command.FILE_NAME).read_text())
    assert [d["claim"] for d in document["differences"]] == ["better"]
    assert document["verdict"][1].startswith(told)
    assert {t.seed for t in trained} == {0, 1, 500, 501, *range(1000, 1006), *range(2000, 2008)}
    # 4 cells with 2 seeds, 2 + 2 cells again with 2, 2 cells with 6 fresh seeds, the winner with 8 more
    assert len(trained) == 2 * 4 + 2 * 4 + 2 * 6 + 8
    assert len(list((tmp_path / "tiny-top" / "trials").glob("*.parquet"))) > 0
    assert len(list((tmp_path / "tiny-fresh" / "trials").glob("*.parquet"))) > 0
    trained.clear()
    assert cli.main([*options, "--fresh-seeds", "6"]) == 0
    assert trained == []
    assert json.loads((tmp_path / "tiny" / command.FILE_NAME).read_text()) == document
    capsys.readouterr()
    assert cli.main([*options, "--fresh-seeds", "5"]) == 2
    assert capsys.readouterr().err.startswith("--fresh-seeds: must be >= 6")
    assert cli.main([*options]) == 0
    assert {t.seed for t in trained} == {1006, 1007}  # 8 + 8 runs of the winner are enough


def test_halving_tunes_and_stops_no_fresh_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: list[Trial]
) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(STUDY.replace("[1e-4, 1e-3]", "[1e-4, 1e-3, 1e-2]").replace("[4, 16]", "[4, 16, 64]"))
    here = ["--study", str(path), "--results-dir", str(tmp_path), "--device", "cpu", "--sampler", "halving"]
    options = ["compare", *here, "--keep", "0.5", "--fresh-seeds", "6"]
    assert cli.main(options) == 0
    out = capsys.readouterr().out
    assert re.match(
        r"the whole comparison takes about .*\n  tuning: about \d+ s\n  fresh runs, 6 seeds of 2 cells", out
    )
    assert "LoRA+ as tuned (eta_A 0.001, ratio 4) is better than LoRA as tuned (eta_A 0.0001): +2.00 points" in out
    assert "cells were stopped early: what fewer than 3 cells would have given is not known" in out
    assert "3 cells tuned for each method with 2 seeds (1 of each method's stopped early), chosen on" in out
    document = json.loads((tmp_path / "tiny" / command.FILE_NAME).read_text())
    assert [(a["tuning"]["n_cells"], a["tuning"]["n_stopped"], a["tuning"]["curve"]) for a in document["arms"]] == [
        (3, 1, []), (3, 1, []),
    ]  # fmt: skip
    finished = [t for t in trained if t.budget.max_steps == 20 and t.seed >= arms.FIRST_FRESH_SEED]
    assert len(finished) == len({t.trial_id for t in finished}) == 2 * 6 + 8  # each once, to its end
    trained.clear()
    assert cli.main(options) == 0
    assert trained == []
    capsys.readouterr()
    for name in ("tiny", "tiny-fresh", "tiny-pool"):
        place = tmp_path / name
        pq.write_table(store.load(place), tmp_path / f"{name}.parquet")
    rows = ",".join(str(tmp_path / f"{name}.parquet") for name in ("tiny", "tiny-fresh", "tiny-pool"))
    assert cli.main(["compare", *here, "--rows", rows]) == 0
    again = capsys.readouterr().out
    assert "8 of 12 tuning trials have rows: halving is taken to have stopped the others" in again
    assert "LoRA+ as tuned (eta_A 0.001, ratio 4) is better than LoRA as tuned (eta_A 0.0001): +2.00 points" in again
    assert cli.main(["compare", *here[:-2], "--rows", rows]) == 2  # a whole grid would have all of them
    assert "must hold every tuning trial of the study, but got 8 of 12" in capsys.readouterr().err


def test_failed_trials_leave_nothing_to_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> list[Outcome]:
        raise RuntimeError("the cable is out")

    monkeypatch.setattr("bench.executors.runtime._train", fail)
    monkeypatch.setattr("bench.executors.runtime.load_for", lambda *_, **__: None)
    (tmp_path / "tiny.toml").write_text(STUDY)
    assert cli.main(["compare", "--study", str(tmp_path / "tiny.toml"), "--results-dir", str(tmp_path)]) == 1
    assert "8 of 8 trials are not finished, and nothing is worked out from a part" in capsys.readouterr().out
    assert not (tmp_path / "tiny" / command.FILE_NAME).exists()


def test_a_study_of_unequal_grids_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "--study", "demo", "--ranks", "8"]) == 2
    assert "every method must be tuned with as many cells" in capsys.readouterr().err


def test_isolated_seconds_come_from_the_speed_file(tmp_path: Path) -> None:
    import pyarrow as pa

    assert _stages.isolated_seconds(tmp_path) is None
    pq.write_table(
        pa.table({"arm": ["lora", "lora", "lora", "full"], "seconds_per_step": [0.1, 0.3, 0.2, 1.0]}),
        tmp_path / "speed.parquet",
    )
    assert _stages.isolated_seconds(tmp_path) == {"lora": 0.2, "full": 1.0}
