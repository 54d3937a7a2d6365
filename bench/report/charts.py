"""The line charts of a report as numbers: what is drawn over training steps, learning rate, lambda, rank and cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from bench import methods
from bench.comparison import landscape
from bench.comparison.numbers import Comparison
from bench.core import stats
from plots import heatmap, tidy
from plots.figures import curves, rank, rates
from plots.lines import Line as Arranged
from plots.lines import arrange, lines_in, series_in
from plots.settings import split
from plots.style import label, rate, ratio
from plots.tidy import CellTable, StudyInfo, choose


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A mean and its band; low and high are the mean itself where no spread is known."""

    x: float
    y: float
    low: float
    high: float
    note: str  # what the point is: the cell's rates, how many seeds


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One series of a chart. `level`: it does not depend on x (a method without ranks), and has one point."""

    series: str
    label: str
    points: tuple[Point, ...]
    level: bool = False
    variant: int = 0  # of the series: its settings, see plots.lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart; x is a number of steps or cells, a rate on a log axis, or a category (rank, lambda)."""

    kind: Literal["curves", "rates", "ratio", "rank", "tuning", "fresh"]
    title: str  # the panel: rank and other settings that all lines share; may be empty
    x_label: str
    x_scale: Literal["linear", "log", "category"]
    lines: tuple[Line, ...]
    note: str  # what the points and bands are

    @property
    def xs(self) -> tuple[float, ...]:
        """All x values, ascending; levels have none."""
        return tuple(sorted({p.x for line in self.lines if not line.level for p in line.points}))


def all_charts(
    df: pd.DataFrame, info: StudyInfo, comparison: Comparison | None = None, fresh: pd.DataFrame | None = None
) -> tuple[Chart, ...]:
    """Return the charts that the rows give: those with at least two x values and one line.

    The tuning curves of a comparison, which gives each method as many cells, take the place of the study's own.
    """
    tuning = _tuning(df, info) if comparison is None else [_compared(comparison)]
    again = () if comparison is None or fresh is None else _fresh(fresh, info)
    made = (*_ratio(df, info), *_rank(df, info), *_curves(df, info), *_rates(df, info), *tuning, *again)
    return tuple(chart for chart in made if chart.lines and len(chart.xs) > 1)


def _ratio(df: pd.DataFrame, info: StudyInfo) -> Iterable[Chart]:
    """Yield, for each rank, the best cell at each lambda over all eta_A."""
    for title, panel in split(heatmap.tidy(df, info)):
        best = [
            choose(panel.where(panel.cells["lr_ratio"] == value), by="select")
            for value in sorted(panel.cells["lr_ratio"].dropna().unique())
        ]
        points = tuple(_point(c, c["lr_ratio"], f"η_A {rate(c['eta_A'])}") for c in best if c is not None)
        line = Line(series=methods.PLUS, label="LoRA (λ = 1) and LoRA+", points=points)
        yield Chart(
            kind="ratio", title=title, x_label="λ = η_B / η_A", x_scale="category", lines=(line,),
            note="the best cell at each λ over all η_A, chosen on held-out training examples where there are some",
        )  # fmt: skip


def _rank(df: pd.DataFrame, info: StudyInfo) -> Iterable[Chart]:
    table = rank.tidy(df, info)
    for title, panel in arrange(table, free=rank.RANK):
        lines = []
        for one in lines_in(panel.cells):
            cells = one.cells.sort_values("rank")
            level = bool(cells["rank"].isna().all())
            found = [_point(c, 0.0 if level else c["rank"], _rates_of(c)) for _, c in cells.iterrows()]
            lines.append(_line(one, one.label, found, level=level))
        yield Chart(
            kind="rank", title=title, x_label="rank", x_scale="category", lines=tuple(lines),
            note="the best cell of each method and rank; a method without ranks is a level",
        )  # fmt: skip


def _curves(df: pd.DataFrame, info: StudyInfo) -> Iterable[Chart]:
    table = curves.tidy(df, info)
    by_cell = dict(list(table.points.groupby("cell", sort=False)))
    for title, panel in curves.arranged(table):
        lines = []
        for one in lines_in(panel.cells):
            for _, cell in one.cells.iterrows():
                points = by_cell.get(cell["trial_ids"][0])
                if points is not None:
                    found = [_curve_point(p) for _, p in points.iterrows()]
                    lines.append(_line(one, f"{one.label}, {_rates_of(cell)}", found))
        yield Chart(
            kind="curves", title=title, x_label="training step", x_scale="linear", lines=tuple(lines),
            note="the best cell of each method, mean over seeds; bands: ± 1 standard error over seeds from 3 of them, "
            "else the lowest to the highest seed",
        )  # fmt: skip


def _fresh(fresh: pd.DataFrame, info: StudyInfo) -> Iterable[Chart]:
    """Yield the curves of a comparison's fresh runs: nothing was chosen by them."""
    for chart in _curves(fresh, StudyInfo(name=info.name, higher_is_better=info.higher_is_better)):
        yield replace(chart, kind="fresh", note=chart.note.replace("the best cell of each method", "each chosen cell"))


def _line(one: Arranged, label: str, points: Iterable[Point], *, level: bool = False) -> Line:
    return Line(series=one.series, variant=one.variant, label=label, points=tuple(points), level=level)


def _ratio_of(cell: pd.Series[Any]) -> str:
    return "" if pd.isna(cell["lr_ratio"]) or cell["lr_ratio"] == 1 else f"λ {ratio(cell['lr_ratio'])}"


def _curve_point(p: pd.Series[Any]) -> Point:
    seeds = f"{int(p['n_seeds'])} seed{'s' if p['n_seeds'] != 1 else ''}"
    return Point(x=float(p["step"]), y=float(p["mean"]), low=float(p["low"]), high=float(p["high"]), note=seeds)


def _rates(df: pd.DataFrame, info: StudyInfo) -> Iterable[Chart]:
    for title, panel in arrange(rates.tidy(df, info)):
        lines = []
        for one in lines_in(panel.cells):
            cells = one.cells.sort_values("eta_A")
            found = [_point(c, c["eta_A"], _ratio_of(c)) for _, c in cells.iterrows() if np.isfinite(c["mean"])]
            if found:
                lines.append(_line(one, rates.label(one), found))
        yield Chart(
            kind="rates", title=title, x_label="learning rate η_A", x_scale="log", lines=tuple(lines),
            note="every method over η_A, LoRA+ at the best of its λ for each; cells without a score (diverged, not run)"
            " have no point",
        )  # fmt: skip


def _tuning(df: pd.DataFrame, info: StudyInfo) -> Iterable[Chart]:
    """Yield the score to be expected of the best of n cells, exact for a grid; none for the rows of a search."""
    if info.trials is None:
        return
    table = tidy.tidy(df, info)
    for title, panel in split(table, within=table.varying):
        lines = [line for name in series_in(panel.cells) if (line := _tuning_line(name, panel)) is not None]
        yield Chart(
            kind="tuning", title=title, x_label="cells tried", x_scale="linear", lines=tuple(lines),
            note="expected score of the best of n cells drawn from the method's grid, chosen on held-out training "
            "examples where there are some; a diverged seed counts as the worst score of the panel",
        )  # fmt: skip


def _compared(c: Comparison) -> Chart:
    lines = []
    for arm in c.arms:
        points = tuple(
            Point(x=float(p.n_cells), y=p.metric, low=p.metric, high=p.metric, note=_cost(p.train_seconds))
            for p in arm.tuning.curve
        )
        one = methods.named(arm.name)
        lines.append(Line(series=one.series, label=one.label, points=points))
    return Chart(
        kind="tuning", title=f"study {c.setup.study}", x_label="cells tried", x_scale="linear", lines=tuple(lines),
        note="expected score of the best of n cells drawn from each method's grid, all grids of one size, chosen on "
        "held-out training examples where there are some",
    )  # fmt: skip


def _cost(train_seconds: float | None) -> str:
    return "" if train_seconds is None else f"{train_seconds:.3g} s of training"


def _tuning_line(series: str, panel: CellTable) -> Line | None:
    """Return the line of one method, None unless every cell is finished: the expectation is over the whole grid."""
    sign = 1.0 if panel.higher_is_better else -1.0
    cells = panel.cells[panel.cells["series"] == series]
    if cells.empty or cells["n_missing"].gt(0).any():
        return None
    means, selects = panel.cells["mean"].dropna(), panel.cells["select"].dropna()
    held_out = bool(cells.loc[cells["n_ok"] > 0, "select"].notna().all())
    if means.empty or (held_out and selects.empty):
        return None
    value = sign * _floored(cells, "mean", sign * (sign * means).min())
    by = sign * _floored(cells, "select", sign * (sign * selects).min()) if held_out else value
    expected = sign * landscape.expected_best(value, chosen_by=by)
    points = tuple(
        Point(x=float(n), y=float(y), low=float(y), high=float(y), note="") for n, y in enumerate(expected, start=1)
    )
    return Line(series=series, label=f"{label(series)} ({len(cells)} cells)", points=points)


def _floored(cells: pd.DataFrame, name: str, floor: float) -> stats.Floats:
    n, ok = cells["n_expected"].to_numpy(float), cells["n_ok"].to_numpy(float)
    known = np.where(ok > 0, cells[name].to_numpy(float), 0.0)
    result: stats.Floats = (known * ok + floor * (n - ok)) / n
    return result


def _point(cell: pd.Series[Any], x: float, note: str) -> Point:
    mean, stderr = float(cell["mean"]), float(cell["stderr"])
    half = stderr if np.isfinite(stderr) else 0.0
    seeds = _seeds(int(cell["n_ok"]), int(cell["n_expected"]))
    return Point(x=float(x), y=mean, low=mean - half, high=mean + half, note=", ".join(filter(None, [note, seeds])))


def _seeds(n_ok: int, n_expected: int) -> str:
    n = str(n_ok) if n_ok == n_expected else f"{n_ok} of {n_expected}"
    return f"{n} seed{'s' if n_expected != 1 else ''}"


def _rates_of(cell: pd.Series[Any]) -> str:
    parts: Sequence[str] = (
        "" if pd.isna(cell["rank"]) else f"rank {cell['rank']:g}",
        f"η_A {rate(cell['eta_A'])}",
        "" if pd.isna(cell["lr_ratio"]) else f"λ {ratio(cell['lr_ratio'])}",
    )
    return ", ".join(part for part in parts if part)
