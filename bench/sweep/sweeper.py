"""The loop of one sweep: packs to the executor, records to disk, then to Optuna, then to the user."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import searches, store
from bench.core import cells
from bench.core.cells import SCORE_COLUMNS, Score
from bench.core.errors import one_line
from bench.core.record import Record, Status, to_row
from bench.core.spec import Pack, Study, Trial
from bench.executors import AbstractExecutor, Batch, StoppedError
from bench.schedule import estimate as cost
from bench.schedule import pack_sizes, planner
from bench.schedule.estimate import Calibration, Estimate, Workload
from bench.study.borders import borders
from bench.sweep.events import STATE, Event, Noted, Options, PackStarted, PackStored, Started, SweepSummary, Warned
from bench.sweep.interrupt import Guard
from bench.sweep.optuna_mirror.mirror import ROW_COLUMNS, Mirror
from bench.sweep.optuna_mirror.search import MethodSearch

QUEUE_LIMIT = 2000  # trials; beyond it Optuna's queue costs more than small trials do: finished ones are only mirrored
_UNIT_WORK = Workload(matmul_params=1, train_tokens=1.0, n_eval=0, eval_tokens=0.0)  # for the time left, not before


class Sweeper:
    """One run over one study directory, whose lock is held."""

    def __init__(
        self, study: Study, trials: Sequence[Trial], *, directory: Path, executor: AbstractExecutor, options: Options,
        on_event: Callable[[Event], None], family: Callable[[Trial], Hashable], guard: Guard,
    ) -> None:  # fmt: skip
        self.study, self.directory, self.executor, self.options = study, directory, executor, options
        self.trials = {trial.trial_id: trial for trial in trials}
        self.planned = searches.get(study.sampler).planned
        self.on_event, self.family, self.guard = on_event, family, guard
        self.limits = planner.limits_for(study, options.limits)
        self.scores: dict[str, Score] = {}  # of every finished row in the directory
        self.warnings: list[str] = []
        self.best: tuple[str, float] | None = None
        self.n_run = self.n_failed = self.n_goal = self.n_finished = 0
        self.prior = cost.read_calibration(directory.parent)
        self.fresh = Calibration(spent={})
        self.work: Counter[cost.Key] = Counter()  # left to do

    def run(self) -> SweepSummary:
        """Open, work, close, sum up."""
        start = time.monotonic()
        interrupted, stopped = False, None
        mirror: Mirror | None = None
        try:
            rows, part_of = self.read()
            mirror = Mirror(
                self.study, directory=self.directory, options=self.options, guard=self.guard, warn=self.warn
            )
            if self.planned:
                self.grid(mirror, rows, part_of)
            else:
                self.search(mirror, rows)
        except KeyboardInterrupt:
            interrupted = True
        except StoppedError as error:
            stopped = str(error)
        finally:
            self.close(mirror)
        return self.summary(time.monotonic() - start, interrupted, stopped)

    def read(self) -> tuple[dict[str, dict[str, Any]], Mapping[str, str]]:
        """Set aside what is torn; return the finished rows by trial_id, and the part that each is in."""
        found = store.recover(self.directory)
        for finding in found.findings:
            self.warn(str(finding))
        table, lines = cells.own_rows(found.table, self.trials.values())
        for line in lines:
            self.warn(line)
        columns = list(dict.fromkeys([*SCORE_COLUMNS, *ROW_COLUMNS]))
        rows = {row["trial_id"]: row for row in table.select(columns).to_pylist()}
        self.scores = {trial_id: Score.of_row(row) for trial_id, row in rows.items()}
        return rows, found.part_of

    def close(self, mirror: Mirror | None) -> None:
        """Tell Optuna what will not be finished, keep the measured speeds."""
        with self.guard.shield():
            if mirror is not None:
                mirror.close()
            if self.options.workload is not None and self.fresh.spent:
                try:
                    cost.write_calibration(self.directory.parent, self.fresh.over(self.prior))
                except OSError as error:
                    self.warn(f"the measured speed could not be kept: {error.strerror}")

    def grid(self, mirror: Mirror, rows: Mapping[str, Mapping[str, Any]], part_of: Mapping[str, str]) -> None:
        """Run every pack that is left of the grid, then, if asked to, the rows of other versions of the code."""
        trials = list(self.trials.values())
        self.settle_sizes(trials)
        mirror.recover_grid(trials, rows)
        packs = planner.plan(trials, limits=self.limits, family=self.family)
        left = planner.pending(packs, self.scores, limits=self.limits, family=self.family)
        todo = planner.spread(left, self.executor.slots)
        stale = self.stale_packs(part_of) if self.options.rerun_stale else []
        self.start(len(trials), [*todo, *(pack for pack, _ in stale)])
        queue = len(trials) <= QUEUE_LIMIT
        self.execute([*((pack, None) for pack in todo), *stale], mirror, before=mirror.queue if queue else None)
        if stale:  # the rows have changed under Optuna
            mirror.recover_grid(trials, self.read()[0])

    def settle_sizes(self, trials: Sequence[Trial]) -> None:
        """Find out how many trials a pack may hold so that none is slower than alone, where nobody has said it."""
        if self.study.pack_size is not None:
            return
        results_dir = self.directory.parent
        try:
            self.limits, lines = pack_sizes.settle(
                trials, self.limits, results_dir=results_dir, finished=self.scores, place=self.options.place,
                probe=self.executor.seconds_per_trial_step, family=self.family,
            )  # fmt: skip
        except OSError as error:
            self.warn(f"{results_dir}: measured pack sizes could not be kept: {error.strerror}; none was used")
            return
        for line in lines:
            self.on_event(Noted(text=line))

    def search(self, mirror: Mirror, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Choose within the space of each method's grid, a pack at a time, until each has its n_trials."""
        found = MethodSearch.of_study(self.study, list(self.trials.values()), mirror)
        self.trials = {}
        for one in found:
            self.trials |= one.resume(rows)
        self.start(sum(one.n_wanted for one in found), [])
        for one in found:
            while one.n_left > 0:
                if self.guard.asked:
                    raise KeyboardInterrupt
                new = one.next_trials(planner.pack_limit(one.template, self.limits), self.scores)
                if not mirror.alive:
                    raise StoppedError(f"sampler {self.study.sampler} cannot go on without Optuna's storage; run again")
                self.trials |= {trial.trial_id: trial for trial in new}
                packs = planner.plan(new, limits=self.limits, family=self.family)
                self.execute([(pack, None) for pack in packs], mirror)

    def stale_packs(self, part_of: Mapping[str, str]) -> list[tuple[Pack, str]]:
        """Return the trials whose rows come from another version of the code, with the part that holds them.

        Each part is replaced in place, so that its old rows count until the new ones are on disk.
        """
        parts: dict[str, list[Trial]] = {}
        for trial_id, trial in self.trials.items():
            if trial_id in self.scores and self.scores[trial_id].source_hash != self.options.source_hash:
                parts.setdefault(part_of[trial_id], []).append(trial)
        packs = {part: planner.plan(trials, limits=self.limits, family=self.family) for part, trials in parts.items()}
        return [(pack, part) for part, of_part in packs.items() for pack in of_part]

    def execute(
        self, jobs: Sequence[tuple[Pack, str | None]], mirror: Mirror, *, before: Callable[[Pack], None] | None = None
    ) -> None:  # fmt: skip
        """Run packs; store and tell what they give as it comes. A pack with a part holds trials that run again.

        `before` is called with each of the other packs just before it starts.

        Raises:
            KeyboardInterrupt: where packs were not started because a stop was asked for.
        """
        index = {pack.pack_id: i for i, (pack, _) in enumerate(jobs)}

        def starting() -> Iterator[Pack]:
            for i, (pack, part) in enumerate(jobs):
                if self.guard.asked:
                    return
                if before is not None and part is None:
                    before(pack)
                self.on_event(PackStarted(pack=pack, index=i, n_packs=len(jobs)))
                yield pack

        ended = set[int]()
        with self.guard.patient(), closing(self.executor.stream_many(starting(), study=self.study.name)) as batches:
            for batch in batches:
                i = index[batch.pack.pack_id]
                self.take(batch, mirror, index=i, part=jobs[i][1])
                if batch.final:
                    ended.add(i)
        if self.guard.asked and len(ended) < len(jobs):
            raise KeyboardInterrupt

    def take(self, batch: Batch, mirror: Mirror, *, index: int, part: str | None) -> None:
        """Store and tell the records of a batch, and say so; an attempt that is repeated is only stored."""
        with self.guard.shield():
            self.keep(batch.records, part, final=batch.final)
            self.forget_state(batch.records)
            for record in batch.records if part is None and batch.final else ():
                mirror.tell(record)
        if batch.final:
            self.progress(batch.records, index)
        else:
            self.warn(f"{batch.records[0].outcome.reason}; {len(batch.records)} trials run again")

    def forget_state(self, records: Sequence[Record]) -> None:
        """Remove what the engine saved of packs in mid-training: their records take its place."""
        for pack_id in {record.pack_id for record in records}:
            with suppress(OSError):  # a file that stays is of no use, and of no harm
                (self.directory / STATE / f"{pack_id}.safetensors").unlink(missing_ok=True)

    def keep(self, records: Sequence[Record], part: str | None, *, final: bool = True) -> None:
        """Store records: the moment from which they count."""
        known = [r.trial.trial_id for r in records if r.trial.trial_id in self.scores]
        if part is None and known:
            raise RuntimeError(f"finished trials came back from the executor: {known}")
        try:
            store.write(self.directory, records, part=part)
        except OSError as error:
            line = f"{error.filename or self.directory}: {error.strerror}; everything finished before is kept"
            raise StoppedError(one_line(f"{line}; free space and run again")) from error
        for record in records:
            if record.outcome.status.finished:
                self.n_run += 1
                self.n_finished += record.trial.trial_id not in self.scores
                self.scores[record.trial.trial_id] = Score.of_row(to_row(record))
                self.consider(self.scores[record.trial.trial_id])
            else:
                self.n_failed += final

    def progress(self, records: Sequence[Record], index: int) -> None:
        """Say what was stored, and how long the rest will take at the speed measured."""
        workload, place = self.options.workload or _UNIT_WORK, self.options.place
        self.fresh = self.fresh.with_pack(records, workload, place)
        self.work.subtract(cost.work_of((Pack(trials=(r.trial,)) for r in records), workload, place))
        event = PackStored(
            records=tuple(records),
            n_finished=self.n_finished,
            n_trials=self.n_goal,
            remaining=self.remaining(),
            best=self.best,
            index=index,
        )
        self.on_event(event)

    def remaining(self) -> Estimate | None:
        """Return the time left on a grid; None before anything was measured."""
        known = self.fresh if self.options.workload is None else self.fresh.over(self.prior)
        measured = known.spent or self.options.workload is not None
        if not measured or not self.work:
            return None
        alone = cost.seconds_for(self.work, known, self.options.place)
        return replace(alone, seconds=alone.seconds / self.executor.slots)

    def consider(self, score: Score) -> None:
        """Remember the best trial so far."""
        value = cells.objective(score, higher_is_better=self.options.higher_is_better)
        sign = 1 if self.options.higher_is_better else -1
        if score.status == Status.OK and (self.best is None or sign * value > sign * self.best[1]):
            self.best = (score.trial_id, value)

    def start(self, n_goal: int, todo: Sequence[Pack]) -> None:
        """Say that work begins; warn of rows that other versions of the code wrote."""
        self.n_goal = n_goal
        mine = self.finished_scores()
        self.n_finished = len(mine)
        for score in mine:
            self.consider(score)
        stale = [score.source_hash for score in mine if score.source_hash != self.options.source_hash]
        if stale and not self.options.rerun_stale:
            text = f"{len(stale)} finished rows were written by {len(set(stale))} other version(s) of the code"
            self.warn(f"{text} and are kept; --rerun-stale runs their trials again")
        self.work = cost.work_of(todo, self.options.workload or _UNIT_WORK, self.options.place)
        known = self.remaining() if self.options.workload is not None else None
        self.on_event(Started(n_trials=n_goal, n_finished=len(mine), n_packs=len(todo), estimate=known))

    def finished_scores(self) -> list[Score]:
        """Return the scores of the study's finished trials."""
        return [self.scores[trial_id] for trial_id in self.trials if trial_id in self.scores]

    def warn(self, text: str) -> None:
        """Tell the user, now and in the summary."""
        self.warnings.append(text)
        self.on_event(Warned(text=text))

    def summary(self, seconds: float, interrupted: bool, stopped: str | None) -> SweepSummary:
        """Sum up the study's trials."""
        trials, mine = tuple(self.trials.values()), self.finished_scores()
        best = cells.best_cells(trials, self.scores, higher_is_better=self.options.higher_is_better)
        return SweepSummary(
            directory=self.directory,
            n_trials=self.n_goal or len(trials),
            n_finished=len(mine),
            n_run=self.n_run,
            n_failed=self.n_failed,
            n_diverged=sum(score.status == Status.DIVERGED for score in mine),
            seconds=seconds,
            best=best,
            borders=borders(trials, best, self.study.grids) if self.planned else (),
            warnings=tuple(self.warnings),
            interrupted=interrupted,
            stopped=stopped,
        )
