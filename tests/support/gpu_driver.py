"""A CUDA driver that answers for GPUs that are not there: what a plan asks of one before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from bench.core import devices


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """GPUs of one kind; the calls are those of the driver's interface that `bench.core.devices` makes."""

    n: int = 1
    capability: tuple[int, int] = (9, 0)
    name: str = "NVIDIA H200"
    memory_bytes: int = 141_000_000_000

    def cuDeviceGetCount(self, count: Any) -> int:
        """Give the number of GPUs."""
        count._obj.value = self.n
        return 0

    def cuDeviceGet(self, handle: Any, index: int) -> int:
        """Give a GPU's handle: its number; 101, no such device, beyond the last one."""
        handle._obj.value = index
        return 0 if index < self.n else 101

    def cuDeviceGetName(self, buffer: Any, size: int, handle: Any) -> int:
        """Give the name."""
        buffer.value = self.name.encode()[: size - 1]
        return 0

    def cuDeviceTotalMem_v2(self, total: Any, handle: Any) -> int:
        """Give the memory in bytes."""
        total._obj.value = self.memory_bytes
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> int:
        """Give the major or the minor number of the capability."""
        value._obj.value = self.capability[attribute - 75]
        return 0


def pretend(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Have the machine say that it has such GPUs."""
    monkeypatch.setattr(devices, "_driver", lambda: Driver(**settings))
