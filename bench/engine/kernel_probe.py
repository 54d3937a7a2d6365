"""Which Triton kernels a GPU may use: those that give there what torch's operations give, on a small size."""

from __future__ import annotations

import functools
import importlib.util

import torch

from bench.engine import kernels
from bench.engine.dropout import keyed_mask, keyed_masks, token_key


def settle(device: torch.device) -> None:
    """Try the kernels on the device, once in a process, and use those that are right from then on."""
    if device.type == "cuda":
        kernels.settle(device, frozenset(name for name, problem in problems(device).items() if problem is None))


@functools.cache
def problems(device: torch.device) -> dict[str, str | None]:
    """Return why each kernel is not used on the device; None: it is."""
    if importlib.util.find_spec("triton") is None:
        return dict.fromkeys(kernels.NAMES, "Triton is not installed")
    if not torch.cuda.is_available():
        return dict.fromkeys(kernels.NAMES, "there is no GPU of CUDA's")
    return {name: _problem(name, device) for name in kernels.NAMES}


def _problem(name: str, device: torch.device) -> str | None:
    try:
        return CHECKS[name](device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Triton raises its compiler's errors, the driver's and those of the C compiler it calls
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no text'}"


def masks_problem(device: torch.device) -> str | None:
    """Return where a mask by the kernel differs from torch's by a bit, or None."""
    place = torch.arange(35, device=device)
    key = token_key(place[:5, None], place[None, :7])
    for p, n_features, dtype in ((0.1, 770, torch.float32), (0.5, 37, torch.bfloat16), (1.0, 4, torch.float16)):
        salts = (1 << 62, 7, 1234567890123456789)
        found = []
        for names in ((), ("masks",)):
            with kernels.use(*names):
                masks = keyed_masks(salts, p, key, n_features, dtype)
                found.append([*masks, keyed_mask(salts[0], p, key, n_features, dtype)])
        if not all(torch.equal(a, b) for a, b in zip(*found, strict=True)):
            return f"masks of p = {p}, {n_features} features, {dtype} differ"
    return None


CHECKS = {"masks": masks_problem}
