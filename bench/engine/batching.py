"""Which examples a step sees, and how its batch is cut into length-sorted chunks whose gradients accumulate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.core import devices
from bench.core.seeds import derive
from bench.data.splits import Encoded
from bench.engine import hardware
from bench.engine.chunking import cut

IGNORED = -100  # the class of an example without a loss: torch's cross_entropy leaves it out


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Some examples of one batch or split, as a token stream: example i's tokens are neighbours, in order.

    b examples, N tokens, T the longest. Nothing is padded here; `padded` lays the stream out as [b, T].
    """

    ids_N: Tensor
    type_ids_N: Tensor | None
    row_N: Tensor  # example of each token, 0 .. b - 1
    position_N: Tensor  # 0, 1, ... within the example
    first_b: Tensor  # where each example begins in the stream
    labels_b: Tensor
    example_b: Tensor  # the example's place in its source file
    place_b: Tensor  # the example's place in the split
    target_N: Tensor | None  # bool, whether the loss is on the token; None where texts are not written
    n_targets: int  # of them, on the host; an example's first token, which nothing predicts, counts too
    lengths: tuple[int, ...]  # tokens of each example, on the host
    n_examples: int
    n_tokens: int
    longest: int

    def target_places(self) -> Tensor:
        """Return where in the stream the tokens stand that the loss is on, in order: [M].

        By a sort, where nonzero would make the host wait for a GPU.
        """
        assert self.target_N is not None
        return (~self.target_N).to(torch.int8).argsort(stable=True)[: self.n_targets]

    def rounded(self, *, tokens: int, length: int) -> Chunk:
        """Return the chunk filled up to a multiple of `tokens` and T to one of `length`, by few examples."""
        n_more = -self.n_tokens % tokens
        return self.filled(
            n_tokens=self.n_tokens + n_more, n_examples=self.n_examples - (-n_more // self.lengths[0]),
            longest=-(-self.longest // length) * length,
        )  # fmt: skip

    def filled(self, *, n_tokens: int, n_examples: int, longest: int) -> Chunk:
        """Return the chunk with so many tokens and examples and this T, for kernels that want few shapes.

        Examples that nobody asked for come after the chunk's own, of class IGNORED, without targets and nearly equal in
        length. They must hold a token at the least and T at the most.
        """
        n_more, n_new = n_tokens - self.n_tokens, n_examples - self.n_examples
        if n_new == 0:
            return replace(self, longest=longest)
        first = n_more * np.arange(n_new) // n_new
        row = np.searchsorted(first, np.arange(n_more), side="right") - 1
        numbers = np.concatenate([self.n_examples + row, np.arange(n_more) - first[row], self.n_tokens + first])
        sent = hardware.sent(torch.from_numpy(numbers), self.ids_N.device)
        row_F, position_F, first_E = sent.split([n_more, n_more, n_new])
        some_F, some_E = row_F * 0, first_E * 0
        return replace(
            self,
            ids_N=torch.cat([self.ids_N, some_F + self.ids_N[:1]]),
            type_ids_N=None if self.type_ids_N is None else torch.cat([self.type_ids_N, some_F]),
            row_N=torch.cat([self.row_N, row_F]),
            position_N=torch.cat([self.position_N, position_F]),
            first_b=torch.cat([self.first_b, first_E]),
            labels_b=torch.cat([self.labels_b, some_E.to(self.labels_b.dtype) + IGNORED]),
            example_b=torch.cat([self.example_b, some_E + self.example_b[:1]]),
            place_b=torch.cat([self.place_b, some_E]),
            target_N=None if self.target_N is None else torch.cat([self.target_N, some_F.bool()]),
            lengths=(*self.lengths, *np.diff(first, append=n_more).tolist()),
            n_examples=n_examples,
            n_tokens=n_tokens,
            longest=longest,
        )

    def padded(self, values_N: Tensor, fill: int) -> Tensor:
        """Return stream values as [b, T], of their own dtype, `fill` where there is no token."""
        grid = values_N.new_full((self.n_examples, self.longest), fill)
        grid[self.row_N, self.position_N] = values_N
        return grid


class Batches:
    """One split on one device, and the order in which a seed goes through it.

    An epoch is a permutation keyed by (seed, epoch); its last batch may be short, as with PyTorch's DataLoader.
    """

    def __init__(self, split: Encoded, *, device: torch.device) -> None:
        self.device = device
        self.n = len(split)
        self.lengths = split.lengths
        self._ids = torch.from_numpy(split.ids).to(device, torch.int64)
        self._type_ids = None if split.type_ids is None else torch.from_numpy(split.type_ids).to(device, torch.int64)
        self._offsets = split.offsets
        self.labels = split.labels
        self._labels = _on(device, split.labels)
        self._index = torch.from_numpy(split.index).to(device)
        self.prompt_lengths = split.prompt_lengths
        wanted = split.is_target()
        self._targets = None if wanted is None else torch.from_numpy(wanted).to(device)
        # [n], target tokens of each example
        self.n_targets = None if wanted is None else np.add.reduceat(wanted, split.offsets[:-1], dtype=np.int64)
        self.target_bytes = split.target_bytes

    def order(
        self, *, seed: int, batch_size: int, max_steps: int, share: float = 1.0
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the examples of each of max_steps batches, as places in the split: [batch_size] or fewer.

        With a `share` below 1 an epoch goes through that share of them; what is in a share is in every larger one.
        """
        step, epoch = 0, 0
        kept = None
        if share < 1:
            drawn = np.random.Generator(np.random.Philox(derive("share", seed))).permutation(self.n)
            kept = np.sort(drawn[: max(1, round(share * self.n))])
        n = self.n if kept is None else len(kept)
        while step < max_steps:
            shuffled = np.random.Generator(np.random.Philox(derive("order", seed, epoch))).permutation(n)
            shuffled = shuffled if kept is None else kept[shuffled]
            for start in range(0, n, batch_size):
                if step == max_steps:
                    return
                yield shuffled[start : start + batch_size]
                step += 1
            epoch += 1

    def chunks(self, places: npt.NDArray[np.int64], n_chunks: int) -> list[Chunk]:
        """Return the batch cut into at most n_chunks chunks of about equally many tokens, short examples first."""
        by_length = places[np.argsort(self.lengths[places], kind="stable")]
        return [self.chunk(part) for part in _cut(by_length, self.lengths, n_chunks)]

    def chunks_of(self, max_tokens: int) -> Iterator[Chunk]:
        """Yield the whole split, sorted by length, in chunks of at most max_tokens padded tokens."""
        by_length = np.argsort(self.lengths, kind="stable")
        start = 0
        while start < self.n:
            stop = start + 1
            while stop < self.n and (stop + 1 - start) * int(self.lengths[by_length[stop]]) <= max_tokens:
                stop += 1
            yield self.chunk(by_length[start:stop])
            start = stop

    def chunk(self, places: npt.NDArray[np.int64]) -> Chunk:
        """Return these examples as one chunk. Index arithmetic is done on the host, ids stay on the device."""
        lengths = self.lengths[places]
        n_tokens, first = int(lengths.sum()), np.cumsum(lengths) - lengths
        row = np.repeat(np.arange(len(places)), lengths)
        position = np.arange(n_tokens) - first[row]
        # two copies for a chunk, whatever it holds: each costs a GPU's host about as much as a kernel
        source, row_N, position_N = self._to(np.stack([self._offsets[places][row] + position, row, position]))
        where, first_b = self._to(np.stack([places, first]))
        return Chunk(
            ids_N=self._ids[source],
            type_ids_N=None if self._type_ids is None else self._type_ids[source],
            row_N=row_N,
            position_N=position_N,
            first_b=first_b,
            labels_b=self._labels[where],
            example_b=self._index[where],
            place_b=where,
            target_N=None if self._targets is None else self._targets[source],
            n_targets=0 if self.n_targets is None else int(self.n_targets[places].sum()),
            lengths=tuple(lengths.tolist()),
            n_examples=len(places),
            n_tokens=n_tokens,
            longest=int(lengths.max()),
        )

    def prompts(self, places: npt.NDArray[np.int64], fill: int) -> tuple[Tensor, Tensor]:
        """Return prompts, ids [b, P] int64 with `fill` before the shorter ones, and their lengths, [b] int64."""
        assert self.prompt_lengths is not None
        lengths = self.prompt_lengths[places]
        at = np.arange(int(lengths.max())) - (lengths.max() - lengths)[:, None]
        ids = self._ids[self._to(self._offsets[places][:, None] + np.maximum(at, 0))]
        return ids.masked_fill(self._to(at) < 0, fill), self._to(lengths)

    def targets(self) -> list[list[int]]:
        """Return the token ids of every target, the end included, in file order."""
        assert self.prompt_lengths is not None
        ids = self._ids.cpu().numpy()
        starts = self._offsets[:-1] + self.prompt_lengths
        return [ids[start:end].tolist() for start, end in zip(starts, self._offsets[1:], strict=True)]

    def _to(self, array: npt.NDArray[np.int64]) -> Tensor:
        return hardware.sent(torch.from_numpy(np.ascontiguousarray(array)), self.device)


def _on(device: torch.device, labels_N: npt.NDArray[Any]) -> Tensor:
    """Return classes as they are, numbers in the device's widest type."""
    labels = torch.from_numpy(labels_N)
    return labels.to(device, devices.widest_float(device) if labels.is_floating_point() else labels.dtype)


def _cut(places: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], n_chunks: int) -> list[npt.NDArray[np.int64]]:
    """Return `places` in at most n_chunks runs of about equally many tokens, none empty."""
    return [part for part in np.split(places, cut(lengths[places], n_chunks)) if len(part)]
