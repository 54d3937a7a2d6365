"""What is asked of a device by its kind: to wait for it, its random numbers, whether it computes in a type."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def waiting_for(device: torch.device) -> Callable[[], None]:
    """Return what returns when the device has done all it was given."""
    if device.type == "cuda":
        return functools.partial(torch.cuda.synchronize, device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def sent(host: Tensor, device: torch.device) -> Tensor:
    """Return numbers of the host on the device; only from pinned memory can a GPU fetch them while the host goes on."""
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)


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
