"""The Ray executor on real clusters of local processes: whatever dies, every cell is there once in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

ray = pytest.importorskip("ray")

from bench import store, sweep  # noqa: E402
from bench.core.spec import Pack  # noqa: E402
from bench.executors import cluster  # noqa: E402
from bench.executors._workers import Lacking, Worker  # noqa: E402
from bench.executors.local import LocalExecutor  # noqa: E402
from bench.executors.ray import RayExecutor, RayOptions, RaySeat  # noqa: E402
from bench.schedule import planner  # noqa: E402
from bench.schedule.planner import Limits  # noqa: E402
from bench.sweep.events import PackStarted  # noqa: E402
from tests.support.loopback import assert_on_loopback  # noqa: E402
from tests.support.ray_helpers import executor  # noqa: E402
from tests.support.sweep_helpers import OPTIONS as PLAIN  # noqa: E402
from tests.support.sweep_helpers import (  # noqa: E402
    PROVENANCE,
    FakeEngine,
    comparable,
    family,
    grid,
    ids,
    outcome,
    run,
    study,
)  # fmt: skip
from tests.support.worker_fakes import PAUSE, make, notes, rows  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
TRIALS = grid()
CHANGING = ("started_at", "peak_memory_bytes", "git_commit", "git_dirty", "source_hash")  # the last three may be edited
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray's own deprecations are not ours
CPUS = {n: {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": n})} for n in (1, 2)}
ENVIRONMENT = {
    **os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
}  # fmt: skip


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield a cluster whose head runs no worker, with two nodes of one CPU; this process is connected to it."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # as cluster.connect has it before ray is imported: a loopback address is not taken for the machine's other one
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False, "node_ip_address": cluster.LOOPBACK}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    for _ in range(2):
        made.add_node(num_cpus=1, **small)
    made.wait_for_nodes()
    assert_on_loopback(psutil.Process())
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def connect(made: Any) -> None:
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")


def swept(tmp_path: Path, scratch: Path, seconds: float = 0.05, **options: object) -> sweep.SweepSummary:
    return sweep.run(
        study(), TRIALS, results_dir=tmp_path, executor=executor(scratch, seconds=seconds, **options), options=PLAIN,
        family=family,
    )  # fmt: skip


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def test_workers_die_hang_and_fail_and_every_cell_is_there_once(nodes: Any, tmp_path: Path, scratch: Path) -> None:
    connect(nodes)
    run(tmp_path / "local", TRIALS, FakeEngine())
    for order in ("kill-1", "hang-1", "kill-2"):
        (scratch / order).touch()
    done = swept(tmp_path / "ray", scratch, time_limit_seconds=30.0)
    assert (done.exit_code, done.n_run, done.n_failed) == (0, 30, 0)
    assert rows(tmp_path / "ray") == rows(tmp_path / "local"), "the same rows as in one process"
    attempts = store.load_attempts(tmp_path / "ray" / "s").to_pylist()
    reasons = {(row["pack_id"], row["reason"]) for row in attempts}
    assert len(reasons) == 3
    assert sum("longer than the time limit" in reason for _, reason in reasons) == 1
    assert sum("ActorDiedError" in reason for _, reason in reasons) == 2
    assert {row["status"] for row in attempts} == {"failed"}
    trained = [pack_id for _, pack_id in notes(scratch, "train")]
    planned = planner.plan(TRIALS, limits=Limits(max_pack_size=4), family=family)
    packs = [pack.pack_id for pack in planner.spread(planned, 2, overhead=planner.PACK_OVERHEAD["cpu"])]
    assert Counter(packs) == Counter(trained) - Counter({p for p, _ in reasons}), "a lost pack twice"
    assert len(notes(scratch, "load")) == len({pid for pid, _ in notes(scratch, "train")}), "once in each worker"
    assert len([w for w in done.warnings if "run again" in w]) == 3


def test_a_node_killed_in_mid_pack_and_a_pack_that_kills_each_worker(nodes: Any, tmp_path: Path, scratch: Path) -> None:
    connect(nodes)
    victim = next(iter(nodes.worker_nodes))
    killed: list[object] = []

    def kill_once(event: object) -> None:
        if isinstance(event, PackStarted) and event.index == 4 and not killed:
            killed.append(event)
            nodes.remove_node(victim, allow_graceful=False)
            (scratch / PAUSE).unlink()

    (scratch / PAUSE).touch()  # so that the other worker, too, is in mid-pack when the fifth is handed out
    one = executor(scratch)
    done = sweep.run(study(), TRIALS, results_dir=tmp_path, executor=one, options=PLAIN, family=family,
                     on_event=kill_once)  # type: ignore[arg-type]  # fmt: skip
    assert killed
    assert (done.exit_code, done.n_finished) == (0, 30)
    assert [row["trial_id"] for row in rows(tmp_path)] == ids(TRIALS)
    attempts = store.load_attempts(tmp_path / "s").to_pylist()
    assert attempts
    assert all("lost" in row["reason"] for row in attempts)
    # and a poisoned pack: it costs its attempts, is told, and is tried again by the next sweep
    for n in range(2):
        (scratch / f"kill-{n}").touch()
    (record, *_) = executor(scratch, max_attempts=2).run(Pack(trials=TRIALS[:2]), study="s")
    assert (str(record.outcome.status), record.pack_size) == ("failed", 2)
    assert "attempt 2 of 2" in (record.outcome.reason or "")


class Lacks:
    """Makes the fake engine's executor once the file that it lacks is there."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def __call__(self, log_dir: Path) -> LocalExecutor[None]:
        if not (self.scratch / "weights").exists():
            raise Lacking(self.receive)
        return make(self.scratch, 0.0, log_dir)

    def receive(self, files: Mapping[str, bytes]) -> None:
        (self.scratch / "weights").write_bytes(files["weights"])


def test_a_worker_that_lacks_files_gets_them_and_one_that_is_stopped_is_replaced(nodes: Any, scratch: Path) -> None:
    """The clock moves only while it is stopped, in mid-pack; before that it gives signs while it trains."""
    connect(nodes)
    order = scratch / "hang-1"
    order.touch()
    read: list[str] = []

    def files() -> dict[str, bytes]:
        read.append("files")
        return {"weights": b"x" * 1000}

    options = RayOptions(max_workers=1, start_seconds=1200.0)
    one = RayExecutor(make=Lacks(scratch), provenance=PROVENANCE, metric_name="accuracy", options=options, files=files)
    seconds, stopped, gave_sign = 0.0, list[int](), one._gave_sign
    one.now = lambda: seconds

    def asked(seat: RaySeat) -> bool:
        nonlocal seconds
        signs = gave_sign(seat)
        if not stopped:
            seconds += 0.0 if signs else 0.1  # until a sign is asked for
            if signs and not order.exists():  # stopped before it takes the order, its successor would hang
                stopped.append(int(notes(scratch, "train")[0][0]))
                os.kill(stopped[0], signal.SIGSTOP)
        elif len(notes(scratch, "train")) == 1:
            seconds += 100.0
        return signs

    one._gave_sign = asked  # type: ignore[method-assign]
    lost, done = one.stream_many([Pack(trials=TRIALS[:2])], study="s")
    assert "gave no sign of life for " in (lost.records[0].outcome.reason or "")
    assert (lost.final, done.final, len(done.records)) == (False, True, 2)
    assert (read, (scratch / "weights").stat().st_size) == (["files"], 1000)


def test_a_driver_killed_and_started_again(nodes: Any, tmp_path: Path, scratch: Path) -> None:
    results = tmp_path / "results"
    command = [sys.executable, "-m", "tests.support.ray_helpers", nodes.address, str(results), str(scratch), "0"]
    (scratch / PAUSE).touch()
    first = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
    try:
        while len(list((results / "s" / "trials").glob("*.parquet"))) < 3:
            assert first.poll() is None
            time.sleep(0.1)
    finally:
        first.kill()
        first.wait()
    (scratch / PAUSE).unlink()
    before = {row["trial_id"] for row in rows(results)}
    assert 0 < len(before) < 30
    assert subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, timeout=2400, check=False).returncode == 0
    found = rows(results)
    assert [row["trial_id"] for row in found] == ids(TRIALS)
    run(tmp_path / "local", TRIALS)
    assert found == rows(tmp_path / "local")


def command(results: Path, cache: Path, *more: str, workers: int = 1) -> list[dict[str, object]]:
    """Sweep a few trials of the real engine by the command line; return the rows without times and places."""
    options = ["--methods", "lora,lora+", "--eta-A", "1e-3,3e-3", "--lambda", "1,4", "--ranks", "2", "--seeds", "0"]
    words = [*options, "--steps", "4", "--eval-steps", "2", "--pack-size", "4", "--device", "cpu", *more]
    environment = {**ENVIRONMENT, "LORASWEEP_CACHE": str(cache), **CPUS[workers]}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "sweep", "--task", "demo", *words, "--results-dir", str(results)], cwd=ROOT,
        env=environment, timeout=3000, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 trials finished" in done.stdout
    found = comparable(store.load(results / "demo-tiny-roberta"))
    for row in found:
        for name in [name for name in row if name.endswith(("_seconds", "_per_second")) or name in CHANGING]:
            row.pop(name)
        row["curve"] = [{k: v for k, v in point.items() if k != "train_seconds"} for point in row["curve"]]  # type: ignore[attr-defined]
    return found


def differing(here: list[dict[str, object]], there: list[dict[str, object]]) -> set[str]:
    """Return the columns in which rows differ, numbers by more than rounding in float64 does."""

    def same(a: object, b: object) -> bool:
        return a == (pytest.approx(b, rel=1e-9, abs=1e-12) if isinstance(b, float | list) else b)

    return {name for a, b in zip(here, there, strict=True) for name in a if not same(a[name], b[name])}


def test_the_same_study_here_and_on_ray_gives_the_same_rows(tmp_path: Path) -> None:
    """Times apart: on one worker to the last bit; on two, for which packs are cut, as far as the order of sums goes."""
    here = command(tmp_path / "here", tmp_path / "cache", "--precision", "fp64")
    one = command(tmp_path / "one", tmp_path / "cache", "--precision", "fp64", "--executor", "ray", workers=1)
    assert {k for a, b in zip(here, one, strict=True) for k in a if a[k] != b[k]} == set()
    two = command(tmp_path / "two", tmp_path / "cache", "--precision", "fp64", "--executor", "ray", workers=2)
    assert {row["pack_size"] for row in two} == {2}
    for row in [*here, *two]:
        row["curve"] = [v for point in row["curve"] for v in point.values() if v is not None]  # type: ignore[attr-defined]
    assert differing(here, two) == {"pack_id", "pack_size"}


@pytest.mark.parametrize("ray_is_imported_first", [False, True])
def test_a_cluster_of_its_own_listens_on_loopback_alone(ray_is_imported_first: bool) -> None:
    script = (
        f"{'import ray' if ray_is_imported_first else ''}\n"
        "from bench.executors import cluster; cluster.connect(None)\n"
        "import psutil, ray; from tests.support.loopback import assert_on_loopback\n"
        "ray.get(ray.remote(lambda: 1).remote())\n"
        "assert_on_loopback(psutil.Process()); print('on loopback')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=ENVIRONMENT, timeout=2000, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.stdout.endswith("on loopback\n"), done.stderr


def test_a_worker_whose_device_is_lost_sends_what_it_finished() -> None:
    """Four do not fit; of the halves the first trains and the second loses the device: no row is left behind."""

    def train(pack: Pack, loaded: None) -> list[Any]:
        if pack.size > 2:
            raise MemoryError
        if TRIALS[0] not in pack.trials:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [outcome(one) for one in pack.trials]

    def make(logs: Path) -> LocalExecutor[None]:
        return LocalExecutor(
            load=lambda one: None, train=train, provenance=PROVENANCE, metric_name="accuracy", log_dir=logs
        )

    worker = Worker(make)
    answer = worker.run(Pack(trials=TRIALS[:4]), "s")
    worker.close()
    assert (answer.lost, answer.refused) == (True, None)
    assert [str(record.outcome.status) for record in answer.records] == ["ok", "ok", "failed", "failed"]
    assert "illegal memory access" in answer.log
