"""How a column of `bench speed` of one arm compares with another's: the median of the ratios within a round."""

from __future__ import annotations

import pandas as pd

from bench.claims.arms import NoRows, rows_where
from bench.claims.claim import Check
from bench.claims.verdict import Estimate
from bench.core import stats


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return `column` of the case `first` over that of `second` (`second_column` where it is another one)."""
    column = check.settings.get("column", "seconds_per_step")
    sides = [(check.settings["first"], column), (check.settings["second"], check.settings.get("second_column", column))]
    by_round = [_by_round(rows, *side) for side in sides]
    rounds = sorted(by_round[0].keys() & by_round[1].keys())
    if not rounds:
        raise NoRows("the two sides share no round")
    ratios = [by_round[0][one] / by_round[1][one] for one in rounds]
    found = stats.median_interval(ratios)
    device = ", ".join(sorted(set(rows["device"].astype(str))))
    return Estimate(
        value=float(pd.Series(ratios).median()), interval=None if found is None else found[0], n=len(rounds),
        unit="times", over="rounds", details=device,
    )  # fmt: skip


def _by_round(rows: pd.DataFrame, where: dict[str, object], column: str) -> dict[int, float]:
    own = rows_where(rows, where).dropna(subset=[column])
    if own.duplicated("repeat").any():
        raise NoRows(f"several cases with {where} in one round: {', '.join(sorted(set(own['case'])))}")
    return {int(one["repeat"]): float(one[column]) for one in own.to_dict("records")}
