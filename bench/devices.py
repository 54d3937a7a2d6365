"""Which devices this machine has, asked without importing torch."""

from __future__ import annotations

import ctypes
from importlib import metadata

from bench.errors import BadInput


def n_gpus() -> int:
    """Return how many CUDA devices the installed torch could use; CUDA_VISIBLE_DEVICES counts, as it does for torch."""
    if _torch_version().endswith("+cpu"):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def default_profile(device: str) -> str:
    """Return the profile for a device: quick on a CPU, full on a GPU.

    Raises:
        BadInput: for a CUDA device that is not there.
    """
    if device == "cpu":
        return "quick"
    found = n_gpus()
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0) if device.partition(":")[2].isdecimal() or ":" not in device else 0
        if index >= found:
            way_out = "use --device cpu, or install a torch built for this GPU"
            raise BadInput(
                "--device", "must be a device of this machine", got=f"{device!r} ({found} found)", way_out=way_out
            )
    return "full" if found else "quick"


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
