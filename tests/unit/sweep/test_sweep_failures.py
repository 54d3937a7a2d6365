"""The sweep, where something goes wrong inside a pack or with the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pandas as pd
import pytest
from optuna.trial import TrialState

from bench import store
from bench.core.errors import BadInput
from bench.core.spec import Pack, Trial
from bench.executors.local import LocalExecutor, is_out_of_memory
from bench.store import rows as stored_rows
from bench.sweep.events import Event, Warned
from tests.support.sweep_helpers import (
    PROVENANCE,
    TRIALS,
    FakeEngine,
    complete,
    executor,
    ids,
    optuna_trials,
    outcome,
    rows,
    run,
    run_with,
)

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")


# What goes wrong inside a pack


class OutOfMemoryError(RuntimeError):
    """As torch's, by name."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: not enough memory: 1 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
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


@pytest.mark.parametrize(("fits_from", "status"), [(4, "ok"), (32, "oom")])
def test_a_trial_too_large_alone_trains_in_more_chunks_before_it_is_given_up(fits_from: int, status: str) -> None:
    tried: list[int] = []

    def train(pack: Pack, loaded: None) -> list[object]:
        raise MemoryError

    def train_in(pack: Pack, loaded: None, times: int) -> list[object]:
        tried.append(times)
        if times < fits_from:
            raise MemoryError
        return [outcome(t) for t in pack.trials]

    one = LocalExecutor(
        load=lambda t: None, train=train, train_in=train_in, provenance=PROVENANCE, metric_name="accuracy"
    )  # type: ignore[arg-type]
    (records,) = one.stream(Pack(trials=TRIALS[:1]), study="s")
    assert [str(record.outcome.status) for record in records] == [status]
    assert tried == ([2, 4] if status == "ok" else [2, 4, 8, 16])


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "CUDA error: unspecified launch failure",
    ],
)
def test_a_lost_device_ends_the_sweep_in_one_line_and_loses_no_row(tmp_path: Path, words: str) -> None:
    broken = True

    def lose(pack: Pack) -> None:
        if broken and len(engine.packs) == 3:
            raise RuntimeError(words)

    engine = FakeEngine(before=lose)
    one = executor(engine)
    with pytest.raises(BadInput, match="device: must stay usable") as told:
        run_with(tmp_path, one)
    assert words.partition(": ")[2].split("an ")[-1].split(" was")[0] in str(told.value)
    assert sorted(store.finished_ids(tmp_path / "s")) == sorted(engine.trained), "what was finished before is kept"
    assert len(store.load_attempts(tmp_path / "s")) > 0, "the pack that lost it is noted"
    broken = False
    assert run_with(tmp_path, executor(engine)).exit_code == 0
    assert sorted(engine.trained) == ids(TRIALS), "nothing is trained twice"


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


def test_bad_input_that_only_training_finds_stops_one_pack_and_not_the_sweep(tmp_path: Path) -> None:
    def refuse(pack: Pack) -> None:
        if pack.trials[0].method == "mora":
            raise BadInput("method mora", "rank <= 16 must hold", got="rank=24", way_out="choose a smaller one")

    done = run(tmp_path, TRIALS, FakeEngine(before=refuse))
    n_mora = sum(t.method == "mora" for t in TRIALS)
    assert (done.exit_code, done.n_failed, done.n_finished) == (1, n_mora, 30 - n_mora)
    reasons = {row["reason"] for row in store.load_attempts(tmp_path / "s").to_pylist()}
    assert reasons == {"method mora: rank <= 16 must hold, but got rank=24; choose a smaller one"}
    assert not any(t.state is TrialState.RUNNING for t in optuna_trials(tmp_path))
    assert run(tmp_path, TRIALS).exit_code == 0


def test_data_or_model_that_cannot_be_loaded_end_the_sweep(tmp_path: Path) -> None:
    def load(trial: Trial) -> None:
        raise BadInput("model tiny", "must load", way_out="save it again")

    one = LocalExecutor(load=load, train=FakeEngine(), provenance=PROVENANCE, metric_name="accuracy")
    with pytest.raises(BadInput, match="model tiny: must load"):
        run_with(tmp_path, one)
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
        patch.setattr(stored_rows, "write_part", full_after_3)
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
