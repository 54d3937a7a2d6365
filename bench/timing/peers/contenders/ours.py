"""This harness: K trials in one forward and backward, through the sweep's own `Loop.step` and `evaluate`."""

from __future__ import annotations

import numpy as np

from bench.core.clock import Clock
from bench.core.spec import Pack, Precision
from bench.data.splits import Encoded
from bench.data.text import take
from bench.engine.batching import Batches
from bench.engine.causal import NextTokens
from bench.engine.evaluate import evaluate
from bench.engine.loop import Loop
from bench.engine.paths import BankPath
from bench.engine.run import DTYPES, EngineOptions, prepare
from bench.engine.unpadded import UnpaddedPath
from bench.timing.peers.contenders._base import Block, Contender, Session
from bench.timing.peers.timer import Timer
from bench.timing.peers.work import WARM_UP_STEPS, Work, n_targets

EVAL_WARM_UP = 64  # examples


class Ours(Contender):
    """A pack of K trials."""

    label = "lorasweep"
    peer = False

    def start(self, work: Work, *, precision: Precision, n_trials: int, repeat: int) -> Session:
        """Return a pack, built as a sweep builds it."""
        return OurSession(work, precision, n_trials)


class OurSession(Session):
    """A pack, its path and its loop."""

    def __init__(self, work: Work, precision: Precision, n_trials: int) -> None:
        self.work, self.n_trials = work, n_trials
        self.batches = work.batches(work.steps_of(n_trials))
        trials = work.trials(n_trials, precision, max_steps=10 * len(self.batches) + 10)
        ready = prepare(
            Pack(trials=trials), work.data, work.model(DTYPES[precision]), EngineOptions(device=work.device)
        )
        self.objective = ready.objective
        self.bank, self.path, self.split, self.n_chunks = ready.bank, ready.path, ready.train, ready.n_chunks
        self.loop = Loop(
            self.bank, self.path, self.split, trials[0].budget, n_chunks=self.n_chunks, clock=Clock(),
            evaluate=lambda: np.zeros(n_trials), objective=ready.objective,
        )  # fmt: skip

    def train(self, timer: Timer) -> Block:
        """Do the block's steps; on a GPU every shape is seen once before, since the first visit may compile it."""
        warm_up = self.batches if self.work.device.type != "cpu" else self.batches[: WARM_UP_STEPS - 1]
        for places in (self.work.longest(), *warm_up):
            self.loop.step(places)
        start = timer.read()
        for places in self.batches:
            self.loop.step(places)
        seconds = timer.read() - start
        lengths = self.work.data.train.lengths
        return Block(
            seconds=seconds,
            n_trials=self.n_trials,
            steps=len(self.batches),
            examples=self.n_trials * sum(map(len, self.batches)),
            tokens=self.n_trials * int(sum(lengths[places].sum() for places in self.batches)),
            computed_tokens=self.n_trials * self._computed(),
            targets=self._times(n_targets(take(self.work.data.train, np.concatenate(self.batches)))),
        )

    def evaluate(self, timer: Timer) -> Block:
        """Evaluate all K trials on the whole split."""
        split = self.work.data.eval
        self._evaluate(take(split, np.arange(min(EVAL_WARM_UP, len(split)))))
        if self.work.device.type != "cpu":
            self._evaluate(split)
        start = timer.read()
        self._evaluate(split)
        seconds = timer.read() - start
        return Block(
            seconds=seconds,
            n_trials=self.n_trials,
            steps=0,
            examples=self.n_trials * len(split),
            tokens=self.n_trials * int(split.lengths.sum()),
            computed_tokens=None,
            targets=self._times(n_targets(split)),
        )

    def write(self, timer: Timer) -> Block:
        """Write after the prompts, all K trials."""
        split = self.work.written
        assert split.prompt_lengths is not None
        self._write(take(split, np.arange(2)))
        if self.work.device.type != "cpu":
            self._write(split)
        start = timer.read()
        made = self._write(split)
        seconds = timer.read() - start
        return Block(
            seconds=seconds, n_trials=self.n_trials, steps=0, examples=self.n_trials * len(split),
            tokens=self.n_trials * int(split.prompt_lengths.sum()) + made, computed_tokens=None, targets=made,
        )  # fmt: skip

    def _times(self, n: int | None) -> int | None:
        return None if n is None else self.n_trials * n

    def _write(self, split: Encoded) -> int:
        """Return how many tokens all trials write, ends included."""
        reading, limit = self.work.data.reading, self.work.limit
        assert reading is not None
        assert isinstance(self.objective, NextTokens)
        made = self.objective.write(Batches(split, device=self.work.device), limit)
        return sum(min(limit, len(text) + 1) for texts in made for text in texts)

    def _evaluate(self, split: Encoded) -> None:
        batches = Batches(split, device=self.work.device)
        if self.work.data.reading is not None:  # losses alone: what is written is timed by itself
            losses = NextTokens(self.bank, "perplexity", self.work.data.reading)
            losses.evaluate(self.path, batches, n_trials=self.n_trials)
        else:
            evaluate(self.path, batches, split.labels, n_trials=self.n_trials)

    def _computed(self) -> int:
        """Return the tokens that go through the Linears, padding of the bank path included."""
        chunks = [chunk for places in self.batches for chunk in self.split.chunks(places, self.n_chunks)]
        if isinstance(self.path, UnpaddedPath):
            return sum(self.path.shaped(chunk).n_tokens for chunk in chunks)
        if not isinstance(self.path, BankPath):
            return sum(chunk.n_tokens for chunk in chunks)
        return sum(chunk.n_examples * chunk.longest for chunk in chunks)


CONTENDER = Ours()
