"""A search over the space of one method's grid, a pack at a time, taught by the finished rows."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench import searches
from bench.core import seeds
from bench.core.spec import Study, Trial
from bench.sweep.optuna_mirror.mirror import Mirror
from bench.sweep.optuna_mirror.space import alpha_by_rank, is_in, searchable, trial_at, variants

Rows = Mapping[str, Mapping[str, Any]]  # by trial_id


class MethodSearch:
    """The search of one method, and of one variant of it where its grid has several (mora_type, init, ...)."""

    def __init__(self, study: Study, name: str, grid_trials: Sequence[Trial], mirror: Mirror) -> None:
        self._study, self._mirror, self.name, self.template = study, mirror, name, grid_trials[0]
        self._search = searches.get(study.sampler)
        grid = next(g for g in study.grids if g.method == self.template.method)
        self._space, self._alpha = searchable(grid_trials, grid, sampler=study.sampler), alpha_by_rank(grid_trials)
        self.n_wanted = study.n_trials or len(grid_trials)
        self.n_left = self.n_wanted
        self._n_turns = 0
        self.trials: dict[str, Trial] = {}  # that were chosen, by id

    @classmethod
    def of_study(cls, study: Study, trials: Sequence[Trial], mirror: Mirror) -> list[MethodSearch]:
        """Return the searches of a study, whose grids' trials are given.

        LoRA+'s trials of ratio 1 are LoRA's: LoRA is searched only where it has a grid.
        """
        methods = {grid.method for grid in study.grids}
        return [
            cls(study, f"{name}/{variant}" if variant else name, members, mirror)
            for name, of_method in mirror.by_study(trials).items()
            if of_method[0].method in methods
            for variant, members in variants(of_method).items()
        ]

    def resume(self, rows: Rows, going_on: Rows) -> None:
        """Teach Optuna the rows of this search that are finished or pruned, and no others; take up those going on."""
        mine, paused = (
            [row for row in some.values() if is_in(self._space, self.template, row, alpha_of_rank=self._alpha)]
            for some in (rows, going_on)
        )
        self.trials = {row["trial_id"]: self._trial_of(row) for row in (*mine, *paused)}
        again = [self.trials[row["trial_id"]] for row in paused]
        self._mirror.recover(self.name, self._space, mine, also={}, going_on=again)
        self.n_left = max(0, self.n_wanted - len(self.trials))
        self._n_turns = len(self.trials)

    def next_trials(self, pack_size: int, known: Container[str]) -> list[Trial]:
        """Return up to pack_size new trials that the sampler chose, all of one seed; the study's seeds take turns.

        Its own seed comes from how many trials came before, so that a resumed search repeats an uninterrupted one.
        A choice whose trial there is already counts, so that a small space comes to an end.
        """
        n = min(pack_size, self.n_left)
        seed = self._study.seeds[(self._n_turns // pack_size) % len(self._study.seeds)]
        key = seeds.derive(self._study.sampler, self.name, self._n_turns)
        sampler = partial(self._search.new_sampler, key % 2**32)
        self.n_left, self._n_turns = self.n_left - n, self._n_turns + n
        new: list[Trial] = []
        for asked in self._mirror.suggest(self.name, self._space, n, sampler=sampler):
            trial = trial_at(self.template, asked.params, seed=seed, alpha_of_rank=self._alpha)
            if trial.trial_id in known:
                self._mirror.drop(self.name, asked)
            elif self._mirror.take(self.name, asked, trial.trial_id, may_pause=self._study.pruner is not None):
                new.append(trial)
        self.trials |= {trial.trial_id: trial for trial in new}
        return new

    def _trial_of(self, row: Mapping[str, Any]) -> Trial:
        point = {axis.name: row[axis.name] for axis in self._space.axes}
        trial = trial_at(self.template, {"eta_A": row["eta_A"], **point}, seed=row["seed"], alpha_of_rank=self._alpha)
        return replace(trial, eta_B=row["eta_B"])  # its ratio gives it to 12 digits only
