"""Peak memory of a piece of work: the high-water mark above what the process held before it began."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import re
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_HIGH_WATER = "5"  # proc(5): resets VmHWM to the current resident set


class Meter(Protocol):
    """Measures the peak between `start` and `peak`."""

    def start(self) -> None:
        """Give unused memory back and begin."""
        ...

    def peak(self) -> int | None:
        """Return bytes at the peak since `start` above those at `start`; None: this system does not tell."""
        ...


class CpuMeter:
    """The resident set of this process, whose high-water mark Linux lets a process reset."""

    def __init__(self, status: Path = STATUS, clear_refs: Path = CLEAR_REFS) -> None:
        self.status, self.clear_refs = status, clear_refs
        self.before: int | None = None

    def start(self) -> None:
        """Give freed memory back to the system, so that what was left behind does not hide new needs."""
        gc.collect()
        give_back()
        try:
            self.clear_refs.write_text(_RESET_HIGH_WATER, encoding="ascii")
            self.before = self._bytes("VmRSS")
        except OSError:
            self.before = None

    def peak(self) -> int | None:
        """Return the growth of the resident set, in bytes."""
        high = None if self.before is None else self._bytes("VmHWM")
        return None if high is None or self.before is None else max(0, high - self.before)

    def _bytes(self, field: str) -> int | None:
        found = re.search(rf"^{field}:\s+(\d+) kB$", self.status.read_text(encoding="ascii"), re.MULTILINE)
        return None if found is None else 1024 * int(found[1])


def give_back() -> None:
    """Let the C library hand freed memory to the system, where it can: else what comes next is taken beside it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class CudaMeter:
    """The allocator's own count on one GPU: what tensors took, without its cache."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.before = device, 0

    def start(self) -> None:
        """Empty the cache and reset the peak."""
        torch.cuda.init()  # before a process has used the GPU, resetting the peak would raise
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        self.before = torch.cuda.memory_allocated(self.device)

    def peak(self) -> int | None:
        """Return the growth of allocated memory, in bytes."""
        return torch.cuda.max_memory_allocated(self.device) - self.before


def meter_of(device: torch.device) -> Meter:
    """Return what measures peak memory on a device."""
    return CudaMeter(device) if device.type == "cuda" else CpuMeter()


def settle_base(model: nn.Module, device: torch.device, *, is_shared: bool) -> None:
    """Bring a base to where packs read it, so that what it takes is held before any of them is measured.

    Without this the first pack would count it. A base that packs share moves to the device. On a CPU the weights are
    files that are mapped: a page of them takes memory once it is read.
    """
    if is_shared:
        model.to(device)
    if device.type != "cpu":
        return
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cpu"]
    for storage in {one.data_ptr(): one for one in (tensor.untyped_storage() for tensor in tensors)}.values():
        torch.empty(0, dtype=torch.uint8).set_(storage)[:: mmap.PAGESIZE].sum()
