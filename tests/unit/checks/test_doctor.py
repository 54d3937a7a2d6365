"""bench doctor: what would stop a long sweep is found before it, and said in a line; each check can fail."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench import cli
from bench.checks import doctor, preflight
from bench.core import hub
from bench.core.spec import Pack
from bench.engine.sizes import Shape
from bench.schedule import planner
from bench.schedule.planner import Limits
from bench.store import lock
from tests.support.sweep_helpers import study, trial

WORDS = ["--task", "demo", "--device", "cpu", "--profile", "quick"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))


def examined(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, str], str]:
    """Return exit code, each check's line by name, and the verdict."""
    code = cli.main(["doctor", *words])
    lines = capsys.readouterr().out.splitlines()
    checks = {line[7:17].strip(): line for line in lines[:-2]}
    return code, checks, lines[-1]


def test_a_sweep_that_can_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, checks, verdict = examined(capsys, *WORDS, "--results-dir", str(tmp_path / "r"))
    assert (code, verdict) == (0, "a sweep can run")
    assert list(checks) == [
        "device", *(check.name for check in preflight.CHECKS), "Hub", "memory", "time", "disk", "lock", "storage",
    ]  # fmt: skip
    assert {line.split()[0] for line in checks.values()} == {"ok"}
    assert "not needed, data and model are on this machine (HF_HUB_OFFLINE is set)" in checks["Hub"]
    assert not (tmp_path / "r").exists(), "it changes nothing"


def test_what_would_fail_is_all_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "r"
    results.write_text("a file in the way")
    words = ["--task", "rte", "--model", "no-such/model", "--device", "cpu", "--results-dir", str(results)]
    code, checks, verdict = examined(capsys, *words, "--storage", "postgresql+nodriver://me:sesame@localhost/x")
    assert code == 1
    assert verdict == "a sweep would fail: data, model, Hub, disk, storage"
    assert all(checks[name].startswith("fails") for name in ("data", "model", "Hub", "disk", "storage"))
    assert "the Hub must give" in checks["data"]
    assert "must be writable" in checks["disk"]
    assert "sesame" not in str(checks)


def test_a_study_that_is_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lock.hold(tmp_path / "demo-tiny-roberta"):
        code, checks, _ = examined(capsys, *WORDS, "--results-dir", str(tmp_path))
    assert code == 1
    assert f"process {os.getpid()} is at work" in checks["lock"]
    assert doctor.free_to_run(tmp_path / "demo-tiny-roberta").level == "ok"


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 100 * doctor.BYTES_OF_A_ROW + doctor.SPARE_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(free, 0, free))
    assert doctor.disk(tmp_path / "not" / "yet", 100).level == "ok"
    found = doctor.disk(tmp_path / "not" / "yet", 101)
    assert (found.level, "free space" in found.found) == ("fails", True)


def test_memory_that_is_too_small_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(shape=Shape(n_layers=2, hidden_size=100, train_tokens=10.0))
    pack = Pack(trials=tuple(trial(eta_A=1e-4 * i) for i in range(1, 5)))
    need = 4 * 4 * 10 * 100 * 2 * 13 * 4  # trials, batch, tokens, hidden, layers, values, bytes
    for free, level in ((need + 1000, "ok"), (need + 999, "note"), (None, "ok")):
        monkeypatch.setattr(doctor, "free_memory", lambda device, free=free: free)
        assert doctor.memory(study(device="cpu"), [pack], limits, 1000).level == level
    gpu = replace(limits, device_kind="cuda", memory_bytes=10**9)
    planned = planner.pack_bytes(pack.trials[0], 4, gpu, checkpointed=False)
    monkeypatch.setattr(doctor, "free_memory", lambda device: int(planned) + 1001)
    assert planned != need
    assert doctor.memory(study(device="cpu"), [pack], gpu, 1000).level == "ok", "as packs are planned there"
    monkeypatch.undo()
    assert 1 << 20 < (doctor.free_memory("cpu") or 0) < 1 << 50


def test_a_hub_that_answers_and_one_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "failure", lambda: None)
    assert doctor.hub_answers(needed=True).level == "ok"
    monkeypatch.setattr(hub, "failure", lambda: "no answer in 6 s")
    assert [doctor.hub_answers(needed=needed).level for needed in (True, False)] == ["fails", "ok"]


def test_a_busy_machine_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.device(study(device="cpu")).level == "ok"
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    assert doctor.device(study(device="cpu")).level == "note"
    assert doctor.guarded("device", lambda: 1 / 0).level == "fails"  # type: ignore[arg-type,return-value]
