"""Rows on disk: one atomic parquet part for each pack, read back whole. Parquet is the truth about what is finished.

`<directory>/trials/<pack_id>.parquet` holds finished (ok, diverged) rows, `attempts/<pack_id>-<n>.parquet` those that
ran out of memory or failed. A part is written under a dot-prefixed name, which every reader of the directory skips,
synced, and moved into place, so that a kill at any moment leaves a whole part or none.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.errors import one_line
from bench.record import SCHEMA, SCHEMA_VERSION, Record, Status, to_table

TRIALS, ATTEMPTS = "trials", "attempts"
LARGE_ROWS = 256
TEMPORARY, TORN = ".writing-", ".torn-"

_VERSION_KEY = b"lorasweep_schema_version"
_OUR_NAME = re.compile(r"[0-9a-f]{16}(-\d+)?\.parquet")
_FINISHED = [str(status) for status in Status if status.finished]
_SORT = ("task", "model", "method", "mora_type", "rank", "eta_A", "eta_B", "seed", "trial_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something in a results directory that is not a whole part of ours, or a trial that is there twice."""

    kind: Literal["torn", "foreign", "newer", "duplicate"]
    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What a directory of parts holds: each trial once, as SCHEMA, and what was found wrong."""

    table: pa.Table
    findings: tuple[Finding, ...]
    part_of: dict[str, str]  # trial_id -> name of the part, without .parquet, whose row counts


def write(directory: Path, records: Sequence[Record], *, part: str | None = None) -> tuple[Path, ...]:
    """Store records: finished ones into one part for each pack_id (or all into `part`), the others as attempts.

    A part that exists keeps the rows of trials that `records` does not bring again; a file in its place that is not
    ours to read stays, and the part gets another name. Attempts get the next number of their trial.

    Raises:
        OSError: a full disk, say; the parts that were there before are untouched.
    """
    written: list[Path] = []
    for name, members in _by_pack([r for r in records if r.outcome.status.finished], part).items():
        path, kept = _place(directory / TRIALS, name)
        write_part(path, _with_kept_rows(kept, to_table(members)))
        written.append(path)
    unfinished = _numbered(directory, [r for r in records if not r.outcome.status.finished])
    for name, members in _by_pack(unfinished, None).items():
        path = _free(directory / ATTEMPTS, name)
        write_part(path, to_table(members))
        written.append(path)
    return tuple(written)


def write_part(path: Path, table: pa.Table) -> None:
    """Write one parquet file: temporary name beside it, fsync, os.replace, fsync of the directory."""
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


def scan(directory: Path) -> Scan:
    """Read every finished row of a study directory; change nothing.

    A trial found in two parts counts once: the row that was started first, then the first part by name.
    """
    return _scan(directory / TRIALS)


def load(directory: Path) -> pa.Table:
    """Return every finished row of a study directory, each trial once, as exactly SCHEMA; unreadable parts left out."""
    return scan(directory).table


def load_attempts(directory: Path) -> pa.Table:
    """Return every attempt that ran out of memory or failed, as exactly SCHEMA, oldest first."""
    tables, _ = _read_all(directory / ATTEMPTS, None)
    return pa.concat_tables([SCHEMA.empty_table(), *tables.values()]).sort_by([("started_at", "ascending")])


def finished_ids(directory: Path) -> frozenset[str]:
    """Return the ids of the trials that need no further run; reads two columns."""
    tables, _ = _read_all(directory / TRIALS, ["trial_id", "status"])
    done = (t.filter(pc.field("status").isin(_FINISHED)).column("trial_id").to_pylist() for t in tables.values())
    return frozenset(trial_id for ids in done for trial_id in ids)


def recover(directory: Path) -> Scan:
    """Scan, and set aside what is ours and not in order: only under the directory's lock.

    A torn part of ours is renamed `.torn-<name>`, so that its trials run again; leftovers of killed writes go. Foreign
    files stay as they are. The findings are also about attempts.
    """
    for folder in (directory / TRIALS, directory / ATTEMPTS):
        for leftover in folder.glob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
    found = scan(directory)
    findings = (*found.findings, *_scan(directory / ATTEMPTS, once=False).findings)
    return replace(found, findings=tuple(_set_aside(f) if f.kind == "torn" else f for f in findings))


def check(directory: Path) -> tuple[Finding, ...]:
    """Do as `recover` and return what was found."""
    return recover(directory).findings


def consolidate(directory: Path, target: Path) -> int:
    """Write every finished row into the one parquet file `target`, sorted; return how many."""
    table = load(directory).sort_by([(name, "ascending") for name in _SORT])
    write_part(target, table)
    return int(table.num_rows)


def load_files(paths: Iterable[Path]) -> pa.Table:
    """Return the rows of consolidated files, each trial once, as exactly SCHEMA.

    Raises:
        ValueError: naming a file that is not ours.
    """
    tables: dict[Path, pa.Table] = {}
    for path in paths:
        found = _read(path, None)
        if isinstance(found, Finding):
            raise ValueError(str(found))
        tables[path] = found
    return _merge(tables, once=True).table


def _scan(folder: Path, *, once: bool = True) -> Scan:
    tables, findings = _read_all(folder, None)
    merged = _merge(tables, once=once)
    return replace(merged, findings=(*findings, *merged.findings))


def _merge(tables: dict[Path, pa.Table], *, once: bool) -> Scan:
    """Concatenate parts, oldest first; with `once`, a trial's later rows become findings."""
    part_of: dict[str, str] = {}
    findings: list[Finding] = []
    kept: list[pa.Table] = [SCHEMA.empty_table()]
    for path, table in sorted(tables.items(), key=lambda item: (_first_start(item[1]), item[0].name)):
        new: list[bool] = []
        for trial_id in table.column("trial_id").to_pylist():
            new.append(not once or trial_id not in part_of)
            first = part_of.setdefault(trial_id, path.stem)
            if not new[-1]:
                detail = f"trial {trial_id} is also in {first}.parquet, whose row counts"
                findings.append(Finding(kind="duplicate", path=path, detail=detail))
        kept.append(table if all(new) else table.filter(pa.array(new)))
    return Scan(table=pa.concat_tables(kept), findings=tuple(findings), part_of=part_of)


def _first_start(table: pa.Table) -> str:
    return min((s for s in table.column("started_at").to_pylist() if s is not None), default="")


def _read_all(folder: Path, columns: list[str] | None) -> tuple[dict[Path, pa.Table], list[Finding]]:
    tables: dict[Path, pa.Table] = {}
    findings: list[Finding] = []
    for path in sorted(folder.glob("*")):
        if path.name.startswith((".", "_")):
            continue
        try:
            found = _read(path, columns)
        except FileNotFoundError:
            continue  # moved by a sweep since the listing
        if isinstance(found, Finding):
            findings.append(found)
        else:
            tables[path] = found
    return tables, findings


def _read(path: Path, columns: list[str] | None) -> pa.Table | Finding:
    """Return one part as SCHEMA (or those columns of it), or what is wrong with it."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY)
            if version is None or not version.isdigit():
                return Finding(kind="foreign", path=path, detail="not written by lorasweep; left alone and not read")
            if int(version) > SCHEMA_VERSION:
                detail = f"written by a newer lorasweep (schema {int(version)}, here {SCHEMA_VERSION}); not read"
                return Finding(kind="newer", path=path, detail=detail)
            return _unify(file.read(columns), columns)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        if _OUR_NAME.fullmatch(path.name):
            return Finding(kind="torn", path=path, detail=f"a torn part ({_short(error)}); its trials run again")
        detail = f"not a parquet part ({_short(error)}); left alone and not read"
        return Finding(kind="foreign", path=path, detail=detail)


def _unify(table: pa.Table, columns: list[str] | None) -> pa.Table:
    """Return the table with exactly SCHEMA's columns and types: what an older schema lacked is null."""
    schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    arrays = [
        table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def _place(folder: Path, name: str) -> tuple[Path, pa.Table | None]:
    """Return where a part of this name goes, and the rows that are there already; a stranger's file is never lost."""
    path = folder / f"{name}.parquet"
    if not path.exists():
        return path, None
    old = _read(path, None)
    if isinstance(old, Finding):
        return (path if old.kind == "torn" else _free(folder, name)), None
    return path, old


def _with_kept_rows(old: pa.Table | None, table: pa.Table) -> pa.Table:
    """Return `table` after the rows of an existing part whose trials it does not bring again."""
    if old is None:
        return table
    again = pc.is_in(old.column("trial_id"), table.column("trial_id").combine_chunks())
    return pa.concat_tables([old.filter(pc.invert(again)), table])


def _by_pack(records: Sequence[Record], part: str | None) -> dict[str, list[Record]]:
    packs: dict[str, list[Record]] = {}
    for record in records:
        packs.setdefault(part or record.pack_id, []).append(record)
    return packs


def _numbered(directory: Path, records: Sequence[Record]) -> list[Record]:
    if not records:
        return []
    tables, _ = _read_all(directory / ATTEMPTS, ["trial_id"])
    before = Counter(trial_id for t in tables.values() for trial_id in t.column("trial_id").to_pylist())
    return [replace(record, attempt=before[record.trial.trial_id] + 1) for record in records]


def _free(folder: Path, name: str) -> Path:
    n = 1
    while (folder / f"{name}-{n}.parquet").exists():
        n += 1
    return folder / f"{name}-{n}.parquet"


def _set_aside(finding: Finding) -> Finding:
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
