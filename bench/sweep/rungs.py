"""Successive halving as an agenda: legs from rung to rung, at each of which the best cells of a group go on.

Every decision follows from rows on disk (`rungs/`, `trials/`, `pruned/`), so a resumed sweep decides as one that was
not interrupted. A trial whose state is lost trains its steps again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.core.cells import Score
from bench.core.record import Status
from bench.core.spec import Pack, Trial
from bench.searches import Rungs
from bench.searches._rungs import going_on
from bench.sweep import planning
from bench.sweep.agenda import QUEUE_LIMIT, Agenda
from bench.sweep.ledger import Ledger
from bench.sweep.optuna_mirror.mirror import Mirror
from bench.sweep.planning import Job

Row = Mapping[str, Any]


class RungAgenda(Agenda):
    """The trials of a grid, all of them up to the first rung, ever fewer from there on.

    `pack` plans packs of trials that are at one step, `step_of` says at which step a trial's state is kept, and `prune`
    puts the rows of those that are left out on disk.
    """

    def __init__(
        self, trials: Sequence[Trial], rungs: Rungs, mirror: Mirror, ledger: Ledger,
        *, pack: Callable[[Sequence[Trial]], Iterable[Pack]], step_of: Callable[[Trial], int],
        prune: Callable[[Sequence[Row]], None],
    ) -> None:  # fmt: skip
        self.trials, self.n_goal = trials, len(trials)
        self._rungs, self._mirror, self._pack, self._step_of, self._prune = rungs, mirror, pack, step_of, prune
        self._tried: set[tuple[str, int | None]] = set()  # trial and end of a leg that this run has asked for
        self._done = False
        self.ahead = self._expected(ledger)

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask for."""
        return self._done

    def next_jobs(self, ledger: Ledger) -> Sequence[Job]:
        """Leave out what is to be left out; return the next leg of every group."""
        packs: list[Pack] = []
        for group in planning.groups_of(self.trials):
            found, end = self._next_leg(group, ledger)
            self._tried |= {(trial.trial_id, end) for trial in found}
            packs += self._legs(found, end)
        self._done = not packs
        self.ahead = self._expected(ledger)
        return [Job(pack=pack) for pack in packs]

    def extend(self, trials: Sequence[Trial], ledger: Ledger) -> None:
        """Take them into their groups: they pass the rungs that the others have passed."""
        self.trials, self._done = (*self.trials, *trials), False
        self.ahead = self._expected(ledger)

    def before(self, job: Job) -> None:
        """Enqueue trials in Optuna that it does not know as running."""
        if self.n_goal <= QUEUE_LIMIT:
            self._mirror.queue(job.pack)

    def _expected(self, ledger: Ledger) -> list[Job]:
        reached = {trial_id: max(rows) for trial_id, rows in ledger.rungs.items()}
        legs = planning.legs(self.trials, self._rungs, reached, closed={*ledger.scores, *ledger.pruned})
        return [Job(pack=pack) for pack in legs]

    def _next_leg(self, group: Sequence[Trial], ledger: Ledger) -> tuple[list[Trial], int | None]:
        """Return the trials of a group that train now, and to which step; None: to the end."""
        lost: set[str] = set()  # failed in this run: they are tried again by the next
        for step in self._rungs.steps(group[0].budget.max_steps):
            waiting = [t for t in _open(group, ledger, lost) if step not in ledger.rungs.get(t.trial_id, {})]
            fresh = [t for t in waiting if (t.trial_id, step) not in self._tried]
            if fresh:
                return fresh, step
            lost |= {trial.trial_id for trial in waiting}
            self._decide(group, step, ledger)
        return [t for t in _open(group, ledger, lost) if (t.trial_id, None) not in self._tried], None

    def _decide(self, group: Sequence[Trial], step: int, ledger: Ledger) -> None:
        """Leave out, at this rung, the trials of cells that are not among the best."""
        here = [t for t in group if ledger.pruned.get(t.trial_id, step) >= step]
        values: dict[Hashable, list[float]] = {}
        for trial in here:
            loss = _loss(ledger.rungs.get(trial.trial_id, {}).get(step), ledger.scores.get(trial.trial_id))
            if loss is not None:
                values.setdefault(trial.cell, []).append(loss)
        n_kept = self._rungs.n_kept(len({trial.cell for trial in here}))
        good = going_on(values, n_kept)
        reason = f"not among the best {n_kept} of {len(values)} cells at step {step}"
        rows = [
            _pruned(ledger.rungs[trial.trial_id][step], reason)
            for trial in _open(here, ledger, set())
            if trial.cell not in good and step == max(ledger.rungs.get(trial.trial_id, {0: {}}))
        ]
        if rows:
            self._prune(rows)

    def _legs(self, trials: Sequence[Trial], end: int | None) -> Iterator[Pack]:
        """Yield packs of trials whose states are at one step."""
        by_start: dict[int, list[Trial]] = {}
        for trial in trials:
            start = self._step_of(trial)
            by_start.setdefault(start if end is None or start < end else 0, []).append(trial)
        for start, members in sorted(by_start.items()):
            yield from (replace(pack, start=start, until=end) for pack in self._pack(members))


def _open(group: Iterable[Trial], ledger: Ledger, lost: set[str]) -> Iterator[Trial]:
    """Yield the trials that are neither finished nor left out nor lost."""
    closed = (ledger.scores, ledger.pruned, lost)
    return (trial for trial in group if not any(trial.trial_id in one for one in closed))


def _loss(at_rung: Row | None, score: Score | None) -> float | None:
    """Return what a trial is judged by at a rung, None where that is not known."""
    if score is not None and score.status == Status.DIVERGED:
        return math.inf
    loss = None if at_rung is None else at_rung["train_loss"]
    return None if loss is None else float(loss)


def _pruned(row: Row, reason: str) -> dict[str, Any]:
    return {**row, "status": str(Status.PRUNED), "reason": reason}
