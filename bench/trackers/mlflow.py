"""MLflow: an experiment for each study; MLFLOW_TRACKING_URI, else `<study>/mlflow.db` (sqlite).

MLflow makes a new database by replaying every migration of its history: 2 s of CPU time. An empty one is kept in the
cache for each version of MLflow, and new databases begin as its copy.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bench.core.cache import cache_dir, write_atomic
from bench.trackers._base import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

LIBRARY = "mlflow"
_TAG = "lorasweep.trial_id"


class _Experiment:
    """`is_new`: it has no runs of an earlier sweep, so that none has to be looked for."""

    def __init__(self, client: MlflowClient, experiment_id: str, *, is_new: bool) -> None:
        self._client, self._experiment_id, self._is_new = client, experiment_id, is_new

    def send(self, run: Run) -> None:
        """Write one run, in the place of one that a kill left half written."""
        from mlflow.entities import Metric, Param

        if not self._is_new:
            self._delete(run.trial_id)
        now = int(time.time() * 1000)
        values = [(step, name, value) for step, at in run.points for name, value in at.items()]
        values += [(run.points[-1][0] if run.points else 0, name, float(value)) for name, value in run.summary.items()]
        began = now - int(1000 * run.summary.get("train_seconds", 0))  # its duration in the interface: the training
        made = self._client.create_run(
            self._experiment_id, began, run_name=run.name, tags={_TAG: run.trial_id, "status": run.status}
        )
        self._client.log_batch(
            made.info.run_id,
            metrics=[Metric(name, value, now, step) for step, name, value in values],
            params=[Param(name, str(value)[:6000]) for name, value in run.config.items()],
        )
        self._client.set_terminated(made.info.run_id, end_time=now)

    def _delete(self, trial_id: str) -> None:
        for found in self._client.search_runs([self._experiment_id], f"tags.`{_TAG}` = '{trial_id}'"):
            self._client.delete_run(found.info.run_id)

    def close(self) -> None:
        """Each call was written at once."""


def open_tracker(group: str, directory: Path) -> _Experiment:
    """Return the study's experiment, made where there is none."""
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells each table of a new database
    place = os.environ.get("MLFLOW_TRACKING_URI")
    client = MlflowClient(place) if place else _of_file(directory / "mlflow.db")
    found = client.get_experiment_by_name(group)
    if found is None:
        return _Experiment(client, client.create_experiment(group), is_new=True)
    return _Experiment(client, found.experiment_id, is_new=False)


def _of_file(database: Path) -> MlflowClient:
    """Return the client of a database of its own, which is a copy of the cache's empty one where it is new."""
    from mlflow import MlflowClient, __version__

    empty = cache_dir() / "mlflow" / f"{__version__}.db"
    is_new = not database.exists()
    if is_new:
        with contextlib.suppress(OSError):  # none is kept yet, or no cache: MlflowClient makes the tables
            _copy(empty.read_bytes(), database)
    client = MlflowClient(f"sqlite:///{database}")
    if is_new:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
            _keep(database, empty)
    return client


def _keep(database: Path, empty: Path) -> None:
    """Keep the tables of a database without its default experiment, whose artifacts lie in this working directory."""
    if empty.exists():
        return
    with contextlib.closing(sqlite3.connect(database)) as made, contextlib.closing(sqlite3.connect(":memory:")) as kept:
        made.backup(kept)
        kept.execute("DELETE FROM experiments")  # MLflow makes its default experiment where there is none
        kept.commit()
        _copy(kept.serialize(), empty)


def _copy(content: bytes, path: Path) -> None:
    def write(stream: BinaryIO) -> None:
        stream.write(content)

    write_atomic(path, write)
