"""bench status: how far a study is, what runs, what failed, the best cells so far; reads only, at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command

if TYPE_CHECKING:
    from pathlib import Path

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
    from bench.schedule import workloads
    from bench.sweep import live
    from bench.sweep.optuna_mirror.space import n_searches

    found = store.scan(directory)
    resolved, table, told = resolved.reading(found.table)
    rows = dict(zip(*(table.column(name).to_pylist() for name in ("trial_id", "status")), strict=True))
    attempts = frozenset(store.load_attempts(directory).column("trial_id").to_pylist())
    lines = [_show.heading(resolved, directory, workloads.place_of(resolved.study.device).device), ""]
    if resolved.is_search:
        methods = {grid.method for grid in resolved.study.grids}
        n_wanted = (resolved.study.n_trials or 0) * n_searches(resolved.trials, methods)
        n_pruned = len(_pruned(directory) - rows.keys())
        n_finished = len(rows) + n_pruned
        counts = f"sampler tpe: {len(rows):,} of {n_wanted:,} trials finished, {len(attempts):,} failed"
        lines.append(f"{counts}, {n_pruned:,} pruned" if n_pruned else counts)
    else:
        n_pruned = len((resolved.ids & _pruned(directory)) - rows.keys())
        n_wanted, n_finished = len(resolved.trials), len(resolved.ids & rows.keys()) + n_pruned
        lines.append(_show.progress(resolved.trials, rows, attempts, _pruned(directory)))
    lines.append(_show.at_work(live.read(directory), n_finished, n_wanted))
    best, on_border = ((), ()) if resolved.is_search else resolved.best(table)
    if best:
        lines += ["", _show.best_table(best, resolved.task.metric, len(resolved.study.seeds), resolved.trials)]
    lines += [f"warning: {warning}" for warning in (*told, *on_border, *found.findings)]
    return n_finished >= n_wanted, "\n".join(lines)


def _pruned(directory: Path) -> frozenset[str]:
    """Return the ids of the trials that were left out at a rung."""
    from bench import store

    return store.pruned_ids(directory)


def _print(text: str, watch: bool) -> None:
    import sys

    print(f"{CLEAR}{text}" if watch and sys.stdout.isatty() else f"{text}\n" if watch else text, flush=True)
