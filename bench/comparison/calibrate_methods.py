"""A/A at the level of methods: two tunings of one method with disjoint seeds, compared as if they were two methods.

A claim of `bench compare` is about two cells. Which cell tuning chooses is luck too, where several are about as good:
what that adds to a sentence about methods is simulated here, from rows, where some cells have two seeds or more. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.comparison import rule
from bench.comparison.arms import Cell, Row, is_ok
from bench.comparison.numbers import Top
from bench.core import stats
from bench.core.stats import Floats, Interval

MIN_SEEDS, MIN_CELLS = 2, 2  # cells with so many seeds: one seed says nothing of its luck
N_COMPARISONS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodCalibration:
    """What the rows of one method say about a comparison of it with itself, tuned anew."""

    n_cells: int  # that never diverged
    n_known: int  # of them with MIN_SEEDS seeds or more
    n_tuning_seeds: int
    top: Top | None
    n_seeds: int
    n_comparisons: int
    different_cells: float  # share of comparisons whose tunings choose two cells
    claimed: float  # share that claim a difference: false of the method
    interval: Interval


def is_enough(cells: Sequence[Cell]) -> bool:
    """Return whether enough cells have enough seeds, diverged cells left out."""
    return sum(cell.n >= MIN_SEEDS for cell in cells if not cell.n_diverged) >= MIN_CELLS


def calibrate(
    cells: Sequence[Cell], pool: Sequence[float], rng: np.random.Generator, *, n_tuning_seeds: int, top: Top | None,
    n_seeds: int, higher_is_better: bool, n_comparisons: int = N_COMPARISONS,
) -> MethodCalibration:  # fmt: skip
    """Return how often two tunings of one method would be told apart.

    A cell's true scores are taken to be its means over its seeds, which lie further apart than the truth: the share is
    rather too large. The luck of a seed in choosing is drawn from the deviations within the cells with MIN_SEEDS seeds
    (of those, the better half), scaled by sqrt(s / (s - 1)); that of a fresh run from `pool`, runs of one cell.

    Raises:
        ValueError: where too few cells have MIN_SEEDS seeds, or the pool fewer than two runs.
    """
    if not is_enough(cells) or len(pool) < 2:
        raise ValueError(f"{MIN_CELLS} cells with {MIN_SEEDS} seeds and 2 runs of a pool must be there")
    sign = 1.0 if higher_is_better else -1.0
    kept = [cell for cell in cells if not cell.n_diverged]
    select = [sign * np.array([_chosen_by(row) for row in cell.rows]) for cell in kept]
    means = np.array([values.mean() for values in select])
    metric = np.array([np.mean([row["metric_value"] for row in cell.rows if is_ok(row)]) for cell in kept])
    known = sorted((i for i, values in enumerate(select) if len(values) >= MIN_SEEDS), key=lambda i: -means[i])
    luck = np.concatenate(
        [
            (select[i] - means[i]) * np.sqrt(len(select[i]) / (len(select[i]) - 1))
            for i in known[: max(MIN_CELLS, (len(known) + 1) // 2)]
        ]
    )
    runs = np.asarray(pool, dtype=np.float64) - np.mean(pool)
    different = claimed = 0
    for _ in range(n_comparisons):
        first, second = (_tune(means, luck, n_tuning_seeds, top, rng) for _ in range(2))
        if first == second:
            continue
        different += 1
        fresh = runs[rng.integers(len(runs), size=(2, n_seeds))]
        claimed += rule.rejects(metric[first] + fresh[0] - metric[second] - fresh[1], rng)
    return MethodCalibration(
        n_cells=len(kept),
        n_known=len(known),
        n_tuning_seeds=n_tuning_seeds,
        top=top,
        n_seeds=n_seeds,
        n_comparisons=n_comparisons,
        different_cells=different / n_comparisons,
        claimed=claimed / n_comparisons,
        interval=stats.clopper_pearson(claimed, n_comparisons),
    )


def sentence(c: MethodCalibration | None) -> str:
    """Return it in a plain sentence; None: what is needed for it."""
    if c is None:
        return (
            f"A/A of methods: {MIN_CELLS} of LoRA's cells or more must have {MIN_SEEDS} seeds; sweep the study with "
            "SEEDS=0,1,2, or compare it, to have it."
        )
    again = "" if c.top is None else f", the best {c.top.n_cells} again with {len(c.top.seeds)} more"
    return (
        f"A/A of methods: LoRA tuned twice with disjoint seeds ({c.n_tuning_seeds} a cell{again}), simulated from its "
        f"{c.n_cells} cells, {c.n_known} of them with several seeds: {c.different_cells:.0%} of {c.n_comparisons:,} "
        f"pairs of tunings choose different cells, and {c.claimed:.1%} claim a difference with {c.n_seeds} fresh seeds "
        f"(95% interval {c.interval.low:.1%} to {c.interval.high:.1%}): how often a claim of cells, read as one of "
        "methods, would be false."
    )


def _chosen_by(row: Row) -> float:
    value = row["metric_value"] if row["select_metric"] is None else row["select_metric"]
    return float(value)


def _tune(means: Floats, luck: Floats, n: int, top: Top | None, rng: np.random.Generator) -> int:
    """Return the cell that one tuning chooses."""

    def seen(cells: Floats, seeds: int) -> Floats:
        return cells[:, None] + luck[rng.integers(len(luck), size=(len(cells), seeds))]

    first = seen(means, n)
    if top is None:
        return int(np.argmax(first.mean(axis=1)))
    best = np.argsort(-first.mean(axis=1))[: top.n_cells]
    every = np.concatenate([first[best], seen(means[best], len(top.seeds))], axis=1)
    return int(best[np.argmax(every.mean(axis=1))])
