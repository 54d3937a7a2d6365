"""Gradient descent without momentum: torch.optim.SGD's update (a decay is AdamW's, decoupled)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.engine.optimizers._base import UpdateRule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SGD(UpdateRule):
    """The direction is the gradient."""

    def direction(self, grads: Tensor, state: Mapping[str, Tensor], n_updates: int | Tensor) -> Tensor:
        """Return a copy of the gradient."""
        return grads.clone()


RULE = SGD
