"""What a search is: how the trials of a study are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.spec import Trial
from bench.searches._rungs import Rungs

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """One way to choose trials: all those of the grid, or points between its smallest and its largest values.

    `sampler` takes a seed, 0 to 2^32 - 1, and returns the sampler of Optuna that is asked for the next pack of points.
    With `rungs` not every cell trains to its end.
    """

    sampler: Callable[[int], BaseSampler] | None = None  # None: every cell of the grid
    rungs: Rungs | None = None

    @property
    def planned(self) -> bool:
        """Whether all trials are known before the first one trains, so that packs are planned ahead."""
        return self.sampler is None

    @property
    def whole(self) -> bool:
        """Whether every cell of the grid trains to its end and gets a row."""
        return self.planned and self.rungs is None

    def new_sampler(self, seed: int) -> BaseSampler:
        """Return a new sampler of a search whose trials are not planned."""
        if self.sampler is None:
            raise ValueError("the trials of this search are those of the grid")
        return self.sampler(seed)

    def sample(self, trials: Sequence[Trial], n_trials: int | None) -> tuple[Trial, ...]:
        """Return trials of the grid that cost what the search's will: as many of each method, from all over it."""
        if self.planned:
            return tuple(trials)
        drawn: list[Trial] = []
        for method in dict.fromkeys(trial.method for trial in trials):
            of_method = [trial for trial in trials if trial.method == method]
            n = n_trials or 0
            drawn += [of_method[i * len(of_method) // n] for i in range(n)]
        return tuple(drawn)
