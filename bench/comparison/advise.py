"""A first learning rate for a method from stored studies, and what going by it would have cost in each of them. Pure.

The rule: the median, on the log scale, of the best rates of the studies that are most alike. Alike are those of the
same task and model, else of the same model, else of the same task, else all; among them those of the same rank, if any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from bench import methods
from bench.core import cells, metrics
from bench.core.cells import Score
from bench.core.rules import round_rate
from bench.core.spec import SERIES
from bench.study import varying

MIN_RATES = 3  # of eta_A in a grid, for its best one to say something
STEP = 4.0  # between the rates of the narrow grid
COLUMNS = tuple(dict.fromkeys(
    ("study", *varying.SETTINGS, "lr_ratio", "seed", "metric_name", *cells.SCORE_COLUMNS)
))  # fmt: skip
_UNIT = ("study", "task", "model", *SERIES, "rank")  # of a row
_FIELDS = ("study", "task", "model", "method", "kind", "rank")  # of Known
Row = Mapping[str, Any]
Rates = tuple[float, float | None]  # eta_A, lambda


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """One grid of a study: a method, its type and rank, and the mean objective at each pair of rates."""

    study: str
    task: str
    model: str
    method: str
    kind: int | None
    rank: int | None
    higher_is_better: bool
    values: Mapping[Rates, float]

    @property
    def best(self) -> Rates:
        """The rates of the best cell; of equals the first in order of rates."""
        sign = 1 if self.higher_is_better else -1
        return max(sorted(self.values, key=_order), key=lambda rates: sign * self.values[rates])

    def regret(self, chosen: Iterable[Rates]) -> float:
        """Return how much worse the best of these cells is than the best of all."""
        sign = 1 if self.higher_is_better else -1
        return sign * self.values[self.best] - max(sign * self.values[rates] for rates in chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """First rates for a method: where they come from, and how far those sources are apart."""

    eta_A: float
    lr_ratio: float | None
    sources: tuple[str, ...]  # studies
    alike: str  # in what
    spread: float  # the largest of their best eta_A over the smallest

    def grid(self) -> dict[str, tuple[float, ...]]:
        """Return the narrow grid: a step down and up on each axis."""
        axes = {"eta_A": self.eta_A, "lr_ratio": self.lr_ratio}
        return {
            name: tuple(round_rate(float(f"{value * STEP**i:.3g}")) for i in (-1, 0, 1))
            for name, value in axes.items()
            if value is not None
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """What the advice of all other studies costs in one: at the cell next to it, and with the narrow grid."""

    known: Known
    advice: Advice
    at_once: float
    in_grid: float


def known_of(rows: Iterable[Row]) -> tuple[Known, ...]:
    """Return the grids among finished rows whose best rate says something."""
    found: dict[tuple[Any, ...], dict[Rates, list[Row]]] = {}
    for row in rows:
        rates = (row["eta_A"], row["lr_ratio"])
        found.setdefault(tuple(row[name] for name in _UNIT), {}).setdefault(rates, []).append(row)
    made = []
    for key, by_rates in found.items():
        if len({eta_A for eta_A, _ in by_rates}) < MIN_RATES:
            continue
        higher = metrics.higher_is_better(str(next(iter(by_rates.values()))[0]["metric_name"]))
        values = {
            rates: fmean(cells.objective(Score.of_row(row), higher_is_better=higher) for row in members)
            for rates, members in by_rates.items()
        }
        made.append(Known(**dict(zip(_FIELDS, key, strict=True)), higher_is_better=higher, values=values))
    return tuple(made)


def advise(
    known: Sequence[Known], *, task: str, model: str, method: str, kind: int | None, rank: int | None
) -> Advice | None:
    """Return first rates for a method, None where no stored study has it."""
    same = [one for one in known if (one.method, one.kind) == (method, kind)]
    tiers = (
        ("task and model", [one for one in same if (one.task, one.model) == (task, model)]),
        ("model", [one for one in same if one.model == model]),
        ("task", [one for one in same if one.task == task]),
        ("the method alone", same),
    )
    alike, chosen = next(((name, members) for name, members in tiers if members), ("", []))
    if not chosen:
        return None
    of_rank = [one for one in chosen if one.rank == rank]
    if of_rank and rank is not None:
        alike, chosen = f"{alike}, rank {rank}", of_rank
    rates = [one.best for one in chosen]
    ratios = [ratio for _, ratio in rates if ratio is not None]
    return Advice(
        eta_A=_middle([eta_A for eta_A, _ in rates]),
        lr_ratio=_middle(ratios) if ratios and method != methods.BASELINE else None,
        sources=tuple(dict.fromkeys(one.study for one in chosen)),
        alike=alike,
        spread=max(eta_A for eta_A, _ in rates) / min(eta_A for eta_A, _ in rates),
    )


def leave_one_out(known: Sequence[Known]) -> tuple[LeftOut, ...]:
    """Return, for each grid, what the advice of the other studies costs in it; none where they know nothing."""
    found = []
    for one in known:
        others = [other for other in known if other.study != one.study]
        advice = advise(others, task=one.task, model=one.model, method=one.method, kind=one.kind, rank=one.rank)
        if advice is None:
            continue
        wish = (advice.eta_A, advice.lr_ratio)
        nearest = min(one.values, key=lambda rates: _far(rates, wish))
        near = [rates for rates in one.values if _is_near(rates, wish)] or [nearest]
        found.append(LeftOut(known=one, advice=advice, at_once=one.regret([nearest]), in_grid=one.regret(near)))
    return tuple(found)


def _middle(values: Sequence[float]) -> float:
    return round_rate(float(f"{math.exp(median(math.log(value) for value in values)):.3g}"))


def _far(a: Rates, b: Rates) -> float:
    ratio = 0.0 if a[1] is None or b[1] is None else math.log(a[1] / b[1])
    return math.hypot(math.log(a[0] / b[0]), ratio)


def _is_near(a: Rates, b: Rates) -> bool:
    """Return whether a cell lies within the narrow grid around the rates `b`."""
    bound = math.log(STEP * 1.01)
    ratio = 0.0 if a[1] is None or b[1] is None else abs(math.log(a[1] / b[1]))
    return abs(math.log(a[0] / b[0])) <= bound and ratio <= bound


def _order(rates: Rates) -> tuple[float, float]:
    return (rates[0], rates[1] or 0.0)
