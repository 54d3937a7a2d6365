"""What trains, or says what would train."""

from __future__ import annotations

import contextlib
import io
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api._settings import on_study

if TYPE_CHECKING:
    import pandas as pd

    from bench.commands._options import Selection
    from bench.commands._resolve import Resolved
    from bench.sweep import SweepSummary


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a sweep would do. `str(plan)` is what the command prints.

    `trials` has one row for each trial: its id, seed, settings, and whether it is finished. `seconds` is the estimate
    of what is left, None where nothing tells; `calibrated` says whether it rests on a measurement on this device.
    """

    trials: pd.DataFrame
    n_finished: int
    n_packs: int  # left to run
    seconds: float | None
    calibrated: bool
    text: str

    def __str__(self) -> str:
        return self.text


@on_study
def sweep(*, selection: Selection, progress: bool = True, rerun_stale: bool = False) -> pd.DataFrame:
    """Run the trials of a study that are not finished, and return the rows of all: one per trial, columns as stored.

    Args:
        progress: whether to print the plan and show how far the sweep is.
        rerun_stale: whether to repeat rows of other versions of the code.

    Raises:
        BadInput: for whatever the command refuses, before anything trains.
        KeyboardInterrupt: where it was interrupted; everything finished is kept, the same call resumes.
        RuntimeError: where the sweep had to stop, such as for a full disk.
    """
    from bench import store
    from bench.commands import _last, _resolve
    from bench.commands import _run as running

    study = selection.study()
    resolved = _resolve.resolve_to_train(study)
    options = resolved.sweep_options(rerun_stale=rerun_stale)
    _last.keep(selection, study)
    with shown(progress):
        done = running.sweep_shown(resolved, selection.results_dir, options)
    _tell(done)
    return _rows(resolved, store.load(done.directory))


@on_study
def plan(*, selection: Selection) -> Plan:
    """Return what `sweep` would do with the same arguments: its trials, how many are finished, and how long it takes.

    Raises:
        BadInput: for whatever the command refuses.
    """
    import pandas as pd

    from bench import sweep as sweeping
    from bench.commands import _resolve, _show
    from bench.study import varying

    resolved = _resolve.resolve_to_train(selection.study())
    options = resolved.sweep_options()
    found = sweeping.preview(resolved.study, resolved.trials, results_dir=selection.results_dir, options=options)
    left = {trial.trial_id for pack in found.pending for trial in pack.trials}
    rows = [
        {"trial_id": t.trial_id, "seed": t.seed, **varying.settings_of(t), "finished": t.trial_id not in left}
        for t in resolved.trials
    ]
    directory = selection.directory(resolved.study)
    heading = _show.heading(resolved, directory, options.place.device)
    return Plan(
        trials=pd.DataFrame(rows),
        n_finished=found.n_finished,
        n_packs=len(found.pending),
        seconds=None if found.estimate is None else found.estimate.seconds,
        calibrated=found.estimate is not None and found.estimate.calibrated,
        text=f"{heading}\n\n{_show.plan(resolved.study, found)}",
    )


def shown(progress: bool) -> AbstractContextManager[Any]:
    """Return what a run goes on in: with `progress` as it is, else with nothing printed."""
    return contextlib.nullcontext() if progress else contextlib.redirect_stdout(io.StringIO())


def _tell(done: SweepSummary) -> None:
    """Raise or warn of how a sweep ended, where it did not end well."""
    if done.stopped is not None:
        raise RuntimeError(done.stopped)
    if done.interrupted:
        raise KeyboardInterrupt("everything finished is kept; the same call resumes")
    if done.n_failed:
        text = f"{done.n_failed:,} trials failed: {done.directory / 'attempts'}; call again to retry"
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def _rows(resolved: Resolved, table: Any) -> pd.DataFrame:
    """Return the study's own rows."""
    from bench.commands._last import of_ids

    readable, own, _ = resolved.reading(table)
    frame: pd.DataFrame = (own if readable.is_search else of_ids(own, readable.ids)).to_pandas()
    return frame
