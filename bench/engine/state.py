"""Everything a half-trained pack is: saved now and then, and taken apart so that its trials go on in other packs.

A state is one safetensors file, replaced whole: the loop's tensors, and its numbers as JSON in the header. Batches and
masks follow from seed and step, so that the rest is bitwise what it would have been. The state of one trial is that of
a pack that holds nothing else: `taken_apart` and `joined` lead from one form to the other.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bench.core.cache import write_atomic
from bench.core.spec import Pack, Trial

STATE_VERSION = "2"
INTERVAL_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopState:
    """Everything a half-trained pack is: tensors by name, on the host, and numbers that JSON holds without loss.

    The end of a name tells how trials lie in a tensor: one number each (`_K`), one for each step and trial (`_SxK`), or
    else the flat layout of the trained numbers (`ParamBank.shapes`).
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def fits(self, other: LoopState) -> bool:
        """Return whether the tensors that do not grow with the steps have the same names and shapes."""
        return _shapes(self.tensors) == _shapes(other.tensors)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items() if not name.endswith("_SxK")}


def taken_apart(state: LoopState, shapes: Mapping[str, torch.Size]) -> list[LoopState]:
    """Return the states of a pack's trials, each as that of a pack of its own; `shapes` are the pack's, [K, ...]."""
    n_trials = len(state.numbers["curves"])
    return [_one(state, k, n_trials, shapes) for k in range(n_trials)]


def _one(state: LoopState, k: int, n_trials: int, shapes: Mapping[str, torch.Size]) -> LoopState:
    def mine(name: str, tensor: Tensor) -> Tensor:
        if name.endswith("_SxK"):
            return tensor[:, k : k + 1].contiguous()
        if name.endswith("_K"):
            return tensor[k : k + 1].clone()
        return torch.cat([part[k].flatten() for part in parts(tensor, shapes).values()])

    numbers = state.numbers
    before = dict(numbers["before_K"][k])
    for phase, seconds in numbers["seconds"].items():
        before[phase] = before.get(phase, 0.0) + seconds / n_trials
    own = {name: [numbers[name][k]] for name in ("diverged_step_K", "curves")}
    sizes = {name: list(shape[1:]) for name, shape in shapes.items()}
    return LoopState(
        tensors={name: mine(name, tensor) for name, tensor in state.tensors.items()},
        numbers={**numbers, **own, "before_K": [before], "seconds": {}, "sizes": sizes},
    )


def joined(states: Sequence[LoopState], fresh: LoopState, shapes: Mapping[str, torch.Size]) -> LoopState:
    """Return the state of a pack whose trials are at one step, in this order.

    `fresh` is that of the pack before its first step. Trials of other ranks may have been padded to another size: what
    both sizes have in common holds all that is trained, and the rest is as in `fresh`.

    Raises:
        ValueError: where the trials are at different steps or saw other batches.
    """
    together = {name: {one.numbers[name] for one in states} for name in ("steps_done", "updates", "tokens", "examples")}
    if any(len(values) > 1 for values in together.values()):
        raise ValueError(f"the trials of a pack are at one step, got {together}")
    tensors: dict[str, Tensor] = {}
    for name in states[0].tensors:
        own = [one.tensors[name] for one in states]
        if name.endswith("_SxK"):
            tensors[name] = torch.cat(own, dim=1)
        elif name.endswith("_K"):
            tensors[name] = torch.cat(own)
        else:
            tensors[name] = fresh.tensors[name].clone()
            for k, one in enumerate(states):
                _fill(parts(tensors[name], shapes), k, one, name)
    several = {name: [one.numbers[name][0] for one in states] for name in ("diverged_step_K", "curves", "before_K")}
    all_alive = all(one.numbers["all_alive"] for one in states)
    return LoopState(tensors=tensors, numbers={**states[0].numbers, **several, "all_alive": all_alive})


def _fill(target: Mapping[str, Tensor], k: int, one: LoopState, name: str) -> None:
    sizes = {part: torch.Size([1, *size]) for part, size in one.numbers["sizes"].items()}
    for part, values in parts(one.tensors[name], sizes).items():
        both = tuple(slice(min(a, b)) for a, b in zip(values.shape[1:], target[part].shape[1:], strict=True))
        target[part][k][both] = values[0][both]


def parts(flat: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return the parameters [K, ...] of a flat buffer, as views; `shapes` in the buffer's order."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    each = flat.split(sizes)
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), each, strict=True)}


class Shelf:
    """The states of single trials that wait to go on, one file each, named by trial and step.

    A state of other code, or a torn one, is not there. Losing one costs its trial's steps, nothing else.
    """

    def __init__(self, directory: Path, source_hash: str) -> None:
        self._directory, self._source_hash = directory, source_hash

    def put(self, trial: Trial, state: LoopState) -> None:
        """Keep a trial's state, in place of an earlier one.

        Raises:
            OSError: a full disk, say.
        """
        path = self._path(trial, state.numbers["steps_done"])
        _write(path, self._key(trial), state)
        for other in self._paths(trial):
            if other != path:
                other.unlink(missing_ok=True)

    def step_of(self, trial: Trial) -> int:
        """Return the step that a kept state of the trial is at, 0 where there is none."""
        steps = [step for path in self._paths(trial) if (step := _step(path)) and _has_key(path, self._key(trial))]
        return max(steps, default=0)

    def find(self, trial: Trial, step: int) -> LoopState | None:
        """Return the trial's state at this step, None where there is none."""
        found = _read(self._path(trial, step), self._key(trial))
        return None if found is None else LoopState(tensors=found[0], numbers=found[1])

    def drop(self, trial: Trial) -> None:
        """Remove what is kept of a trial."""
        for path in self._paths(trial):
            path.unlink(missing_ok=True)

    def _path(self, trial: Trial, step: int) -> Path:
        return self._directory / f"{trial.trial_id}-{step}.safetensors"

    def _paths(self, trial: Trial) -> list[Path]:
        return list(self._directory.glob(f"{trial.trial_id}-*.safetensors"))

    def _key(self, trial: Trial) -> str:
        return json.dumps([STATE_VERSION, trial.trial_id, self._source_hash, str(torch.__version__)])


def _step(path: Path) -> int:
    text = path.stem.rpartition("-")[2]
    return int(text) if text.isdecimal() else 0


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

    def is_due(self) -> bool:
        """Return whether the interval since the last save is over."""
        return self._now() - self._saved_at >= self._interval

    def after_step(self, take: Callable[[], LoopState]) -> None:
        """Save the state that `take` returns if the interval is over."""
        if not self.is_due():
            return
        with contextlib.suppress(OSError):
            _write(self._path, self._key, take())
        self._saved_at = self._now()

    def find(self) -> LoopState | None:
        """Return the state that the file left off with, None where there is no file for this pack."""
        found = _read(self._path, self._key)
        return None if found is None else LoopState(tensors=found[0], numbers=found[1])


def _write(path: Path, key: str, state: LoopState) -> None:
    content = save(state.tensors, metadata={"key": key, "state": json.dumps(state.numbers)})
    write_atomic(path, lambda stream: stream.write(content))  # type: ignore[arg-type]


def _has_key(path: Path, key: str) -> bool:
    """Return whether the file holds a whole state of this key; reads its header only."""
    if path.is_symlink():
        return False
    try:
        with safe_open(str(path), framework="pt") as stored:
            return bool((stored.metadata() or {}).get("key") == key)
    except (SafetensorError, OSError):
        return False


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
    """Return what a state holds for: the same trials in the same slots, code, kind of device, way through the model."""
    slots = [trial.trial_id for trial in pack.trials]
    return json.dumps(
        [STATE_VERSION, slots, pack.start, pack.until, source_hash, device, n_chunks, path, str(torch.__version__)]
    )
