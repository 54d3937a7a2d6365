"""The metric over the rank: the best cell of each method and rank, chosen on the select split if there is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plots import lines, style
from plots import tidy as cells_of
from plots.settings import fixed_text, split
from plots.tidy import CellTable, StudyInfo, choose, has_select

WITHIN = ("rank", "lora_alpha")  # what may differ between the points of one panel


def tidy(df: pd.DataFrame, study: StudyInfo | None = None) -> CellTable:
    """Return the best cell of each method and rank, with a column `n_choices`: how many cells it was chosen from.

    It is chosen by mean select_metric (by mean metric_value, on the very split that is shown, where the cells of
    the method and rank have none) and shown by mean metric_value.
    """
    return best_of(cells_of.tidy(df, study), by=("series", "rank"))


def best_of(table: CellTable, *, by: tuple[str, ...]) -> CellTable:
    """Return the best cell of each group `by` in each panel, with `n_choices` and `chosen_by`."""
    chosen = []
    for _, panel in split(table, within=WITHIN):
        for _, members in panel.cells.groupby(list(by), dropna=False, sort=False):
            group = replace(panel, cells=members)
            best = choose(group, by="select")
            if best is not None:
                basis = "select_metric" if has_select(group.cells) else "metric_value"
                chosen.append(best.to_frame().T.assign(n_choices=len(group.cells), chosen_by=basis))
    columns = [*table.cells.columns, "n_choices", "chosen_by"]
    cells = pd.concat(chosen) if chosen else pd.DataFrame(columns=columns)
    # a cell of a method without a rank is in several panels' sets, yet it is one cell
    cells = cells.drop_duplicates("trial_ids").infer_objects().reset_index(drop=True)
    return replace(table, cells=cells)


def choice_text(cells: pd.DataFrame) -> str:
    """Return how the cells were chosen, and from how many, for the caption."""
    basis = sorted(set(cells["chosen_by"]))
    split_words = "the shown split itself, so optimistic" if "metric_value" in basis else "held out of train"
    choices = {name: cells.loc[cells["series"] == name, "n_choices"] for name in lines.series_in(cells)}
    counts = [f"{_span(numbers)} of {style.label(name)}" for name, numbers in choices.items()]
    return f"shown is the best cell by {' or '.join(basis)} ({split_words}) out of {', '.join(counts)}"


def draw(table: CellTable, ax: Axes | None = None) -> Figure:
    """Draw each method's best cells over the rank, with ± 1 standard error; methods without a rank as a level."""
    cells = table.cells
    text = style.caption(table.facts, fixed_text(table), choice_text(cells), lines.stderr_text(cells, "bars and bands"))
    ranked = set(cells.loc[cells["rank"].notna(), "series"])
    legend = [lines.handle(name, level=name not in ranked) for name in lines.series_in(cells)]
    legend += lines.mark_handles(cells)
    return lines.draw_panels(table, ax, draw_panel, within=WITHIN, text=text, legend=legend)


def draw_panel(ax: Axes, panel: CellTable) -> None:
    """Draw the cells of one panel: ranks side by side, as categories."""
    ranks = sorted(panel.cells["rank"].dropna().unique())
    place = {rank: i for i, rank in enumerate(ranks)}
    names = lines.series_in(panel.cells)
    for k, series in enumerate(names):
        cells = panel.cells[panel.cells["series"] == series].sort_values("rank")
        look = style.look(series)
        if cells["rank"].isna().all():
            _level(ax, cells.iloc[0], look)
            continue
        x = cells["rank"].map(place) + 0.07 * (k - (len(names) - 1) / 2)  # side by side: bars do not cover each other
        ax.plot(x, cells["mean"], color=look.color, gid=f"line {series}")
        bars = cells["stderr"].fillna(0.0)
        ax.errorbar(x, cells["mean"], yerr=bars, fmt="none", ecolor=look.color, elinewidth=1.2, capsize=3)
        lines.draw_points(ax, cells, x, series)
    ax.set_xticks(range(len(ranks)), [f"{rank:g}" for rank in ranks])
    ax.set_xlim(-0.5, max(len(ranks), 1) - 0.5)
    ax.set_xlabel("rank")


def _level(ax: Axes, cell: pd.Series[Any], look: style.Look) -> None:
    mean, stderr = float(cell["mean"]), float(cell["stderr"])
    ax.axhline(mean, color=look.color, linestyle="--", gid=f"line {cell['series']}")
    if np.isfinite(stderr):
        ax.axhspan(mean - stderr, mean + stderr, color=look.color, alpha=0.15, linewidth=0)


def _span(counts: pd.Series[Any]) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low}-{high}"
