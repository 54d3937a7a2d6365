"""A saved directory is whole: labels, tokenizer, card; PEFT and transformers load it without being told anything."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from bench import cli, models
from tests.support.exports import CLASSES, OPTIONS, decoder, four_classes, sums
from tests.support.tiny_models import save_tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))


def taken(tmp_path: Path, task: Path, model: Path, method: str, *more: str) -> Path:
    options = ["--task", str(task), "--model", str(model), "--methods", method, *OPTIONS, *more,
               "--results-dir", str(tmp_path / "results")]  # fmt: skip
    assert cli.main(["sweep", *options]) == 0
    assert cli.main(["recommend", *options, "--save", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def says(directory: Path, model: Any) -> torch.Tensor:
    """Return the probabilities that the saved model gives, by its own tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    batch = tokenizer(["a good film", "very bad .", "why ?"], padding=True, return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**batch).logits.softmax(-1)
    return found


@pytest.mark.parametrize("base", ["bare", "of five classes", "of four others"])
def test_an_adapter_of_four_classes_loads_without_being_told(tmp_path: Path, base: str) -> None:
    model = save_tiny(tmp_path / "m")
    if base != "bare":
        n = 5 if base == "of five classes" else 4
        whole = AutoModelForSequenceClassification.from_pretrained(model, num_labels=n)
        whole.config.id2label = {i: f"other {i}" for i in range(n)}
        whole.config.problem_type = "multi_label_classification"
        whole.save_pretrained(model)
    out = taken(tmp_path, four_classes(tmp_path), model, "lora")
    found = AutoPeftModelForSequenceClassification.from_pretrained(str(out))
    assert found.config.id2label == dict(enumerate(CLASSES))
    assert found.config.label2id == {name: i for i, name in enumerate(CLASSES)}
    assert found.config.problem_type is None
    probabilities = says(out, found)
    assert probabilities.shape == (3, 4)
    plain = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=4, ignore_mismatched_sizes=True), str(out)
    )
    torch.testing.assert_close(probabilities, says(out, plain))
    card = (out / "README.md").read_text(encoding="utf-8")
    for words in ('library_name: "peft"', "0 quite bad, 1 so so", "accuracy", "n = 1 seed", "stars", "LoraConfig("):
        assert words in card
    assert "base_model: " not in card.partition("# ")[0], "the metadata's base_model is a Hub id or nothing"
    assert (out / "base" / "model.safetensors").is_symlink() is (base != "of five classes")


def test_a_merged_model_names_the_task_s_classes(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    whole = AutoModelForSequenceClassification.from_pretrained(model, num_labels=4)
    whole.config.id2label = dict(enumerate(reversed(CLASSES)))
    whole.config.problem_type = "regression"
    whole.save_pretrained(model)
    out = taken(tmp_path, four_classes(tmp_path), model, "mora")
    found = AutoModelForSequenceClassification.from_pretrained(str(out))
    assert found.config.id2label == dict(enumerate(CLASSES))
    assert found.config.problem_type is None
    assert says(out, found).shape == (3, 4)
    assert "AutoModelForSequenceClassification.from_pretrained" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("method", ["lora", "mora"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_leaves_with_its_output_layer_adapted(tmp_path: Path, tied: bool, method: str) -> None:
    model = decoder(tmp_path / "m", tied=tied)
    out = taken(tmp_path, sums(tmp_path), model, method, "--target-modules", "q_proj,lm_head", "--steps", "8")
    facts = json.loads((out / "lorasweep.json").read_text(encoding="utf-8"))
    kind: Any = AutoPeftModelForCausalLM if method == "lora" else AutoModelForCausalLM
    found = kind.from_pretrained(str(out))
    assert np.exp(loss_of(found, out)) == pytest.approx(facts["metric_value"], rel=1e-4)
    before = AutoModelForCausalLM.from_pretrained(model)
    assert abs(np.exp(loss_of(before, out)) - facts["metric_value"]) > 1e-2 * facts["metric_value"]
    if method == "mora":
        assert torch.equal(found.get_input_embeddings().weight, before.get_input_embeddings().weight)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra nf4 is not installed")
def test_nothing_is_merged_into_a_base_in_4_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--task", str(sums(tmp_path)), "--model", str(decoder(tmp_path / "m", tied=False)), "--methods", "mora",
               *OPTIONS, "--base-precision", "nf4", "--results-dir", str(tmp_path / "results")]  # fmt: skip
    assert cli.main(["sweep", *options]) == 0
    assert cli.main(["recommend", *options, "--save", str(tmp_path / "out")]) == cli.BAD_INPUT
    assert "updates are not merged into a base in 4 bits, but got method mora" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def loss_of(model: Any, directory: Path) -> float:
    """Return the mean loss of the targets' tokens, with special tokens as the tokenizer puts them."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    total, n = 0.0, 0
    for prompt, target in (("good", "film"), ("bad", "plot"), ("a", "why")):
        first = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        wanted = [*tokenizer(target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([[*first, *wanted]])
        with torch.no_grad():
            logits = model.eval()(input_ids=ids).logits[0, len(first) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, len(first) :], reduction="sum"))
        n += len(wanted)
    return total / n


def test_the_base_is_found_by_its_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.commands import recommend

    located = models.Located(name="llama-7b", directory=Path("."), model_hash="", revision="abc", tokenizer_hash="",
                             config={})  # fmt: skip

    class Resolved:
        """As much of a resolved study as the name takes."""

    resolved: Any = Resolved()
    resolved.located = located
    assert recommend._base_name(resolved) == (models.get("llama-7b").hub_id, True)
