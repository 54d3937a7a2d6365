"""bench studies: every study file, the figure it reproduces, its size and how much of it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    results_dir: Annotated[Path, typer.Option("--results-dir", help="where results lie")] = Path("results"),
    profile: Annotated[str, typer.Option("--profile", help="quick or full")] = "quick",
) -> int:
    """List the study files: cells x seeds, rows on disk, and the figure that each reproduces."""
    from bench import study
    from bench.commands import _text

    rows = []
    for name in study.names():
        loaded = study.load(name, profile=profile)
        planned = study.expand(loaded, data_hash="", model_hash="", default_targets=())
        rows.append(
            (name, loaded.task, loaded.model, str(len(planned)), str(n_rows(results_dir / loaded.name)), loaded.figure)
        )
    print(_text.table(("study", "task", "model", "trials", "rows", "reproduces"), rows))
    return 0


def n_rows(directory: Path) -> int:
    """Return how many rows the parquet parts of a study hold, from their footers only; unreadable parts count 0."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = 0
    for part in directory.glob("trials/*.parquet"):
        try:
            total += pq.read_metadata(part).num_rows
        except (OSError, pa.ArrowInvalid):
            continue
    return total
