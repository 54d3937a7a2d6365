"""Claims with their verdicts: what a page of their own, and the page of a study that they rest on, show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.claims.verdict import Estimate, Verdict, sentence
from bench.report.page import svg


def view(verdicts: Sequence[Verdict]) -> dict[str, object] | None:
    """Return what the section shows; None without a verdict."""
    if not verdicts:
        return None
    by_claim: dict[str, list[Verdict]] = {}
    for one in verdicts:
        by_claim.setdefault(one.claim.name, []).append(one)
    return {"claims": [_claim(group) for group in by_claim.values()]}


def _claim(group: Sequence[Verdict]) -> dict[str, object]:
    claim = group[0].claim
    return {
        "statement": claim.statement,
        "source": f"{claim.source}; {claim.made_at}",
        "verdicts": [{"size": one.check.size, "answer": one.answer, "sentence": sentence(one)} for one in group],
        "forest": _forest(group),
    }


def _forest(group: Sequence[Verdict]) -> svg.Forest | None:
    """Return the estimates with their intervals beside the border of what confirms the claim.

    One that has no end (an arm that never arrives) stands in the text alone.
    """
    claim = group[0].claim
    rows = [
        (one.answer, one.estimate.value, one.estimate.interval.low, one.estimate.interval.high,
         f"{one.check.size}: {sentence(one)}")
        for one in group
        if one.estimate is not None and one.estimate.interval is not None and _drawable(one.estimate)
    ]  # fmt: skip
    if not rows:
        return None
    unit = next(one.estimate.unit for one in group if one.estimate is not None)
    border = next(end for end in (claim.confirmed.low, claim.confirmed.high) if abs(end) != float("inf"))
    label = f"{unit}; confirmed by {claim.confirmed}"
    return svg.forest(rows, x_label=label, title=claim.statement, line=border)


def _drawable(estimate: Estimate) -> bool:
    found = estimate.interval
    return found is not None and all(map(math.isfinite, (estimate.value, found.low, found.high)))
