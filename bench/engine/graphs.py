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

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import one_line
from bench.engine import hardware
from bench.engine.batching import Chunk
from bench.engine.dropout import MaskKeys, Salts

TOKENS, LENGTH = 64, 16  # N and T of a chunk are filled up to multiples
FILLERS = -(-(TOKENS - 1) // (LENGTH - 1))  # examples that fill a chunk up, each with a token at the least
IGNORED = -100  # the class of an example without a loss: torch's cross_entropy leaves it out
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
    return _up(chunk.n_tokens + FILLERS, TOKENS), chunk.n_examples + FILLERS, _up(chunk.longest, LENGTH)


def filled(chunk: Chunk) -> Chunk:
    """Return the chunk with as many tokens and examples as `shape_of` says, those added of class IGNORED."""
    n_tokens, n_examples, longest = shape_of(chunk)
    n_more = n_tokens - chunk.n_tokens
    first = n_more * np.arange(FILLERS) // FILLERS
    row = np.searchsorted(first, np.arange(n_more), side="right") - 1
    position = np.arange(n_more) - first[row]
    numbers = torch.from_numpy(np.concatenate([chunk.n_examples + row, position, chunk.n_tokens + first]))
    row_F, position_F, first_E = hardware.sent(numbers, chunk.ids_N.device).split([n_more, n_more, FILLERS])
    some_F, some_E = row_F * 0, first_E * 0
    return replace(
        chunk,
        ids_N=torch.cat([chunk.ids_N, some_F + chunk.ids_N[:1]]),
        type_ids_N=None if chunk.type_ids_N is None else torch.cat([chunk.type_ids_N, some_F]),
        row_N=torch.cat([chunk.row_N, row_F]),
        position_N=torch.cat([chunk.position_N, position_F]),
        first_b=torch.cat([chunk.first_b, first_E]),
        labels_b=torch.cat([chunk.labels_b, some_E.to(chunk.labels_b.dtype) + IGNORED]),
        example_b=torch.cat([chunk.example_b, some_E + chunk.example_b[:1]]),
        place_b=torch.cat([chunk.place_b, some_E]),
        lengths=(longest,) * n_examples,  # what is launched follows from the shape alone
        n_examples=n_examples,
        n_tokens=n_tokens,
        longest=longest,
    )


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
