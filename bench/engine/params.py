"""Every trained number of K trials in one flat buffer, cut into parameters by role.

One buffer makes an update few operations, whatever the number of adapted layers. A parameter is a contiguous part of
it, [K, ...], with the trial axis leading: autograd accumulates into such parts in place.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.engine.optimizers import Part
from bench.methods._base import Role

NEVER_TRAINED = (Role.FROZEN_HEAD, Role.FROZEN)
BLOCK = 1 << 26  # numbers that are updated at once: what an update holds beside them is several times as large
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
    """A run [start, stop) of the buffer with one role and one decay rule: parameters of widths[i] numbers a trial.

    It is updated at once; where a role has more than BLOCK numbers, it has several.
    """

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


class _InDtype(torch.autograd.Function):
    """A parameter in another dtype, as it was made beforehand for all; its gradient is added where it belongs at once.

    autograd would make a copy of the parameter in each call, and another of its gradient before it adds it up.
    """

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, copy: Tensor) -> Tensor:
        ctx.total = parameter.grad
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        ctx.total.add_(grad)
        return None, None


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
        self._copies: dict[torch.dtype, Tensor] | None = None  # of `values`, while nothing changes them
        start = 0
        for slot in trained:
            self._parameters[slot.name] = self._place(slot, start)
            start += slot.values.numel()
        self._grads_by_trial = self._runs([slot.values[0].numel() for slot in trained])

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

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Promise that no value changes while inside: parameters in another dtype are copied once, all together."""
        self._copies = {}
        try:
            yield
        finally:
            self._copies = None

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place: the parameters' .grad are parts of the buffer and must stay so."""
        self.grads.zero_()

    def grad_norm(self) -> Tensor:
        """Return the L2 norm of each trial's whole gradient: [K], in the buffer's dtype."""
        norms_PxK = torch.cat([torch.linalg.vector_norm(grads, dim=2) for grads in self._grads_by_trial])
        return torch.linalg.vector_norm(norms_PxK, dim=0)

    def scale_grads(self, scale_K: Tensor) -> None:
        """Multiply each trial's gradient, in place, by its own number, [K]."""
        for grads_PxKxn in self._grads_by_trial:
            grads_PxKxn.mul_(scale_K[:, None])

    def _runs(self, widths: Sequence[int]) -> list[Tensor]:
        """Return the gradients of parameters of equal width that lie side by side, [P, K, n]: few kernels for many."""
        runs: list[Tensor] = []
        start = 0
        for width, members in itertools.groupby(widths):
            size = len(list(members)) * self.n_trials * width
            runs.append(self.grads[start : start + size].view(-1, self.n_trials, width))
            start += size
        return runs

    def _place(self, slot: Slot, start: int) -> nn.Parameter:
        part = slice(start, start + slot.values.numel())
        self.values[part] = slot.values.flatten().to(self.values)
        parameter = nn.Parameter(self.values[part].view(slot.values.shape))
        parameter.grad = self.grads[part].view(slot.values.shape)
        parameter.in_dtype = functools.partial(self._in_dtype, parameter, part)  # type: ignore[attr-defined]
        return parameter

    def _in_dtype(self, parameter: nn.Parameter, part: slice, dtype: torch.dtype) -> Tensor:
        if self._copies is None or dtype == parameter.dtype or not torch.is_grad_enabled():
            return parameter.to(dtype)
        if dtype not in self._copies:
            self._copies[dtype] = self.values.to(dtype)
        made: Tensor = _InDtype.apply(parameter, self._copies[dtype][part].view(parameter.shape))
        return made


def _segments(slots: Sequence[Slot]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    start = 0
    for (role, decays), group in itertools.groupby(slots, key=lambda slot: (slot.role, slot.decays)):
        for members in _blocks(list(group)):
            widths = tuple(math.prod(slot.values.shape[1:]) for slot in members)
            stop = start + sum(slot.values.numel() for slot in members)
            depths, parts = tuple(slot.depth for slot in members), _parts(members)
            found = Segment(role=role, decays=decays, start=start, stop=stop, widths=widths, depths=depths, parts=parts)
            segments.append(found)
            start = stop
    return tuple(segments)


def _blocks(slots: Sequence[Slot]) -> list[list[Slot]]:
    """Cut parameters into runs of at most BLOCK numbers, or of one parameter that has more."""
    blocks: list[list[Slot]] = [[]]
    size = 0
    for slot in slots:
        if blocks[-1] and size + slot.values.numel() > BLOCK:
            blocks.append([])
            size = 0
        blocks[-1].append(slot)
        size += slot.values.numel()
    return blocks


def _parts(slots: Sequence[Slot]) -> tuple[Part, ...]:
    found, start = [], 0
    for slot in slots:
        stop = start + slot.values.numel()
        found.append(Part(where=slice(start, stop), shape=tuple(slot.values.shape), is_hidden=slot.is_hidden))
        start = stop
    return tuple(found)
