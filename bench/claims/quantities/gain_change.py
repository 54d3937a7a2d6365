"""By how much the gain of one arm over another changes between two conditions: a mean paired difference over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.claims.arms import Arm, mean_of, paired
from bench.claims.claim import Check
from bench.claims.verdict import Estimate


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return (first - second) under `after` less (first - second) under `before`; both are settings of rows."""
    gains = {name: _gain(check, check.settings[name], rows) for name in ("before", "after")}
    return mean_of(paired(gains["after"], gains["before"]), unit="points", scale=100.0)


def _gain(check: Check, condition: Mapping[str, Any], rows: pd.DataFrame) -> dict[int, float]:
    first, second = (Arm(rows, {**check.settings[name], **condition}).score() for name in ("first", "second"))
    return {seed: first[seed] - second[seed] for seed in first.keys() & second.keys()}
