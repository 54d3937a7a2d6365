"""What claims are about: one file each = one quantity, `measure`, a function of a check and its rows.

To add one, add a file. It returns an Estimate, or raises `NoRows` where the rows do not hold what it takes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pandas as pd

from bench.claims.claim import Check
from bench.claims.verdict import Estimate
from bench.core import registry

Quantity = Callable[[Check, pd.DataFrame], Estimate]


def get(name: str) -> Quantity:
    """Return the quantity of this name."""
    found: Quantity = registry.load(sys.modules[__name__], name, "measure", where="quantity")
    return found
