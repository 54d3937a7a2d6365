"""Several processes of this machine: whatever dies, every cell is there once, with the rows of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench import cli, store, sweep
from bench.core import devices
from bench.core.errors import BadInput
from bench.core.spec import Pack, Study
from bench.executors import StoppedError, _workers
from bench.executors.local import LocalExecutor
from bench.executors.processes import Place, ProcessExecutor, ProcessSeat
from tests.support import process_helpers
from tests.support.process_helpers import executor
from tests.support.sweep_helpers import (
    OPTIONS,
    PROVENANCE,
    FakeEngine,
    comparable,
    family,
    grid,
    outcome,
    run,
    study,
)
from tests.support.worker_fakes import PAUSE, notes, rows

ROOT = Path(__file__).resolve().parents[3]
TRIALS = grid()
HANG_SECONDS = 600.0  # only ends a test that hangs


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "scratch"
    path.mkdir()
    yield path
    for one in process_helpers.MADE:
        one.close()
    process_helpers.MADE.clear()


def swept(results: Path, scratch: Path, *, of: Study | None = None, **options: object) -> sweep.SweepSummary:
    one = executor(scratch, **options)
    return sweep.run(of or study(), TRIALS, results_dir=results, executor=one, options=OPTIONS, family=family)


def test_workers_that_die_cost_an_attempt_and_the_rows_are_those_of_one_process(tmp_path: Path, scratch: Path) -> None:
    run(tmp_path / "local", TRIALS, FakeEngine())
    for order in ("kill-1", "kill-2", "raise-1", "lose-1"):
        (scratch / order).touch()
    first = swept(tmp_path / "two", scratch, seconds=0.02)
    assert first.n_failed > 0
    assert swept(tmp_path / "two", scratch).exit_code == 0, "what failed is tried again by the next call"
    assert rows(tmp_path / "two") == rows(tmp_path / "local")
    reasons = Counter(row["reason"] for row in store.load_attempts(tmp_path / "two" / "s").to_pylist())
    assert sum("ended by SIGKILL" in reason for reason in reasons) >= 1
    assert any("illegal memory access" in reason for reason in reasons)
    workers = [pid for (pid,) in notes(scratch, "load")]
    assert len(workers) == len(set(workers)), "each loads once"
    assert notes(scratch, "threads") == [["1"]] * len(workers)
    assert len(workers) >= 5, "those that died and the one that lost its device were replaced"


def test_legs_are_shared_out_and_workers_outlive_them(tmp_path: Path, scratch: Path) -> None:
    """Cells that are left out early: the same ones, and each process loads once however many legs there are."""
    halving = study(sampler="halving", rungs=(0.25, 0.5), keep=0.5, widen=False)
    run(tmp_path / "local", TRIALS, of=halving)
    assert swept(tmp_path / "two", scratch, of=halving).exit_code == 0
    assert rows(tmp_path / "two") == rows(tmp_path / "local")
    pruned, alone = (store.load_pruned(tmp_path / name / "s") for name in ("two", "local"))
    assert set(pruned["trial_id"].to_pylist()) == set(alone["trial_id"].to_pylist())
    loaded = Counter(words[0] for words in notes(scratch, "load"))
    assert len(loaded) <= 2, "one for each place at the most: a second one may start too late for any pack"
    assert set(loaded.values()) == {1}


def test_a_worker_that_dies_between_legs_costs_an_attempt(tmp_path: Path, scratch: Path) -> None:
    one = executor(scratch)
    one._places = one._places[:1]  # a second process may or may not have started when the first has done the pack
    for n in range(2):
        batches = list(one.stream_many([Pack(trials=TRIALS[2 * n : 2 * n + 2])], study="s"))
        assert batches[-1].final
        assert {str(record.outcome.status) for record in batches[-1].records} == {"ok"}
        assert len(batches) == 1 + n
        assert len(one._idle) == 1
        os.kill(one._idle[0].process.pid, signal.SIGKILL)
        one._idle[0].process.wait(HANG_SECONDS)


def test_a_pack_that_kills_each_worker_fails_after_its_attempts(scratch: Path) -> None:
    for n in range(2):
        (scratch / f"kill-{n}").touch()
    (record, *_) = executor(scratch, max_attempts=2).run(Pack(trials=TRIALS[:2]), study="s")
    assert (str(record.outcome.status), record.pack_size) == ("failed", 2)
    assert "attempt 2 of 2" in (record.outcome.reason or "")


class Hangs:
    """What a worker's process gets to read and never has read."""

    def __init__(self, large: int) -> None:
        self.content = b"x" * large

    def __call__(self, log_dir: Path) -> LocalExecutor[None]:
        raise AssertionError("never called")

    def __reduce__(self) -> object:
        return (_hang, (self.content,))


def _hang(content: bytes) -> Hangs:
    time.sleep(HANG_SECONDS)
    raise AssertionError("the process outlived its test")


def hanging(monkeypatch: pytest.MonkeyPatch, one: ProcessExecutor, n: int) -> None:
    """Let the first n places hang while they start, on a clock that moves while nobody else is waited for."""
    seconds = 0.0
    one.now = lambda: seconds
    hung = tuple(replace(place, make=Hangs(1 << 22)) for place in one._places[:n])
    one._places = (*hung, *one._places[n:])
    heard = one._heard

    def later(seats: list[ProcessSeat]) -> list[ProcessSeat]:
        nonlocal seconds
        if seats and all(seat.place in hung for seat in seats):
            seconds += one.options.start_seconds
        return heard(seats)

    monkeypatch.setattr(_workers, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(one, "_heard", later)


def test_a_probe_is_answered_by_the_worker_that_then_trains(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    """Also where the first process hangs before it has started, with more to read than a line holds."""
    one, told = executor(scratch), list[str]()
    one.tell = told.append
    one._places = tuple(replace(place, make=probed) for place in one._places)
    hanging(monkeypatch, one, 1)
    assert one.seconds_per_trial_step(Pack(trials=TRIALS[:2])) == 0.25
    assert told == ["the process for place 0 has not started within 300 s; the sweep goes on without it, on 1"]
    assert (one.slots, len(one._open)) == (1, 1)
    pid = one._open[0].process.pid
    assert [str(r.outcome.status) for r in one.run(Pack(trials=TRIALS[:2]), study="s")] == ["ok", "ok"]
    assert [seat.process.pid for seat in one._open] == [pid], "it was a worker of the packs and waits for more"
    one.close()
    assert not psutil.pid_exists(pid)


def test_closing_ends_every_process_whatever_it_does(scratch: Path) -> None:
    """One that waits for packs and is stopped, one that has not started yet."""
    one = executor(scratch)
    assert one.seconds_per_trial_step(Pack(trials=TRIALS[:2])) is None, "the fake engine has no probe"
    (idle,), one._idle = one._idle, []
    one._begun([idle])
    one._idle = [idle]
    pids = [seat.process.pid for seat in one._open]
    os.kill(pids[0], signal.SIGSTOP)
    one.close()
    one.close()
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_stopped_process_gives_no_sign_and_is_replaced(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    """The clock moves only while it is stopped, in mid-pack: once it has taken the order, or its successor would."""
    monkeypatch.setattr(_workers, "POLL_SECONDS", 0.01)
    order = scratch / "hang-1"
    order.touch()
    one, seconds, stopped = executor(scratch), 0.0, list[int]()
    one.now = lambda: seconds
    one._places = one._places[:1]
    gave_sign, signs = one._gave_sign, list[bool]()

    def asked(seat: ProcessSeat) -> bool:
        nonlocal seconds
        signs.append(gave_sign(seat))
        if any(signs) and not stopped and not order.exists():
            stopped.append(seat.process.pid)
            os.kill(seat.process.pid, signal.SIGSTOP)
        seconds += 100.0 if stopped == [seat.process.pid] else 0.0
        return signs[-1]

    monkeypatch.setattr(one, "_gave_sign", asked)
    lost, done = one.stream_many([Pack(trials=TRIALS[:2])], study="s")
    assert "gave no sign of life for " in (lost.records[0].outcome.reason or "")
    assert (lost.final, done.final, len(done.records)) == (False, True, 2)
    assert not psutil.pid_exists(stopped[0])


def test_where_all_processes_hang_before_they_start_the_sweep_stops(
    monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    one = executor(scratch)
    hanging(monkeypatch, one, 2)
    with pytest.raises(StoppedError, match="process for place 1 has not started within 300 s"):
        one.seconds_per_trial_step(Pack(trials=TRIALS[:2]))
    with pytest.raises(StoppedError, match="no process has started on any device"):
        one.run(Pack(trials=TRIALS[:2]), study="s")
    assert one._open == []


def probed(log_dir: Path) -> LocalExecutor[None]:
    return LocalExecutor(
        load=lambda one: None, train=lambda pack, loaded: [outcome(one) for one in pack.trials],
        probe=lambda pack, loaded: 0.25, provenance=PROVENANCE, metric_name="accuracy",
    )  # fmt: skip


def refuse_to_load(log_dir: Path) -> ProcessExecutor:
    raise AssertionError("never called: the process ends first")


def test_a_process_that_cannot_start_stops_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    one = ProcessExecutor(
        places=[Place(name="cpu", make=refuse_to_load)], provenance=PROVENANCE, metric_name="accuracy"
    )
    with pytest.raises(StoppedError, match="process for cpu ended with code 1 before it could start"):
        one.run(Pack(trials=TRIALS[:2]), study="s")


def test_workers_end_with_their_driver_and_the_next_one_goes_on(tmp_path: Path, scratch: Path) -> None:
    results = tmp_path / "results"
    command = [sys.executable, "-m", "tests.support.process_helpers", str(results), str(scratch)]
    (scratch / PAUSE).touch()
    first = subprocess.Popen(command, cwd=ROOT)
    until = time.monotonic() + HANG_SECONDS
    try:
        while len(list((results / "s" / "trials").glob("*.parquet"))) < 2 or len(notes(scratch, "load")) < 2:
            assert first.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        first.kill()
        first.wait()
    for (pid,) in notes(scratch, "load"):
        while psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until, "a worker outlives its driver"
            time.sleep(0.05)
    (scratch / PAUSE).unlink()
    before = {row["trial_id"] for row in rows(results)}
    assert 0 < len(before) < 30
    assert subprocess.run(command, cwd=ROOT, timeout=HANG_SECONDS, check=False).returncode == 0
    run(tmp_path / "local", TRIALS)
    assert rows(results) == rows(tmp_path / "local")


@pytest.mark.parametrize("more", ["", "--sampler halving --widen false"])
def test_the_command_line_trains_on_two_processes_of_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    """The scores of one process up to the order of sums, also where trials go on elsewhere; packs are cut for two."""
    words = (
        "--methods lora --eta-A 1e-3,3e-3 --ranks 2 --seeds 0 --steps 4 --eval-steps 4 --precision fp64 --pack-size 2 "
        + more
    )
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    command = ["sweep", "--task", "demo", *words.split()]
    found = {}
    for device in ("cpu", "cpu:2"):
        assert cli.main([*command, "--device", device, "--results-dir", str(tmp_path / device)]) == 0
        found[device] = comparable(store.load(tmp_path / device / "demo-tiny-roberta"))
    one, two = found["cpu"], found["cpu:2"]
    assert [row["trial_id"] for row in two] == [row["trial_id"] for row in one]
    assert [row["train_loss"] for row in two] == pytest.approx([row["train_loss"] for row in one], rel=1e-9)
    assert ({row["pack_size"] for row in one}, {row["pack_size"] for row in two}) == ({2}, {1})


def test_devices_that_mean_several(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.workers("cpu") == ("cpu",)
    assert devices.workers("cpu:3") == ("cpu", "cpu", "cpu")
    monkeypatch.setattr(devices, "n_gpus", lambda: 2)
    assert devices.workers("cuda:all") == ("cuda:0", "cuda:1")
    assert devices.workers("cuda:1") == ("cuda:1",)
    monkeypatch.setattr(devices, "n_gpus", lambda: 0)
    with pytest.raises(BadInput, match="device of this machine"):
        devices.workers("cuda:all")
