"""Successive halving as an agenda: legs from rung to rung, at each of which the best cells of a group go on.

The first seed of a cell goes through the rungs. The other seeds train, whole, where it has come to its end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence

from bench import searches
from bench.core.cells import Score
from bench.core.record import Record, Status
from bench.core.spec import Pack, Trial
from bench.searches import Rungs
from bench.searches._rungs import going_on
from bench.sweep import planning
from bench.sweep.agenda import QUEUE_LIMIT, Agenda
from bench.sweep.ladder import Ladder, Leg, Row
from bench.sweep.ledger import Ledger
from bench.sweep.optuna_mirror.mirror import Mirror
from bench.sweep.planning import Job

Waiting = Callable[[Sequence[Trial]], Sequence[Record]]


class RungAgenda(Agenda):
    """The cells of a grid, all of them up to the first rung, ever fewer from there on."""

    def __init__(
        self, trials: Sequence[Trial], rungs: Rungs, mirror: Mirror, ledger: Ledger, *, ladder: Ladder, waiting: Waiting
    ) -> None:
        """`waiting` makes records of trials that wait at step 0."""
        self.trials, self.n_goal = trials, len(trials)
        self._rungs, self._mirror, self._ladder, self._waiting = rungs, mirror, ladder, waiting
        self._done = False
        self.ahead = self._expected(ledger)

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask for."""
        return self._done

    def next_jobs(self, ledger: Ledger) -> Sequence[Job]:
        """Leave out what is to be left out; return the next leg of every group."""
        judge = functools.partial(self._judge, ledger)
        legs: list[Leg] = []
        for group in planning.groups_of(self.trials):
            first, others = searches.leading(group)
            legs.append(self._ladder.climb(first, self._rungs.steps(group[0].budget.max_steps), judge, ledger))
            legs.append(self._ladder.climb(self._following(first, others, ledger), (), judge, ledger))
        packs = self._ladder.packs(legs)
        self._done = not packs
        self.ahead = self._expected(ledger)
        return [Job(pack=pack) for pack in packs]

    def extend(self, trials: Sequence[Trial], ledger: Ledger) -> None:
        """Take them into their groups: they pass the rungs that the others have passed."""
        self.trials, self._done = (*self.trials, *trials), False
        self.ahead = self._expected(ledger)

    def before(self, job: Job) -> None:
        """Enqueue trials in Optuna that it does not know as running."""
        self._queue(job.pack)

    def _queue(self, pack: Pack) -> None:
        if self.n_goal <= QUEUE_LIMIT:
            self._mirror.queue(pack)

    def _following(self, first: Sequence[Trial], others: Sequence[Trial], ledger: Ledger) -> list[Trial]:
        """Return the trials of other seeds that train; leave out those whose cell's first seed went no further.

        Where that one has not ended, or failed in this run, nothing is decided yet.
        """
        by_cell = {trial.cell: trial for trial in first}
        left = [t for t in others if t.trial_id not in ledger.scores and t.trial_id not in ledger.pruned]
        reasons = {t.trial_id: why for t in left if (why := _why_left_out(by_cell[t.cell], ledger)) is not None}
        gone = [trial for trial in left if trial.trial_id in reasons]
        if gone:
            self._queue(Pack(trials=tuple(gone)))
            # One by one: no row depends on which others are left out with it.
            self._ladder.leave_out([record for trial in gone for record in self._waiting([trial])], reasons)
        ended = [cell for cell, trial in by_cell.items() if trial.trial_id in ledger.scores]
        return [trial for trial in left if trial.trial_id not in reasons and trial.cell in ended]

    def _expected(self, ledger: Ledger) -> list[Job]:
        reached = {trial_id: max(rows) for trial_id, rows in ledger.rungs.items()}
        legs = planning.legs(self.trials, self._rungs, reached, closed={*ledger.scores, *ledger.pruned})
        return [Job(pack=pack) for pack in legs]

    def _judge(self, ledger: Ledger, here: Sequence[Trial], step: int) -> dict[str, str]:
        """Return why the trials of cells that are not among the best at this rung are left out, by trial_id."""
        values: dict[Hashable, list[float]] = {}
        for trial in here:
            loss = _loss(ledger.rungs.get(trial.trial_id, {}).get(step), ledger.scores.get(trial.trial_id))
            if loss is not None:
                values.setdefault(trial.cell, []).append(loss)
        n_kept = self._rungs.n_kept(len({trial.cell for trial in here}))
        good = going_on(values, n_kept)
        reason = f"not among the best {n_kept} of {len(values)} cells at step {step}"
        return {trial.trial_id: reason for trial in here if trial.cell not in good}


def _why_left_out(first: Trial, ledger: Ledger) -> str | None:
    """Return why the other seeds of a cell are left out; None where they train, or may."""
    score = ledger.scores.get(first.trial_id)
    if score is not None:
        return None if score.status == Status.OK else f"seed {first.seed} of its cell diverged"
    step = ledger.pruned.get(first.trial_id)
    return None if step is None else f"seed {first.seed} of its cell was left out at step {step}"


def _loss(at_rung: Row | None, score: Score | None) -> float | None:
    """Return what a trial is judged by at a rung, None where that is not known."""
    if score is not None and score.status == Status.DIVERGED:
        return math.inf
    loss = None if at_rung is None else at_rung["train_loss"]
    return None if loss is None else float(loss)
