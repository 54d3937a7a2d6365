"""A ratio of two numbers that need no run: trained numbers, bytes kept or stored, FLOP, of two trials by formula."""

from __future__ import annotations

import pandas as pd

from bench.claims.arms import NoRows, rows_where
from bench.claims.claim import Check
from bench.claims.verdict import Estimate
from bench.core.stats import Interval


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return `column` of the rows that `first` chooses over that of `second`; all rows of a side must agree."""
    column = check.settings["column"]
    first, second = (_value(rows, check.settings[name], column) for name in ("first", "second"))
    ratio = first / second
    exact = Interval(low=ratio, high=ratio)
    return Estimate(
        value=ratio, interval=exact, n=1, unit="times", over="nothing", details=f"{first:,.0f} / {second:,.0f}"
    )


def _value(rows: pd.DataFrame, where: dict[str, object], column: str) -> float:
    values = set(rows_where(rows, where)[column].dropna().astype(float))
    if len(values) != 1:
        raise NoRows(f"{len(values)} values of {column} with {where}")
    return values.pop()
