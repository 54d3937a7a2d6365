"""The metric over one learning rate: every method over eta_A, LoRA+ at the best eta_B for each."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.methods import PLUS
from plots import lines, style
from plots import tidy as cells_of
from plots.figures._base import Kind, Made, Rows
from plots.lines import Line
from plots.settings import fixed_text, keys_of
from plots.tidy import CellTable, Measure, StudyInfo, choose


def tidy(df: pd.DataFrame, study: StudyInfo | None = None, *, measure: Measure = "metric_value") -> CellTable:
    """Return one cell for each eta_A of a method: LoRA's at eta_B = eta_A, of LoRA+'s the best over eta_B.

    That one is chosen by mean select_metric where the cells of an eta_A have one, else by the mean shown.
    """
    table = cells_of.tidy(df, study, measure=measure)
    keys = keys_of(table.cells, table.varying).assign(series=table.cells["series"], eta_A=table.cells["eta_A"])
    kept = []
    for _, own in keys.groupby(list(keys.columns), dropna=False, sort=False):
        group = replace(table, cells=table.cells.loc[own.index])
        best = choose(group, by="select") if len(own) > 1 else None
        kept.append(own.index[0] if best is None else best.name)
    return table.where(table.cells.index.isin(kept))  # type: ignore[arg-type]


def draw(table: CellTable, ax: Axes | None = None) -> Figure:
    """Draw every method as a line over eta_A; settings that vary are lines too, or panels where they are many."""
    cells, panels = table.cells, lines.arrange(table)
    text = style.caption(
        table.facts,
        fixed_text(table),
        lines.counts_text(cells),
        f"lines: mean {style.metric_label(table)} over seeds",
        lines.stderr_text(cells, "bands"),
        f"LoRA+ at the best of its λ for each {style.ETA_A}, chosen as cells are"
        if PLUS in set(cells["series"])
        else "",
    )
    legend = lines.handles(panels, label) + lines.mark_handles(cells)
    return lines.draw_panels(panels, ax, _panel, text=text, legend=legend, bottom=0.85, marked=True)


def label(line: Line) -> str:
    """Return the name of a line, with what holds for its eta_B."""
    ratios = line.cells["lr_ratio"].dropna()
    if not len(ratios):
        return line.label
    return f"{line.label} ({'λ = 1' if ratios.eq(1.0).all() else 'best λ'})"


def _panel(ax: Axes, panel: CellTable) -> None:
    rows = lines.rows_of(panel)
    for line in lines.lines_in(panel.cells):
        cells, look = line.cells.sort_values("eta_A"), line.look
        # a cell without a value breaks the line: nan is kept
        ax.plot(cells["eta_A"], cells["mean"], color=look.color, linestyle=look.dash, gid=f"line {line.gid}")
        ax.fill_between(
            cells["eta_A"].to_numpy(float), (cells["mean"] - cells["stderr"]).to_numpy(float),
            (cells["mean"] + cells["stderr"]).to_numpy(float), color=look.color, alpha=0.15, linewidth=0,
            gid=f"band {line.gid}",
        )  # fmt: skip
        lines.draw_points(ax, replace(line, cells=cells), cells["eta_A"], row=rows.get(line.gid, 0))
    style.rate_axis(ax, sorted(panel.cells["eta_A"].unique()))
    ax.set_xlabel(f"learning rate, {style.ETA_A}")


def _full(rows: Rows) -> Made:
    """Yield `rates` where a method has several."""
    table = tidy(rows.df, rows.study)
    if len(table.cells) and (table.cells.groupby("series")["eta_A"].nunique() > 1).any():
        yield "rates", draw(table)


FIGURE = Kind(place=30, full=_full)
