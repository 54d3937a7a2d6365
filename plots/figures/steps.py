"""Heatmaps early and late in training: the metric and the training loss over (eta_A, eta_B) after t steps.

The form of figure 2 of the LoRA+ paper (Hayou et al. 2024, arXiv:2402.12354): test and train loss at t = 10 and 200.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.core.record import Status
from plots import heatmap, levels, marks, page, style
from plots.figures._base import Kind, Made, Rows, file_name
from plots.figures.pairs import is_grid
from plots.forms import PAPER_TOY, Form
from plots.grid import grid_of
from plots.levels import Trivial
from plots.settings import fixed_text, split
from plots.tidy import CellTable, StudyInfo, rows_of_study

COLUMN = 0.95  # inches to the right of a panel, for its colour bar
_NAMES = {"metric_value": "test", "train_loss": "train"}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTable:
    """One table of cells for each panel, with its title; and the trivial predictor's losses where there are some."""

    panels: tuple[tuple[str, CellTable], ...]
    trivial: Trivial | None


def tidy(df: pd.DataFrame, study: StudyInfo | None = None, *, steps: Sequence[int] | None = None) -> StepTable:
    """Return the cells after each of `steps` updates (None: the first and the last point of the curves).

    A trial that has no point at a step counts as diverged there if it ended diverged, else as missing.
    """
    study = study or StudyInfo()
    rows, _ = rows_of_study(df, study)
    known = sorted({point["step"] for curve in df["curve"] if curve is not None for point in curve})
    chosen = tuple(steps) if steps is not None else tuple(dict.fromkeys((known[0], known[-1]))) if known else ()
    panels = [
        (f"{_NAMES[field]} loss, t = {step}" if _is_loss(rows, field) else f"{_NAMES[field]}, t = {step}", table)
        for field in _NAMES
        for step in chosen
        for table in _split(heatmap.tidy(_at(df, step, field), _told(study, field)))
    ]
    return StepTable(panels=tuple(panels), trivial=levels.trivial(rows))


def draw(table: StepTable, ax: Axes | None = None, *, form: Form = PAPER_TOY) -> Figure:
    """Draw one panel for each step and loss, each with colours of its own; or the last metric's panel on `ax`."""
    if ax is not None:
        title, last = [panel for panel in table.panels if panel[0].startswith(_NAMES["metric_value"])][-1]
        heatmap.draw(last, ax, form=form, clip=_clip(table, last))
        ax.set_title(title, loc="left")
        return style.figure_of(ax)
    with style.settings():
        cells = [one for _, one in table.panels]
        grids = [grid_of(one, "eta_B") for one in cells]
        entries = marks.legend_entries(grids, form, roomy=any(heatmap.is_roomy(one) for one in cells))
        alone = len(table.panels) == 1
        figure, axes = page.panels(
            [heatmap.size_of(grid, form) for grid in grids], text=_caption(table), legend=entries,
            titles=[title for title, _ in table.panels], per_row=max(1, len(table.panels) // len(_NAMES)),
            margins=replace(heatmap.margins_of(grids, form), right=0.25 if alone else COLUMN),
            far_right=COLUMN - 0.25 if alone else 0.0,
        )  # fmt: skip
        for panel_ax, (_, one) in zip(axes, table.panels, strict=True):
            heatmap.draw(one, panel_ax, form=form, clip=_clip(table, one), titled=False)
            heatmap.colour_bar(figure, panel_ax, one, clip=_clip(table, one), level=_level(table, one))
        return figure


def _clip(table: StepTable, one: CellTable) -> float | None:
    level = _level(table, one)
    return None if level is None else levels.CLIP * level


def _level(table: StepTable, one: CellTable) -> float | None:
    return None if table.trivial is None else table.trivial.of(one.metric_name)


def _is_loss(rows: pd.DataFrame, field: str) -> bool:
    return field == "train_loss" or set(rows["metric_name"].dropna()) == {"eval_loss"}


def _told(study: StudyInfo, field: str) -> StudyInfo:
    return replace(study, higher_is_better=None) if field == "train_loss" else study


def _at(df: pd.DataFrame, step: int, field: str) -> pd.DataFrame:
    """Return the rows as if training had ended after `step` updates, with `field` of that point as the metric."""
    values = pd.Series([_value(curve, step, field) for curve in df["curve"]], index=df.index, dtype=float)
    there = values.notna()
    status = df["status"].where(~there, Status.OK.value)
    status = status.where(there | status.ne(Status.OK.value), None)
    more: dict[str, Any] = {"metric_name": "train_loss"} if field == "train_loss" else {}
    return df.assign(metric_value=values, metric_stderr=np.nan, select_metric=np.nan, status=status, **more)


def _value(curve: Any, step: int, field: str) -> float:
    found = [point[field] for point in (curve if curve is not None else ()) if point["step"] == step]
    return float("nan") if not found or found[0] is None else float(found[0])


def _split(table: CellTable) -> list[CellTable]:
    return [panel for _, panel in split(table)]


def _caption(table: StepTable) -> str:
    if not table.panels:
        return ""
    first = table.panels[0][1]
    counts = ", ".join(f"{int((one.cells['n_diverged'] > 0).sum())} at {title}" for title, one in table.panels)
    fewer = "such a cell is hatched over the mean of the seeds left, and no candidate for the best one or for a cross"
    notes = [fixed_text(first), "cells: mean over seeds", f"cells with a diverged seed: {counts}; {fewer}"]
    notes += [_best_text(title, one) for title, one in table.panels]
    if table.trivial is not None:
        notes.append(f"{table.trivial.words()} (line on the colour bars), colours end at {levels.CLIP:g} times that")
    return style.caption(first.facts, *notes)


def _best_text(title: str, one: CellTable) -> str:
    grid = grid_of(one, "eta_B")
    if grid.best_cell is None:
        return f"{title}: no cell has a value"
    best, equal = grid.best_cell, grid.best_equal_cell
    text = f"{title}: best {_number(one, best)} at η_A {best['eta_A']:.2e}, η_B {best['eta_B']:.2e}"
    if equal is None:
        return text
    ratio = style.ratio(best["lr_ratio"])
    return f"{text} (ratio {ratio}), at equal rates {_number(one, equal)} at {equal['eta_A']:.2e}"


def _number(one: CellTable, cell: pd.Series[Any]) -> str:
    return style.metric(float(cell["mean"]), as_percent=one.higher_is_better)


def _each(rows: Rows) -> Made:
    """Yield `steps_<panel>` (the paper's figure 2) where cells are too many for numbers; a panel is a page."""
    pairs = heatmap.tidy(rows.df, rows.study)
    if not len(pairs.cells) or not is_grid(pairs, "eta_B") or heatmap.is_roomy(pairs):
        return
    table = tidy(rows.df, rows.study)
    for title, one in table.panels:
        name = file_name(title.replace("t = ", "t").replace(",", ""))
        yield f"steps_{name}", draw(replace(table, panels=((title, one),)))


FIGURE = Kind(place=20, full=_each, paper=_each)
