"""Rows on disk: one atomic parquet part for each pack, read back whole. Parquet is the truth about what is finished.

`<directory>/trials/<pack_id>.parquet` holds finished (ok, diverged) rows, `attempts/<pack_id>-<n>.parquet` those that
ran out of memory or failed, `rungs/` and `pruned/` those of trials that are stopped early (see stopped.py): no reader
of finished rows sees them. A part is written under a dot-prefixed name, which every reader of the directory skips,
synced, and moved into place, so that a kill at any moment leaves a whole part or none.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from bench.core.record import SCHEMA, Record, Status, to_table
from bench.core.spec import pack_id_of
from bench.store.parts import REPLACES_KEY, TEMPORARY, Finding, free, read_part, replaces, set_aside, write_part

TRIALS, ATTEMPTS, RUNGS, PRUNED = "trials", "attempts", "rungs", "pruned"
COMPACT_ROWS = 4096  # of a compacted part: replacing one of its rows writes it anew
COMPACT_FROM = 512  # small parts; each costs a reader a millisecond or two

_FINISHED = [str(status) for status in Status if status.finished]
_SORT = ("task", "model", "method", "mora_type", "rank", "eta_A", "eta_B", "seed", "trial_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What a directory of parts holds: each trial once, as SCHEMA, and what was found wrong."""

    table: pa.Table
    findings: tuple[Finding, ...]
    part_of: dict[str, str]  # trial_id -> name of the part, without .parquet, whose row counts
    replaced: frozenset[Path] = frozenset()  # parts of which a compacted one holds every row


def write(directory: Path, records: Sequence[Record], *, part: str | None = None) -> tuple[Path, ...]:
    """Store records: finished ones into one part for each pack_id (or all into `part`), paused ones for each rung.

    What ran out of memory or failed is an attempt.

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
    paused = [r for r in records if r.outcome.status is Status.PAUSED]
    for name, members in _by_pack(paused, None).items():
        path, _ = _place(directory / RUNGS, f"{name}-{members[0].outcome.steps_done}")
        write_part(path, to_table(members))
        written.append(path)
    failed = (Status.OOM, Status.FAILED)
    unfinished = _numbered(directory, [r for r in records if r.outcome.status in failed])
    for name, members in _by_pack(unfinished, None).items():
        path = free(directory / ATTEMPTS, name)
        write_part(path, to_table(members))
        written.append(path)
    return tuple(written)


def scan(directory: Path) -> Scan:
    """Read every finished row of a study directory; change nothing.

    A trial found in two parts counts once: the row that was started first, then the first part by name.
    """
    return _scan(directory / TRIALS)


def load(directory: Path) -> pa.Table:
    """Return every finished row of a study directory, each trial once, as exactly SCHEMA; unreadable parts left out."""
    return scan(directory).table


def load_columns(directory: Path, columns: Sequence[str]) -> pa.Table:
    """Return these columns of the finished rows; a trial that is in two parts comes twice."""
    tables, _ = _read_all(directory / TRIALS, list(dict.fromkeys(("trial_id", *columns))))
    schema = pa.schema([SCHEMA.field(name) for name in columns], metadata=SCHEMA.metadata)
    plain = (table.select(list(columns)).replace_schema_metadata(SCHEMA.metadata) for table in tables.values())
    return pa.concat_tables([schema.empty_table(), *plain])


def load_attempts(directory: Path) -> pa.Table:
    """Return every attempt that ran out of memory or failed, as exactly SCHEMA, oldest first."""
    tables, _ = _read_all(directory / ATTEMPTS, None)
    return pa.concat_tables([SCHEMA.empty_table(), *tables.values()]).sort_by([("started_at", "ascending")])


def finished_ids(directory: Path) -> frozenset[str]:
    """Return the ids of the trials that need no further run; reads two columns."""
    found = load_columns(directory, ("trial_id", "status"))
    return frozenset(found.filter(pc.field("status").isin(_FINISHED)).column("trial_id").to_pylist())


def recover(directory: Path) -> Scan:
    """Scan, and set aside what is ours and not in order: only under the directory's lock.

    A torn part of ours is renamed `.torn-<name>`, so that its trials run again; leftovers of killed writes go. Foreign
    files stay as they are. The findings are also about attempts.
    """
    for folder in (directory / name for name in (TRIALS, ATTEMPTS, RUNGS, PRUNED)):
        for leftover in folder.glob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
    found = scan(directory)
    for replaced in found.replaced:
        replaced.unlink(missing_ok=True)
    others = [_scan(directory / name, once=False).findings for name in (ATTEMPTS, RUNGS, PRUNED)]
    findings = (*found.findings, *itertools.chain.from_iterable(others))
    return replace(found, findings=tuple(set_aside(f) if f.kind == "torn" else f for f in findings))


def check(directory: Path) -> tuple[Finding, ...]:
    """Do as `recover` and return what was found."""
    return recover(directory).findings


def compact(directory: Path, *, at_least: int = 2) -> int:
    """Put small parts together into parts of about COMPACT_ROWS rows; return how many went. Under the directory's lock.

    Only where there are `at_least` small parts. The new part is in place before the first old one goes, and names
    those that it replaces: a reader sees every row at every moment, and after a kill the next call goes on. Programs
    that read the directory without `load` may see rows twice in between.
    """
    folder = directory / TRIALS
    if sum(1 for _ in folder.glob("[!._]*")) < at_least:
        return 0  # nothing is read for it; what a killed compaction left is removed by `recover`
    tables, _ = read_parts(folder, None)
    for path in _replaced(tables):
        path.unlink(missing_ok=True)
        del tables[path]
    small = {path: table for path, table in tables.items() if table.num_rows < COMPACT_ROWS // 2}
    groups = [group for group in _groups(small) if len(group) > 1] if len(small) >= at_least else []
    for group in groups:
        _replace(folder, group)
    return sum(map(len, groups))


def _replace(folder: Path, group: dict[Path, pa.Table]) -> None:
    """Write one part with the rows of these, then remove them."""
    table = _merge(group, once=True).table
    names = sorted(path.stem for path in group)
    path, _ = _place(folder, pack_id_of([*table.column("trial_id").to_pylist(), *names]))
    metadata = {**SCHEMA.metadata, REPLACES_KEY: " ".join(names).encode()}
    write_part(path, table.replace_schema_metadata(metadata))
    for old in group:
        old.unlink(missing_ok=True)


def _groups(parts: dict[Path, pa.Table]) -> list[dict[Path, pa.Table]]:
    """Cut parts, oldest first, into groups of at least COMPACT_ROWS rows, the last one apart."""
    groups: list[dict[Path, pa.Table]] = [{}]
    for path in sorted(parts, key=lambda path: (_first_start(parts[path]), path.name)):
        if sum(table.num_rows for table in groups[-1].values()) >= COMPACT_ROWS:
            groups.append({})
        groups[-1][path] = parts[path]
    return groups


def consolidate(directory: Path, target: Path) -> int:
    """Write every finished row into the one parquet file `target`, sorted; return how many."""
    table = sorted_rows(directory)
    write_part(target, table)
    return int(table.num_rows)


def sorted_rows(directory: Path) -> pa.Table:
    """Return every finished row, in an order that does not depend on when each was written."""
    return load(directory).sort_by([(name, "ascending") for name in _SORT])


def load_files(paths: Iterable[Path]) -> pa.Table:
    """Return the rows of consolidated files, each trial once, as exactly SCHEMA.

    Raises:
        ValueError: naming a file that is not ours.
    """
    return scan_files(paths).table


def scan_files(paths: Iterable[Path]) -> Scan:
    """Read consolidated files as `scan` reads a directory; a trial that is in two of them is a finding.

    Raises:
        ValueError: naming a file that is not ours.
    """
    tables: dict[Path, pa.Table] = {}
    for path in paths:
        found = read_part(path, None)
        if isinstance(found, Finding):
            raise ValueError(str(found))
        tables[path] = found
    return _merge(tables, once=True)


def _scan(folder: Path, *, once: bool = True) -> Scan:
    tables, findings = read_parts(folder, None)
    replaced = _replaced(tables)
    merged = _merge({path: table for path, table in tables.items() if path not in replaced}, once=once)
    return replace(merged, findings=(*findings, *merged.findings), replaced=frozenset(replaced))


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
    plain = [table.replace_schema_metadata(SCHEMA.metadata) for table in kept]
    return Scan(table=pa.concat_tables(plain), findings=tuple(findings), part_of=part_of)


def _first_start(table: pa.Table) -> str:
    return min((s for s in table.column("started_at").to_pylist() if s is not None), default="")


def _read_all(folder: Path, columns: list[str] | None) -> tuple[dict[Path, pa.Table], list[Finding]]:
    """Read every part that counts."""
    tables, findings = read_parts(folder, columns)
    replaced = _replaced(tables)
    return {path: table for path, table in tables.items() if path not in replaced}, findings


def read_parts(folder: Path, columns: list[str] | None) -> tuple[dict[Path, pa.Table], list[Finding]]:
    """Read every part; list again where one went since the listing: its rows may be in a compacted one by now."""
    read: dict[Path, pa.Table | Finding] = {}
    gone: set[Path] = set()
    whole = False
    while not whole:
        whole = True
        for path in sorted(folder.glob("[!._]*")):
            if path not in read:
                try:
                    read[path] = read_part(path, columns)
                except FileNotFoundError:
                    whole &= path in gone  # listed again and still not there: a link to nothing
                    gone.add(path)
    tables = {path: found for path, found in read.items() if not isinstance(found, Finding)}
    return tables, [found for found in read.values() if isinstance(found, Finding)]


def _replaced(tables: dict[Path, pa.Table]) -> set[Path]:
    """Return the parts all of whose rows a compacted part names and holds: a compaction was killed before they went."""
    by_name = {path.stem: path for path in tables}
    found: set[Path] = set()
    for path, table in tables.items():
        old = [by_name[name] for name in replaces(table) if name in by_name and by_name[name] != path]
        ids = set(table.column("trial_id").to_pylist()) if old else set()
        found |= {part for part in old if ids.issuperset(tables[part].column("trial_id").to_pylist())}
    return found


def _place(folder: Path, name: str) -> tuple[Path, pa.Table | None]:
    """Return where a part of this name goes, and the rows that are there already; a stranger's file is never lost."""
    path = folder / f"{name}.parquet"
    if not path.exists():
        return path, None
    old = read_part(path, None)
    if isinstance(old, Finding):
        return (path if old.kind == "torn" else free(folder, name)), None
    return path, old


def _with_kept_rows(old: pa.Table | None, table: pa.Table) -> pa.Table:
    """Return `table` after the rows of an existing part whose trials it does not bring again."""
    if old is None:
        return table
    again = pc.is_in(old.column("trial_id"), table.column("trial_id").combine_chunks())
    return pa.concat_tables([old.filter(pc.invert(again)).replace_schema_metadata(SCHEMA.metadata), table])


def _by_pack(records: Sequence[Record], part: str | None) -> dict[str, list[Record]]:
    packs: dict[str, list[Record]] = {}
    for record in records:
        packs.setdefault(part or record.pack_id, []).append(record)
    return packs


def _numbered(directory: Path, records: Sequence[Record]) -> list[Record]:
    if not records:
        return []
    paths = sorted((directory / ATTEMPTS).glob("[!._]*"))
    before = Counter(trial_id for path in paths for trial_id in _ids_of(path, path.stat().st_mtime_ns))
    return [replace(record, attempt=before[record.trial.trial_id] + 1) for record in records]


@functools.cache
def _ids_of(path: Path, changed_ns: int) -> tuple[str, ...]:
    """Return the trials of one part, read once: a sweep whose every pack fails asks for all of them at each pack."""
    found = read_part(path, ["trial_id"])
    return () if isinstance(found, Finding) else tuple(found.column("trial_id").to_pylist())
