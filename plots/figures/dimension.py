"""Intrinsic dimension: the score over the dimension d of a random subspace, and d90 read off it.

d90 is the smallest d whose score is 90 % of full fine-tuning's (Li et al. 2018, arXiv:1804.08838, section 2; Aghajanyan
et al. 2020, arXiv:2012.13255, section 3). It is read here and nowhere else. Each d and full fine-tuning have the best
of their own cells; the head trained alone is d = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.methods import full, head, subspace
from plots import lines, page, style
from plots import tidy as cells_of
from plots.figures import rank
from plots.figures._base import Kind, Made, Rows
from plots.settings import fixed_text, split
from plots.tidy import CellTable, StudyInfo

SUBSPACE, FULL, HEAD = (module.METHOD.name for module in (subspace, full, head))
SHARE = 0.9  # of full fine-tuning's score


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """d90: the smallest d of the grid that reaches `target`, 0 where the head alone does; None where no d does.

    `below`: larger d of the grid that fall short of the target again, so that d90 is a matter of luck or of rates.
    """

    full: float
    target: float
    d: int | None
    below: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DimensionTable:
    """The best cell of each d, of full fine-tuning and of the head alone, and each panel's reading by its title."""

    best: CellTable
    readings: dict[str, Reading]


def tidy(df: pd.DataFrame, study: StudyInfo | None = None) -> DimensionTable:
    """Return the best cells of the three methods, chosen as in `plots.figures.rank`, and d90 of each panel."""
    cells = cells_of.tidy(df, study)
    three = cells.where(cells.cells["series"].isin((SUBSPACE, FULL, HEAD)))
    best = rank.best_of(three)
    found = {title: read(panel.cells) for title, panel in split(best, within=rank.RANK)}
    readings = {title: reading for title, reading in found.items() if reading is not None}
    return DimensionTable(best=best, readings=readings if best.higher_is_better else {})


def read(cells: pd.DataFrame) -> Reading | None:
    """Return d90 of cells with columns series, rank and mean, larger means being better.

    None without a value of full fine-tuning above 0 (90 % of less is no target) and of a subspace.
    """
    with_value = cells[cells["mean"].notna()]
    full = with_value.loc[with_value["series"] == FULL, "mean"]
    scores = with_value[with_value["series"] == SUBSPACE].set_index("rank")["mean"].sort_index()
    if len(full) != 1 or float(full.iloc[0]) <= 0 or scores.empty:
        return None
    target = SHARE * float(full.iloc[0])
    head = with_value.loc[with_value["series"] == HEAD, "mean"]
    if len(head) == 1:
        scores = pd.concat([pd.Series({0: float(head.iloc[0])}), scores])
    reached = [int(d) for d in scores.index[scores >= target]]
    d = reached[0] if reached else None
    below = tuple(int(other) for other in scores.index[scores < target] if d is not None and other > d)
    return Reading(full=float(full.iloc[0]), target=target, d=d, below=below)


def draw(table: DimensionTable, ax: Axes | None = None) -> Figure:
    """Draw the score over d, full fine-tuning and the head as levels, 90 % of the former, and d90."""
    best = table.best
    text = style.caption(
        best.facts, fixed_text(best), rank.choice_text(best.cells), lines.stderr_text(best.cells, "bars and bands"),
        *(words(reading, title) for title, reading in table.readings.items()),
    )  # fmt: skip
    panels = lines.arrange(best, free=rank.RANK, apart=[name for name in best.varying if name != "rank"])

    def panel(panel_ax: Axes, one: CellTable) -> None:
        rank.draw_panel(panel_ax, one)
        panel_ax.set_xlabel("dimension d of the subspace")
        if one.cells["rank"].isna().all():
            panel_ax.set_xticks([0], ["no subspace"])
        reading = read(one.cells)
        if reading is not None:
            _read_off(panel_ax, one.cells, reading)

    return lines.draw_panels(panels, ax, panel, text=text, legend=rank.legend(panels, best.cells), marked=True)


def words(reading: Reading, title: str) -> str:
    """Return a reading as the caption tells it."""
    what = f"{title + ': ' if title else ''}90 % of full fine-tuning's {reading.full:.4g} is {reading.target:.4g}"
    if reading.d is None:
        return f"{what}, reached by no d"
    if reading.d == 0:
        return f"{what}, reached by the head alone"
    again = f"; below it again: {', '.join(f'{d:,}' for d in reading.below)}" if reading.below else ""
    return f"{what}, first reached at d90 = {reading.d:,}{again}"


def _read_off(ax: Axes, cells: pd.DataFrame, reading: Reading) -> None:
    ax.axhline(reading.target, color=style.GREY, linewidth=1.0, linestyle=":", gid="target")
    dimensions = sorted(cells["rank"].dropna().unique())
    if reading.d in dimensions:
        ax.axvline(dimensions.index(reading.d), color=style.GREY, linewidth=1.0, linestyle=":", gid="d90")
    said = "d90 not reached" if reading.d is None else f"d90 = {reading.d:,}"
    ax.annotate(
        said, (0.98, 0.04), xycoords="axes fraction", ha="right", fontsize=page.pt(9), weight="bold", gid="reading"
    )


def _full(rows: Rows) -> Made:
    """Yield `dimension` where random subspaces stand beside full fine-tuning."""
    table = tidy(rows.df, rows.study)
    if table.readings:
        yield "dimension", draw(table)


FIGURE = Kind(place=50, full=_full)
