"""How busy a device is before anything is timed on it: cores at work, or a GPU's own count. No torch."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.core import devices
from bench.core.errors import BadInput

SAMPLE_SECONDS = 1.0
CPU_LIMIT = 0.1  # of the cores this process may use; a desktop at rest stays far below
GPU_LIMIT = 0.05
STAT = Path("/proc/stat")


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What others do on a device: the share of it that is at work. None: this system does not tell."""

    share: float | None
    limit: float
    words: str  # what was looked at, for people

    @property
    def busy(self) -> bool:
        """Whether times taken now would be those of two programs."""
        return self.share is not None and self.share > self.limit


def load_of(device: str, *, sleep: Callable[[float], None] = time.sleep) -> Load:
    """Return the load of cpu, cuda:N or mps, over SAMPLE_SECONDS in which this process does nothing."""
    if device == devices.MPS:
        return Load(share=None, limit=GPU_LIMIT, words="not known")
    return _cpu(sleep) if device == "cpu" else _gpu(devices.index_of(device))


def refuse_if_busy(load: Load, *, allowed: bool) -> str:
    """Return the timing_mode of rows measured now: isolated, or busy where that is allowed.

    Raises:
        BadInput: where the device is busy.
    """
    if not load.busy:
        return "isolated"
    if allowed:
        return "busy"
    way_out = "wait until it is idle, or give --busy: the rows then say so and no comparison reads them"
    raise BadInput("--device", "must be idle, or times mean nothing", got=load.words, way_out=way_out)


def _cpu(sleep: Callable[[float], None]) -> Load:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    before = _times()
    sleep(SAMPLE_SECONDS)
    after = _times()
    if not before or not after:
        return _load_average(len(cores))
    shares = [_busy_share(before[core], after[core]) for core in cores if core in before and core in after]
    share = sum(shares) / len(shares) if shares else None
    return Load(share=share, limit=CPU_LIMIT, words=f"{sum(shares):.1f} of {len(cores)} cores at work")


def _load_average(n_cores: int) -> Load:
    try:
        average = os.getloadavg()[0]
    except (OSError, AttributeError):
        return Load(share=None, limit=CPU_LIMIT, words="not known")
    return Load(share=average / n_cores, limit=CPU_LIMIT, words=f"load average {average:.1f} on {n_cores} cores")


def _times() -> Mapping[int, tuple[int, int]]:
    """Return (at work, all) ticks of each core since the system started; empty where it does not tell."""
    try:
        lines = STAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *counts = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            ticks = [int(count) for count in counts[:8]]  # user nice system idle iowait irq softirq steal
            found[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found


def _busy_share(before: tuple[int, int], after: tuple[int, int]) -> float:
    every = after[1] - before[1]
    return (after[0] - before[0]) / every if every > 0 else 0.0


def _gpu(index: int) -> Load:
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    which = visible[index] if index < len(visible) else str(index)
    command = ["nvidia-smi", "-i", which, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        share = float(done.stdout.strip().splitlines()[0]) / 100
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return Load(share=None, limit=GPU_LIMIT, words="not known")
    return Load(share=share, limit=GPU_LIMIT, words=f"GPU {which} {share:.0%} at work")
