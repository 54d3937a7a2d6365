"""How many times as large one arm's best value on an axis is as another's, or as 1: the geometric mean over seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bench.claims.arms import Arm, paired, ratio_of
from bench.claims.claim import Check
from bench.claims.verdict import Estimate


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return the ratio of each seed's best `axis` (default eta_A) in `first` to that in `second`, else to 1."""
    axis = check.settings.get("axis", "eta_A")
    first = Arm(rows, check.settings["first"])
    logs = {seed: math.log2(value) for seed, value in first.best_value(axis).items()}
    details = _border(first, axis)
    if "second" in check.settings:
        second = Arm(rows, check.settings["second"])
        values = paired(logs, {seed: math.log2(value) for seed, value in second.best_value(axis).items()})
        details = " ".join(filter(None, (details, _border(second, axis))))
    else:
        values = np.array(list(logs.values()))
    return ratio_of(values, details=details)


def _border(arm: Arm, axis: str) -> str:
    """Return how many seeds have their best on the border of the axis, where some do: their best may lie beyond."""
    ends = arm.ends(axis)
    n = sum(value in ends for value in arm.best_value(axis).values())
    return f"best on the border in {n} of {len(arm.seeds)} seeds" if n else ""
