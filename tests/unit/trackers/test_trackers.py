"""Trackers: what the real libraries read back, offline; a tracker that fails or hangs; no run twice after a kill."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import subprocess
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import store, trackers
from bench.core import registry
from bench.core.errors import BadInput
from bench.sweep.events import Started
from bench.trackers import _reporter
from bench.trackers._base import LAST, Run, of_row

ROOT = Path(__file__).resolve().parents[3]
ROWS = store.load_files([ROOT / "results" / "reference" / "sst2-compare-bf16-fresh.parquet"]).to_pylist()[:3]
START = Started(n_trials=3, n_finished=3, n_packs=0, estimate=None)
pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries warn of is theirs


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes MLflow's tables in a minute."""
    monkeypatch.setattr(_reporter, "LAST_SECONDS", 600.0)


class Kept:
    """A tracker that keeps runs, and fails at one if asked to."""

    def __init__(self, fail_at: str = "") -> None:
        self.runs, self.fail_at, self.closed = list[Run](), fail_at, False

    def send(self, run: Run) -> None:
        if run.trial_id == self.fail_at:
            raise ConnectionError("the server is\ndown")
        self.runs.append(run)

    def close(self) -> None:
        self.closed = True


def report(directory: Path, opens: Any, rows: list[dict[str, Any]], name: str = "kept") -> list[str]:
    told: list[str] = []
    reporter = trackers.Reporter(
        name, opens, group="study", directory=directory, finished=lambda: rows, warn=told.append
    )
    reporter(START)
    reporter.close()
    return told


def real(name: str, directory: Path) -> None:
    opens = trackers.get(name)
    assert report(directory, opens, ROWS[:2], name) == []
    (directory / f"reported-{name}.txt").write_text(f"{ROWS[0]['trial_id']}\n")  # a kill before the second was noted
    assert report(directory, opens, ROWS, name) == []


def test_names_are_those_of_transformers() -> None:
    run = of_row(ROWS[0])
    step, values = run.points[-1]
    assert (run.group, run.trial_id) == (ROWS[0]["study"], ROWS[0]["trial_id"])
    assert (step, values) == (
        300,
        {"train/loss": ROWS[0]["curve"][-1]["train_loss"], "eval/accuracy": ROWS[0]["metric_value"]},
    )
    assert run.summary[LAST] == ROWS[0]["metric_value"]
    assert run.config["eta_A"] == ROWS[0]["eta_A"]
    assert None not in run.config.values()


def test_a_run_s_name_tells_rank_rates_and_seed() -> None:
    row = {**ROWS[0], "method": "lora+", "rank": 8, "eta_A": 1.6e-3, "lr_ratio": 4.0, "seed": 2}
    assert of_row(row).name == "lora+, rank 8, eta_A 0.0016, lr_ratio 4, seed 2"
    assert of_row({**row, "method": "lora", "lr_ratio": 1.0}).name == "lora, rank 8, eta_A 0.0016, seed 2"
    assert of_row({**row, "method": "full", "rank": None, "lr_ratio": None}).name == "full, eta_A 0.0016, seed 2"


def test_tensorboard_reads_back_what_was_sent(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    real("tensorboard", tmp_path)
    directories = {path.name[-17:-1]: path for path in (tmp_path / "tensorboard").iterdir()}
    assert sorted(directories) == sorted(row["trial_id"] for row in ROWS)
    for row in ROWS:
        found = EventAccumulator(str(directories[row["trial_id"]]))
        found.Reload()
        points = found.Scalars("eval/accuracy")
        assert [p.step for p in points] == [p["step"] for p in row["curve"]]
        assert points[-1].value == pytest.approx(row["metric_value"], rel=1e-6)
        assert [p.step for p in found.Scalars(LAST)] == [points[-1].step]


def test_mlflow_reads_back_what_was_sent(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")

    real("mlflow", tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    assert sorted(run.data.tags["lorasweep.trial_id"] for run in runs) == sorted(row["trial_id"] for row in ROWS)
    by_id = {run.data.tags["lorasweep.trial_id"]: run for run in runs}
    for row in ROWS:
        run = by_id[row["trial_id"]]
        assert float(run.data.params["eta_A"]) == row["eta_A"]
        assert run.info.end_time - run.info.start_time == int(1000 * row["train_seconds"])
        assert run.data.metrics["eval/metric_value"] == row["metric_value"]
        assert len(client.get_metric_history(run.info.run_id, "eval/accuracy")) == len(row["curve"])


def schema(database: Path) -> set[tuple[str, ...]]:
    """Return what `sqlite_master` says of each table and index, and the revision that MLflow reads."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        named = connection.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master").fetchall()
        return {*named, *connection.execute("SELECT version_num FROM alembic_version")}


def test_a_new_database_of_mlflow_is_the_one_that_mlflow_makes_without_its_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient
    from mlflow.store.db import utils

    from bench.trackers import mlflow

    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    mlflow.open_tracker("study", tmp_path / "first").send(of_row(ROWS[0]))  # the cache is empty: MLflow's migrations
    monkeypatch.chdir(tmp_path / "second")
    monkeypatch.setattr(utils, "_initialize_tables", lambda engine: pytest.fail("the migrations ran again"))
    mlflow.open_tracker("study", tmp_path / "second").send(of_row(ROWS[1]))
    assert schema(tmp_path / "first" / "mlflow.db") == schema(tmp_path / "second" / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path / 'second' / 'mlflow.db'}")
    found = {experiment.name: experiment for experiment in client.search_experiments()}
    assert {name: one.experiment_id for name, one in found.items()} == {"Default": "0", "study": "1"}
    assert all(one.artifact_location.startswith(str(tmp_path / "second")) for one in found.values())
    runs = client.search_runs([found["study"].experiment_id])
    assert [run.data.tags["lorasweep.trial_id"] for run in runs] == [ROWS[1]["trial_id"]]


def written(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables but those of experiments, with the trial's id in the place of the run's."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        trial = dict(connection.execute("SELECT run_uuid, value FROM tags WHERE key = 'lorasweep.trial_id'"))
        tables = [one for (one,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    del found["experiments"]
    return {
        table: sorted((tuple(_without_ids(value, trial) for value in row) for row in rows), key=repr)
        for table, rows in found.items()
    }


def _without_ids(value: Any, trial: dict[str, str]) -> Any:
    for run, trial_id in trial.items():
        value = value.replace(run, trial_id) if isinstance(value, str) else value
    return value


def test_mlflow_s_own_calls_leave_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    from bench.trackers import mlflow

    monkeypatch.setattr(mlflow, "time", SimpleNamespace(time=lambda: 1.8e9))  # seconds; both ways at one moment
    odd = Run(
        trial_id="odd", group="study", name="odd", status="diverged", config={"rank": 8, "targets": "q" * 7000},
        points=(
            (1, {"train/loss": math.inf}), (3, {"train/loss": math.nan, LAST: 0.5}), (2, {"train/loss": 1.0}),
            (3, {"train/loss": math.nan}),
        ),
        summary={LAST: 0.25, "steps_done": -math.inf},
    )  # fmt: skip
    bare = Run(trial_id="bare", group="study", name="bare", status="ok", config={}, points=(), summary={})
    runs = [*map(of_row, ROWS), odd, bare]

    def all_sent(name: str) -> dict[str, list[tuple[Any, ...]]]:
        (tmp_path / name).mkdir()
        tracker = mlflow.open_tracker("study", tmp_path / name)
        for run in runs:
            tracker.send(run)
        return written(tmp_path / name / "mlflow.db")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", lambda *_, **__: pytest.fail("MLflow's tables are of a new revision"))
        inserted = all_sent("inserted")
    monkeypatch.setattr(mlflow, "_KNOWN", "another")
    called = all_sent("called")
    assert len(called["runs"]) == len(runs)
    assert inserted == called


def test_mlflow_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "file"))  # no directory can be made below it
    assert report(tmp_path, trackers.get("mlflow"), ROWS[:1], "mlflow") == []
    assert (tmp_path / "reported-mlflow.txt").read_text("utf-8").split() == [ROWS[0]["trial_id"]]


def test_trackio_reads_back_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    storage = pytest.importorskip("trackio.sqlite_storage")

    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio")
    real("trackio", tmp_path)
    runs = storage.SQLiteStorage.get_runs("study")
    assert len(runs) == len(ROWS)
    for row in ROWS:
        name = next(one for one in runs if row["trial_id"] in one)
        logs = storage.SQLiteStorage.get_logs("study", name)
        assert [one["eval/accuracy"] for one in logs if "eval/accuracy" in one][-1] == row["metric_value"]


def test_wandb_keeps_runs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    real("wandb", tmp_path)
    # offline-run-<time>-<id>, and -<n> behind it for what was sent again within the same second
    found = {path.name.split("-")[3] for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert found == {row["trial_id"] for row in ROWS}
    assert all(list(path.glob("*.wandb")) for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert not [*(tmp_path / "wandb").rglob("requirements.txt")]  # reading them all was most of what a run cost


def test_what_was_reported_is_not_sent_again(tmp_path: Path) -> None:
    first, second = Kept(), Kept()
    assert report(tmp_path, lambda group, directory: first, ROWS[:2]) == []
    assert report(tmp_path, lambda group, directory: second, ROWS) == []
    assert [run.trial_id for run in first.runs + second.runs] == [row["trial_id"] for row in ROWS]
    assert first.closed
    assert second.closed


def test_a_tracker_that_throws_is_told_once_and_goes_on_next_time(tmp_path: Path) -> None:
    broken, whole = Kept(fail_at=ROWS[1]["trial_id"]), Kept()
    told = report(tmp_path, lambda group, directory: broken, ROWS)
    assert len(told) == 1
    assert told[0].startswith("tracker kept failed: ConnectionError: the server is")
    assert "\n" not in told[0]
    assert report(tmp_path, lambda group, directory: whole, ROWS) == []
    assert [run.trial_id for run in whole.runs] == [row["trial_id"] for row in ROWS[1:]]


def test_a_tracker_that_hangs_or_is_slow_never_holds_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reporter, "LAST_SECONDS", 0.05)
    monkeypatch.setattr(_reporter, "MOST_WAITING", 1)
    go = threading.Event()

    class Slow(Kept):
        def send(self, run: Run) -> None:
            go.wait(60)

    told = report(tmp_path, lambda group, directory: Slow(), ROWS)
    go.set()
    assert len(told) == 1
    assert "slower than the sweep" in told[0]


def test_a_sweep_that_has_ended_waits_for_a_tracker_at_work_but_not_for_one_that_has_hung_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]  # seconds; only what the reporter reads
    monkeypatch.setattr(_reporter, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    begun, go, told = threading.Event(), threading.Event(), list[str]()

    class Hung(Kept):
        def send(self, run: Run) -> None:
            begun.set()
            go.wait(60)
            super().send(run)

    def closed_after(seconds: float, directory: Path) -> Hung:
        tracker = Hung()
        reporter = trackers.Reporter(
            "kept", lambda group, directory: tracker, group="study", directory=directory,
            finished=lambda: ROWS[:1], warn=told.append,
        )  # fmt: skip
        directory.mkdir()
        reporter(START)
        assert begun.wait(60)
        clock[0] += seconds
        reporter.close()
        return tracker

    closed_after(_reporter.LAST_SECONDS + 1, tmp_path / "long")  # would wait for ever: the clock stands
    assert [one.split(";")[0] for one in told] == ["tracker kept has not answered for 600 seconds"]
    threading.Timer(0.1, go.set).start()
    begun.clear()
    assert len(closed_after(_reporter.LAST_SECONDS - 1, tmp_path / "short").runs) == 1
    assert len(told) == 1


def test_mlflow_looks_for_runs_of_a_kill_only_where_an_earlier_sweep_left_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    from bench.trackers import mlflow

    made, asked = Counter[str](), list[str]()
    client = SimpleNamespace(
        get_experiment_by_name=lambda name: SimpleNamespace(experiment_id="1") if made[name] else None,
        create_experiment=lambda name: made.update([name]) or "1",
        search_runs=lambda ids, query: asked.append(query) or [],
        create_run=lambda *_, **__: SimpleNamespace(info=SimpleNamespace(run_id="r")),
        log_batch=lambda *_, **__: None,
        set_terminated=lambda run_id, end_time: None,
    )
    monkeypatch.setattr("mlflow.MlflowClient", lambda uri: client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost")
    mlflow.open_tracker("study", tmp_path).send(of_row(ROWS[0]))
    assert not asked
    mlflow.open_tracker("study", tmp_path).send(of_row(ROWS[0]))
    assert ROWS[0]["trial_id"] in asked[0]


def test_an_unknown_tracker_and_a_missing_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="--report-to: must be one of the trackers here"):
        trackers.get("neptune")
    monkeypatch.setattr(trackers, "_installed", lambda library: False)
    with pytest.raises(BadInput, match="--report-to: needs the library mlflow"):
        trackers.get("mlflow")


def test_make_installs_the_library_of_every_tracker_only_where_one_is_asked_for() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "requirements-trackers.txt").read_text("utf-8").splitlines()}
    libraries = {registry.load(trackers, name, "LIBRARY", where="tracker") for name in trackers.names()}
    assert libraries <= pinned

    def told(*words: str) -> str:
        given = ["make", "--dry-run", "--always-make", *words]
        return subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "-r requirements-trackers.txt" in told("sweep", "REPORT_TO=trackio")
    assert "requirements-trackers.txt" not in told("sweep")
    assert "requirements-trackers.txt" not in told("sweep", "REPORT_TO=none")
