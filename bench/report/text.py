"""The words of a report: the verdict in three sentences, and how its numbers are spelled. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.comparison import verdict as comparing
from bench.core import pruned
from bench.report.data import Best, CellNumbers, Counts, Report
from plots import style

NO_COMPARISON = (
    "No tuned comparison was run for this study, so nothing is claimed here about which method is better or faster; "
    "bench compare makes one, with equal tuning for each method and fresh seeds."
)


def headline(report: Report) -> str:
    """Return the verdict in a few words, without numbers: what a tuned comparison claims, or nothing."""
    c = report.comparison
    return "No comparison of methods yet." if c is None else comparing.headline(c)


def verdict(report: Report) -> tuple[comparing.Paragraph, ...]:
    """Return three paragraphs with numbers; a difference is claimed only where a tuned comparison claims it."""
    if report.comparison is None:
        return ((_state(report),), _scores(report), (NO_COMPARISON,))
    return comparing.short(report.comparison)


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
    parts += [pruned.told(counts.n_pruned, counts.share_saved)] if counts.n_pruned else []
    return ", ".join(parts)


def _state(report: Report) -> str:
    n = report.n_seeds
    return (
        f"On {report.task} with {report.model}, {counted(report.counts)} "
        f"({n} seed{'s' if n != 1 else ''}, {report.max_steps:,} steps each)."
    )


def _scores(report: Report) -> comparing.Paragraph:
    if not report.best:
        return ("No cell has a score yet.",)
    by = {best.chosen_by for best in report.best}
    how = "held-out training examples" if by == {"select_metric"} else "the evaluation split itself, which flatters,"
    found = (_score(best, report) for best in report.best)
    return (f"The cells that {how} chose reached this {unit(report)} on the evaluation split:", *found)


def _score(best: Best, report: Report) -> str:
    name = style.label(best.cell.series) + (f" ({best.panel})" if best.panel else "")
    spread = "" if best.cell.stderr is None else f" ± {score(best.cell.stderr, report)}"
    choices = "the only cell" if best.n_choices == 1 else f"best of {best.n_choices} cells"
    return f"{name} {score(best.cell.mean, report)}{spread} ({choices})"


def listed(values: Sequence[object]) -> str:
    """Return values as a, b, c; a dash where there are none."""
    return ", ".join(str(value) for value in values) or "–"
