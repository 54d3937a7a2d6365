"""Simulations of intervals and of the whole rule of claims: the numbers of docs/concepts/statistics.md.

`python -m tests.support.claim_simulations` prints the tables. Every number is a share over N simulations from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from scipy import stats as distributions

from bench.comparison import rule
from bench.comparison.numbers import History, Runs
from bench.core import stats
from bench.core.stats import Floats

SEED = 20261126
N = 20_000  # simulations of a coverage: good to 0.002
N_RULE = 4_000  # of the rule: good to 0.004
SIZES = (6, 7, 8, 9, 10)
DEPTH, RATE, GAIN = 0.34, 0.2, 0.01  # a collapse from 84 to 50 %, in one seed of five; what an arm gains otherwise
SD = 0.004  # of a run's score over seeds

Draw = Callable[[np.random.Generator, int], Floats]
Ends = Callable[[Floats, np.random.Generator], tuple[float, float]]


def collapses(rng: np.random.Generator, n: int) -> Floats:
    """Return 1 for the seeds that collapse, [n]."""
    return (rng.random(n) < RATE).astype(np.float64)


# Paired differences with their true mean.
CASES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "both arms collapse in 20 %": (lambda rng, n: rng.normal(size=n) - 30 * (collapses(rng, n) - collapses(rng, n)), 0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "log-normal": (lambda rng, n: rng.lognormal(size=n), math.exp(0.5)),
    "one arm collapses in 20 %": (lambda rng, n: rng.normal(size=n) - 30 * collapses(rng, n), -6.0),
}


def inversion(d: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Return the interval that a comparison prints."""
    found = stats.mean_interval(d, rng)
    assert found is not None
    return found.low, found.high


@lru_cache
def _quantile(n: int) -> float:
    return float(distributions.t(n - 1).ppf(0.975))


def student_t(d: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Return Student's interval."""
    half = _quantile(len(d)) * d.std(ddof=1) / math.sqrt(len(d))
    return d.mean() - half, d.mean() + half


def bootstrap_t(d: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Return the bootstrap-t interval (Efron 1979), 1,999 resamples; those without spread are left out."""
    draws = d[rng.integers(len(d), size=(1999, len(d)))]
    errors = draws.std(axis=1, ddof=1) / math.sqrt(len(d))
    t = (draws.mean(axis=1) - d.mean())[errors > 0] / errors[errors > 0]
    low, high = np.quantile(t, [0.025, 0.975]) * d.std(ddof=1) / math.sqrt(len(d))
    return d.mean() - high, d.mean() - low


def coverage(case: str, n: int, interval: Ends = inversion, times: int = N) -> float:
    """Return how often the interval of n differences holds their true mean."""
    draw, mean = CASES[case]
    rng = np.random.default_rng([SEED, n])
    hits = 0
    for _ in range(times):
        low, high = interval(draw(rng, n), rng)
        hits += low <= mean <= high
    return hits / times


def steady(n: int) -> History:
    """Return a cell with as many runs as a winner needs, none of which collapsed."""
    return History(tuning=Runs(n=1, n_collapsed=0), fresh=Runs(n=n, n_collapsed=0), pool=Runs(n=14, n_collapsed=0))


def decisions(differences: Sequence[Floats], rng: np.random.Generator) -> tuple[rule.Decision, ...]:
    """Return what the rule says of arms that never collapse."""
    p = [stats.sign_flip_p(d, rng) for d in differences]
    sides = [int(np.sign(d.mean())) for d in differences]
    every = steady(len(differences[0]))
    return rule.decide(p, sides, [every] * len(p), every)


def claimed(n: int, gaps: Sequence[float], *, n_eval: int | None = None, times: int = N_RULE) -> tuple[float, float]:
    """Return how often a claim is made of any arm without a gap, and of the first arm. Scores of n seeds.

    Arms share the baseline and its seeds' luck; with `n_eval`, scores are shares of so many examples: ties.
    """
    rng = np.random.default_rng([SEED, n, len(gaps)])
    false = first = 0
    for _ in range(times):
        luck, base = rng.normal(0, 0.02, n), rng.normal(0, SD, n)
        arms = [rng.normal(gap, SD, n) for gap in gaps]
        scores = [0.8 + luck + own for own in (base, *arms)]
        if n_eval is not None:
            scores = [np.round(s * n_eval) / n_eval for s in scores]
        found = decisions([s - scores[0] for s in scores[1:]], rng)
        false += any(d.side and not gap for d, gap in zip(found, gaps, strict=True))
        first += found[0].side > 0
    return false / times, first / times


def speed_claimed(n: int, n_arms: int, *, times: int = N_RULE) -> float:
    """Return how often a speed-up is claimed where all are as fast: steps on a grid of 12, missed in 10 %."""
    rng = np.random.default_rng([SEED, n, n_arms, 1])
    hits = 0
    for _ in range(times):
        steps = np.ceil(rng.lognormal(math.log(150), 0.3, (n_arms + 1, n)) / 12) * 12
        steps[rng.random(steps.shape) < 0.1] = math.inf
        p = [stats.sign_p(steps[0], own) for own in steps[1:]]
        sides = [1 if (steps[0] > own).sum() > (steps[0] < own).sum() else -1 for own in steps[1:]]
        hits += any(d.side for d in rule.decide(p, sides, [steady(n)] * n_arms, steady(n)))
    return hits / times


def runs(scores: Floats) -> list[dict[str, object]]:
    """Return rows of runs as a comparison reads them; no row says by itself that it collapsed."""
    return [{"status": "ok", "metric_value": float(s), "metric_stderr": 0.012, "collapsed": False} for s in scores]


def falls(n: int, *, n_pool: int, gain: float = GAIN, rate: float = RATE, times: int = N_RULE) -> tuple[float, float]:
    """Return how often an arm that gains, but collapses in some seeds, is called better: by the rule, by the test.

    n fresh seeds, n_pool further ones, three of tuning in which the chosen cell went well.
    """
    rng = np.random.default_rng([SEED, n, n_pool])
    hits = alone = 0
    for _ in range(times):
        base = 0.84 + rng.normal(0, SD, n + n_pool + 3)
        arm = 0.84 + gain + rng.normal(0, SD, n + n_pool + 3)
        arm[: n + n_pool] -= DEPTH * (rng.random(n + n_pool) < rate)
        parts = [("fresh", slice(0, n)), ("pool", slice(n, n + n_pool)), ("tuning", slice(n + n_pool, None))]
        histories = [
            rule.history({name: runs(scores[part]) for name, part in parts}, higher_is_better=True)
            for scores in (arm, base)
        ]
        d = arm[:n] - base[:n]
        p, side = stats.sign_flip_p(d, rng), int(np.sign(d.mean()))
        (found,) = rule.decide([p], [side], histories[:1], histories[1])
        hits += found.side > 0
        alone += p <= stats.ALPHA and side > 0
    return hits / times, alone / times


def tables() -> Iterator[str]:
    """Yield every table, line by line."""
    yield "coverage (n: inversion, Student-t, bootstrap-t with 2,000)"
    for case in CASES:
        each = [
            (coverage(case, n), coverage(case, n, student_t), coverage(case, n, bootstrap_t, times=2000)) for n in SIZES
        ]
        yield f"| {case} | " + " | ".join(" ".join(f"{v:.3f}" for v in three) for three in each) + " |"
    yield "false claims over the family of four, power at the detectable gap of the first of four"
    for n in (8, 10):
        for n_eval in (None, 872):
            gap = stats.detectable_difference(SD * math.sqrt(2), n, n_claims=4) or 0.0
            false, _ = claimed(n, (0, 0, 0, 0), n_eval=n_eval)
            beside, power = claimed(n, (gap, 0, 0, 0), n_eval=n_eval)
            yield f"n {n}, n_eval {n_eval}: {false:.3f}; gap {gap:.4f}: power {power:.3f}, false {beside:.3f}"
        yield f"n {n}: speed-ups claimed {speed_claimed(n, 4):.3f}"
    yield "gains a point, collapses in 20 %: rule, without further runs, test alone; never collapses: rule"
    for n in (6, 8, 10):
        (with_pool, alone), (without, _) = falls(n, n_pool=14 - n), falls(n, n_pool=0)
        yield f"n {n}: {with_pool:.3f} {without:.3f} {alone:.3f}; {falls(n, n_pool=14 - n, rate=0)[0]:.3f}"
    yield "detectable difference in sd, by n and claims"
    for n in (6, 7, 8, 9, 10, 12):
        found = [stats.detectable_difference(1.0, n, n_claims=m) for m in (1, 2, 3, 4)]
        yield f"| {n} | " + " | ".join("-" if v is None else f"{v:.2f}" for v in found) + " |"


if __name__ == "__main__":
    for line in tables():
        print(line, flush=True)
