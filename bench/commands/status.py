"""bench status: how far a study is, what failed, the best cells so far; reads only, while a sweep runs or not."""

from __future__ import annotations

from bench.commands._options import Selection, study_command


@study_command
def command(selection: Selection) -> int:
    """Tell how far a study is: finished, diverged, failed, best cells so far."""
    from bench import store
    from bench.commands import _resolve, _show

    resolved = _resolve.resolve(selection.study())
    directory = selection.directory(resolved.study)
    found = store.scan(directory)
    rows = dict(zip(*(found.table.column(name).to_pylist() for name in ("trial_id", "status")), strict=True))
    attempts = frozenset(store.load_attempts(directory).column("trial_id").to_pylist())
    by_method = resolved.by_method()
    print(_show.heading(resolved, directory))
    print()
    print(_show.progress(by_method, rows, attempts))
    best = resolved.best(found.table)
    if best:
        print()
        print(_show.best_table(best, resolved.task.metric))
        for line in _show.border_warnings(best):
            print(line)
    for finding in found.findings:
        print(finding)
    return 0
