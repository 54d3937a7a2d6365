"""Runs packs on several devices of this machine: one process for each (`_workers.py` says what becomes of packs).

A worker is a fresh interpreter, not a fork and not a child of `multiprocessing`: torch and CUDA start in it anew, with
the threads that it is told, and a script that calls `api.sweep` is not run again in it.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from bench.core.record import Provenance
from bench.core.spec import Pack
from bench.executors import _workers
from bench.executors._base import AbstractExecutor, StoppedError
from bench.executors._workers import Answer, LostWorker, Ready, Seat, Worker, WorkerOptions, WorkersExecutor

END_SECONDS = 10.0  # until a process that was killed is gone
_SERVE = "import sys; sys.path[:] = {path!r}; from bench.executors import processes; processes.serve(*{given})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one worker runs: `make` builds its executor in its process, on `threads` threads (None: torch's own)."""

    name: str
    make: Callable[[Path], AbstractExecutor]
    threads: int | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class ProcessSeat(Seat):
    """A process and the line to it."""

    place: Place
    process: subprocess.Popen[bytes]
    line: Connection
    signs: int  # the descriptor of a pipe: a byte for each sign of life


class ProcessExecutor(WorkersExecutor[ProcessSeat]):
    """Runs packs on these places at once, each in a process of its own."""

    def __init__(
        self, *, places: Sequence[Place], provenance: Provenance, metric_name: str,
        options: WorkerOptions | None = None, log_dir: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            provenance=provenance, metric_name=metric_name, options=options or WorkerOptions(), log_dir=log_dir
        )
        self._places = tuple(places)  # those whose process did not start are left out
        self._open: list[ProcessSeat] = []  # whose process was started and not ended
        self._idle: list[ProcessSeat] = []  # have started, and have no pack: the first workers of the next packs

    @property
    def slots(self) -> int:
        """How many places there are."""
        return max(1, len(self._places))

    def seconds_per_trial_step(self, pack: Pack) -> float | None:
        """Return what one worker says, which then is the first to train.

        Raises:
            StoppedError: where no process starts.
        """
        while not self._idle:
            seat = self._begun([])
            self._settle(seat, self._waited_for(seat), [seat], _workers.Work(study=""))
            self._idle += [seat] if seat.host is not None else []
        idle = self._idle[0]
        self._entrust(idle, pack)
        with suppress(OSError):  # it has died since: the line's end says so
            idle.line.send(("probe", pack))
        if self._waited_for(idle) is None:
            with suppress(EOFError, OSError):
                found: float | None = idle.line.recv()
                idle.pack = None
                return found
        self._idle.remove(idle)
        self._kill(idle)
        return None

    def _waited_for(self, seat: ProcessSeat) -> str | None:
        """Wait until a worker is heard, or for as long as it is trusted; then return what is said of it."""
        why = None
        while seat not in self._heard([seat]) and why is None:
            why = self._overdue(seat)
        return why

    def close(self) -> None:
        """End every process, whatever it does."""
        self._idle = []
        for seat in list(self._open):
            self._kill(seat)

    def _start(self, seats: list[ProcessSeat]) -> ProcessSeat:
        if self._idle:
            return self._idle.pop(0)
        taken = [id(seat.place) for seat in seats]
        place = next((one for one in self._places if id(one) not in taken), None)
        if place is None:
            raise StoppedError("no process has started on any device; run again")
        here, there = Pipe()
        signs, give_signs = os.pipe()
        os.set_blocking(signs, False)
        with there, open(give_signs, "wb"), tempfile.TemporaryFile() as order:
            pickle.dump(place.make, order)  # a file: a process that hangs before it reads it holds nobody up
            order.seek(0)
            # Descriptors keep their number in the child; stdin is its life line, which ends when this process does.
            given = there.fileno(), order.fileno(), give_signs
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE.format(path=sys.path, given=given)], stdin=subprocess.PIPE,
                pass_fds=given, env=_environment(place), start_new_session=True,
            )  # fmt: skip
        seat = ProcessSeat(place=place, process=process, line=here, signs=signs)
        self._open.append(seat)
        return seat

    def _rest(self, seat: ProcessSeat) -> None:
        """Keep a process that could take a pack: torch and the model are loaded in it."""
        if seat.host is None or seat.pack is not None:
            self._kill(seat)
        else:
            self._idle.append(seat)

    def _give(self, seat: ProcessSeat, pack: Pack, study: str) -> None:
        with suppress(OSError):  # as above
            seat.line.send(("run", pack, study))

    def _heard(self, seats: list[ProcessSeat]) -> list[ProcessSeat]:
        lines = {seat.line: seat for seat in seats}
        return [lines[line] for line in wait(list(lines), _workers.POLL_SECONDS) if isinstance(line, Connection)]

    def _gave_sign(self, seat: ProcessSeat) -> bool:
        try:
            return bool(os.read(seat.signs, select.PIPE_BUF))
        except BlockingIOError:
            return False

    def _answer(self, seat: ProcessSeat) -> Ready | Answer:
        try:
            answer: Ready | Answer = seat.line.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            how = _ending(seat.process)
            if seat.host is None:
                raise LostWorker(f"the process for {seat.place.name} {how} before it could start") from None
            raise LostWorker(f"worker on {seat.host} lost ({how})") from None
        return Ready(host=f"{seat.place.name}, process {seat.process.pid}") if isinstance(answer, Ready) else answer

    def _kill(self, seat: ProcessSeat) -> None:
        if not any(one is seat for one in self._open):
            return
        self._open = [one for one in self._open if one is not seat]
        seat.process.kill()  # nothing but the system itself can hold it up, also where it is stopped
        with suppress(subprocess.TimeoutExpired):
            seat.process.wait(END_SECONDS)
        seat.line.close()
        os.close(seat.signs)
        if seat.process.stdin is not None:
            seat.process.stdin.close()

    def _late(self, seat: ProcessSeat) -> str | None:
        return f"the process for {seat.place.name} has not started within {self.options.start_seconds:.0f} s"

    def _not_started(self, seat: ProcessSeat, why: str) -> None:
        self._places = tuple(place for place in self._places if place is not seat.place)
        if not self._places:
            raise StoppedError(why)
        self.tell(f"{why}; the sweep goes on without it, on {len(self._places)}")

    def _no_worker(self) -> str:
        return f"no process has started for {self.options.start_seconds:.0f} s; run again"


def serve(descriptor: int, order: int, signs: int) -> None:
    """Run, in a worker's process, the packs that come over a line, until it ends; a file holds what makes executors."""
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    threading.Thread(target=_give_signs, args=(signs,), daemon=True).start()
    line = Connection(descriptor)
    try:
        with open(order, "rb") as stream:
            worker = Worker(pickle.load(stream))  # written by the driver, and by nobody else: it has no name
        line.send(worker.ready())
        while True:
            what, *of = line.recv()
            line.send(getattr(worker, what)(*of))
    except (EOFError, OSError):
        return


def _end_with_the_driver() -> None:
    os.read(0, 1)
    os._exit(1)


def _give_signs(descriptor: int) -> None:
    os.set_blocking(descriptor, False)
    while True:
        with suppress(BlockingIOError):  # nobody listens for now
            os.write(descriptor, b".")
        time.sleep(_workers.BEAT_SECONDS)


def _environment(place: Place) -> dict[str, str]:
    threads = {} if place.threads is None else {"OMP_NUM_THREADS": str(place.threads)}
    return {**os.environ, **threads}


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return "closed its line"
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
