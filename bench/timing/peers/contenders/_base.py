"""What a contender is: something that trains and evaluates the same work, and is timed while it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from bench.core.spec import Precision
from bench.timing.peers.timer import Timer
from bench.timing.peers.work import Work


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What one timed block did. Counts are of all trials together; tokens are real ones, special tokens included."""

    seconds: float
    n_trials: int
    steps: int  # 0 for an evaluation
    examples: int
    tokens: int
    computed_tokens: int | None  # with padding; None: not counted
    targets: int | None = None  # of the tokens: those that a causal language model learns or writes

    @property
    def trial_steps(self) -> int:
        """Steps of single trials."""
        return self.steps * self.n_trials


class Session(ABC):
    """One contender, set up once: its model is built, nothing has been timed."""

    @abstractmethod
    def train(self, timer: Timer) -> Block:
        """Warm up, then train and time the block."""

    @abstractmethod
    def evaluate(self, timer: Timer) -> Block:
        """Warm up, then evaluate the evaluation split once and time it."""

    def write(self, timer: Timer) -> Block:
        """Warm up, then generate texts after the prompts of `Work.written` and time it."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove what lies on disk."""
        return


class Contender(ABC):
    """One way of training; the file's name is its key."""

    label: ClassVar[str]
    peer: ClassVar[bool]  # someone else's code, trained one trial at a time
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "bf16")  # those it is another contender in
    packages: ClassVar[tuple[str, ...]] = ()  # what must be installed

    def sizes_on(self, kind: str) -> tuple[int, ...]:
        """Return how many trials a peer trains at once on this kind of device, each a case of its own."""
        return (1,)

    @abstractmethod
    def start(self, work: Work, *, precision: Precision, n_trials: int, repeat: int) -> Session:
        """Return a session; `repeat` seeds what a repetition may draw anew."""
