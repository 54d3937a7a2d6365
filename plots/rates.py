"""The metric over one learning rate: methods that have only one (MoRA, full fine-tuning), and LoRA at eta_A = eta_B."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plots import lines, style
from plots import tidy as cells_of
from plots.settings import fixed_text
from plots.tidy import CellTable, Measure, StudyInfo


def tidy(df: pd.DataFrame, study: StudyInfo | None = None, *, measure: Measure = "metric_value") -> CellTable:
    """Return the cells with one learning rate: those without eta_B, and those with eta_B = eta_A."""
    table = cells_of.tidy(df, study, measure=measure)
    return table.where(table.cells["lr_ratio"].isna() | table.cells["lr_ratio"].eq(1.0))


def draw(table: CellTable, ax: Axes | None = None) -> Figure:
    """Draw one panel for each rank (and other varying setting); methods without a rank are in each of them."""
    cells = table.cells
    text = style.caption(
        table.facts,
        fixed_text(table),
        lines.counts_text(cells),
        f"lines: mean {style.metric_label(table)} over seeds",
        lines.stderr_text(cells, "bands"),
    )
    names = lines.series_in(cells)
    legend = [lines.handle(name, _label(name)) for name in names] + lines.mark_handles(cells)
    return lines.draw_panels(table, ax, _panel, text=text, legend=legend, bottom=0.85)


def _label(series: str) -> str:
    equal = f" ({style.ETA_A} = {style.ETA_B})" if series in ("lora", "lora+") else ""
    return style.label(series) + equal


def _panel(ax: Axes, panel: CellTable) -> None:
    for row, series in enumerate(lines.series_in(panel.cells)):
        cells = panel.cells[panel.cells["series"] == series].sort_values("eta_A")
        look = style.look(series)
        # a cell without a value breaks the line: nan is kept
        ax.plot(cells["eta_A"], cells["mean"], color=look.color, gid=f"line {series}")
        ax.fill_between(
            cells["eta_A"].to_numpy(float), (cells["mean"] - cells["stderr"]).to_numpy(float),
            (cells["mean"] + cells["stderr"]).to_numpy(float), color=look.color, alpha=0.2, linewidth=0,
            gid=f"band {series}",
        )  # fmt: skip
        lines.draw_points(ax, cells, cells["eta_A"], series, row=row)
    style.rate_axis(ax, sorted(panel.cells["eta_A"].unique()))
    ax.set_xlabel(f"learning rate, {style.ETA_A}")
    # room for the marks of cells without a value
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.06 * len(lines.series_in(panel.cells)) * (high - low), high)
