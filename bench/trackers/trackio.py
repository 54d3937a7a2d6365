"""Trackio: its local store (TRACKIO_DIR), one project for each study; `trackio show` draws it.

Rows go into the store itself: `trackio.init` would start a server and a thread for each run.
"""

from __future__ import annotations

from pathlib import Path

from bench.trackers._base import Run

LIBRARY = "trackio"


class _Store:
    def __init__(self, project: str) -> None:
        self._project = project

    def send(self, run: Run) -> None:
        """Write one run, in the place of one that a kill left half written."""
        from trackio.sqlite_storage import SQLiteStorage

        name = f"{run.name} ({run.trial_id})"
        if name in SQLiteStorage.get_runs(self._project):
            SQLiteStorage.delete_run(self._project, name)
        last = run.points[-1][0] if run.points else 0
        # A name without a section is drawn above all others.
        summary = {key if "/" in key else f"summary/{key}": value for key, value in run.summary.items()}
        points = [*run.points, (last, summary)]
        SQLiteStorage.bulk_log(
            self._project,
            name,
            [dict(values) for _, values in points],
            steps=[step for step, _ in points],
            config={**run.config, "_Group": run.group, "trial_id": run.trial_id, "status": run.status},
        )

    def close(self) -> None:
        """Each call was written at once."""


def open_tracker(group: str, directory: Path) -> _Store:
    """Return the project of a study."""
    return _Store(group)
