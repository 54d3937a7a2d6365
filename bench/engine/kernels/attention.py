"""Attention of a stream of short texts by one kernel each way: no padding, no scores or masks in memory.

A program takes one text, one head and some streams. A text's scores are made at once, in float32, in backward again.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bench.engine.kernels.hashing import mixed, part_of, word_of
from bench.engine.products import as_computed
from bench.engine.spans import Drop, Spans

# What differs from chunk to chunk and is not to be compiled for each value
CHANGING = ["threshold", "n_streams", "n_tokens", "n_examples", "first_example", "per_program"]
UNALIGNED = ["key", "first", "salt"]
PROGRAMS = 2048  # from so many on a program takes several streams, for which it makes the mask once
MOST_STREAMS = 8


@triton.jit
def load_rows(x, start, n, BLOCK: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """Return rows start to start + n of one head [BLOCK, WIDTH], 0 beyond them."""
    row, column = tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    return tl.load(x + (start + row)[:, None] * D + column[None, :], mask=(row < n)[:, None], other=0.0)


@triton.jit
def store_rows(x, values, start, n, BLOCK: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """Write the rows that `load_rows` reads."""
    row, column = tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    at = x + (start + row)[:, None] * D + column[None, :]
    tl.store(at, values.to(x.dtype.element_ty), mask=(row < n)[:, None])


@triton.jit
def weights_of(q, k, n, score_scale, BLOCK: tl.constexpr):
    """Return softmax(q k^T score_scale) over the first n keys: [BLOCK_Q, BLOCK] in float32."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * score_scale
    scores = tl.where(tl.arange(0, BLOCK)[None, :] < n, scores, float("-inf"))
    exps = tl.exp(scores - tl.max(scores, 1)[:, None])
    return exps / tl.sum(exps, 1)[:, None]


@triton.jit
def kept_of(
    key, salt, start, n, head, threshold, kept_scale,
    DROPS: tl.constexpr, H: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the mask of one text and head, [BLOCK_Q, BLOCK] in float32; key position j is feature j * H + h."""
    query, feature = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK) * H + head
    if DROPS:
        row = mixed(tl.load(key + start + query, mask=query < n, other=0) + tl.load(salt))
        bits = word_of(row[:, None], feature[None, :])
        kept = tl.where(part_of(bits, feature[None, :]) >= threshold, kept_scale, 0.0)
    else:
        kept = tl.full((BLOCK_Q, BLOCK), 1.0, tl.float32)
    return kept


@triton.jit(do_not_specialize=CHANGING, do_not_specialize_on_alignment=UNALIGNED)
def forward_kernel(
    out, q, k, v, key, first, salt, threshold: tl.int32, kept_scale, score_scale,
    n_streams: tl.int32, n_tokens: tl.int32, n_examples: tl.int32, first_example: tl.int32, per_program: tl.int32,
    q_stream, k_stream, v_stream, out_stream,
    H: tl.constexpr, WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK: tl.constexpr, FIRST: tl.constexpr,
    DROPS: tl.constexpr,
):  # fmt: skip
    """Write out; `FIRST`: the queries are one row for each text, its first token's."""
    D: tl.constexpr = H * WIDTH
    example, head = first_example + tl.program_id(0), tl.program_id(1)
    start = tl.load(first + example)
    n = (tl.load(first + example + 1, mask=example + 1 < n_examples, other=n_tokens) - start).to(tl.int32)
    q_start, n_queries = start, n
    if FIRST:
        q_start, n_queries = example.to(tl.int64), 1
    kept = kept_of(key, salt, start, n, head, threshold, kept_scale, DROPS, H, BLOCK_Q, BLOCK)
    at = tl.program_id(2).to(tl.int64) * per_program
    stop = tl.minimum(at + per_program, n_streams)
    while at < stop:  # a range of numbers that are not constants is none to the interpreter
        q_rows = load_rows(q + at * q_stream + head * WIDTH, q_start, n_queries, BLOCK_Q, WIDTH, D)
        k_rows = load_rows(k + at * k_stream + head * WIDTH, start, n, BLOCK, WIDTH, D)
        v_rows = load_rows(v + at * v_stream + head * WIDTH, start, n, BLOCK, WIDTH, D)
        weights = weights_of(q_rows, k_rows, n, score_scale, BLOCK) * kept
        mixed_rows = tl.dot(weights.to(v_rows.dtype), v_rows, input_precision="ieee")
        store_rows(out + at * out_stream + head * WIDTH, mixed_rows, q_start, n_queries, BLOCK_Q, WIDTH, D)
        at += 1


@triton.jit(do_not_specialize=CHANGING, do_not_specialize_on_alignment=UNALIGNED)
def backward_kernel(
    grad_q, grad_k, grad_v, grad, q, k, v, key, first, salt, threshold: tl.int32, kept_scale, score_scale,
    n_streams: tl.int32, n_tokens: tl.int32, n_examples: tl.int32, first_example: tl.int32, per_program: tl.int32,
    q_stream, k_stream, v_stream, out_stream, key_stream,
    H: tl.constexpr, WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK: tl.constexpr, FIRST: tl.constexpr,
    DROPS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of q, laid out as `out` is, and of k and v, whose streams are `key_stream` apart."""
    D: tl.constexpr = H * WIDTH
    example, head = first_example + tl.program_id(0), tl.program_id(1)
    start = tl.load(first + example)
    n = (tl.load(first + example + 1, mask=example + 1 < n_examples, other=n_tokens) - start).to(tl.int32)
    q_start, n_queries = start, n
    if FIRST:
        q_start, n_queries = example.to(tl.int64), 1
    kept = kept_of(key, salt, start, n, head, threshold, kept_scale, DROPS, H, BLOCK_Q, BLOCK)
    at = tl.program_id(2).to(tl.int64) * per_program
    stop = tl.minimum(at + per_program, n_streams)
    while at < stop:  # a range of numbers that are not constants is none to the interpreter
        q_rows = load_rows(q + at * q_stream + head * WIDTH, q_start, n_queries, BLOCK_Q, WIDTH, D)
        k_rows = load_rows(k + at * k_stream + head * WIDTH, start, n, BLOCK, WIDTH, D)
        v_rows = load_rows(v + at * v_stream + head * WIDTH, start, n, BLOCK, WIDTH, D)
        g_rows = load_rows(grad + at * out_stream + head * WIDTH, q_start, n_queries, BLOCK_Q, WIDTH, D)
        weights = weights_of(q_rows, k_rows, n, score_scale, BLOCK)
        for_v = tl.dot(tl.trans((weights * kept).to(g_rows.dtype)), g_rows, input_precision="ieee")
        store_rows(grad_v + at * key_stream + head * WIDTH, for_v, start, n, BLOCK, WIDTH, D)
        for_weights = tl.dot(g_rows, tl.trans(v_rows), input_precision="ieee") * kept
        for_scores = weights * (for_weights - tl.sum(weights * for_weights, 1)[:, None]) * score_scale
        for_scores = for_scores.to(q_rows.dtype)
        for_q = tl.dot(for_scores, k_rows, input_precision="ieee")
        store_rows(grad_q + at * out_stream + head * WIDTH, for_q, q_start, n_queries, BLOCK_Q, WIDTH, D)
        for_k = tl.dot(tl.trans(for_scores), q_rows, input_precision="ieee")
        store_rows(grad_k + at * key_stream + head * WIDTH, for_k, start, n, BLOCK, WIDTH, D)
        at += 1


def settings(width: int, block: int, first_only: bool) -> dict[str, int]:
    """Return how a kernel for texts of at most `block` tokens is built."""
    block_q = 16 if first_only else block
    return {"BLOCK": block, "BLOCK_Q": block_q, "WIDTH": width, "num_warps": block // 16, "num_stages": 1}


def span_attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans, drop: Drop, n_heads: int) -> Tensor:
    """Return (softmax(q k^T / sqrt(d)) * kept) v of each text, in q's layout: [S, N, D], or [S, b, D] of first tokens.

    k and v are [S, N, D]; S is the same for all or 1.
    """
    n_streams = max(q.shape[0], k.shape[0], v.shape[0])
    q, k, v = (as_computed(t).expand(n_streams, -1, -1) for t in (q, k, v))
    mixed: Tensor = Attention.apply(q, k, v, spans, drop, n_heads)
    return mixed


class Attention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) * kept v of each text and head; q [S, N, D], or [S, b, D] of first tokens."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, spans: Spans, drop: Drop, n_heads: int) -> Tensor:
        q, k, v = (_rows(t) for t in (q, k, v))
        out = torch.empty(q.shape, device=q.device, dtype=q.dtype)
        ctx.save_for_backward(q, k, v)
        ctx.spans, ctx.drop, ctx.n_heads = spans, drop, n_heads
        _launch(forward_kernel, (out, q, k, v), spans, drop, n_heads, (q, k, v, out))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        grad = grad.contiguous()
        grads = [torch.empty(t.shape, device=t.device, dtype=t.dtype) for t in (q, k, v)]
        _launch(backward_kernel, (*grads, grad, q, k, v), ctx.spans, ctx.drop, ctx.n_heads, (q, k, v, grad, grads[1]))
        return *grads, None, None, None


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], spans: Spans, drop: Drop, n_heads: int, strided: tuple[Tensor, ...]
) -> None:
    """Run a kernel over all texts, once for each block of lengths; `strided` are those whose streams lie apart."""
    n_streams, n_rows, d = strided[0].shape
    first_only = n_rows == spans.n_examples and n_rows != spans.n_tokens
    salt = spans.key_N if drop.salt is None else drop.salt  # without one it is not read
    for block, start, n in spans.blocks:
        per_program = max(1, min(MOST_STREAMS, n_streams * n * n_heads // PROGRAMS))
        kernel[(n, n_heads, triton.cdiv(n_streams, per_program))](
            *tensors, spans.key_N, spans.first_b, salt, drop.threshold, drop.scale, (d // n_heads) ** -0.5,
            n_streams, spans.n_tokens, spans.n_examples, start, per_program, *(t.stride(0) for t in strided),
            H=n_heads, FIRST=first_only, DROPS=drop.salt is not None, **settings(d // n_heads, block, first_only),
        )  # fmt: skip


def _rows(x_SxNxD: Tensor) -> Tensor:
    """Return the tensor itself where its rows are neighbours, which streams that are one need not be."""
    one = x_SxNxD[0]
    return x_SxNxD if one.is_contiguous() else x_SxNxD.contiguous()
