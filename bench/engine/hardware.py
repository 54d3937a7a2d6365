"""What is asked of a device by its kind: to wait for it, its random numbers, whether it computes in a type."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.core import devices


def waiting_for(device: torch.device) -> Callable[[], None]:
    """Return what returns when the device has done all it was given."""
    if device.type == "cuda":
        return functools.partial(torch.cuda.synchronize, device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def memory_bytes(device: torch.device) -> int | None:
    """Return a GPU's whole memory, the number that packs are planned with; None of a CPU and where nobody knows."""
    if device.type == "mps":
        return devices.memory_bytes(devices.MPS)
    is_there = device.type == "cuda" and (device.index or 0) < devices.n_gpus()
    return devices.memory_bytes(f"cuda:{device.index or 0}") if is_there else None


def sent(host: Tensor, device: torch.device) -> Tensor:
    """Return numbers of the host on the device; only from pinned memory can a GPU fetch them while the host goes on."""
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the name of today, and the one before torch 2.9


def settle_allocator() -> None:
    """Let a GPU's allocator lengthen its blocks in place of making new ones; before the first use of the GPU.

    Packs differ in size and chunks in length, and blocks of fixed sizes that fit none of them lie idle. What the user
    has set counts.
    """
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"


@contextmanager
def multiplying_in_tf32() -> Iterator[None]:
    """Have CUDA round the factors of float32 products to TF32's 10 bits while inside; as it was, after."""
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "tf32"
    try:
        yield
    finally:
        products.fp32_precision = before


def generator_state(device: torch.device) -> Tensor:
    """Return the state of the random numbers that operations on the device draw."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def computes(dtype: torch.dtype, device: str) -> bool:
    """Return whether the device gives the right answer to one small product and a softmax in this type."""
    try:
        eye = torch.eye(8, device=device, dtype=dtype)
        product, total = eye @ (eye + eye), torch.softmax(eye, dim=1).sum().cpu().float()
    except (RuntimeError, TypeError):  # torch says so by either: no kernel, or no such type on the device
        return False
    return bool((product.cpu().float() == 2 * torch.eye(8)).all()) and abs(float(total) - 8) < 0.1
