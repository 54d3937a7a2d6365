"""Muon for hidden matrices, AdamW for the rest: torch.optim.Muon's update (Jordan et al. 2024; Liu et al. 2025,
arXiv:2502.16982, for the factor 0.2 sqrt(max(rows, columns)), with which AdamW's rates and decay fit).

Embeddings, the new head and vectors are AdamW's, at their own rates. The iteration runs in the parameters' precision;
torch runs it in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.engine.optimizers._base import Part, UpdateRule
from bench.engine.optimizers.adamw import AdamW

if TYPE_CHECKING:
    from torch import Tensor

COEFFICIENTS, STEPS, EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7  # torch.optim.Muon's defaults


@dataclass(frozen=True, kw_only=True, slots=True)
class Muon(AdamW):
    """The direction of a matrix is its momentum's nearest half-orthogonal matrix; `mean` holds the momentum.

    `square` lies idle for matrices, so that a trained number costs what it costs under AdamW.
    """

    state: ClassVar[tuple[str, ...]] = ("mean", "square")
    muon_momentum: float

    def direction(
        self, grads: Tensor, state: Mapping[str, Tensor], n_updates: int | Tensor, parts: Sequence[Part]
    ) -> Tensor:
        """Go through the segment's parameters: matrices of all trials at once, the others as AdamW does."""
        import torch

        found = torch.empty_like(grads)
        for part in parts:
            grad, own = grads[part.where], {name: tensor[part.where] for name, tensor in state.items()}
            if part.is_hidden:
                found[part.where] = self._orthogonal(grad.view(part.shape), own["mean"].view(part.shape)).flatten()
            else:
                count = n_updates[part.where] if isinstance(n_updates, torch.Tensor) and n_updates.ndim else n_updates
                found[part.where] = AdamW.direction(self, grad, own, count, parts)
        return found

    masked_direction = UpdateRule.masked_direction

    def _orthogonal(self, grad_KxRxC: Tensor, momentum_KxRxC: Tensor) -> Tensor:
        """Advance the momentum; return the direction of K matrices, [K, R, C], Nesterov's as in torch."""
        momentum_KxRxC.lerp_(grad_KxRxC, 1 - self.muon_momentum)
        found = newton_schulz(grad_KxRxC.lerp(momentum_KxRxC, self.muon_momentum))
        return found.mul_(0.2 * math.sqrt(max(found.shape[1:])))


def newton_schulz(matrix_KxRxC: Tensor) -> Tensor:
    """Return K matrices with singular values near 1 and the same singular vectors; padded zeros stay zeros."""
    import torch

    a, b, c = COEFFICIENTS
    tall = matrix_KxRxC.shape[1] > matrix_KxRxC.shape[2]
    x = matrix_KxRxC.transpose(1, 2) if tall else matrix_KxRxC
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(STEPS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.transpose(1, 2) if tall else x


RULE = Muon
