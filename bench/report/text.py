"""The words of a report: the verdict in three sentences, and how its numbers are spelled. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.comparison.numbers import Comparison, Difference, SpeedUp
from bench.methods import arm_label
from bench.report.data import Best, CellNumbers, Counts, Report
from bench.stats import Interval
from plots import style

NO_COMPARISON = (
    "No tuned comparison was run for this study, so nothing is claimed here about which method is better or faster; "
    "bench compare makes one, with equal tuning for each method and fresh seeds."
)


def headline(report: Report) -> str:
    """Return the verdict in a few words, without numbers: what a tuned comparison claims, or nothing."""
    c = report.comparison
    if c is None:
        return "No comparison of methods yet."
    base = arm_label(c.baseline)
    claimed = [f"{arm_label(d.arm)} is {d.claim}" for d in c.differences if d.claim != "none"]
    if not claimed:
        return f"No method can be said to differ from tuned {base}."
    rest = "" if len(claimed) == len(c.differences) else "; for no other method can a difference be claimed"
    return f"Against tuned {base}, {' and '.join(claimed)}{rest}."


def verdict(report: Report) -> tuple[str, str, str]:
    """Return three sentences with numbers; a difference is claimed only where a tuned comparison claims it."""
    if report.comparison is None:
        return (_state(report), _scores(report), NO_COMPARISON)
    c = report.comparison
    return (_differences(c, report), _speed_ups(c, report), _limits(c, report))


def score(value: float | None, report: Report, *, digits: int = 1) -> str:
    """Return a score times 100, a loss with three significant digits, a dash where there is none."""
    return "–" if value is None else style.metric(value, as_percent=report.higher_is_better, digits=digits)


def unit(report: Report) -> str:
    """Return the metric with its unit: accuracy (%)."""
    return report.metric.replace("_", " ") + (" (%)" if report.higher_is_better else "")


def place(cell: CellNumbers) -> str:
    """Return where a cell lies: rank 8, η_A 1.6e-04, λ 4."""
    parts = [
        "" if cell.rank is None else f"rank {cell.rank}",
        f"η_A {style.rate(cell.eta_A)}",
        "" if cell.lr_ratio is None else f"λ {style.ratio(cell.lr_ratio)}",
    ]
    return ", ".join(part for part in parts if part)


def described(cell: CellNumbers, report: Report) -> str:
    """Return everything about a cell on one line, for the reader who points at it."""
    where = f"{style.label(cell.series)}, {place(cell)}"
    rate_B = "" if cell.eta_B is None else f", η_B {style.rate(cell.eta_B)}"
    select = "" if cell.select is None else f"; held-out train {score(cell.select, report, digits=2)}"
    return f"{where}{rate_B}: {with_spread(cell, report, digits=2)}{select}; {seeds(cell)}"


def with_spread(cell: CellNumbers, report: Report, *, digits: int = 1) -> str:
    """Return mean ± standard error, saying what it is over; or why there is no mean."""
    if cell.mean is None:
        return "no score"
    mean = score(cell.mean, report, digits=digits)
    if cell.stderr is None:
        return mean
    return f"{mean} ± {score(cell.stderr, report, digits=digits)} (standard error over {cell.stderr_kind})"


def seeds(cell: CellNumbers) -> str:
    """Return how many seeds the mean is over, and what became of the others."""
    total = f"{cell.n_expected} seed{'s' if cell.n_expected != 1 else ''}"
    parts = [total if cell.n_ok == cell.n_expected else f"{cell.n_ok} of {total}"]
    parts += [f"{cell.n_diverged} diverged"] if cell.n_diverged else []
    parts += [f"{cell.n_collapsed} collapsed"] if cell.n_collapsed else []
    missing = cell.n_expected - cell.n_ok - cell.n_diverged
    parts += [f"{missing} not run"] if missing else []
    return ", ".join(parts)


def counted(counts: Counts) -> str:
    """Return how far the study is, in words."""
    parts = [f"{counts.n_finished:,} of {counts.n_planned:,} trials finished"]
    parts += [f"{counts.n_diverged:,} diverged", f"{counts.n_collapsed:,} collapsed"]
    parts += [f"{counts.n_failed:,} failed"] if counts.n_failed else []
    return ", ".join(parts)


def _state(report: Report) -> str:
    n = report.n_seeds
    return (
        f"On {report.task} with {report.model}, {counted(report.counts)} "
        f"({n} seed{'s' if n != 1 else ''}, {report.max_steps:,} steps each)."
    )


def _scores(report: Report) -> str:
    if not report.best:
        return "No cell has a score yet."
    by = {best.chosen_by for best in report.best}
    how = "held-out training examples" if by == {"select_metric"} else "the evaluation split itself, which flatters,"
    found = "; ".join(_score(best, report) for best in report.best)
    return f"The cells that {how} chose reached this {unit(report)} on the evaluation split: {found}."


def _score(best: Best, report: Report) -> str:
    name = style.label(best.cell.series) + (f" ({best.panel})" if best.panel else "")
    spread = "" if best.cell.stderr is None else f" ± {score(best.cell.stderr, report)}"
    choices = "the only cell" if best.n_choices == 1 else f"best of {best.n_choices} cells"
    return f"{name} {score(best.cell.mean, report)}{spread} ({choices})"


def _differences(c: Comparison, report: Report) -> str:
    base, n_cells = arm_label(c.baseline), c.arms[0].tuning.n_cells
    parts = "; ".join(_difference(d, c, report) for d in c.differences)
    n = len(c.setup.fresh_seeds)
    return f"Against {base}, with {n_cells} tuning cells for each method and {n} fresh seeds, {parts}."


def _difference(d: Difference, c: Comparison, report: Report) -> str:
    name = arm_label(d.arm)
    if d.same_cell:
        return f"{name} is no different, for tuning chose the same cell for both"
    if d.mean is None or d.interval is None:
        return f"nothing can be said about {name}, for {d.n_left_out} of {len(d.values)} pairs diverged"
    claim = {"better": "is better", "worse": "is worse", "none": "shows no difference that can be claimed"}[d.claim]
    ends, p = _ends(d.interval, report), f"p = {d.p_holm:.2g} after Holm"
    return f"{name} {claim} ({_gap(d.mean, report)}, {c.level:.0%} interval {ends}, {p}, n = {d.n})"


def _speed_ups(c: Comparison, report: Report) -> str:
    if c.target is None or not c.speed_ups:
        return "No speed-up can be given, for tuned LoRA has no score to reach."
    target = f"{unit(report)} of {score(c.target.value, report)}"
    parts = "; ".join(_speed_up(s, c) for s in c.speed_ups)
    return f"To reach tuned {arm_label(c.baseline)}'s {target}, {parts}."


def _speed_up(s: SpeedUp, c: Comparison) -> str:
    name = arm_label(s.arm)
    if s.steps is None:
        return f"{name}: nothing can be said, since at the median neither method reaches it"
    ends = f"{c.level:.0%} interval {_factor(s.steps_interval.low)} to {_factor(s.steps_interval.high)}"
    if math.isinf(s.steps):
        claimed = "" if s.steps_interval.low > 1 else "no speed-up can be claimed, though "
        missed = f"its median run reaches it and {arm_label(c.baseline)}'s never does"
        return f"{name}: {claimed}{missed}, so there is no factor ({ends} times in steps, n = {s.n})"
    if s.steps == 0:
        claimed = "" if s.steps_interval.high < 1 else "no slow-down can be claimed, though "
        missed = f"its median run never reaches it and {arm_label(c.baseline)}'s does"
        return f"{name}: {claimed}{missed}, so there is no factor ({ends} times in steps, n = {s.n})"
    claimed = "" if s.steps_interval.low > 1 or s.steps_interval.high < 1 else "; no claim"
    steps = f"{name} is {_factor(s.steps)} times as fast in steps ({ends}, n = {s.n}{claimed})"
    if s.seconds is None or s.seconds_interval is None:
        return f"{steps}, its seconds not measured in isolation"
    low, high = _factor(s.seconds_interval.low), _factor(s.seconds_interval.high)
    return f"{steps} and {_factor(s.seconds)} times in seconds ({low} to {high})"


def _limits(c: Comparison, report: Report) -> str:
    known = [f"{score(d.detectable, report, digits=2)} for {arm_label(d.arm)}" for d in c.differences if d.detectable]
    borders = [arm_label(arm.name) for arm in c.arms if arm.tuning.on_border]
    gaps = f"a true gap of {', '.join(known)} would have been seen with 80 % power" if known else ""
    named = " and ".join(borders)
    edge = f"the best cell of {named} lies on its grid's border, so it may not be tuned" if borders else ""
    parts = [part for part in (gaps, edge) if part] or ["it says nothing about other tasks, models or budgets"]
    return f"How far this goes: {'; '.join(parts)}."


def _gap(value: float, report: Report) -> str:
    return f"{100 * value:+.2f} points" if report.higher_is_better else f"{value:+.3g}"


def _ends(interval: Interval, report: Report) -> str:
    low, high = (_gap(end, report).removesuffix(" points") for end in (interval.low, interval.high))
    return f"{low} to {high}"


def _factor(value: float) -> str:
    return "infinitely many" if math.isinf(value) else f"{value:.2g}"


def listed(values: Sequence[object]) -> str:
    """Return values as a, b, c; a dash where there are none."""
    return ", ".join(str(value) for value in values) or "–"
