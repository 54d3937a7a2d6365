"""The ledger as a page of the docs: docs/claims.md. No sentence on a claim that the rule did not make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from bench.claims.verdict import MIN_SEEDS, VERDICTS, Verdict, sentence

HEAD = f"""# Claims, each with a verdict

`make claims` works this page out of the stored rows; it trains nothing. Each claim is a file in `studies/claims/`. It
says what is measured, and which values confirm or refute the claim. For the studies whose names begin with `claims-`
this was written before they ran.

- **holds**: the whole 95 % interval lies where it confirms the claim.
- **does not hold**: the whole interval lies where it refutes the claim.
- **not told apart**: anything else. The sentence says how many would tell, were the estimate right.
- **too few seeds**: no verdict; fewer than {MIN_SEEDS} seeds are not enough for one.

A verdict is about the size at which it was checked. The models here are small: what a source found at its own size may
hold there. Where an arm is the best of several cells, each seed's score is that of the cell that the other seeds
choose, so that no cell is scored on the seed that chose it. The {{n}} verdicts are at 95 % each, not corrected for
being many.

{{counts}}
"""


def page(verdicts: Sequence[Verdict]) -> str:
    """Return docs/claims.md."""
    counts = Counter(one.answer for one in verdicts)
    told = ", ".join(f"{n} {answer}" for answer, n in sorted(counts.items(), key=lambda item: -item[1]))
    n = sum(one.answer in VERDICTS for one in verdicts)
    lines = [HEAD.format(n=n, counts=f"Of {len(verdicts)} checks: {told}.")]
    for document, some in groupby(verdicts, key=lambda one: one.claim.document):
        lines += [f"## {_cell(document[0].upper() + document[1:])}", ""]
        lines += ["| claim | made at | checked at | verdict |", "|---|---|---|---|"]
        lines += [*(f"| {' | '.join(map(_cell, _row(one)))} |" for one in some), ""]
    lines += ["## How each is measured", ""]
    for one in {verdict.claim.name: verdict.claim for verdict in verdicts}.values():
        paper = f" At the source's size: `make plan STUDY={one.paper_study}`." if one.paper_study else ""
        note = f" {one.note}" if one.note else ""
        lines.append(
            f"- `{one.name}`: {one.quantity}, confirmed by {one.confirmed}, refuted by {one.refuted}.{note}{paper}"
        )
    return "\n".join(lines) + "\n"


def _row(verdict: Verdict) -> tuple[str, ...]:
    claim, found = verdict.claim, verdict.estimate
    details = f" ({found.details})" if found is not None and found.details else ""
    rows = ", ".join(verdict.check.rows)
    answer, _, rest = sentence(verdict).partition(":")
    return (
        claim.statement,
        "; ".join(filter(None, (claim.made_at, claim.place))),
        f"{verdict.check.size}; rows: {rows}",
        f"**{answer}**:{rest}{details}",
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/").replace("<", "&lt;")
