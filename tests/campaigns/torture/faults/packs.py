"""Faults inside a pack, with a fake engine and with the real one."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import store, sweep
from bench.core.errors import BadInput
from bench.core.record import Record, Status
from bench.core.spec import Pack
from bench.executors.local import LocalExecutor
from bench.sweep.events import SweepSummary
from bench.sweep.optuna_mirror import journal
from tests.campaigns.torture.faults.checks import TRIALS, fault, half, resumed, says
from tests.support import sweep_helpers as fakes

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
    root = Path(__file__).resolve().parents[4]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "bench", *args], capture_output=True, text=True, cwd=cwd, env=env,
                          timeout=3000)  # fmt: skip


@fault
def corrupt_model_directory(root: Path, chance: random.Random) -> str:
    """Each file of a model directory cut, emptied and gone: refused in a line before anything trains."""
    import bench.embedded.demo
    from bench import models

    source = Path(bench.embedded.demo.__file__).parent / "tiny-roberta"
    messages = []
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        for how in ("cut", "empty", "gone", "garbage"):
            model = root / f"model-{name}-{how}"
            shutil.copytree(source, model)
            _spoil(model / name, how, chance)
            try:
                located = models.locate(str(model))
                from bench import tasks
                from bench.executors import runtime

                encoded_from = tasks.load(tasks.get("demo"), None)
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
    from tests.campaigns.torture.kills import start
    from tests.campaigns.torture.subjects import Real, comparable

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
    from tests.campaigns.torture.kills import start
    from tests.campaigns.torture.subjects import Real

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
