"""Where the time of a step goes: marks set around the parts of the engine's own step, which stays as it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from bench.engine.batching import Chunk
from bench.engine.loop import Loop
from bench.engine.paths import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The parts of one step, seconds; they add up to the step."""

    forward: float  # the path's logits
    backward: float  # from the logits on: loss, backward pass, cutting out the next chunk
    optimizer: float  # gradient norm, clipping, update
    other: float  # before the first logits: zeroing gradients, making chunks

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.forward + self.backward + self.optimizer + self.other


class Marks:
    """Times at which the parts of a step begin; `read` waits for the device."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._marks: list[tuple[str, float]] = []

    def set(self, part: str) -> None:
        """Say that `part` begins now."""
        self._marks.append((part, self._read()))

    def split(self) -> Split:
        """End the step and return its parts."""
        marks = [*self._marks, ("end", self._read())]
        self._marks = []
        sums = dict.fromkeys(("forward", "backward", "optimizer", "other"), 0.0)
        for (part, start), (_, stop) in itertools.pairwise(marks):
            sums[part] += stop - start
        return Split(**sums)


class MarkedPath:
    """A path whose forward passes are marked."""

    def __init__(self, path: Path, marks: Marks) -> None:
        self.path, self.marks, self.name = path, marks, path.name

    def logits(self, chunk: Chunk) -> Tensor:
        """Return what the path returns."""
        self.marks.set("forward")
        logits = self.path.logits(chunk)
        self.marks.set("backward")
        return logits

    def losses(self, chunk: Chunk, at_M: Tensor, wanted_M: Tensor) -> Tensor:
        """Return what the path returns."""
        self.marks.set("forward")
        losses = self.path.losses(chunk, at_M, wanted_M)
        self.marks.set("backward")
        return losses


@contextmanager
def marking(loop: Loop, marks: Marks) -> Iterator[None]:
    """Mark the steps that the loop does inside: its forward passes and where its optimizer begins."""
    path, optimizer = loop.path, loop.optimizer
    clip = optimizer.clip

    def marked() -> Tensor:
        marks.set("optimizer")
        return clip()

    loop.path = MarkedPath(path, marks)
    optimizer.clip = marked  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop.path = path
        del optimizer.clip  # the class's own shows again
