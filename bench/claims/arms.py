"""Rows -> arms: the cells that settings of a check choose, by seed. Pure.

Where a cell is chosen and scored on the same seeds, the best of many looks better than it is. So each seed's score is
that of the cell that the other seeds choose (leave one seed out), by the mean of select_metric; a single cell needs no
choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.claims.verdict import Estimate
from bench.core import stats
from bench.core.cells import WORST_LOSS, WORST_SCORE
from bench.core.metrics import higher_is_better
from bench.core.record import Status
from bench.core.stats import Interval
from bench.models._targets import ALL_LINEAR
from bench.study.varying import SETTINGS

Floats = npt.NDArray[np.float64]
SEED = 0  # of the generator that intervals of many seeds need


class NoRows(Exception):
    """The rows do not hold what a quantity takes; the text says what."""


class Arm:
    """Cells by seed: `chosen` and `scored`, [cells, seeds] of the objective and of the metric, and `cells`."""

    def __init__(self, rows: pd.DataFrame, where: Mapping[str, Any]) -> None:
        own = rows_where(rows, where)
        if own.empty:
            raise NoRows(f"none with {', '.join(f'{k} {v}' for k, v in where.items())}")
        names = sorted(set(own["metric_name"]))
        if len(names) > 1:
            raise NoRows(f"rows of several metrics: {', '.join(names)}")
        self.metric, self.sign = names[0], 1.0 if higher_is_better(names[0]) else -1.0
        keys = [name for name in SETTINGS if name in own.columns]
        frame = own.assign(_cell=["|".join(map(str, values)) for values in own[keys].itertuples(index=False)])
        frame = frame.assign(_objective=self._of(frame, "select_metric"), _score=self._of(frame, "metric_value"))
        chosen = frame.pivot(index="_cell", columns="seed", values="_objective").dropna(axis=1)
        if chosen.empty:
            raise NoRows("no seed has every cell")
        self.seeds = tuple(int(seed) for seed in chosen.columns)
        self.chosen: Floats = chosen.to_numpy(dtype=np.float64)
        scored = frame.pivot(index="_cell", columns="seed", values="_score").loc[chosen.index, chosen.columns]
        self.scored: Floats = scored.to_numpy(dtype=np.float64)
        self.cells = frame.drop_duplicates("_cell").set_index("_cell").loc[chosen.index]
        self.rows = frame

    def _of(self, frame: pd.DataFrame, name: str) -> pd.Series[float]:
        """Return an objective to be maximised: a diverged run is the worst value, a missing one the metric itself."""
        value = pd.to_numeric(frame[name]).astype(float).fillna(pd.to_numeric(frame["metric_value"]).astype(float))
        worst = WORST_SCORE if self.sign > 0 else WORST_LOSS
        value = value.where(frame["status"].eq(Status.OK.value), worst).fillna(worst)
        found: pd.Series[float] = self.sign * value
        return found

    def best_by_others(self) -> npt.NDArray[np.int64]:
        """Return, for each seed, the cell that the mean over all other seeds chooses: [seeds]."""
        n_cells, n_seeds = self.chosen.shape
        if n_cells == 1 or n_seeds == 1:
            return np.full(n_seeds, int(np.argmax(self.chosen.mean(axis=1))), dtype=np.int64)
        others = (self.chosen.sum(axis=1, keepdims=True) - self.chosen) / (n_seeds - 1)
        return np.asarray(others.argmax(axis=0), dtype=np.int64)

    def score(self) -> dict[int, float]:
        """Return each seed's score of the cell that the other seeds choose, by seed, larger being better."""
        return {
            seed: float(self.scored[i, j])
            for j, (i, seed) in enumerate(zip(self.best_by_others(), self.seeds, strict=True))
        }

    def best_value(self, axis: str) -> dict[int, float]:
        """Return the value on an axis of each seed's own best cell."""
        places = self.chosen.argmax(axis=0)
        values = pd.to_numeric(self.cells[axis]).astype(float).to_numpy()
        return {seed: float(values[i]) for i, seed in zip(places, self.seeds, strict=True)}

    def ends(self, axis: str) -> tuple[float, float]:
        """Return the ends of an axis."""
        values = pd.to_numeric(self.cells[axis]).astype(float)
        return float(values.min()), float(values.max())


def rows_where(rows: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows that have these values."""
    every = np.ones(len(rows), dtype=bool)
    return rows[np.logical_and.reduce([every, *(_is(rows, name, value) for name, value in where.items())])]


def _is(rows: pd.DataFrame, name: str, value: Any) -> npt.NDArray[np.bool_]:
    if name not in rows.columns:
        raise NoRows(f"no column {name}")
    if isinstance(value, list):
        same = [_is(rows, name, one) for one in value]
        return np.asarray(np.logical_or.reduce(same), dtype=bool)
    if name == "target_modules":
        value = json.dumps(value if value == ALL_LINEAR else str(value).split(","))  # as rows have it
    column = rows[name]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return np.isclose(pd.to_numeric(column, errors="coerce").astype(float), float(value), rtol=1e-9)
    return np.asarray(column.astype(str) == str(value), dtype=bool)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Floats:
    """Return the differences of the seeds that both have, [n].

    Raises:
        NoRows: where they share none.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise NoRows("the two sides share no seed")
    return np.array([first[seed] - second[seed] for seed in seeds])


def mean_of(values: Floats, *, unit: str, details: str = "", scale: float = 1.0) -> Estimate:
    """Return the mean over seeds with the interval that inverts the sign-flip test."""
    scaled = scale * values
    interval = stats.mean_interval(scaled, np.random.default_rng(SEED))
    return Estimate(
        value=float(scaled.mean()), interval=interval, n=len(values), unit=unit, over="seeds", details=details
    )


def ratio_of(logs: Floats, *, details: str = "") -> Estimate:
    """Return the geometric mean over seeds of ratios whose logarithms to base 2 are `logs`, as `mean_of` does it."""
    found = mean_of(logs, unit="times", details=details)
    interval = found.interval and Interval(low=2.0**found.interval.low, high=2.0**found.interval.high)
    return replace(found, value=2.0**found.value, interval=interval)
