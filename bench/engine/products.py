"""Attention of short texts by plain matrix products, with a backward pass of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

AREA = 128 * 128  # queries times keys of an example
SHORT = 16  # numbers of 32 bits in a register of AVX-512


def products_attention(
    q_BxHxQxd: Tensor, k_BxHxTxd: Tensor, v_BxHxTxd: Tensor, start_bx1x1xT: Tensor | None, kept_bxHxQxT: Tensor | None
) -> Tensor:
    """Return (softmax(q k^T / sqrt(d)) * kept) v, [B, H, Q, d], by matrix products; B = S * b, S streams of b examples.

    `start_bx1x1xT` is what `start_of` returns of the tokens; `kept_bxHxQxT` the weights' dropout mask, None: all ones.
    """
    q_BxHxQxd, k_BxHxTxd, v_BxHxTxd = (as_computed(t) for t in (q_BxHxQxd, k_BxHxTxd, v_BxHxTxd))
    kept_bxHxQxT = None if kept_bxHxQxT is None else as_computed(kept_bxHxQxT)
    _, n_heads, n_queries, width = q_BxHxQxd.shape
    n_keys = k_BxHxTxd.shape[2]
    start = None if start_bx1x1xT is None else start_bx1x1xT.expand(-1, n_heads, n_queries, n_keys)
    q, k, v = (t.flatten(0, 1) for t in (q_BxHxQxd, k_BxHxTxd, v_BxHxTxd))
    with torch.autocast(q.device.type, enabled=False):
        mixed: Tensor = _Products.apply(q, k, v, start, kept_bxHxQxT, width**-0.5)
    return mixed.unflatten(0, (-1, n_heads))


def start_of(mask_bx1x1xT: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return what scores start from: 0 where there is a token, else -inf, so that no pass fills it in afterwards.

    None where every slot has a token.
    """
    if mask_bx1x1xT is None:
        return None
    return torch.zeros_like(mask_bx1x1xT, dtype=dtype).masked_fill_(~mask_bx1x1xT, -torch.inf)


def as_computed(x: Tensor) -> Tensor:
    """Return the tensor in autocast's precision: inside, a forward would cast what a backward does not."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class _Products(torch.autograd.Function):
    """Attention over [G, ., d], G = S * b * H. Written out, since autograd's would pass over the scores more often."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, start: Tensor | None, kept: Tensor | None, scale: float
    ) -> Tensor:
        if start is None:
            scores = scaled_bmm(q, k.transpose(1, 2), scale)
        else:
            scores = q.new_empty(q.shape[0], q.shape[1], k.shape[1])
            scores.unflatten(0, (-1, *start.shape[:2])).copy_(start)
            scores.baddbmm_(q, k.transpose(1, 2), alpha=scale)
        weights = softmax(scores)
        ctx.save_for_backward(q, k, v, weights)
        ctx.kept, ctx.scale = kept, scale
        return torch.bmm(_times(weights, kept), v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, weights = ctx.saved_tensors
        grad_v = torch.bmm(_times(weights, ctx.kept).transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, v.transpose(1, 2))
        if ctx.kept is not None:
            grad_weights.unflatten(0, (-1, *ctx.kept.shape[:2])).mul_(ctx.kept)
        grad_scores = softmax_backward(grad_weights, weights)
        grad_q = scaled_bmm(grad_scores, k, ctx.scale)
        grad_k = scaled_bmm(grad_scores.transpose(1, 2), q, ctx.scale)
        return grad_q, grad_k, grad_v, None, None, None


def softmax(scores_GxQxT: Tensor) -> Tensor:
    """Return the softmax over the last dimension, in at least float32 within; the scores may be overwritten.

    torch's own, on a CPU, falls to one number at a time where a row is shorter than a register: ten times the time
    (docs/log.md).
    """
    is_half = scores_GxQxT.element_size() == 2
    if _is_short(scores_GxQxT, SHORT):
        exps = scores_GxQxT.float() if is_half else scores_GxQxT
        exps.sub_(exps.amax(dim=-1, keepdim=True)).exp_()
        return exps.div_(exps.sum(dim=-1, keepdim=True)).to(scores_GxQxT.dtype)
    if is_half and _is_short(scores_GxQxT, 2 * SHORT):
        return scores_GxQxT.float().softmax(dim=-1).to(scores_GxQxT.dtype)
    return scores_GxQxT.softmax(dim=-1)


def softmax_backward(grad_GxQxT: Tensor, weights_GxQxT: Tensor) -> Tensor:
    """Return the gradient of the scores, w (g - sum w g) over the last dimension; `grad_GxQxT` may be overwritten."""
    is_half = weights_GxQxT.element_size() == 2
    if not _is_short(weights_GxQxT, 2 * SHORT if is_half else SHORT):
        return torch._softmax_backward_data(grad_GxQxT, weights_GxQxT, -1, weights_GxQxT.dtype)
    product = grad_GxQxT.mul_(weights_GxQxT)
    return product.addcmul_(weights_GxQxT, product.sum(dim=-1, keepdim=True), value=-1)


def _is_short(rows_GxQxT: Tensor, least: int) -> bool:
    return rows_GxQxT.device.type == "cpu" and rows_GxQxT.shape[-1] < least


def scaled_bmm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return scale * a b for each of the batch; the product itself scales, without a pass of its own."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)


def _times(weights_GxQxT: Tensor, kept_bxHxQxT: Tensor | None) -> Tensor:
    """Return the weights times their dropout mask, the same for every stream."""
    if kept_bxHxQxT is None:
        return weights_GxQxT
    return (weights_GxQxT.unflatten(0, (-1, *kept_bxHxQxT.shape[:2])) * kept_bxHxQxT).flatten(0, 2)


def is_faster(q: Tensor, k: Tensor) -> bool:
    """Return whether plain matrix products are the faster attention: on a CPU, for texts of usual length.

    torch's fused kernel for CPUs loses to them up to a length of about 128, in bf16 three- to tenfold, and beyond it
    the scores' memory counts (docs/log.md).
    """
    return q.device.type == "cpu" and q.shape[2] * k.shape[2] <= AREA
