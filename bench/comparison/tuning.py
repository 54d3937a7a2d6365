"""How tuning an arm went: its curve over the number of cells, and the width of its good region. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import fmean
from typing import Any

from bench.comparison import landscape
from bench.comparison.arms import Arm, Cell, on_border, ordered
from bench.comparison.landscape import Width
from bench.comparison.numbers import CurvePoint, Tuning
from bench.core.spec import Trial

SHARE_OF_BEST = 0.01  # sensitivity: the region within 1 % of the best score


def tuning_of(arm: Arm, found: Sequence[Cell], best: Cell, *, floor: float, higher_is_better: bool) -> Tuning:
    """Return what the first stage of tuning gave over its grid, and the score of the cell that was chosen."""
    n_stopped = arm.n_cells - len(found)
    return Tuning(
        n_cells=arm.n_cells,
        n_stopped=n_stopped,
        n_seeds=best.n,
        n_diverged_cells=sum(cell.n_diverged > 0 for cell in found),
        chosen_by=best.chosen_by,
        select=best.select,
        metric=best.metric,
        on_border=on_border(arm, best.trial),
        width=None if n_stopped else _width(found, best, higher_is_better=higher_is_better),
        curve=() if n_stopped else _curve(found, floor=floor, higher_is_better=higher_is_better),
    )


def _curve(found: Sequence[Cell], *, floor: float, higher_is_better: bool) -> tuple[CurvePoint, ...]:
    """Return the tuning curve; a seed without a score counts as `floor`, the worst score that any cell got."""
    ranked = ordered(found, higher_is_better=higher_is_better)[::-1]
    held_out = all(cell.chosen_by == "select_metric" for cell in found)
    by = range(len(ranked))  # the place in the order, so that of equals the curve takes the one that tuning takes
    select = landscape.expected_best(
        [_floored(c, c.select if held_out else c.metric, floor) for c in ranked], chosen_by=by
    )
    metric = landscape.expected_best([_floored(c, c.metric, floor) for c in ranked], chosen_by=by)
    known = [cell.train_seconds for cell in found if cell.train_seconds is not None]
    each = fmean(known) if len(known) == len(found) else None
    return tuple(
        CurvePoint(n_cells=n, train_seconds=None if each is None else n * each, select=float(s), metric=float(m))
        for n, (s, m) in enumerate(zip(select, metric, strict=True), start=1)
    )


def _floored(cell: Cell, mean: float | None, floor: float) -> float:
    """Return the mean over all seeds of a cell, given that over the seeds that did not diverge."""
    return floor if mean is None else (mean * (cell.n - cell.n_diverged) + floor * cell.n_diverged) / cell.n


def floor_of(of_arm: Mapping[str, Sequence[Cell]], sign: int) -> float:
    """Return the worst score that any cell got."""
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
    return landscape.width_within([c.trial.eta_A for c in line], scores, share=SHARE_OF_BEST)


def _other_settings(trial: Trial) -> tuple[Any, ...]:
    names = [f.name for f in fields(trial) if f.name not in ("seed", "eta_A", "eta_B", "method")]
    return (trial.lr_ratio, *(getattr(trial, name) for name in names))
