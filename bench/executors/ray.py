"""Runs packs on a Ray cluster: one actor for each place, which loads what it needs once; the driver stores the records.

A worker that dies or takes too long loses its pack's attempt, nothing else: the pack runs again on another one.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from bench.core.errors import BadInput, one_line
from bench.core.record import Outcome, Provenance, Record, Status
from bench.core.spec import Pack
from bench.executors._base import AbstractExecutor, Batch, StoppedError
from bench.executors.local import REASON_LENGTH, LostDevice, append_log

POLL_SECONDS = 1.0  # how often the clock is looked at; results and deaths are told at once


@dataclass(frozen=True, kw_only=True, slots=True)
class RayOptions:
    """What a worker takes of the cluster, and how long it is trusted."""

    num_cpus: float = 1
    num_gpus: float = 0
    max_workers: int | None = None  # None: as many as the cluster has room for
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
    """Lives in a process of the cluster; `make` builds its executor, given where to log, when the first pack comes."""

    def __init__(self, make: Callable[[Path], AbstractExecutor]) -> None:
        self._make = make
        self._executor: AbstractExecutor | None = None

    def ready(self) -> str:
        """Return where this is."""
        return socket.gethostname()

    def run(self, pack: Pack, study: str) -> Answer:
        """Return what became of a pack."""
        try:
            if self._executor is None:
                self._logs = tempfile.TemporaryDirectory(prefix="lorasweep-")
                self._executor = self._make(Path(self._logs.name))
            records: list[Record] = []
            for found in self._executor.stream(pack, study=study):
                records += found
        except LostDevice:
            return Answer(records=tuple(records), log=self._drain(), lost=True)
        except BadInput as error:
            got = None if error.got is None else str(error.got)
            return Answer(refused=(error.where, error.rule, got, error.way_out))
        return Answer(records=tuple(records), log=self._drain())

    def _drain(self) -> str:
        text = ""
        for path in sorted(Path(self._logs.name).glob("*.log")):
            text += path.read_text(encoding="utf-8")
            path.unlink()
        return text


@dataclass(kw_only=True, slots=True, eq=False)
class Seat:
    """One worker as the driver knows it. `waits_for` is its start, then the pack at work."""

    actor: Any
    waits_for: Any
    host: str | None = None  # None: it has not started
    pack: Pack | None = None
    since: float = 0.0  # time.monotonic() at which the pack was given to it


class RayExecutor(AbstractExecutor):
    """Runs packs on the cluster that this process is connected to, several at a time.

    `make` is sent to each worker once. `provenance` and `metric_name` are for the rows of attempts that are lost.
    """

    def __init__(
        self, *, make: Callable[[Path], AbstractExecutor], provenance: Provenance, metric_name: str,
        options: RayOptions | None = None, log_dir: Path | None = None,
    ) -> None:  # fmt: skip
        self.options = options or RayOptions()
        self._make, self._provenance, self._metric_name, self._log_dir = make, provenance, metric_name, log_dir
        self._shared: Any = None

    @property
    def slots(self) -> int:
        """How many workers the cluster has room for now, one at least: an autoscaler may bring a machine for it."""
        room: float = self.options.max_workers or 10_000
        have = ray.cluster_resources()
        for name, each in (("CPU", self.options.num_cpus), ("GPU", self.options.num_gpus)):
            if each:
                room = min(room, have.get(name, 0.0) // each)
        return max(1, int(room))

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
        seats: list[Seat] = []
        alive_at, left = time.monotonic(), True
        try:
            while True:
                self._fill(seats, wanted=self.slots if left else min(self.slots, len(again) + _busy(seats)))
                for seat in seats:
                    if seat.host is not None and seat.pack is None:
                        pack = next(source, None)
                        left = pack is not None
                        if pack is None and again:  # after all others: a pack that kills its workers holds none up
                            pack = again.popleft()
                        if pack is None:
                            break
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
                _kill(seat)

    def _fill(self, seats: list[Seat], *, wanted: int) -> None:
        while len(seats) < wanted:
            if self._shared is None:
                self._shared = ray.put(self._make)
            kind = ray.remote(Worker).options(
                num_cpus=self.options.num_cpus, num_gpus=self.options.num_gpus, max_restarts=0, max_task_retries=0
            )
            actor = kind.remote(self._shared)
            seats.append(Seat(actor=actor, waits_for=actor.ready.remote()))

    def _give(self, seat: Seat, pack: Pack, study: str) -> None:
        seat.pack, seat.since = pack, time.monotonic()
        seat.waits_for = seat.actor.run.remote(pack, study)

    def _ended(self, seats: list[Seat]) -> list[Seat]:
        """Wait until something happens; return the workers that started, answered, died or took too long."""
        waiting = {seat.waits_for: seat for seat in seats if seat.waits_for is not None}
        if not waiting:
            return []
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_SECONDS)
        limit = time.monotonic() - self.options.time_limit_seconds
        ended = [waiting[ref] for ref in done]
        return ended + [s for s in seats if s.pack is not None and s.since < limit and s not in ended]

    def _settle(self, seat: Seat, seats: list[Seat], lost: Counter[str], study: str) -> Batch | None:
        """Return what became of a worker's pack, or None where it had none; a worker that is lost leaves `seats`."""
        pack = seat.pack
        try:
            answer = ray.get(seat.waits_for, timeout=0)
        except RayError as error:  # GetTimeoutError, which is one, for a pack that took too long
            seats.remove(seat)
            _kill(seat)
            if pack is None:
                return None
            lost[pack.pack_id] += 1
            return self._lost(pack, _reason(error, seat), lost[pack.pack_id], study)
        seat.waits_for, seat.pack = None, None
        if pack is None:
            seat.host = str(answer)
            return None
        if answer.refused is not None:
            where, rule, got, way_out = answer.refused
            raise BadInput(where, rule, got=got, way_out=way_out)
        if answer.lost:
            seats.remove(seat)
            _kill(seat)
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

    def _no_worker(self) -> str:
        needs = f"{self.options.num_cpus:g} CPU" + (f" and {self.options.num_gpus:g} GPU" * bool(self.options.num_gpus))
        return (
            f"no worker of the Ray cluster has started for {self.options.start_seconds:.0f} s: each needs {needs}; "
            "see ray status, and run again"
        )


def _busy(seats: list[Seat]) -> int:
    return sum(seat.pack is not None for seat in seats)


def _kill(seat: Seat) -> None:
    try:
        ray.kill(seat.actor, no_restart=True)
    except RayError:  # it is dead, or nobody can say: its answer is not waited for any more
        return


def _reason(error: RayError, seat: Seat) -> str:
    """Return why an attempt was lost, on one line: what the worker raised, or that it died or took too long."""
    if isinstance(error, RayTaskError):
        return one_line(f"{type(error.cause).__name__}: {error.cause}")[: REASON_LENGTH - 40]
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return f"worker on {seat.host} killed: it took longer than the time limit"
    return f"worker on {seat.host} lost ({type(error).__name__})"
