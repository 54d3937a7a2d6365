"""Methods tuned alike and run again with fresh seeds: what `bench compare` does, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.api._read import as_table
from bench.api._run import shown
from bench.api._settings import on_study

if TYPE_CHECKING:
    import pandas as pd

    from bench.commands._options import Selection
    from bench.comparison.numbers import Comparison


@on_study
def compare(
    rows: pd.DataFrame | str | Path | Sequence[str | Path] | None = None,
    *,
    selection: Selection,
    fresh_seeds: int | None = None,
    top_cells: int | None = None,
    top_seeds: int | None = None,
    progress: bool = True,
    rerun_stale: bool = False,
) -> Comparison:
    """Tune every method alike, run the best cells with fresh seeds, and return the comparison; resumable.

    `bench.comparison.verdict.sentences(comparison)` is its verdict in words. The study is `study`, else the comparison
    study of the task, else the task's default study with grids of equal size. `comparison.json` is written beside it.

    Args:
        rows: stored rows of tuning and of fresh runs; with them nothing is trained.
        fresh_seeds: seeds for the chosen cells; default: 8, or what claims need.
        top_cells: cells of each method that are run again before one is chosen, 0 for none.
        top_seeds: further tuning seeds of those cells.
        progress: whether to print the price and show how far the sweeps are.
        rerun_stale: whether to repeat rows of other versions of the code.

    Raises:
        BadInput: for whatever the command refuses, and rows that lack what no comparison can do without.
        KeyboardInterrupt: where it was interrupted; everything finished is kept, the same call resumes.
        RuntimeError: where trials failed, so that nothing can be worked out.
    """
    from bench.commands import compare as comparing
    from bench.commands._stages import Unfinished
    from bench.sweep.events import EXIT_INTERRUPTED

    asked = {"fresh_seeds": fresh_seeds, "top_cells": top_cells, "top_seeds": top_seeds}
    with shown(progress):
        if rows is not None:
            return comparing.of_table(selection, as_table(rows, selection.results_dir), asked)[0]
        try:
            return comparing.trained(selection, asked, rerun_stale=rerun_stale)[0]
        except Unfinished as ended:
            if ended.code == EXIT_INTERRUPTED:
                raise KeyboardInterrupt("everything finished is kept; the same call resumes") from None
            raise RuntimeError("trials are left over, and nothing is worked out from a part; call again") from None
