"""Every trained number of K trials in one [K, P] buffer, cut into parameters by role.

One buffer makes a step few operations: the gradient norm of each trial is one row norm, AdamW a handful of operations
on the rows. A parameter is a view of its columns, with the trial axis leading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.methods._base import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One trained parameter of K trials before it has a place: values [K, ...], its role and its name."""

    name: str
    role: Role
    values: Tensor

    @property
    def decays(self) -> bool:
        """Whether weight decay applies: to matrices, never to biases and norms."""
        return self.values.ndim > 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Neighbouring columns [start, stop) with one role, so one learning rate for each trial, and one decay rule."""

    role: Role
    decays: bool
    start: int
    stop: int


class ParamBank:
    """The values and gradients of all trained parameters, [K, P] each, and the parameters as views of them.

    Parameters with role FROZEN_HEAD have a place outside the buffer and no gradient. Every other parameter has exactly
    one role and one place.
    """

    def __init__(self, slots: Sequence[Slot], *, n_trials: int, device: torch.device, dtype: torch.dtype) -> None:
        names = [slot.name for slot in slots]
        if len(set(names)) != len(names):
            raise ValueError("each trained parameter has exactly one role, but a name came twice")
        self.n_trials = n_trials
        self.frozen = {s.name: s.values.to(device, dtype) for s in slots if s.role is Role.FROZEN_HEAD}
        trained = sorted((s for s in slots if s.role is not Role.FROZEN_HEAD), key=lambda s: (s.role, s.decays))
        width = sum(_width(slot) for slot in trained)
        self.values_KxP = torch.zeros(n_trials, width, device=device, dtype=dtype)
        self.grads_KxP = torch.zeros_like(self.values_KxP)
        self.segments = _segments(trained)
        self._parameters: dict[str, nn.Parameter] = {}
        start = 0
        for slot in trained:
            self._parameters[slot.name] = self._place(slot, start)
            start += _width(slot)

    def __getitem__(self, name: str) -> Tensor:
        """Return the parameter called `name`, [K, ...]."""
        return self.frozen[name] if name in self.frozen else self._parameters[name]

    def names(self) -> tuple[str, ...]:
        """Return the names of all trained parameters, in buffer order."""
        return tuple(self._parameters)

    def trained(self, name: str) -> nn.Parameter:
        """Return the trained parameter called `name`."""
        return self._parameters[name]

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place: the parameters' .grad are views and must stay so."""
        self.grads_KxP.zero_()

    def _place(self, slot: Slot, start: int) -> nn.Parameter:
        shape = slot.values.shape
        columns = slice(start, start + _width(slot))
        self.values_KxP[:, columns] = slot.values.flatten(1).to(self.values_KxP)
        parameter = nn.Parameter(self.values_KxP[:, columns].unflatten(1, shape[1:]))
        parameter.grad = self.grads_KxP[:, columns].unflatten(1, shape[1:])
        return parameter


def _width(slot: Slot) -> int:
    return math.prod(slot.values.shape[1:])


def _segments(slots: Sequence[Slot]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    start = 0
    for slot in slots:
        stop = start + _width(slot)
        last = segments[-1] if segments else None
        if last is not None and (last.role, last.decays) == (slot.role, slot.decays):
            segments[-1] = Segment(role=last.role, decays=last.decays, start=last.start, stop=stop)
        else:
            segments.append(Segment(role=slot.role, decays=slot.decays, start=start, stop=stop))
        start = stop
    return tuple(segments)
