"""The score over what was forgotten: each cell's rise of the loss on a fixed text, and the Pareto front of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plots import lines, style
from plots import tidy as cells_of
from plots.figures._base import Kind, Made, Rows
from plots.settings import fixed_text
from plots.tidy import CellTable, StudyInfo

BEFORE, AFTER, TEXT = "forgetting_before", "forgetting_after", "forgetting_hash"
FRONT = "no cell forgets less and scores better"


def tidy(df: pd.DataFrame, study: StudyInfo | None = None) -> CellTable:
    """Return the cells that have a score and read the text, with columns `forgotten` (nats per token) and `on_front`.

    Rows that read another text, or more of it, than most do are left out.
    """
    table = cells_of.tidy(df, study)
    rows = df.set_index("trial_id")
    known = rows[rows[AFTER].notna() & rows[BEFORE].notna()]
    if len(known):
        known = known[known[TEXT] == known[TEXT].mode().iloc[0]]
    rise = (known[AFTER] - known[BEFORE]).astype(float)
    found = [float(rise.reindex(list(ids)).mean()) for ids in table.cells["trial_ids"]]
    whole = replace(table, cells=table.cells.assign(forgotten=found))
    whole = whole.where(whole.cells["forgotten"].notna() & whole.cells["mean"].notna())
    return replace(whole, cells=whole.cells.assign(on_front=front(whole)))


def front(table: CellTable) -> list[bool]:
    """Return which cells are on the Pareto front: no other one is as good in both and better in one."""
    sign = 1.0 if table.higher_is_better else -1.0
    score, lost = sign * table.cells["mean"].to_numpy(float), table.cells["forgotten"].to_numpy(float)
    as_good = (score[None] >= score[:, None]) & (lost[None] <= lost[:, None])
    better = (score[None] > score[:, None]) | (lost[None] < lost[:, None])
    beaten = np.asarray((as_good & better).any(axis=1))
    return [not one for one in beaten.tolist()]


def draw(table: CellTable, ax: Axes | None = None) -> Figure:
    """Draw each cell, and a line through those on the front of the whole table."""
    panels = lines.arrange(table)
    whole = replace(table, cells=table.cells.sort_values("forgotten"))

    def panel(one: Axes, cells: CellTable) -> None:
        on_front = whole.cells[whole.cells["on_front"]]
        one.plot(on_front["forgotten"], on_front["mean"], color=style.GREY, linewidth=1.0, gid="front", zorder=2)
        for line in lines.lines_in(cells.cells):
            one.plot(
                line.cells["forgotten"], line.cells["mean"], linestyle="", marker=line.look.marker,
                color=line.look.color, gid=f"cells {line.gid}", zorder=3,
            )  # fmt: skip
        one.axvline(0.0, color=style.EQUAL_LINE, linestyle="--", linewidth=1)
        one.set_xlabel("forgotten: rise of the loss on the fixed text, nats per token")

    entries = lines.handles(panels)
    for entry in entries:
        entry.set(linestyle="")
    text = style.caption(
        table.facts, fixed_text(table), lines.counts_text(table.cells), "points: means over seeds",
        f"line: the Pareto front of all cells, {FRONT}; left of 0 the text became likelier",
    )  # fmt: skip
    legend = [*entries, Line2D([], [], color=style.GREY, label="Pareto front")]
    return lines.draw_panels(panels, ax, panel, text=text, legend=legend)


def _full(rows: Rows) -> Made:
    """Yield `forgetting` where cells read a fixed text."""
    if AFTER not in rows.df or not np.isfinite(pd.to_numeric(rows.df[AFTER]).astype(float)).any():
        return
    table = tidy(rows.df, rows.study)
    if len(table.cells):
        yield "forgetting", draw(table)


FIGURE = Kind(place=45, full=_full)
