"""bench status: how far a study is, what runs, what failed, the best cells so far; reads only, at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from bench.commands._resolve import Resolved

CLEAR = "\x1b[H\x1b[2J"  # of a terminal: to its corner, and everything gone


@study_command
def command(
    selection: Selection,
    watch: Annotated[bool, typer.Option("--watch", help="again and again, until all is finished or Ctrl-C")] = False,
    every: Annotated[float, typer.Option(help="with --watch: seconds from one look to the next", min=0.2)] = 5.0,
) -> int:
    """Tell how far a study is: finished, running, failed, time left, best cells so far."""
    import time

    from bench.commands import _last, _resolve

    resolved = _resolve.resolve(_last.as_swept(selection).study())
    directory = selection.directory(resolved.study)
    finished, text = look(resolved, directory)
    _print(text, watch)
    try:
        while watch and not finished:
            time.sleep(every)
            finished, text = look(resolved, directory)
            _print(text, watch)
    except KeyboardInterrupt:
        print()  # the end of watching is not the end of the sweep
    return 0


def look(resolved: Resolved, directory: Path) -> tuple[bool, str]:
    """Return whether every trial is finished, and what there is to tell."""
    from bench import store
    from bench.commands import _show
    from bench.core.pruned import share_saved
    from bench.core.pruned import told as told_pruned
    from bench.schedule import workloads
    from bench.sweep import live

    found, n_of_grid = store.scan(directory), len(resolved.trials)
    resolved, table, told = resolved.reading(found.table)
    rows = dict(zip(*(table.column(name).to_pylist() for name in ("trial_id", "status")), strict=True))
    attempts = frozenset(store.load_attempts(directory).column("trial_id").to_pylist())
    lines = [_show.heading(resolved, directory, workloads.place_of(resolved.study.device).device), ""]
    if resolved.is_search:
        n_finished, n_wanted, line = _searched(resolved, directory, table)
        lines.append(line)
    else:
        pruned = {row["trial_id"]: row for row in store.load_pruned(directory).to_pylist()}
        left_out = (resolved.ids & pruned.keys()) - rows.keys()
        n_wanted, n_finished = len(resolved.trials), len(resolved.ids & rows.keys()) + len(left_out)
        lines.append(_show.progress(resolved.trials, rows, attempts, pruned))
        if left_out:
            steps = {trial.trial_id: trial.budget.max_steps for trial in resolved.trials}
            share = share_saved(
                [(pruned[one]["steps_done"], steps[one]) for one in left_out], (steps[i] for i in steps if i in rows)
            )
            lines.append(told_pruned(len(left_out), share))
        if len(resolved.trials) > n_of_grid:
            lines.append(f"{len(resolved.trials) - n_of_grid:,} of them beyond the border of the grid")
    lines.append(_show.at_work(live.read(directory), n_finished, n_wanted))
    best, on_border = ((), ()) if resolved.is_search else resolved.best(table)
    if best:
        lines += ["", _show.best_table(best, resolved.task.metric, len(resolved.study.seeds), resolved.trials)]
    lines += [f"warning: {warning}" for warning in (*told, *on_border, *found.findings)]
    return n_finished >= n_wanted, "\n".join(lines)


def _searched(resolved: Resolved, directory: Path, table: pa.Table) -> tuple[int, int, str]:
    """Return how many trials of a search have ended, how many it is to have, and both in a line.

    Rows of an earlier grid in the same directory do not count.
    """
    from bench import store
    from bench.commands import _resolve
    from bench.core.pruned import share_saved, told
    from bench.sweep.optuna_mirror.reach import Reach
    from bench.sweep.optuna_mirror.space import by_search

    study, scores = resolved.study, _resolve.scores_of(table)
    pruned, attempts = (
        {r["trial_id"]: r for r in one.to_pylist()}
        for one in (store.load_pruned(directory), store.load_attempts(directory))
    )
    rows = {**attempts, **pruned, **{row["trial_id"]: row for row in table.to_pylist()}}
    found = by_search(resolved.trials, {grid.method for grid in study.grids})
    reaches = [
        Reach(study, members, higher_is_better=resolved.task.higher_is_better, fits=resolved.fits)
        for members in found.values()
    ]
    mine = {trial_id for reach in reaches for trial_id in reach.read(rows, scores)}
    n_wanted, n_added = sum(reach.n_wanted for reach in reaches), sum(reach.n_added for reach in reaches)
    n_finished, n_pruned = len(mine & scores.keys()), len((mine & pruned.keys()) - scores.keys())
    n_failed = len((mine & attempts.keys()) - scores.keys() - pruned.keys())
    line = f"sampler {study.sampler}: {n_finished:,} of {n_wanted:,} trials finished, {n_failed:,} failed"
    if n_pruned:
        left_out = [pruned[one] for one in (mine & pruned.keys()) - scores.keys()]
        share = share_saved(
            [(row["steps_done"], row["max_steps"]) for row in left_out],
            (rows[one]["max_steps"] for one in mine & scores.keys()),
        )
        line += f", {told(n_pruned, share)}"
    line += f"; {n_added:,} of them beyond the border" if n_added else ""
    return n_finished + n_pruned, n_wanted, line


def _print(text: str, watch: bool) -> None:
    import sys

    print(f"{CLEAR}{text}" if watch and sys.stdout.isatty() else f"{text}\n" if watch else text, flush=True)
