"""The metric over training steps, for the best cell of each method, over all its ranks or at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.core.cells import MIN_SEEDS_FOR_SPREAD
from plots import levels, lines, page, style
from plots import tidy as cells_of
from plots.figures import rank
from plots.figures._base import Kind, Made, Rows
from plots.levels import Trivial
from plots.lines import Line
from plots.settings import Panel, fixed_text
from plots.tidy import CellTable, StudyInfo

_WIDE = 10.0  # losses over more than this factor get a logarithmic axis
_TRIVIAL: dict[str, Any] = {"color": style.EQUAL_LINE, "linestyle": "--", "linewidth": 1.4}


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveTable:
    """The best cell of each series, or of each series and rank, and its curve.

    `points` has one row per cell and step: `cell` (the first trial_id of a row of best.cells), `step`, `mean`, `low`,
    `high`, `n_seeds`. Low and high are one standard error over seeds from the mean where there are at least 3 seeds,
    else the lowest and the highest seed. A step that not every seed of the cell has reached is left out.
    """

    best: CellTable
    points: pd.DataFrame
    trivial: Trivial | None = None  # the trivial predictor's loss, where there is one
    by_rank: bool = False  # a panel for each rank; else ranks were chosen among


def tidy(df: pd.DataFrame, study: StudyInfo | None = None, *, by_rank: bool = False) -> CurveTable:
    """Return the curves of the best cell of each method over all its ranks, chosen as in `plots.figures.rank`.

    `by_rank`: of the best cell at each rank, a panel for each of them, so that methods of one size are compared.
    """
    best = rank.best_of(cells_of.tidy(df, study), over=() if by_rank else rank.RANK)
    curves = dict(zip(df["trial_id"], df["curve"], strict=True))
    points = [point for ids in best.cells["trial_ids"] for point in _points([(i, curves.get(i)) for i in ids])]
    columns = ["cell", "step", "mean", "low", "high", "n_seeds"]
    return CurveTable(
        best=best, points=pd.DataFrame(points, columns=columns), trivial=levels.trivial(df), by_rank=by_rank
    )


def draw(table: CurveTable, ax: Axes | None = None) -> Figure:
    """Draw mean and band over seeds for each method's best cell, over training steps."""
    best = table.best
    spread = f"± 1 standard error over seeds ({MIN_SEEDS_FOR_SPREAD} or more), else lowest to highest seed"
    text = style.caption(
        best.facts, fixed_text(best), rank.choice_text(best.cells),
        f"lines: mean {style.metric_label(best)} over seeds; bands: {spread}",
        "" if table.trivial is None else table.trivial.words(),
    )  # fmt: skip

    def panel(ax: Axes, one: CellTable) -> None:
        draw_panel(ax, one, table.points)
        if table.trivial is not None:
            ax.axhline(table.trivial.of(best.metric_name), gid="trivial", **_TRIVIAL)

    panels = arranged(table)
    entries = legend(panels)
    if table.trivial is not None:
        entries.append(Line2D([], [], label="predicting 0 everywhere", **_TRIVIAL))
    return lines.draw_panels(panels, ax, panel, text=text, legend=entries)


def arranged(table: CurveTable) -> list[Panel]:
    """Return the panels of the best cells and their lines."""
    if table.by_rank:
        return lines.arrange(table.best, apart=rank.RANK)
    return lines.arrange(table.best, free=rank.RANK)


def _points(curves: Sequence[tuple[str, Any]]) -> list[dict[str, float | str]]:
    """Return the points of one cell, given its trials' ids and stored curves (None or empty: a trial without one)."""
    drawn = [{p["step"]: p["metric_value"] for p in curve} for _, curve in curves if curve is not None and len(curve)]
    steps = sorted(set.intersection(*(set(curve) for curve in drawn))) if drawn else []
    return [
        {"cell": curves[0][0], "step": step, **_spread([curve[step] for curve in drawn])}
        for step in steps
        if all(curve[step] is not None and np.isfinite(curve[step]) for curve in drawn)
    ]


def _spread(values: Sequence[float]) -> dict[str, float]:
    mean, n = float(np.mean(values)), len(values)
    if n < MIN_SEEDS_FOR_SPREAD:
        return {"mean": mean, "low": min(values), "high": max(values), "n_seeds": n}
    stderr = float(np.std(values, ddof=1)) / n**0.5
    return {"mean": mean, "low": mean - stderr, "high": mean + stderr, "n_seeds": n}


def legend(panels: Sequence[Panel]) -> list[Line2D]:
    """Return one entry per line; where it has one cell on the whole figure, with that cell's rank and rates."""
    cells = pd.concat([panel.cells for _, panel in panels]).drop_duplicates("trial_ids")

    def named(line: Line) -> str:
        own = cells[(cells["series"] == line.series) & (cells["variant"] == line.variant)]
        return f"{line.label}{_settings(own.iloc[0], line.words) if len(own) == 1 else ''}"

    return lines.handles(panels, named)


def _settings(cell: pd.Series[Any], words: str) -> str:
    told = pd.isna(cell["rank"]) or "rank " in words
    rank_text = "" if told else f"rank {cell['rank']:g}, "
    ratio = "" if pd.isna(cell["lr_ratio"]) else f", λ {style.ratio(cell['lr_ratio'])}"
    seeds = "" if cell["n_ok"] == cell["n_expected"] else f", {cell['n_ok']}/{cell['n_expected']} seeds"
    return f" ({rank_text}{style.ETA_A} {style.rate(cell['eta_A'])}{ratio}{seeds})"


def draw_panel(ax: Axes, panel: CellTable, points: pd.DataFrame) -> None:
    """Draw the curves and bands of one panel's cells."""
    for line in lines.lines_in(panel.cells):
        for ids in line.cells["trial_ids"]:
            curve, look = points[points["cell"] == ids[0]], line.look
            step, mean, low, high = (curve[name].to_numpy(float) for name in ("step", "mean", "low", "high"))
            ax.plot(
                step, mean, color=look.color, marker=look.marker, linestyle=look.dash, markersize=page.pt(4.0) * 0.8,
                gid=f"line {line.gid}",
            )  # fmt: skip
            ax.fill_between(
                step, low, high, color=look.color, alpha=0.2, linewidth=0, gid=f"band {line.gid}",
            )  # fmt: skip
    ax.set_xlabel("training step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    drawn = points[points["cell"].isin([ids[0] for ids in panel.cells["trial_ids"]])]["mean"]
    if not panel.higher_is_better and len(drawn) and 0 < _WIDE * drawn.min() < drawn.max():
        ax.set_yscale("log")


def _full(rows: Rows) -> Made:
    """Yield `curves` of two or more evaluations, and `curves_by_rank` where the cells shown there differ in rank."""
    table = tidy(rows.df, rows.study)
    if table.points["step"].nunique() > 1:
        yield "curves", draw(table)
        if "rank" in table.best.varying and table.best.cells["rank"].nunique() > 1:
            yield "curves_by_rank", draw(tidy(rows.df, rows.study, by_rank=True))
    elif len(table.points):
        yield "curves", "the runs were evaluated once, at their last step; fewer eval_steps give curves"


FIGURE = Kind(place=60, full=_full)
