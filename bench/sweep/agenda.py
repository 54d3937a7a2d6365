"""What runs next: an agenda is asked again and again, and answers from the ledger, until it is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from bench.core.spec import Pack, Study, Trial
from bench.executors import StoppedError
from bench.schedule import planner
from bench.schedule.planner import Limits
from bench.sweep.ledger import Ledger
from bench.sweep.optuna_mirror.mirror import Mirror
from bench.sweep.optuna_mirror.search import MethodSearch
from bench.sweep.planning import Job

QUEUE_LIMIT = 2000  # trials; beyond it Optuna's queue costs more than small trials do: finished ones are only mirrored


class Agenda(ABC):
    """Decides which trials run next. All that ran before is in the ledger when it is asked."""

    trials: Sequence[Trial]  # those known before any runs
    n_goal: int  # trials that the study is to have
    ahead: Sequence[Job] = ()  # the jobs known before any runs: a forecast rests on them

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether there is nothing more to ask for."""

    @abstractmethod
    def next_jobs(self, ledger: Ledger) -> Sequence[Job]:
        """Return what to run now, and enter new trials in the ledger; it may be nothing although more is to come."""

    def before(self, job: Job) -> None:  # noqa: B027
        """Take note that a job starts now."""

    def extend(self, trials: Sequence[Trial], ledger: Ledger) -> None:
        """Take more trials of a grid, once it is done: those that are not finished run next."""
        raise NotImplementedError("a search chooses its trials itself")


class GridAgenda(Agenda):
    """All that is left of a grid at once."""

    def __init__(
        self, trials: Sequence[Trial], jobs: Sequence[Job], mirror: Mirror,
        pack: Callable[[Sequence[Trial]], Iterable[Pack]],
    ) -> None:  # fmt: skip
        self.trials, self.n_goal, self.ahead = trials, len(trials), jobs
        self._mirror, self._pack, self._asked = mirror, pack, False

    @property
    def done(self) -> bool:
        """Whether it was asked."""
        return self._asked

    def next_jobs(self, ledger: Ledger) -> Sequence[Job]:
        """Return all jobs."""
        self._asked = True
        return self.ahead

    def extend(self, trials: Sequence[Trial], ledger: Ledger) -> None:
        """Plan packs of those that are not finished."""
        left = [trial for trial in trials if trial.trial_id not in ledger.scores]
        self.ahead, self._asked = [Job(pack=pack) for pack in self._pack(left)], False

    def before(self, job: Job) -> None:
        """Enqueue a pack's trials in Optuna; those that run again are there already."""
        if job.part is None and self.n_goal <= QUEUE_LIMIT:
            self._mirror.queue(job.pack)


class SearchAgenda(Agenda):
    """Within the space of each method's grid a pack at a time, until each method has its n_trials."""

    def __init__(
        self, study: Study, grid: Sequence[Trial], rows: Mapping[str, Mapping[str, Any]], mirror: Mirror,
        *, limits: Limits, family: Callable[[Trial], Hashable],
    ) -> None:  # fmt: skip
        self._study, self._mirror, self._limits, self._family = study, mirror, limits, family
        self._searches = MethodSearch.of_study(study, grid, mirror)
        self.trials = [trial for one in self._searches for trial in one.resume(rows).values()]
        self.n_goal = sum(one.n_wanted for one in self._searches)

    @property
    def done(self) -> bool:
        """Whether every method has its trials."""
        return all(one.n_left <= 0 for one in self._searches)

    def next_jobs(self, ledger: Ledger) -> Sequence[Job]:
        """Return new trials of one method, as many as a pack may hold."""
        one = next(one for one in self._searches if one.n_left > 0)
        new = one.next_trials(planner.pack_limit(one.template, self._limits), ledger.scores)
        if not self._mirror.alive:
            raise StoppedError(f"sampler {self._study.sampler} cannot go on without Optuna's storage; run again")
        ledger.add(new)
        return [Job(pack=pack) for pack in planner.plan(new, limits=self._limits, family=self._family)]
