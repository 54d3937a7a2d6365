"""The best cell of each method, and whether it lies on its grid's border; pure, on rows of bench.record.

A cell is chosen by the mean of select_metric, on examples held out of train, where the study holds some out; what is
reported is the mean of metric_value on the evaluation split.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.record import Status
from bench.spec import Trial

COLUMNS = ["trial_id", "status", "metric_value", "metric_stderr", "select_metric"]
MIN_SEEDS_FOR_SPREAD = 3  # fewer seeds say too little about their own spread

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best cell among those of one method, rank and operator."""

    method: str
    rank: int | None
    mora_type: int | None
    eta_A: float
    lr_ratio: float | None
    n: int  # seeds with a value
    n_planned: int
    mean: float  # of metric_value
    stderr: float | None
    stderr_of: Literal["seeds", "examples"] | None
    chosen_by: Literal["select_metric", "metric_value"]
    borders: tuple[str, ...]  # the axes on whose first or last value the cell lies


def best_cells(
    by_method: Mapping[str, Sequence[Trial]], rows: Iterable[Row], *, higher_is_better: bool
) -> tuple[Best, ...]:
    """Return the best cell for each method, rank and MoRA type of the grids that has a value, in the grids' order.

    `rows` have COLUMNS. A cell with a diverged or missing seed is passed over as long as a complete one exists: its
    mean is over the survivors.
    """
    by_id = {row["trial_id"]: row for row in rows}
    found = []
    for method, trials in by_method.items():
        for series in _grouped(trials, lambda t: (t.rank, t.mora_type)):
            best = _best_of(method, series, by_id, higher_is_better)
            if best is not None:
                found.append(best)
    return tuple(found)


def _best_of(method: str, series: Sequence[Trial], by_id: Mapping[str, Row], higher_is_better: bool) -> Best | None:
    cells = [(cell, [by_id[t.trial_id] for t in cell if _has_value(by_id.get(t.trial_id))]) for cell in _cells(series)]
    valued = [(cell, rows) for cell, rows in cells if rows]
    whole = [(cell, rows) for cell, rows in valued if len(rows) == len(cell)]
    candidates = whole or valued
    if not candidates:
        return None
    selected = all(row["select_metric"] is not None for _, rows in candidates for row in rows)
    key: Literal["select_metric", "metric_value"] = "select_metric" if selected else "metric_value"
    sign = 1 if higher_is_better else -1
    cell, rows = max(candidates, key=lambda c: sign * statistics.fmean(row[key] for row in c[1]))
    stderr, stderr_of = _spread(rows)
    return Best(
        method=method,
        rank=cell[0].rank,
        mora_type=cell[0].mora_type,
        eta_A=cell[0].eta_A,
        lr_ratio=cell[0].lr_ratio,
        n=len(rows),
        n_planned=len(cell),
        mean=statistics.fmean(row["metric_value"] for row in rows),
        stderr=stderr,
        stderr_of=stderr_of,
        chosen_by=key,
        borders=_borders(cell[0], series),
    )


def _spread(rows: Sequence[Row]) -> tuple[float | None, Literal["seeds", "examples"] | None]:
    """Return the standard error of the mean: over 3 or more seeds, else over the evaluation examples.

    The seeds of a cell are scored on the same examples, so the latter does not shrink with their number.
    """
    if len(rows) >= MIN_SEEDS_FOR_SPREAD:
        return statistics.stdev(row["metric_value"] for row in rows) / math.sqrt(len(rows)), "seeds"
    errors = [row["metric_stderr"] for row in rows]
    if any(error is None for error in errors):
        return None, None
    return math.sqrt(statistics.fmean(error**2 for error in errors)), "examples"


def _borders(best: Trial, series: Sequence[Trial]) -> tuple[str, ...]:
    """Return the rate axes on whose ends the cell lies; lr_ratio 1, where LoRA+ is LoRA, is an end by definition."""
    axes = {"eta_A": [t.eta_A for t in series], "lr_ratio": [t.lr_ratio for t in series if t.lr_ratio is not None]}
    return tuple(
        name
        for name, values in axes.items()
        if len(set(values)) > 1
        and (at := getattr(best, name)) in (min(values), max(values))
        and not (name == "lr_ratio" and at == 1)
    )


def _has_value(row: Row | None) -> bool:
    return row is not None and row["status"] == Status.OK and row["metric_value"] is not None


def _cells(series: Sequence[Trial]) -> list[list[Trial]]:
    return _grouped(series, lambda t: t.cell)


def _grouped(trials: Iterable[Trial], key: Any) -> list[list[Trial]]:
    groups: dict[Any, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(key(trial), []).append(trial)
    return list(groups.values())
