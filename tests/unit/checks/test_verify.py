"""Every rule of `bench verify`: a sound directory passes, each fault is found, named on one line, with a way out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import cli, store
from bench.checks import verify
from bench.checks.verify import Problem
from bench.core.record import Outcome, Provenance, Record, Status, to_row
from bench.core.spec import Pack, Trial
from bench.store.parts import Finding
from tests.support import sweep_helpers

COMMITTED = Provenance(git_commit="c", git_dirty=False, source_hash="s", versions="{}", device="cpu")


def outcome(t: Trial, start: int = 0, **changes: Any) -> Outcome:
    """Return a sound outcome: 12 of 16 examples right, 2 seconds attributed, started `start` seconds into a minute."""
    settings: dict[str, Any] = {
        "status": Status.OK, "metric_value": 0.75, "accuracy": 0.75, "select_metric": 0.7, "n_eval": 16,
        "eval_correct": np.packbits(np.arange(16) < 12).tobytes(), "setup_seconds": 0.5, "train_seconds": 1.0,
        "eval_seconds": 0.5, "started_at": f"2026-01-01T00:00:{start:02}+00:00",
    }  # fmt: skip
    return sweep_helpers.outcome(t, **{**settings, **changes})


def record(t: Trial, start: int = 0, *, of: Provenance = COMMITTED, **changes: Any) -> Record:
    pack = Pack(trials=(t,))
    return Record(
        study="s", trial=t, pack_id=pack.pack_id, pack_size=1, outcome=outcome(t, start, **changes), provenance=of
    )


def grid() -> tuple[Trial, ...]:
    return tuple(sweep_helpers.trial(eta_A=eta, eta_B=4 * eta, seed=seed) for eta in (1e-3, 2e-3) for seed in (0, 1))


def rows(*faulty: Record) -> list[dict[str, Any]]:
    """Return the rows of the grid, one after another in time; those in `faulty` take the place of the first ones."""
    trials = grid()
    sound = [record(t, 10 * i) for i, t in enumerate(trials)]
    return [to_row(r) for r in (*faulty, *sound[len(faulty) :])]


def problems(table: Sequence[dict[str, Any]], **more: Any) -> tuple[Problem, ...]:
    found = verify.check(table, **{"trials": grid(), **more})
    for problem in found:
        assert re.fullmatch(r"(error|warning): [a-z ]+: [^\n]+; [^\n]+", str(problem))
    return found


def only(found: Sequence[Problem], level: str, rule: str) -> str:
    assert [(p.level, p.rule) for p in found] == [(level, rule)], [str(p) for p in found]
    return found[0].text


def test_a_sound_directory_has_no_problems() -> None:
    assert problems(rows()) == ()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"metric_value": None}, "finite metric_value"),
        ({"metric_value": float("nan")}, "finite metric_value"),
        ({"steps_done": 19}, "all its steps"),
        ({"status": Status.DIVERGED}, "a diverged row must have a diverged_step and no metric_value"),
        ({"status": Status.DIVERGED, "metric_value": None, "accuracy": None}, "a diverged row must have"),
        ({"status": Status.FAILED}, "status must be ok or diverged"),
        ({"accuracy": 0.8125}, "accuracy must be the share of eval_correct"),
        ({"n_eval": 17}, "accuracy must be the share of eval_correct"),
        ({"train_seconds": -0.1}, "seconds must not be negative"),
    ],
)
def test_rows_that_contradict_themselves(changes: dict[str, Any], rule: str) -> None:
    trial_id = grid()[0].trial_id
    text = only(problems(rows(record(grid()[0], **changes))), "error", "schema")
    assert rule in text
    assert f"1 trial ({trial_id})" in text


def test_a_row_that_is_diverged_as_it_should_be_is_sound() -> None:
    gone = record(grid()[0], status=Status.DIVERGED, metric_value=None, accuracy=None, eval_correct=None,
                  select_metric=None, diverged_step=7, steps_done=6)  # fmt: skip
    assert problems(rows(gone)) == ()


def test_rates_isolation_and_versions() -> None:
    table = rows()
    table[0]["lr_ratio"] = 5.0
    assert "lr_ratio must be eta_B / eta_A" in only(problems(table), "error", "schema")
    table = rows()
    table[0] |= {"timing_mode": "isolated", "pack_size": 2}
    assert "isolated timing" in only(problems(table), "error", "schema")
    table = rows()
    table[1]["schema_version"] = 0
    assert "schema_version must be" in only(problems(table), "warning", "schema")


def test_a_row_under_the_id_of_another_trial() -> None:
    table = rows()
    table[2]["seed"] = 7
    assert "a row must hold the settings of its trial_id" in only(problems(table), "error", "schema")
    table = rows()
    table[2]["max_steps"] = table[2]["steps_done"] = 25
    assert "settings of its trial_id" in only(problems(table), "error", "schema")


def test_rows_of_other_settings_are_counted() -> None:
    other = record(sweep_helpers.trial(eta_A=0.5, eta_B=0.5, seed=9), 55)
    assert "1 of 5 rows are of other settings" in only(problems([*rows(), to_row(other)]), "warning", "other rows")


def test_attributed_seconds_exceed_the_makespan() -> None:
    """10 s lie between starts: a pack that claims 12 cannot have been alone."""
    slow = record(grid()[0], 0, train_seconds=11.5)
    found = problems(rows(slow), parallel=1)
    assert "2 packs claim the same second" in only(found, "error", "seconds")
    assert found[0].way_out.startswith("if so many sweeps were at work, say so: --parallel 2")
    for parallel in (2, None):  # rows of several processes put together are no fault where none is claimed
        assert "up to 2 sweeps" in only(problems(rows(slow), parallel=parallel), "warning", "seconds")
    assert problems(rows(record(grid()[0], 0, train_seconds=9.5))) == ()  # 10.5 s: starts are cut to the second


def test_a_pack_with_more_rows_than_members() -> None:
    table = rows()
    table[1] |= {"pack_id": table[0]["pack_id"], "started_at": table[0]["started_at"]}
    assert "has 2 rows, but pack_size 1" in only(problems(table), "error", "seconds")


def test_cells_with_fewer_seeds() -> None:
    text = only(problems(rows()[1:]), "warning", "seeds")
    assert text == "1 of 2 cells have fewer than 2 seeds (1 with 1)"
    assert problems(rows()[1:], trials=()) == ()  # a search asks for no seeds


def test_trials_that_never_finished() -> None:
    done, lost = rows()[0]["trial_id"], "f" * 16
    assert f"1 trial ({lost}) failed" in only(problems(rows(), attempts={done, lost}), "warning", "failed")


@pytest.mark.parametrize(
    ("changes", "rule", "text"),
    [
        ({"source_hash": "other"}, "source", "rows come from 2 versions of the code (1, 3 rows)"),
        ({"device": "gpu"}, "device", "rows come from 2 devices (cpu, gpu)"),
        ({"git_dirty": True}, "untracked changes", "1 of 4 rows were made with changes that are in no commit"),
        ({"git_commit": None}, "untracked changes", "1 of 4 rows name no commit"),
    ],
)
def test_rows_of_unlike_origin(changes: dict[str, Any], rule: str, text: str) -> None:
    assert text in only(problems(rows(record(grid()[0], of=replace(COMMITTED, **changes)))), "warning", rule)


def test_choosing_on_the_reported_split() -> None:
    assert "no select_metric" in only(problems(rows(record(grid()[0], select_metric=None))), "warning", "selection")


def test_borders_are_warnings_and_errors_come_first() -> None:
    found = problems(rows(record(grid()[0], accuracy=0.1)), borders=["lora: the best eta_A is the largest"])
    assert [(p.level, p.rule) for p in found] == [("error", "schema"), ("warning", "border")]


@pytest.mark.parametrize(
    ("kind", "level", "rule"),
    [("torn", "error", "schema"), ("newer", "error", "schema"), ("foreign", "warning", "schema"),
     ("duplicate", "error", "duplicates")],
)  # fmt: skip
def test_parts_that_are_not_in_order(kind: Any, level: str, rule: str) -> None:
    finding = Finding(kind=kind, path=Path("trials/x.parquet"), detail="something")
    assert "x.parquet: something" in only(problems(rows(), found=[finding]), level, rule)


STUDY = """# a study
task = "demo"
seeds = [0]
[train]
max_steps = 20
eval_steps = 20
[grid.lora]
eta_A = [1e-4, 1e-3, 1e-2]
"""


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sweep a study without training; return the options that mean it."""

    def train(pack: Pack, loaded: object, **_: object) -> list[Outcome]:
        return [scored(t) for t in pack.trials]

    def scored(t: Trial) -> Outcome:
        right = 12 + (t.eta_A == 1e-3) + int(np.random.default_rng(t.seed).integers(3))
        bits = np.packbits(np.arange(16) < right).tobytes()
        share = right / 16
        return outcome(t, metric_value=share, accuracy=share, select_metric=share, eval_correct=bits)

    monkeypatch.setattr("bench.executors.runtime._train", train)
    monkeypatch.setattr("bench.executors.runtime.load_for", lambda *_, **__: None)
    (tmp_path / "tiny.toml").write_text(STUDY)
    options = ["--study", str(tmp_path / "tiny.toml"), "--results-dir", str(tmp_path), "--device", "cpu"]
    assert cli.main(["sweep", *options]) == 0
    return options


def test_verify_passes_a_sweep_and_fails_a_torn_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], swept: list[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["verify", *swept]) == 0
    assert "3 rows, 0 errors" in capsys.readouterr().out
    (tmp_path / "tiny" / "trials" / f"{'a' * 16}.parquet").write_bytes(b"PAR1")
    assert cli.main(["verify", *swept]) == 1
    assert "error: schema: " in capsys.readouterr().out
    assert (tmp_path / "tiny" / "trials" / f"{'a' * 16}.parquet").exists()  # verify changes nothing


def test_verify_needs_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--results-dir", str(tmp_path)]) == 2
    assert "there must be finished trials; run make sweep first" in capsys.readouterr().err


def test_calibrate_runs_the_pool_once_and_keeps_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], swept: list[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["verify", "--calibrate", *swept]) == 0
    out = capsys.readouterr().out
    assert "64 of 64 trials finished" in out
    assert "A/A: the same cell on both sides, 64 runs" in out
    assert "A/A of methods: 2 of LoRA's cells or more must have 2 seeds; sweep the study with SEEDS=0,1,2" in out
    assert (tmp_path / "tiny" / "calibration.json").is_file()
    table = store.load(tmp_path / "tiny-pool")
    assert sorted(table.column("seed").to_pylist()) == list(range(2000, 2064))
    assert set(table.column("eta_A").to_pylist()) == {1e-3}  # the best cell
    assert cli.main(["verify", "--calibrate", *swept]) == 0
    assert "this run: 0 in" in capsys.readouterr().out


def test_calibrate_compares_two_tunings_where_cells_have_several_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], swept: list[str]
) -> None:
    assert cli.main(["sweep", *swept, "--seeds", "0,1,2"]) == 0
    capsys.readouterr()
    assert cli.main(["verify", "--calibrate", *swept, "--seeds", "0,1,2", "--parallel", "9"]) == 0
    out = capsys.readouterr().out
    assert (
        "A/A of methods: LoRA tuned twice with disjoint seeds (3 a cell), simulated from its 3 cells, 3 of them" in out
    )
    kept = json.loads((tmp_path / "tiny" / "calibration.json").read_text())
    assert kept["methods"]["n_comparisons"] == 2000
    assert kept["verdict"][-1] in out
