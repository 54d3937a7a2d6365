"""The Python functions: the same trials, rows and refusals as the commands of their names."""

from __future__ import annotations

import inspect
import io
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bench import api, cli, store
from bench.api._settings import selection_of
from bench.study.overrides import BY_KEY
from tests.support import tiny_models

ROOT = Path(__file__).parents[3]
SMALL: dict[str, Any] = {
    "task": "demo", "methods": ["lora", "lora+"], "eta_A": [1e-3, 4e-3], "lr_ratio": [1, 4], "rank": 2, "steps": 2,
    "seeds": [0], "n_select": 0, "max_length": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    directory = tmp_path_factory.mktemp("results")
    return api.sweep(**SMALL, results_dir=directory, progress=False), directory


def test_a_call_and_the_command_share_trials_and_rows(
    swept: tuple[pd.DataFrame, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows, directory = swept
    options = ["--task=demo", "--methods=lora,lora+", "--eta-A=0.001,0.004", "--lambda=1,4", "--rank=2", "--steps=2",
               "--seeds=0", "--n-select=0", "--max-length=8", f"--results-dir={directory}"]  # fmt: skip
    assert cli.main(["plan", *options]) == 0
    assert f"{len(rows)} finished, 0 to run" in capsys.readouterr().out
    stored = store.load(directory / "demo-tiny-roberta").to_pandas()
    assert sorted(rows["trial_id"]) == sorted(stored["trial_id"])
    assert set(rows["method"]) == {"lora", "lora+"}


def test_a_second_call_runs_nothing(swept: tuple[pd.DataFrame, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.executors.local import LocalExecutor

    rows, directory = swept
    monkeypatch.setattr(LocalExecutor, "stream", lambda *_, **__: pytest.fail("a finished trial ran again"))
    pd.testing.assert_frame_equal(api.sweep(**SMALL, results_dir=directory, progress=False), rows)


def test_a_plan_says_what_is_finished(swept: tuple[pd.DataFrame, Path]) -> None:
    _, directory = swept
    plan = api.plan(**{**SMALL, "seeds": [0, 1]}, results_dir=directory)
    assert list(plan.trials.groupby("seed")["finished"].all()) == [True, False]
    assert plan.n_finished == len(plan.trials) // 2
    assert "accuracy" in str(plan)


def test_the_best_cells_are_those_of_the_command(swept: tuple[pd.DataFrame, Path]) -> None:
    from bench.commands import _resolve

    rows, directory = swept
    found = api.best(rows)
    resolved = _resolve.resolve(selection_of(SMALL, results_dir=directory).study())
    cells, _ = resolved.best(store.load(directory / "demo-tiny-roberta"))
    told = {cell.trial.method: (cell.trial.eta_A, cell.trial.lr_ratio, cell.mean) for cell in cells}
    mine = {row["method"]: (row["eta_A"], row["lr_ratio"], row["mean"]) for row in found.to_dict("records")}
    assert mine == told


def test_a_recommendation_is_a_config_of_peft(swept: tuple[pd.DataFrame, Path]) -> None:
    from peft import LoraConfig

    _, directory = swept
    found = api.recommend(**SMALL, results_dir=directory)
    by_code: dict[str, Any] = {}
    exec(found.code.split("model = ")[0], by_code)
    assert found.peft_config() == by_code["config"]
    assert isinstance(found.peft_config(), LoraConfig)
    assert str(found.peft_config().r) == "2"


def test_rows_are_loaded_by_name_directory_and_file(swept: tuple[pd.DataFrame, Path], tmp_path: Path) -> None:
    rows, directory = swept
    file = tmp_path / "rows.parquet"
    store.consolidate(directory / "demo-tiny-roberta", file)
    by_name = api.load("demo-tiny-roberta", results_dir=directory)
    for found in (by_name, api.load(directory / "demo-tiny-roberta"), api.load(file), api.load([file])):
        assert sorted(found["trial_id"]) == sorted(rows["trial_id"])
    with pytest.raises(api.BadInput, match="rows: must be a study with rows"):
        api.load("no-such-study", results_dir=directory)


def test_a_heatmap_is_a_figure(swept: tuple[pd.DataFrame, Path]) -> None:
    figure = api.heatmap(swept[0])
    assert isinstance(figure, Figure)
    assert any("eta" in ax.get_xlabel() or "η" in ax.get_xlabel() for ax in figure.axes)


def test_stored_rows_are_compared_as_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.comparison.verdict import sentences

    files = [ROOT / "results" / "reference" / f"sst2-compare{part}.parquet" for part in ("", "-fresh")]
    comparison = api.compare(files, results_dir=tmp_path)
    capsys.readouterr()
    assert cli.main(["compare", f"--rows={','.join(map(str, files))}", f"--results-dir={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert all(sentence in told for sentence in sentences(comparison))


def test_a_comparison_trains_what_is_missing_and_is_that_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.executors.local import LocalExecutor

    study = tmp_path / "two.toml"
    study.write_text(
        'task = "demo"\nmodel = "tiny-roberta"\nseeds = [0]\n[train]\nmax_steps = 2\n'
        "batch_size = 4\nmax_length = 8\nn_select = 40\n[grid.lora]\neta_A = [1e-3, 4e-3]\nrank = 2\n"
        '[grid."lora+"]\neta_A = [1e-3]\nlr_ratio = [2, 4]\nrank = 2\n',
        encoding="utf-8",
    )
    results = tmp_path / "results"
    given: dict[str, Any] = {"study": study, "fresh_seeds": 6, "top_cells": 0, "results_dir": results}
    trained = api.compare(**given, progress=False)
    assert {arm.name for arm in trained.arms} == {"lora", "lora+"}
    assert all(arm.n + arm.n_diverged == 6 for arm in trained.arms)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(LocalExecutor, "stream", lambda *_, **__: pytest.fail("a finished trial ran again"))
    written = (results / "two" / "comparison.json").read_text("utf-8")
    options = [f"--study={study}", "--fresh-seeds=6", "--top-cells=0", f"--results-dir={results}"]
    assert cli.main(["compare", *options]) == 0
    assert (results / "two" / "comparison.json").read_text("utf-8") == written
    assert "minus LoRA" in capsys.readouterr().out
    with pytest.raises(api.BadInput, match="fresh_seeds: must"):
        api.compare(**{**given, "fresh_seeds": 1})


@pytest.mark.parametrize(("code", "error"), [(130, KeyboardInterrupt), (1, RuntimeError)])
def test_a_comparison_that_was_not_finished_raises(
    code: int, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.commands import _stages

    monkeypatch.setattr(_stages._run, "unfinished", lambda _: code)
    monkeypatch.setattr(_stages._run, "run", lambda *_, **__: None)
    with pytest.raises(error):
        api.compare(study="demo-compare", results_dir=tmp_path)


@pytest.mark.parametrize(
    ("module", "has_widgets", "bar"),
    [("ipykernel.iostream", True, True), ("ipykernel.iostream", False, False), ("io", True, False)],
)
def test_a_notebook_has_a_bar_where_it_can_show_one(
    module: str, has_widgets: bool, bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.commands import _progress

    stream = type("Stream", (io.StringIO,), {"__module__": module})()
    monkeypatch.setattr(_progress.sys, "stdout", stream)
    monkeypatch.setattr(_progress, "find_spec", lambda _: object() if has_widgets else None)
    monkeypatch.setattr(_progress, "Console", lambda: SimpleNamespace(is_jupyter=True))
    assert _progress._in_notebook() is bar
    if not bar:
        with _progress.reporter((), n_steps=1) as report:
            assert type(report) is _progress.Plain


def test_signatures_name_what_says_which_study_is_meant() -> None:
    for function in (api.sweep, api.plan, api.compare, api.recommend):
        names = list(inspect.signature(function).parameters)
        assert {"task", "eval_data", "model", "tokenizer", "text", "label", "data_dir", "results_dir"} < set(names)
        assert names[-1] == "settings"
        assert "selection" not in names
        documented = inspect.getdoc(function) or ""
        assert all(f"{name}:" in documented for name in names if name not in ("selection", "rows"))


ONE: dict[str, Any] = {"methods": "lora", "steps": 1, "rank": 2, "seeds": 0, "n_select": 0, "eta_A": 1e-3}
PAIRS = [(f"{word} {i}", label) for i in range(40) for word, label in (("fine", "good"), ("dull", "bad"))]


def test_pairs_frames_and_data_sets_are_the_same_task(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    frame = pd.DataFrame(PAIRS, columns=["text", "label"])
    typed = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    columns = {"text": [text for text, _ in PAIRS], "label": [("bad", "good").index(label) for _, label in PAIRS]}
    ids = [
        tuple(api.plan(task=task, model="tiny-roberta", **ONE, results_dir=tmp_path).trials["trial_id"])
        for task in (PAIRS, frame, Dataset.from_dict(columns, features=typed))
    ]
    assert ids[0] == ids[1] == ids[2]


def test_data_of_one_split_is_split_by_content_and_trains(tmp_path: Path) -> None:
    rows = api.sweep(task=PAIRS, model="tiny-roberta", **ONE, results_dir=tmp_path, progress=False)
    (n_eval,) = set(rows["n_eval"])
    assert 0 < n_eval < len(PAIRS) / 2
    shuffled = [PAIRS[i] for i in np.random.default_rng(0).permutation(len(PAIRS))]
    plan = api.plan(task=shuffled, model="tiny-roberta", **ONE, results_dir=tmp_path)
    assert f"{n_eval} examples" in str(plan)  # the same rows are held out, whatever their order


def test_a_model_object_trains_as_its_directory(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    source = tiny_models.save_tiny(tmp_path / "tiny")
    model = AutoModel.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    settings: dict[str, Any] = {**ONE, "steps": 2, "max_length": 8}
    texts = [f"{a} {b} {c}" for a, b, c in itertools.product(tiny_models.WORDS[:4], repeat=3)]
    pairs = [(text, "good" if "good" in text else "bad") for text in texts]
    given: dict[str, Any] = {**settings, "task": pairs, "results_dir": tmp_path, "progress": False}
    rows = api.sweep(model=model, tokenizer=tokenizer, **given)
    again = api.plan(model=model, tokenizer=tokenizer, **{k: v for k, v in given.items() if k != "progress"})
    assert again.n_finished == len(rows) == 1
    by_path = api.sweep(model=source, **given)
    assert list(by_path["train_loss"]) == list(rows["train_loss"])
    with pytest.raises(api.BadInput, match="tokenizer: must be given"):
        api.plan(model=model, task=PAIRS, **settings, results_dir=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta_A": -1}, "eta_A: must be a finite number > 0, but got -1"),
        ({"foo": 1}, "foo: must be a setting"),
        ({"methods": "full", "rank": 8}, "rank: must be read by one of the methods"),
        ({"eta_B": 1e-3, "lr_ratio": 4}, "eta_B: must not be given together with lr_ratio"),
        ({"eta_A": 1e-3, "learning_rate": 1e-3}, "learning_rate: must not be given together with another name"),
        ({"eta_A": {1e-3: 1}}, "eta_A: must be a number, a text, a boolean or a list"),
        ({"task": 3}, "task: must be a task's name, a DataFrame"),
        ({"task": [("a", "b")] * 3}, "task: must have enough rows"),
        ({"task": pd.DataFrame({"x": ["a"], "y": ["b"]})}, "label: must be a column"),
        ({"task": pd.DataFrame({"text": ["a", None], "label": ["b", "c"]}), "eval_data": PAIRS}, "missing values"),
        ({"model": object()}, "model: must be a name"),
    ],
)
def test_refusals_have_python_s_names(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(api.BadInput) as refusal:
        api.sweep(**{"task": "demo", **settings}, results_dir=tmp_path)
    assert message in str(refusal.value)
    assert "--" not in str(refusal.value)


def test_every_option_of_a_sweep_is_an_argument() -> None:
    for key, option in BY_KEY.items():
        names = {flag.removeprefix("--").replace("-", "_") for flag in option.flags}
        assert all(selection_of({name: "1"}).overrides == {key: "1"} for name in {key, *names})


def test_values_are_spelled_as_on_a_command_line() -> None:
    given = {
        "eta_A": np.array([1e-3, 3e-4]),
        "use_rslora": True,
        "target_modules": ("query", "value"),
        "rank": np.int64(4),
    }
    assert selection_of(given).overrides == {
        "eta_A": "0.001,0.0003", "use_rslora": "true", "target_modules": "query,value", "rank": "4",
    }  # fmt: skip
