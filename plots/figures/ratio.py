"""The ratio eta_B / eta_A of the best pairs: median and quartiles over the top pairs of each task and setting.

The form of figure 6 of the LoRA+ paper (Hayou et al. 2024, arXiv:2402.12354), over the top 4 pairs of rates. Its
caption chooses them by test loss, its text by accuracy: here by the metric, or by what `tidy` is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.methods import PLUS
from plots import heatmap, page, style
from plots.figures._base import Kind, Made, Rows
from plots.settings import fixed_text, split
from plots.tidy import CellTable, Measure, StudyInfo, complete, rows_of_study

TOP = 4  # pairs
WIDTH, HEIGHT = 1.35, 2.7  # inches: of a column, and of the panel


@dataclass(frozen=True, kw_only=True, slots=True)
class RatioTable:
    """The top pairs of each column, and what is told about the rows.

    `pairs` has one row for each pair: `column` (title), `lr_ratio`, `place` (1: the best), `value` (mean over seeds);
    `columns` one for each title: `column`, `low`, `median`, `high` (quartiles of lr_ratio), `n_pairs`, `n_cells`.
    """

    pairs: pd.DataFrame
    columns: pd.DataFrame
    cells: CellTable
    top: int


def tidy(
    df: pd.DataFrame, study: StudyInfo | None = None, *, top: int = TOP, measure: Measure = "metric_value"
) -> RatioTable:
    """Return the `top` best pairs of rates of each task, model and setting, by mean `measure` over seeds.

    Only cells with a value from every seed count, as long as there are some.
    """
    study = study or StudyInfo()
    rows, _ = rows_of_study(df, study)
    tables = [heatmap.tidy(df, study, measure=measure)] if rows["metric_name"].nunique() <= 1 else _by_metric(
        df, rows, study, measure
    )  # fmt: skip
    pairs, columns = [], []
    for table in tables:
        task = ", ".join(table.facts.tasks)
        for name, panel in split(table):
            title = ", ".join(part for part in (task if len(tables) > 1 else "", name) if part) or task
            if (best := _top(panel, top)) is not None:
                pairs.append(best.assign(column=title))
                columns.append(_quartiles(title, best["lr_ratio"], len(panel.cells)))
    none = pd.DataFrame(columns=["lr_ratio", "value", "place", "column"])
    names = ["column", "low", "median", "high", "n_pairs", "n_cells"]
    return RatioTable(
        pairs=pd.concat(pairs, ignore_index=True) if pairs else none,
        columns=pd.DataFrame(columns, columns=names),
        cells=tables[0],
        top=top,
    )


def draw(table: RatioTable, ax: Axes | None = None) -> Figure:
    """Draw each column's pairs, their median and quartiles over a base-2 logarithmic axis."""
    with style.settings():
        entries = _legend(table)
        if ax is not None:
            _panel(ax, table)
            ax.legend(handles=entries)
            return style.figure_of(ax)
        figure, (panel_ax,) = page.panels(
            [(max(4.2, WIDTH * len(table.columns)), HEIGHT)], text=_caption(table), legend=entries,
            titles=[f"ratio of the top {table.top} pairs"], margins=page.Margins(left=0.75, right=0.25, bottom=0.75),
        )  # fmt: skip
        _panel(panel_ax, table)
        return figure


def _by_metric(df: pd.DataFrame, rows: pd.DataFrame, study: StudyInfo, measure: Measure) -> list[CellTable]:
    """Return a table for each metric: scores of different tasks are not compared, their ratios are."""
    tables = []
    for name in sorted(rows["metric_name"].dropna().unique()):
        ids = set(rows.loc[rows["metric_name"] == name, "trial_id"])
        told = StudyInfo(name=study.name, seeds=study.seeds)
        tables.append(heatmap.tidy(df[df["trial_id"].isin(ids)], told, measure=measure))
    return tables


def _top(panel: CellTable, top: int) -> pd.DataFrame | None:
    cells = panel.cells[panel.cells["n_ok"] > 0]
    cells = cells[complete(cells)] if complete(cells).any() else cells
    if cells.empty:
        return None
    best = cells.sort_values("mean", ascending=not panel.higher_is_better, kind="stable").head(top)
    ratio, value = best["lr_ratio"].to_numpy(float), best["mean"].to_numpy(float)
    return pd.DataFrame({"lr_ratio": ratio, "value": value, "place": np.arange(1, len(best) + 1)})


def _quartiles(title: str, ratios: pd.Series[Any], n_cells: int) -> dict[str, Any]:
    """Return the quartiles of the ratios' logarithms, as ratios: half way from 4 to 16 is 8."""
    low, median, high = 2 ** np.quantile(np.log2(ratios.to_numpy(float)), [0.25, 0.5, 0.75])
    return {"column": title, "low": low, "median": median, "high": high, "n_pairs": len(ratios), "n_cells": n_cells}


def _panel(ax: Axes, table: RatioTable) -> None:
    places = {title: i for i, title in enumerate(table.columns["column"])}
    color = style.look(PLUS).color
    quartiles = table.columns[["low", "median", "high"]].to_numpy(float)
    for (title, x), (low, median, high) in zip(places.items(), quartiles, strict=True):
        own = table.pairs[table.pairs["column"] == title]
        spread = 0.12 * (own["place"].to_numpy(float) - own["place"].mean())
        ax.plot(x + spread, own["lr_ratio"], "o", color=style.GREY, markersize=4.5, gid="pair")
        ax.plot([x, x], [low, high], color=color, linewidth=5, alpha=0.45, gid="quartiles", zorder=3)
        ax.plot([x], [median], marker="_", markersize=22, markeredgewidth=2.5, color=color, gid="median", zorder=4)
    ax.axhline(1.0, color=style.EQUAL_LINE, linewidth=1.4, linestyle="--", gid="equal_line")
    ratios = np.append(table.pairs["lr_ratio"].to_numpy(float), 1.0)
    least, most = int(np.floor(np.log2(ratios.min()))), int(np.ceil(np.log2(ratios.max())))
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_locator(FixedLocator([2.0**k for k in range(least, most + 1, max(1, (most - least) // 8))]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"$2^{{{round(np.log2(value))}}}$"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylim(2.0 ** (least - 0.5), 2.0 ** (most + 0.5))
    ax.set_xlim(-0.6, max(len(places), 1) - 0.4)
    ax.set_xticks(list(places.values()), [title.replace(", ", "\n") for title in places])
    ax.set_ylabel(f"λ = {style.ETA_B} / {style.ETA_A}")


def _legend(table: RatioTable) -> list[Line2D]:
    color = style.look(PLUS).color
    return [
        Line2D([], [], color=color, marker="_", markersize=12, markeredgewidth=2.5, linestyle="", label="median"),
        Line2D([], [], color=color, linewidth=5, alpha=0.45, label="quartiles"),
        Line2D([], [], color=style.GREY, marker="o", markersize=4.5, linestyle="", label="pair, the best on the left"),
        Line2D([], [], color=style.EQUAL_LINE, linestyle="--", label=f"{style.ETA_A} = {style.ETA_B}"),
    ]


def _caption(table: RatioTable) -> str:
    columns = [
        f"{row.column}: median {row.median:.3g}, quartiles {row.low:.3g} to {row.high:.3g} "
        f"({row.n_pairs} of {row.n_cells} pairs)"
        for row in table.columns.itertuples()
    ]
    note = f"top pairs by mean {style.metric_label(table.cells)} over seeds; four pairs say little about a spread"
    return style.caption(table.cells.facts, fixed_text(table.cells), note, "; ".join(columns))


def _paper(rows: Rows) -> Made:
    """Yield `ratio` (the paper's figure 6) where the best pairs differ in it."""
    table = tidy(rows.df, rows.study)
    if table.pairs["lr_ratio"].nunique() > 1:
        yield "ratio", draw(table)


FIGURE = Kind(place=80, paper=_paper, of_all=True)
