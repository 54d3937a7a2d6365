"""When a difference is claimed: the one rule of `bench compare`, of its calibration and of its simulations. Pure.

1. The exact test rejects at 5 % after Holm over the family. Differences of scores (sign-flip test) are one family,
   speed-ups (sign test) another: two questions, both named before anything runs.
2. The winner has MIN_RUNS runs that had no part in choosing its cell. No test on 6 to 10 seeds sees a collapse that
   strikes one seed in five and stayed away; MIN_RUNS = 14 without one exclude that rate: 0.8^14 = 0.044.
3. The winner collapsed or diverged in no larger a share of its runs (tuning, fresh, further ones) than its rival.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.comparison.arms import is_ok
from bench.comparison.numbers import History, Runs, Withheld
from bench.core import stats

MIN_RUNS = 14
FAR = 5.0  # standard deviations below its cell's median at which a run has collapsed, whatever it predicts


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What may be said of an arm against the baseline: +1 it wins, -1 it loses, 0 nothing."""

    side: int
    p_holm: float
    withheld: Withheld = ""


def decide(
    p_values: Sequence[float], sides: Sequence[int], arms: Sequence[History], baseline: History
) -> tuple[Decision, ...]:
    """Return the decision on each arm of a family: its raw p, the sign of its difference, every run of its cell."""
    adjusted = stats.holm(p_values)
    return tuple(_decide(p, side, arm, baseline) for p, side, arm in zip(adjusted, sides, arms, strict=True))


def rejects(
    differences: npt.ArrayLike, rng: np.random.Generator, *, n_claims: int = 1, n_flips: int = stats.N_FLIPS
) -> bool:
    """Return whether the test of one difference rejects, at the strictest step of Holm over `n_claims`."""
    return n_claims * stats.sign_flip_p(differences, rng, n_flips=n_flips) <= stats.ALPHA


def collapsed(rows: Sequence[Mapping[str, Any]], *, higher_is_better: bool) -> list[bool]:
    """Return which runs of one cell collapsed: diverged, flagged by their row, or far from the others.

    Far: worse than the median of the scores by FAR standard deviations, the larger one of the seeds' (1.4826 times the
    median absolute deviation, which a few collapses do not move) and the evaluation examples' (metric_stderr).
    """
    sign = 1.0 if higher_is_better else -1.0
    scores = [sign * row["metric_value"] for row in rows if is_ok(row)]
    middle = median(scores) if scores else 0.0
    errors = [row["metric_stderr"] for row in rows if is_ok(row) and row["metric_stderr"] is not None]
    sd = max(1.4826 * median([abs(s - middle) for s in scores] or [0.0]), median(errors or [0.0]))
    return [
        not is_ok(row) or row["collapsed"] is True or (sd > 0 and middle - sign * row["metric_value"] > FAR * sd)
        for row in rows
    ]


def history(parts: Mapping[str, Sequence[Mapping[str, Any]]], *, higher_is_better: bool) -> History:
    """Return the runs of a cell; `parts`: its rows under tuning, fresh and pool."""
    flags = iter(collapsed([row for rows in parts.values() for row in rows], higher_is_better=higher_is_better))
    counts = {name: [next(flags) for _ in rows] for name, rows in parts.items()}
    return History(**{name: Runs(n=len(found), n_collapsed=sum(found)) for name, found in counts.items()})


def _decide(p_holm: float, side: int, arm: History, baseline: History) -> Decision:
    if p_holm > stats.ALPHA or side == 0:
        return Decision(side=0, p_holm=p_holm)
    withheld = _withheld(*((arm, baseline) if side > 0 else (baseline, arm)))
    return Decision(side=0 if withheld else side, p_holm=p_holm, withheld=withheld)


def _withheld(winner: History, rival: History) -> Withheld:
    own, other = winner.every, rival.every
    if own.n_collapsed * max(other.n, 1) > other.n_collapsed * own.n:
        return "collapses"
    return "runs" if winner.n_unseen < MIN_RUNS else ""
