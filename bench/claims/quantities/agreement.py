"""Whether one condition ranks cells as another does: Spearman's correlation of each seed, its mean over seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats as distributions

from bench.claims.arms import Arm, NoRows, mean_of
from bench.claims.claim import Check
from bench.claims.verdict import Estimate


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return the rank correlation of the objective of the same cells in `first` and in `second`, matched by `by`."""
    first, second = (Arm(rows, check.settings[name]) for name in ("first", "second"))
    by = list(check.settings["by"])
    tables = [arm.rows.pivot(index=by, columns="seed", values="_objective") for arm in (first, second)]
    cells = tables[0].index.intersection(tables[1].index)
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    if len(cells) < 3 or not seeds:
        raise NoRows("fewer than three cells in common, or no seed")
    values = [float(distributions.spearmanr(*(t.loc[cells, seed] for t in tables)).statistic) for seed in seeds]
    return mean_of(np.array(values), unit="rank correlation", details=f"{len(cells)} cells")
