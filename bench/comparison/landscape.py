"""What a tuned grid says: the best of n cells that one may expect, and how wide the good region is. Pure: numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Width:
    """The learning rates around the best one whose score is nearly as good.

    `open_low`, `open_high`: the region reaches that end of the grid, so it is at least this wide.
    """

    low: float
    high: float
    octaves: float  # log2(high / low)
    open_low: bool
    open_high: bool


def expected_best(values: npt.ArrayLike, *, chosen_by: npt.ArrayLike | None = None) -> Floats:
    """Return E[value of the best of n cells], n = 1 .. N, for cells drawn from a grid of N without replacement: [N].

    E_n = sum_i C(i - 1, n - 1) / C(N, n) * x_(i), x_(i) ascending: exact, since the grid is all there is; larger is
    better. With `chosen_by`, [N], the best is the one that is largest there and its `values` is what is reported.
    """
    x = np.asarray(values, dtype=np.float64)
    by = x if chosen_by is None else np.asarray(chosen_by, dtype=np.float64)
    if x.ndim != 1 or by.shape != x.shape or not len(x) or not np.isfinite(x).all() or np.isnan(by).any():
        raise ValueError(f"values and chosen_by must be [N], N >= 1, without nan, but got {x!r} and {by!r}")
    ordered, size = x[np.argsort(by, kind="stable")], len(x)
    # Weights of n + 1 from those of n: binomials of a thousand cells have hundreds of digits.
    place, weights, expected = np.arange(size), np.full(size, 1 / size), np.empty(size)
    for n in range(1, size + 1):
        expected[n - 1] = weights @ ordered
        if n < size:
            weights = weights * ((place - n + 1) / n) * ((n + 1) / (size - n))
    return expected


def width_within(rates: npt.ArrayLike, scores: npt.ArrayLike, *, share: float = 0.01) -> Width:
    """Return the region around the best rate whose score is at least best - share * |best|; larger is better.

    `rates`, [N], ascend; `scores`, [N], are finite or -inf (diverged), at least one of them finite. Between a rate
    within and one without, the score is taken as linear in log(rate); towards a diverged rate the region ends at the
    last one within. Only the part that is connected to the best rate counts.
    """
    x, y = np.log2(np.asarray(rates, dtype=np.float64)), np.asarray(scores, dtype=np.float64)
    if x.shape != y.shape or not np.isfinite(y).any() or np.any(np.diff(x) <= 0):
        raise ValueError(f"rates must ascend, with a score each, one of them finite, but got {rates!r} and {scores!r}")
    best = int(np.argmax(y))
    least = y[best] - share * abs(y[best])
    low, open_low = _edge(x[: best + 1][::-1], y[: best + 1][::-1], least)
    high, open_high = _edge(x[best:], y[best:], least)
    return Width(low=2.0**low, high=2.0**high, octaves=high - low, open_low=open_low, open_high=open_high)


def _edge(x: Floats, y: Floats, least: float) -> tuple[float, bool]:
    """Return where y, walked from its best at index 0, falls below `least`, and whether the grid ends before that."""
    outside = np.flatnonzero(y < least)
    if not len(outside):
        return float(x[-1]), True
    i = int(outside[0])
    if not np.isfinite(y[i]):
        return float(x[i - 1]), False
    share = (y[i - 1] - least) / (y[i - 1] - y[i])
    return float(x[i - 1] + share * (x[i] - x[i - 1])), False
