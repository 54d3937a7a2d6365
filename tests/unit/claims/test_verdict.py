"""The rule of the ledger, worked by hand, and what it says in words."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.claims import claim as claims
from bench.claims.claim import Check, Claim, Region
from bench.claims.verdict import Estimate, Verdict, decide, sentence
from bench.core.errors import BadInput
from bench.core.stats import Interval
from bench.report.page import claims_section

CHECK = Check(size="tiny", rows=("study",))


def a_claim(confirmed: Region, refuted: Region | None = None) -> Claim:
    return Claim(
        name="one", statement="s", source="p", made_at="large", quantity="gain", confirmed=confirmed,
        refuted=refuted or confirmed.rest, checks=(CHECK,),
    )  # fmt: skip


def an_estimate(low: float, high: float, *, n: int = 8, over: str = "seeds") -> Estimate:
    return Estimate(value=(low + high) / 2, interval=Interval(low=low, high=high), n=n, unit="points", over=over)  # type: ignore[arg-type]


AT_LEAST_1, NEAR_0 = Region(low=1.0), Region(low=-1.0, high=1.0)


@pytest.mark.parametrize(
    ("confirmed", "low", "high", "answer"),
    [
        (AT_LEAST_1, 1.0, 2.0, "holds"),
        (AT_LEAST_1, 0.9, 2.0, "not told apart"),
        (AT_LEAST_1, -2.0, 0.99, "does not hold"),
        (AT_LEAST_1, -2.0, 1.0, "not told apart"),
        (NEAR_0, -1.0, 1.0, "holds"),
        (NEAR_0, -1.1, 1.0, "not told apart"),
        (NEAR_0, 1.1, 3.0, "does not hold"),
        (NEAR_0, -3.0, 3.0, "not told apart"),
        (Region(low=0.0, open_low=True), 0.0, 1.0, "not told apart"),
        (Region(high=0.5), 0.1, 0.5, "holds"),
    ],
)
def test_a_verdict_takes_the_whole_interval(confirmed: Region, low: float, high: float, answer: str) -> None:
    assert decide(a_claim(confirmed), CHECK, an_estimate(low, high)).answer == answer


def test_few_seeds_give_no_verdict_however_clear_they_are() -> None:
    found = decide(a_claim(AT_LEAST_1), CHECK, an_estimate(50.0, 60.0, n=5))
    assert (found.answer, found.n_needed) == ("too few seeds", 6)
    assert sentence(found).startswith("Too few seeds: ")
    assert sentence(found).endswith("; 6 are needed for a verdict.")
    assert decide(a_claim(AT_LEAST_1), CHECK, an_estimate(50.0, 60.0, n=5, over="rounds")).answer == "holds"


def test_the_n_that_would_tell_narrows_the_interval_to_the_border() -> None:
    """Half width 2 at n = 8, the estimate 1 inside of what refutes: 8 * (2 / 1)^2 = 32."""
    found = decide(a_claim(AT_LEAST_1), CHECK, an_estimate(-2.0, 2.0))
    assert found.n_needed == 32
    assert "about 32 seeds would tell" in sentence(found)
    for n, said in ((6_194, "about 6,200 seeds would tell"), (10**32, "more than 10,000 seeds would be needed")):
        assert said in sentence(replace(found, n_needed=n))
    on_the_border = decide(a_claim(AT_LEAST_1), CHECK, an_estimate(0.0, 2.0))
    assert on_the_border.n_needed is None


@pytest.mark.parametrize("region", [Region(low=1.0), Region(high=1.0, open_high=True), Region(low=0.0, high=2.0)])
def test_what_is_not_confirmed_is_refuted_and_nothing_is_both(region: Region) -> None:
    for value in np.linspace(-3, 3, 61):
        assert region.holds(value, value) != region.rest.holds(value, value)


def test_without_rows_there_is_no_verdict() -> None:
    found = Verdict(claim=a_claim(NEAR_0), check=CHECK, answer="no rows", estimate=None, reason="nothing in study")
    assert sentence(found) == "No rows: nothing in study."


GOOD = """
statement = "s"
source = "p"
made_at = "large"
quantity = "gain"
confirmed = ">= 1"
[[check]]
size = "tiny"
rows = ["study"]
first = { method = "lora" }
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('">= 1"', '"1 or more"', "confirmed: must be a region"),
        ('"gain"', '"luck"', "quantity: must be"),
        ('statement = "s"', "", "statement: must be a text"),
        ("[[check]]", "[check]", r"must have a \[\[check\]\]"),
        ('source = "p"', 'source = "p"\nfoo = 1', "must hold known keys only"),
        ('confirmed = ">= 1"', 'confirmed = ">= 1"\nrefuted = "<= 2"', "must not overlap"),
    ],
)
def test_a_claim_that_breaks_a_rule_is_refused_in_one_line(
    before: str, after: str, message: str, tmp_path: Path
) -> None:  # fmt: skip
    (tmp_path / "one.toml").write_text(GOOD)
    assert claims.load("one", tmp_path).refuted == Region(high=1.0, open_high=True)
    (tmp_path / "one.toml").write_text(GOOD.replace(before, after))
    with pytest.raises(BadInput, match=message) as refusal:
        claims.load("one", tmp_path)
    assert "\n" not in str(refusal.value)


def test_the_page_tells_an_interval_without_an_end_and_does_not_draw_it() -> None:
    """An arm that never reaches the target has a ratio from 0 to infinity, which no axis holds."""
    found = decide(a_claim(AT_LEAST_1), CHECK, replace(an_estimate(0.0, math.inf), value=0.0))
    told: Any = claims_section.view([found])
    assert "0 to inf" in told["claims"][0]["verdicts"][0]["sentence"]
    assert told["claims"][0]["forest"] is None


def test_a_value_beside_its_bound_is_not_shown_as_the_bound() -> None:
    claim, estimate = a_claim(Region(low=1.05, open_low=True)), an_estimate(1.0537, 1.0537, over="rounds")
    assert "1.054 points (95 % 1.054 to 1.054, n = 8 rounds)" in sentence(decide(claim, CHECK, estimate))
