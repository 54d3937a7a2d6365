"""From a stream of tokens to attention's [b, H, T] and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.engine.batching import Chunk
from bench.engine.products import start_of


class Layout:
    """Where a chunk's tokens stand when attention lays them out as [b, H, T]: head by head, padded to the longest.

    `slot` is where the head of each token stands, [N * H], `source` which row each slot holds, [b * H * T], `gap` the
    slots without a token. Those hold a copy of their own example's first one: a gather costs half of clearing the slots
    and scattering into them, and nothing of another example enters.
    """

    def __init__(self, chunk: Chunk, key_N: Tensor, n_heads: int) -> None:
        self.n_examples, self.longest, self.n_heads = chunk.n_examples, chunk.longest, n_heads
        self.first_b = chunk.first_b
        head_H = torch.arange(n_heads, device=chunk.row_N.device)
        token_bxT = chunk.first_b[:, None].expand(-1, chunk.longest).clone()
        token_bxT[chunk.row_N, chunk.position_N] = torch.arange(chunk.n_tokens, device=chunk.row_N.device)
        slot_NxH = (chunk.row_N[:, None] * n_heads + head_H) * chunk.longest + chunk.position_N[:, None]
        source_bxHxT = token_bxT[:, None] * n_heads + head_H[:, None]
        self.mask_bx1x1xT: Tensor | None = None
        self._start: Tensor | None = None
        gap = None
        n_gaps = self.n_examples * self.longest - chunk.n_tokens
        if n_gaps:
            is_token_bxT = chunk.padded(torch.ones_like(chunk.ids_N), 0)
            self.mask_bx1x1xT = is_token_bxT.bool()[:, None, None]
            gap_G = is_token_bxT.flatten().argsort()[:n_gaps]  # nonzero would wait for a GPU
            row, position = gap_G // self.longest, gap_G % self.longest
            gap = ((row[:, None] * n_heads + head_H) * self.longest + position[:, None]).flatten()
        self.slot, self.source, self.gap = slot_NxH.flatten(), source_bxHxT.flatten(), gap
        self.query_key = key_N.unflatten(0, (self.n_examples, -1)) if gap is None else chunk.padded(key_N, 0)
        self.first_query_key = key_N[chunk.first_b][:, None]

    def start(self, dtype: torch.dtype) -> Tensor | None:
        """Return what the scores of every layer start from (`start_of`), made once."""
        if self._start is None:
            self._start = start_of(self.mask_bx1x1xT, dtype)
        return self._start

    def heads(self, x_SxNxD: Tensor) -> Tensor:
        """Return the stream as [S, b, H, T, d_head]."""
        shape = (self.n_examples, self.n_heads, self.longest)
        x_SxNHxd = x_SxNxD.unflatten(2, (self.n_heads, -1)).flatten(1, 2)
        # no gradient comes from a slot without a token: it is masked as a key and unread as a query
        return Move.apply(x_SxNHxd, self.source, self.slot, None).unflatten(1, shape)

    def stream(self, x_SxbxHxTxd: Tensor) -> Tensor:
        """Return the tokens of all heads as a stream: [S, N, D]."""
        # the gradient of a slot without a token is 0: the keys would get it through its scores
        flat = Move.apply(x_SxbxHxTxd.flatten(1, 3), self.slot, self.source, self.gap)
        return flat.unflatten(1, (-1, self.n_heads)).flatten(2)


class Move(torch.autograd.Function):
    """Rows gathered by `there`, their gradients by `back`, 0 at the places `gap`.

    autograd's own backward of index_select would add up rows that cannot coincide here.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, gap: Tensor | None) -> Tensor:
        ctx.back, ctx.gap = back, gap
        return x.index_select(1, there)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        moved = grad.index_select(1, ctx.back)
        return (moved if ctx.gap is None else moved.index_fill_(1, ctx.gap, 0)), None, None, None
