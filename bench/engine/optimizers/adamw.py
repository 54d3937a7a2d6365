"""torch.optim.AdamW's update, operation for operation.

Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, with the bias corrections applied as torch does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.engine.optimizers._base import Part, UpdateRule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW(UpdateRule):
    """The direction is mean / (sqrt(square) + eps), both moments corrected for their start at 0."""

    state: ClassVar[tuple[str, ...]] = ("mean", "square")
    adam_beta1: float
    adam_beta2: float
    adam_eps: float

    def direction(
        self, grads: Tensor, state: Mapping[str, Tensor], n_updates: int | Tensor, parts: Sequence[Part]
    ) -> Tensor:
        """Advance both moments in place and return their quotient."""
        mean, square = state["mean"], state["square"]
        mean.lerp_(grads, 1 - self.adam_beta1)
        square.mul_(self.adam_beta2).addcmul_(grads, grads, value=1 - self.adam_beta2)
        correction, root = 1 - self.adam_beta1**n_updates, (1 - self.adam_beta2**n_updates) ** 0.5
        return mean.div(correction).div_(square.sqrt().div_(root).add_(self.adam_eps))

    def masked_direction(
        self, grads: Tensor, state: Mapping[str, Tensor], n_updates: Tensor, ok: Tensor, parts: Sequence[Part]
    ) -> Tensor:
        """As the base class's, but for the order of its products, which the rows in fp16 were trained with."""
        mean, square = state["mean"], state["square"]
        mean.copy_(mean.lerp(grads, 1 - self.adam_beta1).where(ok, mean))
        moved = square * self.adam_beta2 + grads * grads * (1 - self.adam_beta2)
        square.copy_(moved.where(ok, square))
        correction, root = 1 - self.adam_beta1**n_updates, (1 - self.adam_beta2**n_updates).sqrt()
        return mean / correction / (square.sqrt() / root + self.adam_eps)


RULE = AdamW
