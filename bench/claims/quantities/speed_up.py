"""How many times fewer steps one arm takes than another to reach the other's last score: medians over seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.claims.arms import SEED, Arm, NoRows
from bench.claims.claim import Check
from bench.claims.verdict import Estimate
from bench.core import stats


def measure(check: Check, rows: pd.DataFrame) -> Estimate:
    """Return median steps of `second` over those of `first`; the target is the mean of second's last scores."""
    arms = [Arm(rows, check.settings[name]) for name in ("first", "second")]
    curves = [_curves(arm) for arm in arms]
    seeds = sorted(curves[0].keys() & curves[1].keys())
    if not seeds:
        raise NoRows("the two sides share no seed with a curve")
    target = float(np.mean([curves[1][seed][-1][1] for seed in seeds]))
    steps = [[_steps(one[seed], target) for seed in seeds] for one in curves]
    found = stats.median_ratio(steps[1], steps[0], np.random.default_rng(SEED))
    if found.value is None:
        raise NoRows("neither side reaches the target in half of the seeds")
    details = f"target {abs(target):.4g} {arms[1].metric}"
    return Estimate(
        value=found.value, interval=found.interval, n=len(seeds), unit="times", over="seeds", details=details
    )  # fmt: skip


def _curves(arm: Arm) -> dict[int, list[tuple[int, float]]]:
    """Return steps and scores, larger being better, of each seed's run of the cell that the other seeds choose."""
    names = list(arm.cells.index)
    found = {}
    for place, seed in zip(arm.best_by_others(), arm.seeds, strict=True):
        row = arm.rows[(arm.rows["_cell"] == names[place]) & (arm.rows["seed"] == seed)].iloc[0]
        points = [(p["step"], arm.sign * p["metric_value"]) for p in row["curve"] if p["metric_value"] is not None]
        if points:
            found[seed] = points
    return found


def _steps(curve: list[tuple[int, float]], target: float) -> float:
    return stats.steps_to_target([step for step, _ in curve], [score for _, score in curve], target)
