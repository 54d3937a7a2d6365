"""Running trials with their progress shown: what commands that need more than one sweep have in common."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bench.commands._resolve import Resolved
from bench.core.errors import BadInput
from bench.core.spec import Study
from bench.executors import AbstractExecutor
from bench.schedule import planner
from bench.schedule.planner import Limits
from bench.sweep import Event, Options, SweepSummary
from bench.sweep.events import STATE, Warned

if TYPE_CHECKING:
    from bench.comparison.arms import Row  # brings scipy, which a sweep does not need
    from bench.trackers import Reporter


@dataclass(frozen=True, kw_only=True, slots=True)
class OnRay:
    """A sweep's packs go to a Ray cluster; without an address to one of this machine alone."""

    address: str | None


def sweep_shown(
    resolved: Resolved, results_dir: Path, options: Options, *, on_ray: OnRay | None = None,
    report_to: Sequence[str] = (), time_limit_seconds: float | None = None,
) -> SweepSummary:  # fmt: skip
    """Print the plan of a study, run its trials that are not finished while showing how far they are."""
    from bench import sweep
    from bench.commands import _progress, _show
    from bench.executors import runtime
    from bench.sweep import live

    study, directory = resolved.study, results_dir / resolved.study.name
    check_workers(study, on_ray)
    limits = planner.limits_for(study, options.limits)
    remote = _remote(resolved, directory, on_ray, limits, time_limit_seconds)
    slots = 1 if remote is None else remote.slots
    preview = sweep.preview(study, resolved.trials, results_dir=results_dir, options=options, slots=slots)
    print(_show.heading(resolved, directory, options.place.device))
    print()
    print(_show.plan(study, preview), flush=True)
    told: list[str] = []  # by trackers, from threads of their own
    reporters = _reporters(report_to, study.name, directory, told)
    beacon = live.Beacon(directory, n_steps=study.budget.max_steps if remote is None else None)
    with _progress.reporter(resolved.trials, n_steps=study.budget.max_steps) as report:

        def on_event(event: Event) -> None:
            beacon(event)
            report(event)
            for one in reporters:
                one(event)
            while told:
                report(Warned(text=told.pop(0)))

        def on_steps(n: int) -> None:
            beacon.steps(n)
            report.steps(n)

        executor = remote or runtime.local_executor(
            task=resolved.task,
            data=resolved.data,
            located=resolved.located,
            device=study.device,
            log_dir=directory / runtime.LOGS,
            state_dir=directory / STATE,
            on_steps=on_steps,
            limits=limits,
        )
        with closing(executor):
            done = sweep.run(
                study, resolved.trials, results_dir=results_dir, executor=executor, options=options, on_event=on_event
            )
    beacon.ended(done)
    for one in reporters:
        one.close()
    for text in told:
        print(f"warning: {text}")
    return done


def _reporters(names: Sequence[str], group: str, directory: Path, told: list[str]) -> list[Reporter]:
    if not names:
        return []
    from bench import store, trackers

    return [
        trackers.Reporter(
            name, trackers.get(name), group=group, directory=directory, warn=told.append,
            finished=lambda: store.load(directory).to_pylist(),
        )
        for name in names
    ]  # fmt: skip


def check_workers(study: Study, on_ray: OnRay | None) -> None:
    """Refuse a cluster, whose workers may share no files, for a search whose trials move from pack to pack.

    Raises:
        BadInput: for such a search on Ray.
    """
    from bench import searches

    if on_ray is None or not searches.stops(study):
        return
    why = f'sampler = "{study.sampler}"' if study.pruner is None else f'pruner = "{study.pruner}"'
    rule = f"must be local with {why}, whose trials move from pack to pack"
    raise BadInput("--executor", rule, got="ray", way_out='use --executor local, or sampler = "grid"')


def _remote(
    resolved: Resolved, directory: Path, on_ray: OnRay | None, limits: Limits, time_limit_seconds: float | None
) -> AbstractExecutor | None:
    """Return the executor of several workers, on Ray or one for each device; None for this process alone."""
    from bench.core import devices
    from bench.executors import cluster, runtime

    several = devices.workers(resolved.study.device)
    if on_ray is None:
        return None if len(several) == 1 else runtime.processes_executor(
            task=resolved.task, data=resolved.data, located=resolved.located, devices=several,
            log_dir=directory / runtime.LOGS, state_dir=directory / STATE, limits=limits,
            time_limit_seconds=time_limit_seconds,
        )  # fmt: skip
    cluster.connect(on_ray.address)
    return cluster.executor(
        task=resolved.task,
        data=resolved.data,
        located=resolved.located,
        device=devices.resolve(resolved.study.device),
        log_dir=directory / runtime.LOGS,
        state_dir=directory / STATE,
        time_limit_seconds=time_limit_seconds,
        limits=limits,
    )


def run(resolved: Resolved, results_dir: Path, *, rerun_stale: bool = False) -> SweepSummary:
    """Sweep a study, and print in a line how that ended."""
    from bench.commands import _text

    done = sweep_shown(resolved, results_dir, resolved.sweep_options(rerun_stale=rerun_stale))
    counts = f"{done.n_finished:,} of {done.n_trials:,} trials finished ({done.n_diverged:,} diverged)"
    print(f"{counts}; this run: {done.n_run:,} in {_text.duration(done.seconds)}, {done.n_failed:,} failed\n")
    return done


def unfinished(done: SweepSummary) -> int | None:
    """Return the exit code where trials are left, said in one line; None where all are finished or left out early."""
    left = done.n_trials - done.n_finished - done.n_pruned
    if left <= 0:
        return None
    reason = done.stopped or ("interrupted" if done.interrupted else f"failed trials: {done.directory / 'attempts'}")
    print(f"{left:,} of {done.n_trials:,} trials are not finished, and nothing is worked out from a part: {reason}")
    print("everything finished is kept; run the same command again")
    return done.exit_code or 1


def rows(table: pa.Table, columns: tuple[str, ...]) -> dict[str, Row]:
    """Return the rows of a study directory by trial_id, with these columns."""
    found: list[dict[str, Any]] = table.select(list(dict.fromkeys(("trial_id", *columns)))).to_pylist()
    return {row["trial_id"]: row for row in found}
