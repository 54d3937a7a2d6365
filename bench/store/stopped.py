"""Trials that are stopped early: what is known of them at rungs, and the rows of those that were left out there.

Both lie in directories of their own (`rungs/`, `pruned/`), so that no reader of finished rows ever sees them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.core.record import SCHEMA
from bench.core.spec import pack_id_of
from bench.store.parts import write_part
from bench.store.rows import PRUNED, RUNGS, read_parts


def write_pruned(directory: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Store the rows of trials that were left out at a rung: all of them or none, at whatever moment it is killed.

    Raises:
        OSError: a full disk, say.
    """
    path = directory / PRUNED / f"{pack_id_of(row['trial_id'] for row in rows)}.parquet"
    write_part(path, pa.Table.from_pylist(list(rows), schema=SCHEMA))
    return path


def load_rungs(directory: Path) -> pa.Table:
    """Return what is known of trials at rungs, a row for each trial and rung, as SCHEMA, early rungs first."""
    return _load(directory / RUNGS)


def load_pruned(directory: Path) -> pa.Table:
    """Return the rows of trials that were left out at a rung, as SCHEMA."""
    return _load(directory / PRUNED)


def rungs_reached(directory: Path) -> dict[str, int]:
    """Return the last rung of each trial that was at one, by trial_id; reads two columns."""
    table = _load(directory / RUNGS, ["trial_id", "steps_done"])
    return dict(zip(*(table.column(name).to_pylist() for name in ("trial_id", "steps_done")), strict=True))


def pruned_ids(directory: Path) -> frozenset[str]:
    """Return the ids of the trials that were left out at a rung; a finished one may be among them."""
    return frozenset(_load(directory / PRUNED, ["trial_id", "steps_done"]).column("trial_id").to_pylist())


def _load(folder: Path, columns: list[str] | None = None) -> pa.Table:
    tables, _ = read_parts(folder, columns)
    empty = SCHEMA.empty_table() if columns is None else SCHEMA.empty_table().select(columns)
    plain = (table.replace_schema_metadata(SCHEMA.metadata) for table in tables.values())
    return pa.concat_tables([empty, *plain]).sort_by([("steps_done", "ascending")])
