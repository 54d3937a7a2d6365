"""bench verify: checks a results directory by rule; --calibrate measures how often the rule of compare is wrong."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command
from bench.commands._stored import RowsOption
from bench.core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.commands._resolve import Readable, Resolved
    from bench.comparison.arms import Cell
    from bench.comparison.calibrate import Calibration
    from bench.comparison.calibrate_methods import MethodCalibration
    from bench.comparison.numbers import Top
    from bench.store import Scan

FILE_NAME = "calibration.json"


@study_command
def command(
    selection: Selection,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="A/A: LoRA's best cell, 64 seeds, against itself; two tunings too"),
    ] = False,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", help="refuse rows of more sweeps that were at work at the same time", min=1),
    ] = None,
    rows_of: RowsOption = None,
) -> int:
    """Check the results of a study by rule; exit code 1 if anything is wrong."""
    from bench import store
    from bench.commands import _last, _resolve, _stored

    if rows_of:
        if calibrate:
            raise BadInput("--calibrate", "trains a pool of runs, which --rows does not", way_out="leave one out")
        paths = _stored.paths_of(rows_of)
        found = _stored.scan(paths)
        _, readable, own = _stored.read(selection, found.table)
        return 1 if _checked(", ".join(map(str, paths)), readable, own, found, parallel=parallel) else 0
    selection = _last.as_swept(selection)
    resolved = _resolve.resolve(selection.study())
    directory = selection.directory(resolved.study)
    found = store.scan(directory)
    if not found.table.num_rows and not found.findings:
        raise BadInput(str(directory), "there must be finished trials", way_out="run make sweep first")
    read, table, told = resolved.reading(found.table)
    attempts = frozenset(store.load_attempts(directory).column("trial_id").to_pylist())
    n_errors = _checked(str(directory), read, table, found, strangers=told, attempts=attempts, parallel=parallel)
    if n_errors or not calibrate:
        return 1 if n_errors else 0
    return _calibrate(resolved, selection)


def _checked(
    where: str, read: Readable, table: pa.Table, found: Scan, *, strangers: Sequence[str] = (),
    attempts: Collection[str] = (), parallel: int | None,
) -> int:  # fmt: skip
    """Print what is wrong with the rows that were found, `table` being those that count; return how many errors."""
    from bench.checks import verify
    from bench.commands import _run

    problems = verify.check(
        list(_run.rows(found.table, verify.ROW_COLUMNS).values()),
        found=found.findings,
        strangers=strangers,
        trials=() if read.is_search else read.trials,
        attempts=attempts,
        borders=() if read.is_search else read.best(table)[1],
        parallel=parallel,
    )
    for line in (*problems, *_regret(read, table)):
        print(line)
    n_errors = sum(problem.level == "error" for problem in problems)
    print(f"{where}: {found.table.num_rows:,} rows, {n_errors} errors, {len(problems) - n_errors} warnings")
    return n_errors


def _regret(resolved: Readable, table: pa.Table) -> tuple[str, ...]:
    """Return what choosing cells on the held-out part costs on the evaluation split, a line for each arm."""
    from bench.commands import _run
    from bench.commands._stages import arms_of
    from bench.comparison import compare, regret
    from bench.comparison.verdict import AS_POINTS

    if resolved.is_search:
        return ()
    rows = _run.rows(table, compare.ROW_COLUMNS)
    found = regret.regrets(arms_of(resolved), rows, higher_is_better=resolved.task.higher_is_better)
    points = resolved.task.metric in AS_POINTS
    return regret.lines(found, scale=100 if points else 1, unit="points" if points else resolved.task.metric)


def _calibrate(resolved: Resolved, selection: Selection) -> int:
    """Run the pool of LoRA's best cell, work out the calibration, print and keep it."""
    import numpy as np

    from bench import store
    from bench.commands import _run
    from bench.commands._stages import POOL, fresh_of
    from bench.comparison import arms, calibrate, calibrate_methods
    from bench.comparison.verdict import AS_POINTS

    cells, top = _lora(resolved, selection)
    best = cells[0].trial  # the one that a comparison would take
    trials = arms.pool_trials(best, calibrate.MIN_POOL, resolved.study.seeds)
    pool = fresh_of(resolved, trials, POOL)
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
    methods = _of_methods(cells, top, scores, resolved)
    points = resolved.task.metric in AS_POINTS
    told = calibrate.sentences(found, scale=100 if points else 1, unit="points" if points else resolved.task.metric)
    told = (*told, calibrate_methods.sentence(methods))
    print("\n".join(told))
    print(write(found, methods, told, selection.directory(resolved.study)))
    return 0 if found.passed else 1


def _lora(resolved: Resolved, selection: Selection) -> tuple[tuple[Cell, ...], Top | None]:
    """Return LoRA's finished cells, over both stages of tuning where the second was run, and that stage.

    Raises:
        BadInput: where the study holds no finished LoRA trial.
    """
    from bench import store
    from bench.commands import _run
    from bench.commands._stages import TOP
    from bench.comparison import arms
    from bench.comparison.compare import ROW_COLUMNS
    from bench.methods import BASELINE

    better = resolved.task.higher_is_better
    rows = _run.rows(store.load(selection.directory(resolved.study)), ROW_COLUMNS)
    lora = arms.Arm(name=BASELINE, trials=tuple(t for t in resolved.trials if t.method == BASELINE))
    if not arms.cells(lora, rows, higher_is_better=better):
        raise BadInput("--calibrate", "the study must have finished lora trials", way_out="sweep them first")
    again = selection.results_dir / f"{resolved.study.name}-{TOP}"
    rows |= _run.rows(store.load(again), ROW_COLUMNS) if again.is_dir() else {}
    top = arms.top_for(resolved.study, None, None)
    second = arms.top_trials((lora,), rows, top, higher_is_better=better)
    if not second or any(t.trial_id not in rows for t in second):
        top, second = None, ()
    every = arms.cells(replace(lora, trials=(*lora.trials, *second)), rows, higher_is_better=better)
    best = arms.tuned(lora, rows, top, higher_is_better=better)
    return (best, *(cell for cell in every if cell.trial.cell != best.trial.cell)), top


def _of_methods(
    cells: Sequence[Cell], top: Top | None, pool: Sequence[float], resolved: Resolved
) -> MethodCalibration | None:
    """Return the A/A of methods, None where too few seeds of the cells are known."""
    import numpy as np

    from bench.comparison import arms, calibrate_methods

    if not calibrate_methods.is_enough(cells):
        return None
    return calibrate_methods.calibrate(
        cells, pool, np.random.default_rng(1), n_tuning_seeds=len(resolved.study.seeds), top=top,
        n_seeds=arms.MIN_FRESH_SEEDS, higher_is_better=resolved.task.higher_is_better,
    )  # fmt: skip


def write(found: Calibration, methods: MethodCalibration | None, told: tuple[str, ...], directory: Path) -> Path:
    """Write calibration.json into the study's directory and return its path."""
    from bench.core.cache import write_text

    of_methods = None if methods is None else asdict(methods)
    document = {**asdict(found), "methods": of_methods, "passed": found.passed, "verdict": list(told)}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_text(directory / FILE_NAME, text)
    return directory / FILE_NAME
