"""What leaving cells out at rungs would have cost: stored curves replayed, grid by grid. Pure.

A rung is judged by the training loss of the last stored points at or before it, so by no more than a sweep would know,
and by the first seed of each cell.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from bench.core import cells, metrics, stats
from bench.core.cells import Score
from bench.core.spec import SERIES
from bench.core.stats import Interval
from bench.searches import Rungs
from bench.searches._rungs import going_on
from bench.study import varying

MIN_CELLS = 4
SETTINGS = tuple(
    Rungs(shares=shares, keep=keep)
    for shares in ((1 / 8, 1 / 2), (1 / 6, 1 / 2), (1 / 4, 1 / 2), (1 / 3, 2 / 3), (1 / 8,), (1 / 3,))
    for keep in (1 / 2, 1 / 3, 1 / 4)
)
_GROUP = ("study", "task", "model", *SERIES, "max_steps", "batch_size", "lr_scheduler_type", "warmup_steps")
COLUMNS = tuple(dict.fromkeys(
    (*_GROUP, *varying.SETTINGS, "seed", "metric_name", "curve", "n_eval", *cells.SCORE_COLUMNS)
))  # fmt: skip
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The cells that are compared with one another, each with the rows of its seeds."""

    name: str
    members: tuple[tuple[Row, ...], ...]

    @property
    def max_steps(self) -> int:
        """The steps of each trial."""
        return int(self.members[0][0]["max_steps"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What one setting of rungs does to the grids that it can be replayed on, all their draws of seeds together."""

    rungs: Rungs
    n_grids: int
    n_draws: int
    n_best: int  # draws whose best cell was not left out
    n_near: int  # or whose chosen cell is within a standard error of it
    worst: float  # the largest loss of metric of any draw
    steps: float  # share of the full grids' steps

    @property
    def near(self) -> Interval:
        """The share of draws that end within a standard error, with its exact interval."""
        return stats.clopper_pearson(self.n_near, self.n_draws)


def grids(rows: Iterable[Row]) -> tuple[Grid, ...]:
    """Return the grids among finished rows that hold at least MIN_CELLS cells."""
    found: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Row]]] = {}
    for row in rows:
        cell = tuple(row[name] for name in varying.SETTINGS)
        found.setdefault(tuple(row[name] for name in _GROUP), {}).setdefault(cell, []).append(row)
    return tuple(
        Grid(name=f"{key[0]} {_arm(key[3], key[4])}", members=tuple(map(tuple, of.values())))
        for key, of in found.items()
        if len(of) >= MIN_CELLS
    )


def _arm(method: str, kind: int | None) -> str:
    return method if kind is None else f"{method} type {kind}"


def replay(
    found: Sequence[Grid], rungs: Rungs, rng: np.random.Generator, *, n_draws: int, n_seeds: int | None = None
) -> Replay | None:
    """Return what `rungs` does to the grids whose curves have points early enough; None where there is none.

    A draw is a sweep of `n_seeds` different seeds, the same for all cells; with None, or where a grid has no more, it
    takes as many seeds of each cell as it has, with replacement. A grid of one seed is drawn once.
    """
    usable = [grid for grid in found if all(_reads(grid, step) for step in rungs.steps(grid.max_steps))]
    n_all = n_best = n_near = 0
    worst, full, spent = 0.0, 0, 0
    for grid in usable:
        legs = rungs.expected_steps(grid.max_steps, len(grid.members))
        seeds = min(n_seeds or math.inf, max(map(len, grid.members)))
        full += round(grid.max_steps * len(grid.members) * seeds)
        later = legs[-1][2] * (seeds - 1) * grid.max_steps  # the other seeds, of the cells that are left
        spent += sum((end - start) * n for start, end, n in legs) + round(later)
        for drawn in _draws(grid, rng, n_draws, n_seeds):
            lost, error, kept = _cost(drawn, rungs, grid.max_steps)
            n_all, n_best, n_near = n_all + 1, n_best + kept, n_near + (lost <= error)
            worst = max(worst, lost)
    if not usable:
        return None
    return Replay(
        rungs=rungs, n_grids=len(usable), n_draws=n_all, n_best=n_best, n_near=n_near, worst=worst, steps=spent / full
    )


def _draws(
    grid: Grid, rng: np.random.Generator, n_draws: int, n_seeds: int | None
) -> Iterator[Sequence[Sequence[Row]]]:
    by_seed = [{row["seed"]: row for row in rows} for rows in grid.members]
    shared = sorted(set.intersection(*map(set, by_seed)))
    if max(map(len, grid.members)) == 1:
        yield grid.members
        return
    for _ in range(n_draws):
        if n_seeds is not None and n_seeds < len(shared):
            chosen = rng.choice(shared, n_seeds, replace=False)
            yield [[rows[seed] for seed in chosen] for rows in by_seed]
        else:
            yield [[rows[i] for i in rng.integers(0, len(rows), len(rows))] for rows in grid.members]


def _cost(drawn: Sequence[Sequence[Row]], rungs: Rungs, max_steps: int) -> tuple[float, float, bool]:
    """Return how much worse the chosen cell is than the best, the best one's standard error, whether it survived."""
    higher = metrics.higher_is_better(str(drawn[0][0]["metric_name"]))
    sign = 1 if higher else -1
    values = [
        sign * fmean(cells.objective(Score.of_row(row), higher_is_better=higher) for row in rows) for rows in drawn
    ]
    alive = list(range(len(drawn)))
    for step in rungs.steps(max_steps):
        losses: dict[Hashable, list[float]] = {i: [_loss_at(drawn[i][0], step)] for i in alive}
        good = going_on(losses, rungs.n_kept(len(alive)))
        alive = [i for i in alive if i in good]
    best = max(values)
    lost = best - max(values[i] for i in alive)
    return lost, _error(drawn[values.index(best)]), lost == 0


def _error(rows: Sequence[Row]) -> float:
    """Return the standard error of a cell over its evaluation examples, 0 where it is not known."""
    known = [row["metric_stderr"] for row in rows if row["metric_stderr"] is not None]
    return fmean(known) if known and all(math.isfinite(one) for one in known) else 0.0


def _loss_at(row: Row, step: int) -> float:
    """Return what a trial is judged by at a step: its mean loss over the later half of what is stored up to there."""
    points = [point for point in row["curve"] if point["step"] <= step]
    losses = [p["train_loss"] for p in points if p["train_loss"] is not None and p["step"] > points[-1]["step"] / 2]
    diverged = row["diverged_step"] is not None and row["diverged_step"] <= step
    return fmean(losses) if losses and not diverged else math.inf


def _reads(grid: Grid, step: int) -> bool:
    """Return whether a finished trial of the grid has a point in the later half of the steps before a rung."""
    whole = max((row for rows in grid.members for row in rows), key=lambda row: len(row["curve"]))
    return any(step / 2 <= point["step"] <= step for point in whole["curve"])
