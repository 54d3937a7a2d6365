"""The loop of one sweep: jobs from the agenda to the executor, records to disk, ledger and Optuna, then to the user."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from bench import searches, store
from bench.core import cells
from bench.core.cells import SCORE_COLUMNS
from bench.core.errors import one_line
from bench.core.record import Record, Status
from bench.core.spec import Pack, Study, Trial
from bench.executors import AbstractExecutor, Batch, StoppedError
from bench.schedule import estimate, planner
from bench.schedule.pack_sizes import Probe
from bench.schedule.planner import Limits
from bench.searches import Rungs
from bench.study import widen
from bench.study.borders import borders
from bench.sweep import planning
from bench.sweep.agenda import Agenda, GridAgenda, SearchAgenda
from bench.sweep.events import STATE, Event, Noted, Options, PackStarted, PackStored, Started, SweepSummary, Warned
from bench.sweep.forecast import Forecast
from bench.sweep.interrupt import Guard
from bench.sweep.ladder import Ladder, chosen_together
from bench.sweep.ledger import Ledger
from bench.sweep.optuna_mirror.mirror import ROW_COLUMNS, Mirror
from bench.sweep.optuna_mirror.search import Rows
from bench.sweep.planning import Job, Plan
from bench.sweep.rungs import RungAgenda


class Sweeper:
    """One run over one study directory, whose lock is held."""

    def __init__(
        self, study: Study, trials: Sequence[Trial], *, directory: Path, executor: AbstractExecutor, options: Options,
        on_event: Callable[[Event], None], family: Callable[[Trial], Hashable], guard: Guard,
    ) -> None:  # fmt: skip
        self.study, self.trials, self.directory, self.executor = study, trials, directory, executor
        self.options, self.on_event, self.family, self.guard = options, on_event, family, guard
        self.planned = searches.get(study.sampler).planned
        self.ledger = Ledger(trials, higher_is_better=options.higher_is_better)
        self.forecast = Forecast(options, estimate.read_calibration(directory.parent), slots=executor.slots)
        self.warnings: list[str] = []
        executor.tell, executor.expects = self.warn, self.forecast.measured

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
            self.work(self.agenda(mirror, rows, part_of), mirror)
        except KeyboardInterrupt:
            interrupted = True
        except StoppedError as error:
            stopped = str(error)
        finally:
            self.close(mirror)
        return self.summary(time.monotonic() - start, interrupted, stopped)

    def read(self) -> tuple[Rows, Mapping[str, str]]:
        """Set aside what is torn; return the finished rows by trial_id, and the part that each is in."""
        found = store.recover(self.directory)
        for finding in found.findings:
            self.warn(str(finding))
        table, lines = cells.own_rows(found.table, self.trials)
        for line in lines:
            self.warn(line)
        columns = list(dict.fromkeys([*SCORE_COLUMNS, *ROW_COLUMNS]))
        rows = {row["trial_id"]: row for row in table.select(columns).to_pylist()}
        self.ledger.open(rows)
        rungs, pruned = store.load_rungs(self.directory), store.load_pruned(self.directory)
        self.ledger.open_stopped(rungs.to_pylist(), pruned.to_pylist())
        return rows, found.part_of

    def agenda(self, mirror: Mirror, rows: Rows, part_of: Mapping[str, str]) -> Agenda:
        """Return what decides which trials run next."""
        if not self.planned:
            return self.search(mirror, rows)
        rungs = searches.rungs_of(self.study)
        return self.grid(mirror, rows, part_of) if rungs is None else self.halving(mirror, rows, rungs)

    def grid(self, mirror: Mirror, rows: Rows, part_of: Mapping[str, str]) -> Agenda:
        """Return what is left of a grid, then, if asked for, the rows that other versions of the code wrote."""
        plan = self.plan()
        mirror.recover_grid(self.trials, rows)
        jobs = [Job(pack=pack) for pack in plan.left]
        if self.options.rerun_stale:
            jobs += planning.again(
                self.ledger.trials, self.ledger.scores, part_of,
                source_hash=self.options.source_hash, limits=plan.limits, family=self.family,
            )  # fmt: skip
        return GridAgenda(
            self.trials, jobs, mirror, lambda some: planner.plan(some, limits=plan.limits, family=self.family)
        )

    def halving(self, mirror: Mirror, rows: Rows, rungs: Rungs) -> Agenda:
        """Return a grid whose cells are left out at rungs, with what is known of them."""
        ladder = self.ladder(mirror, self.plan().limits)
        mirror.recover_grid(self.trials, rows, pruned=list(self.pruned_rows().values()))
        return RungAgenda(self.trials, rungs, mirror, self.ledger, ladder=ladder, waiting=self.waiting)

    def ladder(self, mirror: Mirror, limits: Limits) -> Ladder:
        """Return what leads trials from rung to rung in packs."""
        from bench.engine.state import Shelf

        shelf = Shelf(self.directory / STATE, self.options.source_hash)

        def leave_out(found: Sequence[Mapping[str, Any]]) -> None:
            with self.guard.shield(), self.storing():
                store.write_pruned(self.directory, found)
                self.ledger.leave_out(found)
                mirror.leave_out(found)
            for row in found:
                shelf.drop(self.ledger.trials[row["trial_id"]])

        pack = functools.partial(planner.plan, limits=limits, family=self.family)
        spread = functools.partial(planning.spread, limits=limits, slots=self.executor.slots)
        return Ladder(prune=leave_out, step_of=shelf.step_of, pack=pack, spread=spread)

    def pruned_rows(self) -> Rows:
        """Return the rows of trials that were left out and have not been finished since, by trial_id."""
        rows = store.load_pruned(self.directory).to_pylist()
        return {row["trial_id"]: row for row in rows if row["trial_id"] in self.ledger.pruned}

    def plan(self) -> Plan:
        """Plan the grid as a preview does, after measuring which sizes of a pack pay."""

        def of(probe: Probe | None) -> Plan:
            return planning.plan(
                self.study, self.trials, finished=self.ledger.scores, results_dir=self.directory.parent,
                options=self.options, family=self.family, slots=self.executor.slots, probe=probe,
            )  # fmt: skip

        try:
            found = of(self.executor.seconds_per_trial_step)
        except OSError as error:
            text = f"{self.directory.parent}: measured pack sizes could not be kept: {error.strerror}"
            self.warn(f"{text}; they are not used")
            return of(None)
        for line in found.packing if found.measured else ():
            self.on_event(Noted(text=line))
        return found

    def search(self, mirror: Mirror, rows: Rows) -> Agenda:
        """Return the search of the study, taught by the rows of finished and pruned trials."""
        limits = planner.limits_for(self.study, self.options.limits)
        return SearchAgenda(
            self.study, self.trials, mirror, self.ledger, rows={**self.pruned_rows(), **rows}, limits=limits,
            ladder=self.ladder(mirror, limits), note=self.note, fits=self.options.fits,
        )  # fmt: skip

    def note(self, turn: Sequence[Trial]) -> None:
        """Put the trials that were chosen together on disk: a resumed search goes on with them."""
        records = self.waiting(turn)
        with self.guard.shield():
            self.keep(records, None)
            self.ledger.enter(records)

    def waiting(self, trials: Sequence[Trial]) -> list[Record]:
        """Return the records of trials that wait at step 0."""
        return chosen_together(trials, self.study.name, self.options)

    def work(self, agenda: Agenda, mirror: Mirror) -> None:
        """Run what the agenda asks for until it is done.

        Raises:
            KeyboardInterrupt: where a stop was asked for.
        """
        self.start(agenda)
        while not agenda.done or self.widen(agenda, mirror):
            if self.guard.asked:
                raise KeyboardInterrupt
            jobs = agenda.next_jobs(self.ledger)
            self.forecast.expect(job.pack for job in agenda.ahead)
            self.execute(jobs, agenda, mirror)
        if any(job.part is not None for job in agenda.ahead):  # the rows have changed under Optuna
            mirror.recover_grid(self.trials, self.read()[0])

    def widen(self, agenda: Agenda, mirror: Mirror) -> bool:
        """Add trials where the best ones lie on the border of what has ended; return whether there are some."""
        told = (
            ""
            if not searches.widens(self.study)
            else self.beyond(agenda, mirror)
            if self.planned
            else agenda.grow(self.ledger)
        )
        if told:
            self.on_event(Noted(text=f"best trials lie on the border: {told} added"))
        return bool(told)

    def beyond(self, agenda: Agenda, mirror: Mirror) -> str:
        """Add cells beyond the border of a grid; return them in words."""
        ledger = self.ledger
        if any(t not in ledger.scores and t not in ledger.pruned for t in ledger.trials):
            return ""  # what failed in this run may be the best cell: the next run tells
        more = widen.beyond(
            self.study,
            self.trials,
            ledger.scores,
            higher_is_better=ledger.higher_is_better,
            so_far=ledger.widened,
            fits=self.options.fits,
        )
        if not more:
            return ""
        ledger.widen(more)
        if any(one.trial_id in ledger.scores or one.trial_id in ledger.pruned for one in more):
            # of a run that was killed before Optuna was told of them
            rows = self.read()[0]
            mirror.recover_grid(tuple(ledger.trials.values()), rows, pruned=list(self.pruned_rows().values()))
        else:
            mirror.widen(tuple(ledger.trials.values()))
        agenda.extend(more, ledger)
        return widen.told({trial.cell: trial for trial in more}.values())

    def start(self, agenda: Agenda) -> None:
        """Say that work begins; warn of rows that other versions of the code wrote."""
        self.ledger.begin(agenda.trials, agenda.n_goal)
        stale = self.ledger.stale(self.options.source_hash)
        if stale and not self.options.rerun_stale:
            text = f"{len(stale)} finished rows were written by {len(set(stale))} other version(s) of the code"
            self.warn(f"{text} and are kept; --rerun-stale runs their trials again")
        self.forecast.expect(job.pack for job in agenda.ahead)
        self.on_event(
            Started(
                n_trials=agenda.n_goal,
                n_finished=self.ledger.n_finished,
                n_packs=len(agenda.ahead),
                estimate=self.forecast.remaining(),
            )
        )

    def execute(self, jobs: Sequence[Job], agenda: Agenda, mirror: Mirror) -> None:
        """Run packs; store and tell what they give as it comes.

        Raises:
            KeyboardInterrupt: where packs were not started because a stop was asked for.
        """
        index = {job.pack.pack_id: i for i, job in enumerate(jobs)}

        def starting() -> Iterator[Pack]:
            for i, job in enumerate(jobs):
                if self.guard.asked:
                    return
                agenda.before(job)
                self.on_event(PackStarted(pack=job.pack, index=i, n_packs=len(jobs)))
                yield job.pack

        ended = set[int]()
        with self.guard.patient(), closing(self.executor.stream_many(starting(), study=self.study.name)) as batches:
            for batch in batches:
                i = index[batch.pack.pack_id]
                self.take(batch, mirror, index=i, part=jobs[i].part)
                if batch.final:
                    ended.add(i)
        if self.guard.asked and len(ended) < len(jobs):
            raise KeyboardInterrupt

    def take(self, batch: Batch, mirror: Mirror, *, index: int, part: str | None) -> None:
        """Store and tell the records of a batch, and say so; an attempt that is repeated is only stored."""
        with self.guard.shield():
            self.keep(batch.records, part)
            self.ledger.enter(batch.records, final=batch.final)
            self.forget_state(batch.records)
            for record in batch.records if part is None and batch.final else ():
                mirror.tell(record)
        if not batch.final:
            self.warn(f"{batch.records[0].outcome.reason}; {len(batch.records)} trials run again")
            return
        self.forecast.done(batch.records, batch.pack)
        event = PackStored(
            records=tuple(batch.records),
            n_finished=self.ledger.n_finished,
            n_trials=self.ledger.n_goal,
            remaining=self.forecast.remaining(),
            best=self.ledger.best,
            n_pruned=self.ledger.n_pruned,
            n_widened=len(self.ledger.widened),
            share_saved=self.ledger.share_saved,
            index=index,
        )
        self.on_event(event)

    def keep(self, records: Sequence[Record], part: str | None) -> None:
        """Store records: the moment from which they count."""
        if part is None and (known := self.ledger.known(records)):
            raise RuntimeError(f"finished trials came back from the executor: {known}")
        with self.storing():
            store.write(self.directory, records, part=part)

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Stop the sweep where rows cannot be written inside."""
        try:
            yield
        except OSError as error:
            line = f"{error.filename or self.directory}: {error.strerror}; everything finished before is kept"
            raise StoppedError(one_line(f"{line}; free space and run again")) from error

    def forget_state(self, records: Sequence[Record]) -> None:
        """Remove what the engine saved of packs in mid-training: their records take its place.

        The states of single trials stay while these are paused.
        """
        names = [f"{pack_id}.safetensors" for pack_id in {record.pack_id for record in records}]
        names += [f"{r.trial.trial_id}-*.safetensors" for r in records if r.outcome.status.finished]
        for name in names if (self.directory / STATE).is_dir() else ():
            for path in (self.directory / STATE).glob(name):
                with suppress(OSError):  # a file that stays is of no use, and of no harm
                    path.unlink(missing_ok=True)

    def close(self, mirror: Mirror | None) -> None:
        """Tell Optuna what will not be finished, keep the measured speeds."""
        with self.guard.shield():
            if mirror is not None:
                mirror.summarise(self.ledger.trials)
                mirror.close()
            learnt = self.forecast.learnt()
            if learnt is not None:
                try:
                    estimate.write_calibration(self.directory.parent, learnt)
                except OSError as error:
                    self.warn(f"the measured speed could not be kept: {error.strerror}")

    def warn(self, text: str) -> None:
        """Tell the user, now and in the summary."""
        self.warnings.append(text)
        self.on_event(Warned(text=text))

    def summary(self, seconds: float, interrupted: bool, stopped: str | None) -> SweepSummary:
        """Sum up the study's trials."""
        ledger = self.ledger
        trials, mine, best = tuple(ledger.trials.values()), ledger.finished(), ledger.best_cells()
        return SweepSummary(
            directory=self.directory,
            n_trials=ledger.n_goal or len(trials),
            n_finished=len(mine),
            n_run=ledger.n_run,
            n_failed=ledger.n_failed,
            n_pruned=ledger.n_pruned,
            share_saved=ledger.share_saved,
            n_widened=len(ledger.widened),
            n_diverged=sum(score.status == Status.DIVERGED for score in mine),
            seconds=seconds,
            best=best,
            borders=borders(trials, best, self.study.grids) if self.planned else (),
            warnings=tuple(self.warnings),
            interrupted=interrupted,
            stopped=stopped,
        )
