"""A tuned comparison as data: what bench/comparison/compare.py works out and results/<study>/comparison.json holds.

In the JSON null stands for what is missing and the text "inf" for an infinite number: steps to a target that is never
reached, a ratio with such steps, the end of its interval. JSON itself has no infinity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.comparison.landscape import Width
from bench.core.stats import Interval

COMPARISON_VERSION = 2  # raised when a field changes its meaning or name


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """A point of a tuning curve: the best of n cells that are drawn from the grid without replacement."""

    n_cells: int
    train_seconds: float | None  # expected seconds of training them, as attributed in their packs
    select: float  # expected score on the held-out part of train of the best of them
    metric: float  # expected score on the evaluation split of that same cell


@dataclass(frozen=True, kw_only=True, slots=True)
class Top:
    """The second stage of tuning: the best cells of every arm, run with further tuning seeds before one is chosen."""

    n_cells: int  # of each arm
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """How many runs of a cell there are, and how many of them collapsed or diverged (see rule.collapsed)."""

    n: int
    n_collapsed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Every run of an arm's chosen cell."""

    tuning: Runs
    fresh: Runs
    pool: Runs  # further seeds, run to see whether it collapses

    @property
    def every(self) -> Runs:
        """All of them."""
        parts = (self.tuning, self.fresh, self.pool)
        return Runs(n=sum(p.n for p in parts), n_collapsed=sum(p.n_collapsed for p in parts))

    @property
    def n_unseen(self) -> int:
        """Runs that had no part in choosing the cell: those of tuning are the ones that went well."""
        return self.fresh.n + self.pool.n


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What tuning an arm gave."""

    n_cells: int  # that tuning tried
    n_seeds: int  # of the chosen cell
    n_diverged_cells: int  # with a diverged seed
    chosen_by: str
    select: float | None  # of the chosen cell: mean over the tuning seeds
    metric: float | None
    on_border: tuple[str, ...]
    # In eta_A through the chosen cell, all else fixed, by the objective; None: one eta_A only, or cells were stopped.
    width: Width | None
    curve: tuple[CurvePoint, ...]  # none where cells were stopped: what fewer cells would have given is not known
    n_stopped: int = 0  # of the cells, left out at a rung


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """When the fresh runs of an arm first reach the target; a run that does not (or diverges) counts as infinite."""

    steps: tuple[float, ...]  # by seed
    n_missed: int
    median_steps: float
    seconds_per_step: float | None  # isolated; None: not measured
    median_seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """The fresh runs on the task's test split, which nothing was chosen by; no difference is claimed from it."""

    scores: tuple[float | None, ...]  # test_metric by fresh seed; None: diverged, or not scored on this split
    n: int
    n_test: int
    mean: float
    stderr_seeds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmResult:
    """One arm: its chosen cell, scored by fresh runs."""

    name: str
    settings: Mapping[str, Any]
    scores: tuple[float | None, ...]  # metric_value by fresh seed; None: diverged
    n: int  # that did not diverge
    n_diverged: int
    history: History
    mean: float | None
    stderr_seeds: float | None
    stderr_examples: (
        float | None
    )  # mean over seeds of metric_stderr: what another draw of the evaluation split would do
    tuning: Tuning
    reach: Reach
    tested: Tested | None = None  # None: the task has no test split


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Would the difference hold for other evaluation examples? By example, in how many more seeds the arm is right.

    With one pair of runs this is McNemar's exact test (1947).
    """

    n: int
    arm_only: int  # examples that the arm gets right in more seeds than the baseline
    baseline_only: int
    mean: float  # difference of the shares that are right, over seeds and examples
    stderr: float | None  # of `mean`, over the examples
    p: float  # exact sign-flip test over the examples, two-sided; its direction is the sign of `mean`


Withheld = Literal["", "collapses", "runs"]  # why a rejected test is no claim: see bench/comparison/rule.py


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """An arm's score minus the baseline's, paired by seed."""

    arm: str
    same_cell: bool  # tuning chose one and the same cell for both
    values: tuple[float | None, ...]  # by fresh seed; None where either diverged
    n: int
    n_left_out: int
    n_zeros: int
    mean: float | None
    interval: Interval | None  # inverts the sign-flip test, before Holm; None: fewer than 6 pairs
    outperforms: float | None  # share of all paired seeds in which the arm is the better one; None: the same cell
    p: float  # exact sign-flip; 1 where there is no pair
    p_holm: float
    attainable_p: float  # the smallest p_holm that n pairs, n_zeros of them 0, could have given, at worst
    claim: Literal["better", "worse", "none"]
    withheld: Withheld
    detectable: float | None  # a true gap of this size would have been claimed with a power of 80 %, Holm included
    examples: Examples | None
    examples_by_seed: tuple[Examples | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedUp:
    """median(baseline) / median(arm) to the target; above 1 the arm is faster. value None: neither reaches it.

    The intervals tell its size; what is claimed rests on the sign test alone.
    """

    arm: str
    n: int
    n_faster: int  # seeds in which the arm took fewer steps
    n_ties: int  # seeds in which both take as many steps, or both never reach it
    steps: float | None
    steps_interval: Interval
    seconds: float | None  # None: no isolated seconds per step, or `steps` is None
    seconds_interval: Interval | None
    p: float  # exact paired sign test of the steps
    p_holm: float  # over the speed-ups, a family of its own
    attainable_p: float
    claim: Literal["faster", "slower", "none"]
    withheld: Withheld


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The score to reach: tuned LoRA's mean over the tuning seeds at the last step, fixed before any fresh run."""

    value: float
    n_seeds: int
    eval_steps: int  # the grid on which reaching it is looked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a comparison is about; the caller knows it."""

    study: str
    task: str
    model: str
    metric: str
    higher_is_better: bool
    tuning_seeds: tuple[int, ...]
    fresh_seeds: tuple[int, ...]
    seconds_per_step: Mapping[str, float] | None  # by arm, isolated; None: not measured
    top: Top | None = None
    varying: tuple[str, ...] = ()  # settings that were swept beside method and rates


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The whole comparison."""

    version: int
    setup: Setup
    baseline: str
    family: tuple[str, ...]
    alpha: float
    level: float
    n_eval: int | None
    devices: tuple[str, ...]
    source_hashes: tuple[str, ...]
    git_commits: tuple[str, ...]
    arms: tuple[ArmResult, ...]
    differences: tuple[Difference, ...]
    target: Target | None
    speed_ups: tuple[SpeedUp, ...]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain JSON values, infinity as "inf"."""
    plain: dict[str, Any] = _plain(asdict(comparison))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return "inf" if isinstance(value, float) and math.isinf(value) else value
