"""Which of a method's cells is the best: the one rule that sweeps, comparisons and figures share. Pure.

By the mean objective over seeds, a diverged seed as the worst value. Of equals, the cell whose neighbours on the grid
are best: a tie is broken by what the cells around say, not by the size of the rate.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from statistics import fmean

from bench.core.spec import Trial

DIGITS = 10  # to which two means are equal
AXES = ("seed", "eta_A", "eta_B", "method")  # what neighbours may differ in: LoRA at lr_ratio 1 lies in LoRA+'s grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A cell with its mean objective. `others`: its settings beside the two rates; neighbours share them."""

    objective: float
    eta_A: float
    lr_ratio: float | None
    others: Hashable = ()
    all_diverged: bool = False

    @classmethod
    def of(cls, trial: Trial, objective: float, *, all_diverged: bool = False) -> Point:
        """Return the point of a trial's cell."""
        others = tuple(getattr(trial, f.name) for f in fields(trial) if f.name not in AXES)
        ratio = trial.lr_ratio
        return cls(objective=objective, eta_A=trial.eta_A, lr_ratio=ratio, others=others, all_diverged=all_diverged)


def best(points: Sequence[Point], *, higher_is_better: bool) -> int:
    """Return the place of the best of [N] points, N >= 1: the first of `order`."""
    return order(points, higher_is_better=higher_is_better)[0]


def order(points: Sequence[Point], *, higher_is_better: bool) -> list[int]:
    """Return the places of [N] points, best first.

    Cells all of whose seeds diverged come last. Ties are broken by the mean objective of the neighbours (see
    `neighbours`), then by the distance on the log axis to the middle of those still tied, then by the order given.
    """
    sign = 1.0 if higher_is_better else -1.0
    beside = neighbours(points)
    keys = [
        (not point.all_diverged, _rounded(sign * point.objective), _rounded(_mean(sign, points, beside[i])))
        for i, point in enumerate(points)
    ]
    tied: dict[tuple[bool, float, float], list[float]] = {}
    for key, point in zip(keys, points, strict=True):
        tied.setdefault(key, []).append(math.log(point.eta_A))

    def goodness(i: int) -> tuple[bool, float, float, float, int]:
        return (*keys[i], -_rounded(abs(math.log(points[i].eta_A) - fmean(tied[keys[i]]))), -i)

    return sorted(range(len(points)), key=goodness, reverse=True)


def neighbours(points: Sequence[Point]) -> list[list[int]]:
    """Return, for each point, the places of those beside it, along eta_A at its lr_ratio and the reverse."""
    lines: dict[Hashable, list[tuple[float, int]]] = {}
    for i, p in enumerate(points):
        lines.setdefault(("eta_A", p.lr_ratio, p.others), []).append((p.eta_A, i))
        if p.lr_ratio is not None:
            lines.setdefault(("lr_ratio", p.eta_A, p.others), []).append((p.lr_ratio, i))
    found: list[list[int]] = [[] for _ in points]
    for line in lines.values():
        line.sort()
        for (low, i), (high, j) in pairwise(line):
            if low < high:
                found[i].append(j)
                found[j].append(i)
    return found


def _mean(sign: float, points: Sequence[Point], places: Sequence[int]) -> float:
    return fmean(sign * points[i].objective for i in places) if places else -math.inf


def _rounded(value: float) -> float:
    """Return a number in DIGITS digits: means of the same scores in another order differ in the last ones."""
    return float(f"{value:.{DIGITS}g}")
