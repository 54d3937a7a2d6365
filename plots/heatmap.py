"""Heatmaps of a LoRA family's learning rates: (eta_A, eta_B) in the LoRA+ paper's orientation, or (eta_A, lambda).

LoRA's cells lie in the same panels as LoRA+'s, at lambda = 1. Panels differ by rank (and whatever else the study
varies) and share one colour scale; bright is good, whichever way the metric points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench import methods
from bench.study.varying import SETTINGS
from plots import marks, page, style
from plots import tidy as cells_of
from plots.forms import FULL, Form, Scale
from plots.grid import EQUAL_BAND, Grid, View, equal_line, grid_of, limits
from plots.settings import fixed_text, split
from plots.tidy import CellTable, Measure, StudyInfo

MOST_COLUMNS, MOST_ROWS = 14, 18  # of a panel whose cells are large enough for numbers
MOST_COLUMNS_OF_A_COLUMN = 8  # the same in one column of a paper
TICK_INCHES = 0.56  # a rate such as 4.0e-03 with some space around it


def tidy(df: pd.DataFrame, study: StudyInfo | None = None, *, measure: Measure = "metric_value") -> CellTable:
    """Return the cells of LoRA and LoRA+, one for each pair of rates.

    Where both methods have a cell at one place (they differ there only if embeddings are adapted), LoRA+'s is kept.
    """
    table = cells_of.tidy(df, study, measure=measure)
    table = table.where(table.cells["method"].isin(methods.FAMILY))
    place = [name for name in SETTINGS if name != "method"]
    both = table.cells.duplicated(place, keep=False) & table.cells["method"].eq(methods.BASELINE)
    return table.where(~both)


def draw(
    table: CellTable,
    ax: Axes | None = None,
    *,
    view: View = "eta_B",
    form: Form = FULL,
    clip: float | None = None,
    titled: bool = True,
) -> Figure:
    """Draw one panel for each rank (and other varying setting), or the table's only panel on `ax`, `titled` or not.

    `clip`: cells worse than it have its colour (their values stay as they are in the table). None: see `grid.limits`.
    """
    panels = split(table)
    grids = [grid_of(panel, view) for _, panel in panels]
    scale = scale_of(table, clip)
    with style.settings():
        if ax is not None:
            if len(panels) != 1:
                raise ValueError(f"one axes holds one panel, but the table has {len(panels)}")
            _panel(ax, grids[0], panels[0][1], title=panels[0][0] if titled else None, form=form, scale=scale)
            return style.figure_of(ax)
        entries = marks.legend_entries(grids, form, roomy=any(_roomy(grid) for grid in grids))
        titles = [_title(title, grid, one, form) for grid, (title, one) in zip(grids, panels, strict=True)]
        figure, axes = page.panels(
            [size_of(grid, form) for grid in grids], text=_caption(table, grids, scale, form), titles=titles,
            legend=entries, margins=margins_of(grids, form), far_right=0.75,
            least=[least_of(grid, form) for grid in grids],
        )  # fmt: skip
        for panel_ax, grid, (_, panel) in zip(axes, grids, panels, strict=True):
            _panel(panel_ax, grid, panel, title=None, form=form, scale=scale)
        add_shared_bar(figure, axes, table, scale)
        return figure


def scale_of(table: CellTable, clip: float | None = None) -> Scale:
    """Return the colours of all panels of a table; cells worse than `clip` share its colour."""
    low, high = limits(table) or (0.0, 1.0)
    if clip is not None:
        low, high = (clip, max(high, clip)) if table.higher_is_better else (min(low, clip), clip)
    cmap = mpl.colormaps[style.CMAP if table.higher_is_better else f"{style.CMAP}_r"]
    beyond = table.cells["mean"].lt(low).any() or table.cells["mean"].gt(high).any()
    extend: Literal["min", "max"] = "min" if table.higher_is_better else "max"
    return Scale(norm=Normalize(low, high), cmap=cmap, extend=extend if beyond else "neither")


def is_roomy(table: CellTable) -> bool:
    """Return whether the panels' cells are large enough for numbers on a page as wide as they need."""
    grids = [grid_of(panel, "eta_B") for _, panel in split(table)]
    return all(len(grid.xs) <= MOST_COLUMNS and len(grid.ys) <= MOST_ROWS for grid in grids)


def _roomy(grid: Grid) -> bool:
    most = MOST_COLUMNS if page.current().width is None else MOST_COLUMNS_OF_A_COLUMN
    return len(grid.xs) <= most and len(grid.ys) <= MOST_ROWS


def size_of(grid: Grid, form: Form) -> tuple[float, float]:
    """Return width and height of a panel in inches."""
    ny, nx = grid.mean.shape
    if not _roomy(grid):
        return max(3.6, min(5.5, 0.3 * nx)), max(2.4, min(5.5, 0.22 * ny))
    width, height = (0.66 if nx <= 7 else 0.57, 0.5 if ny <= 8 else 0.38) if form.numbers == "all" else (0.6, 0.42)
    return max(3.6 if form.numbers == "all" else 2.2, width * nx), height * ny


def least_of(grid: Grid, form: Form) -> float:
    """Return the least height of a panel in inches, on a page that is narrower than it wants to be."""
    if _roomy(grid) and form.numbers == "all":
        return 0.29 * len(grid.ys)  # a mark above and below a number
    return min(size_of(grid, form)[1], 1.5)


def margins_of(grids: Sequence[Grid], form: Form) -> page.Margins:
    """Return the space that rates need around the panels."""
    turned = page.current().width is not None or any(_turned(grid, size_of(grid, form)[0]) for grid in grids)
    return page.Margins(left=0.85, right=0.25, bottom=0.82 if turned else 0.52)


def _turned(grid: Grid, width: float) -> bool:
    """Whether the rates on the x axis need to be turned to fit in `width` inches."""
    return width / len(grid.xs) < TICK_INCHES * page.pt(8) / 8


def draw_panel(ax: Axes, grid: Grid, panel: CellTable, *, form: Form, scale: Scale) -> None:
    """Draw one panel without its title."""
    import seaborn  # at drawing, not at start-up

    ax.grid(False)
    seaborn.heatmap(
        grid.mean, mask=np.isnan(grid.mean), vmin=scale.norm.vmin, vmax=scale.norm.vmax, cmap=scale.cmap, cbar=False,
        linewidths=0.6 if _roomy(grid) else 0.0, linecolor="white", xticklabels=False, yticklabels=False, gid="cells",
        ax=ax,
    )  # fmt: skip
    marks.draw(ax, grid, panel, form=form, scale=scale, roomy=_roomy(grid))
    if form.equal_line is not None and (line := equal_line(grid)) is not None:
        marks.draw_equal_line(ax, *line, form)
    _ticks(ax, grid, form.tick_every)


def _panel(ax: Axes, grid: Grid, panel: CellTable, *, title: str | None, form: Form, scale: Scale) -> None:
    draw_panel(ax, grid, panel, form=form, scale=scale)
    if title is not None:
        ax.set_title(
            _title(title, grid, panel, form), loc="left", fontsize=page.pt(page.TITLE_POINTS), linespacing=1.25
        )


def _ticks(ax: Axes, grid: Grid, at_least: int) -> None:
    """Label every cell's centre with its raw rate, or every n-th (`at_least` n) where there are many."""
    box, (width, height) = ax.get_position(), style.figure_of(ax).get_size_inches()
    wide, tall = box.width * width, box.height * height
    turned = _turned(grid, wide)
    every_x = max(at_least, int(np.ceil(0.2 * len(grid.xs) / wide)))
    every_y = max(at_least, int(np.ceil(0.17 * len(grid.ys) / tall)))
    xs, ys = range(0, len(grid.xs), every_x), range(0, len(grid.ys), every_y)
    ax.set_xticks([j + 0.5 for j in xs], [style.rate(grid.xs[j]) for j in xs])
    ax.set_yticks([i + 0.5 for i in ys], [grid.names[i] for i in ys])
    ax.tick_params(length=0, pad=3)
    if turned:
        style.turn(ax)
    ax.set_xlabel(f"learning rate of A, {style.ETA_A}")
    ratio = f"λ = {style.ETA_B} / {style.ETA_A}"
    ax.set_ylabel(f"learning rate of B, {style.ETA_B}" if grid.view == "eta_B" else ratio)


def _title(title: str, grid: Grid, panel: CellTable, form: Form) -> str:
    """Return the panel's name, its best cell and how far the best cell with equal rates is from it."""
    edge = " (best cell at the grid's edge)" if grid.best_at_edge else ""
    series = " / ".join(style.label(name) for name in sorted(panel.cells["series"].unique()))
    named = f"{series}, {title}" if title else series
    if form.numbers != "all":
        return named
    if grid.best_cell is None:
        return f"{named}\nno cell has a value"
    best, equal = grid.best_cell, grid.best_equal_cell
    lines = [named + edge, f"best {value(panel, best)} at {_rates(best)}"]
    if equal is None:
        lines.append("no cell with equal rates has a value")
    elif grid.best == grid.best_equal:
        lines.append("the best cell has equal rates")
    else:
        far = style.metric(abs(best["mean"] - equal["mean"]), as_percent=panel.higher_is_better)
        at = style.rate(equal["eta_A"]) if equal["lr_ratio"] == 1 else _rates(equal)
        lines.append(f"best equal rates {value(panel, equal)} at {at}: {far} worse")
    return "\n".join(lines)


def value(panel: CellTable, cell: pd.Series[Any]) -> str:
    """Return a cell's mean, with its standard error where it is known."""
    mean = style.metric(cell["mean"], as_percent=panel.higher_is_better)
    stderr = style.metric(cell["stderr"], as_percent=panel.higher_is_better) if np.isfinite(cell["stderr"]) else None
    return mean if stderr is None else f"{mean} ± {stderr}"


def _rates(cell: pd.Series[Any]) -> str:
    rates = f"{style.ETA_A}\u00a0{style.rate(cell['eta_A'])}, {style.ETA_B}\u00a0{style.rate(cell['eta_B'])}"
    return f"{rates} (λ\u00a0{style.ratio(cell['lr_ratio'])})"


def colour_bar(
    figure: Figure, ax: Axes, table: CellTable, *, clip: float | None = None, level: float | None = None
) -> None:
    """Add the colour bar of a panel that `draw` made on `ax`, to its right; `level` is drawn as a line across it."""
    scale = scale_of(table, clip)
    bar_ax = add_bar(figure, ax, ax, table, scale)
    if level is not None and (scale.norm.vmin or 0.0) <= level <= (scale.norm.vmax or 0.0):
        bar_ax.axhline(level, color=style.EQUAL_LINE, linewidth=2.0, gid="level")


def add_shared_bar(figure: Figure, axes: Sequence[Axes], table: CellTable, scale: Scale) -> None:
    """Add the colour bar that all panels share, beside the last one of the first row."""
    add_bar(figure, axes[0], axes[0 if page.current().width else min(len(axes), 3) - 1], table, scale)


def add_bar(figure: Figure, first_ax: Axes, last_ax: Axes, table: CellTable, scale: Scale) -> Axes:
    """Add a colour bar beside `last_ax`, as tall as `first_ax`."""
    first, last = first_ax.get_position(), last_ax.get_position()
    width, height = figure.get_size_inches()
    tall = max(first.height, 1.6 / height)
    k = page.current().scale
    bar_ax = figure.add_axes((last.x1 + 0.18 * k / width, first.y1 - tall, 0.14 * k / width, tall))
    bar = figure.colorbar(ScalarMappable(scale.norm, scale.cmap), cax=bar_ax, extend=scale.extend, extendfrac=0.06)
    bar.set_label(style.metric_label(table))
    bar.outline.set_visible(False)
    if table.higher_is_better:
        bar_ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))
    return bar_ax


def _caption(table: CellTable, grids: Sequence[Grid], scale: Scale, form: Form) -> str:
    counts = {
        "not run": sum(int(g.missing.sum()) for g in grids),
        "left out early": sum(int(g.stopped.sum()) for g in grids),
        "with a diverged seed": sum(int(g.diverged.sum()) for g in grids),
        "with a collapsed seed": sum(int(g.collapsed.sum()) for g in grids),
        "with a mean over fewer seeds": sum(int(g.short.sum()) for g in grids),
    }
    n_cells = sum(int(g.planned.sum()) for g in grids)
    counted = ", ".join([f"{n_cells} cells", *(f"{n} {what}" for what, n in counts.items() if n)])
    notes = [fixed_text(table), f"cells: mean {style.metric_label(table)} over seeds"]
    notes += [counted, stderr_text(grids, form)]
    if scale.extend != "neither":
        end = float((scale.norm.vmin if scale.extend == "min" else scale.norm.vmax) or 0.0)
        text = style.metric(end, as_percent=table.higher_is_better)
        notes.append(f"colours end at {text}, worse cells share that colour")
    if form.numbers == "best":
        notes.append(f"red: the best cell, and the best with η_B / η_A in [{EQUAL_BAND[0]:g}, {EQUAL_BAND[1]:g}]")
    return style.caption(table.facts, *notes)


def stderr_text(grids: Sequence[Grid], form: Form) -> str:
    """Return which standard error the marks and the ± use, as it holds for the best cells; empty: neither is shown."""
    if form.numbers != "all" and "stderr" not in form.near:
        return ""
    found = [g.best_cell["stderr_kind"] for g in grids if g.best_cell is not None]
    kinds = {kind for kind in found if isinstance(kind, str)}  # pandas may make NaN of None
    return f"standard errors (±, marks) are {style.stderr_words(kinds)}" if kinds else "no standard error is known"
