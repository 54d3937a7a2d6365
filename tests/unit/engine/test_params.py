"""bench params: counts against PEFT's own, the engine's and published ones; no weights, no network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, RobertaConfig

from bench import cli, methods, models
from bench.engine import count
from bench.models._config import read_config
from tests.support.engine_helpers import SIZES, load_random, trial
from tests.support.oracle import make_bank

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")

_SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
CONFIGS: dict[str, dict[str, Any]] = {
    "roberta": {**_SMALL, "vocab_size": 40, "max_position_embeddings": 20},
    "bert": {**_SMALL, "vocab_size": 40},
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 2, "vocab_size": 40},
    "deberta-v2": {**_SMALL, "vocab_size": 40},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 40, "n_positions": 20},
    "qwen2": {**_SMALL, "vocab_size": 40, "num_key_value_heads": 1},
}
OTHER_LINEARS = {"distilbert": r"distilbert\..*lin.*", "deberta-v2": r"deberta\.encoder\..*(proj|dense)"}
UNREAD = dict.fromkeys(("rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules", "eta_B"))
SETTINGS: dict[str, Any] = {
    "rank": 2, "lora_alpha": 2.0, "use_rslora": False, "lora_dropout": 0.0, "init": "zero_B", "mora_type": 6,
    "mora_rounding": "floor", "target_modules": ("query", "dense"), "eta_B": 1e-2,
}  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, str]:
    """Return the totals that the command prints, by their first word, spaces taken out."""
    assert cli.main(["params", *options]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    return {words[0]: " ".join(words[1:]) for words in lines[-4:]}


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that never saw the model."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)


@pytest.mark.parametrize(
    ("modules", "rank"),
    [("query,output.dense", "4"), (r".*layer.*(query|output)(\.dense)?", "4"), ("all-linear", "2")],
)
def test_roberta_base_has_923_906_trainable_numbers(
    modules: str, rank: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One count, several sets of modules: 27,648 in each layer, of which the sum is 331,776."""
    said = run(capsys, "--model", "roberta-base", "--target-modules", modules, "--rank", rank)
    assert said["trainable"] == "923,906 of which new head 592,130"
    assert said["total"] == "124,978,946 model 124,647,170 + adapters 331,776"
    assert said["share"] == "0.7392 %"
    assert said["PEFT"].startswith("923,906 of 125,571,076, 0.7358 %: it counts the frozen copy that it keeps")


@pytest.mark.parametrize(
    ("options", "n_adapters", "n_trainable"),
    [
        (("--model", "roberta-base"), 294_912, 887_042),
        (("--model", "roberta-large"), 786_432, None),
        (("--model", "roberta-base", "--method", "bitfit"), 0, 102_144 + 592_130),
        (("--model", "roberta-base", "--method", "head"), 0, 592_130),
        (("--model", "roberta-base", "--method", "full"), 0, 124_647_170),
        (("--model", "roberta-base", "--method", "mora"), 24 * 110**2, None),
        (("--model", "roberta-base", "--method", "subspace", "--rank", "896"), 896, 896 + 592_130),
        (("--model", "gpt2", "--rank", "4"), 12 * 4 * (768 + 3 * 768), None),
        (("--model", "llama-7b", "--target-modules", "all-linear", "--rank", "8"), 19_988_480, None),
    ],
)
def test_known_counts(
    options: tuple[str, ...], n_adapters: int, n_trainable: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(capsys, *options)
    assert said["total"].endswith(f"adapters {n_adapters:,}")
    if n_trainable is not None:
        assert said["trainable"].startswith(f"{n_trainable:,} of")


@pytest.mark.parametrize(
    ("name", "n_model"),
    [("roberta-base", 124_647_170), ("roberta-large", 355_361_794), ("gpt2", 124_441_344), ("llama-7b", 6_607_351_808)],
)
def test_registered_sizes_are_the_published_models(name: str, n_model: int) -> None:
    """Llama's classifier has no output embedding: 6,738,415,616 less 32,000 x 4,096, and a head of 2 x 4,096."""
    _, config = read_config(name)
    assert count.count(config, trial(**UNREAD, method="head")).n_model == n_model


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("modules", ["default", "all-linear"])
def test_pefts_own_count_is_what_peft_prints(model_type: str, modules: str) -> None:
    chosen: Any = models.targets.default_targets(model_type) if modules == "default" else modules
    found = count.count({"model_type": model_type, **CONFIGS[model_type]}, trial(rank=2, target_modules=chosen))
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type], num_labels=2)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
        listed = chosen if isinstance(chosen, str) else list(chosen)
        if modules == "all-linear" and model_type in OTHER_LINEARS:  # there PEFT adapts the new, random module too
            listed = OTHER_LINEARS[model_type]
        wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=listed, task_type=TaskType.SEQ_CLS))
    assert found.peft is not None
    assert (found.peft.n_trainable, found.peft.n_total) == wrapped.get_nb_trainable_parameters()
    assert len(found.peft.why) == (2 if model_type == "deberta-v2" else 1)  # its new pooler stays random


@pytest.mark.parametrize("name", methods.names())
def test_counts_are_the_engines(name: str) -> None:
    loaded = load_random(RobertaConfig(**SIZES))
    read = {key: value for key, value in SETTINGS.items() if key in methods.get(name).reads}
    one = trial(**{**UNREAD, "method": name, **read})
    bank = make_bank(loaded, [one])
    found = count.count(RobertaConfig(**SIZES).to_dict(), one)
    assert (found.n_trainable, found.n_total) == (bank.n_trainable(one), bank.n_total(one))
    own = {row.name: row.shape for row in found.rows if row.trainable}
    assert own == {parameter: tuple(bank.params[parameter].shape[1:]) for parameter in bank.params.names()}


def test_folding_keeps_the_sum_and_tells_uneven_layers_apart() -> None:
    one = trial(rank=2, layers_to_transform=(0, 2))
    found = count.count({"model_type": "roberta", **CONFIGS["roberta"]}, one)
    folded = count.fold(found.rows)
    assert sum(row.n for row in folded) == found.n_total
    assert sum(row.n for row in folded if row.trainable) == found.n_trainable
    names = {row.name: row.times for row in folded}
    assert names["roberta.encoder.layer.{0-2}.attention.self.query.weight"] == 3
    assert names["roberta.encoder.layer.{0,2}.attention.self.query.A"] == 2
    assert len(folded) < len(found.rows) / 2


def test_a_language_model_has_no_classifier_unless_labels_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    """tiny-decoder: LoRA of rank 2 on its projections alone, as plain transformers and PEFT count them."""
    options = ["params", "--model", "tiny-decoder", "--ranks", "2", "--target-modules", "q_proj,v_proj"]
    assert cli.main(options) == 0
    told = capsys.readouterr().out
    assert "LlamaForCausalLM, a language model, without a classifier" in told
    assert "score" not in told
    assert "of which new head" not in told
    found = re.search(r"trainable +([\d,]+)$", told, re.MULTILINE)
    assert found is not None
    model = peft_model("tiny-decoder", rank=2, modules=["q_proj", "v_proj"])
    assert (int(found[1].replace(",", "")), f"of {model.get_nb_trainable_parameters()[1]:,}") == (
        model.get_nb_trainable_parameters()[0], re.findall(r"PEFT.*?(of [\d,]+),", told)[0],
    )  # fmt: skip
    assert cli.main([*options, "--n-labels", "3"]) == 0
    told = capsys.readouterr().out
    assert "LlamaForSequenceClassification, 3 labels" in told
    assert "of which new head 192" in told


def peft_model(name: str, *, rank: int, modules: list[str]) -> Any:
    base = AutoModelForCausalLM.from_pretrained(models.locate(name).directory)
    return get_peft_model(base, LoraConfig(r=rank, target_modules=modules, task_type="CAUSAL_LM"))


def test_a_directory_needs_nothing_but_its_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", **CONFIGS["bert"], "num_labels": 7}))
    assert cli.main(["params", "--model", str(directory), "--n-labels", "3", "--short"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mine: BertForSequenceClassification, 3 labels; lora: rank 8; target_modules query, value\n")
    assert "bert.encoder.layer.{0-2}.attention.self.value.B" in out
    assert "classifier.weight" in out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--model", "no-such/model"], "--model: must be a registered name, a directory with config.json or a Hub id"),
        (["--model", "/nowhere"], "--model: must be a registered name"),
        (["--model", "mlp"], "--model: must be a transformers model, but got 'mlp'"),
        (["--model", "roberta-base", "--method", "lorra"], "--method: must be one of the methods here"),
        (["--model", "roberta-base", "--method", "bitfit", "--rank", "4"], "--rank: must be read by the method"),
        (["--model", "roberta-base", "--rank", "4,8"], "--rank: must be one value, but got 4, 8"),
        (["--model", "roberta-base", "--rank", "0"], "must be a whole number >= 1"),
        (["--model", "roberta-base", "--method", "mora", "--rank", "9999"], "1 <= r_hat <= 768 and"),
        (["--model", "roberta-base", "--target-modules", "qery"], "target_modules: must name modules of the model"),
        (["--model", "llama-7b", "--method", "bitfit"], "method bitfit: the model must have biases"),
        (["--model", "roberta-base", "--method", "mora", "--target-modules", "word_embeddings"], "adapts Linears only"),
    ],
)
def test_bad_input_is_one_line(options: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["params", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert line in captured.err


def test_a_config_with_code_of_its_own_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "auto_map": {"AutoModel": "x.Y"}}))
    assert cli.main(["params", "--model", str(tmp_path)]) == 2
    assert "a model must not need code of its own" in capsys.readouterr().err
