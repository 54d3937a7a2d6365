"""x V^T for a large matrix V made of few numbers: V_ij = w[a_i + b_j]. V is made, used and dropped, in both passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Product(torch.autograd.Function):
    """Keeps x and w only: autograd on its own would keep V for each trial, a second copy of the model's weights."""

    @staticmethod
    def forward(ctx: Any, x_KxNxI: Tensor, w_KxM: Tensor, a_O: Tensor, b_I: Tensor) -> Tensor:
        ctx.save_for_backward(x_KxNxI, w_KxM, a_O, b_I)
        return x_KxNxI @ _matrix(w_KxM, a_O, b_I).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_KxNxO: Tensor) -> tuple[Tensor | None, ...]:
        x_KxNxI, w_KxM, a_O, b_I = ctx.saved_tensors
        grad_x = grad_w = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_KxNxO @ _matrix(w_KxM, a_O, b_I)).sum_to_size(x_KxNxI.shape)
        if ctx.needs_input_grad[1]:
            of_V_KxOxI = grad_KxNxO.transpose(1, 2) @ x_KxNxI
            wide = torch.promote_types(w_KxM.dtype, torch.float32)  # many terms are added up: not in half precision
            summed = torch.zeros(w_KxM.shape, dtype=wide, device=w_KxM.device)
            places = (a_O[:, None] + b_I).flatten()
            grad_w = summed.index_add_(1, places, of_V_KxOxI.flatten(1).to(wide)).to(w_KxM.dtype)
        return grad_x, grad_w, None, None


def product(x_KxNxI: Tensor, w_KxM: Tensor, a_O: Tensor, b_I: Tensor) -> Tensor:
    """Return x V^T, [K, N, O], for V_ij = w[a_i + b_j]; x may be shared, [1, N, I]; a and b are integers >= 0.

    On a GPU the gradient of w is summed in no fixed order.
    """
    y_KxNxO: Tensor = _Product.apply(x_KxNxI, w_KxM, a_O, b_I)
    return y_KxNxO


def _matrix(w_KxM: Tensor, a_O: Tensor, b_I: Tensor) -> Tensor:
    return w_KxM[:, a_O[:, None] + b_I]
