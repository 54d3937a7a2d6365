"""Prices: studies, plan and compare say the same; without data or model here, a bound or why nobody knows."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench import cli, study
from bench.commands import _resolve, _show, _text
from bench.core import hub
from bench.schedule import price, workloads
from bench.schedule.estimate import Workload, read_calibration

LINES = "sentence\tlabel\n" + "a good film , no more\t1\nbad\t0\n" * 20


@pytest.fixture(autouse=True)
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and a Hub that must not be asked."""
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_ask", lambda url: pytest.fail(f"asked {url}"))
    price._data.cache_clear()
    price._located.cache_clear()


def takes(out: str, name: str) -> str:
    """Return what `studies` says that a study takes."""
    header = out.splitlines()[0]
    line = next(line for line in out.splitlines() if line.startswith(f"{name} "))
    return line[header.index("takes") : header.index("reproduces")].strip()


@pytest.mark.parametrize("name", ["demo", "demo-compare", "uuid", "toy"])
def test_studies_and_plan_say_the_same(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--profile", "quick", "--results-dir", str(tmp_path)]
    assert cli.main(["studies", *where]) == 0
    told = takes(capsys.readouterr().out, name)
    assert cli.main(["plan", "--study", name, "--device", "cpu", *where]) == 0
    assert f"; about {told} (uncalibrated" in capsys.readouterr().out


def test_without_its_texts_a_study_has_a_bound_and_with_them_the_price(tmp_path: Path) -> None:
    data = tmp_path / "data" / "sst2"
    data.mkdir(parents=True)
    for name in ("train", "dev"):
        (data / f"{name}.tsv").write_text(LINES)
    chosen = replace(study.load("lora-sst2-paper"), device="cpu")
    bound = price.of_study(chosen, results_dir=tmp_path)
    exact = price.of_study(replace(chosen, data_dir=str(tmp_path / "data")), results_dir=tmp_path)
    assert (bound.at_most, exact.at_most) == (True, False)
    assert bound.estimate is not None
    assert exact.estimate is not None
    # one trial of LoRA on RoBERTa-base: 4 P FLOP for each token, P = 12 (4 * 768^2 + 2 * 768 * 3072), at 1e11 a second
    budget, p = chosen.budget, 12 * (4 * 768**2 + 2 * 768 * 3072)
    flop = 4 * p * budget.max_length * budget.max_steps * budget.batch_size
    assert bound.estimate.seconds == pytest.approx(flop / 1e11)
    assert exact.estimate.seconds < bound.estimate.seconds


def test_what_a_plan_has_counted_is_known_to_studies_that_cannot_read_the_texts(tmp_path: Path) -> None:
    chosen = study.load("lora-full")
    workload = Workload(matmul_params=10, train_tokens=5.0, n_eval=7, eval_tokens=3.0, n_select=2)
    price.remember(chosen, workload)
    assert price.workload_here(chosen) == (workload, False)
    assert price.workload_here(replace(chosen, task="mrpc"))[1], "of another task nothing is known"


def test_a_model_whose_size_nobody_knows_has_no_price_and_says_why(tmp_path: Path) -> None:
    found = price.of_study(replace(study.load("lora-full"), model="nobody/x"), results_dir=tmp_path)
    assert found.estimate is None
    assert "must be a registered name, a directory with config.json or a Hub id in the cache, but got" in found.doubt


def test_a_search_costs_its_trials_and_not_its_grid() -> None:
    chosen = replace(study.load("demo"), sampler="tpe", n_trials=7)
    assert len(price.wanted(chosen)) == 7 * len({t.method for t in price.wanted(chosen)})


def test_the_plan_of_a_search_tells_a_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--study", "demo", "--methods", "lora,mora", "--sampler", "tpe", "--n-trials", "7", "--device", "cpu"]
    assert cli.main(["plan", *options, "--results-dir", str(tmp_path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    chosen = study.load("demo", overrides={"methods": "lora,mora", "sampler": "tpe", "n_trials": "7", "device": "cpu"})
    found = price.of_study(chosen, results_dir=tmp_path).estimate
    assert found is not None
    assert last == f"demo-tiny-roberta: 14 trials, finished or not, about {_show.duration(found)}"


def test_a_plan_without_its_model_gives_the_price_and_the_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_ask", lambda url: "no route")
    monkeypatch.delenv("LORASWEEP_DATA", raising=False)
    assert cli.main(["plan", "--study", "lora-full", "--device", "cpu", "--results-dir", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert re.search(r"42 trials, finished or not, at most: about [\d.]+ (h|days)", out)
    assert "each counts with max_length tokens" in out
    assert err.startswith("task sst2: the Hub must give nyu-mll/glue")
    assert err.count("\n") == 1


def test_a_plan_whose_model_alone_is_on_the_hub_gives_the_price_and_the_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_ask", lambda url: "no route")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "sst2").mkdir()
    lines = ["sentence\tlabel", *(f"text number {i} is fine\t{i % 2}" for i in range(200))]
    for name in ("train", "dev"):
        (tmp_path / "sst2" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    options = ["--task", "sst2", "--model", "roberta-base", "--data-dir", str(tmp_path), "--device", "cpu"]
    assert cli.main(["plan", *options, "--profile", "quick", "--results-dir", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert re.search(r"sst2-roberta-base: 30 trials, finished or not, about [\d.]+ (min|h|days)", out)
    assert err.startswith("model: the Hub must give FacebookAI/roberta-base")
    assert err.count("\n") == 1


def test_a_price_is_that_of_the_measured_speeds(tmp_path: Path) -> None:
    resolved = _resolve.resolve(study.load("demo", overrides={"device": "cpu"}))
    options = resolved.sweep_options()
    assert options.workload is not None
    place = workloads.place_of("cpu")
    plain = price.of_trials(resolved.trials, options.workload, results_dir=tmp_path, place=place)
    assert not plain.calibrated
    assert read_calibration(tmp_path).spent == {}
    assert price.of_study(resolved.study, results_dir=tmp_path).estimate == plain


def test_durations_and_counts_in_words() -> None:
    assert [_text.duration(s) for s in (45, 720, 12_240, 432_000)] == ["45 s", "12 min", "3.4 h", "5 days"]
    assert [_text.every(n) for n in (1, 50)] == ["every step", "every 50 steps"]
    assert [_text.ratio(r) for r in (None, 0.0774264, 16.0, 1 / 3)] == ["-", "0.0774", "16", "0.333"]
