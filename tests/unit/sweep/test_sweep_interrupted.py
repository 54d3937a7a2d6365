"""The sweep, interrupted, killed, or started twice: what is finished is kept, and it ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from optuna.trial import TrialState

from bench import store
from bench.core.errors import BadInput
from bench.core.spec import Pack
from bench.store import rows as stored_rows
from tests.support.sweep_helpers import TRIALS, FakeEngine, complete, ids, interrupt_at, optuna_trials, rows, run

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")


@pytest.mark.parametrize("hows", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT),
                                  (signal.SIGINT, signal.SIGTERM)])  # fmt: skip
@pytest.mark.parametrize("n", [0, 1, 5, 12])
def test_an_interrupted_sweep_keeps_what_is_finished_and_ends_equal(
    tmp_path: Path, uninterrupted: list[dict[str, object]], n: int, hows: tuple[int, ...],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The first Ctrl-C lets the pack at work end, the next one, or SIGTERM, gives it up."""
    first, second = interrupt_at(n, *hows), FakeEngine()
    stopped = run(tmp_path, TRIALS, first)
    ended = n + 1 if hows == (signal.SIGINT,) else n
    assert (stopped.interrupted, stopped.exit_code, len(first.packs)) == (True, 130, ended)
    assert ("Ctrl-C again gives it up" in capfd.readouterr().err) == (hows[0] == signal.SIGINT)
    assert stopped.n_run == stopped.n_finished == len(first.trained)
    assert store.finished_ids(tmp_path / "s") == set(first.trained)
    assert not any(t.state is TrialState.RUNNING for t in optuna_trials(tmp_path)), "none is left running"
    assert run(tmp_path, TRIALS, second).exit_code == 0
    assert sorted(first.trained + second.trained) == ids(TRIALS)
    assert rows(tmp_path) == uninterrupted


def test_a_stop_asked_for_in_the_last_pack_is_no_interruption(tmp_path: Path) -> None:
    first = interrupt_at(13, signal.SIGINT)
    done = run(tmp_path, TRIALS, first)
    assert (done.interrupted, done.exit_code, len(first.packs)) == (False, 0, 14)


def test_a_signal_while_storing_waits_until_the_pack_is_stored_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store.write_part

    def interrupted_write(path: Path, table: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        write(path, table)
        monkeypatch.setattr(stored_rows, "write_part", write)

    monkeypatch.setattr(stored_rows, "write_part", interrupted_write)
    done = run(tmp_path, TRIALS)
    assert (done.interrupted, done.n_run) == (True, 3)
    assert len(rows(tmp_path)) == 3
    told = [t.user_attrs["trial_id"] for name in ("lora", "lora+") for t in complete(tmp_path, f"s/demo/tiny/{name}")]
    assert sorted(told) == [row["trial_id"] for row in rows(tmp_path)]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_storm_of_kills_loses_and_doubles_nothing(
    tmp_path: Path, uninterrupted: list[dict[str, object]], seed: int
) -> None:
    command = [sys.executable, "-m", "tests.support.kill_storm", str(tmp_path), str(seed), "12"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {"killed": 12, "exit": 0, "ran_again": False}
    frame = pd.read_parquet(tmp_path / "s" / store.TRIALS)
    assert sorted(frame.trial_id) == ids(TRIALS)
    assert rows(tmp_path) == uninterrupted
    for method in ("lora", "lora+", "mora", "full"):
        finished = complete(tmp_path, f"s/demo/tiny/{method}")
        assert sorted(t.user_attrs["trial_id"] for t in finished) == ids(t for t in TRIALS if t.method == method)
    assert not [p for p in (tmp_path / "s" / store.TRIALS).iterdir() if p.name.startswith(".")]


def test_two_sweeps_on_one_directory(tmp_path: Path) -> None:
    inner: list[BaseException] = []

    def again(pack: Pack) -> None:
        try:
            run(tmp_path, TRIALS)
        except BadInput as error:
            inner.append(error)

    assert run(tmp_path, TRIALS[:1], FakeEngine(before=again)).n_run == 1
    assert f"process {os.getpid()} at work on it; wait for it, stop it" in str(inner[0])


def test_it_runs_in_a_thread_where_signals_cannot_be_caught(tmp_path: Path) -> None:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, TRIALS).n_run))
    thread.start()
    thread.join()
    assert results == [30]
