"""Where the texts of a stream begin and end, for attention that leaves them where they are (kernels/attention.py)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.engine import kernels
from bench.engine.batching import Chunk

BLOCKS = (16, 32, 64, 128)  # tokens of a text that a program makes the scores of at once
WIDTHS = (16, 32, 64, 128)  # of a head
# Of a text's tokens times a head's width times the bytes of a number squared: registers run out sooner in fp32, which
# no tensor core multiplies. 128 tokens of width 64 in half precision, 32 in fp32.
MOST = 32_768


@dataclass(frozen=True, kw_only=True, slots=True)
class Spans:
    """A chunk's texts: token keys [N], where each text begins [b], and runs of texts that fit one block."""

    key_N: Tensor
    first_b: Tensor
    n_examples: int
    n_tokens: int
    blocks: tuple[tuple[int, int, int], ...]  # block, the first of its texts, how many


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """Keyed dropout of one call's weights: its salt, [1] on the device, and what dropout.threshold_and_scale gives.

    Without a salt nothing is dropped.
    """

    salt: Tensor | None = None
    threshold: int = 0
    scale: float = 1.0


def spans_of(chunk: Chunk, key_N: Tensor, head_width: int, dtype: torch.dtype) -> Spans | None:
    """Return the chunk's spans; None where the kernel is not used on the device, or has no block or type for it."""
    if head_width not in WIDTHS or dtype == torch.float64 or not kernels.used("attention", key_N.device):
        return None
    if chunk.longest > min(BLOCKS[-1], MOST // (head_width * dtype.itemsize**2)):
        return None
    return Spans(
        key_N=key_N, first_b=chunk.first_b, n_examples=chunk.n_examples, n_tokens=chunk.n_tokens,
        blocks=blocks_of(chunk.lengths),
    )  # fmt: skip


def blocks_of(lengths: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Return the runs of texts that fit one block and no smaller one: block, the first of its texts, how many."""
    blocks, start = [], 0
    for block, run in itertools.groupby(next(size for size in BLOCKS if length <= size) for length in lengths):
        n = len(list(run))
        blocks.append((block, start, n))
        start += n
    return tuple(blocks)
