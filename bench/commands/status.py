"""bench status: how far a study is, what failed, the best cells so far; reads only, while a sweep runs or not."""

from __future__ import annotations

from bench.commands._options import Selection, study_command


@study_command
def command(selection: Selection) -> int:
    """Tell how far a study is: finished, diverged, failed, best cells so far."""
    from bench import runtime, store
    from bench.commands import _resolve, _show

    resolved = _resolve.resolve(selection.study())
    directory = selection.directory(resolved.study)
    found = store.scan(directory)
    rows = dict(zip(*(found.table.column(name).to_pylist() for name in ("trial_id", "status")), strict=True))
    attempts = frozenset(store.load_attempts(directory).column("trial_id").to_pylist())
    print(_show.heading(resolved, directory, runtime.place_of(resolved.study.device).device))
    print()
    if resolved.is_search:
        n_wanted = (resolved.study.n_trials or 0) * len(resolved.study.grids)
        print(f"sampler tpe: {len(rows):,} of {n_wanted:,} trials finished, {len(attempts):,} failed")
        return 0
    print(_show.progress(resolved.trials, rows, attempts))
    best, on_border = resolved.best(found.table)
    if best:
        print()
        print(_show.best_table(best, resolved.task.metric, len(resolved.study.seeds)))
    for warning in (*on_border, *found.findings):
        print(f"warning: {warning}")
    return 0
