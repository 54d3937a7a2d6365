"""bench plan: what a sweep would run and how long it would take; imports no torch and changes nothing.

With --calibrate it runs a short part of each method first, keeps the speed for this and every later estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command

if TYPE_CHECKING:
    from pathlib import Path

    from bench.commands._resolve import Resolved
    from bench.core.spec import Pack, Study
    from bench.executors import AbstractExecutor
    from bench.sweep import Options


@study_command
def command(
    selection: Selection,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="measure this device's speed for the estimate, in about a minute")
    ] = False,
) -> int:
    """Print trials, packs, what is finished and the time estimate, and stop."""
    from bench import searches, store, sweep
    from bench.commands import _resolve, _show
    from bench.core import cells, hub
    from bench.core.errors import BadInput

    study = selection.study()
    try:
        resolved = _resolve.resolve_to_train(study)
    except BadInput as error:
        if error.way_out == hub.WAYS_OUT:  # what is to be fetched first has a price all the same
            _price(study, selection.results_dir)
        raise
    options, directory = resolved.sweep_options(), selection.directory(resolved.study)
    print(_show.heading(resolved, directory, options.place.device))
    for line in cells.own_rows(store.load_columns(directory, cells.MEANING_COLUMNS), resolved.trials[:1])[1]:
        print(f"warning: {line}")
    print()
    if calibrate:
        _calibrate(resolved, options, selection.results_dir)
    preview = sweep.preview(resolved.study, resolved.trials, results_dir=selection.results_dir, options=options)
    print(_show.plan(resolved.study, preview))
    if not searches.get(resolved.study.sampler).planned:  # no packs whose time could be told: all that it may try
        _price(resolved.study, selection.results_dir)
    return 0


def _price(study: Study, results_dir: Path) -> None:
    """Print what all trials of a study take: of one whose data or model may not be here yet, or of a search."""
    from bench.commands import _show
    from bench.schedule import price

    print(f"{study.name}: {_show.price(price.of_study(study, results_dir=results_dir), len(price.wanted(study)))}")


def _calibrate(resolved: Resolved, options: Options, results_dir: Path) -> None:
    """Measure a pack of each method and keep the speeds in the results directory."""
    from bench.core.errors import BadInput
    from bench.data.splits import TextData
    from bench.executors import runtime
    from bench.schedule import calibrate, estimate, planner, workloads

    study, workload = resolved.study, options.workload
    assert workload is not None  # as sweep_options gives it
    data = calibrate.short_data(resolved.data) if isinstance(resolved.data, TextData) else resolved.data
    executor = runtime.local_executor(
        task=resolved.task, data=data, located=resolved.located, device=study.device,
        log_dir=results_dir / study.name / runtime.LOGS,
        limits=planner.limits_for(study, options.limits),
    )  # fmt: skip
    try:
        packs = _packs(resolved, options, results_dir, executor)
        measured = calibrate.measure(
            packs,
            lambda pack: executor.run(pack, study=study.name),
            workload=workload,
            short=workloads.workload_of(data, resolved.located, 0),
            place=options.place,
            tell=print,
        )
        estimate.write_calibration(results_dir, measured.over(estimate.read_calibration(results_dir)))
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(results_dir), "must be writable", got=error.strerror, way_out=way_out) from error
    print()


def _packs(resolved: Resolved, options: Options, results_dir: Path, executor: AbstractExecutor) -> tuple[Pack, ...]:
    """Return the packs of the grid, their sizes measured first as a sweep would."""
    from bench import searches, store
    from bench.schedule import planner
    from bench.sweep import planning

    study = resolved.study
    probe = executor.seconds_per_trial_step if searches.get(study.sampler).planned else None
    plan = planning.plan(
        study, resolved.trials, finished=store.finished_ids(results_dir / study.name), results_dir=results_dir,
        options=options, family=planner.family_of, probe=probe,
    )  # fmt: skip
    return plan.packs
