"""Tasks of numbers: trained as transformers trains one output, scored by correlations; predictions and test splits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, rankdata
from torch import Tensor

from bench import cli, tasks
from bench.core.clock import Clock
from bench.core.errors import BadInput
from bench.core.record import Outcome, Status
from bench.core.spec import Pack, Trial
from bench.data.predictions import pack, predictions_of
from bench.data.splits import Encoded, EncodedData
from bench.engine.batching import Batches
from bench.engine.loop import Loop
from bench.engine.paths import settle_masks
from bench.engine.run import EngineOptions, choose_path, objective_of, run_pack
from bench.models._base import LoadedModel
from bench.store.rows import load
from tests.support.engine_helpers import budget, random_data, tiny_model, trial
from tests.support.oracle import (
    Alone,
    Packed,
    Start,
    assert_hard,
    assert_same_course,
    descend,
    make_alone,
    make_bank,
    optimizer_of,
    padded,
    peft_model,
)

CPU = torch.device("cpu")
HARD: dict[str, Any] = {"max_steps": 40, "max_grad_norm": 0.5, "warmup_steps": 5, "weight_decay": 0.1, "eval_steps": 20}
MEMBERS: list[dict[str, Any]] = [
    {"rank": 2, "eta_A": 1e-3}, {"rank": 4, "eta_A": 1e-2, "method": "lora+", "eta_B": 4e-2},
]  # fmt: skip


def numbers_of(split: Encoded) -> Encoded:
    """The same examples, labelled with the share of large token ids among theirs, from 0 to 5."""
    parts = np.split(split.ids, split.offsets[1:-1])
    return replace(split, labels=np.array([5 * float(np.mean(ids >= 30)) for ids in parts]))


def data_of(*, types: bool = False, **changes: Any) -> EncodedData:
    data = random_data(types=types)
    assert data.select is not None
    splits = {name: numbers_of(getattr(data, name)) for name in ("train", "select", "eval")}
    return replace(data, **splits, n_labels=1, metric="pearson", other_metrics=("spearman", "mse"), **changes)


def train_as_transformers(loaded: LoadedModel, split: Encoded, member: Trial, start: Start) -> Alone:
    """PEFT and the model's own loss, which transformers chooses by its one output and float labels."""
    model = peft_model(loaded, member, start)

    def loss_of(step: int, places: Any) -> Tensor:
        loss: Tensor = model(**padded(split, places)).loss
        return loss

    alone = descend(model, split, member, optimizer_of(model, member), loss_of)
    assert model.config.problem_type == "regression"
    return alone


def train_packed(loaded: LoadedModel, data: EncodedData, trials: list[Trial], path: str) -> Packed:
    bank, split = make_bank(loaded, trials), Batches(data.train, device=CPU)
    way = choose_path(bank, path)
    settle_masks(bank, way, split.chunk(np.arange(2)))
    loop = Loop(
        bank, way, split, trials[0].budget, n_chunks=3, clock=Clock(), evaluate=lambda: np.zeros(len(trials)),
        objective=objective_of(data, bank),
    )  # fmt: skip
    state = loop.run()
    return Packed(losses_SxK=np.stack(state.losses_SxK), norms_SxK=np.stack(state.norms_SxK), bank=bank, state=state)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("path", ["bank", "unpadded"])
def test_a_pack_of_numbers_trains_as_transformers_alone(kind: str, path: str) -> None:
    loaded, data = tiny_model(kind, num_labels=1), data_of(types=kind == "bert")
    trials = [trial(budget=budget(**HARD), **member) for member in MEMBERS]
    packed = train_packed(loaded, data, trials, path)
    assert_hard(packed, HARD["max_grad_norm"])
    assert_same_course(packed, make_alone(loaded, data, trials, train_as_transformers), atol=1e-10)


def outcomes(data: EncodedData, *trials: Trial) -> list[Outcome]:
    members = trials or (trial(eta_A=1e-2), trial(eta_A=1e200, eta_B=1e200), trial(eta_A=1e-9))
    return run_pack(Pack(trials=members), data, tiny_model(num_labels=1), EngineOptions(device=CPU), clock=Clock())


def test_an_outcome_of_numbers_tells_its_scores_and_keeps_what_was_predicted() -> None:
    data = data_of()
    good, gone, still = outcomes(data)
    assert (good.status, gone.status, still.status) == (Status.OK, Status.DIVERGED, Status.OK)
    row = {name: getattr(good, name) for name in ("eval_predictions", "eval_predictions_type", "n_eval")}
    predicted = predictions_of(row)
    assert predicted is not None
    assert predicted.dtype == np.float32
    labels = data.eval.labels
    assert good.metric_value == pytest.approx(pearsonr(predicted, labels).statistic, abs=1e-6)
    assert good.train_loss is not None
    assert good.train_loss < 0.8 * float(np.var(data.train.labels)), "better than always saying the mean"
    assert good.other_metrics is not None
    assert good.other_metrics["spearman"] == pytest.approx(pearsonr(rankdata(predicted), rankdata(labels)).statistic)
    assert good.other_metrics["mse"] == pytest.approx(good.eval_loss)
    assert (good.accuracy, good.eval_correct) == (None, None)
    assert good.select_metric is not None
    assert good.collapsed is False
    assert (gone.metric_value, gone.other_metrics, gone.eval_predictions) == (None, None, None)
    assert still.collapsed is True, "its loss is above that of always saying the mean"


def test_a_test_split_is_scored_only_where_it_is_handed_in_and_changes_nothing_else() -> None:
    plain = data_of()
    (without,) = outcomes(plain, trial(eta_A=1e-2))
    (scored,) = outcomes(replace(plain, test=plain.eval, test_hash="f" * 16), trial(eta_A=1e-2))
    assert (without.test_metric, without.n_test, without.test_hash) == (None, None, None)
    assert (scored.test_metric, scored.test_metric_stderr) == (scored.metric_value, scored.metric_stderr)
    assert (scored.n_test, scored.test_hash) == (30, "f" * 16)
    for name in ("metric_value", "select_metric", "train_loss", "eval_predictions"):
        assert getattr(scored, name) == getattr(without, name)


@pytest.mark.parametrize(("n_classes", "kind"), [(2, "bits"), (3, "uint8"), (256, "uint8"), (257, "uint16")])
@pytest.mark.parametrize("n", [1, 7, 8, 9])
def test_predicted_classes_are_read_back(n_classes: int, kind: str, n: int) -> None:
    predicted = np.random.default_rng(n).integers(0, n_classes, n)
    predicted[0] = n_classes - 1
    raw, found = pack(predicted, n_classes)
    assert found == kind
    assert len(raw) == {"bits": -(-n // 8), "uint8": n, "uint16": 2 * n}[kind]
    row = {"eval_predictions": raw, "eval_predictions_type": found, "n_eval": n}
    np.testing.assert_array_equal(predictions_of(row), predicted)
    with pytest.raises(ValueError, match="must hold n_eval"):
        predictions_of({**row, "n_eval": n + 8})
    assert predictions_of({**row, "eval_predictions": None}) is None


STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"


def write_stsb(root: Path, train_score: str = "3.800") -> Path:
    directory = root / "STS-B"
    directory.mkdir(parents=True)
    (directory / "train.tsv").write_text(f'{STSB}\n0\tg\tf\t2012\t1\tn\tn\tA "man.\tA boy.\t{train_score}\n')
    (directory / "dev.tsv").write_text(f"{STSB}\n0\tg\tf\t2012\t1\tn\tn\tA cat.\tA dog.\t0.000\n")
    return root


def test_stsb_reads_glue_s_layout(tmp_path: Path) -> None:
    task = tasks.get("stsb")
    assert (task.kind, task.n_labels, task.metric, task.other_metrics) == (
        "regression",
        1,
        "pearson",
        ("spearman", "mse"),
    )
    data: Any = tasks.load(task, write_stsb(tmp_path))
    assert (data.train.texts, data.train.pairs, data.train.labels.tolist()) == (('A "man.',), ("A boy.",), [3.8])
    assert (data.train.labels.dtype, data.eval.labels.tolist()) == (np.float64, [0.0])
    other: Any = tasks.load(task, write_stsb(tmp_path / "other", "3.801"))
    assert other.data_hash != data.data_hash


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("high", r"train\.tsv line 2: a label must be a finite number, but got 'high'"),
        ("nan", r"train\.tsv line 2: a label must be a finite number, but got 'nan'"),
        ("", r"train\.tsv line 2: a label must be a finite number, but got ''"),
        ("-1", r"train\.tsv: labels must be given, but got -1 for every example; use a split with labels"),
    ],
)
def test_numbers_are_checked_where_they_stand(score: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        tasks.load(tasks.get("stsb"), write_stsb(tmp_path, score))


def test_a_task_of_numbers_of_one_s_own_is_swept_and_its_chosen_cell_scored_on_the_test_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("bad", "dull", "good", "great")
    for name, n in (("train", 60), ("dev", 30), ("test", 20)):
        rng = np.random.default_rng(n)
        lines = [f"a {words[k]} film no {i},{k + 0.5}" for i, k in enumerate(rng.integers(0, 4, n))]
        (tmp_path / f"{name}.csv").write_text("\n".join(["review,stars", *lines]) + "\n")
    (tmp_path / "stars.toml").write_text(
        'kind = "regression"\nmetric = "spearman"\nother_metrics = ["mse"]\n'
        '[columns]\ntext = "review"\nlabel = "stars"\n'
        '[files]\ntrain = "train.csv"\neval = "dev.csv"\ntest = "test.csv"\n'
    )
    options = ["--task", str(tmp_path / "stars.toml"), "--model", "tiny-roberta", "--methods", "lora", "--ranks", "2",
               "--eta-A", "1e-3,4e-3", "--seeds", "0", "--steps", "3", "--batch", "8", "--device", "cpu",
               "--results-dir", str(tmp_path / "r")]  # fmt: skip
    assert cli.main(["sweep", *options]) == 0
    assert "spearman" in capsys.readouterr().out
    rows = load(tmp_path / "r" / "stars-tiny-roberta").to_pylist()
    assert {row["test_metric"] for row in rows} == {None}, "tuning never sees the test file"
    assert {row["eval_predictions_type"] for row in rows} == {"float32"}
    assert all(set(json.loads(row["other_metrics"])) == {"mse"} for row in rows)
    assert cli.main(["recommend", *options, "--save", str(tmp_path / "saved")]) == 0
    assert "on the test split" in capsys.readouterr().out
    facts = json.loads((tmp_path / "saved" / "lorasweep.json").read_text())
    assert (facts["n_test"], facts["metric_name"]) == (20, "spearman")
    assert facts["test_metric"] is not None
