"""What runs next: an agenda is asked again and again, and answers from the ledger, until it is done."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from bench import pruners
from bench.core.cells import Score
from bench.core.record import Status
from bench.core.spec import Pack, Study, Trial
from bench.executors import StoppedError
from bench.schedule import planner
from bench.schedule.planner import Limits
from bench.sweep.ladder import Ladder
from bench.sweep.ledger import Ledger
from bench.sweep.optuna_mirror import pruning
from bench.sweep.optuna_mirror.mirror import Mirror
from bench.sweep.optuna_mirror.search import MethodSearch, Rows
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

    def grow(self, ledger: Ledger) -> str:
        """Take trials beyond the border of a search that is done; return where, in words: none where it is empty."""
        raise NotImplementedError("what a grid grows by follows from its cells")


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
    """Within the space of each method's grid a turn at a time, until each method has its n_trials.

    A turn is what a sampler is asked for at once. Its trials train to their end, or with a pruner from evaluation to
    evaluation, and the next turn begins when none of them is left: so the sampler knows the same in every run.
    """

    def __init__(
        self, study: Study, grid: Sequence[Trial], mirror: Mirror, ledger: Ledger, *, rows: Rows, limits: Limits,
        ladder: Ladder, note: Callable[[Sequence[Trial]], None], fits: Callable[[Trial], bool],
    ) -> None:  # fmt: skip
        """`rows` are those of finished and pruned trials; `note` puts a turn on disk, of which some may stop early."""
        self._study, self._mirror, self._limits, self._ladder, self._note = study, mirror, limits, ladder, note
        self._pruner = None if study.pruner is None else pruners.get(study.pruner)
        self._curves = {trial_id: row["curve"] or () for trial_id, row in rows.items()}
        self._searches = MethodSearch.of_study(study, grid, mirror, higher_is_better=ledger.higher_is_better, fits=fits)
        chosen = {trial_id: found[0] for trial_id, found in ledger.rungs.items() if 0 in found}
        paused = {trial_id: row for trial_id, row in chosen.items() if trial_id not in rows}
        for one in self._searches:
            one.resume(rows, paused, ledger.scores)
        self._turns = [(one, turn) for one in self._searches for turn in _turns(one, chosen, paused)]
        self._judges = {one.name: judge for one in self._searches if (judge := self._judge_of(one)) is not None}
        self.trials = [trial for one in self._searches for trial in one.trials.values()]
        self.n_goal = sum(one.reach.n_wanted for one in self._searches)
        ledger.widened = [trial for one in self._searches for trial in one.beyond(one.trials.values())]

    @property
    def done(self) -> bool:
        """Whether every method has its trials."""
        return not self._turns and all(one.n_left <= 0 for one in self._searches)

    def next_jobs(self, ledger: Ledger) -> Sequence[Job]:
        """Return the next leg of a turn; of a new one where none is left."""
        while self._turns:
            one, turn = self._turns[0]
            leg = self._ladder.climb(turn, self._steps(one), functools.partial(self._judge, ledger, one, turn), ledger)
            packs = self._ladder.packs([leg])
            if packs:
                return [Job(pack=pack) for pack in packs]
            self._turns.pop(0)
        if not self.done:
            one = next(one for one in self._searches if one.n_left > 0)
            self._turns.append((one, self._new_turn(one, ledger)))
            return self.next_jobs(ledger) if self._turns[0][1] else ()
        return ()

    def _new_turn(self, one: MethodSearch, ledger: Ledger) -> list[Trial]:
        """Return new trials of one method, as many as a pack may hold."""
        known = {*ledger.scores, *ledger.pruned}
        new = one.next_trials(planner.pack_limit(one.template, self._limits), known)
        if not self._mirror.alive:
            raise StoppedError(f"sampler {self._study.sampler} cannot go on without Optuna's storage; run again")
        ledger.add(new)
        ledger.widened += one.beyond(new)
        if self._pruner is not None and new:
            self._note(new)
        return new

    def grow(self, ledger: Ledger) -> str:
        """Let each search grow whose trials have all ended: what failed in this run may be the best of them."""
        ended = {*ledger.scores, *ledger.pruned}
        grown = {one.label: one.grow(ledger.scores) for one in self._searches if one.trials.keys() <= ended}
        found = {label: growth for label, growth in grown.items() if growth is not None}
        ledger.n_goal += sum(len(growth.values) for growth in found.values())
        return "; ".join(f"{label} {growth.told()}" for label, growth in found.items())

    def _steps(self, one: MethodSearch) -> tuple[int, ...]:
        """Return the steps of the evaluations at which trials of a search may stop."""
        budget = one.template.budget
        return () if self._pruner is None else tuple(range(budget.eval_steps, budget.max_steps, budget.eval_steps))

    def _judge_of(self, one: MethodSearch) -> pruning.Judge | None:
        budget = one.template.budget
        pruner = None if self._pruner is None else self._pruner.new(budget.eval_steps, budget.max_steps)
        return None if pruner is None else pruning.Judge(pruner, one.name)

    def _judge(
        self, ledger: Ledger, one: MethodSearch, turn: Sequence[Trial], here: Sequence[Trial], step: int
    ) -> dict[str, str]:
        """Return why the trials of a turn that the pruner stops at this evaluation are left out, by trial_id.

        Those of the turn count as at work, even where a sweep that was killed has finished some of them.
        """
        mine = {trial.trial_id for trial in turn}
        asked = [self._course(trial.trial_id, step, ledger, complete=False) for trial in here]
        others = [
            self._course(trial_id, step, ledger, complete=_is_ok(ledger.scores.get(trial_id)))
            for trial_id in one.trials
            if trial_id not in mine
        ]
        at_step = [course for course in asked if course.losses and course.losses[-1][0] == step]
        gone = [course for course in asked if course not in at_step]
        stopped = self._judges[one.name].stopped(at_step, [*gone, *others])
        return dict.fromkeys(stopped, f"pruner {self._study.pruner} at step {step}")

    def _course(self, trial_id: str, step: int, ledger: Ledger, *, complete: bool) -> pruning.Course:
        """Return a trial's training losses at evaluations up to a step; one that is not finite is infinite.

        Of a trial with legs they are those of its last rung, finished or not: of one that diverged in this run no more
        is known, and a resumed sweep must not know more.
        """
        at_rungs = ledger.rungs.get(trial_id)
        curve = (at_rungs[max(at_rungs)].get("curve") if at_rungs else self._curves.get(trial_id)) or ()
        points = [(p["step"], p["train_loss"]) for p in curve if p["step"] <= step and p["train_loss"] is not None]
        losses = tuple((at, loss if math.isfinite(loss) else math.inf) for at, loss in points)
        return pruning.Course(trial_id=trial_id, losses=losses, complete=complete and bool(losses))


def _turns(one: MethodSearch, chosen: Rows, paused: Rows) -> list[list[Trial]]:
    """Return the turns of a search of which trials are left: a turn's trials have rows at step 0, of one pack_id."""
    turns: dict[str, list[Trial]] = {}
    for trial_id, row in chosen.items():
        if trial_id in one.trials:
            turns.setdefault(row["pack_id"], []).append(one.trials[trial_id])
    return [turn for turn in turns.values() if any(trial.trial_id in paused for trial in turn)]


def _is_ok(score: Score | None) -> bool:
    return score is not None and score.status == Status.OK
