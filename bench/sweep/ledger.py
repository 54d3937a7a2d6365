"""What is finished of a study: scores, counts, the best trial so far. Pure: no file, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.core import cells
from bench.core.cells import BestCell, Score
from bench.core.pruned import share_saved
from bench.core.record import Record, Status, to_row
from bench.core.spec import Trial


class Ledger:
    """The books of one sweep.

    `scores` holds every finished row in the directory, `trials` the study's trials that are known so far, both by id;
    `rungs` the rows of trials at rungs, by id and step, and `pruned` the steps at which trials were left out.
    """

    def __init__(self, trials: Iterable[Trial], *, higher_is_better: bool) -> None:
        self.higher_is_better = higher_is_better
        self.trials = {trial.trial_id: trial for trial in trials}
        self.scores: dict[str, Score] = {}
        self.rungs: dict[str, dict[int, Mapping[str, Any]]] = {}
        self.pruned: dict[str, int] = {}
        self.best: tuple[str, float] | None = None  # trial_id and objective
        self.widened: list[Trial] = []
        self.n_goal = 0  # trials that the study is to have
        self.n_finished = 0  # of them
        self.n_run = self.n_failed = 0  # by this run

    def open(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the finished rows that are on disk, by trial_id."""
        self.scores = {trial_id: Score.of_row(row) for trial_id, row in rows.items()}

    def open_stopped(self, rungs: Iterable[Mapping[str, Any]], pruned: Iterable[Mapping[str, Any]]) -> None:
        """Take what is on disk of trials that are stopped early; one that has finished since then was not."""
        self.rungs = {}
        for row in rungs:
            self.rungs.setdefault(row["trial_id"], {})[row["steps_done"]] = row
        self.pruned = {row["trial_id"]: row["steps_done"] for row in pruned if row["trial_id"] not in self.scores}

    def leave_out(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Enter trials that are left out from here on: their rows are on disk."""
        self.pruned |= {row["trial_id"]: row["steps_done"] for row in rows}

    @property
    def n_pruned(self) -> int:
        """How many of the study's trials were left out and have not been finished since."""
        return sum(trial_id in self.pruned and trial_id not in self.scores for trial_id in self.trials)

    @property
    def share_saved(self) -> float | None:
        """Which share of the steps of all that has ended was saved by leaving trials out; None where none was."""
        left = [trial for trial_id, trial in self.trials.items() if trial_id in self.pruned.keys() - self.scores.keys()]
        ended = (self.trials[score.trial_id].budget.max_steps for score in self.finished())
        return share_saved([(self.pruned[t.trial_id], t.budget.max_steps) for t in left], ended)

    def begin(self, trials: Iterable[Trial], n_goal: int) -> None:
        """Take the trials that are known before any runs, in the place of those known until now."""
        self.trials = {trial.trial_id: trial for trial in trials}
        self.n_goal = n_goal
        mine = self.finished()
        self.n_finished = len(mine)
        for score in mine:
            self._consider(score)

    def add(self, trials: Iterable[Trial]) -> None:
        """Take more trials of the study."""
        self.trials |= {trial.trial_id: trial for trial in trials}

    def widen(self, trials: Sequence[Trial]) -> None:
        """Take trials beyond the border of the grid."""
        self.add(trials)
        self.widened += trials
        self.n_goal += len(trials)
        self.n_finished = len(self.finished())

    def known(self, records: Iterable[Record]) -> list[str]:
        """Return the ids of those records whose trials are finished already."""
        return [record.trial.trial_id for record in records if record.trial.trial_id in self.scores]

    def enter(self, records: Iterable[Record], *, final: bool = True) -> None:
        """Enter records that are on disk; what failed in an attempt that is repeated (not `final`) has not failed."""
        for record in records:
            trial_id = record.trial.trial_id
            if record.outcome.status.finished:
                self.n_run += 1
                self.n_finished += trial_id not in self.scores
                self.scores[trial_id] = Score.of_row(to_row(record))
                self._consider(self.scores[trial_id])
            elif record.outcome.status is Status.PAUSED:
                self.rungs.setdefault(trial_id, {})[record.outcome.steps_done] = to_row(record)
            else:
                self.n_failed += final

    def finished(self) -> list[Score]:
        """Return the scores of the study's finished trials."""
        return [self.scores[trial_id] for trial_id in self.trials if trial_id in self.scores]

    def stale(self, source_hash: str) -> list[str | None]:
        """Return the versions of the code, other than this one, that wrote rows of the study, one for each row."""
        return [score.source_hash for score in self.finished() if score.source_hash != source_hash]

    def best_cells(self) -> tuple[BestCell, ...]:
        """Return the best cell of each method."""
        return cells.best_cells(self.trials.values(), self.scores, higher_is_better=self.higher_is_better)

    def _consider(self, score: Score) -> None:
        """Remember the best trial so far."""
        value = cells.objective(score, higher_is_better=self.higher_is_better)
        sign = 1 if self.higher_is_better else -1
        if score.status == Status.OK and (self.best is None or sign * value > sign * self.best[1]):
            self.best = (score.trial_id, value)
