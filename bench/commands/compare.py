"""bench compare: every method tuned with as many cells, run again with fresh seeds, and compared with tuned LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from bench.commands._options import Selection, study_command
from bench.commands._stored import RowsOption
from bench.core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.commands._resolve import Readable, Resolved
    from bench.comparison.arms import Arm, Row
    from bench.comparison.numbers import Comparison, Setup, Top
    from bench.core.spec import Study, Trial

SUFFIX = "compare"  # studies/<task>-compare.toml is the comparison study of a task
TOP = "top"  # results/<study>-top holds the second stage of tuning
FRESH = "fresh"  # results/<study>-fresh holds the runs with fresh seeds
POOL = "pool"  # results/<study>-pool holds further runs of chosen cells
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
    if rows_of:
        asked = {"fresh_seeds": fresh_seeds, "top_cells": top_cells, "top_seeds": top_seeds}
        return _of_files(selection, rows_of, asked)
    from bench import store
    from bench.commands import _resolve, _run
    from bench.comparison import arms
    from bench.comparison import compare as comparing
    from bench.core.record import Status

    selection = chosen(selection)
    resolved = _resolve.resolve_to_train(selection.study())
    study, better = resolved.study, resolved.task.higher_is_better
    found = arms_of(resolved)
    arms.check(study, found)
    seeds = arms.seeds_for(study, found, fresh_seeds)
    top = arms.top_for(study, top_cells, top_seeds)

    def run(part: Resolved) -> int | None:
        return _run.unfinished(_run.run(part, selection.results_dir, rerun_stale=rerun_stale))

    def rows(part: Study) -> dict[str, Row]:
        return _run.rows(store.load(selection.directory(part)), comparing.ROW_COLUMNS)

    print(f"{_chain(resolved, found, seeds, top, selection.results_dir)}\n", flush=True)
    code = run(resolved)
    if code is not None:
        return code
    directory = selection.directory(study)
    tuning = rows(study)
    second = arms.top_trials(found, tuning, top, higher_is_better=better)
    if second:
        part = fresh_of(resolved, second, TOP)
        code = run(part)
        if code is not None:
            return code
        tuning |= rows(part.study)
    trials = comparing.chosen_trials(found, tuning, seeds, top=top, higher_is_better=better)
    members = tuple(dict.fromkeys(trial for of_arm in trials.values() for trial in of_arm))
    again = fresh_of(resolved.with_test(), members, FRESH)
    code = run(again)
    if code is not None:
        return code
    fresh = of_this_test(rows(again.study), resolved)
    setup = _setup(resolved, seeds, top, isolated_seconds(directory))
    unscored = [i for i, row in fresh.items() if row["status"] == Status.OK and row["test_metric"] is None]
    if resolved.test is not None and unscored:
        way_out = f"other --fresh-seeds, or moving {selection.directory(again.study)} away, would score it"
        print(f"{len(unscored)} fresh runs are older than the test split as it is now; {way_out}")
    pool = further_rows(resolved, selection)
    comparison = comparing.compare(setup, found, tuning=tuning, fresh=fresh, pool=pool)
    further = _further(comparison, {name: members[0] for name, members in trials.items()})
    if further:
        print(f"{len(further)} further runs of cells that would win, to see whether they collapse now and then")
        code = run(fresh_of(resolved, further, POOL))
        if code is not None:
            return code
        pool = further_rows(resolved, selection)
        comparison = comparing.compare(setup, found, tuning=tuning, fresh=fresh, pool=pool)
    print(report(comparison))
    print(f"\n{write(comparison, directory)}")
    return 0


def _of_files(selection: Selection, given: Sequence[str], asked: Mapping[str, int | None]) -> int:
    from bench.commands import _stored
    from bench.comparison import arms

    paths = _stored.paths_of(given)
    table = _stored.load(paths)
    selection = chosen(_stored.named(selection, table))
    _, resolved, own = _stored.read(selection, table)
    arms.check(resolved.study, arms_of(resolved))
    comparison, told = of_rows(resolved, own, asked)
    print("\n".join([*told, "", report(comparison)] if told else [report(comparison)]))
    directory = _stored.directory(paths, selection)
    print(f"\n{write(comparison, directory)}")
    return 0


def of_rows(
    resolved: Readable, table: pa.Table, asked: Mapping[str, int | None] | None = None
) -> tuple[Comparison, tuple[str, ...]]:
    """Return the comparison that rows of all its stages give, and lines on what they lack.

    Raises:
        BadInput: where they lack what no comparison can do without.
    """
    from bench.commands import _run
    from bench.comparison import compare, stored

    found, better = arms_of(resolved), resolved.task.higher_is_better
    rows = _run.rows(table, (*compare.ROW_COLUMNS, "seed"))
    stages = stored.stages(resolved.study, found, rows, **(asked or {}), higher_is_better=better)
    setup = _setup(resolved, stages.seeds, stages.top, None)
    comparison = compare.compare(
        setup, found, tuning=stages.tuning, fresh=stages.fresh, pool=rows, chosen=stages.chosen
    )  # fmt: skip
    return comparison, stages.told


def of_this_test(rows: Mapping[str, Row], resolved: Resolved) -> dict[str, Row]:
    """Return the rows without test scores of another test split than the task has now."""
    from bench.data.splits import hash_data

    now = None if resolved.test is None else hash_data(resolved.test)
    return {i: row if row["test_hash"] == now else {**row, "test_metric": None} for i, row in rows.items()}


def _further(comparison: Comparison, chosen: Mapping[str, Trial]) -> tuple[Trial, ...]:
    """Return the further runs that would-be winners need, one of each arm's fresh trials given."""
    from bench.comparison import arms
    from bench.comparison.compare import runs_wanted

    seeds = comparison.setup.tuning_seeds
    wanted = runs_wanted(comparison)
    return tuple(dict.fromkeys(t for name, n in wanted.items() for t in arms.pool_trials(chosen[name], n, seeds)))


def further_rows(resolved: Resolved, selection: Selection) -> dict[str, Row]:
    """Return the rows of further runs of chosen cells, none where none were run."""
    from bench import store
    from bench.commands import _run
    from bench.comparison.compare import ROW_COLUMNS

    directory = selection.results_dir / f"{resolved.study.name}-{POOL}"
    return _run.rows(store.load(directory), ROW_COLUMNS) if directory.is_dir() else {}


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
    from bench.core.cache import write_atomic
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
        write_atomic(path, lambda stream: stream.write(text.encode()) and None)  # type: ignore[arg-type]
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


def _chain(resolved: Resolved, arms: Sequence[Arm], seeds: Sequence[int], top: Top | None, results_dir: Path) -> str:
    """Return what all stages of a comparison take, before the first one begins; what a cell takes is told by any."""
    from bench import store
    from bench.commands import _show, _text
    from bench.comparison.arms import fresh_trials
    from bench.schedule import price
    from bench.schedule.estimate import Estimate

    options = resolved.sweep_options()
    assert options.workload is not None  # as sweep_options gives it
    finished = store.finished_ids(results_dir / resolved.study.name)
    fresh = [trial for arm in arms for trial in fresh_trials(arm.trials[0], seeds)]
    evaluated = _text.every(fresh[0].budget.eval_steps)
    stages = {"tuning": [trial for trial in resolved.trials if trial.trial_id not in finished]}
    if top is not None:
        again = [replace(arm.trials[0], seed=seed) for arm in arms for seed in top.seeds for _ in range(top.n_cells)]
        stages[f"the best {top.n_cells} cells of each method again, {len(top.seeds)} seeds"] = again
    stages[f"fresh runs, {len(seeds)} seeds of {len(arms)} cells, evaluated {evaluated}"] = fresh
    parts, total = [], Estimate(seconds=0.0, calibrated=True)
    for name, trials in stages.items():
        one = price.of_trials(trials, options.workload, results_dir=results_dir, place=options.place)
        parts.append(f"{name}: about {_text.duration(one.seconds)}")
        total = Estimate(seconds=total.seconds + one.seconds, calibrated=total.calibrated and one.calibrated)
    head = f"the whole comparison takes about {_show.duration(total)}, further runs of cells that would win apart"
    return "\n  ".join([head, *parts])


def arms_of(resolved: Readable) -> tuple[Arm, ...]:
    """Return the arms of a study: its trials, grid by grid."""
    from bench.comparison import arms

    return arms.arms_of((grid.method, resolved.of_grid(grid)) for grid in resolved.study.grids)


def fresh_of(resolved: Resolved, trials: tuple[Trial, ...], suffix: str) -> Resolved:
    """Return the study of other runs of a study's cells, whose rows go to results/<study>-<suffix>."""
    seeds = tuple(dict.fromkeys(t.seed for t in trials))
    study = replace(resolved.study, name=f"{resolved.study.name}-{suffix}", seeds=seeds, budget=trials[0].budget)
    return replace(resolved, study=study, trials=trials)


def write(comparison: Comparison, directory: Path) -> Path:
    """Write comparison.json into the study's directory and return its path."""
    from bench.comparison.numbers import to_json
    from bench.comparison.verdict import sentences
    from bench.core.cache import write_atomic

    document = {**to_json(comparison), "verdict": list(sentences(comparison))}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"

    def put(stream: BinaryIO) -> None:
        stream.write(text.encode())

    write_atomic(directory / FILE_NAME, put)
    return directory / FILE_NAME


def report(comparison: Comparison) -> str:
    """Return the comparison as tables and the verdict as sentences."""
    from bench.commands import _compare
    from bench.comparison.verdict import sentences

    parts = [_compare.scores(comparison), _compare.tested(comparison), _compare.tuning(comparison),
             _compare.reach(comparison)]  # fmt: skip
    return "\n\n".join([*filter(None, parts), "\n".join(sentences(comparison))])


def _setup(
    resolved: Readable, seeds: Sequence[int], top: Top | None, seconds_per_step: Mapping[str, float] | None
) -> Setup:
    from bench.comparison.numbers import Setup

    return Setup(
        study=resolved.study.name,
        task=resolved.task.name,
        model=resolved.model_name,
        metric=resolved.task.metric,
        higher_is_better=resolved.task.higher_is_better,
        tuning_seeds=resolved.study.seeds,
        fresh_seeds=tuple(seeds),
        seconds_per_step=seconds_per_step,
        top=top,
    )


def isolated_seconds(directory: Path) -> Mapping[str, float] | None:
    """Return isolated seconds per step by arm, the medians of speed.parquet's rows; None where there is no such file.

    Read are the columns `arm` (named as in a comparison) and `seconds_per_step`.
    """
    import pyarrow.parquet as pq

    path = directory / "speed.parquet"
    if not path.is_file():
        return None
    found = pq.read_table(path, columns=["arm", "seconds_per_step"]).to_pandas().groupby("arm")["seconds_per_step"]
    return {str(arm): float(value) for arm, value in found.median().items()}
