"""A sweep seen from another terminal: what it does now, one line for each pack, and no trace of it in the way."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench import cli, sweep
from bench.commands import _show
from bench.core.errors import BadInput
from bench.store import lock
from bench.sweep import live
from bench.sweep.live import Live
from tests.support.sweep_helpers import OPTIONS, TRIALS, FakeEngine, executor, family, study

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


def swept(tmp_path: Path, engine: FakeEngine, beacon: live.Beacon) -> sweep.SweepSummary:
    done = sweep.run(study(), TRIALS, results_dir=tmp_path, executor=executor(engine), options=OPTIONS, family=family,
                     on_event=beacon)  # fmt: skip
    beacon.ended(done)
    return done


def test_what_a_sweep_does_is_told_while_it_does_it(tmp_path: Path) -> None:
    seen: list[Live | None] = []
    now = [0.0]
    beacon = live.Beacon(tmp_path / "s", n_steps=20, clock=lambda: now[0])

    def train(pack: object) -> None:
        beacon.steps(3)  # too soon after the note of the pack's start
        now[0] += 10
        beacon.steps(7)
        seen.append(live.read(tmp_path / "s"))

    assert live.read(tmp_path / "s") is None
    done = swept(tmp_path, FakeEngine(before=train), beacon)  # type: ignore[arg-type]
    assert live.read(tmp_path / "s") is None, "at its end it is not at work"
    assert [one.n_stored for one in seen if one] == list(range(len(seen)))
    first = seen[0]
    assert first is not None
    assert (first.pid, first.n_packs, first.running, first.steps_done, first.n_steps) == (
        str(os.getpid()), len(seen), 3, 7, 20,
    )  # fmt: skip
    lines = (tmp_path / "s" / "logs" / "sweep.log").read_text().splitlines()
    assert len(lines) == 1 + len(seen) + 1, "one line for each pack, one at each end"
    assert "sweep started: 0 of 30 trials finished" in lines[0]
    assert f"pack 1/{len(seen)} " in lines[1]
    assert lines[1].endswith("10.0 s; 3 of 30 trials finished")
    assert f"sweep ended: 30 of 30 trials finished, 30 of them in this run, 0 failed, {done.seconds:.1f} s" in lines[-1]


def test_the_words_of_status() -> None:
    one = Live(pid="7", started_at="", n_packs=4, n_stored=1, running=3, steps_done=5, n_steps=20,
               remaining_seconds=100.0, at="2026-01-01T00:00:00+00:00")  # fmt: skip
    assert _show.at_work(one, 10, 30) == (
        "10 of 30 trials finished; process 7 at work; pack 2 of 4; 3 trials running (step 5 of 20); "
        "about 2 min left when last told, 2026-01-01T00:00:00+00:00"
    )
    assert _show.at_work(Live(pid="7", started_at=""), 1, 2) == "1 of 2 trials finished; process 7 at work"
    assert _show.at_work(None, 1, 2) == "1 of 2 trials finished; no sweep is at work on them"
    assert _show.at_work(None, 2, 2) == "2 of 2 trials finished"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 1}', '{"x": 1}'])
def test_a_note_that_is_broken_or_of_another_sweep_counts_as_none(tmp_path: Path, text: str) -> None:
    with lock.hold(tmp_path):
        (tmp_path / live.LIVE_NAME).write_text(text)
        assert live.read(tmp_path) == Live(pid=str(os.getpid()), started_at="")


def test_a_look_that_takes_long_never_keeps_a_sweep_from_starting(tmp_path: Path) -> None:
    """A look is held up in its middle; the sweep waits for it, however long it takes, and takes the lock then."""
    (tmp_path / lock.LOCK_NAME).touch()
    looking = os.open(tmp_path / lock.LOCK_NAME, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    n_waits = 0

    def wait(seconds: float) -> None:
        nonlocal n_waits
        n_waits += 1
        if n_waits == 50:
            os.close(looking)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock.time, "sleep", wait)
        with lock.hold(tmp_path):
            assert lock.holder(tmp_path) == str(os.getpid())
            assert n_waits == 50
            with pytest.raises(BadInput, match="one sweep at a time"), lock.hold(tmp_path):
                pass
            assert n_waits == 50, "a sweep at work is told at once"


def test_looking_for_a_sweep_never_keeps_one_from_starting(tmp_path: Path) -> None:
    """Two who look a hundred times a second, and a sweep that starts as often as it can."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.01):
            lock.holder(tmp_path)

    threads = [threading.Thread(target=look, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            with lock.hold(tmp_path):
                assert lock.holder(tmp_path) == str(os.getpid())
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_watching_ends_when_all_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.commands import status

    looks = iter([(False, "one"), (False, "two"), (True, "three")])
    monkeypatch.setattr(status, "look", lambda resolved, directory: next(looks))
    words = ["status", "--task", "demo", "--device", "cpu", "--results-dir", str(tmp_path)]
    assert cli.main([*words, "--watch", "--every", "0.2"]) == 0
    assert capsys.readouterr().out == "one\n\ntwo\n\nthree\n\n"


@pytest.mark.slow
def test_the_real_engine_stops_at_the_second_signal(tmp_path: Path) -> None:
    """The first Ctrl-C is answered and it trains on; the second gives the pack up."""
    options = {"task": "demo", "methods": "lora", "seeds": "0", "steps": "100000", "device": "cpu"}
    words = ["sweep", *(f"--{name}={value}" for name, value in options.items()), f"--results-dir={tmp_path}"]
    one = subprocess.Popen([sys.executable, "-m", "bench", *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                           text=True, cwd=Path(__file__).resolve().parents[3])  # fmt: skip
    directory = tmp_path / "demo-tiny-roberta"
    try:
        while not ((now := live.read(directory)) and now.steps_done):
            assert one.poll() is None
            time.sleep(0.1)
        at_first = now.steps_done
        one.send_signal(signal.SIGINT)
        assert one.stderr is not None
        for line in one.stderr:  # until it has answered
            if "Ctrl-C again gives it up" in line:
                break
        while not ((now := live.read(directory)) and (now.steps_done or 0) > at_first):
            assert one.poll() is None, "it must train on"
            time.sleep(0.1)
        one.send_signal(signal.SIGINT)
        one.communicate(timeout=1200)  # a pack of 100,000 steps takes hours: it was given up
    finally:
        one.kill()
    assert one.returncode == 130
    assert live.read(directory) is None
