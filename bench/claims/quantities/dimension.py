"""How many times as large one model's d90 is as another's: the geometric mean over seeds.

d90 is the smallest d of the grid whose random subspace reaches 90 % of full fine-tuning (Li et al. 2018,
arXiv:1804.08838, section 2). A seed in which no d of the grid does counts with the largest d, so a ratio of such seeds
is nearer to 1 than it is in truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.claims.arms import Arm, NoRows, paired, ratio_of
from bench.claims.claim import Check
from bench.claims.verdict import Estimate

SHARE = 0.9


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return the ratio of each seed's d90 under `first` to that under `second`, each tuned at every d.

    `reduced` chooses the subspaces, `whole` full fine-tuning.
    """
    sides = [_d90(rows, check.settings, check.settings[name]) for name in ("first", "second")]
    logs = paired(*({seed: math.log2(d) for seed, d in found.items()} for found, _ in sides))
    return ratio_of(logs, details="; ".join(details for _, details in sides))


def _d90(rows: pd.DataFrame, settings: Mapping[str, Any], where: Mapping[str, Any]) -> tuple[dict[int, float], str]:
    """Return d90 by seed, and in words its median and the seeds without one."""
    own = Arm(rows, {**where, **settings["reduced"]})
    tuned = Arm(rows, {**where, **settings["whole"]})
    if tuned.sign < 0:
        raise NoRows(f"90 % of {tuned.metric} is no target")
    target = SHARE * float(np.mean(list(tuned.score().values())))
    ranks = sorted({int(d) for d in own.rows["rank"]})
    scores = {d: Arm(rows, {**where, **settings["reduced"], "rank": d}).score() for d in ranks}
    seeds = sorted(set.intersection(*(set(one) for one in scores.values())))
    reached = {seed: [d for d in ranks if scores[d][seed] >= target] for seed in seeds}
    found = {seed: float(min(reached[seed], default=ranks[-1])) for seed in seeds}
    missing = sum(not one for one in reached.values())
    words = f"median d90 {float(np.median(list(found.values()))):g}"
    return found, words + (f", not reached in {missing} of {len(seeds)} seeds" if missing else "")
