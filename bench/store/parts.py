"""One part: a parquet file of rows, written whole or not at all, and read as SCHEMA or found to be something else."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from bench.core.errors import one_line
from bench.core.record import SCHEMA, SCHEMA_VERSION

LARGE_ROWS = 256
TEMPORARY, TORN = ".writing-", ".torn-"
REPLACES_KEY = b"lorasweep_replaces"  # of a compacted part: the parts whose rows it holds, which may still be there

_VERSION_KEY = b"lorasweep_schema_version"
_OUR_NAME = re.compile(r"[0-9a-f]{16}(-\d+)?\.parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something in a results directory that is not a whole part of ours, or a trial that is there twice."""

    kind: Literal["torn", "foreign", "newer", "duplicate"]
    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


def write_part(path: Path, table: pa.Table) -> None:
    """Write one parquet file: temporary name beside it, fsync, os.replace, fsync of the directory.

    Raises:
        OSError: a full disk, say; what was at `path` before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{path.name}"
    try:
        with open(temporary, "wb") as stream:
            # Statistics and dictionaries would be a third of a part of a few rows.
            large = table.num_rows >= LARGE_ROWS
            pq.write_table(
                table,
                stream,
                compression="zstd",
                write_page_checksum=True,
                write_statistics=large,
                use_dictionary=large,
            )
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def read_part(path: Path, columns: list[str] | None) -> pa.Table | Finding:
    """Return one part as SCHEMA (or those columns of it), or what is wrong with it.

    Raises:
        FileNotFoundError: it is not there (any more).
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY)
            if version is None or not version.isdigit():
                return Finding(kind="foreign", path=path, detail="not written by lorasweep; left alone and not read")
            if int(version) > SCHEMA_VERSION:
                detail = f"written by a newer lorasweep (schema {int(version)}, here {SCHEMA_VERSION}); not read"
                return Finding(kind="newer", path=path, detail=detail)
            # a part is small: handing its columns to threads costs more than reading them
            table = file.read(columns, use_threads=False)
            table.validate(full=True)  # text that is no UTF-8 would fail later, far from the name of its file
            return _unify(table, columns)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if _OUR_NAME.fullmatch(path.name):
            return Finding(kind="torn", path=path, detail=f"a torn part ({_short(error)}); its trials run again")
        detail = f"not a parquet part ({_short(error)}); left alone and not read"
        return Finding(kind="foreign", path=path, detail=detail)


def _unify(table: pa.Table, columns: list[str] | None) -> pa.Table:
    """Return the table with exactly SCHEMA's columns and types: what an older schema lacked is null."""
    schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    names = (table.schema.metadata or {}).get(REPLACES_KEY)
    if names is not None:
        schema = schema.with_metadata({**(schema.metadata or {}), REPLACES_KEY: names})
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    arrays = [
        table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def replaces(table: pa.Table) -> list[str]:
    """Return the names of the parts whose rows a compacted part holds."""
    names = (table.schema.metadata or {}).get(REPLACES_KEY, b"")
    return str(names.decode("ascii", "replace")).split()


def free(folder: Path, name: str) -> Path:
    """Return the first of `<name>-1.parquet`, `<name>-2.parquet`, ... that is not there."""
    n = 1
    while (folder / f"{name}-{n}.parquet").exists():
        n += 1
    return folder / f"{name}-{n}.parquet"


def set_aside(finding: Finding) -> Finding:
    """Rename the file that was found `.torn-<name>`, which readers skip; return the finding, which says so."""
    name, n = finding.path.name, 1
    while (target := finding.path.with_name(TORN + name)).exists():
        n += 1
        name = f"{finding.path.name}.{n}"
    os.replace(finding.path, target)
    _sync_directory(target.parent)
    return replace(finding, detail=f"{finding.detail}; renamed {target.name}")


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _short(error: Exception) -> str:
    return one_line(str(error))[:120]
