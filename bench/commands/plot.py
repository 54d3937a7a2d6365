"""bench plot: draws a study's figures from the rows on disk into results/<study>/figures; trains nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands._options import Selection, study_command
from bench.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.commands._resolve import Resolved


@study_command
def command(selection: Selection) -> int:
    """Draw the figures of a study from its finished trials: PNG and PDF."""
    from bench import store
    from bench.commands import _resolve

    resolved = _resolve.resolve(selection.study())
    directory = selection.directory(resolved.study)
    # A figure study may draw another study's rows, so that no trial runs twice.
    rows_from = resolved.study.rows_from
    table = store.load(directory if rows_from is None else selection.results_dir / rows_from)
    row_ids = table.column("trial_id").to_pylist()
    n_rows = len(row_ids) if resolved.is_search else sum(trial_id in resolved.ids for trial_id in row_ids)
    if n_rows == 0:
        way_out = f"run make sweep with the same options first, or plot another study than {resolved.study.name}"
        raise BadInput(str(directory), "there must be finished trials of the study", way_out=way_out)
    missing = len(resolved.ids) - n_rows
    if missing and not resolved.is_search:
        print(f"{missing} of {len(resolved.ids)} trials are not finished: their cells are drawn as missing")
    for path in draw(resolved, table, directory / "figures"):
        print(path)
    return 0


def draw(resolved: Resolved, table: pa.Table, figures_dir: Path) -> Iterator[Path]:
    """Draw every figure that the rows give, one after another; yield the PNG of each, whose PDF lies beside it."""
    import matplotlib as mpl

    mpl.use("agg")  # before pyplot: no window, no display needed
    from matplotlib import pyplot as plt

    from plots import figures, style
    from plots.tidy import StudyInfo

    better = resolved.task.higher_is_better
    if resolved.is_search:
        info = StudyInfo(name=resolved.study.name, higher_is_better=better)
    else:
        info = StudyInfo.of(resolved.study, resolved.trials, higher_is_better=better)
    try:
        figures_dir.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.all_figures(table.to_pandas(), info).items():
            png, _ = style.save(figure, figures_dir, name)
            plt.close(figure)
            yield png
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(figures_dir), "must be writable", got=error.strerror, way_out=way_out) from error
