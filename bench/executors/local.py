"""Runs packs in this process: loads what a pack needs once, halves a pack that does not fit into memory."""

from __future__ import annotations

import gc
import math
import os
import re
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from bench import methods
from bench.core.errors import BadInput, one_line
from bench.core.record import Outcome, Provenance, Record, Status
from bench.core.spec import Pack, Trial
from bench.executors._base import AbstractExecutor
from bench.methods._base import base_precision

Loaded = TypeVar("Loaded")

_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory"
    r"|CU(BLAS|DNN|SPARSE)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)",  # cuBLAS makes its workspace at the first product
    re.I,
)
# After these a process can do nothing more with the device: whatever follows would fail with the same words.
_LOST = re.compile(
    r"illegal memory access|device-side assert|illegal instruction|misaligned address|unspecified launch failure"
    r"|uncorrectable ECC|GPU is lost|invalid program counter",
    re.I,
)
MORE_CHUNKS = (2, 4, 8, 16)  # times as many, for a trial that is alone in its pack and does not fit
REASON_LENGTH = 300  # characters; the whole traceback is in the log


class LocalExecutor(AbstractExecutor, Generic[Loaded]):
    """Runs each pack on this machine's device.

    `load` returns what trials of one task, model, data and length need (data and model); it is called once for them.
    `train` trains and evaluates a pack and returns its outcomes in slot order; `free` gives unused device memory back;
    `probe` returns the seconds of a trial-step of a pack. `train_in` is `train` with so many times as many chunks: less
    memory, the same rows up to float order.
    """

    def __init__(
        self,
        *,
        load: Callable[[Trial], Loaded],
        train: Callable[[Pack, Loaded], Sequence[Outcome]],
        provenance: Provenance,
        metric_name: str,
        log_dir: Path | None = None,
        free: Callable[[], None] = lambda: None,
        probe: Callable[[Pack, Loaded], float] | None = None,
        train_in: Callable[[Pack, Loaded, int], Sequence[Outcome]] | None = None,
    ) -> None:
        self._load, self._train, self._free, self._probe, self._train_in = load, train, free, probe, train_in
        self._lost: LostDevice | None = None  # why the device can do nothing more
        self.provenance, self._metric_name, self._log_dir = provenance, metric_name, log_dir
        self._loaded: dict[Hashable, Loaded] = {}
        self._fits: dict[Hashable, int] = {}  # the largest size that is not known to be too large

    def stream(self, pack: Pack, *, study: str) -> Iterator[list[Record]]:
        """Yield the pack's records; in halves, and halves of halves, where it does not fit into memory.

        Raises:
            LostDevice: once the device is lost, after the records of the pack that lost it.
        """
        waiting = [pack]
        while waiting:
            part = waiting.pop(0)
            limit = self._fits.get(_kind(part), part.size)
            if part.size > limit:
                waiting[:0] = _cut(part, limit)
                continue
            outcomes = self._attempt(part)
            if outcomes is None and part.size == 1:
                outcomes = self._in_more_chunks(part)
            if self._lost is not None:
                assert outcomes is not None
                yield self._records(part, outcomes, study)
                raise self._lost
            if outcomes is not None:
                yield self._records(part, outcomes, study)
            elif part.size == 1:
                reason = "out of memory, alone in its pack; use a shorter max_length, a smaller batch_size or model"
                yield self._records(part, [self._outcome(Status.OOM, reason)], study)
            else:
                self._fits[_kind(part)] = (part.size + 1) // 2
                waiting.insert(0, part)

    def seconds_per_trial_step(self, pack: Pack) -> float | None:
        """Return what the probe says; None without one, or where it fails: the run itself then tells why."""
        if self._probe is None:
            return None
        try:
            return self._probe(pack, self._loaded_for(pack.trials[0]))
        except Exception as error:
            if isinstance(error, BadInput) and not self._loaded:
                raise
            found = math.inf if is_out_of_memory(error) else None
        gc.collect()
        self._free()
        return found

    def _in_more_chunks(self, pack: Pack) -> Sequence[Outcome] | None:
        """Return what a pack of one gives with its batches in more chunks, which hold less at once; None: nor so."""
        for times in MORE_CHUNKS if self._train_in is not None else ():
            outcomes = self._attempt(pack, times)
            if outcomes is not None:
                return outcomes
        return None

    def _attempt(self, pack: Pack, times: int = 1) -> Sequence[Outcome] | None:
        """Return the pack's outcomes, failed ones if it raised; None if it ran out of memory.

        Bad input that no look beforehand has found costs this pack only: others may be sound. Where not even the
        first data and model can be loaded, nothing can train, and it passes.
        """
        try:
            loaded = self._loaded_for(pack.trials[0])
            if times > 1 and self._train_in is not None:
                outcomes = self._train_in(pack, loaded, times)
            else:
                outcomes = self._train(pack, loaded)
            if len(outcomes) != pack.size:
                raise RuntimeError(f"{pack.size} trials went in, {len(outcomes)} outcomes came out")
            return outcomes
        except Exception as error:
            if isinstance(error, BadInput) and not self._loaded:
                raise
            if not is_out_of_memory(error):
                self._log(pack, traceback.format_exc())
                words = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
                reason = one_line(words)[:REASON_LENGTH]
                self._lost = lost_device(error)
                return [self._outcome(Status.FAILED, reason)] * pack.size
        # Out of the except block: the traceback, whose frames hold the pack's tensors, is gone by now.
        gc.collect()
        self._free()
        return None

    def _loaded_for(self, trial: Trial) -> Loaded:
        budget = trial.budget
        precision = base_precision(budget.precision, methods.get(trial.method))
        data = (trial.task, trial.data_hash, budget.max_length, budget.n_select)
        key = (*data, trial.model, trial.model_hash, precision, budget.base_precision)
        if key not in self._loaded:
            self._loaded[key] = self._load(trial)
        return self._loaded[key]

    def _records(self, pack: Pack, outcomes: Sequence[Outcome], study: str) -> list[Record]:
        pack_id = pack.pack_id  # the hash of all members: once, not for each of them
        return [
            Record(
                study=study,
                trial=trial,
                pack_id=pack_id,
                pack_size=pack.size,
                outcome=outcome,
                provenance=self.provenance,
            )
            for trial, outcome in zip(pack.trials, outcomes, strict=True)
        ]

    def _outcome(self, status: Status, reason: str) -> Outcome:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Outcome(status=status, reason=reason, metric_name=self._metric_name, steps_done=0, started_at=now)

    def _log(self, pack: Pack, text: str) -> None:
        if self._log_dir is not None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            append_log(self._log_dir / f"{pack.pack_id}.log", f"{now} pack of {pack.size}\n{text}\n")


def append_log(path: Path, text: str) -> None:
    """Append text to a log, not through a link; losing it loses no result, so a full disk is no reason to stop."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8", opener=_no_link) as log:
            log.write(text)
    except OSError:
        return


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out: torch's own, Python's, or a driver's message."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


class LostDevice(BadInput):
    """This process can do nothing more with its device; another process may."""


def lost_device(error: BaseException) -> LostDevice | None:
    """Return what to say where an error leaves the device useless for the rest of this process; None where not."""
    found = _LOST.search(str(error)) if isinstance(error, RuntimeError) else None
    if found is None:
        return None
    way_out = "run the same command again: everything finished is kept; CUDA_LAUNCH_BLOCKING=1 shows where it happens"
    return LostDevice("device", "must stay usable", got=f"{found[0]}: {one_line(str(error))[:120]}", way_out=way_out)


def _kind(pack: Pack) -> Hashable:
    """Return what packs that need the same memory for each trial share, nearly: the largest rank is part of it."""
    trial = pack.trials[0]
    return (trial.task, trial.model, trial.method, trial.budget, max(t.rank or 0 for t in pack.trials))


def _cut(pack: Pack, limit: int) -> list[Pack]:
    return [replace(pack, trials=pack.trials[i : i + limit]) for i in range(0, pack.size, limit)]
