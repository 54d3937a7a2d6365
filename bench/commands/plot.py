"""bench plot: draws a study's figures from the rows on disk into results/<study>/figures; trains nothing."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bench.commands._options import Selection, study_command
from bench.commands._stored import RowsOption
from bench.core import rules
from bench.core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.commands._resolve import Readable


FORM_HELP = "full; column: 240 pt wide, for a column of a paper; paper, paper-column: the LoRA+ paper's figures"


@study_command
def command(
    selection: Selection,
    rows: RowsOption = None,
    form: Annotated[str, typer.Option("--form", help=FORM_HELP)] = "full",
) -> int:
    """Draw the figures of a study from its finished trials: PNG and PDF."""
    rules.choice("full", "paper", "column", "paper-column")(form, "--form")
    paths = _of_files(rows, selection, form) if rows else _of_study(selection, form)
    for path in paths:
        print(path)
    return 0


def _of_study(selection: Selection, form: str) -> Iterator[Path]:
    from bench import store
    from bench.commands import _last, _resolve

    selection = _last.as_swept(selection)
    resolved = _resolve.resolve(selection.study())
    directory = selection.directory(resolved.study)
    # A figure study may draw another study's rows, so that no trial runs twice.
    rows_from = resolved.study.rows_from
    table = store.load(directory if rows_from is None else selection.results_dir / rows_from)
    resolved, table, told = resolved.reading(table)
    for line in told:
        print(f"warning: {line}")
    if not _finished(resolved, table):
        other = f"or plot another study than {resolved.study.name}"
        raise _last.none_found(directory, table, resolved.trials, otherwise=other)
    _say_missing(resolved, table, _stopped(directory))
    return draw(resolved, table, directory / "figures", form=form)


def _finished(resolved: Readable, table: pa.Table) -> int:
    """Return how many of the rows are the study's own."""
    return (
        table.num_rows if resolved.is_search else len(resolved.ids.intersection(table.column("trial_id").to_pylist()))
    )


def _say_missing(resolved: Readable, table: pa.Table, stopped: Collection[str] = ()) -> None:
    missing = len(resolved.ids) - _finished(resolved, table)
    missing -= len((resolved.ids & set(stopped)) - set(table.column("trial_id").to_pylist()))
    if missing and not resolved.is_search:
        print(f"{missing} of {len(resolved.ids)} trials are not finished: their cells are drawn as missing")


def _of_files(given: list[str], selection: Selection, form: str) -> Iterator[Path]:
    from bench.commands import _stored
    from bench.core import cells, metrics

    paths = _stored.paths_of(given)
    table, directory = _stored.load(paths), _stored.directory(paths, selection)
    if any(key in selection.overrides for key in _stored.OF_STUDY):
        _, readable, own = _stored.read(selection, table)
        _say_missing(readable, own)
        return draw(readable, own, directory / "figures", form=form)
    mixed = cells.mixtures(table)
    if mixed:
        rule, way_out = "must be rows that mean the same, or a figure would mix them", "draw the files apart"
        raise BadInput("--rows", rule, got="; ".join(mixed), way_out=way_out)
    names = {column: sorted(set(table.column(column).to_pylist())) for column in ("study", "seed", "metric_name")}
    better = metrics.higher_is_better(names["metric_name"][0]) if len(names["metric_name"]) == 1 else None
    info = {"name": ", ".join(names["study"]), "seeds": tuple(names["seed"]), "higher_is_better": better}
    return _save(table, info, directory / "figures", form=form)


def draw(resolved: Readable, table: pa.Table, figures_dir: Path, *, form: str = "full") -> Iterator[Path]:
    """Draw every figure that the study's rows give, one after another; yield the PNG of each, its PDF beside it."""
    info = {"name": resolved.study.name, "higher_is_better": resolved.task.higher_is_better}
    if not resolved.is_search:
        info |= {"seeds": resolved.study.seeds, "trials": resolved.trials}
        info["stopped"] = _stopped(figures_dir.parent)
    return _save(table, info, figures_dir, form=form, clip=resolved.study.clip)


def _stopped(directory: Path) -> dict[str, tuple[int, float]]:
    """Return the trials of a study that were left out at a rung: the step, and the training loss there.

    Those that never began have neither: the first seed of their cell tells where it was stopped.
    """
    from bench import store

    rows = store.load_pruned(directory).select(["trial_id", "steps_done", "train_loss"]).to_pylist()
    return {row["trial_id"]: (row["steps_done"], row["train_loss"]) for row in rows if row["steps_done"]}


def _save(
    table: pa.Table, info: dict[str, Any], figures_dir: Path, *, form: str, clip: float | None = None
) -> Iterator[Path]:
    """Draw and save the figures; `info` holds the fields of plots.tidy.StudyInfo."""
    from plots import figures, style
    from plots.tidy import StudyInfo

    try:
        figures_dir.mkdir(parents=True, exist_ok=True)
        chosen = cast("figures.FigureForm", form)
        made = figures.figure_set(table.to_pandas(), StudyInfo(**info), form=chosen, clip=clip)
        for name, figure in made.drawn.items():
            png, _ = style.save(figure, figures_dir, name)
            yield png
        for name, reason in made.left_out.items():
            print(f"{name} is left out: {reason}", file=sys.stderr)
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(figures_dir), "must be writable", got=error.strerror, way_out=way_out) from error
