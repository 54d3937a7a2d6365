"""With which power of the width a half of LoRA's update grows, from the rows that `bench theory` writes."""

from __future__ import annotations

import pandas as pd

from bench.claims.arms import NoRows
from bench.claims.claim import Check
from bench.claims.verdict import Estimate
from bench.theory.widths import Scaling, Updates, exponents


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return the exponent of the half `of` ("A" or "B") for eta_A = c n^power_A, eta_B = c n^power_B."""
    scaling = Scaling(power_A=check.settings["power_A"], power_B=check.settings["power_B"])
    columns = ("width", "seed", "of_A", "of_B")
    own = rows[(rows["power_A"] == scaling.power_A) & (rows["power_B"] == scaling.power_B)]
    if own.empty:
        raise NoRows("none of this scaling")
    found = [Updates(scaling=scaling, **{name: row[name] for name in columns}) for row in own.to_dict("records")]
    of_A, of_B = exponents(found, scaling)
    chosen = {"A": of_A, "B": of_B}[check.settings["of"]]
    n = len({one.seed for one in found})
    return Estimate(value=chosen.value, interval=chosen.interval, n=n, unit="power of n", over="seeds")
