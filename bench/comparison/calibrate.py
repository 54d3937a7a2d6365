"""A/A calibration: does the rule of `bench compare` claim differences where there are none, and what does it find?

The same cell, run with many seeds, stands on both sides: any difference claimed is false. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.comparison import rule
from bench.comparison.arms import MIN_FRESH_SEEDS
from bench.core import stats
from bench.core.stats import Floats, Interval

MIN_POOL = 64  # runs of the cell
MIN_COMPARISONS = 200
N_COMPARISONS = 2_000
GAPS = (0.005, 0.01)  # planted for the power curve: half a point and one point of accuracy
SIZES = (6, 8, 10, 12, 16, 20, 24, 32)  # seeds of the power curve
N_POWER = 200  # comparisons at each point of it: a power of 0.8 is good to 0.03
WANTED_POWER = 0.8
_FEW = 1_999  # sign patterns of one of thousands of comparisons, beyond 16 pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerPoint:
    """How often a planted gap is claimed with n paired seeds."""

    gap: float
    n: int
    power: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What a pool of runs of one cell says about the rule."""

    n_pool: int
    mean: float
    sd: float
    n_seeds: int  # pairs of one comparison
    n_splits: int
    n_comparisons: int
    n_effective: float  # independent comparisons that the splits are worth
    false_positive_rate: float
    interval: Interval  # over splits of this pool
    attainable_level: float  # of the sign-flip test alone at n_seeds
    alpha: float
    power: tuple[PowerPoint, ...]

    @property
    def passed(self) -> bool:
        """Whether the false-positive rate is not above alpha by its lower bound."""
        return self.interval.low <= self.alpha

    def seeds_needed(self, gap: float) -> int | None:
        """Return the smallest n of the power curve with WANTED_POWER for this gap; None: more than the curve has."""
        return next((p.n for p in self.power if p.gap == gap and p.power >= WANTED_POWER), None)


def calibrate(
    scores: Sequence[float],
    rng: np.random.Generator,
    *,
    n_seeds: int = MIN_FRESH_SEEDS,
    n_comparisons: int = N_COMPARISONS,
    gaps: Sequence[float] = GAPS,
) -> Calibration:
    """Return the calibration of the rule on a pool of scores, [N], one for each run of the cell with a seed of its own.

    Each split shuffles the pool into disjoint comparisons of 2 n_seeds runs. Comparisons of one split share its
    shuffle and are not independent; splits are, given the pool: the interval is Clopper-Pearson's at the number of
    independent comparisons that the spread between splits says they are worth. It is about this pool, not all pools.

    Raises:
        ValueError: for a pool below MIN_POOL or 2 n_seeds, fewer than MIN_COMPARISONS, or a score that is not finite.
    """
    pool = np.asarray(scores, dtype=np.float64)
    if pool.ndim != 1 or len(pool) < max(MIN_POOL, 2 * n_seeds) or not np.isfinite(pool).all():
        raise ValueError(f"a pool must hold {max(MIN_POOL, 2 * n_seeds)} finite scores or more, but got {len(pool)}")
    if n_comparisons < MIN_COMPARISONS:
        raise ValueError(f"n_comparisons >= {MIN_COMPARISONS} must hold, but got {n_comparisons}")
    each = len(pool) // (2 * n_seeds)
    n_splits = math.ceil(n_comparisons / each)
    rates = np.array([_split(pool, n_seeds, each, rng) for _ in range(n_splits)])
    n_effective = effective(rates, each)
    rate = float(rates.mean())
    return Calibration(
        n_pool=len(pool),
        mean=float(pool.mean()),
        sd=float(pool.std(ddof=1)),
        n_seeds=n_seeds,
        n_splits=n_splits,
        n_comparisons=n_splits * each,
        n_effective=n_effective,
        false_positive_rate=rate,
        interval=stats.clopper_pearson(rate * n_effective, n_effective),
        attainable_level=stats.attainable_level(n_seeds),
        alpha=stats.ALPHA,
        power=tuple(point for gap in gaps for point in _power_curve(pool, gap, rng)),
    )


def effective(rates: Floats, each: int) -> float:
    """Return how many independent comparisons splits are worth; `rates`, [S]: the share of `each` that claim, by split.

    S * each / max(1, D) with the design effect D: the variance between splits over that of independent comparisons.
    """
    rate, n = float(rates.mean()), len(rates) * each
    binomial = rate * (1 - rate) / each
    return n if binomial == 0 else n / max(1.0, float(rates.var(ddof=1)) / binomial)


def _split(pool: Floats, n_seeds: int, each: int, rng: np.random.Generator) -> float:
    shuffled = rng.permutation(pool)[: each * 2 * n_seeds].reshape(each, 2, n_seeds)
    return float(np.mean([rule.rejects(first - second, rng, n_flips=_FEW) for first, second in shuffled]))


def _power_curve(pool: Floats, gap: float, rng: np.random.Generator) -> list[PowerPoint]:
    """Return the power at SIZES, up to the first that is practically 1.

    Pairs are drawn with replacement, both sides on their own: seeds that methods share, which make pairs alike and
    the power larger, count for nothing here.
    """
    points: list[PowerPoint] = []
    for n in SIZES:
        draws = pool[rng.integers(len(pool), size=(N_POWER, 2, n))]
        hits = sum(rule.rejects(first + gap - second, rng, n_flips=_FEW) for first, second in draws)
        ends = stats.clopper_pearson(hits, N_POWER)
        points.append(PowerPoint(gap=gap, n=n, power=hits / N_POWER, interval=ends))
        if hits >= 0.99 * N_POWER:
            break
    return points


def sentences(c: Calibration, *, scale: float = 100.0, unit: str = "points") -> tuple[str, ...]:
    """Return the calibration in plain sentences; `scale` turns a score into `unit`."""
    side = "below" if c.interval.high <= c.alpha else "not shown to be above" if c.passed else "ABOVE"
    told = (
        f"A/A: the same cell on both sides, {c.n_pool} runs (standard deviation {scale * c.sd:.2f} {unit}), "
        f"{c.n_comparisons:,} comparisons of {c.n_seeds} pairs in {c.n_splits:,} splits: {c.false_positive_rate:.1%} "
        f"claim a difference (95% interval over splits {c.interval.low:.1%} to {c.interval.high:.1%}; the sign-flip "
        f"test alone attains {c.attainable_level:.1%}): {side} {c.alpha:.0%}."
    )
    return (told, *(_needed(c, gap, scale, unit) for gap in dict.fromkeys(p.gap for p in c.power)))


def _needed(c: Calibration, gap: float, scale: float, unit: str) -> str:
    curve = ", ".join(f"{p.n}: {p.power:.2f}" for p in c.power if p.gap == gap)
    n = c.seeds_needed(gap)
    told = f"needs {n} seeds" if n is not None else f"needs more than {SIZES[-1]} seeds"
    return f"A gap of {scale * gap:g} {unit} {told} for a power of {WANTED_POWER:.0%} (power by seeds: {curve})."
