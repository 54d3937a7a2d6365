"""What a tracker is sent: one run for each trial, under the names that transformers' integrations use.

`train/loss` and `eval/<metric>` by step (transformers.integrations.integration_utils.rewrite_logs), settings by their
column, one group for each study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.core import record

SUMMARY = ("metric_stderr", "select_metric", "train_seconds", "n_trainable", "steps_done")
LAST = "eval/metric_value"  # the score that cells are compared by, whatever the metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One finished trial."""

    trial_id: str
    group: str  # the study
    name: str  # method, rank, rates and seed, for a list of runs
    status: str
    config: Mapping[str, Any]  # settings that the trial has, by column
    points: tuple[tuple[int, Mapping[str, float]], ...]  # step, values by name
    summary: Mapping[str, float]  # values that have no step


class Tracker(Protocol):
    """Where runs go. A run that is there already, after a kill, is not written twice."""

    def send(self, run: Run) -> None:
        """Write one run whole."""

    def close(self) -> None:
        """Flush; nothing is sent afterwards."""


class Open(Protocol):
    """What a file here defines as `open_tracker`."""

    def __call__(self, group: str, directory: Path) -> Tracker:
        """Return the tracker of a study; `directory` is the study's own, for what a tracker keeps beside the rows."""


def of_row(row: Mapping[str, Any]) -> Run:
    """Return the run of a finished row."""
    config = {name: row[name] for name in record.SETTINGS if row.get(name) is not None}
    measured = {name: row[name] for name in SUMMARY if row.get(name) is not None}
    last = {} if row["metric_value"] is None else {LAST: row["metric_value"]}
    return Run(
        trial_id=row["trial_id"],
        group=row["study"],
        name=_name(row),
        status=str(row["status"]),
        config={"model": row["model"], "task": row["task"], **config},
        points=tuple(_points(row)),
        summary=last | measured,
    )


def _name(row: Mapping[str, Any]) -> str:
    """Return method, rank, rates and seed in words; a ratio of 1 is one rate and goes without saying."""
    told = [(name, row.get(name)) for name in ("rank", "eta_A", "lr_ratio")]
    parts = [f"{name} {value:.3g}" for name, value in told if value is not None and (name, value) != ("lr_ratio", 1)]
    return ", ".join([row["method"], *parts, f"seed {row['seed']}"])


def _points(row: Mapping[str, Any]) -> list[tuple[int, dict[str, float]]]:
    names = {"train_loss": "train/loss", "metric_value": f"eval/{row['metric_name']}"}
    found = []
    for point in row["curve"] or ():
        values = {name: float(point[key]) for key, name in names.items() if point.get(key) is not None}
        if values:
            found.append((int(point["step"]), values))
    return found
