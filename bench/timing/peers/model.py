"""The model of a throughput run: a located one, or its shapes with random weights where its files are out of reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench import models
from bench.core.errors import BadInput
from bench.models import LoadedModel, Located

# config.json of the published checkpoints: a random model costs what the real one costs.
_ROBERTA: Mapping[str, Any] = {
    "model_type": "roberta", "vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1,
    "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02,
}  # fmt: skip
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "roberta-base": {
        **_ROBERTA, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    },
    "roberta-large": {
        **_ROBERTA, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    },
}  # fmt: skip
# A decoder for the speed of decoders: 9.4 M weights in its layers, 12.3 M in a head of its own.
_LLAMA_22M: Mapping[str, Any] = {
    "model_type": "llama", "vocab_size": 32_000, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 1024, "max_position_embeddings": 2048,
    "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DECODERS: Mapping[str, Mapping[str, Any]] = {"llama-22m": _LLAMA_22M}
TOKENIZERS = ("minilm", "tiny-roberta")  # of models that need no network, the first that is there


def config_of(name: str) -> dict[str, Any]:
    """Return the configuration of a model whose weights will be random: a known shape, or a located model's own."""
    known = {**SHAPES, **DECODERS}
    return dict(known[name]) if name in known else dict(models.locate(name, where="--model").config)


def random_model(config: Mapping[str, Any], n_labels: int, *, seed: int = 0) -> LoadedModel:
    """Return a classifier of this configuration with random weights, float32, on the CPU; other draws are untouched.

    Without labels it is a causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    settings = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    more = {"num_labels": n_labels} if n_labels else {"use_cache": False}
    built = AutoConfig.for_model(config["model_type"], **{**settings, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = AutoModelForSequenceClassification if n_labels else AutoModelForCausalLM
        model = kind.from_config(built).float().eval()
    if not n_labels:
        return LoadedModel(model=model, head_names=())
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    head = tuple(name for name, parameter in model.named_parameters() if id(parameter) not in inside)
    return LoadedModel(model=model, head_names=head)


def products_of(model: Any) -> tuple[int, int]:
    """Return the weights in matrix products for each token of a causal language model, and those of its head."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    return sum(layer.weight.numel() for layer in layers), int(head.weight.numel())


def tokenizer_of(name: str, config: Mapping[str, Any]) -> Located:
    """Return the model whose tokenizer makes the token ids: its own, else the first of TOKENIZERS that is there.

    Raises:
        BadInput: where its vocabulary is larger than the model's.
    """
    found = (
        _first(TOKENIZERS)
        if name in SHAPES
        else models.locate("tiny-decoder")
        if name in DECODERS
        else models.locate(name, where="--model")
    )
    if int(found.config["vocab_size"]) > int(config["vocab_size"]):
        got = f"{found.config['vocab_size']} of {found.name}, {config['vocab_size']} of {name}"
        way_out = "choose another --model, or one with its own files"
        raise BadInput("--random-weights", "the vocabulary must hold the tokenizer's ids", got=got, way_out=way_out)
    return found


def _first(names: tuple[str, ...]) -> Located:
    for name in names[:-1]:
        try:
            return models.locate(name)
        except BadInput:  # an optional extra that is not installed
            continue
    return models.locate(names[-1])
