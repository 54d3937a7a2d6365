"""What workers import in tests, of Ray or processes: a fake engine that may die, hang or fail by what files say.

And workers in this process, for tests of what the driver makes of them.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import store
from bench.core.record import Outcome
from bench.core.spec import Pack
from bench.executors import AbstractExecutor
from bench.executors._workers import Answer, Ready, Seat, Worker, WorkerOptions, WorkersExecutor
from bench.executors.local import LocalExecutor
from tests.support.sweep_helpers import PROVENANCE, FakeEngine, comparable

FAULTS = ("kill", "hang", "lose", "raise")
PAUSE = "pause-from-4"  # while this file is there, packs from the fourth one on wait


def make(scratch: Path, seconds: float, log_dir: Path) -> LocalExecutor[None]:
    """Return an executor whose packs take some seconds; `scratch` is where faults are ordered and work is noted."""

    def load(_: object) -> None:
        note(scratch, f"load {os.getpid()}")
        note(scratch, f"threads {os.environ.get('OMP_NUM_THREADS')}")

    def train(pack: Pack, _: None) -> Sequence[Outcome]:
        note(scratch, f"train {os.getpid()} {pack.pack_id}")
        while (scratch / PAUSE).exists() and len(notes(scratch, "train")) >= 4:
            time.sleep(0.05)
        obey(scratch)
        time.sleep(seconds)
        return FakeEngine()(pack, None)

    return LocalExecutor(load=load, train=train, provenance=PROVENANCE, metric_name="accuracy", log_dir=log_dir)


def note(scratch: Path, line: str) -> None:
    """Append a line to the notes: short appends are whole."""
    with open(scratch / "notes", "a", encoding="ascii") as stream:
        stream.write(line + "\n")


def notes(scratch: Path, kind: str) -> list[list[str]]:
    """Return the words after `kind` of the notes of that kind."""
    path = scratch / "notes"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return [line.split()[1:] for line in lines if line.split()[0] == kind]


def obey(scratch: Path) -> None:
    """Do what one order says, once: the worker that takes its file away is the one that is meant."""
    for fault in FAULTS:
        for order in sorted(scratch.glob(f"{fault}-*")):
            try:
                order.unlink()
            except FileNotFoundError:
                continue
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "hang":
                time.sleep(6000)
            if fault == "lose":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            raise RuntimeError(f"as ordered, on {socket.gethostname()}")


def rows(results: Path) -> list[dict[str, object]]:
    """Return the rows without the packs that they were trained in: several workers get smaller ones."""
    found = comparable(store.load(results / "s"))
    return [{name: value for name, value in row.items() if name not in ("pack_id", "pack_size")} for row in found]


@dataclass(kw_only=True, slots=True, eq=False)
class InlineSeat(Seat):
    """A worker in this process; `answer` is what it has to say."""

    number: int
    worker: Worker
    answer: Ready | Answer | None


class InlineExecutor(WorkersExecutor[InlineSeat]):
    """The driver's loop with workers in this process, on a clock that moves by `tick` whenever they are listened to.

    Of these numbers, counted as they start, are workers that never start (`hung`), that take a pack and are never heard
    of again (`silent`), or that give signs of life and no answer (`stuck`).
    """

    def __init__(
        self, make: Callable[[Path], AbstractExecutor], *, slots: int = 2, hung: Sequence[int] = (),
        silent: Sequence[int] = (), stuck: Sequence[int] = (), tick: float = 1.0, proof: Path | None = None,
        **options: object,
    ) -> None:  # fmt: skip
        super().__init__(
            provenance=PROVENANCE, metric_name="accuracy", options=WorkerOptions(**options),  # type: ignore[arg-type]
        )  # fmt: skip
        self.make, self.n_slots, self.tick, self.proof = make, slots, tick, proof
        self.hung, self.silent, self.stuck = frozenset(hung), frozenset(silent), frozenset(stuck)
        self.seconds, self.n_started, self.left_out = 0.0, 0, 0
        self.now = lambda: self.seconds

    @property
    def slots(self) -> int:
        """How many workers are wanted, without those that did not start."""
        return self.n_slots - self.left_out

    def _start(self, seats: list[InlineSeat]) -> InlineSeat:
        self.n_started += 1
        worker = Worker(self.make, self.proof)
        answer = None if self.n_started in self.hung else replace(worker.ready(), host=f"host {self.n_started}")
        return InlineSeat(number=self.n_started, worker=worker, answer=answer)

    def _give(self, seat: InlineSeat, pack: Pack, study: str) -> None:
        if seat.number not in self.silent | self.stuck:
            seat.answer = seat.worker.run(pack, study)

    def _heard(self, seats: list[InlineSeat]) -> list[InlineSeat]:
        heard = [seat for seat in seats if seat.answer is not None]
        self.seconds += self.tick
        return heard

    def _gave_sign(self, seat: InlineSeat) -> bool:
        return seat.number not in self.silent

    def _answer(self, seat: InlineSeat) -> Ready | Answer:
        answer, seat.answer = seat.answer, None
        assert answer is not None
        return answer

    def _kill(self, seat: InlineSeat) -> None:
        seat.answer = None
        seat.worker.close()

    def _late(self, seat: InlineSeat) -> str | None:
        return f"worker {seat.number} has not started"

    def _not_started(self, seat: InlineSeat, why: str) -> None:
        self.left_out += 1
        self.tell(why)

    def _no_worker(self) -> str:
        return "no worker"
