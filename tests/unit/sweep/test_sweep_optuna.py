"""What Optuna sees of a sweep is what the rows say, also after its journal was damaged."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from bench import sweep
from bench.core import cells
from bench.core.errors import BadInput
from bench.core.record import Status
from bench.core.spec import MethodGrid
from bench.executors.local import LocalExecutor
from bench.sweep.optuna_mirror import bridge, journal
from tests.support.sweep_helpers import (
    ETA_A,
    OPTIONS,
    PROVENANCE,
    TRIALS,
    FakeEngine,
    complete,
    family,
    ids,
    interrupt_at,
    journal_of,
    optuna_trials,
    outcome,
    rows,
    run,
    score,
    study,
    trial,
)

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")


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
            assert one.value == (cells.WORST_SCORE if row["status"] == "diverged" else row["select_metric"])
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
    assert {values[i] for i in diverged} == {cells.WORST_LOSS}
    best = next(cell for cell in done.best if cell.method == "lora+")
    worst_score = min(score(t) for t in TRIALS if t.method == "lora+" and t.trial_id not in diverged and t.seed == 1)
    assert score(replace(best.trial, seed=1)) == pytest.approx(worst_score)
    assert best.chosen_by == "metric_value"


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


def test_the_lock_of_a_killed_writer_of_the_journal_does_not_hold_the_next_sweep_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, TRIALS[:4])
    left = journal_of(tmp_path).with_name(journal.JOURNAL_NAME + ".lock")
    left.touch()
    os.utime(left, (0, 0))
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)  # Optuna, too, waits for its lock by it
    assert run(tmp_path, TRIALS).exit_code == 0
    assert waits == []
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
    from bench.sweep import agenda

    monkeypatch.setattr(agenda, "QUEUE_LIMIT", 29)
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
