"""x V^T for a matrix V that is made of parameters: V is made, used and dropped, in both passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Product(torch.autograd.Function):
    """Keeps x and what V is made of: autograd on its own would keep V, a weight for each trial and layer."""

    @staticmethod
    def forward(ctx: Any, make: Callable[..., Tensor], x_KxNxI: Tensor, *made_of: Tensor) -> Tensor:
        ctx.make = make
        ctx.save_for_backward(x_KxNxI, *made_of)
        return x_KxNxI @ make(*made_of).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_KxNxO: Tensor) -> tuple[Tensor | None, ...]:
        x_KxNxI, *made_of = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in made_of]
            V_KxOxI = ctx.make(*leaves)
        grad_x = None
        if ctx.needs_input_grad[1]:
            grad_x = (grad_KxNxO @ V_KxOxI.detach()).sum_to_size(x_KxNxI.shape)
        of_V_KxOxI = grad_KxNxO.transpose(1, 2) @ x_KxNxI
        return (None, grad_x, *torch.autograd.grad(V_KxOxI, leaves, of_V_KxOxI))


def product(make: Callable[..., Tensor], x_KxNxI: Tensor, *made_of: Tensor) -> Tensor:
    """Return x V^T, [K, N, O], for V [K, O, I] = make(*made_of); x may be shared, [1, N, I].

    `make` computes with autograd and without random numbers; whatever else it holds gets no gradient.
    """
    found: Tensor = _Product.apply(make, x_KxNxI, *made_of)
    return found
