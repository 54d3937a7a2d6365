"""What the checkpoint has of a head is kept, what transformers draws anew is new; trained as PEFT's modules_to_save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

from bench import models
from bench.engine.shapes import check_shapes
from bench.models._base import LoadedModel
from tests.support.engine_helpers import budget, random_data, trial
from tests.support.oracle import (
    Alone,
    Start,
    assert_same_course,
    make_bank,
    start_values,
    train_pack,
    train_peft_alone,
)
from tests.support.tiny_models import save_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 40, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
MODERN: dict[str, Any] = {
    **SIZES, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 8,
    "global_attn_every_n_layers": 2,
}  # fmt: skip


def saved(directory: Path, model_type: str, kind: Any, **changes: Any) -> models.Located:
    """Save a random checkpoint of an architecture whose every weight and bias is its own; return it located."""
    torch.manual_seed(0)
    own = MODERN if model_type == "modernbert" else SIZES
    model = kind.from_config(AutoConfig.for_model(model_type, **{**own, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return models.locate(str(directory))


def head_values(loaded: LoadedModel, seeds: tuple[int, ...] = (0, 1)) -> dict[str, torch.Tensor]:
    """Return what each seed's trial starts from, [K, ...], by name."""
    bank = make_bank(loaded, [trial(seed=seed, target_modules="all-linear") for seed in seeds[:1]])
    others = [make_bank(loaded, [trial(seed=seed, target_modules="all-linear")]) for seed in seeds[1:]]
    return {n: torch.cat([b.params[n].detach() for b in (bank, *others)]) for n in loaded.full_names}


def classifier(directory: Path, n_labels: int = 2) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(directory, num_labels=n_labels)


CASES: dict[str, tuple[str, Any, int, set[str]]] = {  # architecture, saved as, classes of the task, what is new
    "bert-classifier": ("bert", AutoModelForSequenceClassification, 2, set()),
    "bert-other-size": ("bert", AutoModelForSequenceClassification, 3, {"classifier.weight", "classifier.bias"}),
    "roberta-other-size": ("roberta", AutoModelForSequenceClassification, 3,
                           {"classifier.out_proj.weight", "classifier.out_proj.bias"}),
    "roberta-mlm": ("roberta", AutoModelForMaskedLM, 2,
                    {f"classifier.{part}.{leaf}" for part in ("dense", "out_proj") for leaf in ("weight", "bias")}),
    "bert-mlm": ("bert", AutoModelForMaskedLM, 2,
                 {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}),
    "modernbert-mlm": ("modernbert", AutoModelForMaskedLM, 2, {"classifier.weight", "classifier.bias"}),
    "modernbert-classifier": ("modernbert", AutoModelForSequenceClassification, 2, set()),
    "distilbert-mlm": ("distilbert", AutoModelForMaskedLM, 2,
                       {f"{part}.{leaf}" for part in ("pre_classifier", "classifier") for leaf in ("weight", "bias")}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_new_is_what_transformers_draws_anew(name: str, tmp_path: Path) -> None:
    """Two loads of transformers differ in exactly the parameters that it draws."""
    model_type, kind, n_labels, new = CASES[name]
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24} if model_type == "distilbert" else {}
    located = saved(tmp_path, model_type, kind, **sizes)
    torch.manual_seed(1)
    kwargs: dict[str, Any] = {"num_labels": n_labels, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, **kwargs)
    assert new == info["missing_keys"] | {entry[0] for entry in info["mismatched_keys"]}
    loaded = models.load_model(located, n_labels)
    assert set(loaded.head_names) == new
    outside = {n for n, _ in model.named_parameters() if not n.startswith(f"{model.base_model_prefix}.")}
    assert set(loaded.full_names) == new | outside
    assert set(loaded.full_names) == {*loaded.head_names, *loaded.kept_names}
    for parameter, values in head_values(loaded).items():
        theirs = model.get_parameter(parameter)
        if parameter not in new:
            assert torch.equal(values, theirs.expand_as(values)), parameter
    weights = [values for n, values in head_values(loaded).items() if n in new and values.ndim > 2]
    assert all(not torch.equal(values[0], values[1]) for values in weights), "each seed draws its own"


@pytest.mark.parametrize(
    ("theirs", "labels", "kept"),
    [
        (None, ("negative", "positive"), True),
        ({0: "LABEL_0", 1: "LABEL_1"}, ("negative", "positive"), True),
        ({0: "NEGATIVE", 1: "Positive"}, ("negative", "positive"), True),
        ({0: "not_duplicate", 1: "duplicate"}, ("not duplicate", "duplicate"), True),
        ({0: "POSITIVE", 1: "NEGATIVE"}, ("negative", "positive"), False),
        ({0: "World", 1: "Sports"}, ("negative", "positive"), False),
        ({0: "negative", 1: "positive"}, ("0", "1"), True),
        ({0: "negative", 1: "positive"}, (), True),
    ],
)
def test_a_classifier_of_other_classes_is_not_kept(
    theirs: dict[int, str] | None, labels: tuple[str, ...], kept: bool, tmp_path: Path
) -> None:
    names = {} if theirs is None else {"id2label": theirs, "label2id": {v: k for k, v in theirs.items()}}
    located = saved(tmp_path, "roberta", AutoModelForSequenceClassification, **names)
    loaded = models.load_model(located, 2, labels=labels)
    output = {"classifier.out_proj.weight", "classifier.out_proj.bias"}
    assert set(loaded.head_names) == (set() if kept else output)
    assert set(loaded.kept_names) >= {"classifier.dense.weight", "classifier.dense.bias"}
    if labels:
        assert loaded.model.config.id2label == dict(enumerate(labels))
        assert loaded.model.config.label2id == {name: i for i, name in enumerate(labels)}


@pytest.mark.parametrize("name", ["bert-classifier", "roberta-other-size", "modernbert-mlm", "modernbert-classifier"])
def test_a_kept_head_trains_as_peft_on_the_same_checkpoint(name: str, tmp_path: Path) -> None:
    model_type, kind, n_labels, _ = CASES[name]
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    located = saved(tmp_path, model_type, kind, **({} if model_type == "modernbert" else quiet))
    loaded, data = models.load_model(located, n_labels, torch.float64), random_data()
    modules = ("Wqkv", "Wo") if model_type == "modernbert" else ("query", "value")
    few = budget(max_steps=8, eval_steps=8, max_grad_norm=0.3)
    settings: dict[str, Any] = {"budget": few, "target_modules": modules, "head_policy": "peft"}
    trials = [trial(rank=r, eta_A=eta, **settings) for r, eta in ((2, 1e-3), (4, 3e-3), (4, 1e-2))]
    starts = start_values(loaded, trials)
    own = classifier(tmp_path, n_labels) if n_labels == 2 else None
    for start in starts:
        for parameter in loaded.kept_names:
            assert own is None or torch.equal(start.head[parameter].float(), own.get_parameter(parameter))
    alone: dict[int, Alone] = {k: _alone(loaded, data, trials[k], starts[k]) for k in range(3)}
    packed = train_pack(loaded, data, trials, path="bank")
    assert np.ptp(packed.losses_SxK, axis=0).min() > 0.01
    assert_same_course(packed, alone, atol=1e-10)


def test_reinit_head_draws_for_each_seed_what_the_checkpoint_has(tmp_path: Path) -> None:
    loaded = models.load_model(saved(tmp_path, "roberta", AutoModelForSequenceClassification), 2)
    for names, members in ((set(loaded.full_names), {"reinit_head": True}), (set(), {})):
        banks = [make_bank(loaded, [trial(seed=seed, **members)]) for seed in (0, 1)]
        assert all(set(bank.new_names[0]) == names for bank in banks)
        for name in loaded.full_names:
            first, second = (bank.params[name][0].detach() for bank in banks)
            own = loaded.model.get_parameter(name)
            assert torch.equal(first, own) is (not names)
            assert torch.equal(first, second) is (not names or first.ndim == 1)
    mixed = make_bank(loaded, [trial(reinit_head=True), trial()])
    alone = make_bank(loaded, [trial(reinit_head=True)])
    for name in loaded.full_names:
        assert torch.equal(mixed.params[name][0], alone.params[name][0])
        assert torch.equal(mixed.params[name][1], loaded.model.get_parameter(name))


@pytest.mark.parametrize("name", CASES)
def test_the_plan_tells_what_loading_finds(name: str, tmp_path: Path) -> None:
    model_type, kind, n_labels, _ = CASES[name]
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24} if model_type == "distilbert" else {}
    located = saved(tmp_path, model_type, kind, **sizes)
    loaded = models.load_model(located, n_labels)
    labels = tuple("abcdef"[:n_labels])
    found = check_shapes(located, [trial(target_modules="all-linear")], labels=labels)
    _, _, head = found.partition("; head new: ")
    told, _, kept = head.partition("; kept: ")
    assert told == (", ".join(loaded.head_names) or "nothing")
    assert kept == ", ".join(loaded.kept_names)
    again = check_shapes(located, [trial(target_modules="all-linear", reinit_head=True)], labels=labels)
    assert again.endswith(f"; head new: {', '.join(loaded.full_names)}")


def _alone(loaded: LoadedModel, data: Any, member: Any, start: Start) -> Alone:
    return train_peft_alone(loaded, data.train, member, start)


def test_a_config_without_these_tokens_takes_the_tokenizer_s(tmp_path: Path) -> None:
    sizes = {"embedding_size": 8, "intra_bottleneck_size": 16}
    located = saved(tmp_path, "mobilebert", AutoModelForMaskedLM, **sizes)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "eos_token_id" not in config
    assert models.load_model(located, 2).model.config.pad_token_id == 0
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    assert models.load_model(models.locate(str(tmp_path)), 2).model.config.pad_token_id == 0


def test_a_multimodal_config_keeps_its_tokens_with_its_text_part(tmp_path: Path) -> None:
    text = {
        "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8,
        "num_key_value_heads": 1, "intermediate_size": 24, "pad_token_id": None, "eos_token_id": 3, "bos_token_id": 2,
    }  # fmt: skip
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = Gemma3Config(
        text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14}, mm_tokens_per_image=4,
        eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    located = models.locate(str(tmp_path))
    loaded = models.load_model(located, 2)
    assert loaded.model.config.pad_token_id == 3
    assert loaded.model.config.get_text_config().pad_token_id == 3
    assert models.load_causal_lm(located).model.config.get_text_config().pad_token_id == 3
