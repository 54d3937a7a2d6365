"""Rungs: the steps at which trials wait for one another, and which of them go on. Pure.

Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943, algorithm 1) over the cells of a grid. The first seed
of each cell goes through the rungs; the other seeds train where it has come to its end. Every trial follows the
schedule of its full number of steps: a shorter schedule would decay the rate earlier and favour other cells than the
one that is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from bench.core.spec import SERIES, Trial

SHARES, KEEP = (1 / 4, 1 / 2), 1 / 4  # see docs/concepts/pruning.md for where they come from
LEAST_KEPT = 2  # the training loss of one seed does not tell which of the two best cells of a small grid scores higher


@dataclass(frozen=True, kw_only=True, slots=True)
class Rungs:
    """At which shares of its steps a trial waits, and which share of the cells of its group goes on from each."""

    shares: tuple[float, ...] = SHARES
    keep: float = KEEP

    def steps(self, max_steps: int) -> tuple[int, ...]:
        """Return the steps of the rungs, each once, below the last step."""
        found = (max(1, round(share * max_steps)) for share in self.shares)
        return tuple(sorted({step for step in found if step < max_steps}))

    def n_kept(self, n_cells: int) -> int:
        """Return how many of n cells go on from a rung: LEAST_KEPT at least, where there are so many."""
        return min(n_cells, max(LEAST_KEPT, math.ceil(self.keep * n_cells - 1e-9)))

    def expected_steps(self, max_steps: int, n_cells: int) -> list[tuple[int, int, int]]:
        """Return (from, to, cells) of each leg of a group where nothing fails."""
        ends = (*self.steps(max_steps), max_steps)
        legs, start, n = [], 0, n_cells
        for end in ends:
            legs.append((start, end, n))
            start, n = end, self.n_kept(n)
        return legs


def group_of(trial: Trial) -> Hashable:
    """Return what cells are compared within: one method or type of it, one schedule, one amount of data a step."""
    budget = trial.budget
    schedule = (budget.max_steps, budget.batch_size, budget.lr_scheduler_type, budget.warmup_steps)
    return (*(getattr(trial, name) for name in SERIES), *schedule)


def leading(group: Sequence[Trial]) -> tuple[tuple[Trial, ...], tuple[Trial, ...]]:
    """Return the first seed's trial of each cell, which goes through the rungs, and the trials of other seeds."""
    first: dict[Hashable, Trial] = {}
    for trial in group:
        first.setdefault(trial.cell, trial)
    return tuple(first.values()), tuple(trial for trial in group if first[trial.cell] is not trial)


def going_on(values: Mapping[Hashable, Sequence[float]], n_kept: int) -> set[Hashable]:
    """Return the n_kept cells that go on from a rung.

    `values` are the training losses by cell, one for each seed; a seed that diverged has an infinite one. A cell counts
    by their mean. Of equals the one that comes first.
    """
    return set(sorted(values, key=lambda cell: _mean(values[cell]))[:n_kept])  # stable: ties in the order given


def _mean(losses: Sequence[float]) -> float:
    return math.inf if not losses or any(not math.isfinite(x) for x in losses) else math.fsum(losses) / len(losses)
