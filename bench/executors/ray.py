"""Runs packs on a Ray cluster: one actor for each place (`_workers.py` says what becomes of packs)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from bench.core.errors import one_line
from bench.core.record import Provenance
from bench.core.spec import Pack
from bench.executors import _workers
from bench.executors._base import AbstractExecutor
from bench.executors._workers import Answer, LostWorker, Ready, Seat, Worker, WorkerOptions, WorkersExecutor
from bench.executors.local import REASON_LENGTH

_LIFE = "life"


@dataclass(frozen=True, kw_only=True, slots=True)
class RayOptions(WorkerOptions):
    """What a worker takes of the cluster, and how long it is trusted."""

    num_cpus: float = 1
    num_gpus: float = 0
    max_workers: int | None = None  # None: as many as the cluster has room for


@dataclass(kw_only=True, slots=True, eq=False)
class RaySeat(Seat):
    """An actor. `waits_for` is its start, then the pack at work; `sign` the sign of life that was asked for."""

    actor: Any
    waits_for: Any
    sign: Any = None
    sign_asked_at: float = -math.inf


class RayExecutor(WorkersExecutor[RaySeat]):
    """Runs packs on the cluster that this process is connected to, several at a time.

    `make` is sent to each worker once, what `files` returns to those that lack it. `proof` is a file beside which
    states of packs are saved by workers that see it (`Worker`).
    """

    options: RayOptions

    def __init__(
        self, *, make: Callable[[Path], AbstractExecutor], provenance: Provenance, metric_name: str,
        options: RayOptions | None = None, log_dir: Path | None = None,
        files: Callable[[], Mapping[str, bytes]] = dict, proof: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            provenance=provenance, metric_name=metric_name, options=options or RayOptions(), log_dir=log_dir
        )
        self._make, self._files, self._proof = make, files, proof
        self._shared: Any = None
        self._sent: Any = None  # the files, once a worker has lacked them

    def close(self) -> None:
        """Take away the file by which workers knew the directory of results."""
        if self._proof is not None:
            with suppress(OSError):
                self._proof.unlink(missing_ok=True)

    @property
    def slots(self) -> int:
        """How many workers the cluster has room for now, one at least: an autoscaler may bring a machine for it."""
        room: float = self.options.max_workers or 10_000
        have = ray.cluster_resources()
        for name, each in (("CPU", self.options.num_cpus), ("GPU", self.options.num_gpus)):
            if each:
                room = min(room, have.get(name, 0.0) // each)
        return max(1, int(room))

    def _start(self, seats: list[RaySeat]) -> RaySeat:
        if self._shared is None:
            self._shared = ray.put(self._make)
        # a group of its own: signs of life are given while a pack is at work
        kind = ray.remote(
            concurrency_groups={_LIFE: 1}, num_cpus=self.options.num_cpus, num_gpus=self.options.num_gpus,
            max_restarts=0, max_task_retries=0,
        )(Worker)  # fmt: skip
        actor = kind.remote(self._shared, self._proof)
        return RaySeat(actor=actor, waits_for=actor.ready.remote())

    def _give(self, seat: RaySeat, pack: Pack, study: str) -> None:
        seat.waits_for = seat.actor.run.remote(pack, study)

    def _heard(self, seats: list[RaySeat]) -> list[RaySeat]:
        waiting = {seat.waits_for: seat for seat in seats if seat.waits_for is not None}
        if not waiting:
            return []
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=_workers.POLL_SECONDS)
        return [waiting[ref] for ref in done]

    def _gave_sign(self, seat: RaySeat) -> bool:
        """Return whether no sign that was asked for is missing."""
        if seat.sign is not None and ray.wait([seat.sign], timeout=0)[0]:
            seat.sign = None
        answered = seat.sign is None
        if answered and self.now() - seat.sign_asked_at > _workers.BEAT_SECONDS:
            seat.sign, seat.sign_asked_at = seat.actor.beat.options(concurrency_group=_LIFE).remote(), self.now()
        return answered

    def _answer(self, seat: RaySeat) -> Ready | Answer | None:
        try:
            answer: Ready | Answer = ray.get(seat.waits_for)
        except RayTaskError as error:
            raise LostWorker(one_line(f"{type(error.cause).__name__}: {error.cause}")[: REASON_LENGTH - 40]) from None
        except RayError as error:
            raise LostWorker(f"worker on {seat.host} lost ({type(error).__name__})") from None
        if isinstance(answer, Answer) and answer.lacks:
            if self._sent is None:
                self._sent = ray.put(self._files())
            seat.waits_for = seat.actor.take.remote(self._sent)
            return None
        seat.waits_for = None
        return answer

    def _kill(self, seat: RaySeat) -> None:
        try:
            ray.kill(seat.actor, no_restart=True)
        except RayError:  # it is dead, or nobody can say: its answer is not waited for any more
            return

    def _no_worker(self) -> str:
        needs = f"{self.options.num_cpus:g} CPU" + (f" and {self.options.num_gpus:g} GPU" * bool(self.options.num_gpus))
        return (
            f"no worker of the Ray cluster has started for {self.options.start_seconds:.0f} s: each needs {needs}; "
            "see ray status, and run again"
        )

    def _late(self, seat: RaySeat) -> str | None:
        return None  # it waits for room on the cluster, which a machine may yet bring

    def _not_started(self, seat: RaySeat, why: str) -> None:
        return  # another is asked for; where none starts, `start_seconds` ends it
