"""Parts on disk: atomic, each trial once, torn ones set aside, foreign ones left alone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import store
from bench.core.errors import BadInput
from bench.core.record import SCHEMA, Record, Status, to_table
from bench.store import lock, parts
from bench.store import rows as stored_rows
from tests.support.sweep_helpers import grid, ids, records

TRIALS = grid()


def part(directory: Path, *trials_from: Record) -> Path:
    return store.write(directory, list(trials_from))[0]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    first, second = records(TRIALS[:4]), records(TRIALS[4:6])
    paths = store.write(tmp_path, [*first, *second])
    assert [path.stem for path in paths] == [first[0].pack_id, second[0].pack_id]
    table = store.load(tmp_path)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    expected = to_table([*first, *second]).to_pylist()
    assert sorted(table.to_pylist(), key=str) == sorted(expected, key=str)
    assert store.finished_ids(tmp_path) == {t.trial_id for t in TRIALS[:6]}
    assert store.check(tmp_path) == ()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(p.name for p in paths)


def test_an_empty_directory_holds_nothing(tmp_path: Path) -> None:
    assert store.load(tmp_path).schema.equals(SCHEMA)
    assert store.load(tmp_path / "none").num_rows == store.load_attempts(tmp_path).num_rows == 0
    assert store.finished_ids(tmp_path / "none") == frozenset()
    assert store.check(tmp_path) == ()


def test_attempts_are_counted_and_never_among_the_trials(tmp_path: Path) -> None:
    for status in (Status.OOM, Status.FAILED):
        store.write(tmp_path, records(TRIALS[:2], status=status, reason="because", metric_value=None))
    store.write(tmp_path, records(TRIALS[:1], status=Status.FAILED))
    assert store.load(tmp_path).num_rows == 0
    rows = store.load_attempts(tmp_path).to_pylist()
    assert sorted((r["trial_id"], r["attempt"]) for r in rows) == sorted(
        [(TRIALS[0].trial_id, 1), (TRIALS[0].trial_id, 2), (TRIALS[0].trial_id, 3),
         (TRIALS[1].trial_id, 1), (TRIALS[1].trial_id, 2)]
    )  # fmt: skip
    assert store.check(tmp_path) == ()


def test_a_pack_with_both_goes_to_both(tmp_path: Path) -> None:
    mixed = [*records(TRIALS[:1]), *records(TRIALS[1:2], status=Status.FAILED)]
    store.write(tmp_path, [replace(r, pack_id="ab" * 8) for r in mixed])
    assert store.finished_ids(tmp_path) == {TRIALS[0].trial_id}
    assert store.load_attempts(tmp_path)["trial_id"].to_pylist() == [TRIALS[1].trial_id]


def test_a_part_written_again_keeps_the_rows_that_do_not_come_again(tmp_path: Path) -> None:
    path = part(tmp_path, *records(TRIALS[:3]))
    store.write(tmp_path, records(TRIALS[1:2], metric_value=0.125), part=path.stem)
    rows = {row["trial_id"]: row["metric_value"] for row in pq.read_table(path).to_pylist()}
    assert sorted(rows) == ids(TRIALS[:3])
    assert rows[TRIALS[1].trial_id] == 0.125
    assert store.load(tmp_path).num_rows == 3


def test_of_two_rows_of_one_trial_the_first_started_counts(tmp_path: Path) -> None:
    late = records(TRIALS[:2], started_at="2026-01-02T00:00:00+00:00", metric_value=0.25)
    early = records(TRIALS[1:3], started_at="2026-01-01T00:00:00+00:00", metric_value=0.75)
    late_part = part(tmp_path, *late)
    early_part = part(tmp_path, *early)
    found = store.scan(tmp_path)
    values = {row["trial_id"]: row["metric_value"] for row in found.table.to_pylist()}
    assert values == {TRIALS[0].trial_id: 0.25, TRIALS[1].trial_id: 0.75, TRIALS[2].trial_id: 0.75}
    (finding,) = found.findings
    assert (finding.kind, finding.path) == ("duplicate", late_part)
    assert early_part.name in str(finding)
    assert TRIALS[1].trial_id in str(finding)
    assert found.part_of[TRIALS[1].trial_id] == early_part.stem
    assert late_part.exists()


@pytest.mark.parametrize("keep", [0, 3, 200, -300, -1])
def test_a_torn_part_of_ours_is_set_aside_and_its_trials_run_again(tmp_path: Path, keep: int) -> None:
    path = part(tmp_path, *records(TRIALS[:2]))
    whole = part(tmp_path, *records(TRIALS[2:4]))
    path.write_bytes(path.read_bytes()[:keep])
    assert store.finished_ids(tmp_path) == {t.trial_id for t in TRIALS[2:4]}
    assert store.load(tmp_path).num_rows == 2
    assert path.exists(), "reading changes nothing"
    (finding,) = store.check(tmp_path)
    assert finding.kind == "torn"
    assert str(path) in str(finding)
    assert f".torn-{path.name}" in str(finding)
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([f".torn-{path.name}", whole.name])
    assert store.check(tmp_path) == ()


def test_a_flipped_byte_in_a_page_is_found(tmp_path: Path) -> None:
    path = part(tmp_path, *records(TRIALS[:2]))
    content = bytearray(path.read_bytes())
    content[40] ^= 0xFF
    path.write_bytes(bytes(content))
    assert [finding.kind for finding in store.check(tmp_path)] == ["torn"]


def test_two_torn_parts_of_one_name_are_both_kept(tmp_path: Path) -> None:
    for text in ("one", "two"):
        path = part(tmp_path, *records(TRIALS[:2]))
        path.write_text(text)
        store.check(tmp_path)
    assert sorted(p.read_text() for p in (tmp_path / store.TRIALS).iterdir()) == ["one", "two"]


def test_foreign_files_stay_and_are_named(tmp_path: Path) -> None:
    ours = part(tmp_path, *records(TRIALS[:2]))
    foreign = {name: ours.parent / name for name in ("notes.txt", "other.parquet", "rows.parquet")}
    foreign["notes.txt"].write_text("mine")
    pq.write_table(pa.table({"a": [1]}), foreign["other.parquet"])
    pq.write_table(store.load(tmp_path).replace_schema_metadata(None), foreign["rows.parquet"])
    (ours.parent / "folder").mkdir()
    before = {path: path.read_bytes() for path in foreign.values()}
    findings = store.check(tmp_path)
    assert {f.path.name: f.kind for f in findings} == dict.fromkeys([*foreign, "folder"], "foreign")
    assert all(str(f.path) in str(f) for f in findings)
    assert {path: path.read_bytes() for path in foreign.values()} == before
    assert store.load(tmp_path).num_rows == 2


def test_a_newer_schema_is_named_and_not_read_and_an_older_one_is_filled_with_null(tmp_path: Path) -> None:
    folder = tmp_path / store.TRIALS
    folder.mkdir()
    table = to_table(records(TRIALS[:1]))
    newer = table.replace_schema_metadata({b"lorasweep_schema_version": b"999"})
    pq.write_table(newer, folder / "newer.parquet")
    older = to_table(records(TRIALS[1:2])).drop_columns(["select_metric"]).append_column("gone", pa.array([1]))
    older = older.replace_schema_metadata({b"lorasweep_schema_version": b"0"})
    pq.write_table(older, folder / "older.parquet")
    (finding,) = store.check(tmp_path)
    assert (finding.kind, finding.path.name) == ("newer", "newer.parquet")
    (row,) = store.load(tmp_path).to_pylist()
    assert (row["trial_id"], row["select_metric"]) == (TRIALS[1].trial_id, None)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = part(tmp_path, *records(TRIALS[:2]))
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(tmp_path, records(TRIALS[:2], metric_value=0.5))
    with pytest.raises(BadInput, match=r"must be writable, but got No space left on device; free space"):
        lock.prove_writable(tmp_path / store.TRIALS)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_part_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, move = os.fsync, os.replace

    def watched_sync(handle: int) -> None:
        calls.append("sync " + Path(os.readlink(f"/proc/self/fd/{handle}")).name[:9])
        sync(handle)

    def watched_move(source: Path, target: Path) -> None:
        calls.append(f"move {Path(source).name[:9]} in {Path(target).parent.name}")
        assert pq.read_table(source).num_rows == 2
        move(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_move)
    path = part(tmp_path, *records(TRIALS[:2]))
    assert calls == ["sync .writing-", "move .writing- in trials", "sync trials"]
    assert path.exists()


def test_leftovers_of_a_killed_write_are_no_rows_and_are_cleared(tmp_path: Path) -> None:
    path = part(tmp_path, *records(TRIALS[:2]))
    leftover = path.with_name(f"{parts.TEMPORARY}77-{path.name}")
    leftover.write_bytes(path.read_bytes()[:500])
    assert store.load(tmp_path).num_rows == 2
    assert store.check(tmp_path) == ()
    assert not leftover.exists()


def test_consolidating_gives_one_small_sorted_file(tmp_path: Path) -> None:
    for i in range(0, len(TRIALS), 4):
        store.write(tmp_path, records(TRIALS[i : i + 4]))
    target = tmp_path / "reference" / "rows.parquet"
    assert store.consolidate(tmp_path, target) == len(TRIALS)
    table = store.load_files([target])
    assert sorted(table["trial_id"].to_pylist()) == ids(TRIALS)
    assert table["method"].to_pylist() == sorted(table["method"].to_pylist())
    assert target.stat().st_size < 3 * (tmp_path / store.TRIALS).glob("*").__next__().stat().st_size
    pq.write_table(pa.table({"a": [1]}), target)
    with pytest.raises(ValueError, match=r"rows\.parquet: not written by lorasweep"):
        store.load_files([target])


def test_a_directory_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="must be writable, but got Not a directory"):
        lock.prove_writable(tmp_path / "file" / "trials")
    with pytest.raises(BadInput, match="must be writable"), lock.hold(tmp_path / "file"):
        pass
    lock.prove_writable(tmp_path / "a", tmp_path / "b")
    assert list((tmp_path / "a").iterdir()) == []


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    code = "import sys, pathlib; from bench.store import lock\nwith lock.hold(pathlib.Path(sys.argv[1])): " \
           "print('held', flush=True); sys.stdin.read()"  # fmt: skip
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        in_use = pytest.raises(BadInput, match=f"one sweep at a time .* got process {holder.pid} at work")
        with in_use, lock.hold(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
        for pipe in (holder.stdin, holder.stdout):
            pipe.close()  # type: ignore[union-attr]
    with lock.hold(tmp_path), pytest.raises(BadInput, match=f"process {os.getpid()} at work"), lock.hold(tmp_path):
        pass


def test_a_directory_keeps_its_id(tmp_path: Path) -> None:
    first = lock.directory_id(tmp_path)
    assert lock.directory_id(tmp_path) == first
    assert len(first) == 16
    (tmp_path / "other").mkdir()
    assert lock.directory_id(tmp_path / "other") != first


@pytest.mark.parametrize("version", [b"999", None])
def test_a_file_that_is_not_ours_to_read_is_never_overwritten(tmp_path: Path, version: bytes | None) -> None:
    path = part(tmp_path, *records(TRIALS[:2]))
    metadata = {b"lorasweep_schema_version": version} if version else {}
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    before = path.read_bytes()
    again = part(tmp_path, *records(TRIALS[:2]))
    assert again == path.with_name(f"{path.stem}-1.parquet")
    assert path.read_bytes() == before
    assert store.finished_ids(tmp_path) == {t.trial_id for t in TRIALS[:2]}


# Compaction


def many_parts(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write 24 trials in 12 parts, and let compacted parts be of 8 rows; return the ids."""
    monkeypatch.setattr(stored_rows, "COMPACT_ROWS", 8)
    for i in range(0, 24, 2):
        store.write(directory, records(TRIALS[i : i + 2]))
    return ids(TRIALS[:24])


def by_id(directory: Path) -> dict[str, object]:
    return {row["trial_id"]: row for row in store.load(directory).to_pylist()}


def test_compaction_keeps_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_ids = many_parts(tmp_path, monkeypatch)
    before = by_id(tmp_path)
    assert store.compact(tmp_path, at_least=13) == 0
    assert store.compact(tmp_path) == 12
    assert len(list((tmp_path / store.TRIALS).iterdir())) == 3
    assert by_id(tmp_path) == before
    assert sorted(before) == all_ids == sorted(store.finished_ids(tmp_path))
    assert store.load(tmp_path).schema.equals(SCHEMA, check_metadata=True)
    assert store.check(tmp_path) == ()
    assert store.compact(tmp_path) == 0, "large parts stay as they are"
    part_of = store.scan(tmp_path).part_of[TRIALS[0].trial_id]
    store.write(tmp_path, records(TRIALS[:1], metric_value=0.5), part=part_of)
    assert by_id(tmp_path)[TRIALS[0].trial_id]["metric_value"] == 0.5  # type: ignore[index]
    assert sorted(by_id(tmp_path)) == all_ids


@pytest.mark.parametrize("at", range(12))
def test_a_killed_compaction_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    all_ids = many_parts(tmp_path, monkeypatch)
    unlink, removed = Path.unlink, []

    def die(path: Path, missing_ok: bool = False) -> None:
        if len(removed) == at:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", die)
    with pytest.raises(KeyboardInterrupt):
        store.compact(tmp_path)
    monkeypatch.setattr(Path, "unlink", unlink)
    assert sorted(store.load(tmp_path).column("trial_id").to_pylist()) == all_ids
    found = store.recover(tmp_path)
    assert found.findings == ()
    assert sorted(found.table.column("trial_id").to_pylist()) == all_ids
    in_files = [i for p in (tmp_path / store.TRIALS).iterdir() for i in pq.read_table(p).column("trial_id").to_pylist()]
    assert sorted(in_files) == all_ids, "what a plain reader sees, once the next sweep has begun"


def test_a_reader_sees_every_row_at_every_moment_of_a_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_ids = many_parts(tmp_path, monkeypatch)
    seen: list[list[str]] = []
    unlink, read = Path.unlink, store.read_part

    def look_then_unlink(path: Path, missing_ok: bool = False) -> None:
        seen.append(sorted(store.load(tmp_path).column("trial_id").to_pylist()))
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", look_then_unlink)
        store.compact(tmp_path)
    assert len(seen) == 12
    store.write(tmp_path, records(TRIALS[24:26]))
    store.write(tmp_path, records(TRIALS[26:28]))
    compacted = []

    def compact_before_the_first_read(path: Path, columns: list[str] | None) -> object:
        if not compacted:  # the reader has listed the directory, and every small part goes now
            compacted.append(True)
            store.compact(tmp_path)
        return read(path, columns)

    monkeypatch.setattr(stored_rows, "read_part", compact_before_the_first_read)
    assert sorted(store.load(tmp_path).column("trial_id").to_pylist()) == ids(TRIALS[:28])
    assert all(one == all_ids for one in seen)


def test_a_link_to_nothing_is_no_reason_to_wait(tmp_path: Path) -> None:
    store.write(tmp_path, records(TRIALS[:2]))
    (tmp_path / store.TRIALS / "x.parquet").symlink_to(tmp_path / "nowhere")
    assert store.load(tmp_path).num_rows == 2


def test_counting_attempts_reads_each_part_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = store.read_part
    monkeypatch.setattr(stored_rows, "read_part", lambda path, columns: reads.append(path) or read(path, columns))
    for i in range(6):
        store.write(tmp_path, records(TRIALS[i % 2 : i % 2 + 1], status=Status.FAILED, metric_value=None))
    assert len(reads) == 5
    assert sorted(store.load_attempts(tmp_path)["attempt"].to_pylist()) == [1, 1, 2, 2, 3, 3]
