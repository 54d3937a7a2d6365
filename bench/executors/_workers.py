"""Packs on several workers at once, each a process that loads what it needs once; the driver stores the records.

A worker that dies or takes too long loses its pack's attempt, nothing else: the pack runs again on another one. What a
worker is and how it is reached, subclasses say.
"""

from __future__ import annotations

import socket
import tempfile
import time
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from bench.core.errors import BadInput
from bench.core.record import Outcome, Provenance, Record, Status
from bench.core.spec import Pack
from bench.executors._base import AbstractExecutor, Batch, StoppedError
from bench.executors.local import LostDevice, append_log

POLL_SECONDS = 1.0  # how often the clock is looked at; results and deaths are told at once


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """How long a worker is trusted."""

    time_limit_seconds: float = 3600.0  # of one pack; then its worker is killed
    max_attempts: int = 3  # of one pack in one sweep
    start_seconds: float = 300.0  # without any worker; then the sweep stops


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a worker sends back: records and tracebacks of a pack, or the bad input that it met."""

    records: tuple[Record, ...] = ()
    log: str = ""
    refused: tuple[str, str, str | None, str] | None = None  # where, rule, got, way_out
    lost: bool = False  # the worker's device: it can do nothing more, other workers can


class Worker:
    """Lives in a process of its own; `make` builds its executor, given where to log, when the first pack comes."""

    def __init__(self, make: Callable[[Path], AbstractExecutor]) -> None:
        self._make = make
        self._executor: AbstractExecutor | None = None

    def ready(self) -> str:
        """Return where this is."""
        return socket.gethostname()

    def run(self, pack: Pack, study: str) -> Answer:
        """Return what became of a pack."""
        records: list[Record] = []
        try:
            for found in self._made().stream(pack, study=study):
                records += found
        except LostDevice:
            return Answer(records=tuple(records), log=self._drain(), lost=True)
        except BadInput as error:
            got = None if error.got is None else str(error.got)
            return Answer(refused=(error.where, error.rule, got, error.way_out))
        return Answer(records=tuple(records), log=self._drain())

    def probe(self, pack: Pack) -> float | None:
        """Return what `seconds_per_trial_step` of the executor does; None where it cannot be told."""
        try:
            return self._made().seconds_per_trial_step(pack)
        except BadInput:  # the run itself then tells why
            return None

    def _made(self) -> AbstractExecutor:
        if self._executor is None:
            self._logs = tempfile.TemporaryDirectory(prefix="lorasweep-")
            self._executor = self._make(Path(self._logs.name))
        return self._executor

    def _drain(self) -> str:
        text = ""
        for path in sorted(Path(self._logs.name).glob("*.log")):
            text += path.read_text(encoding="utf-8")
            path.unlink()
        return text


class LostWorker(Exception):
    """A worker can give no answer any more; the text says why."""


@dataclass(kw_only=True, slots=True, eq=False)
class Seat:
    """One worker as the driver knows it."""

    host: str | None = None  # None: it has not started
    pack: Pack | None = None
    since: float = 0.0  # time.monotonic() at which the pack was given to it


AnySeat = TypeVar("AnySeat", bound=Seat)


class WorkersExecutor(AbstractExecutor, Generic[AnySeat]):
    """Runs packs on workers, several at a time. `provenance` and `metric_name` are for attempts that are lost."""

    def __init__(
        self, *, provenance: Provenance, metric_name: str, options: WorkerOptions, log_dir: Path | None = None
    ) -> None:
        self.options = options
        self._provenance, self._metric_name, self._log_dir = provenance, metric_name, log_dir

    @abstractmethod
    def _start(self, seats: list[AnySeat]) -> AnySeat:
        """Start a worker beside these."""

    @abstractmethod
    def _give(self, seat: AnySeat, pack: Pack, study: str) -> None:
        """Send a pack to a worker that has none."""

    @abstractmethod
    def _heard(self, seats: list[AnySeat]) -> list[AnySeat]:
        """Wait until something happens, POLL_SECONDS at most; return the workers that started, answered or died."""

    @abstractmethod
    def _answer(self, seat: AnySeat) -> str | Answer:
        """Return where a worker has started, or what became of its pack.

        Raises:
            LostWorker: where it has died, or has not answered yet.
        """

    @abstractmethod
    def _kill(self, seat: AnySeat) -> None:
        """End a worker, whatever it does."""

    @abstractmethod
    def _no_worker(self) -> str:
        """Say that no worker has started for a while."""

    def stream(self, pack: Pack, *, study: str) -> Iterator[list[Record]]:
        """Yield the records of one pack, lost attempts left out."""
        for batch in self.stream_many([pack], study=study):
            if batch.final:
                yield list(batch.records)

    def stream_many(self, packs: Iterable[Pack], *, study: str) -> Generator[Batch, None, None]:
        """Yield the records of packs in the order in which they end; kill every worker at the end.

        Raises:
            StoppedError: where no worker has started for a while.
            BadInput: what a worker met.
        """
        source, again, lost = iter(packs), deque[Pack](), Counter[str]()
        seats: list[AnySeat] = []
        alive_at, left = time.monotonic(), True
        try:
            while True:
                wanted = self.slots if left else min(self.slots, len(again) + _busy(seats))
                while len(seats) < wanted:
                    seats.append(self._start(seats))
                for seat in seats:
                    if seat.host is not None and seat.pack is None:
                        pack = next(source, None)
                        left = pack is not None
                        if pack is None and again:  # after all others: a pack that kills its workers holds none up
                            pack = again.popleft()
                        if pack is None:
                            break
                        seat.pack, seat.since = pack, time.monotonic()
                        self._give(seat, pack, study)
                if not left and not again and not _busy(seats):
                    return
                for seat in self._ended(seats):
                    batch = self._settle(seat, seats, lost, study)
                    if batch is not None:
                        if not batch.final:
                            again.append(batch.pack)
                        yield batch
                alive_at = time.monotonic() if any(seat.host for seat in seats) else alive_at
                if time.monotonic() - alive_at > self.options.start_seconds:
                    raise StoppedError(self._no_worker())
        finally:
            for seat in seats:
                self._kill(seat)

    def _ended(self, seats: list[AnySeat]) -> list[AnySeat]:
        """Return the workers that started, answered, died or took too long."""
        heard = self._heard(seats)
        limit = time.monotonic() - self.options.time_limit_seconds
        return heard + [s for s in seats if s.pack is not None and s.since < limit and s not in heard]

    def _settle(self, seat: AnySeat, seats: list[AnySeat], lost: Counter[str], study: str) -> Batch | None:
        """Return what became of a worker's pack, or None where it had none; a worker that is lost leaves `seats`."""
        pack = seat.pack
        try:
            answer = self._answer(seat)
        except LostWorker as error:
            seats.remove(seat)
            self._kill(seat)
            if pack is None:
                return None
            lost[pack.pack_id] += 1
            return self._lost(pack, str(error), lost[pack.pack_id], study)
        seat.pack = None
        if pack is None or isinstance(answer, str):
            seat.host = str(answer)
            return None
        if answer.refused is not None:
            where, rule, got, way_out = answer.refused
            raise BadInput(where, rule, got=got, way_out=way_out)
        if answer.lost:
            seats.remove(seat)
            self._kill(seat)
        if self._log_dir is not None and answer.log:
            append_log(self._log_dir / f"{pack.pack_id}.log", answer.log)
        return Batch(pack=pack, records=answer.records)

    def _lost(self, pack: Pack, reason: str, n: int, study: str) -> Batch:
        """Return the records of an attempt that was lost; the last one allowed is final."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = f"{reason}, attempt {n} of {self.options.max_attempts}"
        outcome = Outcome(
            status=Status.FAILED, reason=line, metric_name=self._metric_name, steps_done=0, started_at=now
        )
        first = Record(
            study=study, trial=pack.trials[0], pack_id=pack.pack_id, pack_size=pack.size, outcome=outcome,
            provenance=self._provenance,
        )  # fmt: skip
        records = tuple(replace(first, trial=trial) for trial in pack.trials)
        return Batch(pack=pack, records=records, final=n >= self.options.max_attempts)


def took_too_long(host: str | None) -> LostWorker:
    """Return what is said of a worker that is killed for its time."""
    return LostWorker(f"worker on {host} killed: it took longer than the time limit")


def _busy(seats: list[AnySeat]) -> int:
    return sum(seat.pack is not None for seat in seats)
