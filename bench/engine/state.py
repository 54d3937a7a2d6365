"""Long packs: everything a half-trained pack is, saved now and then, so that a killed one goes on where it was.

One safetensors file for each pack, replaced whole: the flat parameter buffer, the moments, the losses so far; steps,
curve and seconds as JSON in its header. Batches and masks follow from seed and step, so that the rest is bitwise what
it would have been.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bench.core.cache import write_atomic
from bench.core.record import CurvePoint
from bench.core.spec import Pack
from bench.engine.scaling import SkippingOptimizer

if TYPE_CHECKING:
    from bench.engine.loop import Loop

STATE_VERSION = "1"
INTERVAL_SECONDS = 300.0


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

    def after_step(self, loop: Loop) -> None:
        """Save the loop if the interval is over."""
        if self._now() - self._saved_at < self._interval:
            return
        content = save(_tensors(loop), metadata={"key": self._key, "state": json.dumps(_numbers(loop))})
        with contextlib.suppress(OSError):
            write_atomic(self._path, lambda stream: stream.write(content))  # type: ignore[arg-type]
        self._saved_at = self._now()

    def resume(self, loop: Loop) -> None:
        """Put a fresh loop where the file left off; leave it as it is where there is no file for it."""
        found = _read(self._path, self._key)
        if found is None:
            return
        tensors, numbers = found
        if _shapes(tensors) == _shapes(_tensors(loop)):
            _restore(loop, tensors, numbers)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shapes of all tensors that do not grow with the steps."""
    return {name: tensor.shape for name, tensor in tensors.items() if not name.endswith("_SxK")}


def _tensors(loop: Loop) -> dict[str, Tensor]:
    """Return the tensors of a loop by name, each a part of its own."""
    optimizer = loop.optimizer
    found = {"values": loop.bank.params.values, "alive_K": loop.alive_K, "died_K": loop.died_K}
    if loop.budget.optimizer == "adamw":
        found |= {"mean": optimizer.mean, "square": optimizer.square}
    if isinstance(optimizer, SkippingOptimizer):
        found["updates_K"] = optimizer.updates_K
    if loop.scale is not None:
        found |= {"scale_K": loop.scale.scale_K, "good_K": loop.scale.good_K}
    if loop.state.losses_SxK:
        found["losses_SxK"] = torch.from_numpy(np.stack(loop.state.losses_SxK))
        found["norms_SxK"] = torch.from_numpy(np.stack(loop.state.norms_SxK))
    if loop.since:
        found["since_losses_SxK"] = torch.stack([loss for loss, _ in loop.since])
        found["since_norms_SxK"] = torch.stack([norm for _, norm in loop.since])
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _numbers(loop: Loop) -> dict[str, Any]:
    """Return what a loop knows on the host, as JSON can hold it: floats by repr, which loses nothing."""
    state = loop.state
    return {
        "steps_done": state.steps_done,
        "updates": loop.optimizer.steps_done,
        "tokens": state.tokens,
        "examples": state.examples,
        "all_alive": loop.all_alive,
        "diverged_step_K": state.diverged_step_K.tolist(),
        "curves": [[asdict(point) for point in curve] for curve in state.curves],
        "seconds": loop.clock.all_seconds(),
    }


def _restore(loop: Loop, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Put everything back in place; the parameters are parts of one buffer, which is therefore filled, not replaced."""
    state, optimizer, device = loop.state, loop.optimizer, loop.split.device
    with torch.no_grad():
        loop.bank.params.values.copy_(tensors["values"])
    loop.alive_K, loop.died_K = tensors["alive_K"].to(device), tensors["died_K"].to(device)
    if "mean" in tensors:
        optimizer.mean.copy_(tensors["mean"])
        optimizer.square.copy_(tensors["square"])
    if isinstance(optimizer, SkippingOptimizer):
        optimizer.updates_K = tensors["updates_K"].to(device)
    if loop.scale is not None:
        loop.scale.scale_K, loop.scale.good_K = tensors["scale_K"].to(device), tensors["good_K"].to(device)
    if "since_losses_SxK" in tensors:
        pairs = zip(tensors["since_losses_SxK"].to(device), tensors["since_norms_SxK"].to(device), strict=True)
        loop.since = list(pairs)
    optimizer.steps_done, loop.all_alive = numbers["updates"], numbers["all_alive"]
    state.steps_done, state.tokens, state.examples = numbers["steps_done"], numbers["tokens"], numbers["examples"]
    state.diverged_step_K = np.array(numbers["diverged_step_K"], dtype=np.int64)
    if "losses_SxK" in tensors:
        state.losses_SxK, state.norms_SxK = list(tensors["losses_SxK"].numpy()), list(tensors["norms_SxK"].numpy())
    state.curves = [[CurvePoint(**point) for point in curve] for curve in numbers["curves"]]
    loop.clock.add(numbers["seconds"])


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
