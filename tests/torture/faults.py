"""Named faults, each put into a sweep on purpose: what must hold afterwards, and what the user must be told."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench import journal, store, sweep
from bench.errors import BadInput
from bench.events import SweepSummary
from bench.executors.local import LocalExecutor
from bench.record import SCHEMA, SCHEMA_VERSION, Record, Status
from bench.spec import Pack
from tests import sweep_helpers as fakes
from tests.torture.kills import check_optuna, read_everything

GOLDEN = Path(__file__).resolve().parent / "golden"
NOBODY = 65534
TRIALS = fakes.grid()
IDS = {trial.trial_id for trial in TRIALS}
Fault = Callable[[Path, random.Random], str]  # directory to work in, chance -> the message that the user saw
FAULTS: dict[str, Fault] = {}


class Skipped(Exception):
    """This machine cannot make the fault; says why."""


def fault(check: Fault) -> Fault:
    """Register a fault by its function's name."""
    FAULTS[check.__name__.replace("_", " ")] = check
    return check


def expected() -> dict[str, dict[str, Any]]:
    """Return the rows of a sweep that nothing happened to, by trial_id."""
    rows = pa.concat_tables([fakes_table(trials) for trials in (TRIALS,)]).to_pylist()
    return {row["trial_id"]: row for row in rows}


def fakes_table(trials: Any) -> pa.Table:
    """Return the fake engine's rows of these trials as a table."""
    from bench.record import to_table

    return to_table(fakes.records(trials))


def half(root: Path, n_packs: int = 7) -> frozenset[str]:
    """Run a sweep that is interrupted in pack n_packs; return what is finished."""
    engine = fakes.FakeEngine()
    engine.before = lambda pack: os.kill(os.getpid(), signal.SIGINT) if len(engine.packs) == n_packs else None
    assert fakes.run(root, TRIALS, engine).interrupted
    finished = store.finished_ids(root / "s")
    assert 0 < len(finished) < len(TRIALS)
    return finished


def resumed(root: Path, may_run_again: frozenset[str] = frozenset(), already: frozenset[str] | None = None) -> str:
    """Run the rest; nothing finished may be trained but what the fault destroyed. Return the warnings."""
    before = store.finished_ids(root / "s") if already is None else already
    engine = fakes.FakeEngine()
    done = fakes.run(root, TRIALS, engine)
    again = set(engine.trained) & (before - may_run_again)
    assert not again, f"trained again: {again}"
    whole(root)
    assert done.exit_code == 0, done
    return " / ".join(done.warnings)


def whole(root: Path) -> None:
    """Each trial must be there once, each row be as expected, Optuna agree."""
    found = store.load(root / "s")
    assert sorted(found.column("trial_id").to_pylist()) == sorted(IDS)
    value = {row["trial_id"]: row["metric_value"] for row in found.to_pylist()}
    assert value == {trial.trial_id: fakes.outcome(trial).metric_value for trial in TRIALS}
    check_optuna(root / "s", IDS)


def says(message: str, *words: str) -> str:
    """Return the message, which must hold every one of these words and lie on one line."""
    assert "\n" not in message, message
    missing = [word for word in words if word not in message]
    assert not missing, f"the message lacks {missing}: {message!r}"
    return message


def refused(root: Path, *words: str) -> str:
    """Return the one line with which a sweep is refused before it trains."""
    engine = fakes.FakeEngine()
    try:
        fakes.run(root, TRIALS, engine)
    except BadInput as error:
        assert not engine.packs, "it trained before it refused"
        return says(str(error), *words)
    raise AssertionError("the sweep was not refused")


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


# The disk


@contextmanager
def small_disk(root: Path, megabytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size; Skipped where that is not allowed."""
    place = root / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        raise Skipped("a tmpfs cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Fill a disk to its last byte; return the file that does."""
    filler = place / "filler"
    with open(filler, "wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while stream.write(b"\0" * size):
                    pass
            except OSError:
                continue
    return filler


@fault
def full_disk_before_the_start(root: Path, chance: random.Random) -> str:
    """Refused before anything trains."""
    with small_disk(root, 2) as disk:
        half(disk)
        filler = fill(disk)
        message = refused(disk, "must be writable", "No space left on device", "free space")
        filler.unlink()
        resumed(disk)
    return message


@fault
def full_disk_in_the_middle(root: Path, chance: random.Random) -> str:
    """The sweep stops, keeps what it has, and goes on when there is space."""
    with small_disk(root, 4) as disk:
        engine = fakes.FakeEngine()
        at = chance.randint(1, 12)
        filler: list[Path] = []
        engine.before = lambda pack: filler.append(fill(disk)) if len(engine.packs) == at else None
        stopped = fakes.run(disk, TRIALS, engine)
        assert (stopped.exit_code, stopped.interrupted) == (1, False)
        finished = store.finished_ids(disk / "s")
        assert len(finished) == stopped.n_finished == stopped.n_run > 0
        filler[0].unlink()
        resumed(disk, already=finished)
    return says(str(stopped.stopped), "No space left on device", "everything finished before is kept", "run again")


@fault
def read_only_directory(root: Path, chance: random.Random) -> str:
    """Another user's results directory, as a user without rights on it."""
    half(root)
    if os.getuid():
        for place in (root / "s", root / "s" / store.TRIALS, root / "s" / store.ATTEMPTS):
            place.chmod(0o555)
        message = refused(root, "must be writable", "Permission denied", "permissions")
        for place in (root / "s", root / "s" / store.TRIALS, root / "s" / store.ATTEMPTS):
            place.chmod(0o755)
    else:
        message = as_nobody(root)
    resumed(root)
    return message


def as_nobody(root: Path) -> str:
    """Return the line of a refusal seen by an unprivileged user."""
    for place in (root, *root.parents):
        if place.stat().st_mode & 0o005 != 0o005 and str(place).startswith("/tmp"):
            place.chmod(place.stat().st_mode | 0o055)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            line = refused(root, "must be writable", "Permission denied", "permissions")
        except BaseException as error:
            line = f"FAILED {error!r}"
        os.write(writer, line.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as stream:
        line = stream.read()
    assert not line.startswith("FAILED"), line
    return line


# Signals and company


def _signalled(root: Path, how: int, times: int, gap: float, at: float) -> tuple[int, float]:
    """Start a sweep of slow packs, send it signals; return its exit code and how long it took to end."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = fakes.run(root, TRIALS, fakes.FakeEngine(before=lambda pack: time.sleep(0.05))).exit_code
        except KeyboardInterrupt:
            code = 130  # as bench.cli has it
        finally:
            os._exit(code)
    time.sleep(at)
    begin = time.monotonic()
    for _ in range(times):
        os.kill(child, how)
        time.sleep(gap)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - begin


def _after_signals(root: Path, how: int, times: int, chance: random.Random) -> str:
    code, seconds = _signalled(root, how, times, chance.uniform(0.0, 0.02), chance.uniform(0.25, 0.6))
    assert code in (130, -how, 0), f"exit code {code}"
    assert seconds < 10, f"it took {seconds:.1f} s to stop"
    read_everything(root / "s", expected_by_id())
    resumed(root)
    return f"exit code {code} after {seconds:.2f} s; the rest ran after it"


def expected_by_id() -> dict[str, dict[str, Any]]:
    """Return what rows must be, each with the pack that it was trained in."""
    from bench import planner
    from tests.torture.subjects import TIMES

    packs = planner.plan(TRIALS, limits=planner.limits_for(fakes.study(), planner.Limits()), family=fakes.family)
    rows = [row for pack in packs for row in fakes_table(pack.trials).to_pylist()]
    return {row["trial_id"]: {k: v for k, v in row.items() if k not in TIMES} for row in rows}


@fault
def sigterm_once(root: Path, chance: random.Random) -> str:
    """As a scheduler stops a job."""
    return _after_signals(root, signal.SIGTERM, 1, chance)


@fault
def sigterm_twice(root: Path, chance: random.Random) -> str:
    """The second one comes while the first is being handled."""
    return _after_signals(root, signal.SIGTERM, 2, chance)


@fault
def ctrl_c_twice(root: Path, chance: random.Random) -> str:
    """An impatient user."""
    return _after_signals(root, signal.SIGINT, 2, chance)


@fault
def two_sweeps_at_once(root: Path, chance: random.Random) -> str:
    """Four sweeps of one study started together: one works, the others are refused by name."""
    reader, writer = os.pipe()
    children = [_contender(root, writer) for _ in range(4)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(writer)
    with os.fdopen(reader) as stream:
        refusals = stream.read().splitlines()
    assert sorted(codes) == [0, 2, 2, 2], codes
    whole(root)
    return says(refusals[0], "one sweep at a time", "process", "wait for it, stop it")


def _contender(root: Path, writer: int) -> int:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = fakes.run(root, TRIALS, fakes.FakeEngine(before=lambda pack: time.sleep(0.1))).exit_code
        except BadInput as error:
            os.write(writer, f"{error}\n".encode())
            code = 2
        finally:
            os._exit(code)
    return child


# Inside a pack


@fault
def out_of_memory_in_mid_pack(root: Path, chance: random.Random) -> str:
    """Packs of more than two do not fit; one trial does not fit at all, until there is more memory."""
    large = chance.choice(TRIALS).trial_id

    def train(pack: Pack, loaded: None) -> list[Any]:
        if pack.size > 2 or large in [t.trial_id for t in pack.trials]:
            raise MemoryError
        return [fakes.outcome(t) for t in pack.trials]

    done = _run_with(root, train)
    assert (done.exit_code, done.n_run, done.n_failed) == (1, len(TRIALS) - 1, 1)
    (attempt,) = store.load_attempts(root / "s").to_pylist()
    assert (attempt["trial_id"], attempt["status"], attempt["attempt"]) == (large, "oom", 1)
    resumed(root)
    return says(attempt["reason"], "out of memory", "use a shorter max_length")


def _run_with(root: Path, train: Callable[[Pack, None], list[Any]]) -> SweepSummary:
    executor: LocalExecutor[None] = LocalExecutor(
        load=lambda t: None, train=train, provenance=fakes.PROVENANCE, metric_name="accuracy"
    )
    return sweep.run(fakes.study(), TRIALS, results_dir=root, executor=executor, options=fakes.OPTIONS,
                     family=fakes.family)  # fmt: skip


@fault
def clock_going_backwards(root: Path, chance: random.Random) -> str:
    """Each call of the clock gives an earlier time, and Optuna's lock file is from the future."""
    real, ticks = time.time, iter(range(1, 10**9))
    finished = half(root)
    lock = root / "s" / (journal.JOURNAL_NAME + journal.LOCK_SUFFIX)
    lock.touch()
    os.utime(lock, (real() + 10**6, real() + 10**6))
    time.time = lambda: real() - 3600.0 * next(ticks)
    try:
        message = resumed(root, already=finished)
    finally:
        time.time = real
    assert not lock.exists()
    return message or "(silent: nothing rests on the clock)"


@fault
def rows_that_started_before_those_already_there(root: Path, chance: random.Random) -> str:
    """The clock was set back between two runs: order of rows changes, nothing else."""
    finished = half(root)
    rest = [t for t in TRIALS if t.trial_id not in finished]
    early = [r for t in rest for r in _started(fakes.records([t]), "1999-12-31T23:59:59+00:00")]
    store.write(root / "s", early[: len(early) // 2])
    return resumed(root) or "(silent: nothing rests on the clock)"


def _started(records: list[Record], when: str) -> list[Record]:
    from dataclasses import replace

    return [replace(r, outcome=replace(r.outcome, started_at=when)) for r in records]


# With the real engine


def _bench(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parent.parent.parent
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "bench", *args], capture_output=True, text=True, cwd=cwd, env=env,
                          timeout=300)  # fmt: skip


@fault
def corrupt_model_directory(root: Path, chance: random.Random) -> str:
    """Each file of a model directory cut, emptied and gone: refused in a line before anything trains."""
    import bench.demo
    from bench import models

    source = Path(bench.demo.__file__).parent / "tiny-roberta"
    messages = []
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        for how in ("cut", "empty", "gone", "garbage"):
            model = root / f"model-{name}-{how}"
            shutil.copytree(source, model)
            _spoil(model / name, how, chance)
            try:
                located = models.locate(str(model))
                from bench import runtime, tasks

                encoded_from = tasks.get("demo").load(None)
                runtime._load(_real_trial(located), task=tasks.get("demo"), data=encoded_from, located=located)
            except BadInput as error:
                messages.append(says(str(error), model.name, "; "))
            else:
                raise AssertionError(f"{name}, {how}: was not refused")
    return messages[0]


def _real_trial(located: Any) -> Any:
    return fakes.trial(model=located.name, model_hash=located.model_hash)


def _spoil(path: Path, how: str, chance: random.Random) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": content[: len(content) // 2], "empty": b"", "garbage": chance.randbytes(len(content))}[how]
        )


@fault
def a_trial_going_nan(root: Path, chance: random.Random) -> str:
    """One learning rate breaks its trial; the neighbours in its pack end as they do without it."""
    from tests.torture.kills import start
    from tests.torture.subjects import Real, comparable

    tables = {}
    for name, worst in (("fine", "1e-2"), ("broken", "1e30")):
        subject = Real(root / f"home-{name}", worst=worst)
        ended = start(subject, root / name)
        assert ended.exit_code == 0, ended
        rows = comparable(subject.directory(root / name)).values()
        tables[name] = {(r["method"], r["eta_A"], r["seed"]): r for r in rows}
    bad = [row for key, row in tables["broken"].items() if key[1] > 1]
    assert bad
    assert {row["status"] for row in bad} == {str(Status.DIVERGED)}, bad
    assert all(row["metric_value"] is None for row in bad)
    for key in [k for k in tables["fine"] if k[1] < 5e-3]:
        same = ("trial_id", "status", "metric_value", "train_loss", "eval_loss", "eval_correct", "steps_done")
        assert [tables["fine"][key][c] for c in same] == [tables["broken"][key][c] for c in same]
    return says(str(bad[0]["reason"]), "not finite")


@fault
def data_file_changed_between_runs(root: Path, chance: random.Random) -> str:
    """Other data are other trials: the old rows stay and count no more, and that is said."""
    from tests.torture.kills import start
    from tests.torture.subjects import Real

    subject = Real(root / "home")
    assert start(subject, root / "r").exit_code == 0
    old = store.finished_ids(subject.directory(root / "r"))
    lines = (root / "home" / "train.tsv").read_text().splitlines()
    (root / "home" / "train.tsv").write_text("\n".join(lines[:-1]) + "\n")
    done = _bench("sweep", "--study", str(root / "home" / "few.toml"), "--device", "cpu", "--results-dir",
                  str(root / "r"), cwd=root)  # fmt: skip
    assert done.returncode == 0, done.stderr
    new = store.finished_ids(subject.directory(root / "r")) - old
    assert old <= store.finished_ids(subject.directory(root / "r"))
    assert len(new) == len(old) == len(subject.trials)
    (line,) = [x for x in (done.stdout + done.stderr).splitlines() if "other data" in x]
    return says(line, "other data", "kept", "do not count")
