"""The best eta_A over a setting that varies (batch size, rank, steps, ...), and the power that it grows with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from bench.core import stats
from bench.core.stats import Slope
from bench.study import varying
from plots import lines, page, style
from plots import tidy as cells_of
from plots.axes import RANK, Axis, axes_of, is_number, panels_of
from plots.figures._base import Kind, Made, Rows, file_name
from plots.settings import fixed_text
from plots.tidy import CellTable, StudyInfo, choose, rows_of_study

MIN_RATES = 3  # of eta_A in a grid, for its best one to say something
SPREAD = 0.02  # of the axis, in its logarithm: between the points of two methods


@dataclass(frozen=True, kw_only=True, slots=True)
class RateTable:
    """The best rates over one axis.

    `best` has a row for each panel, series, value and seed: `panel`, `series`, `x`, `words`, `seed`, `eta_A` and
    `at_border` (whether the grid has no smaller, or no larger rate there). `slopes` is by panel and series.
    """

    axis: Axis
    best: pd.DataFrame
    slopes: dict[tuple[str, str], Slope]
    cells: CellTable


def tidy(df: pd.DataFrame, study: StudyInfo | None = None, *, axis: Axis | None = None) -> RateTable:
    """Return the best rates of each seed over an axis of numbers, the first that varies if none is named.

    Each seed chooses its best cell by select_metric (by the metric shown, where there is none), and so a rate of its
    own. Methods with one value on the axis are left out where others have several. The slope is least squares of log
    median rate over log value; its interval is a bootstrap over seeds, from
    stats.MIN_PAIRS of them.
    """
    table, of_seed = _tables(df, study or StudyInfo())
    numbers = (one for one in axes_of(table) if is_number(table, one))
    return _over(table, of_seed, axis or next(numbers, RANK))


def _tables(df: pd.DataFrame, study: StudyInfo) -> tuple[CellTable, list[tuple[int, CellTable]]]:
    """Return the cells of all seeds, and those of each."""
    seeds = sorted(int(seed) for seed in rows_of_study(df, study)[0]["seed"].dropna().unique())
    return cells_of.tidy(df, study), [(seed, _of_seed(df, study, seed)) for seed in seeds]


def _over(table: CellTable, of_seed: Sequence[tuple[int, CellTable]], axis: Axis) -> RateTable:
    rows = [
        {"panel": title, "series": series, "seed": seed, **found}
        for title, panel in panels_of(table, axis)
        for seed, own in of_seed
        for series, found in _best(_only(own, panel), axis)
    ]
    best = pd.DataFrame(rows, columns=["panel", "series", "seed", "x", "words", "eta_A", "at_border"])
    several = best.groupby(["panel", "series"])["x"].transform("nunique") > 1
    best = best[several] if several.any() else best
    found = {(str(p), str(s)): _slope(own) for (p, s), own in best.groupby(["panel", "series"])}
    slopes = {key: slope for key, slope in found.items() if slope is not None}
    return RateTable(axis=axis, best=best, slopes=slopes, cells=table)


def draw(table: RateTable, ax: Axes | None = None) -> Figure:
    """Draw each seed's best rate as a point and the medians as a line, on logarithmic axes; the first panel on `ax`."""
    titles = list(dict.fromkeys(table.best["panel"]))
    series = lines.series_in(table.best)
    with style.settings():
        if ax is not None:
            _panel(ax, table, titles[0], series)
            ax.legend(handles=_legend(table, series, titles))
            return style.figure_of(ax)
        figure, axes = page.panels(
            [lines.ALONE if len(titles) == 1 else lines.SIZE] * len(titles), text=_caption(table), titles=titles,
            legend=_legend(table, series, titles), margins=page.Margins(left=0.85, right=0.2, bottom=0.6),
        )  # fmt: skip
        for one, title in zip(axes, titles, strict=True):
            _panel(one, table, title, series)
        return figure


def _of_seed(df: pd.DataFrame, study: StudyInfo, seed: int) -> CellTable:
    own = study.trials and tuple(trial for trial in study.trials if trial.seed == seed)
    return cells_of.tidy(df[df["seed"] == seed], replace(study, seeds=(seed,), trials=own))


def _only(own: CellTable, panel: CellTable) -> CellTable:
    """Return the cells of one seed that are among those of a panel."""
    ids = {trial_id for some in panel.cells["trial_ids"] for trial_id in some}
    return own.where(own.cells["trial_ids"].map(lambda some: bool(ids.intersection(some))))


def _best(panel: CellTable, axis: Axis) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the best rate of each series at each value on the axis, where there are rates enough."""
    for (series, _), own in panel.cells.groupby(["series", axis.name], sort=True):
        rates = own.loc[own["mean"].notna() | (own["n_diverged"] > 0), "eta_A"]
        cell = choose(panel.where(panel.cells.index.isin(own.index)), by="select")  # type: ignore[arg-type]
        if cell is not None and rates.nunique() >= MIN_RATES:
            at_border = float(cell["eta_A"]) in (float(rates.min()), float(rates.max()))
            words = axis.words(cell)
            yield (
                str(series),
                {"x": float(cell[axis.name]), "words": words, "eta_A": float(cell["eta_A"]), "at_border": at_border},
            )


def _slope(own: pd.DataFrame) -> Slope | None:
    """Return the power of the axis that the best rate grows with; None for one value, or where no seed has all."""
    wide = own.pivot(index="x", columns="seed", values="eta_A").dropna(axis="columns")
    if len(wide) < 2 or not wide.shape[1]:
        return None
    found = stats.log_log_slope(wide.index.to_numpy(float), np.log(wide.to_numpy(float)))
    return found if wide.shape[1] >= stats.MIN_PAIRS else replace(found, interval=None)


def _panel(ax: Axes, table: RateTable, title: str, series: Sequence[str]) -> None:
    own = table.best[table.best["panel"] == title]
    reach = math.log(own["x"].max() / own["x"].min())
    for i, name in enumerate(series):
        mine = own[own["series"] == name]
        if mine.empty:
            continue
        look = style.look(name)
        shift = math.exp(SPREAD * reach * (i - (len(series) - 1) / 2))
        median = mine.groupby("x")["eta_A"].agg(lambda rates: math.exp(np.median(np.log(rates))))
        ax.plot(
            median.index.to_numpy(float) * shift, median, color=look.color, linestyle=look.dash, gid=f"median {name}"
        )
        counts = mine.groupby(["x", "eta_A", "at_border"]).size().reset_index(name="n")
        for border, some in counts.groupby("at_border"):
            ax.scatter(
                some["x"] * shift, some["eta_A"], s=page.pt(14) * some["n"] + 4, marker=MarkerStyle(look.marker),
                facecolors="white" if border else look.color, edgecolors=look.color, gid=f"best {name}", zorder=4,
            )  # fmt: skip
    words = own.drop_duplicates("x").sort_values("x")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(FixedLocator(words["x"].to_list()))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(words["x"].to_list(), words["words"].to_list())
    rates = sorted(own["eta_A"].unique())
    if len(rates) <= 9:
        ax.set_yticks(rates, [style.rate(rate) for rate in rates])
        ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(table.axis.label)
    ax.set_ylabel(f"best {style.ETA_A}")


def _legend(table: RateTable, series: Sequence[str], titles: Sequence[str]) -> list[Line2D]:
    entries = []
    for name in series:
        found = [table.slopes[(title, name)] for title in titles if (title, name) in table.slopes]
        told = f": power {found[0]}" if len(titles) == 1 and found else ""
        entries.append(lines.handle(style.look(name), f"{style.label(name)}{told}"))
    if table.best["at_border"].any():
        hollow = {"color": style.INK, "linestyle": "", "marker": "o", "markerfacecolor": "white"}
        entries.append(Line2D([], [], label="at the border of its grid", **hollow))  # type: ignore[arg-type]
    return entries


def _caption(table: RateTable) -> str:
    best = table.best
    powers = [
        f"{', '.join(filter(None, (style.label(series), title)))}: {slope}"
        for (title, series), slope in table.slopes.items()
    ]
    border = f"{int(best['at_border'].sum())} of {len(best)} best rates lie at the border of their grid"
    name = varying.named(table.axis.name, "")
    known = any(slope.interval is not None for slope in table.slopes.values())
    interval = "with its 95 % bootstrap interval over seeds" if known else f"no interval below {stats.MIN_PAIRS} seeds"
    what = f"power of {name}, least squares on the logarithms of the medians, {interval}"
    return style.caption(
        table.cells.facts,
        fixed_text(table.cells),
        "points: the best rate of each seed, larger where several seeds agree; lines: medians over seeds",
        f"{what}: {'; '.join(powers)}" if powers else "no seed has every value",
        f"{border}: the true ones may be beyond" if best["at_border"].any() else "",
    )


def _full(rows: Rows) -> Made:
    """Yield `best_rate_<setting>` for each setting of numbers that varies."""
    table, of_seed = _tables(rows.df, rows.study)
    for axis in axes_of(table) if len(table.cells) else ():
        found = _over(table, of_seed, axis) if is_number(table, axis) else None
        if found is not None and found.best["x"].nunique() > 1:
            yield f"best_rate_{file_name(axis.name)}", draw(found)


FIGURE = Kind(place=35, full=_full)
