"""The tuned comparison on the report's page: its sentences in full, its arms, its differences."""

from __future__ import annotations

import math

from bench.comparison.numbers import ArmResult, Comparison, Difference
from bench.comparison.verdict import collapses, gap, number, sentences, swept
from bench.methods import label
from bench.report.data import Report
from bench.report.page import svg
from bench.report.page.tables import Table, Value, rate, ratio, table, text, whole
from bench.report.text import listed, score, unit
from bench.study import varying


def view(report: Report) -> dict[str, object] | None:
    """Return what the section shows; None where no comparison was run."""
    c = report.comparison
    if c is None:
        return None
    commit = f", commit {listed(c.git_commits)}" if c.git_commits else ""
    seeds = f"tuning seeds {listed(c.setup.tuning_seeds)}, fresh seeds {listed(c.setup.fresh_seeds)}"
    return {
        "note": f"From the study {c.setup.study}{commit}; {seeds}.",
        "sentences": sentences(c),
        "arms": _arms(c, report),
        "baseline": label(c.baseline),
        "forest": _forest(c, report),
        "differences": _differences(c),
    }


def _arms(c: Comparison, report: Report) -> Table:
    columns: tuple[tuple[str, bool], ...] = (
        ("method", False), (unit(report), True), ("± over seeds", True), ("n", True), ("rank", True), ("η_A", True),
        ("λ", True), ("collapsed or diverged", True), ("cells tuned", True), ("octaves of η_A within 1 %", True),
        ("median steps to target", True), ("missed", True),
    )  # fmt: skip
    others = [name for name in c.setup.varying if name != "rank"]
    columns = (*columns[:7], *((name, False) for name in others), *columns[7:])
    rows = [_arm(arm, c, report) for arm in c.arms]
    if all(arm.tested is None for arm in c.arms):
        return table(columns, rows)
    more = (("on the test split", True), ("± over seeds", True))
    rows = [[*row[:3], *_tested(arm, report), *row[3:]] for arm, row in zip(c.arms, rows, strict=True)]
    return table((*columns[:3], *more, *columns[3:]), rows)


def _tested(arm: ArmResult, report: Report) -> list[Value]:
    """Return the score on the test split, by which nothing was chosen, and its standard error."""
    mean, stderr = (None, None) if arm.tested is None else (arm.tested.mean, arm.tested.stderr_seeds)
    return [(score(mean, report, digits=2), mean), (score(stderr, report, digits=2), stderr)]


def _arm(arm: ArmResult, c: Comparison, report: Report) -> list[Value]:
    s, width = arm.settings, arm.tuning.width
    others = ["–" if v is None else varying.spelled(name, v) for name, v in swept(arm, c) if name != "rank"]
    octaves = "–" if width is None else f"{'≥ ' if width.open_low or width.open_high else ''}{width.octaves:.1f}"
    return [
        text(label(arm.name)), (score(arm.mean, report, digits=2), arm.mean),
        (score(arm.stderr_seeds, report, digits=2), arm.stderr_seeds), whole(arm.n), whole(s.get("rank")),
        rate(s["eta_A"]), ratio(s.get("lr_ratio")), *map(text, others),
        (collapses(arm), arm.history.every.n_collapsed), whole(arm.tuning.n_cells),
        (octaves, None if width is None else width.octaves),
        (number(arm.reach.median_steps), arm.reach.median_steps), whole(arm.reach.n_missed),
    ]  # fmt: skip


def _forest(c: Comparison, report: Report) -> svg.Forest | None:
    """Return the differences and their intervals as a picture; those without an interval are in the table alone."""
    scale = 100.0 if report.higher_is_better else 1.0
    rows = [
        (label(d.arm), scale * d.mean, scale * d.interval.low, scale * d.interval.high,
         f"{label(d.arm)}: {gap(d.mean, c.setup.metric)}, {c.level:.0%} interval {_ends(d, c)}, n = {d.n}, "
         f"claim: {d.claim}")
        for d in c.differences
        if d.mean is not None and d.interval is not None
    ]  # fmt: skip
    if not rows:
        return None
    points = " (points)" if report.higher_is_better else ""
    unit_words = f"{report.metric.replace('_', ' ')} minus that of {label(c.baseline)}{points}"
    side = "right of 0 is better" if report.higher_is_better else "left of 0 is better"
    return svg.forest(rows, x_label=f"{unit_words}; {side}", title="Differences with their intervals")


def _ends(d: Difference, c: Comparison) -> str:
    return (
        "–"
        if d.interval is None
        else f"{gap(d.interval.low, c.setup.metric)} to {gap(d.interval.high, c.setup.metric)}"
    )


def _factor(value: float | None) -> str:
    """Return a factor of speed; 0 and infinity are no factors but say who never gets there."""
    if value is None:
        return "–"
    return "never there" if value == 0 else "only it" if math.isinf(value) else number(value)


def _end(value: float) -> str:
    return "∞" if math.isinf(value) else number(value)


def _differences(c: Comparison) -> Table:
    columns = (
        ("method", False), ("difference", True), (f"{c.level:.0%} interval", False), ("n", True), ("better in", True),
        ("p", True),
        ("p after Holm", True), ("smallest p possible", True), ("claim", False), ("faster in steps", True),
        ("its interval", False), ("p after Holm", True), ("claim", False),
    )  # fmt: skip
    return table(columns, [_difference(d, c) for d in c.differences])


def _difference(d: Difference, c: Comparison) -> list[Value]:
    metric = c.setup.metric
    ends = _ends(d, c)
    found = next((s for s in c.speed_ups if s.arm == d.arm), None)
    steps = None if found is None else found.steps
    span = "–" if found is None else f"{_end(found.steps_interval.low)} to {_end(found.steps_interval.high)}"
    speed = "–" if found is None else found.claim
    return [
        text(label(d.arm)), ("–" if d.mean is None else gap(d.mean, metric), d.mean), text(ends),
        whole(d.n), ("–" if d.outperforms is None else f"{d.outperforms:.0%}", d.outperforms),
        (f"{d.p:.3g}", d.p), (f"{d.p_holm:.3g}", d.p_holm), (f"{d.attainable_p:.3g}", d.attainable_p),
        text(d.claim), (_factor(steps), steps), text(span),
        ("–" if found is None else f"{found.p_holm:.3g}", None if found is None else found.p_holm), text(speed),
    ]  # fmt: skip
