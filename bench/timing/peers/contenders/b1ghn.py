"""B1ghn: several processes of B1gh on one GPU at once, one trial each: what a careful user does without packs.

Every process warms up, all wait for each other, then each times its own epoch. The rate is the sum of theirs: one that
others have left alone at the end runs faster, which is to their advantage.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from bench.core.spec import Precision
from bench.engine import hardware
from bench.timing.peers.contenders._base import Block, Contender, Session
from bench.timing.peers.contenders._peer import PeerSession
from bench.timing.peers.contenders.b1gh import HalfWeights
from bench.timing.peers.timer import Timer
from bench.timing.peers.work import Work

N_PROCESSES = (4, 8)


class Several(Contender):
    """Batches of similar length, bf16 weights, one process a trial."""

    label = "B1ghn B1gh, several processes at once"
    peer = True
    precisions: ClassVar[tuple[Precision, ...]] = ("bf16",)
    packages: ClassVar[tuple[str, ...]] = HalfWeights.packages

    def sizes_on(self, kind: str) -> tuple[int, ...]:
        """Return the numbers of processes; none on a CPU, whose cores one process fills."""
        return () if kind == "cpu" else N_PROCESSES

    def start(self, work: Work, *, precision: Precision, n_trials: int, repeat: int) -> Session:
        """Return a session of n_trials processes; they start when it trains."""
        return SeveralSession(work, precision, n_trials, repeat)


class SeveralSession(Session):
    """Processes that share a device."""

    def __init__(self, work: Work, precision: Precision, n_trials: int, repeat: int) -> None:
        self.work, self.precision, self.n_trials, self.repeat = work, precision, n_trials, repeat

    def train(self, timer: Timer) -> Block:
        """Time one epoch of each process, all at once.

        Raises:
            RuntimeError: where a process ends without an answer.
        """
        blocks = self._together()
        rate = sum(1 / block.seconds for block in blocks)
        computed = [block.computed_tokens for block in blocks]
        return replace(
            blocks[0], seconds=self.n_trials / rate, n_trials=self.n_trials,
            examples=sum(block.examples for block in blocks), tokens=sum(block.tokens for block in blocks),
            computed_tokens=sum(n for n in computed if n is not None),
            targets=None if blocks[0].targets is None else sum(block.targets or 0 for block in blocks),
        )  # fmt: skip

    def evaluate(self, timer: Timer) -> Block:
        """Refuse: only training is timed."""
        raise NotImplementedError

    def _together(self) -> list[Block]:
        spawned = multiprocessing.get_context("spawn")
        barrier = spawned.Barrier(self.n_trials)
        processes, ends = [], []
        for i in range(self.n_trials):
            mine, theirs = spawned.Pipe(duplex=False)
            settings = (self.work, self.precision, self.repeat + i, barrier, theirs)
            processes.append(spawned.Process(target=_one, args=settings, daemon=True))
            processes[-1].start()
            theirs.close()
            ends.append(mine)
        try:
            return [_answer(end) for end in ends]
        finally:
            for process in processes:
                process.kill()
                process.join()


def _answer(end: Connection) -> Block:
    try:
        found = end.recv()
    except EOFError:
        raise RuntimeError("a process of the peer ended without an answer; see its message above") from None
    assert isinstance(found, Block)
    return found


def _one(work: Work, precision: Precision, repeat: int, barrier: Any, end: Connection) -> None:
    """Train one trial in this process and send its block."""
    session = PeerSession(work, HalfWeights(), precision, repeat)
    try:
        session.warm_up()
        barrier.wait()
        end.send(session.timed(Timer(synchronize=hardware.waiting_for(work.device))))
    except BaseException:
        barrier.abort()  # whoever still waits for this process
        raise
    finally:
        session.close()


CONTENDER = Several()
