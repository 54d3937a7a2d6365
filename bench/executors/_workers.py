"""Packs on several workers at once, each a process that loads what it needs once; the driver stores the records.

A worker that dies, takes too long or gives no sign of life loses its pack's attempt, nothing else: the pack runs again
on another one, from the last state that was saved where both can read it. What a worker is and how it is reached,
subclasses say.
"""

from __future__ import annotations

import math
import socket
import tempfile
import time
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from bench.core.errors import BadInput
from bench.core.record import Outcome, Provenance, Record, Status
from bench.core.spec import Pack
from bench.executors._base import AbstractExecutor, Batch, StoppedError
from bench.executors.local import LostDevice, append_log

POLL_SECONDS = 1.0  # how often the clock is looked at; results and deaths are told at once
BEAT_SECONDS = 15.0  # between signs of life
# A pack may take so many times what the measured speeds say, so long at least: a first pack loads data and model, and
# devices of one kind differ in speed and in what else they do.
LIMIT_FACTOR, LEAST_LIMIT_SECONDS = 20.0, 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """How long a worker is trusted."""

    time_limit_seconds: float | None = None  # of one pack; then its worker is killed. None: by what it should take
    silence_seconds: float = 600.0  # without a sign of life of a worker that has a pack; then it is killed
    max_attempts: int = 3  # of one pack in one sweep
    start_seconds: float = 300.0  # for a worker to start


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a worker sends back: records and tracebacks of a pack, or the bad input that it met."""

    records: tuple[Record, ...] = ()
    log: str = ""
    refused: tuple[str, str, str | None, str] | None = None  # where, rule, got, way_out
    lost: bool = False  # the worker's device: it can do nothing more, other workers can
    lacks: bool = False  # files that `take` brings; the pack then runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A worker has started: where it is, and whether what it saves of a pack can be read by the others."""

    host: str
    shares_state: bool = True


class Lacking(Exception):
    """Files are not where this worker can read them; `receive` puts them there."""

    def __init__(self, receive: Callable[[Mapping[str, bytes]], None]) -> None:
        super().__init__("files of the model are not here")
        self.receive = receive


class Worker:
    """Lives in a process of its own; `make` builds its executor, given where to log, when the first pack comes.

    `proof` is a file that the driver wrote where states of packs lie: who sees it shares them.
    """

    def __init__(self, make: Callable[[Path], AbstractExecutor], proof: Path | None = None) -> None:
        self._make, self._proof = make, proof
        self._lacking: tuple[Lacking, Pack, str] | None = None
        self._executor: AbstractExecutor | None = None
        self._logs: tempfile.TemporaryDirectory[str] | None = None

    def ready(self) -> Ready:
        """Return where this is."""
        return Ready(host=socket.gethostname(), shares_state=self._proof is None or self._proof.is_file())

    def beat(self) -> None:
        """Give a sign of life."""

    def run(self, pack: Pack, study: str) -> Answer:
        """Return what became of a pack."""
        records: list[Record] = []
        try:
            for found in self._made().stream(pack, study=study):
                records += found
        except LostDevice:
            return Answer(records=tuple(records), log=self._drain(), lost=True)
        except Lacking as error:
            self._lacking = (error, pack, study)
            return Answer(lacks=True)
        except BadInput as error:
            got = None if error.got is None else str(error.got)
            return Answer(refused=(error.where, error.rule, got, error.way_out))
        return Answer(records=tuple(records), log=self._drain())

    def take(self, files: Mapping[str, bytes]) -> Answer:
        """Return what became of the pack for which files were lacking, now that they are here."""
        assert self._lacking is not None
        error, pack, study = self._lacking
        error.receive(files)
        answer = self.run(pack, study)
        if answer.lacks:
            raise RuntimeError("the files of the model came, and are not the driver's")
        return answer

    def probe(self, pack: Pack) -> float | None:
        """Return what `seconds_per_trial_step` of the executor does; None where it cannot be told."""
        try:
            return self._made().seconds_per_trial_step(pack)
        except BadInput:  # the run itself then tells why
            return None

    def _made(self) -> AbstractExecutor:
        if self._executor is None:
            self._logs = self._logs or tempfile.TemporaryDirectory(prefix="lorasweep-")
            self._executor = self._make(Path(self._logs.name))
        return self._executor

    def close(self) -> None:
        """Remove what it wrote."""
        if self._logs is not None:
            self._logs.cleanup()

    def _drain(self) -> str:
        text = ""
        for path in sorted(Path(self._logs.name).glob("*.log")) if self._logs is not None else ():
            text += path.read_text(encoding="utf-8")
            path.unlink()
        return text


_UNSHARED = "its workers do not share the directory of results"


class LostWorker(Exception):
    """A worker can give no answer any more; the text says why."""


@dataclass(kw_only=True, slots=True, eq=False)
class Seat:
    """One worker as the driver knows it."""

    host: str | None = None  # None: it has not started
    pack: Pack | None = None
    since: float = 0.0  # when it was begun, then when it was given its pack
    limit: float = math.inf  # seconds that its pack may take
    sign_at: float = 0.0  # of life, the last
    shares_state: bool = True


AnySeat = TypeVar("AnySeat", bound=Seat)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What one call knows of its packs."""

    study: str
    again: deque[Pack] = field(default_factory=deque)  # lost, or left over; they run after all others
    lost: Counter[str] = field(default_factory=Counter)  # attempts, by pack_id
    unsaved: set[str] = field(default_factory=set)  # pack_ids of attempts whose states nobody else can read
    whole: dict[str, Pack] = field(default_factory=dict)  # by the pack_id of what is left over: the pack that was given

    def given(self, pack: Pack) -> Pack:
        """Return the pack that was given, of which this one is all or what was left over."""
        return self.whole.get(pack.pack_id, pack)


class WorkersExecutor(AbstractExecutor, Generic[AnySeat]):
    """Runs packs on workers, several at a time. `provenance` and `metric_name` are for attempts that are lost."""

    now: Callable[[], float] = staticmethod(time.monotonic)

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
    def _gave_sign(self, seat: AnySeat) -> bool:
        """Return whether a worker has given a sign of life since this was last asked."""

    @abstractmethod
    def _answer(self, seat: AnySeat) -> Ready | Answer | None:
        """Return that a worker has started, or what became of its pack, once it was heard; None: it goes on.

        Raises:
            LostWorker: where it has died.
        """

    @abstractmethod
    def _kill(self, seat: AnySeat) -> None:
        """End a worker, whatever it does."""

    @abstractmethod
    def _no_worker(self) -> str:
        """Say that no worker has started for a while."""

    @abstractmethod
    def _late(self, seat: AnySeat) -> str | None:
        """Say that a worker has not started in time; None where it may be waited for as long as others work."""

    @abstractmethod
    def _not_started(self, seat: AnySeat, why: str) -> None:
        """Take note of a worker that died, or was killed, before it had started.

        Raises:
            StoppedError: where no other can start.
        """

    def stream(self, pack: Pack, *, study: str) -> Iterator[list[Record]]:
        """Yield the records of one pack, lost attempts left out."""
        for batch in self.stream_many([pack], study=study):
            if batch.final:
                yield list(batch.records)

    def stream_many(self, packs: Iterable[Pack], *, study: str) -> Generator[Batch, None, None]:
        """Yield the records of packs in the order in which they end; then let the workers rest.

        Raises:
            StoppedError: where no worker has started for a while.
            BadInput: what a worker met.
        """
        source, work = iter(packs), Work(study=study)
        seats: list[AnySeat] = []
        alive_at, left = self.now(), True
        try:
            while True:
                wanted = self.slots if left else min(self.slots, len(work.again) + _busy(seats))
                while len(seats) < wanted:
                    seats.append(self._begun(seats))
                for seat in seats:
                    if seat.host is not None and seat.pack is None:
                        pack = next(source, None)
                        left = pack is not None
                        if pack is None and work.again:  # a pack that kills its workers holds none of the others up
                            pack = work.again.popleft()
                        if pack is None:
                            break
                        self._entrust(seat, pack)
                        if work.lost[pack.pack_id] and (pack.pack_id in work.unsaved or not seat.shares_state):
                            self.tell(f"a pack runs again from its first step on {seat.host}: {_UNSHARED}")
                        self._give(seat, pack, study)
                if not left and not work.again and not _busy(seats):
                    return
                for seat, why in self._ended(seats):
                    batch = self._settle(seat, why, seats, work)
                    if batch is not None:
                        yield batch
                alive_at = self.now() if any(seat.host for seat in seats) else alive_at
                if self.now() - alive_at > self.options.start_seconds:
                    raise StoppedError(self._no_worker())
        finally:
            for seat in seats:
                self._rest(seat)

    def _rest(self, seat: AnySeat) -> None:
        """Take a worker for which this call has no more packs; the next call would start another."""
        self._kill(seat)

    def _begun(self, seats: list[AnySeat]) -> AnySeat:
        seat = self._start(seats)
        if seat.host is None:
            seat.since = self.now()
        return seat

    def _entrust(self, seat: AnySeat, pack: Pack) -> None:
        """Note that a worker gets a pack now."""
        limit = self.options.time_limit_seconds
        if limit is None:
            expected = self.expects(pack)
            limit = math.inf if expected is None else max(LEAST_LIMIT_SECONDS, LIMIT_FACTOR * expected)
        seat.pack, seat.since, seat.sign_at, seat.limit = pack, self.now(), self.now(), limit

    def _ended(self, seats: list[AnySeat]) -> list[tuple[AnySeat, str | None]]:
        """Return the workers that started, answered or died, and those whose time is up with what is said of them."""
        heard = self._heard(seats)
        late = [(seat, why) for seat in seats if seat not in heard and (why := self._overdue(seat)) is not None]
        return [*((seat, None) for seat in heard), *late]

    def _overdue(self, seat: AnySeat) -> str | None:
        """Say what a worker is killed for, None where it has time left."""
        seconds = self.now() - seat.since
        if self._gave_sign(seat):
            seat.sign_at = self.now()
        if seat.host is None:
            return self._late(seat) if seconds > self.options.start_seconds else None
        if seat.pack is None:
            return None
        if seconds > seat.limit:
            return f"worker on {seat.host} killed: it took longer than the time limit, {seat.limit:.0f} s"
        silent = self.now() - seat.sign_at
        if silent > self.options.silence_seconds:
            return f"worker on {seat.host} killed: it gave no sign of life for {silent:.0f} s"
        return None

    def _settle(self, seat: AnySeat, why: str | None, seats: list[AnySeat], work: Work) -> Batch | None:
        """Return what became of a worker's pack, or None where it had none; a worker that is lost leaves `seats`."""
        pack = seat.pack
        try:
            if why is not None:
                raise LostWorker(why)
            answer = self._answer(seat)
        except LostWorker as error:
            seats.remove(seat)
            self._kill(seat)
            if seat.host is None:
                self._not_started(seat, str(error))
            return None if pack is None else self._lost(pack, seat, str(error), work)
        if answer is None:
            return None
        if isinstance(answer, Ready):
            seat.host, seat.shares_state = answer.host, answer.shares_state
            return None
        assert pack is not None
        seat.pack = None
        if answer.refused is not None:
            where, rule, got, way_out = answer.refused
            raise BadInput(where, rule, got=got, way_out=way_out)
        if answer.lost:
            seats.remove(seat)
            self._kill(seat)
            if not answer.records:
                return self._lost(pack, seat, f"worker on {seat.host} lost its device", work)
            self._leave_over(pack, answer.records, work, host=seat.host)
        if self._log_dir is not None and answer.log:
            append_log(self._log_dir / f"{pack.pack_id}.log", answer.log)
        return Batch(pack=work.given(pack), records=answer.records)

    def _leave_over(self, pack: Pack, records: Sequence[Record], work: Work, *, host: str | None) -> None:
        """Put what was not reached of a pack, whose worker has lost its device, to the packs that run again."""
        done = {record.trial.trial_id for record in records}
        trials = tuple(trial for trial in pack.trials if trial.trial_id not in done)
        if trials:
            rest = replace(pack, trials=trials)
            work.whole[rest.pack_id] = work.given(pack)
            work.again.append(rest)
            left = f"{len(trials)} of {pack.size} trials"
            self.tell(f"worker on {host} lost its device; what waited of its pack ({left}) runs on another one")

    def _lost(self, pack: Pack, seat: AnySeat, reason: str, work: Work) -> Batch:
        """Return the records of an attempt that was lost; the last one allowed is final, else the pack runs again."""
        work.lost[pack.pack_id] += 1
        n = work.lost[pack.pack_id]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = f"{reason}, attempt {n} of {self.options.max_attempts}"
        outcome = Outcome(
            status=Status.FAILED, reason=line, metric_name=self._metric_name, steps_done=0, started_at=now
        )
        first = Record(
            study=work.study, trial=pack.trials[0], pack_id=pack.pack_id, pack_size=pack.size, outcome=outcome,
            provenance=self._provenance,
        )  # fmt: skip
        records = tuple(replace(first, trial=trial) for trial in pack.trials)
        final = n >= self.options.max_attempts
        if not final:
            work.again.append(pack)
            if not seat.shares_state:
                work.unsaved.add(pack.pack_id)
        return Batch(pack=work.given(pack), records=records, final=final)


def _busy(seats: list[AnySeat]) -> int:
    return sum(seat.pack is not None for seat in seats)
