"""Target modules: PEFT's semantics, proved against PEFT on tiny random models of each architecture."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import BadInput
from bench.core.spec import TrainBudget, Trial
from bench.models import Located, check_targets
from bench.models._outline import outline
from bench.models._targets import DEFAULT_TARGETS, Candidate, candidates, default_targets, match_targets

# PEFT's own chatter on transformers 5 and Conv1D; warnings are errors here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]

_ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 20,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "roberta": _ENCODER,
    "bert": _ENCODER,
    "deberta-v2": _ENCODER,
    "electra": {**_ENCODER, "embedding_size": 12},
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 2, "vocab_size": 40},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 40, "n_positions": 20},
    "llama": {**_ENCODER, "num_key_value_heads": 1},
}
LISTS: dict[str, list[str]] = {
    "roberta": ["query", "attention.output.dense", "word_embeddings"],
    "bert": ["key", "output.dense"],
    "deberta-v2": ["key_proj", "dense"],
    "electra": ["embeddings_project", "intermediate.dense"],
    "distilbert": ["out_lin", "ffn.lin1"],
    "gpt2": ["attn.c_proj", "c_fc", "wte"],
    "llama": ["gate_proj", "embed_tokens", "o_proj"],
}
REGEXES: dict[str, str] = {
    "roberta": r".*layer\.[02]\..*\.(query|dense)",
    "bert": r"bert\.encoder\..*\.value",
    "deberta-v2": r".*\.1\..*_proj",
    "electra": r".*key",
    "distilbert": r".*lin\d",
    "gpt2": r".*h\.2\..*c_(attn|fc)",
    "llama": r".*layers\.1\..*_proj",
}


def _model(model_type: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(model_type, **CONFIGS[model_type], num_labels=2)
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


def _peft_targets(model: Any, targets: Any, layers: list[int] | None = None) -> list[str]:
    """The modules that PEFT itself gives an adapter."""
    from peft import LoraConfig, TaskType, get_peft_model

    # PEFT trains classifier and score in full by itself, but must be told of DistilBERT's and DeBERTa's further layer.
    by_itself = (model.base_model_prefix, "classifier", "score")
    children = [(name, child) for name, child in model.named_children() if name not in by_itself]
    head = [name for name, child in children if list(child.parameters())] or None
    config = LoraConfig(
        r=2, target_modules=targets, layers_to_transform=layers, task_type=TaskType.SEQ_CLS, modules_to_save=head
    )
    wrapped = get_peft_model(model, config).base_model.model
    return [name for name, module in wrapped.named_modules() if hasattr(module, "lora_A")]


def _ours(model: Any, targets: Any, layers: list[int] | None = None) -> list[str]:
    head = [name for name, _ in model.named_parameters() if not name.startswith(model.base_model_prefix)]
    return match_targets(candidates(model, head), targets, layers)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_default_targets_select_what_peft_selects(model_type: str) -> None:
    model = _model(model_type)
    ours = _ours(model, default_targets(model_type))
    # PEFT has no default for DistilBERT: there it is given ours.
    peft = _peft_targets(model, list(default_targets("distilbert")) if model_type == "distilbert" else None)
    assert ours == peft
    assert len(ours) in (3, 6)


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("layers", [None, [0], [0, 2]])
def test_lists_match_by_ending_as_in_peft(model_type: str, layers: list[int] | None) -> None:
    model = _model(model_type)
    ours = _ours(model, LISTS[model_type], layers)
    assert ours == _peft_targets(model, LISTS[model_type], layers)
    assert ours


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_string_is_a_full_match_as_in_peft(model_type: str) -> None:
    model = _model(model_type)
    ours = _ours(model, REGEXES[model_type])
    assert ours == _peft_targets(model, REGEXES[model_type])
    assert 0 < len(ours) < len(_ours(model, "all-linear"))


@pytest.mark.parametrize("model_type", CONFIGS)
def test_all_linear_is_peft_s_without_the_head(model_type: str) -> None:
    model = _model(model_type)
    ours = _ours(model, "all-linear")
    assert ours == _peft_targets(model, "all-linear")
    assert not [name for name in ours if re.search("classifier|score", name)]


def test_all_linear_leaves_the_output_embedding_alone_but_a_list_may_name_it() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **CONFIGS["llama"]))
    modules = candidates(model)
    assert "lm_head" not in match_targets(modules, "all-linear")
    assert match_targets(modules, ["lm_head"]) == ["lm_head"]


def test_a_module_named_whole_is_taken_whatever_the_layers_as_in_peft() -> None:
    model = _model("roberta")
    whole = "roberta.encoder.layer.2.attention.self.query"
    targets = [whole, "value"]
    ours = _ours(model, targets, [0])
    assert ours == ["roberta.encoder.layer.0.attention.self.value", whole]
    assert ours == _peft_targets(model, targets, [0])


def _modules() -> list[Candidate]:
    names = [f"bert.encoder.layer.{i}.{part}" for i in range(3) for part in ("query", "value", "output.dense")]
    linear = [Candidate(name=name, kind="Linear") for name in [*names, "bert.pooler.dense", "classifier"]]
    return [Candidate(name="bert.embeddings.word_embeddings", kind="Embedding"), *linear]


def test_all_linear_with_layers_keeps_those_layers() -> None:
    found = match_targets(_modules(), "all-linear", [1])
    assert found == [f"bert.encoder.layer.1.{part}" for part in ("query", "value", "output.dense")]


def test_a_newly_initialised_module_is_head_and_not_adapted() -> None:
    pooler = Candidate(name="bert.pooler.dense", kind="Linear", head=True)
    found = match_targets([*_modules()[:-2], pooler], ["dense"])
    assert found == [f"bert.encoder.layer.{i}.output.dense" for i in range(3)]


def test_a_suffix_ends_at_a_dot() -> None:
    with pytest.raises(BadInput, match="'uery'"):
        match_targets(_modules(), ["uery"])


@pytest.mark.parametrize(
    ("targets", "layers", "message"),
    [
        (["query", "keys"], None, "must name modules .*, but got 'keys'; known: dense, query, value, word_emb"),
        (["classifier"], None, "must name modules of the model, but got 'classifier'"),
        ([], None, "must select a module"),
        ("quer", None, "must select a module, but got 'quer'"),
        ("(", None, "must be a regular expression, but got '\\('"),
        (".*query", [0], "must be a list of names where layers_to_transform is given"),
        (["query"], [3], r"layers_to_transform must be in 0 .. 2, but got 3"),
        (["query"], [-1], r"layers_to_transform must be in 0 .. 2, but got -1"),
        (["query"], [], r"layers_to_transform must be in 0 .. 2, but got an empty list"),
    ],
)
def test_bad_targets_are_bad_input(targets: Any, layers: list[int] | None, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        match_targets(_modules(), targets, layers)


def test_an_architecture_without_a_default_asks_for_the_modules() -> None:
    with pytest.raises(BadInput, match="target_modules: must be given for the architecture 'mamba'"):
        default_targets("mamba")


def test_the_table_is_peft_s() -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT

    assert {name: list(targets) for name, targets in DEFAULT_TARGETS.items() if name in PEFT} == {
        name: PEFT[name] for name in DEFAULT_TARGETS if name in PEFT
    }
    assert set(DEFAULT_TARGETS) - set(PEFT) == {"albert", "distilbert"}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_outline_without_torch_is_the_model_s(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    base = AutoModel.from_config(AutoConfig.for_model(model_type, **CONFIGS[model_type]))
    base.save_pretrained(tmp_path / "bare")
    classifier = _model(model_type).to_empty(device="cpu")
    classifier.save_pretrained(tmp_path / "whole")
    expected = {m.name: m.kind for m in candidates(classifier) if m.name.startswith(f"{classifier.base_model_prefix}.")}
    for directory in ("bare", "whole"):
        located = Located(
            name="tiny",
            directory=tmp_path / directory,
            model_hash="",
            tokenizer_hash="",
            config={"model_type": model_type},
        )
        found = outline(located)
        assert found is not None
        assert {m.name: m.kind for m in found} == expected


def test_trials_with_targets_that_the_model_lacks_are_refused_before_it_is_built(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    AutoModel.from_config(AutoConfig.for_model("bert", **CONFIGS["bert"])).save_pretrained(tmp_path)
    located = Located(name="t", directory=tmp_path, model_hash="", tokenizer_hash="", config={"model_type": "bert"})
    trial = Trial(
        task="t",
        model="t",
        data_hash="",
        model_hash="",
        method="lora",
        seed=0,
        eta_A=1e-3,
        rank=2,
        init="zero_B",
        target_modules=("query",),
        budget=TrainBudget(max_steps=1, eval_steps=1),
    )
    check_targets(located, [trial, replace(trial, target_modules=None)])
    with pytest.raises(BadInput, match="must name modules of the model, but got 'q_proj'; known: dense, key, pos"):
        check_targets(located, [trial, replace(trial, target_modules=("q_proj",))])
    with pytest.raises(BadInput, match=r"layers_to_transform must be in 0 .. 2, but got 3"):
        check_targets(located, [replace(trial, layers_to_transform=(3,))])
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadInput, match=r"model\.safetensors must be whole: \d+ bytes, but got \d+"):
        check_targets(located, [trial])
