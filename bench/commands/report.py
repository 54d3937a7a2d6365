"""bench report: a study's rows as one HTML page, results/<study>/report.html; trains nothing, needs no network."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands._options import RESULTS_DIR, Selection, study_command
from bench.commands._stored import RowsOption
from bench.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from bench.commands._resolve import Readable
    from bench.comparison.numbers import Comparison
    from bench.core.spec import Study

PAGE = "report.html"
FILES = ("study", "task", "model")  # options that may be the path of a file or a directory


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What a page is made of, beside the study: rows, and what was worked out from others."""

    rows: pa.Table
    comparison: Comparison | None
    attempts: pd.DataFrame | None = None
    fresh: pd.DataFrame | None = None  # the rows of the comparison's fresh runs
    speed: pa.Table | None = None
    pruned: pd.DataFrame | None = None  # the rows of trials that were left out early


@study_command
def command(selection: Selection, rows: RowsOption = None) -> int:
    """Write the study's report: verdict, heatmaps, curves, speed, what failed, how to repeat it."""
    from bench.commands import _last, _resolve, _stored
    from bench.core import cache

    if rows:
        paths = _stored.paths_of(rows)
        selection, readable, own = _stored.read(selection, _stored.load(paths))
        directory = _stored.directory(paths, selection)
        text = page_of(readable, selection, of_files(readable, own))
    else:
        selection = _last.as_swept(selection)
        resolved = _resolve.resolve(selection.study())
        directory = selection.directory(resolved.study)
        readable, found = of_directory(resolved, selection)
        text = page_of(readable, selection, found)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        cache.write_text(directory / PAGE, text)
        (directory / PAGE).chmod(0o644)  # a temporary file is its owner's alone, but a report is for others
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(directory), "must be writable", got=error.strerror, way_out=way_out) from error
    print(directory / PAGE)
    return 0


def of_directory(resolved: Readable, selection: Selection) -> tuple[Readable, Material]:
    """Return a study as the rows of its results directory are read, and what its page is made of.

    Raises:
        BadInput: where no trial of the study is finished, or a comparison beside the rows is not one of ours.
    """
    from bench import store
    from bench.commands import _last

    study = resolved.study
    directory = selection.directory(study)
    rows_in = directory if study.rows_from is None else selection.results_dir / study.rows_from
    resolved, table, told = resolved.reading(store.load(rows_in))
    for line in told:
        print(f"warning: {line}")
    n = table.num_rows if resolved.is_search else len(resolved.ids.intersection(table.column("trial_id").to_pylist()))
    if n == 0:
        other = f"or report another study than {study.name}"
        raise _last.none_found(rows_in, table, resolved.trials, otherwise=other)
    comparison = comparison_of(resolved, selection.results_dir)
    return resolved, Material(
        rows=table, comparison=comparison, attempts=store.load_attempts(rows_in).to_pandas(), speed=speed_of(directory),
        pruned=store.load_pruned(rows_in).to_pandas(),
        fresh=None if comparison is None else fresh_of(comparison, selection.results_dir),
    )  # fmt: skip


def of_files(readable: Readable, table: pa.Table) -> Material:
    """Return what the page of a study is made of where all there is are rows: a comparison where they give one."""
    from bench.commands import _stages, compare
    from bench.comparison import arms

    comparison, fresh = None, None
    try:
        arms.check(readable.study, _stages.arms_of(readable))
    except BadInput:  # a study that compares nothing
        return Material(rows=table, comparison=None)
    try:
        comparison, told = compare.of_rows(readable, table)
    except BadInput as error:
        print(f"no comparison: {error}")
        return Material(rows=table, comparison=None)
    for line in told:
        print(line)
    rows = table.to_pandas()
    fresh = rows[rows["seed"].isin(comparison.setup.fresh_seeds)]
    tuned = table.filter([trial_id in readable.ids for trial_id in rows["trial_id"]])  # the others are of later stages
    return Material(rows=tuned, comparison=comparison, fresh=fresh)


def page_of(resolved: Readable, selection: Selection, found: Material) -> str:
    """Return the page of a study that has finished rows."""
    from bench.claims import ledger
    from bench.core.record import SCHEMA
    from bench.report import contents as report
    from bench.report.data import Source
    from bench.report.page import document as page
    from bench.study import as_toml
    from bench.sweep.optuna_mirror.from_rows import studies_of
    from plots.tidy import StudyInfo

    study, better = resolved.study, resolved.task.higher_is_better
    shown, comparison = shown_as(resolved), found.comparison
    if resolved.is_search:
        info = StudyInfo(name=study.name, higher_is_better=better)
    else:
        info = StudyInfo.of(study, resolved.trials, higher_is_better=better)
    borders = () if resolved.is_search else resolved.best(found.rows)[1]
    source = Source(
        command=command_line(selection),
        study_file=f"studies/{study_path(selection).name}",
        toml=without_paths(as_toml.text(replace(study, figure=shown.figure), selection.trace()[1]), study),
        borders=borders,
        compare_command="" if comparison is None else command_line(selection, "compare"),
    )
    own = [row for row in found.rows.to_pylist() if resolved.is_search or row["trial_id"] in resolved.ids]
    attempts = SCHEMA.empty_table().to_pandas() if found.attempts is None else found.attempts
    return page.page(report.build(
        found.rows.to_pandas(), attempts, shown, info, source=source, comparison=comparison, speed=found.speed,
        fresh=found.fresh, claims=ledger.of_study(study.name, selection.results_dir), pruned=found.pruned,
        optuna=studies_of(own, study.grids, higher_is_better=better),
    ))  # fmt: skip


def shown_as(resolved: Readable) -> Study:
    """Return the study as the page names it: by no path, and by no paper's figure where the task is one's own."""
    from bench import tasks

    task, model = resolved.task.name, resolved.model_name  # not as the study has them: they may be paths
    figure = resolved.study.figure if task in tasks.names() else ""
    return replace(resolved.study, task=task, model=model, figure=figure)


def without_paths(text: str, study: Study) -> str:
    """Return text with the files and directories that the study names called by their names alone."""
    for path in (study.task, study.model):
        if Path(path).exists():
            text = text.replace(path, Path(path).name)
    return text


def comparison_of(resolved: Readable, results_dir: Path) -> Comparison | None:
    """Return the tuned comparison of the study, else that of its task's comparison study on the same model."""
    from bench.comparison import as_json as comparison_json

    task, model = resolved.task.name, resolved.model_name
    for name in (resolved.study.name, f"{resolved.study.name}-compare", f"{task}-compare"):
        found = comparison_json.read(results_dir / name)
        if found is not None and (found.setup.task, found.setup.model) == (task, model):
            return found
    return None


def fresh_of(comparison: Comparison, results_dir: Path) -> pd.DataFrame | None:
    """Return the rows of a comparison's fresh runs, None where they are not kept beside it."""
    from bench import store
    from bench.commands._stages import FRESH

    rows = store.load(results_dir / f"{comparison.setup.study}-{FRESH}").to_pandas()
    found = rows[rows["seed"].isin(comparison.setup.fresh_seeds)]
    return None if found.empty else found


def speed_of(directory: Path) -> pa.Table | None:
    """Return the rows of `bench speed` for the study, None where it was not run.

    Raises:
        BadInput: for a file that does not hold them.
    """
    import pyarrow as pa

    from bench.timing.methods import rows

    try:
        return rows.read(directory)
    except (pa.ArrowException, OSError, ValueError) as error:
        rule, way_out = "must hold the rows of bench speed", "run bench speed again, or remove the file"
        raise BadInput(str(directory / rows.FILE), rule, got=str(error)[:200], way_out=way_out) from None


def study_path(selection: Selection) -> Path:
    """Return the study file that the options mean."""
    from bench.study import files as study_files

    given = selection.overrides
    return study_files.find(given.get("study"), given.get("task"), study_files.STUDIES_DIR)


def command_line(selection: Selection, command: str = "sweep") -> str:
    """Return the command that runs the study as it was asked for; of files and directories the names alone."""
    from bench.study.overrides import BY_KEY

    words = ["python", "-m", "bench", command]
    for key, text in selection.overrides.items():
        words += [BY_KEY[key].flags[0], Path(text).name if key in FILES and Path(text).exists() else text]
    if selection.data_dir is not None:
        words += ["--data-dir", "DATA"]
    if selection.results_dir != Path(RESULTS_DIR):
        words += ["--results-dir", "RESULTS"]
    return shlex.join(words)
