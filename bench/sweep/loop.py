"""Sweeping a study: `run` does the work, `preview` says what it would be. Safe to stop at any moment and start again.

plan -> execute -> store -> tell: a finished pack is stored first and told to Optuna second; what is finished is read
from the rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from bench import searches, store
from bench.core.errors import BadInput
from bench.core.spec import Study, Trial
from bench.executors import AbstractExecutor
from bench.schedule import planner
from bench.schedule.estimate import read_calibration
from bench.store import lock
from bench.sweep import planning
from bench.sweep.events import Event, Options, Preview, SweepSummary, Warned
from bench.sweep.forecast import Forecast
from bench.sweep.interrupt import Guard


def preview(
    study: Study,
    trials: Sequence[Trial],
    *,
    results_dir: Path,
    options: Options | None = None,
    family: Callable[[Trial], Hashable] = planner.family_of,
    slots: int = 1,
) -> Preview:
    """Return what `run` would do, `slots` packs at a time; imports no torch and no Optuna, changes nothing."""
    options = options or Options()
    finished = store.finished_ids(results_dir / study.name)
    plan = planning.plan(
        study, trials, finished=finished, results_dir=results_dir, options=options, family=family, slots=slots
    )
    n_trials, n_left = (sum(pack.size for pack in packs) for packs in (plan.packs, plan.left))
    forecast, rungs = Forecast(options, read_calibration(results_dir), slots=slots), searches.rungs_of(study)
    n_pruned = 0
    if rungs is None:
        forecast.expect(plan.left)
    else:
        reached = store.rungs_reached(results_dir / study.name)
        pruned = store.pruned_ids(results_dir / study.name) - finished
        n_pruned = sum(trial.trial_id in pruned for trial in trials)
        forecast.expect(planning.legs(trials, rungs, reached, closed=finished | pruned))
    return Preview(
        packs=plan.packs,
        pending=plan.left,
        n_trials=n_trials,
        n_finished=n_trials - n_left,
        n_pruned=n_pruned,
        estimate=forecast.remaining(),
        packing=plan.packing,
    )


def run(
    study: Study,
    trials: Sequence[Trial],
    *,
    results_dir: Path,
    executor: AbstractExecutor,
    options: Options | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    family: Callable[[Trial], Hashable] = planner.family_of,
) -> SweepSummary:
    """Run the trials of a study that are not finished, or search their space (`sampler`); return how it ended.

    Ctrl-C ends it after the packs at work; a second one, SIGTERM or a full disk gives them up. All finished is kept.

    Raises:
        BadInput: before anything trains: a directory in use or not writable, a storage that does not answer.
    """
    from bench.sweep.sweeper import Sweeper  # and with it Optuna, which `preview` does without

    if options is not None and options.rerun_stale and searches.rungs_of(study) is not None:
        way_out = 'remove the study\'s results, or set sampler = "grid"'
        raise BadInput("--rerun-stale", "must be left out where cells are left out at rungs", way_out=way_out)
    if any(trial.spec_version == 1 for trial in trials):
        rule = "must be of the current version: rows of version 1 can be read, not added to"
        raise BadInput(f"study {study.name}", rule, way_out="resolve the study anew")
    directory = results_dir / study.name
    with lock.hold(directory), Guard() as guard:
        lock.prove_writable(directory / store.TRIALS, directory / store.ATTEMPTS)
        _compact(directory, on_event)
        return Sweeper(
            study,
            trials,
            directory=directory,
            executor=executor,
            options=options or Options(),
            on_event=on_event,
            family=family,
            guard=guard,
        ).run()


def _compact(directory: Path, on_event: Callable[[Event], None]) -> None:
    """Put the parts of earlier runs together where they are many: every command reads them all."""
    try:
        store.compact(directory, at_least=store.COMPACT_FROM)
    except OSError as error:
        on_event(Warned(text=f"{directory}: small parts stay apart: {error.strerror}; nothing is lost by it"))
