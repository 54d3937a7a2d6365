"""bench plan: what a sweep would run and how long it would take; imports no torch and changes nothing."""

from __future__ import annotations

from bench.commands._options import Selection, study_command


@study_command
def command(selection: Selection) -> int:
    """Print trials, packs, what is finished and the time estimate, and stop."""
    from bench import sweep
    from bench.commands import _resolve, _show

    resolved = _resolve.resolve(selection.study())
    options = resolved.sweep_options()
    preview = sweep.preview(resolved.study, resolved.trials, results_dir=selection.results_dir, options=options)
    print(_show.heading(resolved, selection.directory(resolved.study), options.place.device))
    print()
    print(_show.plan(resolved.study, preview))
    return 0
