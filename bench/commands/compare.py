"""bench compare: every method tuned with as many cells, run again with fresh seeds, and compared with tuned LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command
from bench.commands._stored import RowsOption
from bench.core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.commands._resolve import Readable
    from bench.comparison.numbers import Comparison

SUFFIX = "compare"  # studies/<task>-compare.toml is the comparison study of a task
FILE_NAME = "comparison.json"


@study_command
def command(
    selection: Selection,
    fresh_seeds: Annotated[
        int | None, typer.Option("--fresh-seeds", help="seeds for the chosen cells [default: 8 or what claims need]")
    ] = None,
    top_cells: Annotated[
        int | None,
        typer.Option(
            "--top-cells",
            help="cells of each method run again before one is chosen; 0: none [default: 3 with fewer than 3 seeds]",
        ),
    ] = None,
    top_seeds: Annotated[
        int | None, typer.Option("--top-seeds", help="further tuning seeds of those cells [default: 2]")
    ] = None,
    rerun_stale: Annotated[
        bool, typer.Option("--rerun-stale", help="repeat rows of other versions of the code")
    ] = False,
    rows_of: RowsOption = None,
) -> int:
    """Tune every method alike, run the best cells with fresh seeds, and say which differences are real.

    With --rows nothing is trained: the rows of tuning and of the fresh runs are compared as they are.
    """
    asked = {"fresh_seeds": fresh_seeds, "top_cells": top_cells, "top_seeds": top_seeds}
    if rows_of:
        return _of_files(selection, rows_of, asked)
    from bench.commands._stages import Unfinished

    try:
        comparison, written = trained(selection, asked, rerun_stale=rerun_stale)
    except Unfinished as ended:
        return ended.code
    print(f"{report(comparison)}\n\n{written}")
    return 0


def trained(
    selection: Selection, asked: Mapping[str, int | None], *, rerun_stale: bool = False
) -> tuple[Comparison, Path]:
    """Print the price, run what is missing of all stages, and return the comparison and where it was written.

    Raises:
        BadInput: for what cannot be compared, before anything trains.
        Unfinished: for a stage that was interrupted, or in which trials failed.
    """
    from bench.commands import _resolve
    from bench.commands._stages import Stages

    selection = chosen(selection)
    resolved = _resolve.resolve_to_train(selection.study())
    stages = Stages.of_options(resolved, selection, asked, rerun_stale=rerun_stale)
    print(f"{stages.price()}\n", flush=True)
    comparison = stages.run()
    return comparison, write(comparison, selection.directory(resolved.study))


def _of_files(selection: Selection, given: Sequence[str], asked: Mapping[str, int | None]) -> int:
    from bench.commands import _stored

    paths = _stored.paths_of(given)
    table = _stored.load(paths)
    comparison, told = of_table(selection, table, asked)
    print("\n".join([*told, "", report(comparison)] if told else [report(comparison)]))
    directory = _stored.directory(paths, selection)
    print(f"\n{write(comparison, directory)}")
    return 0


def of_table(
    selection: Selection, table: pa.Table, asked: Mapping[str, int | None]
) -> tuple[Comparison, tuple[str, ...]]:
    """Return the comparison of the study that stored rows are of, and lines on what they lack.

    Raises:
        BadInput: where they lack what no comparison can do without.
    """
    from bench.commands import _stages, _stored
    from bench.comparison import arms

    _, resolved, own = _stored.read(chosen(_stored.named(selection, table)), table)
    resolved = replace(resolved, study=arms.as_compared(resolved.study))
    arms.check(resolved.study, _stages.arms_of(resolved))
    return of_rows(resolved, own, asked)


def of_rows(
    resolved: Readable, table: pa.Table, asked: Mapping[str, int | None] | None = None
) -> tuple[Comparison, tuple[str, ...]]:
    """Return the comparison that rows of all its stages give, and lines on what they lack.

    Raises:
        BadInput: where they lack what no comparison can do without.
    """
    from bench.commands import _run, _stages
    from bench.comparison import compare, stored

    found, better = _stages.arms_of(resolved), resolved.task.higher_is_better
    rows = _run.rows(table, (*compare.ROW_COLUMNS, "seed"))
    stages = stored.stages(resolved.study, found, rows, **(asked or {}), higher_is_better=better)
    setup = _stages.setup_of(resolved, stages.seeds, stages.top, None)
    comparison = compare.compare(
        setup, found, tuning=stages.tuning, fresh=stages.fresh, pool=rows, chosen=stages.chosen
    )  # fmt: skip
    return comparison, stages.told


def chosen(selection: Selection) -> Selection:
    """Return the options with the study that is named, else the comparison study of the task: its own, or a made one.

    Raises:
        BadInput: where the task's default study cannot be made one.
    """
    from bench.study import files as study_files

    if "study" in selection.overrides:
        return selection
    own = f"{selection.overrides.get('task', study_files.DEFAULT_TASK)}-{SUFFIX}"
    return selection.of_study(own) if own in study_files.names() else _made(selection)


def _made(selection: Selection) -> Selection:
    """Write the task's default study with grids of equal size as a study file, say where it is; return it as chosen."""
    from bench.comparison import equal
    from bench.core.cache import write_text
    from bench.study import as_toml

    default, merged = selection.trace()
    study, layer = equal.equalled(
        replace(default, task=_absolute(default.task), model=_absolute(default.model)), merged
    )
    name = f"{study.name}-{SUFFIX}"
    path = selection.results_dir / name / f"{name}.toml"
    text = as_toml.text(replace(study, figure=f"Made by bench compare from the default study of {default.task}"), layer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(path), "must be writable", got=error.strerror, way_out=way_out) from error
    n = equal.arms_of(study)[0].n_cells
    print(f"{default.task} has no comparison study: its default grids, made equal with {n} cells each, are in {path}")
    print(f"read its results or change it by STUDY={path}\n")
    device = {key: text for key, text in selection.overrides.items() if key == "device"}
    return replace(selection, overrides={"study": str(path), **device})


def _absolute(name: str) -> str:
    """Return the path of a task or a model in full, so that a study file may lie anywhere; a name as it is."""
    return str(Path(name).expanduser().absolute()) if Path(name).expanduser().exists() else name


def write(comparison: Comparison, directory: Path) -> Path:
    """Write comparison.json into the study's directory and return its path."""
    from bench.comparison.numbers import to_json
    from bench.comparison.verdict import sentences
    from bench.core.cache import write_text

    document = {**to_json(comparison), "verdict": list(sentences(comparison))}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_text(directory / FILE_NAME, text)
    return directory / FILE_NAME


def report(comparison: Comparison) -> str:
    """Return the comparison as tables and the verdict as sentences."""
    from bench.commands import _compare
    from bench.comparison.verdict import sentences

    parts = [_compare.scores(comparison), _compare.tested(comparison), _compare.tuning(comparison),
             _compare.reach(comparison)]  # fmt: skip
    return "\n\n".join([*filter(None, parts), "\n".join(sentences(comparison))])
