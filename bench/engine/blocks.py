"""Attention over a packed stream: every example attends to itself alone.

A stream [S, N, ...] holds the examples of a chunk one after the other, the same for each of S trials. On a CPU
neighbours of one length go through plain products together, with a backward of their own: nothing is padded, and heads
that share keys and values do so without copies. On a GPU that would be some twenty kernels for each length in each
layer, which are over before the host has launched them: there attention, and it alone, is padded to the longest.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.engine import hardware, waiting
from bench.engine.chunking import KEPT_BELOW, WIDE
from bench.engine.dropout import MaskKeys, attention_mask_by, attention_mask_of
from bench.engine.heads import Move
from bench.engine.products import as_computed, scaled_bmm, softmax, softmax_backward

LONG = KEPT_BELOW
AT_ONCE = 1 << 24  # scores that exist at once, unless one example of one trial has more


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How scores are made: cap tanh(q k^T scale / cap), each query seeing `window` keys at most, itself the last."""

    scale: float
    softcap: float | None = None
    window: int | None = None
    causal: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Drops:
    """The keyed dropout of the weights of one module; p is 0 outside training."""

    keys: MaskKeys
    path: str
    p: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Neighbouring examples of one length: tokens start to start + n * length of the stream."""

    start: int
    n: int
    length: int

    @property
    def tokens(self) -> slice:
        """Where its tokens are in the stream."""
        return slice(self.start, self.start + self.n * self.length)


def runs_of(lengths: Sequence[int]) -> Iterator[Run]:
    """Yield the runs of equal lengths, in order."""
    start = 0
    for length, group in itertools.groupby(lengths):
        n = len(list(group))
        yield Run(start=start, n=n, length=length)
        start += n * length


def _cut(run: Run, most: int) -> Iterator[Run]:
    """Yield the run in parts of at most `most` examples, or of one."""
    step = max(1, most)
    for first in range(0, run.n, step):
        yield replace(run, start=run.start + first * run.length, n=min(step, run.n - first))


def _by_streams(n_streams: int, n_heads: int, runs: Sequence[Run]) -> Iterator[tuple[int, slice]]:
    """Yield each run's place and as many of the streams as may have their scores at once."""
    for i, run in enumerate(runs):
        step = max(1, AT_ONCE // (run.n * n_heads * run.length**2))
        yield from ((i, slice(first, first + step)) for first in range(0, n_streams, step))


def stream_attention(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], form: Form, drops: Drops) -> Tensor:
    """Return softmax(scores) v for each example: [S, N, H, d_v], of q [S, H, N, d] and k, v [S, H or fewer, N, .]."""
    by_lengths = waiting.may_ask(q.device)
    return (block_attention if by_lengths else padded_attention)(q, k, v, lengths, form, drops)


def padded_attention(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], form: Form, drops: Drops) -> Tensor:
    """Return what `block_attention` does, by a few calls whatever the lengths."""
    n_streams, grid = max(q.shape[0], k.shape[0], v.shape[0]), grid_of(lengths, q.device)
    groups = q.shape[1] // k.shape[1]
    q, k, v = (grid.rows(as_computed(t).expand(n_streams, -1, -1, -1)) for t in (q, k, v))
    if groups > 1:
        k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    with torch.autocast(q.device.type, enabled=False):
        return grid.stream(
            _attend(q, k, v, grid.seen(form).repeat(n_streams, 1, 1, 1), form, _grid_kept(q, grid, drops))
        )


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, form: Form, kept: Tensor | None) -> Tensor:
    """Return attention of padded rows: [S*n, H, T, d_v]; `seen` is [S*n, 1, T, T], `kept` the mask [n, H, T, T]."""
    if kept is None and form.softcap is None:
        return scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=form.scale)
    scores = torch.matmul(q, k.transpose(2, 3)) * form.scale
    if form.softcap is not None:
        scores = form.softcap * torch.tanh(scores / form.softcap)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    if kept is not None:
        weights = (weights.unflatten(0, (-1, len(kept))) * kept).flatten(0, 1)
    return torch.matmul(weights, v)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Where the tokens of a stream stand in rows of examples padded to T, the longest's length or a little more."""

    n: int
    longest: int
    source: Tensor  # which token each slot holds, [n * T]: one without a token its example's first
    slot: Tensor  # where each token stands, [N]
    gap: Tensor | None  # the slots without a token
    is_token: Tensor  # [n, T]

    def rows(self, x_SxHxNxd: Tensor) -> Tensor:
        """Return the stream as [S * n, H, T, d]."""
        moved = Move.apply(x_SxHxNxd.transpose(1, 2), self.source, self.slot, None)
        return moved.unflatten(1, (self.n, self.longest)).flatten(0, 1).transpose(1, 2)

    def stream(self, x_RxHxTxd: Tensor) -> Tensor:
        """Return the tokens of rows [S * n, H, T, d] as a stream: [S, N, H, d]."""
        flat = x_RxHxTxd.transpose(1, 2).unflatten(0, (-1, self.n)).flatten(1, 2)
        moved: Tensor = Move.apply(flat, self.slot, self.source, self.gap)
        return moved

    def seen(self, form: Form) -> Tensor:
        """Return which keys each query sees, bool [n, 1, T, T]; a slot without a token sees itself: a row without any
        key would be nan, and so its gradient.
        """
        seen = torch.ones(self.longest, self.longest, dtype=torch.bool, device=self.slot.device)
        own = seen.tril().triu()
        if form.causal:
            seen = seen.tril()
        if form.window is not None and form.window < self.longest:
            seen = seen.triu(1 - form.window)
        return (self.is_token[:, None, None, :] & seen) | own


@functools.lru_cache(maxsize=4)  # all layers of a chunk ask for one
def grid_of(lengths: tuple[int, ...], device: torch.device) -> Grid:
    """Return the grid of examples of these lengths."""
    longest, n_tokens = -(-max(lengths) // WIDE) * WIDE, sum(lengths)
    length_nx1 = np.array(lengths)[:, None]
    first_nx1 = np.cumsum(length_nx1, axis=0) - length_nx1
    is_token = np.arange(longest) < length_nx1
    source = np.where(is_token, first_nx1 + np.arange(longest), first_nx1).ravel()
    slot, gap = np.flatnonzero(is_token), np.flatnonzero(~is_token)
    numbers = torch.from_numpy(np.concatenate([source, slot, gap, is_token.ravel()]))
    parts = hardware.sent(numbers, device).split([source.size, n_tokens, gap.size, source.size])
    return Grid(
        n=len(lengths), longest=longest, source=parts[0], slot=parts[1], gap=parts[2] if gap.size else None,
        is_token=parts[3].bool().view(len(lengths), longest),
    )  # fmt: skip


def _grid_kept(q_RxHxTxd: Tensor, grid: Grid, drops: Drops) -> Tensor | None:
    """Return the dropout mask of padded rows, [n, H, T, T]; None: nothing is dropped."""
    token_1xN = drops.keys.token_key
    if drops.p == 0 or token_1xN is None:
        return None
    key_nxT = token_1xN[0].index_select(0, grid.source).view(grid.n, grid.longest)
    return attention_mask_of(
        drops.keys, drops.path, drops.p, key_nxT, n_heads=q_RxHxTxd.shape[1], n_keys=grid.longest, dtype=q_RxHxTxd.dtype
    )


def block_attention(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], form: Form, drops: Drops) -> Tensor:
    """Return softmax(scores) v for each example: [S, N, H, d_v], of q [S, H, N, d] and k, v [S, H or fewer, N, .]."""
    n_streams = max(q.shape[0], k.shape[0], v.shape[0])
    q, k, v = (as_computed(t).expand(n_streams, -1, -1, -1) for t in (q, k, v))
    runs = tuple(part for run in runs_of(lengths) for part in _cut(run, AT_ONCE // (q.shape[1] * run.length**2)))
    kept = _kept(q, runs, drops)
    with torch.autocast(q.device.type, enabled=False):
        mixed: Tensor = _Blocks.apply(q, k, v, runs, form, kept)
    return mixed


def _kept(q: Tensor, runs: Sequence[Run], drops: Drops) -> list[Tensor] | None:
    """Return the dropout masks [n, H, T, T] of all runs; None: nothing is dropped."""
    token_1xN = drops.keys.token_key
    if drops.p == 0 or token_1xN is None:
        return None
    salt = drops.keys.salt(drops.path)
    keys = [token_1xN[0, run.tokens].unflatten(0, (run.n, run.length)) for run in runs]
    return [
        attention_mask_by(salt, drops.p, key, n_heads=q.shape[1], n_keys=run.length, dtype=q.dtype)
        for key, run in zip(keys, runs, strict=True)
    ]


class _Blocks(torch.autograd.Function):
    """All examples in one function: slices of a stream would each get a gradient as long as the stream.

    Half precision is float32 within: oneDNN would compile kernels for each length, which a CPU's memory keeps. What is
    kept for backward stays in 16 bits.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, runs: Sequence[Run], form: Form, kept: list[Tensor] | None
    ) -> Tensor:
        n_streams, n_heads, n_tokens, _ = q.shape
        out_SxNxHxd = q.new_empty(n_streams, n_tokens, n_heads, v.shape[-1])
        saved: list[Tensor] = []
        for i, part in _by_streams(n_streams, n_heads, runs):
            run = runs[i]
            q_G, k_G, v_G = (_rows(t[part], run, k.shape[1]) for t in (q, k, v))
            weights, capped = _weights(q_G, k_G, run, form)
            dropped = weights if kept is None else _times(weights, kept[i], k.shape[1])
            _put(out_SxNxHxd[part], torch.bmm(dropped, v_G), run)
            if run.length < LONG:
                saved += [t.to(q.dtype) for t in (weights, capped) if t is not None]
        ctx.save_for_backward(q, k, v, *saved)
        ctx.runs, ctx.form, ctx.kept = runs, form, kept
        return out_SxNxHxd

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        form, n_shared = ctx.form, k.shape[1]
        grads = [t.new_empty(t.shape[0], t.shape[2], t.shape[1], t.shape[3]) for t in (q, k, v)]
        grad_heads = grad.transpose(1, 2)
        for i, part in _by_streams(q.shape[0], q.shape[1], ctx.runs):
            run = ctx.runs[i]
            q_G, k_G, v_G, grad_G = (_rows(t[part], run, n_shared) for t in (q, k, v, grad_heads))
            if run.length < LONG:
                weights, capped = saved.pop(0), saved.pop(0) if form.softcap is not None else None
                weights, capped = weights.to(q_G.dtype), None if capped is None else capped.to(q_G.dtype)
            else:
                weights, capped = _weights(q_G, k_G, run, form)
            kept = None if ctx.kept is None else ctx.kept[i]
            dropped = weights if kept is None else _times(weights, kept, n_shared)
            _put(grads[2][part], torch.bmm(dropped.transpose(1, 2), grad_G), run)
            grad_w = torch.bmm(grad_G, v_G.transpose(1, 2))
            if kept is not None:
                grad_w = _times(grad_w, kept, n_shared)
            grad_s = softmax_backward(grad_w, weights)
            if capped is not None:  # capped is tanh(.)
                grad_s = grad_s.addcmul_(grad_s * capped, capped, value=-1)
            _put(grads[0][part], scaled_bmm(grad_s, k_G, form.scale), run)
            _put(grads[1][part], scaled_bmm(grad_s.transpose(1, 2), q_G, form.scale), run)
        return *(g.transpose(1, 2) for g in grads), None, None, None


def _rows(x_SxHxNxd: Tensor, run: Run, n_shared: int) -> Tensor:
    """Return the run's heads, those that share keys behind one another: [S * n * H_kv, H / H_kv * T, d].

    They are at least float32.
    """
    x = x_SxHxNxd[:, :, run.tokens].unflatten(2, (run.n, run.length)).unflatten(1, (n_shared, -1))
    rows = x.permute(0, 3, 1, 2, 4, 5).reshape(-1, x.shape[2] * run.length, x.shape[-1])
    return rows.float() if rows.element_size() == 2 else rows


def _put(stream_SxNxHxd: Tensor, rows_GxQxd: Tensor, run: Run) -> None:
    """Write a run's heads, laid out as `_rows` does, into its part of the stream."""
    n_streams, _, n_heads, width = stream_SxNxHxd.shape
    part = stream_SxNxHxd[:, run.tokens].unflatten(1, (run.n, run.length))  # [S, n, T, H, d]
    part.copy_(rows_GxQxd.view(n_streams, run.n, n_heads, run.length, width).transpose(2, 3))


def _weights(q_G: Tensor, k_G: Tensor, run: Run, form: Form) -> tuple[Tensor, Tensor | None]:
    """Return the softmax of a run's scores, [G, Q, T], and tanh of the capped ones before the cap multiplies."""
    start_QxT = _start(run.length, form, q_G)
    if start_QxT is not None:
        start_QxT = start_QxT.repeat(q_G.shape[1] // run.length, 1)
    if form.softcap is None:
        if start_QxT is None:
            return softmax(scaled_bmm(q_G, k_G.transpose(1, 2), form.scale)), None
        shape = (q_G.shape[0], *start_QxT.shape)
        return softmax(torch.baddbmm(start_QxT.expand(shape), q_G, k_G.transpose(1, 2), alpha=form.scale)), None
    capped = scaled_bmm(q_G, k_G.transpose(1, 2), form.scale / form.softcap).tanh_()
    scores = capped * form.softcap
    return softmax(scores if start_QxT is None else scores.add_(start_QxT)), capped


def _start(length: int, form: Form, like: Tensor) -> Tensor | None:
    """Return 0 where a query sees a key and -inf elsewhere, [T, T]; None where it sees all."""
    if not form.causal and form.window is None:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=like.device)
    if form.causal:
        seen = seen.tril()
    if form.window is not None and form.window < length:
        seen = seen.triu(1 - form.window)
    return torch.zeros(length, length, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)


def _times(weights_GxQxT: Tensor, kept_nxHxTxT: Tensor, n_shared: int) -> Tensor:
    """Return a run's weights times their dropout mask, the same for every trial."""
    n, _, _, n_keys = kept_nxHxTxT.shape
    kept = kept_nxHxTxT.reshape(n * n_shared, -1, n_keys)
    return (weights_GxQxT.unflatten(0, (-1, len(kept))) * kept).flatten(0, 1)
