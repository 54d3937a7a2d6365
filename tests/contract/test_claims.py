"""Every claim in studies/claims/: it can be read, names studies that are there, and is on the page as its rows say."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from bench import study
from bench.claims import claim as claims
from bench.claims import ledger, page, quantities
from bench.core import registry
from bench.study import files

ROOT = Path(__file__).parents[2]
NAMES = claims.names()
OTHER_ROWS = {"theory:widths"}
verdicts = cache(ledger.verdicts)


def test_there_are_claims_of_every_source() -> None:
    sources = " ".join(claims.load(name).source for name in NAMES)
    for arxiv in ("2402.12354", "2106.09685", "2405.12130", "2406.08447"):
        assert arxiv in sources


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_names_studies_that_are_there(name: str) -> None:
    found = claims.load(name)
    for check in found.checks:
        for rows in check.rows:
            studied = rows.partition(":")[0].removesuffix("-fresh")
            kept = ROOT / "results" / "reference" / f"{rows}.parquet"
            assert rows in OTHER_ROWS or studied in files.names() or kept.is_file()
    if found.paper_study is not None:
        assert study.load(found.paper_study, profile="full")


def test_every_quantity_has_a_claim_or_a_test_of_its_own() -> None:
    tested = (ROOT / "tests" / "unit" / "claims" / "test_quantities.py").read_text("utf-8")
    for name in registry.names(quantities):
        assert f'"{name}"' in tested


def test_the_page_is_what_the_kept_rows_say() -> None:
    """`make claims` on a fresh clone writes the same page: no verdict is typed in."""
    text = (ROOT / "docs" / "claims.md").read_text("utf-8")
    assert text == page.page(verdicts(ROOT / "results"))


def test_no_verdict_rests_on_few_seeds_or_has_no_interval() -> None:
    for one in verdicts(ROOT / "results"):
        if one.answer in ("holds", "does not hold"):
            assert one.estimate is not None
            assert one.estimate.interval is not None
            assert one.estimate.over != "seeds" or one.estimate.n >= 6
