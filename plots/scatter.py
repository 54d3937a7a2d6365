"""Where a search went: each pair of rates that was tried, on logarithmic axes, coloured by its score.

For cells that are no grid, as those of an adaptive search: a heatmap of them would be white with a bent line.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plots import heatmap, lines, page, style
from plots.forms import Scale
from plots.settings import fixed_text, split
from plots.tidy import CellTable, StudyInfo, choose

SIZE = (3.6, 3.0)  # inches


def tidy(df: pd.DataFrame, study: StudyInfo | None = None) -> CellTable:
    """Return the cells of LoRA and LoRA+, one for each pair of rates."""
    return heatmap.tidy(df, study)


def is_worth(table: CellTable) -> bool:
    """Return whether the cells lie in a plane: several values of both rates that do not follow from each other."""
    cells = table.cells
    return bool(cells["eta_A"].nunique() > 1 and cells["eta_B"].nunique() > 1 and cells["lr_ratio"].nunique() > 1)


def draw(table: CellTable, ax: Axes | None = None) -> Figure:
    """Draw one panel for each rank (and other varying setting), or the table's only panel on `ax`."""
    panels = split(table)
    scale = heatmap.scale_of(table)
    with style.settings():
        if ax is not None:
            if len(panels) != 1:
                raise ValueError(f"one axes holds one panel, but the table has {len(panels)}")
            _panel(ax, panels[0][1], scale)
            ax.set_title(panels[0][0], loc="left")
            return style.figure_of(ax)
        notes = (f"points: mean {style.metric_label(table)} over seeds", lines.counts_text(table.cells))
        figure, axes = page.panels(
            [SIZE] * len(panels), text=style.caption(table.facts, fixed_text(table), *notes), legend=_legend(table),
            titles=[title for title, _ in panels], margins=page.Margins(bottom=0.6), far_right=0.75,
        )  # fmt: skip
        for panel_ax, (_, panel) in zip(axes, panels, strict=True):
            _panel(panel_ax, panel, scale)
        heatmap.add_bar(figure, axes[0], axes[0 if page.current().width else min(len(axes), 3) - 1], table, scale)
        return figure


def _panel(ax: Axes, panel: CellTable, scale: Scale) -> None:
    cells = panel.cells
    valued, lost = cells[cells["mean"].notna()], cells[cells["mean"].isna() & (cells["n_diverged"] > 0)]
    good_last = valued.sort_values("mean", ascending=panel.higher_is_better)
    ends = np.array([cells[["eta_A", "eta_B"]].min().max(), cells[["eta_A", "eta_B"]].max().min()])
    if ends[0] < ends[1]:
        ax.plot(ends, ends, color=style.EQUAL_LINE, linestyle="--", linewidth=1.2, gid="equal_line", zorder=1)
    ax.scatter(
        good_last["eta_A"], good_last["eta_B"], c=good_last["mean"], norm=scale.norm, cmap=scale.cmap,
        s=page.pt(6) ** 2, edgecolor="#555555", linewidth=0.4, gid="cells", zorder=3,
    )  # fmt: skip
    ax.plot(lost["eta_A"], lost["eta_B"], linestyle="", marker="x", color=style.GREY, gid="diverged", zorder=2)
    best = choose(panel, by="select")
    if best is not None:
        ax.plot(
            [best["eta_A"]], [best["eta_B"]], marker="o", markersize=page.pt(11), fillstyle="none", color="black",
            markeredgewidth=1.6, gid="best", zorder=4,
        )  # fmt: skip
        value = style.metric(float(best["mean"]), as_percent=panel.higher_is_better)
        ax.annotate(
            value, (best["eta_A"], best["eta_B"]), (6, 6), textcoords="offset points", fontsize=page.pt(8.5),
            weight="bold", gid="number", zorder=5, path_effects=list(lines.HALO),
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(f"learning rate of A, {style.ETA_A}")
    ax.set_ylabel(f"learning rate of B, {style.ETA_B}")


def _legend(table: CellTable) -> list[Line2D]:
    entries = [
        Line2D([], [], linestyle="", marker="o", markersize=9, fillstyle="none", color="black", markeredgewidth=1.6,
               label="best cell, chosen as in the tables"),
        Line2D([], [], color=style.EQUAL_LINE, linestyle="--", label=f"{style.ETA_A} = {style.ETA_B}"),
    ]  # fmt: skip
    if (table.cells["mean"].isna() & (table.cells["n_diverged"] > 0)).any():
        entries.append(Line2D([], [], linestyle="", marker="x", color=style.GREY, label="diverged"))
    return entries
