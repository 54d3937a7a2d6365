"""What docs/security.md promises and no other test holds: links, passwords, loopback, pins."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from bench import cli, store
from bench.core.errors import BadInput
from bench.core.spec import Pack
from bench.executors.local import LocalExecutor
from bench.store import lock
from bench.sweep.optuna_mirror import bridge, journal
from tests.support.sweep_helpers import OPTIONS, PROVENANCE, FakeEngine, grid, run

ROOT = Path(__file__).resolve().parents[3]
TRIALS = grid()[:4]
SECRET = "s3cr3t"
URLS = (
    f"postgresql://me:{SECRET}@127.0.0.1:1/none",
    f"postgresql://me:{SECRET}%40{SECRET}@127.0.0.1:1/none",
    f"postgresql://me:{SECRET}@{SECRET}@127.0.0.1:1/none",
    f"redis://:{SECRET}@127.0.0.1:1",
    f"mysql+pymysql://127.0.0.1:1/none?user=me&password={SECRET}",
    f"nonsense://me:{SECRET}@127.0.0.1/none",
)


# Links in a results directory that someone else made


def test_a_link_in_the_place_of_a_file_of_ours_never_has_its_target_changed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("one line without an end")
    directory = tmp_path / "s"
    (directory / "logs").mkdir(parents=True)
    (directory / journal.JOURNAL_NAME).symlink_to(target)
    (directory / store.TRIALS).mkdir()
    (directory / store.TRIALS / f"{Pack(trials=TRIALS).pack_id}.parquet").symlink_to(target)
    (directory / store.TRIALS / f".writing-probe-{os.getpid()}").symlink_to(target)

    def fail(pack: Pack, loaded: object) -> list[object]:
        (directory / "logs" / f"{pack.pack_id}.log").symlink_to(target)
        raise RuntimeError("no")

    one = LocalExecutor(load=lambda t: None, train=fail, provenance=PROVENANCE, metric_name="accuracy",
                        log_dir=directory / "logs")  # type: ignore[arg-type]  # fmt: skip
    assert one.run(Pack(trials=TRIALS), study="s")[0].outcome.reason == "RuntimeError: no"
    assert run(tmp_path, TRIALS).exit_code == 0
    assert len(store.load(directory)) == 4
    assert target.read_text() == "one line without an end"


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / lock.LOCK_NAME).symlink_to(target)
    with pytest.raises(BadInput, match="the results directory must be writable"):
        run(tmp_path, TRIALS)
    assert target.read_text() == "mine"


def test_the_dashboards_copy_does_not_follow_a_link(tmp_path: Path) -> None:
    run(tmp_path, TRIALS)
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "s" / f".dashboard-{journal.JOURNAL_NAME}").symlink_to(target)
    journal.copy_for_dashboard(tmp_path / "s")
    assert target.read_text() == "mine"


# Passwords


@pytest.mark.parametrize("url", URLS)
def test_no_password_is_shown_where_a_storage_does_not_answer(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadInput) as caught:
        run(tmp_path, TRIALS, options=replace(OPTIONS, storage=url))
    assert SECRET not in str(caught.value)
    assert "***" in str(caught.value)
    assert caught.value.__suppress_context__, "a traceback would show the driver's own message"


@pytest.mark.parametrize(
    ("url", "password"),
    [
        (URLS[0], SECRET),
        (URLS[1], f"{SECRET}%40{SECRET}"),
        (URLS[1], f"{SECRET}@{SECRET}"),
        (URLS[2], f"{SECRET}@{SECRET}"),
        (URLS[3], SECRET),
        (URLS[4], SECRET),
    ],
)
def test_no_password_is_left_in_an_error_that_names_it_alone(url: str, password: str) -> None:
    for text in (url, f"user me, password {password}", f"{password} refused"):
        assert SECRET not in bridge.scrub(RuntimeError(text), url)
    assert SECRET not in bridge.redact(f"at {url} now")


def test_a_storage_that_fails_while_sweeping_leaves_its_password_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url = URLS[0]
    monkeypatch.setattr(optuna.storages, "get_storage", lambda _: optuna.storages.InMemoryStorage())
    engine = FakeEngine()

    def fail(*_: object, **__: object) -> object:
        raise RuntimeError(f"connection to {url} lost, password {SECRET}")

    engine.before = lambda pack: monkeypatch.setattr(optuna.Study, "tell", fail)
    events: list[object] = []
    done = run(tmp_path, TRIALS, engine, options=replace(OPTIONS, storage=url), on_event=events.append)
    assert done.n_run == 4
    assert any("Optuna's storage failed" in warning for warning in done.warnings)
    assert SECRET not in "".join((str(done), str(events), *capfd.readouterr()))
    assert SECRET not in str(store.load(tmp_path / "s").to_pylist())
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in written


def test_the_storage_may_be_given_where_a_process_list_does_not_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORASWEEP_STORAGE", URLS[-1])
    arguments = ["--task", "toy", "--eta-A", "1e-3", "--results-dir", str(tmp_path), "--device", "cpu"]
    assert cli.main(["sweep", *arguments]) == 2
    out, err = capsys.readouterr()
    assert "storage nonsense://me:***@127.0.0.1/none" in err
    assert SECRET not in out + err


# Nothing listens


def test_a_sweep_and_its_report_open_no_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: socket.socket, *_: object) -> None:
        raise AssertionError("a sweep listens")

    monkeypatch.setattr(socket.socket, "bind", refused)
    monkeypatch.setattr(socket.socket, "listen", refused)
    assert run(tmp_path, TRIALS).exit_code == 0


def test_the_dashboard_is_told_to_listen_on_loopback() -> None:
    from bench.commands import dashboard

    assert dashboard.HOST == "127.0.0.1"


# Pins


def pins(name: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    found = [line.split(" --hash")[0].split("==") for line in lines if line]
    return {package.lower().replace("_", "-"): version for package, version in found}


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*.txt")), ids=lambda path: path.name)
def test_every_requirement_is_pinned(path: Path) -> None:
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins(path.name).values())
    assert "://" not in path.read_text(encoding="utf-8")


def test_the_lock_file_has_a_hash_for_each_requirement_but_torch() -> None:
    assert pins("requirements.lock") == {k: v for k, v in pins("requirements.txt").items() if k != "torch"}
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
