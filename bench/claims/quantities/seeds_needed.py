"""With how many seeds a difference of two arms would be told apart, from the spread of their paired differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats as distributions

from bench.claims.arms import Arm, NoRows, paired
from bench.claims.claim import Check
from bench.claims.verdict import Estimate
from bench.core import stats
from bench.core.stats import Interval

MOST = 1000


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return the fewest seeds that tell `difference` (points) with 80 % power; interval: that of the spread (chi^2)."""
    first, second = (Arm(rows, check.settings[name]) for name in ("first", "second"))
    differences = 100.0 * paired(first.score(), second.score())
    n = len(differences)
    if n < 2:
        raise NoRows("a spread takes two seeds")
    sd, gap = float(differences.std(ddof=1)), float(check.settings["difference"])
    ends = [sd * float(np.sqrt((n - 1) / distributions.chi2.ppf(q, n - 1))) for q in (0.975, 0.025)]
    low, value, high = (_needed(spread, gap) for spread in (ends[0], sd, ends[1]))
    details = f"standard deviation of a paired difference {sd:.2f} points"
    return Estimate(
        value=value, interval=Interval(low=low, high=high), n=n, unit="seeds", over="seeds", details=details
    )


def _needed(sd: float, gap: float) -> float:
    for n in range(stats.MIN_PAIRS, MOST):
        found = stats.detectable_difference(sd, n)
        if found is not None and found <= gap:
            return float(n)
    return float(MOST)
