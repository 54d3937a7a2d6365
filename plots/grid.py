"""Cells of one heatmap panel as arrays: row 0 is the top row (largest eta_B or lambda), column 0 the smallest eta_A.

Nothing here draws. Positions are counted in cells, so that the centre of cell (i, j) is at x = j + 0.5, y = i + 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from plots.tidy import CellTable, choose, complete, has_select, shortfall

View = Literal["eta_B", "lr_ratio"]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Place = tuple[int, int]

WITHIN = 0.01  # "within 1 % of the best": L / L* - 1 <= 1 %, as in figure 2 of Hayou et al. 2024 (arXiv:2402.12354)
EQUAL_BAND = (1.0, 1.25)  # the paper counts eta_B / eta_A in here as equal rates (captions of its figures 3 and 4)
_SLACK = 1e-9  # of a bound, relative: the bounds themselves belong to their sets


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """One panel. Arrays are [len(ys), len(xs)]; where nothing is planned, counts are 0 and floats nan."""

    view: str  # the column of the y axis
    xs: tuple[float, ...]  # eta_A, ascending
    ys: tuple[Any, ...]  # eta_B, lambda or another setting, descending
    names: tuple[str, ...]  # of ys, at their ticks
    mean: Floats
    n_expected: npt.NDArray[np.int64]
    n_ok: npt.NDArray[np.int64]
    n_diverged: npt.NDArray[np.int64]
    n_collapsed: npt.NDArray[np.int64]
    stopped_at: Floats  # the step of a rung at which the cell was left out, else nan
    stopped_loss: Floats  # the training loss there
    within_percent: Bools  # the best cell included
    within_stderr: Bools  # the best cell included
    best: Place | None
    chosen: Place | None  # the cell that select_metric chooses, None where it is not known
    best_equal: Place | None  # the best cell with lambda in EQUAL_BAND
    best_cell: pd.Series[Any] | None
    best_equal_cell: pd.Series[Any] | None
    best_at_edge: bool  # no cell with a smaller, or none with a larger rate, on an axis that has several

    @property
    def planned(self) -> Bools:
        """Which positions hold a cell of the study."""
        return self.n_expected > 0

    @property
    def missing(self) -> Bools:
        """Planned cells of which no seed has finished, and that were not left out early."""
        return self.planned & self._empty & np.isnan(self.stopped_at)

    @property
    def stopped(self) -> Bools:
        """Cells that were left out at a rung: none of their seeds has finished."""
        return self._empty & ~np.isnan(self.stopped_at)

    @property
    def _empty(self) -> Bools:
        nothing: Bools = (self.n_ok == 0) & (self.n_diverged == 0)
        return nothing

    @property
    def diverged(self) -> Bools:
        """Cells where at least one seed diverged."""
        return self.n_diverged > 0

    @property
    def short(self) -> Bools:
        """Cells whose mean is over fewer seeds than planned."""
        return (self.n_ok > 0) & (self.n_ok < self.n_expected)

    @property
    def collapsed(self) -> Bools:
        """Cells where at least one seed collapsed."""
        return self.n_collapsed > 0


def grid_of(panel: CellTable, view: str, *, words: Mapping[Any, str] | None = None) -> Grid:
    """Return one panel's cells as arrays, with the best cells and the cells near the best one.

    `words` names the values of a view over a setting that is no rate.
    """
    cells = panel.cells
    xs = tuple(sorted(cells["eta_A"].unique()))
    ys = tuple(sorted(cells[view].unique(), reverse=True))
    names = [f"{y:.1e}" if view == "eta_B" else f"{y:.3g}" if words is None else words[y] for y in ys]
    place = (cells[view].map({y: i for i, y in enumerate(ys)}), cells["eta_A"].map({x: j for j, x in enumerate(xs)}))
    best, equal = choose(panel), choose(panel.where(_equal(cells)))
    near = _near(panel, best)

    def fill(values: npt.NDArray[Any], empty: Any) -> npt.NDArray[Any]:
        array = np.full((len(ys), len(xs)), empty, dtype=values.dtype)
        array[place] = values
        return array

    return Grid(
        view=view,
        xs=xs,
        ys=ys,
        names=tuple(names),
        mean=fill(cells["mean"].to_numpy(float), np.nan),
        n_expected=fill(cells["n_expected"].to_numpy(np.int64), 0),
        n_ok=fill(cells["n_ok"].to_numpy(np.int64), 0),
        n_diverged=fill(cells["n_diverged"].to_numpy(np.int64), 0),
        n_collapsed=fill(cells["n_collapsed"].to_numpy(np.int64), 0),
        stopped_at=fill(cells["stopped_at"].to_numpy(float), np.nan),
        stopped_loss=fill(cells["stopped_loss"].to_numpy(float), np.nan),
        within_percent=fill(near[0], False),
        within_stderr=fill(near[1], False),
        best=_place(best, view, xs, ys),
        chosen=_place(choose(panel, by="select"), view, xs, ys) if has_select(cells) else None,
        best_equal=_place(equal, view, xs, ys),
        best_cell=best,
        best_equal_cell=equal,
        best_at_edge=best is not None and at_edge(best, cells),
    )


def limits(table: CellTable) -> tuple[float, float] | None:
    """Return (low, high) of the colours, one pair for all panels; None where no cell has a value.

    The best mean is one end. The other is the worst mean, but at most twice as far from the best as the median of
    the cells that did not collapse: cells at chance would otherwise leave the good region one flat colour. A quarter
    of the whole range of a score is always shown, so that a cell halfway down does not look like one at chance.
    """
    means = table.cells["mean"].dropna()
    if means.empty:
        return None
    best = means.max() if table.higher_is_better else means.min()
    far = shortfall(table, best)
    healthy = far[far.notna() & (table.cells["n_collapsed"] == 0)]
    width = min(far.max(), 2 * healthy.median()) if len(healthy) else far.max()
    if table.higher_is_better:  # a loss has no worst value, and one cell near overflow would flatten all others
        width = max(width, far.max() / 4)
    width = max(width, 2 * WITHIN * abs(best), 1e-12)  # noise alone must not fill the colour map
    return (best - width, best) if table.higher_is_better else (best, best + width)


def equal_line(grid: Grid) -> tuple[Floats, Floats] | None:
    """Return x and y (in cells) of the line eta_A = eta_B across the panel, or None where it does not cross it.

    It passes through the centre of every cell with equal rates; between cells it is linear in the logarithm.
    """
    nx, ny = len(grid.xs), len(grid.ys)
    if grid.view == "lr_ratio":
        y = _position(np.array([1.0]), np.array(grid.ys[::-1]))[0]
        inside = -0.5 <= y <= ny - 0.5
        return (np.array([0.0, nx]), np.full(2, ny - 1 - y + 0.5)) if inside else None
    rates = np.geomspace(min(grid.xs[0], grid.ys[-1]) / 10, max(grid.xs[-1], grid.ys[0]) * 10, 4001)
    rates = np.union1d(rates, np.array([*grid.xs, *grid.ys]))
    x, y = _position(rates, np.array(grid.xs)), _position(rates, np.array(grid.ys[::-1]))
    inside = (x >= -0.5) & (x <= nx - 0.5) & (y >= -0.5) & (y <= ny - 0.5)
    return (x[inside] + 0.5, ny - 1 - y[inside] + 0.5) if inside.sum() > 1 else None


def _position(rates: Floats, ascending: Floats) -> Floats:
    """Return where rates lie on an axis of categories, counted from 0: linear in log between and beyond them."""
    logs, n = np.log(ascending), len(ascending)
    if n == 1:
        return np.where(np.isclose(rates, ascending[0]), 0.0, np.sign(rates - ascending[0]) * 9.0)
    at = np.interp(np.log(rates), logs, np.arange(n))
    below = (np.log(rates) - logs[0]) / (logs[1] - logs[0])
    above = n - 1 + (np.log(rates) - logs[-1]) / (logs[-1] - logs[-2])
    result: Floats = np.where(rates < ascending[0], below, np.where(rates > ascending[-1], above, at))
    return result


def at_edge(best: pd.Series[Any], cells: pd.DataFrame) -> bool:
    """Return whether the best cell has an extreme eta_A, or an extreme eta_B for its eta_A.

    lambda = 1 is the end of LoRA+'s grid by definition, and no reason to widen it.
    """
    column = cells.loc[cells["eta_A"] == best["eta_A"], "eta_B"]
    axes = [(cells["eta_A"], best["eta_A"])] + ([] if best["lr_ratio"] == 1 else [(column, best["eta_B"])])
    return any(axis.nunique() > 1 and not axis.min() < value < axis.max() for axis, value in axes)


def _equal(cells: pd.DataFrame) -> pd.Series[bool]:
    low, high = EQUAL_BAND
    return cells["lr_ratio"].between(low * (1 - _SLACK), high * (1 + _SLACK))


def _near(panel: CellTable, best: pd.Series[Any] | None) -> tuple[Bools, Bools]:
    """Return which cells are within 1 % of the best mean, and which within its standard error."""
    if best is None:
        none = np.zeros(len(panel.cells), dtype=bool)
        return none, none
    # beside a complete best cell, a mean over survivors does not count as near it
    comparable = complete(panel.cells).to_numpy() | (best["n_ok"] < best["n_expected"])
    far = np.where(comparable, shortfall(panel, best["mean"]).to_numpy(float), np.nan)
    stderr = best["stderr"] if np.isfinite(best["stderr"]) else -np.inf
    return far <= WITHIN * abs(best["mean"]) * (1 + _SLACK), far <= stderr * (1 + _SLACK)


def _place(cell: pd.Series[Any] | None, view: str, xs: tuple[float, ...], ys: tuple[Any, ...]) -> Place | None:
    return None if cell is None else (ys.index(cell[view]), xs.index(cell["eta_A"]))
