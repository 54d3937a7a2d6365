"""Frozen products of one input, and the low-rank factors beside them, as one function each way.

Query, key and value of a layer read the same hidden states, as gate and up do. autograd would make a gradient of those
for each product and for each adapter, and pass over all of them to add them up; here the products add as they go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.engine.adapted import AdaptedLayer, shared_part
from bench.engine.dropout import MaskKeys


@dataclass(kw_only=True, slots=True)
class Group:
    """Products that read one input: whichever is asked first computes all, the others find their output here."""

    members: list[Any]
    n_trials: int
    keys: MaskKeys
    x: Tensor | None = None
    outputs: dict[int, Tensor] = field(default_factory=dict)

    def output(self, i: int, x: Tensor) -> Tensor:
        """Return what member i makes of x, [K, N, O], or [1, N, O] of a stream that all trials share."""
        if self.x is not x or i not in self.outputs:
            self.x, self.outputs = x, dict(enumerate(_products(self, x)))
        found = self.outputs.pop(i)
        if not self.outputs:
            self.x = None
        return found


class Joined(nn.Module):
    """Stands in for a product that is computed with its group where a packed stream comes in."""

    def __init__(self, module: nn.Module, group: Group, place: int) -> None:
        super().__init__()
        self.module, self.group, self.place = module, group, place

    def __getattr__(self, name: str) -> Any:
        """Return what the module has: models ask a layer for its weight."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output."""
        if self.group.keys.lengths is None or x.ndim != 3:
            return self.module(x)
        return self.group.output(self.place, x)


def can_join(module: nn.Module) -> bool:
    """Return whether a module is a frozen product, adapted or not."""
    base = module.layer if isinstance(module, AdaptedLayer) else module
    if type(base) not in (nn.Linear, Conv1D):
        return False
    return not any(parameter.requires_grad for parameter in base.parameters())


def _products(group: Group, x: Tensor) -> list[Tensor]:
    """Return the members' outputs with what their adapters add."""
    rows = shared_part(x, group.n_trials, group.keys)
    low, factors, masks, rest = [], list[Tensor](), list[Tensor | None](), []
    for i, member in enumerate(group.members):
        if not isinstance(member, AdaptedLayer):
            continue
        found = member.factors(rows)
        if found is None:
            rest.append(i)
        else:
            low.append(i)
            factors += found
            masks.append(member.mask(rows))
    bases = [m.layer if isinstance(m, AdaptedLayer) else m for m in group.members]
    weights = [_weight_OxI(base) for base in bases]
    biases: list[Any] = [base.bias for base in bases]
    outputs: list[Tensor] = list(_Products.apply(rows, weights, biases, low, masks, *factors))
    for i in rest:
        outputs[i] = group.members[i].output_of(outputs[i], rows)
    if rows is not x:
        outputs = [h.expand(group.n_trials, -1, -1) for h in outputs]
    return outputs


def _weight_OxI(base: Any) -> Tensor:
    weight: Tensor = base.weight.detach()
    return weight.T if isinstance(base, Conv1D) else weight


class _Products(torch.autograd.Function):
    """x W_i^T + b_i for all members, plus ((x * mask) A^T) B^T for those in `low`; x [S, N, I], S = 1 or K."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], low: Sequence[int],
        masks: Sequence[Tensor | None], *factors: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        flat_MxI = x.reshape(-1, x.shape[-1])
        outputs = [torch.nn.functional.linear(flat_MxI, w, b) for w, b in zip(weights, biases, strict=True)]
        outputs = [h.view(*x.shape[:2], -1) for h in outputs]
        A_s, B_s = factors[::2], factors[1::2]
        z_s = _inner(x, A_s, masks)
        for i, z, B in zip(low, z_s, B_s, strict=True):
            up = B.transpose(1, 2)
            outputs[i] = outputs[i].baddbmm_(z, up) if len(outputs[i]) == len(z) else torch.baddbmm(outputs[i], z, up)
        ctx.save_for_backward(x if low else x.new_empty(0), *z_s, *factors)  # frozen products alone need no input
        ctx.weights, ctx.low, ctx.masks, ctx.shape = weights, low, masks, x.shape
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        low, masks = ctx.low, ctx.masks
        z_s, A_s, B_s = saved[: len(low)], saved[len(low) :: 2], saved[len(low) + 1 :: 2]
        dz_s = [_times(grads[i], B.transpose(1, 2)) for i, B in zip(low, B_s, strict=True)]
        found: list[Tensor | None] = []
        for i, z, dz, mask in zip(low, z_s, dz_s, masks, strict=True):
            rows = x if mask is None else x * mask
            found += [_outer(dz, rows), _outer(grads[i], z)]
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, *found
        flat = [g.reshape(-1, g.shape[-1]) for g in grads]
        total_MxI = flat[0] @ ctx.weights[0]
        for g, w in zip(flat[1:], ctx.weights[1:], strict=True):
            total_MxI.addmm_(g, w)
        total = total_MxI.view(ctx.shape)
        for dz, A, mask in zip(dz_s, A_s, masks, strict=True):
            if mask is None:
                total.baddbmm_(dz, A)
            else:
                total.addcmul_(torch.bmm(dz, A), mask)
        return total, None, None, None, None, *found


def _inner(x: Tensor, A_s: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
    """Return (x * mask) A^T for each A [K, R, I]: [K, N, R] each; x is read once where nothing is dropped."""
    if len(A_s) > 1 and all(mask is None for mask in masks):
        together = _times(x, torch.cat(list(A_s), dim=1))
        return list(together.split([A.shape[1] for A in A_s], dim=-1))
    return [_times(x if mask is None else x * mask, A) for A, mask in zip(A_s, masks, strict=True)]


def _times(x_SxNxI: Tensor, A_KxRxI: Tensor) -> Tensor:
    """Return x A^T for each trial, [K, N, R].

    Transposed within, here and in `_outer`: BLAS libraries are slow where a product has few columns, not where it has
    few rows. B^T g^T for B [O, 8] takes 0.28 of the time of g B (docs/log.md).
    """
    if len(x_SxNxI) == len(A_KxRxI):
        return torch.bmm(A_KxRxI, x_SxNxI.transpose(1, 2)).transpose(1, 2)
    flat_NxKR = torch.nn.functional.linear(x_SxNxI[0], A_KxRxI.flatten(0, 1))
    return flat_NxKR.unflatten(-1, A_KxRxI.shape[:2]).transpose(0, 1)


def _outer(a_KxNxO: Tensor, b_SxNxI: Tensor) -> Tensor:
    """Return the sum over rows of a b^T for each trial: [K, O, I]."""
    if len(a_KxNxO) == len(b_SxNxI):
        if b_SxNxI.shape[-1] < a_KxNxO.shape[-1]:
            return _outer(b_SxNxI, a_KxNxO).transpose(1, 2)
        return torch.bmm(a_KxNxO.transpose(1, 2), b_SxNxI)
    flat_KOxN = a_KxNxO.transpose(1, 2).flatten(0, 1)
    return (flat_KOxN @ b_SxNxI[0]).unflatten(0, (len(a_KxNxO), -1))
