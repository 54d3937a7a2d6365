"""How far a search reaches: the space of its method's grid, and what that grew by. Pure; told from rows alone.

Where the best trial of a search that has ended lies at the border of its space, one axis grows there by a quarter of
its log range. The trials that are added lie at fixed places beyond the old border, whatever else a sampler chooses for
them: so rows tell which trials a growth added, and a resumed sweep adds those that are missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench import searches
from bench.core import cells, keys
from bench.core.cells import Score
from bench.core.rules import round_rate
from bench.core.spec import LR_RATIO, Study, Trial
from bench.sweep.optuna_mirror.space import SAME, Axis, Space, alpha_by_rank, is_in, searchable, settings_of, trial_at

Rows = Mapping[str, Mapping[str, Any]]  # by trial_id
GROWING = (*keys.RATES, "rank")
STEPS = 4  # in the log range of a grid's axis: a space grows by one of them
EDGE = 0.5  # of a step: what lies nearer to a bound lies at the border
ROUNDS = 3  # growths that the trials of max_extra are meant for


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """One axis, grown on one side: where on it the added trials lie, from the old bound outwards."""

    axis: str
    values: tuple[float, ...]
    space: Space

    def place(self, settings: Mapping[str, Any]) -> float | None:
        """Return the value at which settings lie on the axis, None for those of no added trial."""
        mine = settings[self.axis]
        return next((v for v in self.values if mine is not None and math.isclose(mine, v, rel_tol=SAME)), None)

    def told(self) -> str:
        """Return where it grew, in words."""
        ends = f"{self.values[0]:.3g}" if len(self.values) == 1 else f"{self.values[0]:.3g} to {self.values[-1]:.3g}"
        return f"at {self.axis} {ends} ({len(self.values)} trial{'s' if len(self.values) > 1 else ''})"


def growth(
    base: Space, space: Space, best: Mapping[str, Any], n: int, *, fits: Callable[[str, float], bool]
) -> Growth | None:
    """Return how a space grows where its best settings lie at its border, None where they lie inside.

    The axis and side where they lie nearest to the bound grows, by n values at most, only such as `fits`; a ratio never
    grows down to 1, where LoRA+ is LoRA. `base` is the space before it grew at all: a step is a share of its range.
    """
    for was, axis, up in _near(base, space, best):
        values = [v for v in _beyond(was, axis, up, n) if fits(axis.name, v)]
        if values:
            grown = replace(axis, high=values[-1]) if up else replace(axis, low=values[-1])
            axes = tuple(grown if a.name == axis.name else a for a in space.axes)
            return Growth(axis=axis.name, values=tuple(values), space=Space(axes=axes))
    return None


def _near(base: Space, space: Space, best: Mapping[str, Any]) -> list[tuple[Axis, Axis, bool]]:
    """Return axes as they were and as they are, with the side at which the best lies, those nearest to it first."""
    found = []
    for was, axis in zip(base.axes, space.axes, strict=True):
        if axis.name in GROWING and was.low < was.high:
            for up in (False, True):
                away = abs(math.log(best[axis.name] / (axis.high if up else axis.low))) / _step(was)
                found.append((round(away, 9), was, axis, up))
    return [(was, axis, up) for away, was, axis, up in sorted(found, key=lambda one: one[0]) if away < EDGE]


def _step(base: Axis) -> float:
    return math.log(base.high / base.low) / STEPS


def _beyond(was: Axis, axis: Axis, up: bool, n: int) -> Iterator[float]:
    """Yield n places beyond a bound, evenly over a step on the log scale; fewer where whole numbers fall together."""
    bound, side = (axis.high, 1) if up else (axis.low, -1)
    values = [bound * math.exp(side * _step(was) * i / n) for i in range(1, n + 1)]
    if axis.integer:
        whole = [*dict.fromkeys(round(value) for value in values if side * (round(value) - bound) > 0)]
        yield from (value for value in whole or [int(bound) + side] if value >= 1)
        return
    least = 1.0 + SAME if axis.name == LR_RATIO.key and was.low >= 1 else 0.0
    yield from (round_rate(value) for value in values if value > least)


class Reach:
    """What one search may choose from, and how many trials it is to have."""

    def __init__(
        self, study: Study, grid_trials: Sequence[Trial], *, higher_is_better: bool,
        fits: Callable[[Trial], bool] = lambda trial: True,
    ) -> None:  # fmt: skip
        """`grid_trials` span the grid of one method, or of one variant of it."""
        self.template, self._fits, self._higher = grid_trials[0], fits, higher_is_better
        grid = next(g for g in study.grids if g.method == self.template.method)
        self.alpha = alpha_by_rank(grid_trials)
        self._spaces = [searchable(grid_trials, grid, sampler=study.sampler)]
        self.growths: list[Growth] = []
        self._n_base = study.n_trials or len(grid_trials)
        self._n_extra = int(study.max_extra * self._n_base + 1e-9) if searches.widens(study) else 0

    @property
    def base(self) -> Space:
        """What it might choose from before it grew."""
        return self._spaces[0]

    @property
    def space(self) -> Space:
        """What it may choose from now."""
        return self._spaces[-1]

    @property
    def n_added(self) -> int:
        """How many trials its growths are to add."""
        return sum(len(one.values) for one in self.growths)

    @property
    def n_wanted(self) -> int:
        """How many trials it is to have, those beyond the border among them."""
        return self._n_base + self.n_added

    def space_of(self, settings: Mapping[str, Any]) -> Space:
        """Return the space that a trial with these settings was chosen from: the smallest, as each lies in the next."""
        return next((space for space in self._spaces if space.holds(settings)), self.space)

    def grow(self, trials: Iterable[Trial], scores: Mapping[str, Score]) -> Growth | None:
        """Grow where the best of these trials, all of the search, lies at the border; return how, or None."""
        n = min(max(1, self._n_extra // ROUNDS), self._n_extra - self.n_added)
        in_order = sorted(trials, key=lambda trial: trial.trial_id)  # ties: the same in a resumed sweep
        best = cells.best_cells(in_order, scores, higher_is_better=self._higher)
        if n < 1 or not best or best[0].mean is None:
            return None
        settings = settings_of(best[0].trial)

        def fits(name: str, value: float) -> bool:
            return self._fits(self.trial({**self.space.params(settings), name: value}, seed=self.template.seed))

        found = growth(self._spaces[0], self.space, settings, n, fits=fits)
        if found is not None:
            self.growths.append(found)
            self._spaces.append(found.space)
        return found

    def read(self, rows: Rows, scores: Mapping[str, Score]) -> dict[str, Trial]:
        """Return the search's trials among rows by id, after growing as the sweep did that wrote them."""
        mine = self._of_rows(rows)
        while self.grow(mine.values(), scores):
            added = {i: t for i, t in self._of_rows(rows).items() if self.growths[-1].place(settings_of(t)) is not None}
            if not added:  # not yet: the search decides when it has ended
                self.growths.pop()
                self._spaces.pop()
                break
            mine |= added
        return mine

    def to_come(self, trials: Iterable[Trial]) -> list[dict[str, float]]:
        """Return what is fixed of each trial that is still to be chosen, given those that were."""
        if not self.growths:
            return [{} for _ in range(self._n_base - len(list(trials)))]
        last = self.growths[-1]
        there = {last.place(settings_of(trial)) for trial in trials}
        return [{last.axis: value} for value in last.values if value not in there]

    def trial(self, point: Mapping[str, float], *, seed: int) -> Trial:
        """Return the trial at a point of the space."""
        return trial_at(self.template, point, seed=seed, alpha_of_rank=self.alpha)

    def _of_rows(self, rows: Rows) -> dict[str, Trial]:
        here = [row for row in rows.values() if is_in(self.space, self.template, row, alpha_of_rank=self.alpha)]
        return {row["trial_id"]: self._trial_of(row) for row in here}

    def _trial_of(self, row: Mapping[str, Any]) -> Trial:
        point = {axis.name: row[axis.name] for axis in self.space.axes}
        trial = self.trial({"eta_A": row["eta_A"], **point}, seed=row["seed"])
        return replace(trial, eta_B=row["eta_B"])  # its ratio gives it to 12 digits only
