"""Statistics of paired runs: exact tests, intervals, power, steps to a target. Pure: numpy and scipy.

Every function takes plain arrays; whatever is random takes its generator. Seeds are few here (6 to 20), so tests are
exact where they can be, and the smallest p that n pairs can give (`attainable_p`) is a number to be shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
N_POWER, N_POWER_PAIRS = 4_000, 12  # simulated samples behind a detectable difference, and up to which n


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Two ends, low <= high; an end may be infinite where `median_ratio` says so."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Return whether `value` lies outside, ends not counted."""
        return value < self.low or value > self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A ratio of two medians with its interval. None and infinite: see `median_ratio`."""

    value: float | None
    interval: Interval
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """The power of x with which medians grow, and its bootstrap interval over seeds; None: one seed."""

    value: float
    interval: Interval | None

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:+.2f}"
        return f"{self.value:+.2f} ({self.interval.low:+.2f} to {self.interval.high:+.2f})"


def log_log_slope(xs: npt.ArrayLike, logs_XxS: Floats) -> Slope:
    """Return the least-squares slope of the medians of `logs_XxS` over log x, with its percentile bootstrap interval.

    `logs_XxS` are logarithms, a row for each x > 0, a column for each seed; seeds are drawn for each x alone.
    """
    n_xs, n_seeds = logs_XxS.shape
    drawn = np.random.default_rng(0).integers(n_seeds, size=(N_RESAMPLES, n_xs, n_seeds))
    resampled_RxX = np.median(np.take_along_axis(logs_XxS[None], drawn, axis=2), axis=2)
    slopes = np.polyfit(np.log(xs), np.vstack([np.median(logs_XxS, axis=1), resampled_RxX]).T, 1)[0]
    tail = (1 - LEVEL) / 2
    ends = Interval(low=float(np.quantile(slopes[1:], tail)), high=float(np.quantile(slopes[1:], 1 - tail)))
    return Slope(value=float(slopes[0]), interval=ends if n_seeds > 1 else None)


def mean_interval(values: npt.ArrayLike, rng: np.random.Generator, *, level: float = LEVEL) -> Interval | None:
    """Return the interval of a mean that inverts the sign-flip test: every centre that it does not reject at 1 - level.

    `values` are paired differences, [n] with n >= 1, finite. The ends are order statistics of the means of all
    2^n - 1 subsets (Hartigan 1969), the k-th from either side, k = floor((1 - level) / 2 * 2^n): it covers
    1 - k / 2^(n - 1) >= level exactly wherever differences are symmetric about their mean, and leaves out 0 just where
    `sign_flip_p` <= 1 - level. Below MIN_PAIRS no such k is there at 95 %: None. `rng` is used beyond EXACT_PAIRS only.
    Simulated coverage: docs/concepts/statistics.md.

    Raises:
        ValueError: for no value, or one that is not finite.
    """
    x = _checked(values)
    if len(x) <= EXACT_PAIRS:
        subsets = (1.0 - _signs(len(x))) / 2  # of all patterns up to a flip of all: each subset or its complement
        chosen = np.concatenate([subsets[1:], 1.0 - subsets])
        k = math.floor((1 - level) / 2 * 2 ** len(x) + 1e-9)
    else:
        chosen = rng.integers(2, size=(N_FLIPS, len(x))).astype(np.float64)
        chosen = chosen[chosen.any(axis=1)]
        k = math.floor((1 - level) / 2 * (len(chosen) + 1) + 1e-9)
    if k < 1:
        return None
    sums = chosen @ x
    sums[np.abs(sums) <= 1e-9 * np.abs(x).sum()] = 0.0  # a tie in the test is one here
    means = np.sort(sums / chosen.sum(axis=1))
    return Interval(low=float(means[k - 1]), high=float(means[-k]))


def sign_flip_p(differences: npt.ArrayLike, rng: np.random.Generator, *, n_flips: int = N_FLIPS) -> float:
    """Return the two-sided p of the sign-flip permutation test of paired differences, [n] with n >= 1.

    Under the null hypothesis each difference is as likely with either sign. p is the share of the 2^n sign patterns
    whose |sum| is at least the one observed: exact up to EXACT_PAIRS; beyond, over `n_flips` random patterns, the
    observed one counted, which keeps the level (Phipson and Smyth 2010). Only then is `rng` used.

    Raises:
        ValueError: for no difference, or one that is not finite.
    """
    d = _checked(differences)
    # A sum in another order may differ in the last digits: that is a tie, not a smaller sum.
    least = abs(d.sum()) - 1e-9 * np.abs(d).sum()
    if len(d) <= EXACT_PAIRS:
        return float(np.mean(np.abs(_signs(len(d)) @ d) >= least))
    flips = rng.choice((-1.0, 1.0), size=(n_flips, len(d)))
    return (1 + int(np.sum(np.abs(flips @ d) >= least))) / (n_flips + 1)


def attainable_p(n_pairs: int, n_claims: int = 1, *, n_zeros: int = 0) -> float:
    """Return the smallest p that a sign-flip test of n pairs can give, after Holm over `n_claims` claims at worst.

    A difference of 0 has no sign: each of the `n_zeros` doubles it. A sign test's smallest p is the same.
    """
    return min(1.0, n_claims * 2.0 ** (1 - (n_pairs - n_zeros)))


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


def sign_p(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return the exact two-sided p of the paired sign test: is `first` as often above `second` as below? Both [n].

    Of the log ratio only the sign counts, so infinite values (a target not reached) have their place: infinite against
    finite is a sign, infinite against infinite a tie like any other. Ties are left out; 1.0 where all are.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    above, below = int((a > b).sum()), int((a < b).sum())
    return float(distributions.binomtest(above, above + below).pvalue) if above + below else 1.0


def outperforms(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return the share of pairs in which `first` is larger, a tie as half of one (Bouthillier 2021, 2103.03098)."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return float(np.mean((a > b) + 0.5 * (a == b)))


def whole_sign_flip_p(whole: npt.ArrayLike) -> float:
    """Return the exact two-sided p of the sign-flip test of whole numbers, [N]; however many there are.

    The distribution of sum_i +-k_i is the convolution of those of each size k: binomials on a lattice of step 2 k.
    Where all sizes are 1 this is McNemar's exact test (1947) of the examples that only one of two gets right.
    """
    k = np.abs(np.asarray(whole, dtype=np.int64))
    spread = np.ones(1)  # of sum + total, at even places only: index j stands for 2 j - total
    for size, count in zip(*np.unique(k[k > 0], return_counts=True), strict=True):
        part = np.zeros(size * count + 1)
        part[::size] = distributions.binom.pmf(np.arange(count + 1), count, 0.5)
        spread = np.convolve(spread, part)
    sums = 2 * np.arange(len(spread)) - int(k.sum())
    return min(1.0, float(spread[np.abs(sums) >= abs(int(np.sum(whole)))].sum()))


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


def median_interval(values: Sequence[float], *, level: float = LEVEL) -> tuple[Interval, float] | None:
    """Return the interval of a median between two order statistics, and its exact coverage; None for n < 2.

    [x_(r), x_(n + 1 - r)] covers 1 - 2 P(B < r), B ~ binomial(n, 1/2), whatever the distribution. r is the largest that
    covers `level`; where none does (n < 6 at 95 %), r = 1, the range, and the coverage says what that is worth.
    """
    x, n = sorted(values), len(values)
    if n < 2:
        return None
    covered = [1 - 2 * float(distributions.binom.cdf(r - 1, n, 0.5)) for r in range(1, n // 2 + 1)]
    r = max((i for i, share in enumerate(covered, start=1) if share >= level), default=1)
    return Interval(low=float(x[r - 1]), high=float(x[n - r])), covered[r - 1]


def detectable_difference(
    sd: float, n: int, *, n_claims: int = 1, power: float = 0.8, alpha: float = ALPHA
) -> float | None:
    """Return the mean difference that n pairs with this standard deviation would show with this power, after Holm.

    Counted is the strictest step of Holm over `n_claims`. The sign-flip test claims a gap g where the lower end of the
    interval that inverts it (at alpha / n_claims) lies above -g: its quantile over N_POWER simulated samples of normal
    differences is the answer. Beyond N_POWER_PAIRS the t-test's, (t_{1 - alpha / (2 m)} + t_power) sd / sqrt(n), to
    which it comes within 4 %. None: no gap is large enough, for no p reaches alpha.
    """
    if attainable_p(n, n_claims) > alpha:
        return None
    if n > N_POWER_PAIRS:
        t = distributions.t(n - 1)
        return float((t.ppf(1 - alpha / (2 * n_claims)) + t.ppf(power)) * sd / math.sqrt(n))
    return sd * _detectable_sds(n, alpha / n_claims, power)


@lru_cache(maxsize=64)
def _detectable_sds(n: int, alpha: float, power: float) -> float:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(N_POWER, n))
    lows = [interval.low for d in draws if (interval := mean_interval(d, rng, level=1 - alpha))]
    return -float(np.quantile(lows, 1 - power))


def _checked(values: npt.ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"differences must be [n], n >= 1 and finite, but got {x!r}")
    return x


@lru_cache(maxsize=4)
def _signs(n: int) -> Floats:
    """Return the sign patterns of n differences, the first one kept positive (a pattern and its negative are one)."""
    bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)) & 1
    return np.concatenate([np.ones((len(bits), 1)), 1.0 - 2.0 * bits], axis=1)


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
