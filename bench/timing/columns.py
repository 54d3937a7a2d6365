"""What the tables of measured speeds (bench/timing) share: what a run says of itself; their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import pyarrow as pa

from bench.core import record
from bench.core.record import Column, Provenance

SETTING_COLUMNS: tuple[Column, ...] = (
    *record.columns("task"),
    Column(name="model", type=pa.string(), meaning="name of the model"),
)
# The end of every such table: where a run took place, when, and with which code.
RUN_COLUMNS: tuple[Column, ...] = (
    Column(name="threads", type=pa.int64(), meaning="torch's threads"),
    Column(
        name="load_share", type=pa.float64(), meaning="share of the device at work before the run; null: not known"
    ),
    *record.columns(
        "device", "started_at", "git_commit", "git_dirty", "source_hash", "versions", "schema_version"
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(Provenance):
    """What all rows of a run share, whatever it measures."""

    task: str
    model: str
    batch_size: int
    threads: int
    load_share: float | None
    started_at: str  # ISO 8601, UTC, to the second


def to_table(rows: Sequence[Mapping[str, object]], run: Run, *, schema: pa.Schema, schema_version: int) -> pa.Table:
    """Return the rows, each with what the run says, as an arrow table of exactly `schema`.

    Raises:
        ValueError: for a row that lacks a column, or has one that the schema lacks.
    """
    shared = {f.name: getattr(run, f.name) for f in fields(run)} | {"schema_version": schema_version}
    whole = [shared | dict(row) for row in rows]
    for row in whole:
        if set(row) != set(schema.names):
            raise ValueError(f"a row is of other columns: {sorted(set(row) ^ set(schema.names))}")
    return pa.Table.from_pylist(whole, schema=schema)
