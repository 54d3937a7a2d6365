"""A search over the space of one method's grid, a pack at a time, taught by the finished rows."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from bench import searches
from bench.core import seeds
from bench.core.cells import Score
from bench.core.spec import Study, Trial
from bench.sweep.optuna_mirror.mirror import Mirror
from bench.sweep.optuna_mirror.reach import Growth, Reach, Rows
from bench.sweep.optuna_mirror.space import by_search, settings_of

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["MethodSearch", "Rows"]


class MethodSearch:
    """The search of one method, and of one variant of it where its grid has several (mora_type, init, ...)."""

    def __init__(self, study: Study, label: str, reach: Reach, mirror: Mirror) -> None:
        """`label` is the method, with the variant if there are several."""
        self._study, self._mirror, self.label, self.reach = study, mirror, label, reach
        self.name = mirror.name(reach.template).removesuffix(reach.template.method) + label
        self._search = searches.get(study.sampler)
        self._to_come: list[dict[str, float]] = []  # what is fixed of each trial that is not chosen yet
        self.trials: dict[str, Trial] = {}  # that were chosen, by id

    @classmethod
    def of_study(
        cls, study: Study, trials: Sequence[Trial], mirror: Mirror, *, higher_is_better: bool,
        fits: Callable[[Trial], bool],
    ) -> list[MethodSearch]:  # fmt: skip
        """Return the searches of a study, whose grids' trials are given (see `by_search`)."""
        found = by_search(trials, {grid.method for grid in study.grids})
        return [
            cls(study, label, Reach(study, members, higher_is_better=higher_is_better, fits=fits), mirror)
            for label, members in found.items()
        ]

    @property
    def template(self) -> Trial:
        """A trial of the grid: what the search holds is as there."""
        return self.reach.template

    @property
    def n_left(self) -> int:
        """How many trials are still to be chosen."""
        return len(self._to_come)

    def resume(self, rows: Rows, going_on: Rows, scores: Mapping[str, Score]) -> None:
        """Teach Optuna the rows of this search that are finished or pruned, and no others; take up those going on."""
        self.trials = self.reach.read({**rows, **going_on}, scores)
        mine = [row for trial_id, row in rows.items() if trial_id in self.trials]
        again = [self.trials[trial_id] for trial_id in going_on if trial_id in self.trials]
        self._mirror.recover(self.name, self.reach.space_of, mine, also={}, going_on=again)
        self._to_come = self.reach.to_come(self.trials.values())

    def grow(self, scores: Mapping[str, Score]) -> Growth | None:
        """Take more trials where the best one lies at the border, once all have ended; return where, or None."""
        found = None if self.n_left else self.reach.grow(self.trials.values(), scores)
        self._to_come = self.reach.to_come(self.trials.values()) if found is not None else self._to_come
        return found

    def beyond(self, trials: Iterable[Trial]) -> list[Trial]:
        """Return those of its trials that lie beyond the border of its grid."""
        base = self.reach.base
        return [trial for trial in trials if not base.holds(settings_of(trial))]

    def next_trials(self, pack_size: int, known: Container[str]) -> list[Trial]:
        """Return up to pack_size new trials that the sampler chose, all of one seed; the study's seeds take turns.

        Its own seed comes from how many trials came before, so that a resumed search repeats an uninterrupted one. A
        choice whose trial there is already is dropped; a space of which nothing else is found has come to its end.
        """
        points = self._to_come[:pack_size]
        seed = self._study.seeds[(len(self.trials) // pack_size) % len(self._study.seeds)]
        new: dict[int, Trial] = {}
        for attempt in range(-(-self.reach.n_wanted // len(points))):
            again = (attempt,) if attempt else ()
            key = seeds.derive(self._study.sampler, self.name, len(self.trials), *again)
            new = self._chosen(points, partial(self._search.new_sampler, key % 2**32), seed=seed, known=known)
            if new:
                break
        self._to_come = [point for i, point in enumerate(self._to_come) if i not in new] if new else []
        self.trials |= {trial.trial_id: trial for trial in new.values()}
        return list(new.values())

    def _chosen(
        self, points: Sequence[Mapping[str, float]], sampler: Callable[[], BaseSampler], *, seed: int,
        known: Container[str],
    ) -> dict[int, Trial]:  # fmt: skip
        """Return the new trials among those that the sampler chooses, by their place among the points."""
        new: dict[int, Trial] = {}
        for i, asked in enumerate(self._mirror.suggest(self.name, self.reach.space, points, sampler=sampler)):
            trial = self.reach.trial(asked.params, seed=seed)
            if trial.trial_id in known:
                self._mirror.drop(self.name, asked)
            elif self._mirror.take(self.name, asked, trial.trial_id):
                new[i] = trial
        return new
