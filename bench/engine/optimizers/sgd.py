"""Gradient descent, with momentum or without: torch.optim.SGD's update (a decay is AdamW's, decoupled)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.engine.optimizers._base import Part, UpdateRule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SGD(UpdateRule):
    """The direction is the gradient, or with momentum m the sum of all so far, each m times less a step."""

    momentum: float

    @property
    def state(self) -> tuple[str, ...]:  # type: ignore[override]
        """The sum, where there is momentum."""
        return ("momentum",) if self.momentum else ()

    def direction(
        self, grads: Tensor, state: Mapping[str, Tensor], n_updates: int | Tensor, parts: Sequence[Part]
    ) -> Tensor:
        """Advance the sum in place and return a copy."""
        if not self.momentum:
            return grads.clone()
        return state["momentum"].mul_(self.momentum).add_(grads).clone()


RULE = SGD
