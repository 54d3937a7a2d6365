"""A sweep whose Optuna storage is a real PostgreSQL server: killed, resumed, without its server for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from bench import cli, store
from bench.core.spec import Pack
from tests.support import postgres
from tests.support.postgres import Server
from tests.support.sweep_helpers import OPTIONS, TRIALS, FakeEngine, ids, interrupt_at, rows, run

pytest.importorskip("psycopg")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres.binaries() is None, reason="no PostgreSQL server programs on this machine"),
    pytest.mark.usefixtures("no_waiting_for_the_disk"),
]
METHODS = ("lora", "lora+", "mora", "full")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres.server() as one:
        yield one


@contextmanager
def storage(server: Server) -> Iterator[optuna.storages.BaseStorage]:
    """Yield the storage, as any user of Optuna would open it; its connections are closed."""
    opened = optuna.storages.RDBStorage(server.url)
    try:
        yield opened
    finally:
        opened.engine.dispose()


@pytest.fixture
def fresh(server: Server) -> Server:
    """Return the server with no study in it."""
    with storage(server) as opened:
        for name in optuna.get_all_study_names(opened):
            optuna.delete_study(study_name=name, storage=opened)
    return server


def complete(server: Server) -> list[str]:
    """Return the ids of the trials that Optuna holds for finished; none may be left running."""
    with storage(server) as opened:
        studies = [optuna.load_study(study_name=f"s/demo/tiny/{name}", storage=opened) for name in METHODS]
        trials = [one for study in studies for one in study.get_trials()]
    assert all(one.state.is_finished() for one in trials)
    return sorted(one.user_attrs["trial_id"] for one in trials if one.state is TrialState.COMPLETE)


def test_it_listens_on_loopback_alone(server: Server) -> None:
    assert postgres.listens_on(server.port) == {"0100007F"}


def test_a_sweep_interrupted_and_gone_on_with(
    fresh: Server, tmp_path: Path, uninterrupted: list[dict[str, object]]
) -> None:
    options = replace(OPTIONS, storage=fresh.url)
    assert run(tmp_path, TRIALS, interrupt_at(6), options=options).interrupted
    assert complete(fresh) == sorted(store.finished_ids(tmp_path / "s"))
    assert run(tmp_path, TRIALS, options=options).exit_code == 0
    assert rows(tmp_path) == uninterrupted
    assert complete(fresh) == ids(TRIALS)
    assert run(tmp_path, TRIALS, engine := FakeEngine(), options=options).exit_code == 0
    assert engine.packs == []
    assert not (tmp_path / "s" / "optuna.journal").exists()


def test_the_server_dies_in_mid_sweep_and_comes_back(
    fresh: Server, tmp_path: Path, uninterrupted: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()

    def before(pack: Pack) -> None:
        if len(engine.packs) == 4:
            fresh.stop()

    engine.before = before
    options = replace(OPTIONS, storage=fresh.url)
    done = run(tmp_path, TRIALS, engine, options=options)
    assert (done.exit_code, done.n_run) == (0, 30), "a grid goes on without it"
    (warning,) = [text for text in done.warnings if "Optuna's storage failed" in text]
    assert "the next sweep puts it right" in warning
    said = [warning]
    assert cli.main(["sweep", "--task", "demo", "--results-dir", str(tmp_path), "--storage", fresh.url]) == 2
    said.append(capsys.readouterr().err)
    assert "must be an Optuna storage that answers" in said[1]
    fresh.start()
    assert run(tmp_path, TRIALS, options=options).exit_code == 0
    assert complete(fresh) == ids(TRIALS)
    assert rows(tmp_path) == uninterrupted
    said += [path.read_text(errors="replace") for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert not [text for text in said if fresh.password in text or fresh.url in text]


def test_doctor_tries_the_storage(fresh: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--task", "demo", "--device", "cpu", "--results-dir", str(tmp_path), "--storage", fresh.url]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert f"ok     storage  postgresql://lorasweep:***@127.0.0.1:{fresh.port}/postgres answers" in out
