"""Statistics of paired runs: intervals, exact tests, tuning curves, steps to a target. Pure: numpy and scipy.

Every function takes plain arrays; whatever is random takes its generator. Seeds are few here (6 to 20), so tests are
exact where they can be, and the smallest p that n pairs can give (`attainable_p`) is a number to be shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats as distributions

Floats = npt.NDArray[np.float64]

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # of every claim
N_RESAMPLES = 9_999  # bootstrap draws: the ends of an interval are good to about 2 % of its width
EXACT_PAIRS = 16  # pairs up to which all 2^(n - 1) sign patterns are enumerated
N_FLIPS = 99_999  # random sign patterns beyond that
MIN_PAIRS = 6  # below it no two-sided sign-flip test reaches 5 %


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Two ends, low <= high; an end may be infinite where `median_ratio` says so."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Return whether `value` lies outside, ends not counted."""
        return value < self.low or value > self.high


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A ratio of two medians with its interval. None and infinite: see `median_ratio`."""

    value: float | None
    interval: Interval
    n: int


def bca_interval(
    values: npt.ArrayLike, rng: np.random.Generator, *, level: float = LEVEL, n_resamples: int = N_RESAMPLES
) -> Interval:
    """Return the bias-corrected accelerated bootstrap interval of a mean (Efron 1987), by scipy.stats.bootstrap.

    `values` are paired differences, [n] with n >= 2, finite. Below about 15 of them it covers less than its level
    (near 0.90 at n = 6 for normal data), so that alone it is no ground for a claim. Equal values give their own point.

    Raises:
        ValueError: for fewer than two values, or one that is not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"values must be [n], n >= 2 and finite, but got {x!r}")
    if np.ptp(x) == 0:  # scipy gives nan there
        return Interval(low=float(x[0]), high=float(x[0]))
    found = distributions.bootstrap(
        (x,), np.mean, confidence_level=level, n_resamples=n_resamples, method="BCa", rng=rng
    ).confidence_interval
    return Interval(low=float(found.low), high=float(found.high))


def sign_flip_p(differences: npt.ArrayLike, rng: np.random.Generator, *, n_flips: int = N_FLIPS) -> float:
    """Return the two-sided p of the sign-flip permutation test of paired differences, [n] with n >= 1.

    Under the null hypothesis each difference is as likely with either sign. p is the share of the 2^n sign patterns
    whose |sum| is at least the one observed: exact up to EXACT_PAIRS; beyond, over `n_flips` random patterns, the
    observed one counted, which keeps the level (Phipson and Smyth 2010). Only then is `rng` used.

    Raises:
        ValueError: for no difference, or one that is not finite.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise ValueError(f"differences must be [n], n >= 1 and finite, but got {d!r}")
    # A sum in another order may differ in the last digits: that is a tie, not a smaller sum.
    least = abs(d.sum()) - 1e-9 * np.abs(d).sum()
    if len(d) <= EXACT_PAIRS:
        return float(np.mean(np.abs(_signs(len(d)) @ d) >= least))
    flips = rng.choice((-1.0, 1.0), size=(n_flips, len(d)))
    return (1 + int(np.sum(np.abs(flips @ d) >= least))) / (n_flips + 1)


def attainable_p(n_pairs: int, n_claims: int = 1) -> float:
    """Return the smallest p that a sign-flip test of n pairs can give, after Holm over `n_claims` claims at worst."""
    return min(1.0, n_claims * 2.0 ** (1 - n_pairs))


def attainable_level(n_pairs: int, *, alpha: float = ALPHA) -> float:
    """Return how often a sign-flip test of n pairs rejects at `alpha` under the null: p takes steps of 2^(1 - n)."""
    patterns = 2.0 ** (n_pairs - 1)
    return math.floor(alpha * patterns) / patterns


def pairs_needed(n_claims: int, *, alpha: float = ALPHA) -> int:
    """Return the fewest pairs, MIN_PAIRS or more, with which each of `n_claims` claims can reach `alpha` under Holm."""
    n = MIN_PAIRS
    while attainable_p(n, n_claims) > alpha:
        n += 1
    return n


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return the p values adjusted for the family that they form (Holm 1979), in the order given.

    The i-th smallest of m is multiplied by m - i + 1; none may be smaller than one before it, none exceeds 1.
    """
    m, adjusted, floor = len(p_values), [0.0] * len(p_values), 0.0
    for i, place in enumerate(sorted(range(m), key=lambda j: p_values[j])):
        floor = max(floor, min(1.0, (m - i) * p_values[place]))
        adjusted[place] = floor
    return tuple(adjusted)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test (1947): of the examples that only one gets right, half each.

    `only_first` and `only_second` count the examples that only the first, only the second gets right; 1.0 if neither
    has any.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**n))


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


def steps_to_target(
    steps: Sequence[int], values: Sequence[float | None], target: float, *, higher_is_better: bool = True
) -> float:
    """Return the first of the ascending `steps` whose value reaches `target`; infinity if none does."""
    sign = 1 if higher_is_better else -1
    return next(
        (float(s) for s, v in zip(steps, values, strict=True) if v is not None and sign * v >= sign * target), math.inf
    )


def median(values: npt.ArrayLike) -> float:
    """Return the median of [n], n >= 1, infinities included: for even n the mean of the middle two."""
    return float(_medians(np.asarray(values, dtype=np.float64)[None, :])[0])


def median_ratio(
    numerator: npt.ArrayLike, denominator: npt.ArrayLike, rng: np.random.Generator, *, level: float = LEVEL
) -> Ratio:
    """Return median(numerator) / median(denominator) with a percentile bootstrap interval; both [n], paired, > 0.

    Infinite values (targets not reached) stay in the medians. inf / x is infinite, x / inf is 0; inf / inf says
    nothing: the value is then None, and such a bootstrap draw counts as 0 at the lower end, as infinite at the upper.
    """
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if top.ndim != 1 or top.shape != bottom.shape or not len(top) or not ((top > 0).all() and (bottom > 0).all()):
        raise ValueError(f"numerator and denominator must be [n], n >= 1 and > 0, but got {top!r} and {bottom!r}")
    draws = rng.integers(len(top), size=(N_RESAMPLES, len(top)))
    ratios = _divide(_medians(top[draws]), _medians(bottom[draws]))
    tail, nothing = (1 - level) / 2, np.isnan(ratios)
    ends = Interval(
        low=_quantile(np.where(nothing, 0.0, ratios), tail), high=_quantile(np.where(nothing, np.inf, ratios), 1 - tail)
    )
    value = float(_divide(np.array([median(top)]), np.array([median(bottom)]))[0])
    return Ratio(value=None if math.isnan(value) else value, interval=ends, n=len(top))


def clopper_pearson(hits: float, n: float, *, level: float = LEVEL) -> Interval:
    """Return the exact two-sided interval of a binomial share, 0 <= hits <= n, n > 0 (Clopper and Pearson 1934).

    Real numbers are taken too: an effective count, where trials are not independent.
    """
    if not 0 <= hits <= n or n <= 0:
        raise ValueError(f"0 <= hits <= n, n > 0, but got hits={hits}, n={n}")
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(distributions.beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(distributions.beta.ppf(1 - tail, hits + 1, n - hits))
    return Interval(low=low, high=high)


def detectable_difference(sd: float, n: int, *, power: float = 0.8, alpha: float = ALPHA) -> float:
    """Return the mean difference that n pairs with this standard deviation would show with this power, roughly.

    (t_{1 - alpha/2} + t_{power}) sd / sqrt(n) at n - 1 degrees of freedom: the usual approximation for a t-test, to
    which the sign-flip test comes close.
    """
    t = distributions.t(n - 1)
    return float((t.ppf(1 - alpha / 2) + t.ppf(power)) * sd / math.sqrt(n))


def _signs(n: int) -> Floats:
    """Return the sign patterns of n differences, the first one kept positive (a pattern and its negative are one)."""
    bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)) & 1
    return np.concatenate([np.ones((len(bits), 1)), 1.0 - 2.0 * bits], axis=1)


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


def _medians(rows: Floats) -> Floats:
    """Return the median of each row. numpy's own interpolates, which makes nan of infinities."""
    ordered, n = np.sort(rows, axis=1), rows.shape[1]
    low, high = ordered[:, (n - 1) // 2], ordered[:, n // 2]
    return np.where(low == high, low, (low + high) / 2)


def _divide(top: Floats, bottom: Floats) -> Floats:
    """Return top / bottom, nan where both are infinite."""
    both = np.isinf(top) & np.isinf(bottom)
    return np.where(both, np.nan, np.where(both, 1.0, top) / np.where(both, 1.0, bottom))


def _quantile(values: Floats, q: float) -> float:
    """Return a quantile that is one of the values: interpolating between infinities would give nan."""
    return float(np.quantile(values, q, method="inverted_cdf"))
