"""The arms of a tuned comparison: each method with its grid, the cell that tuning chose, that cell with fresh seeds.

Every arm has as many cells as every other, at one rank where ranks mean the same; the cell is chosen on the held-out
part of train (select_metric) and scored by other runs, with seeds that tuning never saw. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from bench import methods, searches
from bench.comparison.numbers import Top
from bench.core import choice, stats
from bench.core.cells import Score, objective
from bench.core.choice import Point
from bench.core.errors import BadInput
from bench.core.record import Status
from bench.core.spec import Study, Trial
from bench.methods import BASELINE

FIRST_FRESH_SEED = 1000  # far from the seeds that studies tune with, so that more tuning seeds change no fresh run
FIRST_TOP_SEED = 500  # of the second stage of tuning
FIRST_POOL_SEED = 2000  # of further runs of a chosen cell: whether it collapses, and the pool of a calibration
MAX_POOL = 256  # further runs that are looked for
MIN_FRESH_SEEDS = 8
ENOUGH_TUNING_SEEDS = 3  # with fewer the best cells are run again before one is chosen
TOP_CELLS, TOP_SEEDS = 3, 2
CURVE_POINTS = 25  # of a fresh run at least: steps to target are good to 4 % of the budget

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One method under comparison, named `lora`, `lora+`, `mora type 6`, ...; every trial of its tuning grid."""

    name: str
    trials: tuple[Trial, ...]

    @property
    def n_cells(self) -> int:
        """How many cells its tuning may try."""
        return len({trial.cell for trial in self.trials})


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A tuning cell of an arm, over its tuning seeds."""

    trial: Trial  # one of its trials: the settings, whatever the seed
    objective: float  # mean of what it is chosen by, a diverged seed as the worst value
    chosen_by: str  # select_metric, or metric_value where nothing was held out
    select: float | None  # mean select_metric of the seeds that did not diverge
    metric: float | None  # mean metric_value of them
    train_seconds: float | None  # of all seeds together
    rows: tuple[Row, ...]  # by seed
    n: int
    n_diverged: int


def arms_of(grids: Iterable[tuple[str, Sequence[Trial]]]) -> tuple[Arm, ...]:
    """Return the arms of (method, trials of its grid): one for each grid, MoRA's types apart.

    LoRA+ cells at lr_ratio 1 are LoRA trials; they stay in LoRA+'s arm, and may be in LoRA's too.
    """
    groups: dict[str, list[Trial]] = {}
    for method, trials in grids:
        for trial in trials:
            groups.setdefault(methods.identity(trial, method=method).arm, []).append(trial)
    return tuple(Arm(name=name, trials=tuple(trials)) for name, trials in groups.items())


def as_compared(study: Study) -> Study:
    """Return a study as its methods are compared: no grid grows unless the study says so, which `check` refuses."""
    return study if study.widen else replace(study, widen=False)


def check(study: Study, arms: Sequence[Arm]) -> None:
    """Refuse a study whose arms could not be compared fairly.

    Raises:
        BadInput: without LoRA or a second arm, with unequal numbers of cells, several ranks, grids that grow, or a
            search that chooses its points as results come in.
    """
    where = f"compare, study {study.name}"
    names = ", ".join(arm.name for arm in arms)
    if not searches.get(study.sampler).planned:
        way_out = 'set sampler = "grid" or "halving"'
        raise BadInput(where, "must be a grid", got=f"sampler {study.sampler}", way_out=way_out)
    if searches.widens(study):
        raise BadInput(where, "every method must be tuned with as many cells", got="widen = true",
                       way_out="leave widen out")  # fmt: skip
    if BASELINE not in [arm.name for arm in arms] or len(arms) < 2:
        raise BadInput(where, "must hold lora, the baseline, and another method", got=names, way_out="add their grids")
    _check_rank(where, arms)
    counts = {arm.name: arm.n_cells for arm in arms}
    if len(set(counts.values())) > 1:
        got = ", ".join(f"{name} {n}" for name, n in counts.items())
        way_out = (
            "make the grids equal in size, a finer eta_A where there is no second rate; see studies/demo-compare.toml"
        )
        raise BadInput(where, "every method must be tuned with as many cells", got=got, way_out=way_out)


def _check_rank(where: str, arms: Sequence[Arm]) -> None:
    """Refuse several ranks: of the arms whose rank is LoRA's together, of each other one by itself."""
    ranks: dict[str, set[int]] = {}
    for arm in arms:
        own = arm.name if methods.get(arm.trials[0].method).own_rank else ""
        ranks.setdefault(own, set()).update(t.rank for t in arm.trials if t.rank is not None)
    for found in ranks.values():
        if len(found) > 1:
            got, way_out = ", ".join(map(str, sorted(found))), f"choose one: --ranks {max(found)}"
            raise BadInput(where, "methods are compared at one rank", got=got, way_out=way_out)


def seeds_for(study: Study, arms: Sequence[Arm], wanted: int | None) -> tuple[int, ...]:
    """Return the fresh seeds: `wanted` of them, or as many as every claim needs and MIN_FRESH_SEEDS at least.

    Raises:
        BadInput: for so few that no p of the family could reach 5 % after Holm.
    """
    needed = stats.pairs_needed(len(arms) - 1)
    n = max(needed, MIN_FRESH_SEEDS) if wanted is None else wanted
    if n < needed:
        least = (
            f"the smallest p of {n} pairs is {stats.attainable_p(n, len(arms) - 1):.3f} after Holm over {len(arms) - 1}"
        )
        rule = f"must be >= {needed}, or no claim could be made ({least})"
        raise BadInput("--fresh-seeds", rule, got=n, way_out=f"give {needed} or more, or compare fewer methods")
    return fresh_seeds(n, study.seeds, first=FIRST_FRESH_SEED)


def fresh_seeds(n: int, tuning_seeds: Sequence[int], *, first: int) -> tuple[int, ...]:
    """Return the n smallest seeds from `first` on that tuning did not use; more of them begin with the same ones."""
    used = set(tuning_seeds)
    return tuple([seed for seed in range(first, first + n + len(used)) if seed not in used][:n])


def is_fresh_seed(seed: int) -> bool:
    """Return whether a seed is one of those that fresh runs have."""
    return FIRST_FRESH_SEED <= seed < FIRST_POOL_SEED


def top_for(study: Study, n_cells: int | None, n_seeds: int | None) -> Top | None:
    """Return the second stage of tuning: as asked, else TOP_CELLS and TOP_SEEDS where the study has few seeds; or None.

    Halving leaves so few finished cells that none is run again unless that is asked for.

    Raises:
        BadInput: for one of the two without the other, or a negative number.
    """
    few = len(study.seeds) < ENOUGH_TUNING_SEEDS and searches.get(study.sampler).whole
    for name, value in (("--top-cells", n_cells), ("--top-seeds", n_seeds)):
        if value is not None and value < 0:
            raise BadInput(name, "must be >= 0", got=value, way_out="give 0 for no second stage of tuning")
    asked = n_cells is not None or n_seeds is not None
    cells_again = n_cells if n_cells is not None else TOP_CELLS
    seeds_again = n_seeds if n_seeds is not None else TOP_SEEDS
    if not (asked or few) or 0 in (cells_again, seeds_again):
        return None
    return Top(n_cells=cells_again, seeds=fresh_seeds(seeds_again, study.seeds, first=FIRST_TOP_SEED))


def top_trials(
    arms: Sequence[Arm], rows: Mapping[str, Row], top: Top | None, *, higher_is_better: bool
) -> tuple[Trial, ...]:
    """Return the trials of the second stage: the best cells of every arm, each with the further tuning seeds."""
    found = [t for arm in arms for t in _again(arm, rows, top, higher_is_better=higher_is_better)]
    return tuple(dict.fromkeys(found))


def tuned(arm: Arm, rows: Mapping[str, Row], top: Top | None, *, higher_is_better: bool) -> Cell:
    """Return the cell of an arm that tuning chooses, over all its tuning seeds.

    With a second stage, among the cells that were run again. Ties are broken by all the cells of the grid.
    """
    return tied(arm, rows, top, higher_is_better=higher_is_better)[0]


def tied(arm: Arm, rows: Mapping[str, Row], top: Top | None, *, higher_is_better: bool) -> list[Cell]:
    """Return the cell that tuning chooses, and after it those that are as good by what cells are chosen by."""
    again = _again(arm, rows, top, higher_is_better=higher_is_better)
    found = cells(replace(arm, trials=(*arm.trials, *again)), rows, higher_is_better=higher_is_better)
    among = {trial.cell for trial in again} or {cell.trial.cell for cell in found}
    best, *others = [c for c in ordered(found, higher_is_better=higher_is_better) if c.trial.cell in among]
    return [best, *(c for c in others if math.isclose(c.objective, best.objective, rel_tol=10.0**-choice.DIGITS))]


def _again(arm: Arm, rows: Mapping[str, Row], top: Top | None, *, higher_is_better: bool) -> tuple[Trial, ...]:
    if top is None:
        return ()
    best = ordered(cells(arm, rows, higher_is_better=higher_is_better), higher_is_better=higher_is_better)
    return tuple(replace(cell.trial, seed=seed) for cell in best[: top.n_cells] for seed in top.seeds)


def cells(arm: Arm, rows: Mapping[str, Row], *, higher_is_better: bool) -> tuple[Cell, ...]:
    """Return the finished cells of an arm from its rows (trial_id -> row), in the order of its grid."""
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in arm.trials:
        if trial.trial_id in rows:
            groups.setdefault(trial.cell, []).append(trial)
    return tuple(
        _cell(members, [rows[t.trial_id] for t in members], higher_is_better=higher_is_better)
        for members in groups.values()
    )


def choose(of_arm: Sequence[Cell], *, higher_is_better: bool) -> Cell:
    """Return the best cell of an arm: the rule of bench/core/choice.py, which a sweep's summary has too."""
    return ordered(of_arm, higher_is_better=higher_is_better)[0]


def ordered(of_arm: Sequence[Cell], *, higher_is_better: bool) -> list[Cell]:
    """Return the cells of an arm, best first."""
    points = [Point.of(cell.trial, cell.objective, all_diverged=cell.n_diverged == cell.n) for cell in of_arm]
    return [of_arm[i] for i in choice.order(points, higher_is_better=higher_is_better)]


def fresh_trials(chosen: Trial, seeds: Sequence[int]) -> tuple[Trial, ...]:
    """Return the chosen cell with other seeds, evaluated at CURVE_POINTS steps or more, which changes no score."""
    steps = min(chosen.budget.eval_steps, max(1, chosen.budget.max_steps // CURVE_POINTS))
    budget = replace(chosen.budget, eval_steps=steps)
    return tuple(replace(chosen, seed=seed, budget=budget) for seed in seeds)


def pool_trials(chosen: Trial, n: int, tuning_seeds: Sequence[int]) -> tuple[Trial, ...]:
    """Return the first n further runs of a chosen cell, evaluated at the end only."""
    budget = replace(chosen.budget, eval_steps=chosen.budget.max_steps)
    seeds = fresh_seeds(n, tuning_seeds, first=FIRST_POOL_SEED)
    return tuple(replace(chosen, seed=seed, budget=budget) for seed in seeds)


def on_border(arm: Arm, chosen: Trial) -> tuple[str, ...]:
    """Return which rates of the chosen cell are the smallest or largest of the arm's grid, in words."""
    found = []
    for name in ("eta_A", "lr_ratio"):
        values = sorted({getattr(t, name) for t in arm.trials} - {None})
        value = getattr(chosen, name)
        if len(values) > 1 and value in (values[0], values[-1]):
            found.append(f"{name} {value:.3g} is the {'smallest' if value == values[0] else 'largest'} of its grid")
    return tuple(found)


def is_ok(row: Row) -> bool:
    """Return whether a row has a score: not diverged, and finite."""
    value = row["metric_value"]
    return row["status"] == Status.OK and value is not None and math.isfinite(value)


def _cell(members: Sequence[Trial], rows: Sequence[Row], *, higher_is_better: bool) -> Cell:
    good = [row for row in rows if is_ok(row)]
    held_out = [row["select_metric"] for row in good if row["select_metric"] is not None]
    seconds = [row["train_seconds"] for row in rows if row["train_seconds"] is not None]
    return Cell(
        trial=members[0],
        objective=fmean(objective(Score.of_row(row), higher_is_better=higher_is_better) for row in rows),
        chosen_by="select_metric" if len(held_out) == len(good) else "metric_value",
        select=fmean(held_out) if held_out else None,
        metric=fmean(row["metric_value"] for row in good) if good else None,
        train_seconds=sum(seconds) if len(seconds) == len(rows) else None,
        rows=tuple(rows),
        n=len(rows),
        n_diverged=len(rows) - len(good),
    )
