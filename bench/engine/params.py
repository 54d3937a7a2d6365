"""Every trained number of K trials in one flat buffer, cut into parameters by role.

One buffer makes an update few operations, whatever the number of adapted layers. A parameter is a contiguous part of
it, [K, ...], with the trial axis leading: autograd accumulates into such parts in place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.engine.optimizers import Part
from bench.methods._base import Role

NEVER_TRAINED = (Role.FROZEN_HEAD, Role.FROZEN)
HIDDEN = (Role.A, Role.B, Role.M, Role.BASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One trained parameter of K trials before it has a place: values [K, ...], its role and its name."""

    name: str
    role: Role
    values: Tensor
    depth: int = 0  # layers above it, itself included; 0: above all layers
    is_table: bool = False  # of an embedding

    @property
    def is_hidden(self) -> bool:
        """Whether it is a matrix inside the model: neither a table of embeddings nor the new head."""
        return self.values.ndim == 3 and self.role in HIDDEN and not self.is_table

    @property
    def decays(self) -> bool:
        """Whether weight decay applies: to matrices, never to biases and norms."""
        return self.values.ndim > 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run [start, stop) of the buffer with one role and one decay rule: parameters of widths[i] numbers a trial."""

    role: Role
    decays: bool
    start: int
    stop: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    parts: tuple[Part, ...]  # each parameter by itself, counted from `start`

    def spread(self, per_trial_K: Tensor) -> Tensor:
        """Return one number for each of the segment's, given one for each trial: [stop - start], or [1] if K = 1."""
        if per_trial_K.shape[0] == 1:
            return per_trial_K
        return torch.cat([per_trial_K.repeat_interleave(width) for width in self.widths])


class ParamBank:
    """The values and gradients of all trained parameters, flat, and the parameters as parts of them.

    Parameters that are `NEVER_TRAINED` have a place outside the buffer and no gradient. Every other parameter has
    exactly one role and one place.
    """

    def __init__(self, slots: Sequence[Slot], *, n_trials: int, device: torch.device, dtype: torch.dtype) -> None:
        names = [slot.name for slot in slots]
        if len(set(names)) != len(names):
            raise ValueError("each trained parameter has exactly one role, but a name came twice")
        self.n_trials = n_trials
        self.frozen = {s.name: s.values.to(device, dtype) for s in slots if s.role in NEVER_TRAINED}
        trained = sorted((s for s in slots if s.role not in NEVER_TRAINED), key=lambda s: (s.role, s.decays))
        self.segments = _segments(trained)
        size = sum(slot.values.numel() for slot in trained)
        self.values = torch.zeros(size, device=device, dtype=dtype)
        self.grads = torch.zeros_like(self.values)
        self._parameters: dict[str, nn.Parameter] = {}
        start = 0
        for slot in trained:
            self._parameters[slot.name] = self._place(slot, start)
            start += slot.values.numel()
        self._grads_by_trial = [p.grad.flatten(1) for p in self._parameters.values() if p.grad is not None]

    def __getitem__(self, name: str) -> Tensor:
        """Return the parameter called `name`, [K, ...]."""
        return self.frozen[name] if name in self.frozen else self._parameters[name]

    def names(self) -> tuple[str, ...]:
        """Return the names of all trained parameters, in buffer order."""
        return tuple(self._parameters)

    def trained(self, name: str) -> nn.Parameter:
        """Return the trained parameter called `name`, [K, ...].

        Raises:
            KeyError: there is none, or it is never trained.
        """
        return self._parameters[name]

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Return the shape [K, ...] of each trained parameter, in buffer order."""
        return {name: parameter.shape for name, parameter in self._parameters.items()}

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place: the parameters' .grad are parts of the buffer and must stay so."""
        self.grads.zero_()

    def grad_norm(self) -> Tensor:
        """Return the L2 norm of each trial's whole gradient: [K], in the buffer's dtype."""
        norms_PxK = torch.stack([torch.linalg.vector_norm(grad, dim=1) for grad in self._grads_by_trial])
        return torch.linalg.vector_norm(norms_PxK, dim=0)

    def scale_grads(self, scale_K: Tensor) -> None:
        """Multiply each trial's gradient, in place, by its own number, [K]."""
        for grad_Kxn in self._grads_by_trial:
            grad_Kxn.mul_(scale_K[:, None])

    def _place(self, slot: Slot, start: int) -> nn.Parameter:
        part = slice(start, start + slot.values.numel())
        self.values[part] = slot.values.flatten().to(self.values)
        parameter = nn.Parameter(self.values[part].view(slot.values.shape))
        parameter.grad = self.grads[part].view(slot.values.shape)
        return parameter


def _segments(slots: Sequence[Slot]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    start = 0
    for (role, decays), group in itertools.groupby(slots, key=lambda slot: (slot.role, slot.decays)):
        members = list(group)
        widths = tuple(math.prod(slot.values.shape[1:]) for slot in members)
        stop = start + sum(slot.values.numel() for slot in members)
        depths, parts = tuple(slot.depth for slot in members), _parts(members)
        found = Segment(role=role, decays=decays, start=start, stop=stop, widths=widths, depths=depths, parts=parts)
        segments.append(found)
        start = stop
    return tuple(segments)


def _parts(slots: Sequence[Slot]) -> tuple[Part, ...]:
    found, start = [], 0
    for slot in slots:
        stop = start + slot.values.numel()
        found.append(Part(where=slice(start, stop), shape=tuple(slot.values.shape), is_hidden=slot.is_hidden))
        start = stop
    return tuple(found)
