"""With which power of one setting the best value on an axis grows: log-log slope of each seed, its mean over seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bench.claims.arms import Arm, NoRows, mean_of
from bench.claims.claim import Check
from bench.claims.verdict import Estimate


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return the least-squares slope of log best `axis` (default eta_A) over log `over`, a numeric column."""
    axis, over = check.settings.get("axis", "eta_A"), check.settings["over"]
    where = check.settings["first"]
    values = sorted(set(pd.to_numeric(Arm(rows, where).rows[over]).dropna().astype(float)))
    if len(values) < 2:
        raise NoRows(f"one value of {over} only")
    best = [Arm(rows, {**where, over: value}).best_value(axis) for value in values]
    seeds = sorted(set.intersection(*(set(one) for one in best)))
    x = np.log(values)
    slopes = [float(np.polyfit(x, [math.log(one[seed]) for one in best], 1)[0]) for seed in seeds]
    if not slopes:
        raise NoRows("no seed has every value")
    spelled = ", ".join(f"{value:g}" for value in values)
    return mean_of(np.array(slopes), unit=f"power of {over}", details=f"{over} {spelled}")
