"""The tables of a comparison, as plain text."""

from __future__ import annotations

import math

from bench.commands import _text
from bench.comparison.numbers import ArmResult, Comparison, Difference
from bench.comparison.verdict import collapses, gap, number, shown, swept
from bench.methods import label
from bench.study import varying

CURVE_CELLS = (1, 2, 4, 8)  # and the whole grid: where the tuning curves are printed


def scores(comparison: Comparison) -> str:
    """Return a table of the chosen cells with fresh seeds, and their differences from the baseline."""
    metric = comparison.setup.metric
    by_arm = {d.arm: d for d in comparison.differences}
    header = ("method", *comparison.setup.varying, "eta_A", "lambda", metric, "+-", "n", "collapsed",
              f"minus {label(comparison.baseline)}", f"{comparison.level:.0%} interval", "wins", "p", "p Holm",
              "claim")  # fmt: skip
    rows = [
        (
            label(arm.name),
            *("-" if value is None else varying.spelled(name, value) for name, value in swept(arm, comparison)),
            _text.rate(arm.settings["eta_A"]),
            f"{arm.settings['lr_ratio']:g}" if "lr_ratio" in arm.settings else "-",
            shown(arm.mean, metric),
            shown(arm.stderr_seeds, metric),
            str(arm.n) if not arm.n_diverged else f"{arm.n} of {arm.n + arm.n_diverged}",
            collapses(arm),
            *_difference(by_arm.get(arm.name), metric),
        )
        for arm in comparison.arms
    ]
    note = "+-: standard error over fresh seeds; collapsed: of all runs of the cell, diverged ones among them"
    tests = "p: exact sign-flip test, paired by seed; interval: inverts it, before Holm; wins: better in so many seeds"
    return f"{_text.table(header, rows)}\n{note}\n{tests}"


def tested(comparison: Comparison) -> str | None:
    """Return a table of the same runs on the test split; None where the task has none."""
    metric = comparison.setup.metric
    found = [(arm, arm.tested) for arm in comparison.arms if arm.tested is not None]
    if not found:
        return None
    rows = [
        (
            label(arm.name),
            shown(t.mean, metric),
            shown(t.stderr_seeds, metric),
            f"{t.n} of {len(t.scores)}",
            str(t.n_test),
        )
        for arm, t in found
    ]
    table = _text.table(("method", f"test {metric}", "+-", "seeds", "examples"), rows)
    return f"{table}\nthe test split, scored once by these runs: nothing was chosen by it, nothing is claimed from it"


def tuning(comparison: Comparison) -> str:
    """Return a table of what tuning with n cells is expected to give, and how wide the good region is."""
    metric, size = comparison.setup.metric, comparison.arms[0].tuning.n_cells
    if not all(arm.tuning.curve for arm in comparison.arms):
        return f"cells were stopped early: what fewer than {size} cells would have given is not known"
    counts = [n for n in CURVE_CELLS if n < size] + [size]
    header = ("expected best of n cells", *map(str, counts), "train s per cell", "octaves of eta_A within 1 %")
    rows = [
        (
            label(arm.name),
            *(shown(arm.tuning.curve[n - 1].metric, metric) for n in counts),
            _seconds(arm),
            _width(arm),
        )
        for arm in comparison.arms
    ]
    note = f"{metric} of the cell that is best where it is chosen; exact for a grid; seconds as attributed within packs"
    return f"{_text.table(header, rows)}\n{note}"


def reach(comparison: Comparison) -> str:
    """Return a table of steps (and seconds, where measured) to the target."""
    target, metric = comparison.target, comparison.setup.metric
    if target is None:
        return f"no target: tuned {label(comparison.baseline)} diverged"
    header = ("method", "median steps", "missed", "s per step", "median s", "speed-up in steps",
              f"{comparison.level:.0%} interval", "p Holm", "claim")  # fmt: skip
    by_arm = {s.arm: s for s in comparison.speed_ups}
    rows = []
    for arm in comparison.arms:
        r, s = arm.reach, by_arm.get(arm.name)
        ends = "" if s is None else f"{number(s.steps_interval.low)} to {number(s.steps_interval.high)}"
        ratio = "" if s is None else ("none" if s.steps is None else number(s.steps))
        p, claim = ("", "") if s is None else (f"{s.p_holm:.3g}", s.claim)
        seconds = "-" if r.median_seconds is None else number(r.median_seconds)
        per_step = "-" if r.seconds_per_step is None else f"{r.seconds_per_step:.4f}"
        missed = f"{r.n_missed} of {len(r.steps)}"
        rows.append((label(arm.name), number(r.median_steps), missed, per_step, seconds, ratio, ends, p, claim))
    seeds = _text.count(target.n_seeds, "tuning seed")
    whose = f"tuned {label(comparison.baseline)}'s mean at the last step over {seeds}, fixed before these runs"
    note = f"target {shown(target.value, metric)}: {whose}; looked for every {target.eval_steps} steps\n"
    note += "p: exact sign test, paired by seed, over the speed-ups; the interval tells the size and claims nothing"
    return f"{_text.table(header, rows)}\n{note}"


def _difference(d: Difference | None, metric: str) -> tuple[str, ...]:
    if d is None:
        return ("", "", "", "", "", "")
    if d.mean is None:
        return ("-", "-", "-", "-", "-", d.claim)
    ends = "-" if d.interval is None else f"{gap(d.interval.low, metric)} to {gap(d.interval.high, metric)}"
    wins = "-" if d.outperforms is None else f"{d.outperforms:.0%}"
    return (gap(d.mean, metric), ends, wins, f"{d.p:.3g}", f"{d.p_holm:.3g}", d.claim)


def _seconds(arm: ArmResult) -> str:
    first = arm.tuning.curve[0].train_seconds
    return "-" if first is None else f"{first:.1f}"


def _width(arm: ArmResult) -> str:
    width = arm.tuning.width
    if width is None:
        return "-"
    least = ">= " if width.open_low or width.open_high else ""
    return f"{least}{width.octaves:.1f}" if math.isfinite(width.octaves) else "-"
