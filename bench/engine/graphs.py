"""Training on a GPU by CUDA graphs: a chunk's forward and backward pass is recorded once and launched as one.

A step of an encoder is a thousand kernels or more, each of which costs the host tens of microseconds, and up to large
packs a GPU waits for it. A recorded pass launches the same kernels on the same addresses at once. So what changes from
chunk to chunk lies in tensors that stay: ids, places, labels, the salts of the dropout masks. Chunks are filled up to
few shapes, with a recording each; the tokens and examples that fill them belong to no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from bench.core.errors import one_line
from bench.engine.batching import Chunk
from bench.engine.dropout import MaskKeys, Salts

# N, b and T of a chunk are filled up to multiples. On batches of 32 texts of SST-2's lengths in two chunks that is 10 %
# more tokens and 46 shapes in 1,000 steps; of 64 tokens, b as it is, 16 % and 82 (tests/unit/engine/test_graphs.py).
TOKENS, EXAMPLES, LENGTH = 32, 8, 16
FILLERS = -(-(TOKENS - 1) // (LENGTH - 1))  # examples that are added at the least: none is longer than T
MOST = 96  # recordings of a pack; chunks of yet another shape run as they are


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A pass over a chunk of one shape, and what it reads."""

    chunk: Chunk
    salts: Salts
    replay: Callable[[], None]

    def on(self, chunk: Chunk, keys: MaskKeys) -> None:
        """Run the pass over another chunk."""
        _copy(filled(chunk), self.chunk)
        self.salts.fill(keys)
        self.replay()


class Graphs:
    """The recordings of a pack, made as chunks of new shapes come: the first is run and then recorded.

    `work` adds a chunk's gradients and losses to tensors that stay; what it reads of the step, it reads from such.
    `record` takes a call and returns what repeats its kernels; it does not run them. That is done `apart`: it trains
    nothing.
    """

    def __init__(
        self, work: Callable[[Chunk], None], keys: MaskKeys, record: Callable[[Callable[[], None]], Callable[[], None]],
        apart: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:  # fmt: skip
        self.work, self.keys, self.record, self.apart = work, keys, record, apart
        self.recorded: dict[tuple[int, int, int], Recorded] = {}
        self.problem: str | None = None  # why nothing is recorded any more

    def run(self, chunk: Chunk) -> None:
        """Add the chunk's gradients and losses."""
        shape = shape_of(chunk)
        if shape in self.recorded:
            self.recorded[shape].on(chunk, self.keys)
            return
        still = own_copy(filled(chunk))
        self.work(still)
        if len(self.recorded) < MOST and self.problem is None:
            with self.apart():
                self._record(shape, still)

    def _record(self, shape: tuple[int, int, int], chunk: Chunk) -> None:
        """Record the pass; where that cannot be, chunks run as they are: nothing has been computed by the attempt."""
        salts = Salts(chunk.ids_N.device)
        try:
            replay = self.record(partial(self._salted, chunk, salts))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.problem = one_line(str(error))
        else:
            self.recorded[shape] = Recorded(chunk=chunk, salts=salts, replay=replay)

    def _salted(self, chunk: Chunk, salts: Salts) -> None:
        with self.keys.salted_by(salts):
            self.work(chunk)


class Recorder:
    """Records calls as CUDA graphs, whose memory is the same: one at a time is replayed."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what launches the kernels of the call."""
        torch.cuda.empty_cache()  # what ran as it was has left blocks that a recording cannot use
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        return graph.replay


def shape_of(chunk: Chunk) -> tuple[int, int, int]:
    """Return N, b and T of the chunk once it is filled."""
    n_examples = _up(chunk.n_examples + FILLERS, EXAMPLES)
    n_tokens = _up(chunk.n_tokens + n_examples - chunk.n_examples, TOKENS)  # each that is added holds a token
    return n_tokens, n_examples, _up(chunk.longest, LENGTH)


def filled(chunk: Chunk) -> Chunk:
    """Return the chunk as large as `shape_of` says; what is launched then follows from the shape alone."""
    n_tokens, n_examples, longest = shape_of(chunk)
    full = chunk.filled(n_tokens=n_tokens, n_examples=n_examples, longest=longest)
    return replace(full, lengths=(longest,) * n_examples)


def own_copy(chunk: Chunk) -> Chunk:
    """Return the chunk in tensors of its own."""
    return replace(chunk, **{name: getattr(chunk, name).clone() for name in _tensors(chunk)})


def _copy(source: Chunk, target: Chunk) -> None:
    for name in _tensors(target):
        getattr(target, name).copy_(getattr(source, name))


def _tensors(chunk: Chunk) -> Sequence[str]:
    return [field.name for field in fields(chunk) if isinstance(getattr(chunk, field.name), Tensor)]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
