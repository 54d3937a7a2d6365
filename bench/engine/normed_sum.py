"""norm(x + out * mask), which ends each half of an encoder's layer, where a kernel makes it (kernels/norm.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.engine import kernels
from bench.engine.stacked import StackedLayerNorm


def is_by_kernel(norm: nn.Module, out: Tensor) -> bool:
    """Return whether the kernel is used on the device and knows the norm: one with scale and shift, not adapted."""
    if not kernels.used("norm", out.device) or out.dtype == torch.float64:
        return False
    return (isinstance(norm, StackedLayerNorm) and norm.bias_KxD is not None) or (
        type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None
    )


def normed_sum(norm: nn.Module, x_SxNxD: Tensor, out_SxNxD: Tensor, mask_NxD: Tensor | None) -> Tensor:
    """Return norm(x + out * mask), [S, N, D], by the kernel; without a mask nothing is dropped."""
    from bench.engine.kernels.norm import NormedSum

    if isinstance(norm, StackedLayerNorm):
        weight, bias, n_own = norm.weight_KxD, norm.bias_KxD, len(norm.weight_KxD)
    else:
        assert isinstance(norm, nn.LayerNorm)
        weight, bias, n_own = norm.weight, norm.bias, 1
    n_streams = max(x_SxNxD.shape[0], out_SxNxD.shape[0], n_own)
    x, out = (t.expand(n_streams, -1, -1) for t in (x_SxNxD, out_SxNxD))
    y: Tensor = NormedSum.apply(x, out, mask_NxD, weight, bias, norm.eps)
    return y
