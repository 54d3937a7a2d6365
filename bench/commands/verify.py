"""bench verify: checks a results directory by rule; --calibrate measures how often the rule of compare is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from bench.commands._options import Selection, study_command
from bench.errors import BadInput

if TYPE_CHECKING:
    from bench.commands._resolve import Resolved
    from bench.comparison.calibrate import Calibration
    from bench.spec import Trial

FILE_NAME = "calibration.json"


@study_command
def command(
    selection: Selection,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="A/A: run LoRA's best cell with 64 seeds and compare it with itself")
    ] = False,
    parallel: Annotated[
        int, typer.Option("--parallel", help="sweeps that were at work at the same time, rows put together", min=1)
    ] = 1,
) -> int:
    """Check the results of a study by rule; exit code 1 if anything is wrong."""
    from bench import store
    from bench.commands import _resolve, _run
    from bench.comparison import verify

    resolved = _resolve.resolve(selection.study())
    directory = selection.directory(resolved.study)
    found = store.scan(directory)
    if not found.table.num_rows and not found.findings:
        raise BadInput(str(directory), "there must be finished trials", way_out="run make sweep first")
    read, table, told = resolved.reading(found.table)
    problems = verify.check(
        list(_run.rows(found.table, verify.ROW_COLUMNS).values()),
        found=found.findings,
        strangers=told,
        trials=() if resolved.is_search else read.trials,
        attempts=frozenset(store.load_attempts(directory).column("trial_id").to_pylist()),
        borders=() if resolved.is_search else read.best(table)[1],
        parallel=parallel,
    )
    for problem in problems:
        print(problem)
    n_errors = sum(problem.level == "error" for problem in problems)
    print(f"{directory}: {found.table.num_rows:,} rows, {n_errors} errors, {len(problems) - n_errors} warnings")
    if n_errors or not calibrate:
        return 1 if n_errors else 0
    return _calibrate(resolved, selection)


def _calibrate(resolved: Resolved, selection: Selection) -> int:
    """Run the pool of LoRA's best cell, work out the calibration, print and keep it."""
    import numpy as np

    from bench import store
    from bench.commands import _run
    from bench.commands.compare import POOL, fresh_of
    from bench.comparison import arms, calibrate
    from bench.comparison.verdict import AS_POINTS

    pool = fresh_of(resolved, pool_trials(resolved, selection.directory(resolved.study)), POOL)
    print()
    code = _run.unfinished(_run.run(pool, selection.results_dir))
    if code is not None:
        return code
    rows = _run.rows(store.load(selection.directory(pool.study)), ("metric_value", "status"))
    mine = [rows[trial.trial_id] for trial in pool.trials]
    scores = [row["metric_value"] for row in mine if arms.is_ok(row)]
    if len(scores) < calibrate.MIN_POOL:
        got = f"{len(scores)} of {len(mine)}"
        raise BadInput(
            "--calibrate", "every run of the pool must end", got=got, way_out="the best cell diverges: widen the grid"
        )
    found = calibrate.calibrate(scores, np.random.default_rng(0))
    points = resolved.task.metric in AS_POINTS
    told = calibrate.sentences(found, scale=100 if points else 1, unit="points" if points else resolved.task.metric)
    print("\n".join(told))
    print(write(found, told, selection.directory(resolved.study)))
    return 0 if found.passed else 1


def pool_trials(resolved: Resolved, directory: Path) -> tuple[Trial, ...]:
    """Return LoRA's best cell with the seeds of the pool, evaluated at the end only.

    Raises:
        BadInput: where the study holds no finished LoRA trial.
    """
    from bench import store
    from bench.commands import _run
    from bench.comparison import arms, calibrate
    from bench.comparison.compare import ROW_COLUMNS

    better = resolved.task.higher_is_better
    rows = _run.rows(store.load(directory), ROW_COLUMNS)
    lora = arms.Arm(name=arms.BASELINE, trials=tuple(t for t in resolved.trials if t.method == arms.BASELINE))
    found = arms.cells(lora, rows, higher_is_better=better)
    if not found:
        raise BadInput("--calibrate", "the study must have finished lora trials", way_out="sweep them first")
    best = arms.choose(found, higher_is_better=better).trial
    return arms.pool_trials(best, calibrate.MIN_POOL, resolved.study.seeds)


def write(found: Calibration, told: tuple[str, ...], directory: Path) -> Path:
    """Write calibration.json into the study's directory and return its path."""
    from bench.cache import write_atomic

    document = {**asdict(found), "passed": found.passed, "verdict": list(told)}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"

    def put(stream: BinaryIO) -> None:
        stream.write(text.encode())

    write_atomic(directory / FILE_NAME, put)
    return directory / FILE_NAME
