"""Triton kernels in place of chains of torch's operations, and which of them a device uses: none until a probe says so.

The modules beside this one import Triton, which CPU builds of torch come without: they are imported where used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

NAMES = ("masks", "attention", "norm")
ANYWHERE = ("masks",)  # those that any way through a model uses; the unpadded one uses all

_settled: dict[str, frozenset[str]] = {}  # by type of device
_forced: frozenset[str] | None = None


def used(name: str, device: torch.device) -> bool:
    """Return whether the kernel of this name stands in for torch's operations on the device."""
    return name in (_settled.get(device.type, frozenset()) if _forced is None else _forced)


def settle(device: torch.device, names: frozenset[str]) -> None:
    """Use these kernels on devices of this type from now on (kernel_probe.py finds which)."""
    _settled[device.type] = names


@contextmanager
def use(*names: str) -> Iterator[None]:
    """Use these kernels and no others while inside, on every device; without a name torch's operations alone."""
    global _forced
    if unknown := set(names) - set(NAMES):
        raise ValueError(f"kernels {sorted(unknown)} are not among {', '.join(NAMES)}")
    before, _forced = _forced, frozenset(names)
    try:
        yield
    finally:
        _forced = before
