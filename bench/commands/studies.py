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
    from bench import store, study
    from bench.commands import _text

    rows = []
    for name in study.names():
        loaded = study.load(name, profile=profile)
        planned = study.expand(loaded, data_hash="", model_hash="", default_targets=())
        rows.append(
            (
                name,
                loaded.task,
                loaded.model,
                str(len(planned)),
                str(len(store.finished_ids(results_dir / loaded.name))),
                loaded.figure,
            )
        )
    print(_text.table(("study", "task", "model", "trials", "rows", "reproduces"), rows))
    return 0
