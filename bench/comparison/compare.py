"""A tuned comparison, worked out from rows: every number with its n and interval, as one Comparison. Pure.

Each method is compared with LoRA, tuned with as many cells; the family of claims is therefore fixed before anything
runs. A difference is claimed only where the BCa interval of the paired differences excludes 0 and the sign-flip test
rejects after Holm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from bench import stats
from bench.comparison.arms import BASELINE, Arm, Cell, Row, cells, choose, fresh_trials, is_ok, on_border, ordered
from bench.comparison.numbers import (
    COMPARISON_VERSION,
    ArmResult,
    Comparison,
    CurvePoint,
    Difference,
    Examples,
    Reach,
    Setup,
    SpeedUp,
    Target,
    Tuning,
)
from bench.spec import Trial
from bench.stats import Interval, Width

Ints = np.ndarray[Any, np.dtype[np.int64]]

SHARE_OF_BEST = 0.01  # sensitivity: the region within 1 % of the best score

ROW_COLUMNS = (
    "trial_id", "status", "metric_value", "metric_stderr", "select_metric", "train_seconds", "source_hash",
    "eval_correct", "n_eval", "curve", "device", "timing_mode", "git_commit", "git_dirty",
)  # fmt: skip


def chosen_trials(
    arms: Sequence[Arm], tuning: Mapping[str, Row], seeds: Sequence[int], *, higher_is_better: bool
) -> dict[str, tuple[Trial, ...]]:
    """Return the fresh trials of each arm's best cell, by arm; `tuning` maps trial_id to row."""
    best = {a.name: choose(cells(a, tuning, higher_is_better=higher_is_better), higher_is_better=higher_is_better)
            for a in arms}  # fmt: skip
    return {name: fresh_trials(cell.trial, seeds) for name, cell in best.items()}


def compare(
    setup: Setup, arms: Sequence[Arm], *, tuning: Mapping[str, Row], fresh: Mapping[str, Row], seed: int = 0
) -> Comparison:
    """Return the comparison of arms, all of whose tuning and fresh trials are finished.

    `tuning` and `fresh` map trial_id to a row with ROW_COLUMNS. `seed` is that of the bootstrap.
    """
    sign = 1 if setup.higher_is_better else -1
    of_arm = {arm.name: cells(arm, tuning, higher_is_better=setup.higher_is_better) for arm in arms}
    best = {name: choose(found, higher_is_better=setup.higher_is_better) for name, found in of_arm.items()}
    trials = {name: fresh_trials(cell.trial, setup.fresh_seeds) for name, cell in best.items()}
    runs = {name: [fresh[t.trial_id] for t in members] for name, members in trials.items()}
    target = _target(best[BASELINE], trials[BASELINE][0])
    floor = _floor(of_arm, sign)
    results = tuple(
        _arm(arm, of_arm[arm.name], best[arm.name], runs[arm.name], setup, target=target, floor=floor) for arm in arms
    )
    family = [arm.name for arm in arms if arm.name != BASELINE]
    rng = np.random.default_rng(seed)
    pairs = [_difference(name, best, runs, setup, rng) for name in family]
    by_name = {result.name: result for result in results}
    every = [*tuning.values(), *fresh.values()]
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
        arms=results,
        differences=_with_holm(pairs, by_name, sign),
        target=target,
        speed_ups=tuple(_speed_up(by_name[name], by_name[BASELINE], rng) for name in family) if target else (),
    )


def _arm(
    arm: Arm, found: Sequence[Cell], best: Cell, runs: Sequence[Row], setup: Setup, *, target: Target | None,
    floor: float,
) -> ArmResult:  # fmt: skip
    values = [row["metric_value"] for row in runs if is_ok(row)]
    errors = [row["metric_stderr"] for row in runs if is_ok(row) and row["metric_stderr"] is not None]
    return ArmResult(
        name=arm.name,
        settings=settings_of(best.trial),
        scores=tuple(row["metric_value"] if is_ok(row) else None for row in runs),
        n=len(values),
        n_diverged=len(runs) - len(values),
        mean=fmean(values) if values else None,
        stderr_seeds=stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
        stderr_examples=fmean(errors) if errors else None,
        tuning=_tuning(arm, found, best, floor=floor, higher_is_better=setup.higher_is_better),
        reach=_reach(arm.name, runs, setup, target),
    )


def settings_of(trial: Trial) -> dict[str, Any]:
    """Return the settings of a cell that a reader needs to repeat it; what the method does not read is left out."""
    names = ("method", "rank", "mora_type", "eta_A", "lr_ratio", "eta_B", "lora_alpha", "lora_dropout", "init",
             "target_modules", "head_policy")  # fmt: skip
    return {name: value for name in names if (value := getattr(trial, name)) is not None}


def _tuning(arm: Arm, found: Sequence[Cell], best: Cell, *, floor: float, higher_is_better: bool) -> Tuning:
    return Tuning(
        n_cells=len(found),
        n_diverged_cells=sum(cell.n_diverged > 0 for cell in found),
        chosen_by=best.chosen_by,
        select=best.select,
        metric=best.metric,
        on_border=on_border(arm, best.trial),
        width=_width(found, best, higher_is_better=higher_is_better),
        curve=_curve(found, floor=floor, higher_is_better=higher_is_better),
    )


def _curve(found: Sequence[Cell], *, floor: float, higher_is_better: bool) -> tuple[CurvePoint, ...]:
    """Return the tuning curve; a seed without a score counts as `floor`, the worst score that any cell got."""
    ranked = ordered(found, higher_is_better=higher_is_better)[::-1]
    held_out = all(cell.chosen_by == "select_metric" for cell in found)
    by = range(len(ranked))  # the place in the order, so that of equals the curve takes the one that tuning takes
    select = stats.expected_best([_floored(c, c.select if held_out else c.metric, floor) for c in ranked], chosen_by=by)
    metric = stats.expected_best([_floored(c, c.metric, floor) for c in ranked], chosen_by=by)
    known = [cell.train_seconds for cell in found if cell.train_seconds is not None]
    each = fmean(known) if len(known) == len(found) else None
    return tuple(
        CurvePoint(n_cells=n, train_seconds=None if each is None else n * each, select=float(s), metric=float(m))
        for n, (s, m) in enumerate(zip(select, metric, strict=True), start=1)
    )


def _floored(cell: Cell, mean: float | None, floor: float) -> float:
    """Return the mean over all seeds of a cell, given that over the seeds that did not diverge."""
    return floor if mean is None else (mean * (cell.n - cell.n_diverged) + floor * cell.n_diverged) / cell.n


def _floor(of_arm: Mapping[str, Sequence[Cell]], sign: int) -> float:
    scores = [value for found in of_arm.values() for c in found for value in (c.metric, c.select) if value is not None]
    return sign * min((sign * score for score in scores), default=0.0)


def _width(found: Sequence[Cell], best: Cell, *, higher_is_better: bool) -> Width | None:
    """Return the region in eta_A within SHARE_OF_BEST of the best, along the line of cells through it.

    Other settings are the best cell's; of LoRA+'s two rates, lambda is.
    """
    sign = 1 if higher_is_better else -1
    line = sorted(
        (c for c in found if _other_settings(c.trial) == _other_settings(best.trial)), key=lambda c: c.trial.eta_A
    )
    scores = [-math.inf if c.n_diverged else sign * c.objective for c in line]
    if len(line) < 2 or not any(math.isfinite(score) for score in scores):
        return None
    return stats.width_within([c.trial.eta_A for c in line], scores, share=SHARE_OF_BEST)


def _other_settings(trial: Trial) -> tuple[Any, ...]:
    names = [f.name for f in fields(trial) if f.name not in ("seed", "eta_A", "eta_B", "method")]
    return (trial.lr_ratio, *(getattr(trial, name) for name in names))


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
    n = len(found)
    p = stats.sign_flip_p(found, rng) if n else 1.0
    return Difference(
        arm=name,
        same_cell=best[name].trial.cell == best[BASELINE].trial.cell,
        values=tuple(a["metric_value"] - b["metric_value"] if is_ok(a) and is_ok(b) else None for a, b in pairs),
        n=n,
        n_left_out=len(pairs) - n,
        mean=fmean(found) if n else None,
        interval=stats.bca_interval(found, rng) if n > 1 else None,
        p=p,
        p_holm=p,
        attainable_p=stats.attainable_p(n, len(best) - 1) if n else 1.0,
        claim="none",
        detectable=stats.detectable_difference(stdev(found), n) if n > 1 else None,
        stderr_examples=_stderr_examples(both) if setup.metric == "accuracy" else None,
        examples=_examples(both),
        examples_by_seed=tuple(_examples([pair]) for pair in pairs),
    )


def _with_holm(pairs: Sequence[Difference], results: Mapping[str, ArmResult], sign: int) -> tuple[Difference, ...]:
    adjusted = stats.holm([pair.p for pair in pairs])
    return tuple(
        replace(pair, p_holm=p, claim=_claim(pair, p, results, sign)) for pair, p in zip(pairs, adjusted, strict=True)
    )


def _claim(
    pair: Difference, p: float, results: Mapping[str, ArmResult], sign: int
) -> Literal["better", "worse", "none"]:
    """Return what may be claimed: interval and test must agree, and the better one must not have diverged."""
    if pair.mean is None or pair.interval is None or p > stats.ALPHA or not pair.interval.excludes(0):
        return "none"
    claim: Literal["better", "worse"] = "better" if sign * pair.mean > 0 else "worse"
    winner = pair.arm if claim == "better" else BASELINE
    return "none" if results[winner].n_diverged else claim


def _speed_up(arm: ArmResult, baseline: ArmResult, rng: np.random.Generator) -> SpeedUp:
    ratio = stats.median_ratio(baseline.reach.steps, arm.reach.steps, rng)
    own, base = arm.reach.seconds_per_step, baseline.reach.seconds_per_step
    scale = None if own is None or base is None else base / own
    ends = ratio.interval
    return SpeedUp(
        arm=arm.name,
        n=ratio.n,
        steps=ratio.value,
        steps_interval=ends,
        seconds=None if scale is None or ratio.value is None else scale * ratio.value,
        seconds_interval=None if scale is None else Interval(low=scale * ends.low, high=scale * ends.high),
    )


def _bits(row: Row) -> Ints | None:
    """Return which evaluation examples were right, [n_eval] of 0 and 1; None where the row does not keep it."""
    if row["eval_correct"] is None or row["n_eval"] is None or not is_ok(row):
        return None
    packed = np.frombuffer(row["eval_correct"], dtype=np.uint8)
    return np.unpackbits(packed, count=row["n_eval"]).astype(np.int64)


def _example_differences(pairs: Sequence[tuple[Row, Row]]) -> Ints | None:
    """Return, by example, in how many more pairs the first is right than the second: [n_eval]."""
    bits = [(_bits(first), _bits(second)) for first, second in pairs]
    known = [a - b for a, b in bits if a is not None and b is not None and a.shape == b.shape]
    return np.sum(known, axis=0) if known and len(known) == len(pairs) else None


def _examples(pairs: Sequence[tuple[Row, Row]]) -> Examples | None:
    found = _example_differences(pairs)
    if found is None:
        return None
    first, second = int((found > 0).sum()), int((found < 0).sum())
    return Examples(n=len(found), arm_only=first, baseline_only=second, p=stats.mcnemar_p(first, second))


def _stderr_examples(pairs: Sequence[tuple[Row, Row]]) -> float | None:
    found = _example_differences(pairs)
    if found is None or len(found) < 2:
        return None
    return float((found / len(pairs)).std(ddof=1) / math.sqrt(len(found)))


def _distinct(rows: Sequence[Row], name: str) -> tuple[str, ...]:
    return tuple(sorted({row[name] for row in rows if row[name] is not None}))
