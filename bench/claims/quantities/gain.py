"""By how much one arm's metric is better than another's, both tuned: the mean paired difference over seeds.

In points (hundredths) where the metric is a share, in its own unit where lower is better.
"""

from __future__ import annotations

import pandas as pd

from bench.claims.arms import Arm, mean_of, paired
from bench.claims.claim import Check
from bench.claims.verdict import Estimate


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return `first` minus `second`, of the cell that the other seeds choose in each."""
    first, second = (Arm(rows, check.settings[name]) for name in ("first", "second"))
    scale, unit = (100.0, "points") if first.sign > 0 else (1.0, first.metric)
    details = f"{len(first.cells)} and {len(second.cells)} cells; {first.metric}"
    return mean_of(paired(first.score(), second.score()), unit=unit, details=details, scale=scale)
