"""A tuned comparison, worked out from rows: every number with its n and interval, as one Comparison. Pure.

Each method is compared with LoRA, tuned with as many cells; the family of claims is therefore fixed before anything
runs. What is claimed is decided by bench/comparison/rule.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from bench.comparison import rule
from bench.comparison.arms import (
    MAX_POOL,
    Arm,
    Cell,
    Row,
    cells,
    fresh_trials,
    is_ok,
    pool_trials,
    tuned,
)
from bench.comparison.numbers import (
    COMPARISON_VERSION,
    ArmResult,
    Comparison,
    Difference,
    Examples,
    Reach,
    Setup,
    SpeedUp,
    Target,
    Tested,
    Top,
)
from bench.comparison.tuning import floor_of, tuning_of
from bench.core import record, stats
from bench.core.cells import right_bits
from bench.core.spec import Trial
from bench.core.stats import Interval
from bench.methods import BASELINE

Ints = np.ndarray[Any, np.dtype[np.int64]]

ROW_COLUMNS = (
    "trial_id", "status", "metric_value", "metric_stderr", "select_metric", "train_seconds", "source_hash",
    "eval_correct", "n_eval", "collapsed", "curve", "device", "timing_mode", "git_commit", "git_dirty",
    "test_metric", "n_test", "test_hash",
)  # fmt: skip


def chosen_trials(
    arms: Sequence[Arm], tuning: Mapping[str, Row], seeds: Sequence[int], *, top: Top | None = None,
    higher_is_better: bool,
) -> dict[str, tuple[Trial, ...]]:  # fmt: skip
    """Return the fresh trials of each arm's best cell, by arm; `tuning` maps trial_id to row, both stages together."""
    best = {arm.name: tuned(arm, tuning, top, higher_is_better=higher_is_better) for arm in arms}
    return {name: fresh_trials(cell.trial, seeds) for name, cell in best.items()}


def compare(
    setup: Setup, arms: Sequence[Arm], *, tuning: Mapping[str, Row], fresh: Mapping[str, Row],
    pool: Mapping[str, Row] | None = None, chosen: Mapping[str, Cell] | None = None, seed: int = 0,
) -> Comparison:  # fmt: skip
    """Return the comparison of arms, all of whose tuning and fresh trials are finished.

    `tuning`, `fresh` and `pool` map trial_id to a row with ROW_COLUMNS; of the pool, further runs of chosen cells,
    whatever is there counts. `chosen` are the arms' cells, else those that tuning chooses. `seed` is that of the
    bootstrap.
    """
    better = setup.higher_is_better
    sign = 1 if better else -1
    of_arm = {arm.name: cells(arm, tuning, higher_is_better=better) for arm in arms}
    best = chosen or {arm.name: tuned(arm, tuning, setup.top, higher_is_better=better) for arm in arms}
    trials = {name: fresh_trials(cell.trial, setup.fresh_seeds) for name, cell in best.items()}
    runs = {name: [fresh[t.trial_id] for t in members] for name, members in trials.items()}
    further = {name: _further(cell.trial, setup, pool or {}) for name, cell in best.items()}
    target = _target(best[BASELINE], trials[BASELINE][0])
    floor = floor_of(of_arm, sign)
    results = {
        arm.name: _arm(
            arm, of_arm[arm.name], best[arm.name], runs[arm.name], further[arm.name], setup, target=target, floor=floor
        )
        for arm in arms
    }
    family = [arm.name for arm in arms if arm.name != BASELINE]
    rng = np.random.default_rng(seed)
    pairs = [_difference(name, best, runs, setup, rng) for name in family]
    speeds = [_speed_up(results[name], results[BASELINE], len(family), rng) for name in family] if target else []
    every = [*tuning.values(), *fresh.values(), *(row for rows in further.values() for row in rows)]
    return Comparison(
        version=COMPARISON_VERSION,
        setup=setup,
        baseline=BASELINE,
        family=tuple(family),
        alpha=stats.ALPHA,
        level=stats.LEVEL,
        n_eval=next((row["n_eval"] for row in every if row["n_eval"] is not None), None),
        devices=_distinct(every, "device"),
        source_hashes=_distinct(every, "source_hash"),
        git_commits=_distinct(every, "git_commit"),
        arms=tuple(results.values()),
        differences=_decided(pairs, results, sign),
        target=target,
        speed_ups=_decided_speeds(speeds, results),
    )


def runs_wanted(comparison: Comparison) -> dict[str, int]:
    """Return how many further runs the chosen cell of an arm needs before it may be called the winner, by arm."""
    histories = {arm.name: arm.history for arm in comparison.arms}
    waiting = {
        d.arm if (d.mean or 0) * (1 if comparison.setup.higher_is_better else -1) > 0 else comparison.baseline
        for d in comparison.differences
        if d.withheld == "runs"
    }
    waiting |= {s.arm if _is_faster(s) else comparison.baseline for s in comparison.speed_ups if s.withheld == "runs"}
    return {name: rule.MIN_RUNS - histories[name].fresh.n for name in sorted(waiting)}


def _further(chosen: Trial, setup: Setup, pool: Mapping[str, Row]) -> list[Row]:
    trials = pool_trials(chosen, MAX_POOL, setup.tuning_seeds) if pool else ()
    return [pool[t.trial_id] for t in trials if t.trial_id in pool]


def _arm(
    arm: Arm, found: Sequence[Cell], best: Cell, runs: Sequence[Row], further: Sequence[Row], setup: Setup, *,
    target: Target | None, floor: float,
) -> ArmResult:  # fmt: skip
    values = [row["metric_value"] for row in runs if is_ok(row)]
    errors = [row["metric_stderr"] for row in runs if is_ok(row) and row["metric_stderr"] is not None]
    return ArmResult(
        name=arm.name,
        settings=settings_of(best.trial, setup.varying),
        scores=tuple(row["metric_value"] if is_ok(row) else None for row in runs),
        n=len(values),
        n_diverged=len(runs) - len(values),
        history=rule.history(
            {"tuning": best.rows, "fresh": runs, "pool": further}, higher_is_better=setup.higher_is_better
        ),
        mean=fmean(values) if values else None,
        stderr_seeds=stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
        stderr_examples=fmean(errors) if errors else None,
        tuning=tuning_of(arm, found, best, floor=floor, higher_is_better=setup.higher_is_better),
        reach=_reach(arm.name, runs, setup, target),
        tested=tested(runs),
    )


def tested(runs: Sequence[Row]) -> Tested | None:
    """Return what an arm's runs score on the test split; None where none is scored."""
    values = [row.get("test_metric") for row in runs]
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Tested(
        scores=tuple(values),
        n=len(known),
        n_test=next(row["n_test"] for row in runs if row["n_test"] is not None),
        mean=fmean(known),
        stderr_seeds=stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None,
    )


def settings_of(trial: Trial, varied: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of a cell that a reader needs to repeat it; what the method does not read is left out."""
    names = ("method", "rank", "mora_type", "eta_A", "lr_ratio", "eta_B", "lora_alpha", "lora_dropout", "init",
             "target_modules", "head_policy", "reinit_head")  # fmt: skip
    named = {name: value for name in names if (value := getattr(trial, name)) is not None}
    swept = {name: value for name in varied if (value := record.setting_of(trial, name)) is not None}
    return {**swept, **named}


def _target(tuned: Cell, fresh: Trial) -> Target | None:
    if tuned.metric is None:
        return None
    return Target(value=tuned.metric, n_seeds=tuned.n - tuned.n_diverged, eval_steps=fresh.budget.eval_steps)


def _reach(name: str, runs: Sequence[Row], setup: Setup, target: Target | None) -> Reach:
    steps = tuple(math.inf if target is None else _first_step(row, target, setup) for row in runs)
    per_step = None if setup.seconds_per_step is None else setup.seconds_per_step.get(name)
    middle = stats.median(steps)
    return Reach(
        steps=steps,
        n_missed=sum(math.isinf(s) for s in steps),
        median_steps=middle,
        seconds_per_step=per_step,
        median_seconds=None if per_step is None else middle * per_step,
    )


def _first_step(row: Row, target: Target, setup: Setup) -> float:
    points = row["curve"] or [] if is_ok(row) else []
    steps, values = [p["step"] for p in points], [p["metric_value"] for p in points]
    return stats.steps_to_target(steps, values, target.value, higher_is_better=setup.higher_is_better)


def _difference(
    name: str, best: Mapping[str, Cell], runs: Mapping[str, Sequence[Row]], setup: Setup, rng: np.random.Generator
) -> Difference:
    """Return the difference before Holm: p_holm is p, and nothing is claimed yet."""
    pairs = list(zip(runs[name], runs[BASELINE], strict=True))
    both = [pair for pair in pairs if all(is_ok(row) for row in pair)]
    found = [first["metric_value"] - second["metric_value"] for first, second in both]
    n, n_zeros = len(found), found.count(0.0)
    same_cell = best[name].trial.cell == best[BASELINE].trial.cell
    p = stats.sign_flip_p(found, rng) if n else 1.0
    sd = stdev(found) if n > 1 else None
    return Difference(
        arm=name,
        same_cell=same_cell,
        values=tuple(a["metric_value"] - b["metric_value"] if is_ok(a) and is_ok(b) else None for a, b in pairs),
        n=n,
        n_left_out=len(pairs) - n,
        n_zeros=n_zeros,
        mean=fmean(found) if n else None,
        interval=stats.mean_interval(found, rng) if n else None,
        outperforms=None if same_cell else _outperforms(pairs, setup),
        p=p,
        p_holm=p,
        attainable_p=stats.attainable_p(n, len(best) - 1, n_zeros=n_zeros) if n else 1.0,
        claim="none",
        withheld="",
        detectable=None if sd is None else stats.detectable_difference(sd, n, n_claims=len(best) - 1),
        examples=_examples(both),
        examples_by_seed=tuple(_examples([pair]) for pair in pairs),
    )


def _outperforms(pairs: Sequence[tuple[Row, Row]], setup: Setup) -> float:
    sign = 1 if setup.higher_is_better else -1
    scores = [[sign * row["metric_value"] if is_ok(row) else -math.inf for row in pair] for pair in pairs]
    return stats.outperforms(*zip(*scores, strict=True))


_CLAIMS: Mapping[int, Literal["better", "worse", "none"]] = {1: "better", -1: "worse", 0: "none"}
_SPEED_CLAIMS: Mapping[int, Literal["faster", "slower", "none"]] = {1: "faster", -1: "slower", 0: "none"}


def _decided(pairs: Sequence[Difference], results: Mapping[str, ArmResult], sign: int) -> tuple[Difference, ...]:
    sides = [int(np.sign(sign * (pair.mean or 0.0))) for pair in pairs]
    histories = [results[pair.arm].history for pair in pairs]
    found = rule.decide([pair.p for pair in pairs], sides, histories, results[BASELINE].history)
    return tuple(
        replace(pair, p_holm=d.p_holm, claim=_CLAIMS[d.side], withheld=d.withheld)
        for pair, d in zip(pairs, found, strict=True)
    )


def _decided_speeds(speeds: Sequence[SpeedUp], results: Mapping[str, ArmResult]) -> tuple[SpeedUp, ...]:
    sides = [1 if _is_faster(s) else -1 for s in speeds]
    histories = [results[s.arm].history for s in speeds]
    found = rule.decide([s.p for s in speeds], sides, histories, results[BASELINE].history)
    return tuple(
        replace(s, p_holm=d.p_holm, claim=_SPEED_CLAIMS[d.side], withheld=d.withheld)
        for s, d in zip(speeds, found, strict=True)
    )


def _is_faster(s: SpeedUp) -> bool:
    """Return whether the arm took fewer steps in more seeds: what the sign test looks at."""
    return 2 * s.n_faster + s.n_ties > s.n


def _speed_up(arm: ArmResult, baseline: ArmResult, n_claims: int, rng: np.random.Generator) -> SpeedUp:
    ratio = stats.median_ratio(baseline.reach.steps, arm.reach.steps, rng)
    own, base = arm.reach.seconds_per_step, baseline.reach.seconds_per_step
    scale = None if own is None or base is None else base / own
    ends = ratio.interval
    steps = list(zip(baseline.reach.steps, arm.reach.steps, strict=True))
    n_ties, p = sum(a == b for a, b in steps), stats.sign_p(baseline.reach.steps, arm.reach.steps)
    return SpeedUp(
        arm=arm.name,
        n=ratio.n,
        n_faster=sum(a > b for a, b in steps),
        n_ties=n_ties,
        steps=ratio.value,
        steps_interval=ends,
        seconds=None if scale is None or ratio.value is None else scale * ratio.value,
        seconds_interval=None if scale is None else Interval(low=scale * ends.low, high=scale * ends.high),
        p=p,
        p_holm=p,
        attainable_p=stats.attainable_p(ratio.n, n_claims, n_zeros=n_ties),
        claim="none",
        withheld="",
    )


def _example_differences(pairs: Sequence[tuple[Row, Row]]) -> Ints | None:
    """Return, by example, in how many more pairs the first is right than the second: [n_eval]."""
    bits = [[right_bits(row["eval_correct"], row["n_eval"]) if is_ok(row) else None for row in pair] for pair in pairs]
    known = [a.astype(np.int64) - b for a, b in bits if a is not None and b is not None and a.shape == b.shape]
    return np.sum(known, axis=0) if known and len(known) == len(pairs) else None


def _examples(pairs: Sequence[tuple[Row, Row]]) -> Examples | None:
    found = _example_differences(pairs)
    if found is None:
        return None
    n, each = len(found), found / len(pairs)
    return Examples(
        n=n,
        arm_only=int((found > 0).sum()),
        baseline_only=int((found < 0).sum()),
        mean=float(each.mean()),
        stderr=float(each.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        p=stats.whole_sign_flip_p(found),
    )


def _distinct(rows: Sequence[Row], name: str) -> tuple[str, ...]:
    return tuple(sorted({row[name] for row in rows if row[name] is not None}))
