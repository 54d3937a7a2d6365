"""Compiles `stub.cpp` and loads it before torch: then a CPU build of torch holds tensors without data on cuda:0."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")


def torch_directory() -> Path:
    """Return where torch is installed, without importing it."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def why_not() -> str | None:
    """Return what a machine lacks to compile the stub, None where nothing."""
    if sys.platform != "linux":
        return "the stub is for Linux"
    if shutil.which("g++") is None:
        return "there is no g++"
    return None if (torch_directory() / "include" / "ATen").is_dir() else "this torch came without its headers"


def compiled(directory: Path) -> Path:
    """Return the stub compiled for this torch below `directory`; compiled once."""
    torch_at = torch_directory()
    version = (torch_at / "version.py").read_bytes()
    target = directory / f"stub-{hashlib.sha256(SOURCE.read_bytes() + version).hexdigest()[:16]}.so"
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            made = Path(scratch) / target.name
            subprocess.run(
                ["g++", "-shared", "-fPIC", "-std=c++20", "-w", str(SOURCE), "-o", str(made),
                 f"-I{torch_at / 'include'}", f"-L{torch_at / 'lib'}", "-lc10", "-ltorch_cpu"], check=True,
            )  # fmt: skip
            made.rename(target)
    return target


def load(stub: Path) -> None:
    """Load torch's libraries, then the stub, then torch; its Python asks for no CUDA any more."""
    libraries = torch_directory() / "lib"
    for path in (libraries / "libc10.so", libraries / "libtorch_cpu.so", stub):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    import torch

    torch.cuda._lazy_init = lambda: None
