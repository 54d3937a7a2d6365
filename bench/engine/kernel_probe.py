"""Which Triton kernels a GPU may use: those that give there what torch's operations give, on a small size."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Collection

import torch
from torch import Tensor

from bench.engine import kernels
from bench.engine.dropout import attention_mask_by, keyed_mask, keyed_masks, threshold_and_scale, token_key
from bench.engine.normed_sum import normed_sum
from bench.engine.spans import Drop, Spans, blocks_of
from bench.engine.stacked import StackedLayerNorm

NEAR = {
    torch.float32: 2e-6,
    torch.bfloat16: 1e-2,
    torch.float16: 1e-3,
}  # of a result's norm; Triton's interpreter cuts bf16 off


REASON_LENGTH = 160  # characters


def settle(device: torch.device) -> None:
    """Try the kernels on the device, once in a process, and use those that are right from then on."""
    if device.type != "cuda":
        return
    if device.index is not None and torch.cuda.is_available():
        torch.cuda.set_device(device)  # Triton launches on the current one, wherever the tensors are
    kernels.settle(device, frozenset(name for name, problem in problems(device).items() if problem is None))


@functools.cache
def problems(device: torch.device) -> dict[str, str | None]:
    """Return why each kernel is not used on the device; None: it is."""
    if importlib.util.find_spec("triton") is None:
        return dict.fromkeys(kernels.NAMES, "Triton is not installed")
    if not torch.cuda.is_available():
        return dict.fromkeys(kernels.NAMES, "there is no GPU of CUDA's")
    return {name: _problem(name, device) for name in kernels.NAMES}


def refused(device: torch.device, names: Collection[str] = kernels.NAMES) -> tuple[str, ...]:
    """Return which of these kernels a GPU does not use and why, a line for each reason; none of another device."""
    by_reason: dict[str, list[str]] = {}
    for name, problem in (problems(device) if device.type == "cuda" else {}).items():
        if problem is not None and name in names:
            by_reason.setdefault(problem, []).append(name)
    return tuple(f"torch's {', '.join(found)} ({reason[:REASON_LENGTH]})" for reason, found in by_reason.items())


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
        salts = torch.tensor([1 << 62, 7, 1234567890123456789], device=device)
        found = []
        for names in ((), ("masks",)):
            with kernels.use(*names):
                masks = keyed_masks(salts, p, key, n_features, dtype)
                found.append([*masks, keyed_mask(1 << 62, p, key, n_features, dtype)])
        if not all(torch.equal(a, b) for a, b in zip(*found, strict=True)):
            return f"masks of p = {p}, {n_features} features, {dtype} differ"
    return None


ATTENTION = (((1, 5, 16, 3), 64, 0.1, torch.float32), ((3, 9, 33), 64, 0.1, torch.bfloat16))


def attention_problem(device: torch.device) -> str | None:
    """Return where attention by the kernel, or a gradient of it, is further from float64 than rounding, or None."""
    for lengths, width, p, dtype in ATTENTION:
        for first_only in (False, True):
            gaps = attention_gaps(device, lengths, width=width, p=p, dtype=dtype, first_only=first_only)
            if not max(gaps) <= NEAR[dtype]:
                return f"attention over texts of {lengths} tokens, width {width}, {dtype} is {max(gaps):.1e} off"
    return None


def attention_gaps(
    device: torch.device, lengths: tuple[int, ...], *, width: int, p: float, dtype: torch.dtype, first_only: bool
) -> list[float]:
    """Return how far output and gradients of q, k and v are from float64, over the norms of those."""
    from bench.engine.kernels.attention import span_attention

    n_streams, n_heads, salt = 3, 3, 1234567890123456789
    n_tokens = sum(lengths)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    draw = torch.Generator().manual_seed(0)
    wide = torch.randn(4, n_streams, n_tokens, n_heads * width, generator=draw, dtype=torch.float64).to(device, dtype)
    first_b = torch.tensor(starts, device=device)
    q, k, v, grad = wide.unbind()
    if first_only:
        q, grad = q[:, first_b], grad[:, first_b]
    key_N = token_key(torch.arange(n_tokens, device=device) // 4, torch.arange(n_tokens, device=device))
    spans = Spans(key_N=key_N, first_b=first_b, n_examples=len(lengths), n_tokens=n_tokens, blocks=blocks_of(lengths))
    threshold, scale = threshold_and_scale(p)
    drop = Drop(salt=torch.full((1,), salt, device=device) if p else None, threshold=threshold, scale=scale)
    shared_v = v[:1]  # one stream for all, as below the first adapter
    inputs = [t.detach().clone().requires_grad_() for t in (q, k, shared_v)]
    found = span_attention(inputs[0], inputs[1], inputs[2], spans, drop, n_heads)
    found.backward(grad)
    exact = [t.detach().double().requires_grad_() for t in (q, k, shared_v)]
    parts = []
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        rows = slice(start, start + length)
        query = slice(i, i + 1) if first_only else rows
        qh, kh, vh = (
            t[:, at].unflatten(-1, (n_heads, width)).transpose(1, 2)
            for t, at in zip(exact, (query, rows, rows), strict=True)
        )
        weights = (qh @ kh.transpose(2, 3) * width**-0.5).softmax(-1)
        keys = key_N[None, start : start + weights.shape[2]]
        kept = attention_mask_by(salt, p, keys, n_heads=n_heads, n_keys=length, dtype=torch.float64)
        parts.append((weights * kept @ vh).transpose(1, 2).flatten(2))
    wanted = torch.cat(parts, dim=1)
    wanted.backward(grad.double())
    pairs = [(found, wanted), *((a.grad, b.grad) for a, b in zip(inputs, exact, strict=True))]
    return [_gap(a, b) for a, b in pairs if a is not None and b is not None]


NORM = ((torch.float32, True, False), (torch.bfloat16, True, False), (torch.float32, False, True))


def norm_problem(device: torch.device) -> str | None:
    """Return where norm(x + out * mask) by the kernel, or a gradient, is further off than rounding, or None."""
    for dtype, drops, is_trained in NORM:
        gaps = norm_gaps(device, width=40, dtype=dtype, drops=drops, is_trained=is_trained)
        if not max(gaps) <= NEAR[dtype]:
            return f"norms of {dtype}, trained: {is_trained}, are {max(gaps):.1e} off"
    return None


def norm_gaps(device: torch.device, *, width: int, dtype: torch.dtype, drops: bool, is_trained: bool) -> list[float]:
    """Return how far output and gradients of x, out, scale and shift are from float64, over the norms of those."""
    n_streams, n_rows = 3, 21
    draw = torch.Generator().manual_seed(0)
    wide = torch.randn(3, n_streams, n_rows, width, generator=draw, dtype=torch.float64).to(device, dtype)
    own = torch.randn(2, n_streams, width, generator=draw, dtype=torch.float64).to(device, dtype) + 1
    mask = keyed_mask(5, 0.2, torch.arange(n_rows, device=device), width, dtype) if drops else None
    tensors = [wide[0, :1], wide[1], own[0], own[1]]  # one stream of x for all, as in the first adapted layer
    inputs = [t.detach().clone().requires_grad_(i < 2 or is_trained) for i, t in enumerate(tensors)]
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    found = normed_sum(StackedLayerNorm(inputs[2], inputs[3], 1e-5), inputs[0], inputs[1], mask)
    added = exact[0] + exact[1] * (1 if mask is None else mask.double())
    unit = torch.nn.functional.layer_norm(added, (width,), eps=1e-5)
    wanted = unit * exact[2][:, None] + exact[3][:, None]
    found.backward(wide[2])
    wanted.backward(wide[2].double())
    pairs = [(found, wanted), *((a.grad, b.grad) for a, b in zip(inputs, exact, strict=True))]
    return [_gap(a, b) for a, b in pairs if a is not None and b is not None]


def _gap(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a.detach().double() - b.detach()) / torch.linalg.vector_norm(b.detach()))


CHECKS = {"masks": masks_problem, "attention": attention_problem, "norm": norm_problem}
