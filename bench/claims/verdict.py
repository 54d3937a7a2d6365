"""The rule: an estimate with its interval -> holds, does not hold, or not told apart at this n. Pure.

A claim holds where the whole 95 % interval lies in the region that confirms it, and does not hold where the whole
interval lies in the region that refutes it. Anything else is not told apart. Where seeds matter, fewer than MIN_SEEDS
of them give no verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from bench.claims.claim import Check, Claim
from bench.core.stats import Interval

Answer = Literal["holds", "does not hold", "not told apart", "too few seeds", "no rows"]
VERDICTS: tuple[Answer, ...] = ("holds", "does not hold", "not told apart")  # the others say why there is none
MIN_SEEDS = 6
MOST_TOLD = 10_000  # with the estimate on the bound itself, the arithmetic gives any number


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a quantity gives: its value, a 95 % interval, and over how many seeds or rounds.

    `interval` None: n is too small for one. A number that is counted, not measured, has an interval of no width.
    """

    value: float
    interval: Interval | None
    n: int
    unit: str
    over: Literal["seeds", "rounds", "nothing"]  # what n counts; nothing: it is counted
    details: str = ""  # which cells, in words


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the rule says of a claim at one size."""

    claim: Claim
    check: Check
    answer: Answer
    estimate: Estimate | None
    n_needed: int | None = None  # with which the rule would decide, were the estimate right; None: none, or decided
    reason: str = ""  # why there is no estimate


def decide(claim: Claim, check: Check, estimate: Estimate) -> Verdict:
    """Return the verdict of the rule."""
    found = estimate.interval
    answer: Answer = "not told apart"
    if estimate.over == "seeds" and estimate.n < MIN_SEEDS:
        return Verdict(claim=claim, check=check, answer="too few seeds", estimate=estimate, n_needed=MIN_SEEDS)
    if found is not None:
        if claim.confirmed.holds(found.low, found.high):
            answer = "holds"
        elif claim.refuted.holds(found.low, found.high):
            answer = "does not hold"
    needed = _needed(claim, estimate) if answer == "not told apart" else None
    return Verdict(claim=claim, check=check, answer=answer, estimate=estimate, n_needed=needed)


def _needed(claim: Claim, estimate: Estimate) -> int | None:
    """Return how many seeds make the interval narrow enough: its half width falls as 1 / sqrt(n)."""
    if estimate.interval is None:
        return None
    room = max(region.room(estimate.value) for region in (claim.confirmed, claim.refuted))
    half = max(estimate.interval.high - estimate.value, estimate.value - estimate.interval.low)
    if room <= 0 or not math.isfinite(half):
        return None
    return max(MIN_SEEDS, estimate.n + 1, math.ceil(estimate.n * (half / room) ** 2))


def sentence(verdict: Verdict) -> str:
    """Return the verdict as the table and the page say it."""
    estimate, claim = verdict.estimate, verdict.claim
    if estimate is None:
        return f"No rows: {verdict.reason}."
    n = "" if estimate.over == "nothing" else f", n = {estimate.n} {estimate.over}"
    digits = _digits(estimate, claim)
    told = f"{estimate.value:.{digits}g} {estimate.unit}".rstrip() + f" ({_ends(estimate, digits)}{n})"
    rule = f"confirmed by {claim.confirmed}, refuted by {claim.refuted}"
    if verdict.answer == "too few seeds":
        return f"Too few seeds: {told}; {MIN_SEEDS} are needed for a verdict."
    if verdict.answer != "not told apart":
        return f"{verdict.answer.capitalize()}: {told}; {rule}."
    return f"Not told apart: {told}; {rule}; {_would_tell(verdict.n_needed, estimate.over)}."


def _would_tell(n: int | None, over: str) -> str:
    """Say how many would tell, in two digits: half a width and an estimate know no more of it."""
    if n is None:
        return "no n would tell it here"
    if n > MOST_TOLD:
        return f"more than {MOST_TOLD:,} {over} would be needed"
    return f"about {round(n, 2 - len(str(n))):,} {over} would tell"


def _digits(estimate: Estimate, claim: Claim) -> int:
    """Return 3, or 4 where 3 would show a value as the bound that it lies above or below of."""
    bounds = {f"{end:.3g}" for region in (claim.confirmed, claim.refuted) for end in (region.low, region.high)}
    ends = [] if estimate.interval is None else [estimate.interval.low, estimate.interval.high]
    return 4 if bounds & {f"{value:.3g}" for value in (estimate.value, *ends)} else 3


def _ends(estimate: Estimate, digits: int) -> str:
    if estimate.over == "nothing":
        return "counted"
    if estimate.interval is None:
        return "no interval"
    return f"95 % {estimate.interval.low:.{digits}g} to {estimate.interval.high:.{digits}g}"
