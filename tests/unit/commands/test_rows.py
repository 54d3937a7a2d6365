"""Stored rows alone: figures, report, comparison, checks and winner of a study without its data, model or training."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from bench import cli, models, store, study, tasks
from bench.checks import preflight
from bench.commands import _resolve, _run
from bench.comparison import arms
from bench.core.record import CurvePoint, Outcome, Record, Status, to_table
from bench.core.spec import Trial
from bench.data.held_out import HeldOut
from bench.data.splits import Split, TextData
from bench.models import Located
from tests.support.plot_rows import PLACE

REFERENCE = Path(__file__).resolve().parents[3] / "results" / "reference"
TUNING, FRESH = REFERENCE / "sst2-compare.parquet", REFERENCE / "sst2-compare-fresh.parquet"
SPLIT = Split(texts=("a", "b"), pairs=None, labels=np.array([0, 1]))


@pytest.fixture(autouse=True)
def nothing_but_rows(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Forbid what rows make needless: data, base models, training."""

    def forbidden(*args: object, **more: object) -> None:
        raise AssertionError(f"asked for {args}")

    monkeypatch.setattr(tasks, "load", forbidden)
    monkeypatch.setattr(models, "locate", forbidden)
    monkeypatch.setattr(_run, "sweep_shown", forbidden)
    monkeypatch.delenv("LORASWEEP_DATA", raising=False)


def run(command: str, *options: object, to: Path) -> int:
    return cli.main([command, *map(str, options), "--results-dir", str(to)])


def rows(*paths: Path) -> str:
    return ",".join(map(str, paths))


# --- the rows that are kept here, of version 1 ----------------------------------------------------------------


def test_the_kept_comparison_is_told_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "--study", "sst2-compare", "--rows", rows(TUNING, FRESH), to=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "the rows hold no second stage of tuning: each cell was chosen with 1 seed" in printed
    assert "mora type 6: cells tie where they are chosen; the one with fresh runs counts (eta_A 0.00181)" in printed
    assert "8 runs of full fine-tuning's cell are too few" in printed
    found = json.loads((tmp_path / "sst2-compare+sst2-compare-fresh" / "comparison.json").read_text())
    frame = pq.read_table(FRESH).to_pandas()
    of_method = {
        name: frame[frame.method == name].sort_values("seed").metric_value.tolist() for name in ("full", "lora")
    }
    by_hand = fmean(a - b for a, b in zip(of_method["full"], of_method["lora"], strict=True))
    full = next(d for d in found["differences"] if d["arm"] == "full")
    assert math.isclose(full["mean"], by_hand)
    assert (full["n"], full["claim"], full["withheld"]) == (8, "none", "runs")
    assert list(tmp_path.iterdir()) == [tmp_path / "sst2-compare+sst2-compare-fresh"]


def test_files_may_be_given_one_by_one_and_name_their_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "--rows", FRESH, "--rows", TUNING, to=tmp_path) == 0
    assert "sst2 on minilm: 12 cells tuned for each method" in capsys.readouterr().out


def test_tuning_rows_alone_are_no_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "--study", "sst2-compare", "--rows", TUNING, to=tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "--rows: must hold fresh runs of each method's chosen cell, with the same seeds, but got lora 0"
    )
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert run("compare", "--study", "sst2-compare", "--rows", FRESH, to=tmp_path) == 2
    assert "there must be finished trials of the study" in capsys.readouterr().err


def test_too_few_fresh_seeds_are_told_and_claim_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(FRESH)
    few = tmp_path / "few.parquet"
    missing = (pc.field("method") == "lora") & (pc.field("seed") > 1004)
    pq.write_table(table.filter(~missing), few)
    assert run("compare", "--rows", rows(TUNING, few), to=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "5 fresh seeds are in the rows, and a claim needs 8: none can be made" in printed
    found = json.loads((tmp_path / "sst2-compare+few" / "comparison.json").read_text())
    assert {d["claim"] for d in found["differences"]} == {"none"}
    assert run("compare", "--rows", rows(TUNING, few), "--fresh-seeds", 8, to=tmp_path) == 2
    assert (
        "must hold 8 fresh runs of each method's chosen cell, with the same seeds, but got lora 5"
        in capsys.readouterr().err
    )


def test_the_report_has_the_verdict_where_the_rows_give_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "--study", "sst2-compare", "--rows", rows(TUNING, FRESH), to=tmp_path) == 0
    text = (tmp_path / "sst2-compare+sst2-compare-fresh" / "report.html").read_text()
    assert "other rows in the directory" not in text  # the fresh runs are shown, as what they are
    assert "<dd>1,000 training examples, how they were drawn is not in the rows</dd>" in text
    assert "No method as tuned here can be said to differ from tuned LoRA" in text
    assert run("report", "--rows", TUNING, to=tmp_path) == 0
    assert "no comparison: --rows: must hold fresh runs" in capsys.readouterr().out
    alone = (tmp_path / "sst2-compare" / "report.html").read_text()
    assert "can be said to differ" not in alone


@pytest.mark.parametrize(
    "path", sorted(p for p in REFERENCE.glob("*.parquet") if not p.stem.endswith("-fresh")), ids=str
)
def test_every_kept_file_is_reported_checked_and_recommended_from(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n = pq.read_metadata(path).num_rows
    models = sorted(set(pq.read_table(path, columns=["model"])["model"].to_pylist()))
    for of in [("--model", model) for model in models] if len(models) > 1 else [()]:
        assert run("report", "--rows", path, *of, to=tmp_path) == 0
        assert (tmp_path / path.stem / "report.html").stat().st_size > 25_000
        assert run("verify", "--rows", path, *of, to=tmp_path) == 0
        printed = capsys.readouterr().out
        assert f"{path}: {n:,} rows, 0 errors" in printed
        assert ("rows are of other settings" in printed) == (len(models) > 1)
        assert run("recommend", "--rows", path, *of, to=tmp_path) == 0
        printed = capsys.readouterr().out
        assert f"{path.stem}: " in printed
        assert not of or f'model = "{of[1]}"' in printed


def test_rows_of_several_models_are_read_one_model_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = REFERENCE / "claims-dimension.parquet"
    assert run("report", "--rows", path, to=tmp_path) == 2
    assert capsys.readouterr().err.strip() == (
        "--rows: must be rows of one task and model of claims-dimension, or they must be named, but got "
        "demo on tiny-roberta, demo on tiny-roberta-3000, demo on tiny-roberta-48, demo on tiny-roberta-6000; "
        "give --model, or --task"
    )


def test_the_winner_is_quoted_by_its_fresh_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recommend", "--rows", rows(TUNING, FRESH), to=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "full, eta_A 1.1e-04: accuracy 0.8595 +- 0.0023" in printed
    assert "n = 8 fresh seeds; 0.8578 over 1 when tuned" in printed
    assert run("recommend", "--rows", TUNING, "--study", "sst2-compare", "--methods", "lora", to=tmp_path) == 0
    out = capsys.readouterr().out
    assert "# modules_to_save as PEFT has it for any classifier; without --rows the model" in out
    assert "modules_to_save=['classifier', 'score']" in out
    study_file = out[out.index("\n# ", out.index("get_scheduler('")) :]
    assert tomllib.loads(study_file[study_file.index("task = ") :])["grid"]  # the study is one, nulls left out


def test_a_named_study_draws_its_own_rows_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fresh runs in the same files are no cells of the tuning grid."""
    pytest.importorskip("matplotlib")
    assert run("plot", "--study", "sst2-compare", "--rows", rows(TUNING, FRESH), to=tmp_path) == 0
    assert "rates.png" in capsys.readouterr().out
    half = tmp_path / "half.parquet"
    pq.write_table(pq.read_table(TUNING).filter(pc.field("method") != "full"), half)
    assert run("plot", "--study", "sst2-compare", "--rows", half, to=tmp_path) == 0
    assert "12 of 60 trials are not finished: their cells are drawn as missing" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["plot", "report", "compare", "verify", "recommend"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rows", "none.parquet"), "--rows: must be a file, but got none.parquet"),
        (("--rows", f"{TUNING},none.parquet"), "--rows: must be a file, but got none.parquet"),
        (("--rows", __file__), "--rows: must be rows of this harness"),
        (("--study", "sst2-compare", "--rows", REFERENCE / "uuid-tiny-decoder.parquet"),
         "--rows: must hold rows of sst2 on minilm, as sst2-compare asks, but got uuid on tiny-decoder"),
        (("--study", "sst2-compare", "--rows", REFERENCE / "loraplus-sst2-minilm.parquet"),
         "--rows: there must be finished trials of the study, but got 84 rows with other settings"),
    ],
)  # fmt: skip
def test_what_is_no_rows_of_the_study_is_one_line(
    command: str, options: tuple[object, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, *options, to=tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1:]
    assert [line[: len(says)] for line in error] == [says]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["report", "compare", "verify", "recommend"])
def test_rows_of_several_studies_need_a_name(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--rows", rows(TUNING, REFERENCE / "loraplus-sst2-minilm.parquet"), to=tmp_path) == 2
    assert "must be rows of one study, or the study must be named" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "option"), [("verify", ("--calibrate",)), ("recommend", ("--save", "x"))])
def test_what_trains_is_refused_with_rows(
    command: str, option: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--rows", TUNING, *option, to=tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"{option[0]}: trains")


# --- rows of version 2 ----------------------------------------------------------------------------------------

SMALL = {"study": "demo-compare", "methods": "lora,full", "eta_A": "1e-4,1e-3"}
NARROW = [word for key, text in SMALL.items() for word in (f"--{key.replace('_', '-')}", text)]
SCORES = {1e-4: 0.7, 1e-3: 0.8}


@pytest.fixture(scope="module")
def resolved() -> dict[str, _resolve.Resolved]:
    """A small comparison resolved from its data and base model, as a sweep does, by profile."""
    return {name: _resolve.resolve(study.load(overrides={**SMALL, "profile": name})) for name in ("quick", "full")}


def write(path: Path, trials: Iterable[Trial], scores: dict[float, float] = SCORES) -> Path:
    """Write rows whose held-out and evaluation score is a number for each eta_A, a little apart by seed."""
    path.parent.mkdir(exist_ok=True)
    store.write_part(path, to_table([made(t, scores[t.eta_A] + 1e-4 * (t.seed % 7)) for t in trials]))
    return path


def made(trial: Trial, score: float) -> Record:
    outcome = Outcome(
        status=Status.OK, metric_name="accuracy", metric_value=score, metric_stderr=0.01, select_metric=score,
        n_eval=100, steps_done=80, train_seconds=1.0, started_at="2026-01-01T00:00:00Z",
        curve=(CurvePoint(step=80, train_seconds=1.0, train_loss=0.5, metric_value=score),),
    )  # fmt: skip
    return Record(
        study="demo-compare", trial=trial, pack_id=f"p{trial.trial_id}", pack_size=1, outcome=outcome, provenance=PLACE
    )


def again(trials: Iterable[Trial], seeds: Iterable[int]) -> list[Trial]:
    """Return each cell with other seeds."""
    return [replace(t, seed=seed) for t in {t.cell: t for t in trials}.values() for seed in seeds]


def fresh(trials: Iterable[Trial], seeds: Iterable[int]) -> list[Trial]:
    """Return the cells at the better rate with fresh seeds."""
    best = {t.cell: t for t in trials if t.eta_A == max(SCORES)}.values()
    return [t for one in best for t in arms.fresh_trials(one, tuple(seeds))]


@pytest.mark.parametrize("name", ["sst2-compare", "uuid", "toy", "demo", "lora-full"])
def test_rows_give_the_trials_that_data_and_model_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a study's trials stand on is in the rows: the ids are the same."""
    n_select = min(700, study.load(name).budget.n_select)
    held = HeldOut(select=np.arange(n_select), train=np.arange(700, 9000), n_left_out=3)
    located = Located(name=models.row_name(study.load(name).model), directory=Path(), model_hash="m", revision=None,
                      tokenizer_hash="t", config={"model_type": "roberta"})  # fmt: skip
    subject = preflight.Subject(study.load(name))
    data = TextData(train=SPLIT, eval=SPLIT, data_hash="d")
    vars(subject).update(data=data, located=located, held_out=None if name == "toy" else held)
    whole = _resolve.Resolved.of(subject)
    table = to_table([made(trial, 0.5) for trial in whole.trials])
    read = _resolve.of_rows(study.load(name), table)
    assert read.trials == whole.trials
    assert (read.study, read.n_select_asked, read.model_name) == (whole.study, whole.n_select_asked, whole.model_name)


def test_the_profile_is_the_one_that_the_rows_were_swept_with(
    resolved: dict[str, _resolve.Resolved], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in" / "full.parquet", resolved["full"].trials)
    assert run("report", *NARROW, "--rows", path, to=tmp_path) == 0
    assert "demo-compare: as the rows were swept, PROFILE=full" in capsys.readouterr().err
    assert run("report", *NARROW, "--profile", "quick", "--rows", path, to=tmp_path) == 0
    assert "PROFILE" not in capsys.readouterr().err


def test_a_second_stage_of_tuning_counts_where_it_is_whole(
    resolved: dict[str, _resolve.Resolved], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = resolved["quick"].trials
    top = again(trials, (500, 501))
    files = {
        "tuning": write(tmp_path / "in" / "tuning.parquet", trials),
        "top": write(tmp_path / "in" / "top.parquet", top),
        "part": write(tmp_path / "in" / "part.parquet", top[:-1]),
        "fresh": write(tmp_path / "in" / "fresh.parquet", fresh(trials, range(1000, 1008))),
    }
    options = (*NARROW, "--profile", "quick", "--rows")
    assert run("compare", *options, rows(files["tuning"], files["top"], files["fresh"]), to=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "(the best 3 again with 2 more seeds)" in printed
    assert "no second stage" not in printed
    part = rows(files["tuning"], files["part"], files["fresh"])
    assert run("compare", *options, part, to=tmp_path) == 2
    error = capsys.readouterr().err
    assert "--rows: must hold the whole second stage of tuning, but got 7 of 8" in error
    assert run("compare", *options, part, "--top-cells", 0, to=tmp_path) == 0
    assert run("compare", *options, rows(files["tuning"], files["fresh"]), "--top-cells", 2, to=tmp_path) == 2
    assert "the whole second stage of tuning, but got 0 of 8" in capsys.readouterr().err


def test_further_runs_in_the_rows_let_a_difference_be_claimed(
    resolved: dict[str, _resolve.Resolved], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = resolved["quick"].trials
    full = next(t for t in trials if t.method == "full" and t.eta_A == max(SCORES))
    runs = fresh(trials, range(1000, 1008))
    better = {t.eta_A: SCORES[t.eta_A] + 0.02 for t in trials}
    parts = [
        write(tmp_path / "in" / "tuning.parquet", trials),
        write(tmp_path / "in" / "lora.parquet", [t for t in runs if t.method == "lora"]),
        write(tmp_path / "in" / "fast.parquet", [t for t in runs if t.method == "full"], better),
    ]
    pool = write(tmp_path / "in" / "pool.parquet", arms.pool_trials(full, 6, (0,)), better)
    for given, claim in ((parts, "none"), ([*parts, pool], "better")):
        assert run("compare", *NARROW, "--profile", "quick", "--rows", rows(*given), to=tmp_path) == 0
        found = json.loads((tmp_path / "+".join(p.stem for p in given) / "comparison.json").read_text())
        assert [d["claim"] for d in found["differences"]] == [claim]


def test_rows_of_other_data_than_each_other_are_refused(
    resolved: dict[str, _resolve.Resolved], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = resolved["quick"].trials
    path = write(tmp_path / "in" / "a.parquet", [*trials, *(replace(t, data_hash="other") for t in trials)])
    for command in ("report", "compare", "verify", "recommend"):
        assert run(command, *NARROW, "--rows", path, to=tmp_path) == 2
        assert "--rows: must be rows that mean the same" in capsys.readouterr().err
