"""bench sweep: plan, run what is missing, draw the figures, print the best cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command
from bench.core.errors import BadInput, one_of

if TYPE_CHECKING:
    from bench.commands._resolve import Resolved
    from bench.sweep import SweepSummary

EXECUTORS = ("local", "ray")


@study_command
def command(
    selection: Selection,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Optuna storage URL [default: a journal beside the rows]",
            envvar="LORASWEEP_STORAGE",
            show_default=False,
        ),
    ] = None,
    rerun_stale: Annotated[
        bool, typer.Option("--rerun-stale", help="repeat rows of other versions of the code")
    ] = False,
    report_to: Annotated[
        str, typer.Option(help="trackers of runs, commas between: mlflow, tensorboard, trackio, wandb")
    ] = "none",
    executor: Annotated[str, typer.Option(help="local, or ray: a cluster (docs/how-to/many-gpus.md)")] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="Ray cluster [default: one of this machine alone]", envvar="RAY_ADDRESS", show_default=False),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            help="several workers: seconds that a pack may take [default: 20 times its estimate, an hour at least; "
            "no limit before a speed was measured]",
            min=1,
            show_default=False,
        ),
    ] = None,
) -> int:
    """Run the trials of a study that are not finished, then draw its figures."""
    from bench.commands import _last, _resolve, _run

    if executor not in EXECUTORS:
        raise BadInput("--executor", "must be a known one", got=repr(executor), way_out=f"known: {one_of(EXECUTORS)}")
    on_ray = _run.OnRay(address=ray_address or None) if executor == "ray" else None
    to = _trackers(report_to)
    study = selection.study()
    _run.check_workers(study, on_ray)
    resolved = _resolve.resolve_to_train(study)
    options = resolved.sweep_options(storage=storage, rerun_stale=rerun_stale)
    _last.keep(selection, study)
    done = _run.sweep_shown(
        resolved, selection.results_dir, options, on_ray=on_ray, report_to=to, time_limit_seconds=time_limit
    )
    finish(resolved, done)
    return done.exit_code


def _trackers(text: str) -> tuple[str, ...]:
    """Return the trackers named; BadInput for one that is not known or not installed, before anything trains."""
    if text == "none":
        return ()
    from bench import trackers

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        trackers.get(name)
    return names


def finish(resolved: Resolved, done: SweepSummary) -> None:
    """Print what a sweep found and where it lies, and draw its figures unless it was interrupted."""
    from bench.commands import _show, _text
    from bench.core import pruned

    print()
    if done.best:
        print(_show.best_table(done.best, resolved.task.metric, len(resolved.study.seeds), resolved.trials))
    for warning in done.borders:
        print(f"warning: {warning}")
    print()
    pace = "" if done.trials_per_minute is None else f", {done.trials_per_minute:.1f} trials per minute"
    counts = f"{done.n_finished:,} of {done.n_trials:,} trials finished ({done.n_diverged:,} diverged)"
    counts += f", {pruned.told(done.n_pruned, done.share_saved)}" if done.n_pruned else ""
    counts += f"; {done.n_widened:,} of them beyond the border" if done.n_widened else ""
    print(f"{counts}; this run: {done.n_run:,} in {_text.duration(done.seconds)}{pace}, {done.n_failed:,} failed")
    print(f"rows: {done.directory / 'trials'}")
    if done.stopped is not None:
        print(f"stopped: {done.stopped}")
    elif done.interrupted:
        print("interrupted; everything finished is kept: the same command goes on, make plots draws what is there")
    elif done.n_finished:
        print(f"figures: {_draw(resolved, done.directory)}")
    if done.n_failed:
        print(
            f"failed trials: {done.directory / 'attempts'}, tracebacks: {done.directory / 'logs'}; run again to retry"
        )


def _draw(resolved: Resolved, directory: Path) -> Path:
    from bench import store
    from bench.commands import plot

    for _ in plot.draw(resolved, store.load(directory), directory / "figures"):
        pass
    return directory / "figures"
