"""The matmul ceiling of a device, measured beside what it bounds, and the share of it that useful work reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from bench.timing.peers.timer import Timer

TRAIN_FLOP, EVAL_FLOP = (
    4,
    2,
)  # FLOP for each weight in a matmul and real token: forward, and backward through frozen ones
LEAST_SECONDS = 0.25  # of one measurement: far above what reading the clock and starting threads costs
ROWS = {"cpu": 2048, "cuda": 16_384, "mps": 4096}  # tokens of the products; more is no faster
SQUARE = {"cpu": 2048, "cuda": 8192, "mps": 4096}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A product [m, k] x [k, n]."""

    m: int
    k: int
    n: int

    @property
    def flop(self) -> int:
        """Multiplications and additions of one product."""
        return 2 * self.m * self.k * self.n


def shapes(hidden: int, inner: int, kind: str) -> tuple[Shape, ...]:
    """Return the model's own products on many tokens, and a large square one; the best of them is the ceiling."""
    m, side = ROWS[kind], SQUARE[kind]
    return (
        Shape(m=m, k=hidden, n=hidden),
        Shape(m=m, k=hidden, n=inner),
        Shape(m=m, k=inner, n=hidden),
        Shape(m=side, k=side, n=side),
    )


def matmul_rate(
    shape: Shape, dtype: torch.dtype, device: torch.device, timer: Timer, *, least_seconds: float = LEAST_SECONDS
) -> float:
    """Return FLOP per second of one product, over as many repetitions as `least_seconds` need, after a warm-up."""
    a = torch.randn(shape.m, shape.k, device=device).to(dtype)
    b = torch.randn(shape.n, shape.k, device=device).to(dtype).T  # as a Linear holds its weight
    out = torch.empty(shape.m, shape.n, device=device, dtype=dtype)
    once = _seconds(a, b, out, 1, timer)
    once = min(once, _seconds(a, b, out, 1, timer))  # the first one may set up threads or pick a kernel
    n = max(1, math.ceil(least_seconds / max(once, 1e-9)))
    return n * shape.flop / _seconds(a, b, out, n, timer)


def ceiling(
    candidates: tuple[Shape, ...], dtype: torch.dtype, device: torch.device, timer: Timer, *,
    least_seconds: float = LEAST_SECONDS,
) -> float:  # fmt: skip
    """Return the best rate over the shapes, in FLOP per second."""
    return max(matmul_rate(s, dtype, device, timer, least_seconds=least_seconds) for s in candidates)


def share_of_ceiling(
    products_per_second: float, ceiling_flop_per_second: float, *, flop_per_param: int = TRAIN_FLOP
) -> float:
    """Return useful FLOP per second over the ceiling: 4P FLOP for each real token of a trial's step, 2P to evaluate it.

    `products_per_second` is P, the weights in matrix products, times tokens per second; a causal head has targets.

    Padding is no use, so a contender that computes it has a lower share. Work that a contender saves on its way (the
    last layer on first tokens only, no gradient below the first adapter) stays counted: the share may exceed what the
    processor itself would show.
    """
    return flop_per_param * products_per_second / ceiling_flop_per_second


def _seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, n: int, timer: Timer) -> float:
    start = timer.read()
    for _ in range(n):
        torch.mm(a, b, out=out)
    return timer.read() - start
