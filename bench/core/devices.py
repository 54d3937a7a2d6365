"""Which devices this machine has, asked of the CUDA driver and of the system; of torch only on Apple's CPUs."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.core.errors import BadInput

if TYPE_CHECKING:
    import torch

MPS = "mps"  # Apple's GPU, by Metal
ALL_GPUS = "cuda:all"
AMPERE = (8, 0)  # the least capability whose matrix units multiply bfloat16, and float32 rounded to TF32
NVIDIA = Path("/proc/driver/nvidia/version")  # where Linux says which driver of NVIDIA's is loaded
# Where torch's builds for CUDA are, by the least major number of the driver that they need.
BUILDS = {580: "https://download.pytorch.org/whl/cu130", 0: "https://download.pytorch.org/whl/cu126"}
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the driver's interface


def n_gpus() -> int:
    """Return how many CUDA devices the installed torch could use; CUDA_VISIBLE_DEVICES counts, as it does for torch."""
    driver = _driver()
    count = ctypes.c_int(0)
    return count.value if driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def resolve(device: str) -> str:
    """Return cpu, cuda:N or mps for what was asked; of cpu:N and cuda:all the device of their first worker.

    auto is never mps, which was not measured.

    Raises:
        BadInput: for a GPU that is not there.
    """
    if device.startswith("cpu"):
        return "cpu"
    if device == MPS:
        if not has_mps():
            way_out = "use --device cpu, or an Apple GPU with a torch built for it"
            raise BadInput(
                "--device", "must be a device of this machine", got=f"{device!r} (none found)", way_out=way_out
            )
        return MPS
    found = n_gpus()
    if device == "auto":
        return "cuda:0" if found else "cpu"
    if index_of(device) >= found:
        got, unused = f"{device!r} ({found} found)", unused_gpu()
        way_out = f"use --device cpu, or {'a machine with a GPU of NVIDIA' if unused is None else unused.way_out}"
        raise BadInput("--device", "must be a device of this machine", got=got, way_out=way_out)
    return f"cuda:{index_of(device)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unused:
    """A GPU that the installed torch was not built for: what is so, and what to do about it."""

    found: str
    way_out: str


def unused_gpu() -> Unused | None:
    """Return what to say where NVIDIA's driver is loaded and the installed torch was built without CUDA, else None."""
    if is_built_for_cuda() or not NVIDIA.is_file():
        return None
    text = NVIDIA.read_text(encoding="utf-8", errors="replace")
    driver = re.search(r"Kernel Module.*?\s(\d+)((?:\.\d+)+)", text)
    index = next(url for least, url in BUILDS.items() if int(driver[1] if driver else 0) >= least)
    release = _torch_version().partition("+")[0]
    return Unused(
        found=f"torch {_torch_version()} was built without CUDA, beside NVIDIA's driver"
        f"{f' {driver[1]}{driver[2]}' if driver else ''}",
        way_out=f"install the build for it: {sys.executable} -m pip install --force-reinstall torch=={release} "
        f"--index-url {index}",
    )


def is_built_for_cuda() -> bool:
    """Return whether the installed torch was, by its own version file, without an import; True where there is none."""
    spec = importlib.util.find_spec("torch")
    path = None if spec is None or spec.origin is None else Path(spec.origin).with_name("version.py")
    if path is None or not path.is_file():
        return not _torch_version().endswith("+cpu")
    return re.search(r"^cuda\b.*=\s*None\s*$", path.read_text(encoding="utf-8"), re.MULTILINE) is None


def workers(device: str) -> tuple[str, ...]:
    """Return the devices that train at once, each with a process of its own where there are several.

    cpu:N is N processes of one thread each, cuda:all one for each GPU.

    Raises:
        BadInput: for a CUDA device that is not there.
    """
    kind, _, rest = device.partition(":")
    first = resolve(device)
    if device == ALL_GPUS:
        return tuple(f"cuda:{i}" for i in range(n_gpus()))
    return ("cpu",) * int(rest) if kind == "cpu" and rest else (first,)


def shares_memory(device: str) -> bool:
    """Return whether the workers of a device have one memory: those of a CPU do."""
    return resolve(device) == "cpu"


@functools.cache
def has_mps() -> bool:
    """Return whether the installed torch can use Apple's GPU; asked of torch only where there may be one."""
    if (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        return False
    import torch

    return torch.backends.mps.is_available()


def widest_float(device: torch.device) -> torch.dtype:
    """Return what sums over many examples are kept in: float64, or float32 on mps, which has no float64."""
    import torch

    return torch.float32 if device.type == MPS else torch.float64


def default_profile(device: str) -> str:
    """Return the profile for a device: full on a CUDA device, quick elsewhere."""
    return "full" if resolve(device).startswith("cuda") else "quick"


def default_precision(device: str) -> Literal["bf16"] | None:
    """Return the precision of a study that states none: bf16 on a GPU that multiplies in it; None: the usual one."""
    chosen = resolve(device)
    return "bf16" if chosen.startswith("cuda") and capability(index_of(chosen)) >= AMPERE else None


def capability(index: int) -> tuple[int, int]:
    """Return a GPU's compute capability, the same that torch.cuda.get_device_capability gives."""
    driver, handle = _device(index)
    found = (ctypes.c_int(0), ctypes.c_int(0))
    for number, attribute in zip(found, (_MAJOR, _MINOR), strict=True):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle)
    return found[0].value, found[1].value


def index_of(device: str) -> int:
    """Return N of cuda:N, 0 of cuda and cuda:all."""
    rest = device.partition(":")[2]
    return int(rest) if rest.isdecimal() else 0


def gpu_name(index: int) -> str:
    """Return a GPU's name, the same that torch.cuda.get_device_name gives."""
    driver, handle = _device(index)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), handle)
    return name.value.decode("utf-8", "replace")


def memory_bytes(device: str) -> int | None:
    """Return the whole memory of cpu, cuda:N or mps; of the CPU what the process may use of it. None: not known.

    Apple's GPU has the CPU's memory.
    """
    if device in ("cpu", MPS):
        known = [limit for limit in (_physical_memory(), _cgroup_limit()) if limit]
        return min(known) if known else None
    driver, handle = _device(index_of(device))
    total = ctypes.c_size_t(0)
    return total.value if driver.cuDeviceTotalMem_v2(ctypes.byref(total), handle) == 0 else None


def _device(index: int) -> tuple[ctypes.CDLL, ctypes.c_int]:
    driver, handle = _driver(), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGet(ctypes.byref(handle), index) != 0:
        raise RuntimeError(f"no CUDA device {index}")
    return driver, handle


def _driver() -> ctypes.CDLL | None:
    """Return the CUDA driver, initialised; None without one, or with a torch that cannot use it."""
    if not is_built_for_cuda():
        return None
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _cgroup_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() else None
    return None
