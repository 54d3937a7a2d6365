"""What an optimizer is: the settings it reads, the tensors it keeps, and what the learning rate multiplies.

Rates of K trials and roles, decay, clipping and dead trials are `bench/engine/optim.py`'s and the same for all rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One parameter of K trials in a run of the flat buffers: its place there, and its shape, [K, ...]."""

    where: slice
    shape: tuple[int, ...]
    is_hidden: bool  # a matrix, but not of an embedding nor of the new head


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateRule:
    """One optimizer. A subclass in its own file is a new one; its fields are the settings of TrainBudget it reads.

    `state` names its tensors: one number for each trained number, of its dtype, 0 at first. They are saved under these
    names with a pack in mid-training.
    """

    state: ClassVar[tuple[str, ...]] = ()

    def state_bytes(self, value_bytes: int) -> int:
        """Return the bytes that the state takes for each trained number of `value_bytes` bytes."""
        return len(self.state) * value_bytes

    def direction(
        self, grads: Tensor, state: Mapping[str, Tensor], n_updates: int | Tensor, parts: Sequence[Part]
    ) -> Tensor:
        """Return what the rate multiplies in update `n_updates`, counted from 1, as a new tensor; advance `state`.

        `grads` and the tensors of `state` are parts [n] of flat buffers that hold the numbers of all K trials, and
        `n_updates` is one count for all or, of dtype float, one for each number. `parts` are the parameters in them.
        """
        raise NotImplementedError

    def masked_direction(
        self, grads: Tensor, state: Mapping[str, Tensor], n_updates: Tensor, ok: Tensor, parts: Sequence[Part]
    ) -> Tensor:
        """As `direction`; `state` stays where `ok`, bool [n], is False. `grads` is 0 there."""
        kept = {name: tensor.clone() for name, tensor in state.items()}
        found = self.direction(grads, state, n_updates, parts)
        for name, tensor in state.items():
            tensor.copy_(tensor.where(ok, kept[name]))
        return found
