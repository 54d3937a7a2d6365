"""Heatmaps of eta_A and one other setting that varies: batch size, steps, weight decay, rank, optimizer, ..."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import methods
from plots import heatmap, lines, marks, page, style
from plots.axes import RANK, Axis, axes_of, panels_of
from plots.figures import rates
from plots.figures._base import Kind, Made, Rows, file_name
from plots.forms import Form, Scale
from plots.grid import Grid, grid_of
from plots.settings import fixed_text
from plots.tidy import CellTable, StudyInfo

FORM = Form(numbers="all", near=frozenset({"percent", "stderr"}), outlines=True, equal_line=None)
LEAST_FILLED = 0.5  # share of the positions of a panel
MOST = 12  # panels of one figure


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisTable:
    """The cells of each panel with its title, one for each eta_A and value on the axis; `cells` are those of all."""

    axis: Axis
    panels: tuple[tuple[str, CellTable], ...]
    cells: CellTable


def tidy(df: pd.DataFrame, study: StudyInfo | None = None, *, axis: Axis | None = None) -> AxisTable:
    """Return a panel for each method over an axis, the first that varies if none is named.

    Methods with one value on it are left out where others have several. Of LoRA+'s cells the best over eta_B stands for
    each eta_A, as in `plots.figures.rates`.
    """
    table = rates.tidy(df, study)
    return _over(table, axis or next(axes_of(table), RANK))


def _over(table: CellTable, axis: Axis) -> AxisTable:
    found = []
    for words, panel in panels_of(table, axis):
        for series in lines.series_in(panel.cells):
            own = panel.where(panel.cells["series"] == series)
            nx, ny = own.cells["eta_A"].nunique(), own.cells[axis.name].nunique()
            once = not own.cells.duplicated(["eta_A", axis.name]).any()
            if once and nx > 1 and len(own.cells) >= LEAST_FILLED * nx * ny:
                found.append((", ".join(filter(None, (style.label(series), words))), own))
    several = [one for one in found if one[1].cells[axis.name].nunique() > 1]
    return AxisTable(axis=axis, panels=tuple(several or found), cells=table)


def draw(table: AxisTable, ax: Axes | None = None) -> Figure:
    """Draw every panel in the same colours, or the first one on `ax`."""
    grids = [_grid(panel, table.axis) for _, panel in table.panels]
    ids = {one for _, panel in table.panels for one in panel.cells["trial_ids"]}
    shown = table.cells.where(table.cells.cells["trial_ids"].isin(ids))
    scale = heatmap.scale_of(shown)
    titles = [_title(title, grid, panel, table.axis) for grid, (title, panel) in zip(grids, table.panels, strict=True)]
    with style.settings():
        if ax is not None:
            _panel(ax, grids[0], table.panels[0][1], table.axis, scale)
            ax.set_title(titles[0], loc="left")
            return style.figure_of(ax)
        figure, axes = page.panels(
            [heatmap.size_of(grid, FORM) for grid in grids], text=_caption(table, shown), titles=titles,
            legend=marks.legend_entries(grids, FORM, roomy=True),
            margins=replace(heatmap.margins_of(grids, FORM), left=1.15), far_right=0.75,
            least=[heatmap.least_of(grid, FORM) for grid in grids],
        )  # fmt: skip
        for panel_ax, grid, (_, panel) in zip(axes, grids, table.panels, strict=True):
            _panel(panel_ax, grid, panel, table.axis, scale)
        heatmap.add_shared_bar(figure, axes, shown, scale)
        return figure


def _panel(ax: Axes, grid: Grid, panel: CellTable, axis: Axis, scale: Scale) -> None:
    heatmap.draw_panel(ax, grid, panel, form=FORM, scale=scale)
    ax.set_ylabel(axis.label)
    ax.set_xlabel(f"learning rate, {style.ETA_A}")


def _grid(panel: CellTable, axis: Axis) -> Grid:
    words = {cell[axis.name]: axis.words(cell) for _, cell in panel.cells.iterrows()}
    return replace(grid_of(panel, axis.name, words=words), best_equal=None, best_equal_cell=None)


def _title(title: str, grid: Grid, panel: CellTable, axis: Axis) -> str:
    best = grid.best_cell
    if best is None:
        return f"{title}\nno cell has a value"
    return f"{title}\nbest {heatmap.value(panel, best)} at {style.ETA_A} {style.rate(best['eta_A'])}, " \
           f"{axis.label} {axis.words(best)}"  # fmt: skip


def _caption(table: AxisTable, shown: CellTable) -> str:
    plus = methods.PLUS in set(shown.cells["series"])
    return style.caption(
        table.cells.facts,
        fixed_text(table.cells),
        f"cells: mean {style.metric_label(table.cells)} over seeds",
        lines.counts_text(shown.cells),
        f"LoRA+ at the best of its λ for each {style.ETA_A}, chosen as cells are" if plus else "",
        lines.stderr_text(shown.cells, "marks and ±"),
    )


def _full(rows: Rows) -> Made:
    """Yield `heatmap_eta_A_<setting>` for each setting that varies where a method has several rates."""
    table = rates.tidy(rows.df, rows.study)
    for axis in axes_of(table) if len(table.cells) else ():
        found, name = _over(table, axis), f"heatmap_eta_A_{file_name(axis.name)}"
        if len(found.panels) > MOST:
            yield name, f"{len(found.panels)} panels: draw fewer methods or settings"
        elif any(panel.cells[axis.name].nunique() > 1 for _, panel in found.panels):
            yield name, draw(found)


FIGURE = Kind(place=15, full=_full)
