"""The rows of a study on disk: atomic Parquet parts, one for each pack, and the lock that keeps sweeps apart."""

from bench.store.parts import read_part, write_part
from bench.store.rows import (
    ATTEMPTS,
    COMPACT_FROM,
    TRIALS,
    Scan,
    check,
    compact,
    consolidate,
    finished_ids,
    load,
    load_attempts,
    load_columns,
    load_files,
    recover,
    scan,
    scan_files,
    sorted_rows,
    write,
)

__all__ = [
    "ATTEMPTS",
    "COMPACT_FROM",
    "TRIALS",
    "Scan",
    "check",
    "compact",
    "consolidate",
    "finished_ids",
    "load",
    "load_attempts",
    "load_columns",
    "load_files",
    "read_part",
    "recover",
    "scan",
    "scan_files",
    "sorted_rows",
    "write",
    "write_part",
]
