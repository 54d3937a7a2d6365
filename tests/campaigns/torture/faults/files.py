"""Faults of files: the journal and the parts, torn, foreign, newer, older."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench import store
from bench.core.record import SCHEMA, SCHEMA_VERSION
from bench.sweep.optuna_mirror import journal
from tests.campaigns.torture.faults.checks import GOLDEN, IDS, TRIALS, fault, half, resumed, says
from tests.support import sweep_helpers as fakes

# The journal


@fault
def torn_journal_tail(root: Path, chance: random.Random) -> str:
    """A record half written, as a power cut leaves it."""
    half(root)
    path = root / "s" / journal.JOURNAL_NAME
    content = path.read_bytes()
    path.write_bytes(content[: -chance.randint(2, 60)])
    return says(resumed(root), "torn last line", "cut off")


@fault
def journal_with_a_hole(root: Path, chance: random.Random) -> str:
    """Bytes from the middle are gone."""
    half(root)
    path = root / "s" / journal.JOURNAL_NAME
    content = path.read_bytes()
    at = chance.randint(len(content) // 4, len(content) // 2)
    path.write_bytes(content[:at] + content[at + chance.randint(300, 900) :])
    return says(resumed(root), "broken", "written anew from the rows")


@fault
def deleted_journal(root: Path, chance: random.Random) -> str:
    """Nothing is lost, so nothing need be said."""
    half(root)
    (root / "s" / journal.JOURNAL_NAME).unlink()
    return resumed(root) or "(silent: the journal is only a mirror)"


# Parts


def _some_part(root: Path, chance: random.Random) -> tuple[Path, frozenset[str]]:
    path = chance.choice(sorted((root / "s" / store.TRIALS).glob("*.parquet")))
    return path, frozenset(pq.read_table(path).column("trial_id").to_pylist())


@fault
def truncated_part(root: Path, chance: random.Random) -> str:
    """A part that ends early."""
    half(root)
    path, ids = _some_part(root, chance)
    content = path.read_bytes()
    path.write_bytes(content[: chance.randint(1, len(content) - 1)])
    return says(resumed(root, ids), path.name, "torn part", "its trials run again", "renamed")


@fault
def zero_byte_part(root: Path, chance: random.Random) -> str:
    """A part of no bytes."""
    half(root)
    path, ids = _some_part(root, chance)
    path.write_bytes(b"")
    return says(resumed(root, ids), path.name, "torn part", "its trials run again", "renamed")


@fault
def part_with_a_flipped_bit(root: Path, chance: random.Random) -> str:
    """A bit of a page is wrong: either the checksum finds it, or it lies outside the data."""
    half(root)
    path, ids = _some_part(root, chance)
    content = bytearray(path.read_bytes())
    content[chance.randint(100, len(content) // 3)] ^= 1 << chance.randint(0, 7)
    path.write_bytes(bytes(content))
    message = resumed(root, ids)
    return message and says(message, path.name, "its trials run again")


@fault
def foreign_part(root: Path, chance: random.Random) -> str:
    """Somebody's own parquet file among the parts, and a text file."""
    half(root)
    mine = root / "s" / store.TRIALS / "notes.parquet"
    pq.write_table(pa.table({"trial_id": sorted(IDS)[:2], "status": ["ok", "ok"]}), mine)
    (mine.parent / "README").write_text("mine")
    before = mine.read_bytes()
    message = says(resumed(root), "notes.parquet", "left alone and not read")
    assert mine.read_bytes() == before
    return message


@fault
def foreign_part_in_the_place_of_ours(root: Path, chance: random.Random) -> str:
    """A file that is not ours under the name that the next part is to get: it must stay."""
    already = half(root)
    path, ids = _some_part(root, chance)
    pq.write_table(pa.table({"x": [1]}), path)
    before = path.read_bytes()
    message = says(resumed(root, ids, already), path.name, "left alone and not read")
    assert path.read_bytes() == before, "a foreign file was overwritten"
    return message


@fault
def part_of_a_newer_version(root: Path, chance: random.Random) -> str:
    """A newer lorasweep's rows: kept for it, although this one has to train the trials again."""
    already = half(root)
    path, ids = _some_part(root, chance)
    newer = {b"lorasweep_schema_version": str(SCHEMA_VERSION + 1).encode()}
    pq.write_table(pq.read_table(path).replace_schema_metadata(newer), path)
    before = path.read_bytes()
    message = says(resumed(root, ids, already), path.name, "newer lorasweep", "not read")
    assert path.read_bytes() == before, "rows of a newer version were overwritten"
    return message


@fault
def results_of_schema_1(root: Path, chance: random.Random) -> str:
    """Golden files, written when schema 1 was current: every value is read as it was written then."""
    (root / "s" / store.TRIALS).mkdir(parents=True)
    shutil.copy(GOLDEN / "schema-1.parquet", root / "s" / store.TRIALS / "00000000000000aa.parquet")
    then = json.loads((GOLDEN / "schema-1.json").read_text())
    rows = store.load(root / "s").to_pylist()
    for row, old in zip(rows, then, strict=True):
        row["eval_correct"] = row["eval_correct"] and row["eval_correct"].hex()
        assert {name: row[name] for name in old} == old
    assert store.load(root / "s").schema.equals(SCHEMA)
    return f"{len(rows)} rows of schema 1 read (silent)"


@fault
def results_of_an_older_schema(root: Path, chance: random.Random) -> str:
    """Rows without columns that came later: they count, what they lack is null, nothing is trained again."""
    fakes.run(root, TRIALS)
    for path in sorted((root / "s" / store.TRIALS).glob("*.parquet")):
        table = pq.read_table(path).drop_columns(["engine_path", "layers_to_transform"])
        pq.write_table(table.replace_schema_metadata({b"lorasweep_schema_version": b"0"}), path)
    assert store.load(root / "s").column("engine_path").null_count == len(TRIALS)
    return resumed(root) or "(silent: they are read)"
