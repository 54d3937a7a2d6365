"""Long packs: everything a half-trained pack is, saved now and then, so that a killed one goes on where it was.

One safetensors file for each pack, replaced whole: the loop's tensors, and its numbers as JSON in the header.
Batches and masks follow from seed and step, so that the rest is bitwise what it would have been.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bench.core.cache import write_atomic
from bench.core.spec import Pack

STATE_VERSION = "1"
INTERVAL_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopState:
    """Everything a half-trained pack is: tensors by name, on the host, and numbers that JSON holds without loss."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def fits(self, other: LoopState) -> bool:
        """Return whether the tensors that do not grow with the steps have the same names and shapes."""
        return _shapes(self.tensors) == _shapes(other.tensors)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items() if not name.endswith("_SxK")}


class Keeper:
    """Keeps the state of one pack in a file.

    `key` says what must not have changed since: the pack and the code. A file of another key, or a torn one, is not
    used. A save that fails (a full disk) costs a later resume, not the pack.
    """

    def __init__(
        self, path: Path, *, key: str, interval_seconds: float = INTERVAL_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._path, self._key, self._interval, self._now = path, key, interval_seconds, now
        self._saved_at = now()

    def after_step(self, take: Callable[[], LoopState]) -> None:
        """Save the state that `take` returns if the interval is over."""
        if self._now() - self._saved_at < self._interval:
            return
        state = take()
        content = save(state.tensors, metadata={"key": self._key, "state": json.dumps(state.numbers)})
        with contextlib.suppress(OSError):
            write_atomic(self._path, lambda stream: stream.write(content))  # type: ignore[arg-type]
        self._saved_at = self._now()

    def find(self) -> LoopState | None:
        """Return the state that the file left off with, None where there is no file for this pack."""
        found = _read(self._path, self._key)
        return None if found is None else LoopState(tensors=found[0], numbers=found[1])


def _read(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if path.is_symlink() or not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("key") != key:
                return None
            return {name: stored.get_tensor(name) for name in stored.keys()}, json.loads(metadata["state"])  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError):
        return None


def key_of(pack: Pack, source_hash: str, device: str, n_chunks: int, path: str) -> str:
    """Return what a state holds for: the same trials in the same slots, code, device and way through the model."""
    slots = [trial.trial_id for trial in pack.trials]
    return json.dumps([STATE_VERSION, slots, source_hash, device, n_chunks, path, str(torch.__version__)])
