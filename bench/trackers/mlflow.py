"""MLflow: an experiment for each study; MLFLOW_TRACKING_URI, else `<study>/mlflow.db` (sqlite).

MLflow makes a new database by replaying every migration of its history: 2 s of CPU time. An empty one is kept in the
cache for each version of MLflow, and new databases begin as its copy. Runs go into the tables of such a database in
one transaction each, if MLflow's tables are those of `_KNOWN`, and by MLflow's calls elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bench.core.cache import cache_dir, write_atomic
from bench.trackers._base import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

LIBRARY = "mlflow"
_TAG = "lorasweep.trial_id"
_KNOWN = "dc11669786a5"  # the revision of MLflow's tables that `_insert` was compared with `_call` at


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """A run in MLflow's words; times in milliseconds since 1970."""

    name: str
    began: int
    ended: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: tuple[tuple[str, float, int], ...]  # name, value, step


_Write = Callable[[_Entry], None]
_Row = dict[str, Any]  # a value for each column


class _Experiment:
    """`is_new`: it has no runs of an earlier sweep, so that none has to be looked for."""

    def __init__(self, client: MlflowClient, experiment_id: str, write: _Write, *, is_new: bool) -> None:
        self._client, self._experiment_id, self._write, self._is_new = client, experiment_id, write, is_new

    def send(self, run: Run) -> None:
        """Write one run, in the place of one that a kill left half written."""
        if not self._is_new:
            self._delete(run.trial_id)
        self._write(_entry(run))

    def _delete(self, trial_id: str) -> None:
        for found in self._client.search_runs([self._experiment_id], f"tags.`{_TAG}` = '{trial_id}'"):
            self._client.delete_run(found.info.run_id)

    def close(self) -> None:
        """Each call was written at once."""


def _entry(run: Run) -> _Entry:
    now = int(time.time() * 1000)
    values = [(name, value, step) for step, at in run.points for name, value in at.items()]
    last = run.points[-1][0] if run.points else 0
    return _Entry(
        name=run.name,
        began=now - int(1000 * run.summary.get("train_seconds", 0)),  # its duration in the interface: the training
        ended=now,
        tags={_TAG: run.trial_id, "status": run.status},
        params={name: str(value)[:6000] for name, value in run.config.items()},
        metrics=(*values, *((name, float(value), last) for name, value in run.summary.items())),
    )


def open_tracker(group: str, directory: Path) -> _Experiment:
    """Return the study's experiment, made where there is none."""
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells each table of a new database
    place, database = os.environ.get("MLFLOW_TRACKING_URI"), directory / "mlflow.db"
    client = MlflowClient(place) if place else _of_file(database)
    found = client.get_experiment_by_name(group)
    experiment_id = client.create_experiment(group) if found is None else found.experiment_id
    write: _Write = partial(_call, client, experiment_id)
    if not place and _revision(database) == _KNOWN:
        write = partial(_insert, database, client.get_experiment(experiment_id))
    return _Experiment(client, experiment_id, write, is_new=found is None)


def _call(client: MlflowClient, experiment_id: str, entry: _Entry) -> None:
    """Write a run by MLflow's calls, wherever it goes."""
    from mlflow.entities import Metric, Param

    made = client.create_run(experiment_id, entry.began, run_name=entry.name, tags=dict(entry.tags))
    client.log_batch(
        made.info.run_id,
        metrics=[Metric(name, value, entry.ended, step) for name, value, step in entry.metrics],
        params=[Param(name, value) for name, value in entry.params.items()],
    )
    client.set_terminated(made.info.run_id, end_time=entry.ended)


def _insert(database: Path, experiment: Experiment, entry: _Entry) -> None:
    """Write the rows that `_call` leaves in a database, in one transaction.

    Its three calls take 35 ms of CPU time, most of it in sessions of SQLAlchemy; this takes 5.
    """
    run_id = uuid.uuid4().hex
    run: _Row = {
        "name": entry.name, "experiment_id": int(experiment.experiment_id), "status": "FINISHED",
        "start_time": entry.began, "end_time": entry.ended, "lifecycle_stage": "active", "user_id": "unknown",
        "artifact_uri": f"{experiment.artifact_location}/{run_id}/artifacts", "source_type": "UNKNOWN",
        "source_name": "", "source_version": "", "entry_point_name": "",
    }  # fmt: skip
    tags = {**entry.tags, "mlflow.runName": entry.name}
    metrics = _unique(_metric(*one, entry.ended) for one in entry.metrics)
    latest = {one["key"]: one for one in sorted(metrics, key=lambda one: (one["step"], one["value"]))}
    rows: dict[str, list[_Row]] = {
        "runs": [run],
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
        "params": [{"key": key, "value": value} for key, value in entry.params.items()],
        "metrics": metrics,
        "latest_metrics": [*latest.values()],
    }
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        for table, of_run in rows.items():
            _add(connection, table, [{"run_uuid": run_id, **row} for row in of_run])


def _metric(name: str, value: float, step: int, at: int) -> _Row:
    """Return a value as MLflow keeps it: 0 with a mark for nan, the largest number for infinity."""
    most = sys.float_info.max
    kept = 0.0 if math.isnan(value) else max(-most, min(most, value))
    return {"key": name, "value": kept, "step": step, "timestamp": at, "is_nan": math.isnan(value)}


def _unique(rows: Iterable[_Row]) -> list[_Row]:
    return [*{tuple(row.values()): row for row in rows}.values()]


def _add(connection: sqlite3.Connection, table: str, rows: list[_Row]) -> None:
    """Insert rows that have the same columns."""
    if rows:
        names = ", ".join(rows[0])
        places = ", ".join(f":{name}" for name in rows[0])
        connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({places})", rows)


def _revision(database: Path) -> str:
    """Return the revision of MLflow's tables."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        found: str = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        return found


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
