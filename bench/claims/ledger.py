"""All claims with their verdicts, from the rows that are here: a study's own directory and results/reference."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench import store
from bench.claims import claim as claims
from bench.claims import quantities
from bench.claims.arms import NoRows
from bench.claims.claim import Check, Claim
from bench.claims.verdict import Verdict, decide

REFERENCE = "reference"  # below the results directory: rows that are kept
MEASURED = "measured"  # below that: what is no row of a trial


def verdicts(results_dir: Path, names: tuple[str, ...] | None = None) -> tuple[Verdict, ...]:
    """Return the verdict of every claim at every size, by document and name.

    Raises:
        BadInput: for a claim file that breaks a rule.
    """
    found = (claims.load(name) for name in (claims.names() if names is None else names))
    return tuple(
        verdict(one, check, results_dir)
        for one in sorted(found, key=lambda claim: (claim.document, claim.name))
        for check in one.checks
    )


def of_study(study: str, results_dir: Path) -> tuple[Verdict, ...]:
    """Return the verdicts that rest on a study's rows, or on those of its comparison's fresh runs or its speed."""
    found = (claims.load(name) for name in claims.names())
    mine = [(one, check) for one in found for check in one.checks if study in map(_study, check.rows)]
    return tuple(verdict(one, check, results_dir) for one, check in mine)


def _study(name: str) -> str:
    return name.partition(":")[0].removesuffix("-fresh")


def verdict(claim: Claim, check: Check, results_dir: Path) -> Verdict:
    """Return the verdict of one claim at one size."""
    try:
        rows = rows_of(check, results_dir)
        return decide(claim, check, quantities.get(claim.quantity)(check, rows))
    except NoRows as error:
        return Verdict(claim=claim, check=check, answer="no rows", estimate=None, reason=str(error))


def rows_of(check: Check, results_dir: Path) -> pd.DataFrame:
    """Return the rows of a check: of each study its directory's and those in results/reference, each trial once.

    `study:speed` is what `bench speed` wrote of a study, `theory:widths` what `bench theory` did.

    Raises:
        NoRows: where there are none.
    """
    tables = [table for name in check.rows for table in _tables(name, results_dir)]
    if not tables:
        raise NoRows(f"nothing in {', '.join(check.rows)}")
    rows: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
    return rows.drop_duplicates("trial_id") if "trial_id" in rows else rows


def _tables(name: str, results_dir: Path) -> list[pa.Table]:
    study, _, kind = name.partition(":")
    if kind:
        files = [
            results_dir / study / f"{kind}.parquet",
            results_dir / REFERENCE / MEASURED / f"{study}-{kind}.parquet",
        ]
        return [pq.read_table(path) for path in files if path.is_file()][:1]
    own, rows = store.load(results_dir / study), results_dir / REFERENCE / f"{study}.parquet"
    return [*([own] if own.num_rows else []), *([store.load_files([rows])] if rows.is_file() else [])]
