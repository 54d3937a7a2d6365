"""bench export: all finished rows of a study in one small parquet file, to keep, share or redraw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands._options import Selection, study_command
from bench.errors import BadInput

TO_HELP = "the file to write [default: <results>/reference/<study>.parquet]"


@study_command
def command(selection: Selection, to: Annotated[Path | None, typer.Option("--to", help=TO_HELP)] = None) -> int:
    """Write the finished rows of a study into one parquet file."""
    from bench import store

    directory = selection.directory(selection.study())
    if not store.finished_ids(directory):
        raise BadInput(str(directory), "there must be finished trials", way_out="run make sweep first")
    target = to or selection.results_dir / "reference" / f"{directory.name}.parquet"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        n_rows = store.consolidate(directory, target)
    except OSError as error:
        raise BadInput("--to", "must be writable", got=error.strerror, way_out="name another file") from error
    print(f"{n_rows:,} rows in {target}")
    return 0
