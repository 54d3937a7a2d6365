"""The metric over the rank: the best cell of each method and rank, chosen on the select split if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plots import lines, style
from plots import tidy as cells_of
from plots.figures._base import Kind, Made, Rows
from plots.lines import Line
from plots.settings import Panel, fixed_text, keys_of
from plots.tidy import CellTable, StudyInfo, choose, has_select

RANK = ("rank",)
_WIDE = 0.5  # share of a category that the marks of one rank spread over, at most


def tidy(df: pd.DataFrame, study: StudyInfo | None = None) -> CellTable:
    """Return the best cell of each method and rank, with a column `n_choices`: how many cells it was chosen from.

    It is chosen by mean select_metric (by mean metric_value, on the very split that is shown, where the cells of
    the method and rank have none) and shown by mean metric_value.
    """
    return best_of(cells_of.tidy(df, study))


def best_of(table: CellTable, *, over: Sequence[str] = ()) -> CellTable:
    """Return the best cell of each method at each of its settings, over rates and the settings `over`.

    Columns `n_choices` and `chosen_by` come to it.
    """
    names = [name for name in table.varying if name not in over]
    keys = keys_of(table.cells, names).assign(series=table.cells["series"])
    chosen = []
    for _, own in keys.groupby([*names, "series"], dropna=False, sort=False):
        group = replace(table, cells=table.cells.loc[own.index])
        best = choose(group, by="select")
        if best is not None:
            basis = "select_metric" if has_select(group.cells) else "metric_value"
            chosen.append(best.to_frame().T.assign(n_choices=len(group.cells), chosen_by=basis))
    columns = [*table.cells.columns, "n_choices", "chosen_by"]
    cells = pd.concat(chosen) if chosen else pd.DataFrame(columns=columns)
    return replace(table, cells=cells.infer_objects().reset_index(drop=True))


def choice_text(cells: pd.DataFrame) -> str:
    """Return how the cells were chosen, and from how many, for the caption."""
    basis = sorted(set(cells["chosen_by"]))
    split_words = "the shown split itself, so optimistic" if "metric_value" in basis else "held out of train"
    choices = {name: cells.loc[cells["series"] == name, "n_choices"] for name in lines.series_in(cells)}
    counts = [f"{_span(numbers)} of {style.label(name)}" for name, numbers in choices.items()]
    return f"shown is the best cell by {' or '.join(basis)} ({split_words}) out of {', '.join(counts)}"


def draw(table: CellTable, ax: Axes | None = None) -> Figure:
    """Draw each method's best cells over the rank, with ± 1 standard error; methods without a rank as a level."""
    cells, panels = table.cells, lines.arrange(table, free=RANK)
    text = style.caption(
        table.facts, fixed_text(table), choice_text(cells), lines.stderr_text(cells, "bars and bands"),
        "marks of one rank stand side by side in its column",
    )  # fmt: skip
    return lines.draw_panels(panels, ax, draw_panel, text=text, legend=legend(panels, cells), marked=True)


def legend(panels: Sequence[Panel], cells: pd.DataFrame) -> list[Any]:
    """Return the legend: a dashed line for what has no rank."""
    ranked = set(cells.loc[cells["rank"].notna(), "series"])
    entries = lines.handles(panels)
    found = {line.label: line for _, panel in panels for line in lines.lines_in(panel.cells)}
    levels = [e for e in entries if found[str(e.get_label())].series not in ranked]
    for entry in levels:
        entry.set(linestyle="--", marker="")
    return entries + lines.mark_handles(cells)


def draw_panel(ax: Axes, panel: CellTable) -> None:
    """Draw the cells of one panel: a column for each rank, the marks of its methods side by side in it."""
    ranks = sorted(panel.cells["rank"].dropna().unique())
    place = {rank: float(i) for i, rank in enumerate(ranks)}
    drawn = list(lines.lines_in(panel.cells))
    rows = lines.rows_of(panel)
    apart = min(0.09, _WIDE / max(len(drawn), 1))
    for k, line in enumerate(drawn):
        cells, look = line.cells.sort_values("rank"), line.look
        if cells["rank"].isna().all():
            _level(ax, cells.iloc[0], line)
            continue
        x = cells["rank"].map(place) + apart * (k - (len(drawn) - 1) / 2)  # side by side: bars do not cover each other
        ax.plot(x, cells["mean"], color=look.color, linestyle=look.dash, gid=f"line {line.gid}")
        bars = cells["stderr"].fillna(0.0)
        ax.errorbar(x, cells["mean"], yerr=bars, fmt="none", ecolor=look.color, elinewidth=1.2, capsize=3)
        lines.draw_points(ax, replace(line, cells=cells), x, row=rows.get(line.gid, 0))
    for i in range(0, len(ranks), 2):  # a ground for every other rank, so that a column is seen as one
        ax.axvspan(i - 0.5, i + 0.5, color="#f3f3f3", zorder=0, gid="column")
    ax.grid(visible=False, axis="x")
    ax.set_xticks(range(len(ranks)), [f"{rank:g}" for rank in ranks])
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.5, max(len(ranks), 1) - 0.5)
    ax.set_xlabel("rank")


def _level(ax: Axes, cell: pd.Series[Any], line: Line) -> None:
    mean, stderr = float(cell["mean"]), float(cell["stderr"])
    ax.axhline(mean, color=line.look.color, linestyle="--", gid=f"line {line.gid}")
    if np.isfinite(stderr):
        ax.axhspan(mean - stderr, mean + stderr, color=line.look.color, alpha=0.15, linewidth=0)


def _span(counts: pd.Series[Any]) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low}-{high}"


def _full(rows: Rows) -> Made:
    """Yield `rank` where there are several."""
    table = tidy(rows.df, rows.study)
    if table.cells["rank"].nunique() > 1:
        yield "rank", draw(table)


FIGURE = Kind(place=40, full=_full)
