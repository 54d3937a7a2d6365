"""The sweep: nothing finished is lost, doubled or run again, whatever stops it; Optuna sees what the rows say."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from bench import bridge, journal, lock, store, summary, sweep
from bench.errors import BadInput
from bench.events import Event, PackStored, Started, Warned
from bench.executors.local import LocalExecutor, is_out_of_memory
from bench.record import Record, Status
from bench.spec import MethodGrid, Pack, Trial
from bench.sweep import Options
from tests.sweep_helpers import (
    ETA_A,
    LR_RATIO,
    OPTIONS,
    PROVENANCE,
    FakeEngine,
    comparable,
    executor,
    family,
    grid,
    ids,
    outcome,
    run,
    score,
    study,
    trial,
)

ROOT = Path(__file__).resolve().parent.parent
TRIALS = grid()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync, which matters when power is cut, not when a process dies; test_store.py has the calls."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def rows(directory: Path) -> list[dict[str, object]]:
    return comparable(store.load(directory / "s"))


def optuna_trials(directory: Path, name: str = "s/demo/tiny/lora+") -> list[optuna.trial.FrozenTrial]:
    """Open the journal as any user of Optuna would."""
    storage = JournalStorage(JournalFileBackend(str(directory / "s" / journal.JOURNAL_NAME)))
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def complete(directory: Path, name: str = "s/demo/tiny/lora+") -> list[optuna.trial.FrozenTrial]:
    return [t for t in optuna_trials(directory, name) if t.state is TrialState.COMPLETE]


def interrupt_at(n: int, how: int = signal.SIGINT) -> FakeEngine:
    """Return an engine that gets a signal in the middle of its n-th pack, from 0."""
    engine = FakeEngine()
    engine.before = lambda pack: os.kill(os.getpid(), how) if len(engine.packs) == n else None
    return engine


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    directory = tmp_path_factory.mktemp("whole")
    assert run(directory, TRIALS).exit_code == 0
    return rows(directory)


# A whole sweep


def test_every_trial_is_run_once_and_stored(tmp_path: Path) -> None:
    events: list[Event] = []
    engine = FakeEngine()
    done = run(tmp_path, TRIALS, engine, on_event=events.append)
    assert sorted(engine.trained) == ids(TRIALS) == [row["trial_id"] for row in rows(tmp_path)]
    assert (done.n_trials, done.n_finished, done.n_run, done.n_failed, done.n_diverged) == (30, 30, 30, 0, 2)
    assert (done.exit_code, done.warnings, done.interrupted, done.stopped) == (0, (), False, None)
    assert done.trials_per_minute is not None
    assert done.trials_per_minute > 0
    started = [event for event in events if isinstance(event, Started)]
    assert [(e.n_trials, e.n_finished, e.n_packs) for e in started] == [(30, 0, 14)]
    stored = [event for event in events if isinstance(event, PackStored)]
    assert [e.n_finished for e in stored][-1] == 30
    assert stored[-1].best == (trial(eta_A=1e-3, eta_B=4e-3).trial_id, 1.0)
    assert stored[-1].remaining is not None
    assert stored[-1].remaining.seconds == 0
    assert stored[-2].remaining is not None
    assert stored[-2].remaining.seconds == pytest.approx(0.5 * stored[-1].records[0].pack_size)


def test_a_second_run_trains_nothing(tmp_path: Path) -> None:
    run(tmp_path, TRIALS)
    before = rows(tmp_path)
    engine = FakeEngine()
    done = run(tmp_path, TRIALS, engine)
    assert (engine.packs, done.n_run, done.n_finished, done.exit_code) == ([], 0, 30, 0)
    assert done.trials_per_minute is None
    assert rows(tmp_path) == before


def test_a_grid_that_grows_runs_its_new_cells_only(tmp_path: Path) -> None:
    run(tmp_path, TRIALS)
    before = rows(tmp_path)
    bigger = grid(etas=(*ETA_A, 3e-4), ratios=(*LR_RATIO, 64.0), seeds=(0, 1, 2))
    engine = FakeEngine()
    run(tmp_path, bigger, engine)
    assert sorted(engine.trained) == ids(t for t in bigger if t.trial_id not in {u.trial_id for u in TRIALS})
    assert [row for row in rows(tmp_path) if row["trial_id"] in set(ids(TRIALS))] == before
    assert len(complete(tmp_path)) == sum(t.method == "lora+" for t in bigger)
    smaller = FakeEngine()
    assert run(tmp_path, TRIALS, smaller).n_finished == 30
    assert smaller.packs == []


def test_preview_says_what_run_does(tmp_path: Path) -> None:
    def look() -> sweep.Preview:
        return sweep.preview(study(), TRIALS, results_dir=tmp_path, options=OPTIONS, family=family)

    assert (look().n_trials, look().n_finished, look().estimate) == (30, 0, None)
    assert list(tmp_path.iterdir()) == []
    engine = interrupt_at(3)
    run(tmp_path, TRIALS, engine)
    left = look().pending
    rest = FakeEngine()
    run(tmp_path, TRIALS, rest)
    assert [p.pack_id for p in left] == [p.pack_id for p in rest.packs]
    assert (look().n_finished, look().pending) == (30, ())


# Interruptions


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("n", [0, 1, 5, 13])
def test_an_interrupted_sweep_keeps_what_is_finished_and_ends_equal(
    tmp_path: Path, uninterrupted: list[dict[str, object]], n: int, how: int
) -> None:
    first, second = interrupt_at(n, how), FakeEngine()
    stopped = run(tmp_path, TRIALS, first)
    assert (stopped.interrupted, stopped.exit_code, len(first.packs)) == (True, 130, n)
    assert stopped.n_run == stopped.n_finished == len(first.trained)
    assert store.finished_ids(tmp_path / "s") == set(first.trained)
    assert not any(t.state is TrialState.RUNNING for t in optuna_trials(tmp_path)), "none is left running"
    assert run(tmp_path, TRIALS, second).exit_code == 0
    assert sorted(first.trained + second.trained) == ids(TRIALS)
    assert rows(tmp_path) == uninterrupted


def test_a_signal_while_storing_waits_until_the_pack_is_stored_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store.write_part

    def interrupted_write(path: Path, table: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        write(path, table)
        monkeypatch.setattr(store, "write_part", write)

    monkeypatch.setattr(store, "write_part", interrupted_write)
    done = run(tmp_path, TRIALS)
    assert (done.interrupted, done.n_run) == (True, 3)
    assert len(rows(tmp_path)) == 3
    told = [t.user_attrs["trial_id"] for name in ("lora", "lora+") for t in complete(tmp_path, f"s/demo/tiny/{name}")]
    assert sorted(told) == [row["trial_id"] for row in rows(tmp_path)]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_storm_of_kills_loses_and_doubles_nothing(
    tmp_path: Path, uninterrupted: list[dict[str, object]], seed: int
) -> None:
    command = [sys.executable, "-m", "tests.kill_storm", str(tmp_path), str(seed), "12"]
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


# What goes wrong inside a pack


def run_with(directory: Path, one: LocalExecutor[None], trials: tuple[Trial, ...] = TRIALS) -> sweep.SweepSummary:
    return sweep.run(study(), trials, results_dir=directory, executor=one, options=OPTIONS, family=family)


class OutOfMemoryError(RuntimeError):
    """As torch's, by name."""


@pytest.mark.parametrize(
    "error", [MemoryError(), OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: not enough memory: 1 bytes")]
)
def test_out_of_memory_halves_the_pack_down_to_what_fits(
    tmp_path: Path, uninterrupted: list[dict[str, object]], error: Exception
) -> None:
    tried: list[int] = []

    def train_up_to_2(pack: Pack, loaded: None) -> list[object]:
        tried.append(pack.size)
        if pack.size > 2:
            raise error
        return [outcome(t) for t in pack.trials]

    freed: list[int] = []
    one = LocalExecutor(load=lambda t: None, train=train_up_to_2, provenance=PROVENANCE, metric_name="accuracy",
                        free=lambda: freed.append(1))  # type: ignore[arg-type]  # fmt: skip
    done = run_with(tmp_path, one)
    assert (done.exit_code, done.n_run, done.n_failed) == (0, 30, 0)
    stored = rows(tmp_path)
    assert max(int(str(row["pack_size"])) for row in stored) == 2

    def settings(table: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{k: v for k, v in row.items() if k not in ("pack_id", "pack_size")} for row in table]

    assert settings(stored) == settings(uninterrupted)
    assert 0 < len(freed) <= 4, "a size that did not fit is not tried again for packs of its kind"


def test_a_trial_too_large_alone_is_an_attempt_and_tried_again_by_the_next_sweep(tmp_path: Path) -> None:
    large = TRIALS[4].trial_id
    broken = True

    def train(pack: Pack, loaded: None) -> list[object]:
        if broken and large in [t.trial_id for t in pack.trials]:
            raise MemoryError
        return [outcome(t) for t in pack.trials]

    one = LocalExecutor(load=lambda t: None, train=train, provenance=PROVENANCE, metric_name="accuracy")  # type: ignore[arg-type]
    done = run_with(tmp_path, one)
    assert (done.exit_code, done.n_run, done.n_failed, done.n_finished) == (1, 29, 1, 29)
    (attempt,) = store.load_attempts(tmp_path / "s").to_pylist()
    assert (attempt["trial_id"], attempt["status"], attempt["attempt"], attempt["metric_value"]) == (
        large,
        "oom",
        1,
        None,
    )
    run_with(tmp_path, one)
    assert store.load_attempts(tmp_path / "s")["attempt"].to_pylist() == [1, 2]
    broken = False
    assert run_with(tmp_path, one).exit_code == 0
    assert sorted(store.finished_ids(tmp_path / "s")) == ids(TRIALS)
    states = [t.state for t in optuna_trials(tmp_path, "s/demo/tiny/full") if t.user_attrs["trial_id"] == large]
    assert states == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]


def test_a_pack_that_raises_is_failed_with_one_line_and_its_traceback_kept(tmp_path: Path) -> None:
    def break_mora(pack: Pack) -> None:
        if pack.trials[0].method == "mora":
            raise ValueError("no such\nthing")

    engine = FakeEngine(before=break_mora)
    one = executor(engine, log_dir=tmp_path / "logs")
    done = run_with(tmp_path, one)
    assert (done.exit_code, done.n_run, done.n_failed) == (1, 24, 6)
    attempts = store.load_attempts(tmp_path / "s").to_pylist()
    assert {(a["status"], a["reason"]) for a in attempts} == {("failed", "ValueError: no such thing")}
    logs = sorted((tmp_path / "logs").iterdir())
    assert {path.stem for path in logs} == {a["pack_id"] for a in attempts}
    assert all("Traceback" in path.read_text() and "break_mora" in path.read_text() for path in logs)


def test_an_engine_that_returns_too_few_outcomes_is_a_failure(tmp_path: Path) -> None:
    one = LocalExecutor(load=lambda t: None, train=lambda pack, loaded: [], provenance=PROVENANCE, metric_name="m")
    assert run_with(tmp_path, one, TRIALS[:4]).n_failed == 4
    assert "outcomes came out" in store.load_attempts(tmp_path / "s").to_pylist()[0]["reason"]


def test_bad_input_from_the_engine_ends_the_sweep(tmp_path: Path) -> None:
    def refuse(pack: Pack) -> None:
        raise BadInput("target_modules", "must name a layer", way_out="name one")

    with pytest.raises(BadInput, match="target_modules"):
        run(tmp_path, TRIALS, FakeEngine(before=refuse))
    assert not any(t.state is TrialState.RUNNING for t in optuna_trials(tmp_path))
    assert run(tmp_path, TRIALS).exit_code == 0


def test_data_and_model_are_loaded_once(tmp_path: Path) -> None:
    loads: list[str] = []
    one = LocalExecutor(
        load=lambda t: loads.append(t.task), train=FakeEngine(), provenance=PROVENANCE, metric_name="accuracy"
    )
    run_with(tmp_path, one)
    assert loads == ["demo"]


def test_errors_that_only_mention_memory_are_not_out_of_memory() -> None:
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(RuntimeError("memory format"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))


# Disk


def test_a_full_disk_ends_the_sweep_with_one_line_and_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, n = store.write_part, 0

    def full_after_3(path: Path, table: object) -> None:
        nonlocal n
        n += 1
        if n > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, table)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_part", full_after_3)
        done = run(tmp_path, TRIALS)
    assert done.exit_code == 1
    assert done.stopped is not None
    assert "\n" not in done.stopped
    assert "No space left on device; everything finished before is kept; free space" in done.stopped
    assert len(rows(tmp_path)) == done.n_finished == done.n_run > 0
    assert run(tmp_path, TRIALS).n_run == 30 - done.n_run


def test_a_results_directory_that_cannot_be_written_is_bad_input_before_anything_trains(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file is in the way")
    engine = FakeEngine()
    with pytest.raises(BadInput, match="the results directory must be writable"):
        run(tmp_path, TRIALS, engine)
    assert engine.packs == []


def test_torn_and_foreign_parts_are_told_and_the_torn_one_runs_again(
    tmp_path: Path, uninterrupted: list[dict[str, object]]
) -> None:
    run(tmp_path, TRIALS)
    folder = tmp_path / "s" / store.TRIALS
    torn = sorted(folder.iterdir())[0]
    lost = pd.read_parquet(torn).trial_id.tolist()
    torn.write_bytes(torn.read_bytes()[:-9])
    (folder / "mine.parquet").write_text("not parquet")
    engine, events = FakeEngine(), list[Event]()
    done = run(tmp_path, TRIALS, engine, on_event=events.append)
    assert sorted(engine.trained) == sorted(lost)
    assert len([w for w in done.warnings if f".torn-{torn.name}" in w]) == 1
    assert len([w for w in done.warnings if "mine.parquet" in w]) == 1
    assert [e.text for e in events if isinstance(e, Warned)] == list(done.warnings)
    assert (folder / "mine.parquet").read_text() == "not parquet"
    assert (folder / f".torn-{torn.name}").exists()
    assert rows(tmp_path) == uninterrupted
    assert len(complete(tmp_path)) == sum(t.method == "lora+" for t in TRIALS)


# Other versions of the code


def test_rows_of_another_version_are_told_and_run_again_on_request(tmp_path: Path) -> None:
    run(tmp_path, TRIALS)
    newer = replace(PROVENANCE, source_hash="1" * 16)
    options = replace(OPTIONS, source_hash=newer.source_hash)
    bigger = grid(seeds=(0, 1, 2))
    mixed = run(tmp_path, bigger, options=options, provenance=newer)
    (warning,) = mixed.warnings
    assert "30 finished rows were written by 1 other version(s) of the code and are kept" in warning
    assert mixed.n_run == 15
    parts = sorted(p.name for p in (tmp_path / "s" / store.TRIALS).iterdir())
    engine = interrupt_at(3)
    rerun = replace(options, rerun_stale=True)
    run(tmp_path, bigger, engine, options=rerun, provenance=newer)
    assert sorted(str(row["trial_id"]) for row in rows(tmp_path)) == ids(bigger), "old rows count until replaced"
    rest = FakeEngine()
    run(tmp_path, bigger, rest, options=rerun, provenance=newer)
    assert sorted(engine.trained + rest.trained) == ids(TRIALS)
    assert {row["source_hash"] for row in rows(tmp_path)} == {newer.source_hash}
    assert sorted(p.name for p in (tmp_path / "s" / store.TRIALS).iterdir()) == parts
    assert run(tmp_path, bigger, options=rerun, provenance=newer).n_run == 0


# Optuna


def test_plain_optuna_finds_in_the_journal_what_the_rows_say(tmp_path: Path) -> None:
    run(tmp_path, TRIALS)
    by_id = {row["trial_id"]: row for row in rows(tmp_path)}
    seen = 0
    for method, names in {"lora": {"eta_A", "rank"}, "lora+": {"eta_A", "lr_ratio", "rank"},
                          "mora": {"eta_A", "rank", "mora_type"}, "full": {"eta_A"}}.items():  # fmt: skip
        for one in complete(tmp_path, f"s/demo/tiny/{method}"):
            row = by_id[one.user_attrs["trial_id"]]
            assert set(one.params) == names
            assert {name: row[name] for name in names} == one.params
            assert one.user_attrs["metric_value"] == row["metric_value"]
            assert (one.user_attrs["seed"], one.user_attrs["status"]) == (row["seed"], row["status"])
            assert one.value == (0.0 if row["status"] == "diverged" else row["select_metric"])
            assert row["method"] == method
            seen += 1
    assert seen == len(by_id) == 30


def test_a_grid_over_eta_B_has_eta_B_as_parameter(tmp_path: Path) -> None:
    grids = (MethodGrid(method="lora+", axes=(("eta_A", ETA_A), ("eta_B", (1e-3, 1e-2)))),)
    trials = tuple(trial(eta_A=a, eta_B=b) for a in ETA_A for b in (1e-3, 1e-2) if a != b)
    run(tmp_path, trials, of=study(grids=grids))
    assert {(t.params["eta_A"], t.params["eta_B"]) for t in complete(tmp_path)} == {(t.eta_A, t.eta_B) for t in trials}


def test_without_a_select_split_the_score_is_the_metric_and_losses_are_minimised(tmp_path: Path) -> None:
    bare = [outcome(t, select_metric=None) for t in TRIALS]
    by_id = dict(zip((t.trial_id for t in TRIALS), bare, strict=True))
    one = LocalExecutor(load=lambda t: None, train=lambda pack, _: [by_id[t.trial_id] for t in pack.trials],
                        provenance=PROVENANCE, metric_name="eval_loss")  # fmt: skip
    done = sweep.run(study(), TRIALS, results_dir=tmp_path, executor=one, family=family,
                     options=replace(OPTIONS, higher_is_better=False))  # fmt: skip
    values = {t.user_attrs["trial_id"]: t.value for t in complete(tmp_path)}
    diverged = [t.trial_id for t in TRIALS if by_id[t.trial_id].status is Status.DIVERGED]
    assert {values[i] for i in diverged} == {summary.WORST_LOSS}
    best = next(cell for cell in done.best if cell.method == "lora+")
    worst_score = min(score(t) for t in TRIALS if t.method == "lora+" and t.trial_id not in diverged and t.seed == 1)
    assert score(replace(best.trial, seed=1)) == pytest.approx(worst_score)
    assert best.chosen_by == "metric_value"


def journal_of(directory: Path) -> Path:
    return directory / "s" / journal.JOURNAL_NAME


@pytest.mark.parametrize("damage", ["torn", "deleted", "empty", "half", "garbage", "glued", "other", "lines lost"])
def test_a_damaged_journal_is_mended_or_written_anew_from_the_rows(tmp_path: Path, damage: str) -> None:
    run(tmp_path, TRIALS, interrupt_at(9))
    path = journal_of(tmp_path)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    damaged = {
        "torn": content[:-7],
        "deleted": b"",
        "empty": b"",
        "half": content[: len(content) // 2],
        "garbage": b"\x00\xff" * 99 + b"\n" + content,
        "glued": b"".join(lines[:20]) + lines[20][:9] + b"".join(lines[21:]),
        "other": b'{"op_code": 99}\n',
        "lines lost": b"".join(lines[::2]),
    }
    path.write_bytes(damaged[damage])
    if damage == "deleted":
        path.unlink()
    engine = FakeEngine()
    done = run(tmp_path, TRIALS, engine)
    assert done.exit_code == 0
    assert len(rows(tmp_path)) == 30
    finished = complete(tmp_path)
    assert sorted(t.user_attrs["trial_id"] for t in finished) == ids(t for t in TRIALS if t.method == "lora+")
    assert not any(t.state in (TrialState.RUNNING, TrialState.WAITING) for t in optuna_trials(tmp_path))
    assert run(tmp_path, TRIALS).warnings == (), "mended once and for all"
    if damage in ("torn", "garbage", "glued", "other"):
        assert any(str(path) in warning for warning in done.warnings)


def test_a_journal_deleted_while_the_sweep_runs_costs_nothing_but_a_warning(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.before = lambda pack: journal_of(tmp_path).unlink() if len(engine.packs) == 4 else None
    done = run(tmp_path, TRIALS, engine)
    assert (done.exit_code, done.n_run) == (0, 30)
    run(tmp_path, TRIALS)
    assert len(complete(tmp_path)) == sum(t.method == "lora+" for t in TRIALS)


def test_the_lock_of_a_killed_writer_of_the_journal_does_not_hold_the_next_sweep_up(tmp_path: Path) -> None:
    run(tmp_path, TRIALS[:4])
    left = journal_of(tmp_path).with_name(journal.JOURNAL_NAME + ".lock")
    left.touch()
    os.utime(left, (0, 0))
    done = run(tmp_path, TRIALS)
    assert done.seconds < 10
    assert not left.exists()


def test_a_value_that_contradicts_its_row_is_put_right(tmp_path: Path) -> None:
    run(tmp_path, TRIALS)
    path = journal_of(tmp_path)
    path.write_text(path.read_text().replace('"values":[0.9', '"values":[0.8'))
    done = run(tmp_path, TRIALS)
    assert any("written anew from the rows" in warning for warning in done.warnings)
    by_id = {row["trial_id"]: row for row in rows(tmp_path)}
    assert all(by_id[t.user_attrs["trial_id"]]["select_metric"] in (t.value, None) for t in complete(tmp_path))


def test_beyond_the_limit_nothing_is_queued_and_finished_trials_are_mirrored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import sweeper

    monkeypatch.setattr(sweeper, "QUEUE_LIMIT", 29)
    run(tmp_path, TRIALS)
    found = optuna_trials(tmp_path)
    assert {t.state for t in found} == {TrialState.COMPLETE}
    assert sorted(t.user_attrs["trial_id"] for t in found) == ids(t for t in TRIALS if t.method == "lora+")
    assert "fixed_params" not in journal_of(tmp_path).read_text()


def test_another_storage_is_used_resumed_and_not_shared_between_directories(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    options = replace(OPTIONS, storage=url)
    few = [t for t in TRIALS if t.method == "lora+"][:6]
    run(tmp_path / "a", few, interrupt_at(1), options=options)
    run(tmp_path / "a", few, options=options)
    assert not journal_of(tmp_path / "a").exists()
    found = optuna.load_study(study_name="s/demo/tiny/lora+", storage=url).get_trials(states=(TrialState.COMPLETE,))
    assert sorted(t.user_attrs["trial_id"] for t in found) == ids(few)
    with pytest.raises(BadInput, match="must belong to one results directory"):
        run(tmp_path / "b", few, options=options)


def test_a_storage_that_does_not_answer_is_bad_input_and_its_password_is_not_shown(tmp_path: Path) -> None:
    url = "postgresql://me:s3cret@127.0.0.1:1/none"
    with pytest.raises(BadInput) as caught:
        run(tmp_path, TRIALS, options=replace(OPTIONS, storage=url))
    assert "s3cret" not in str(caught.value)
    assert "postgresql://me:***@127.0.0.1:1/none" in str(caught.value)
    assert "s3cret" not in bridge.scrub(RuntimeError(f"at {url} with s3cret"), url)


def test_the_dashboard_gets_a_copy_of_whole_lines(tmp_path: Path) -> None:
    run(tmp_path, TRIALS)
    path = journal_of(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_')
    copy = journal.copy_for_dashboard(tmp_path / "s")
    assert copy != path
    assert copy.read_bytes() == whole
    assert path.read_bytes() == whole + b'{"op_'


# Search


def tpe(**changes: object) -> object:
    return study(sampler="tpe", n_trials=24, **changes)


def is_tpe_trial(row: dict[str, object]) -> bool:
    return row["trial_id"] not in set(ids(TRIALS))


def test_tpe_searches_the_grids_space_and_finds_better_than_its_first_points(tmp_path: Path) -> None:
    engine = FakeEngine()
    done = run(tmp_path, TRIALS, engine, of=tpe())  # type: ignore[arg-type]
    assert (done.exit_code, done.n_trials, done.n_finished) == (0, 72, 72)
    assert {pack.size for pack in engine.packs} == {4, 1}
    by_method = {m: [t for p in engine.packs for t in p.trials if t.method == m] for m in ("lora+", "mora", "full")}
    assert {m: len(found) for m, found in by_method.items()} == {"lora+": 24, "mora": 24, "full": 24}
    for found in by_method.values():
        assert all(min(ETA_A) <= t.eta_A <= max(ETA_A) for t in found)
        assert len({t.eta_A for t in found}) > 20
        assert {t.seed for t in found} == {0, 1}
    ratios = [t.lr_ratio for t in by_method["lora+"] if t.lr_ratio is not None]
    assert 1 <= min(ratios) < 4
    assert 4 < max(ratios) <= 16
    early, late = by_method["mora"][:10], by_method["mora"][10:]
    assert sum(map(score, late)) / len(late) > sum(map(score, early)) / len(early) + 0.05
    by_id = {row["trial_id"]: row for row in rows(tmp_path)}
    for one in complete(tmp_path):
        row = by_id[one.user_attrs["trial_id"]]
        assert row["eta_A"] == pytest.approx(one.params["eta_A"], rel=1e-11)
        assert row["lr_ratio"] == pytest.approx(one.params["lr_ratio"], rel=1e-11)
        assert one.value == (0.0 if row["status"] == "diverged" else row["select_metric"])


@pytest.mark.parametrize("n", [1, 9])
def test_a_resumed_search_ends_as_an_uninterrupted_one(tmp_path: Path, n: int) -> None:
    run(tmp_path / "whole", TRIALS, of=tpe())  # type: ignore[arg-type]
    run(tmp_path / "parts", TRIALS, interrupt_at(n), of=tpe())  # type: ignore[arg-type]
    assert run(tmp_path / "parts", TRIALS, of=tpe()).n_finished == 72  # type: ignore[arg-type]
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    again = FakeEngine()
    run(tmp_path / "parts", TRIALS, again, of=tpe())  # type: ignore[arg-type]
    assert again.packs == []


def test_a_search_whose_journal_is_gone_goes_on_from_the_rows(tmp_path: Path) -> None:
    run(tmp_path, TRIALS, interrupt_at(9), of=tpe())  # type: ignore[arg-type]
    kept = rows(tmp_path)
    journal_of(tmp_path).unlink()
    assert run(tmp_path, TRIALS, of=tpe()).n_finished == 72  # type: ignore[arg-type]
    assert [row for row in rows(tmp_path) if row in kept] == kept
    assert len(complete(tmp_path)) == 24


def test_a_search_searches_each_variant_on_its_own_and_ties_alpha_to_rank(tmp_path: Path) -> None:
    bare = {"eta_B": None, "init": None}
    trials = tuple(
        trial(method="mora", mora_type=t, mora_rounding="floor", rank=r, lora_alpha=None, eta_A=e, **bare)
        for t in (1, 6) for r in (2, 8) for e in (1e-4, 1e-2)
    )  # fmt: skip
    trials += tuple(trial(eta_A=e, eta_B=4 * e, rank=r, lora_alpha=2.0 * r) for e in (1e-4, 1e-3) for r in (4, 32))
    grids = (MethodGrid(method="mora", axes=()), MethodGrid(method="lora+", axes=(("lr_ratio", (4.0, 8.0)),)))
    engine = FakeEngine()
    run(tmp_path, trials, engine, of=study(sampler="tpe", n_trials=8, grids=grids, seeds=(0,)))
    found = [t for pack in engine.packs for t in pack.trials]
    for kind in (1, 6):
        assert sum(t.mora_type == kind for t in found) == 8
        assert len(complete(tmp_path, f"s/demo/tiny/mora/mora_type={kind}")) == 8
    loras = [t for t in found if t.method == "lora+"]
    assert all(t.rank is not None and 4 <= t.rank <= 32 and t.lora_alpha == 2 * t.rank for t in loras)
    assert len({t.rank for t in loras}) > 2


def test_a_search_of_one_point_is_bad_input(tmp_path: Path) -> None:
    only = study(sampler="tpe", n_trials=4, grids=(MethodGrid(method="full", axes=()),))
    full = tuple(t for t in TRIALS if t.method == "full" and t.eta_A == 1e-3)
    with pytest.raises(BadInput, match="sampler tpe must have a range to search"):
        run(tmp_path, full, of=only)


# The summary


def test_the_best_cell_is_chosen_on_select_and_reported_on_the_evaluation_split(tmp_path: Path) -> None:
    done = run(tmp_path, grid(seeds=(0, 1, 2)))
    best = {cell.method: cell for cell in done.best}
    assert list(best) == ["lora", "lora+", "mora", "full"]
    cell = best["lora+"]
    assert (cell.trial.eta_A, cell.trial.eta_B, cell.chosen_by, cell.n, cell.n_diverged) == (
        1e-3, 4e-3, "select_metric", 3, 0)  # fmt: skip
    assert cell.mean == pytest.approx(1 - 0.01 - 0.001)
    assert (cell.spread, cell.spread_of) == (pytest.approx(0.001 / 3**0.5), "seeds")
    assert done.borders == ()


def one_score(one: Trial, value: float | None, select: float | None = None) -> summary.Score:
    return summary.Score(
        trial_id=one.trial_id, status="diverged" if value is None else "ok", metric_value=value, metric_stderr=0.02,
        select_metric=select, train_seconds=None, source_hash=None,
    )  # fmt: skip


def best_of(values: dict[Trial, float | None]) -> summary.BestCell:
    scores = {one.trial_id: one_score(one, value) for one, value in values.items()}
    (cell,) = summary.best_cells(values, scores, higher_is_better=True)
    return cell


def test_a_cell_with_a_diverged_seed_counts_as_the_worst_there() -> None:
    lucky = [trial(eta_A=1e-2, eta_B=4e-2, seed=s) for s in (0, 1)]
    steady = [trial(seed=s) for s in (0, 1)]
    cell = best_of({lucky[0]: 0.99, lucky[1]: None, steady[0]: 0.6, steady[1]: 0.7})
    assert cell.trial.eta_A == 1e-3
    assert (cell.mean, cell.spread, cell.spread_of) == (pytest.approx(0.65), 0.02, "examples")
    only = best_of({lucky[0]: 0.99, lucky[1]: None})
    assert (only.n, only.n_diverged, only.mean) == (2, 1, 0.99)
    none = best_of({lucky[1]: None})
    assert (none.n, none.n_diverged, none.mean, none.spread) == (1, 1, None, None)


def test_a_best_cell_on_the_border_is_told() -> None:
    trials = [
        trial(eta_A=a, eta_B=a * r, method="lora" if r == 1 else "lora+") for a in ETA_A for r in (1.0, 4.0, 16.0)
    ]
    scores = {
        t.trial_id: one_score(t, 0.9 if (t.eta_A, t.lr_ratio) in {(1e-2, 4.0), (1e-3, 1.0)} else 0.5) for t in trials
    }
    best = summary.best_cells(trials, scores, higher_is_better=True)
    assert summary.borders(trials, best) == ("lora+: the best eta_A is the largest of the grid (1.0e-02); widen it",)
    top = {t.trial_id: one_score(t, t.eta_A * (t.lr_ratio or 1)) for t in trials}
    told = summary.borders(trials, summary.best_cells(trials, top, higher_is_better=True))
    assert [line.split(" of ")[0] for line in told] == [
        "lora: the best eta_A is the largest",
        "lora+: the best eta_A is the largest",
        "lora+: the best lr_ratio is the largest",
    ]


def test_the_sweep_keeps_measured_speeds_for_the_next_plan(tmp_path: Path) -> None:
    from bench.estimate import Estimate, Place, Workload

    workload = Workload(matmul_params=1000, train_tokens=10.0, n_eval=50, eval_tokens=20.0)
    options = replace(OPTIONS, workload=workload, place=Place(device="fake"))

    def estimated() -> Estimate | None:
        shown = sweep.preview(study(), grid(seeds=(0, 1, 2)), results_dir=tmp_path, options=options, family=family)
        return shown.estimate

    first = estimated()
    assert first is not None
    assert not first.calibrated
    run(tmp_path, TRIALS, options=options)
    second = estimated()
    assert second is not None
    assert second.calibrated
    assert second.seconds == pytest.approx(15 * 0.5)


def test_optunas_own_settings_are_left_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    run(tmp_path, TRIALS[:4])
    assert optuna.logging.get_verbosity() == before
    assert capsys.readouterr() == ("", "")


def test_records_of_a_pack_come_in_slot_order_and_only_once(tmp_path: Path) -> None:
    found: list[Record] = executor(FakeEngine()).run(Pack(trials=TRIALS[:4]), study="s")
    assert [r.trial.trial_id for r in found] == [t.trial_id for t in TRIALS[:4]]
    assert {(r.pack_id, r.pack_size, r.study) for r in found} == {(Pack(trials=TRIALS[:4]).pack_id, 4, "s")}


def test_default_options_carry_this_codes_hash() -> None:
    assert Options().source_hash == sweep.Options().source_hash
    assert lock.LOCK_NAME.startswith(".")
