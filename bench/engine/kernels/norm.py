"""norm(x + out * mask) of half a layer by one kernel each way: a program takes rows of one stream, in float32."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16  # of a program that adds up the gradients of scale and shift


@triton.jit(do_not_specialize=["n_rows"])
def forward_kernel(
    y, total, mean, rstd, x, out, mask, weight, bias, eps, n_rows, x_stream, out_stream, weight_stream, bias_stream,
    D: tl.constexpr, BLOCK: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Write y, the sum that is normalised, and its mean and 1 / deviation."""
    row, stream, f = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.arange(0, BLOCK)
    inside = f < D
    added = tl.load(out + stream * out_stream + row * D + f, mask=inside, other=0.0).to(tl.float32)
    if DROPS:
        added *= tl.load(mask + row * D + f, mask=inside, other=0.0).to(tl.float32)
    added += tl.load(x + stream * x_stream + row * D + f, mask=inside, other=0.0).to(tl.float32)
    added = added.to(total.dtype.element_ty)  # what backward reads is what is normalised
    at = stream * n_rows + row
    tl.store(total + at * D + f, added, mask=inside)
    added = added.to(tl.float32)
    middle = tl.sum(added, 0) / D
    centred = tl.where(inside, added - middle, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / D + eps)
    tl.store(mean + at, middle)
    tl.store(rstd + at, scale)
    w = tl.load(weight + stream * weight_stream + f, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + stream * bias_stream + f, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at * D + f, (centred * scale * w + b).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_rows"])
def backward_kernel(
    grad_x, grad_out, part_w, part_b, grad, total, mean, rstd, mask, weight, n_rows, rows, weight_stream,
    D: tl.constexpr, BLOCK: tl.constexpr, DROPS: tl.constexpr, TRAINED: tl.constexpr,
):  # fmt: skip
    """Write the gradients of x and out and, where they are trained, partial sums of those of weight and bias."""
    stream, f = tl.program_id(1).to(tl.int64), tl.arange(0, BLOCK)
    inside = f < D
    w = tl.load(weight + stream * weight_stream + f, mask=inside, other=0.0).to(tl.float32)
    sum_w, sum_b = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    row = tl.program_id(0).to(tl.int64) * rows
    stop = tl.minimum(row + rows, n_rows)
    while row < stop:
        at = stream * n_rows + row
        g = tl.load(grad + at * D + f, mask=inside, other=0.0).to(tl.float32)
        added = tl.load(total + at * D + f, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(rstd + at)
        unit = tl.where(inside, (added - tl.load(mean + at)) * scale, 0.0)
        if TRAINED:
            sum_w += g * unit
            sum_b += g
        g *= w
        g = scale * (g - tl.sum(g, 0) / D - unit * (tl.sum(g * unit, 0) / D))
        tl.store(grad_x + at * D + f, g.to(grad_x.dtype.element_ty), mask=inside)
        if DROPS:
            g *= tl.load(mask + row * D + f, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_out + at * D + f, g.to(grad_out.dtype.element_ty), mask=inside)
        row += 1
    if TRAINED:
        at = stream * tl.num_programs(0) + tl.program_id(0)
        tl.store(part_w + at * D + f, sum_w, mask=inside)
        tl.store(part_b + at * D + f, sum_b, mask=inside)


class NormedSum(torch.autograd.Function):
    """norm(x + out * mask) * weight + bias; x and out [S, N, D], mask [N, D] or None, weight and bias [S, D] or [D]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, out: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        x, out = (t if t[0].is_contiguous() else t.contiguous() for t in (x, out))
        weight, bias = weight.contiguous(), bias.contiguous()
        mask = None if mask is None else mask.contiguous()
        n_streams, n_rows, width = out.shape
        total = torch.empty(out.shape, device=out.device, dtype=torch.promote_types(x.dtype, out.dtype))
        y = torch.empty(out.shape, device=out.device, dtype=torch.promote_types(total.dtype, weight.dtype))
        mean, rstd = torch.empty(2, n_streams, n_rows, device=out.device).unbind()
        forward_kernel[(n_rows, n_streams)](
            y, total, mean, rstd, x, out, out if mask is None else mask, weight, bias, eps, n_rows,
            x.stride(0), out.stride(0), _apart(weight), _apart(bias), DROPS=mask is not None, **settings(width),
        )  # fmt: skip
        ctx.save_for_backward(total, mean, rstd, weight)
        ctx.mask, ctx.dtypes = mask, (x.dtype, out.dtype, bias.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total, mean, rstd, weight = ctx.saved_tensors
        n_streams, n_rows, width = total.shape
        is_trained = ctx.needs_input_grad[3]
        rows = ROWS if is_trained else 1
        parts = triton.cdiv(n_rows, rows)
        grad_x, grad_out = (torch.empty(total.shape, device=total.device, dtype=dtype) for dtype in ctx.dtypes[:2])
        sums = torch.empty(2, n_streams, parts if is_trained else 0, width, device=total.device)
        backward_kernel[(parts, n_streams)](
            grad_x, grad_out, sums[0], sums[1], grad.contiguous(), total, mean, rstd,
            mean if ctx.mask is None else ctx.mask, weight, n_rows, rows, _apart(weight),
            DROPS=ctx.mask is not None, TRAINED=is_trained, **settings(width),
        )  # fmt: skip
        if not is_trained:
            return grad_x, grad_out, None, None, None, None
        each = sums.sum(dim=2) if weight.ndim == 2 else sums.sum(dim=(1, 2))
        return grad_x, grad_out, None, each[0].to(weight.dtype), each[1].to(ctx.dtypes[2]), None


def settings(width: int) -> dict[str, int]:
    """Return how the kernels for rows of this width are built."""
    block = triton.next_power_of_2(width)
    return {"D": width, "BLOCK": block, "num_warps": max(1, min(8, block // 256))}


def _apart(weight: Tensor) -> int:
    return weight.stride(0) if weight.ndim == 2 else 0
