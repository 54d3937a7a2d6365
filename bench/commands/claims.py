"""bench claims: the claims of the papers, each with the verdict that the stored rows give; trains nothing."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from bench.core.errors import BadInput

DOCS = Path(__file__).parents[2] / "docs"
REPORT = "claims/report.html"


def command(
    results_dir: Annotated[Path, typer.Option("--results-dir", help="where rows lie and the page goes")] = Path(
        "results"
    ),
    only: Annotated[str | None, typer.Option("--only", help="claims by name, commas between [default: all]")] = None,
) -> int:
    """Print a verdict for each claim in studies/claims, and write docs/claims.md and a page with a figure of each."""
    from bench.claims import claim, ledger, page
    from bench.claims.verdict import sentence
    from bench.core import rules
    from bench.core.cache import write_atomic
    from bench.report.page import document

    names = None if only is None else tuple(name.strip() for name in only.split(","))
    for name in names or ():
        rules.choice(*claim.names())(name, "--only")
    found = ledger.verdicts(results_dir, names)
    for source, of_source in groupby(found, key=lambda one: one.claim.document):
        print(source)
        for statement, some in groupby(of_source, key=lambda one: one.claim.statement):
            print(f"\n  {statement}")
            for one in some:
                print(f"    {one.check.size}\n      {sentence(one)}")
        print()
    if names is None and DOCS.is_dir():
        (DOCS / "claims.md").write_text(page.page(found), encoding="utf-8")
        print(DOCS / "claims.md")
    target, text = results_dir / REPORT, document.claims_page(found)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, lambda stream: stream.write(text.encode()) and None)  # type: ignore[arg-type]
        target.chmod(0o644)
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(target), "must be writable", got=error.strerror, way_out=way_out) from error
    print(target)
    return 0
