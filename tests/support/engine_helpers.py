"""Small random models and data for the engine's tests, and trials over them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, RobertaConfig
from transformers.utils import logging as transformers_logging

from bench import methods
from bench.core.spec import TrainBudget, Trial
from bench.data.splits import Encoded, EncodedData
from bench.models._base import LoadedModel

transformers_logging.set_verbosity_error()

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "num_labels": 2,
}


def tiny_model(
    kind: str = "roberta", *, dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any
) -> LoadedModel:
    """A random classifier of a few thousand weights."""
    torch.manual_seed(seed)
    config = {"roberta": RobertaConfig, "bert": BertConfig}[kind](**{**SIZES, **changes})
    return load_random(config, dtype)


def load_random(config: Any, dtype: torch.dtype = torch.float64) -> LoadedModel:
    model = AutoModelForSequenceClassification.from_config(config).to(dtype).eval()
    inside = {id(p) for p in model.base_model.parameters()}
    head = tuple(name for name, p in model.named_parameters() if id(p) not in inside)
    return LoadedModel(model=model, head_names=head)


def random_split(n: int, *, seed: int, vocab_size: int = 60, longest: int = 14, types: bool = False) -> Encoded:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, n)
    n_tokens = int(lengths.sum())
    ids = rng.integers(3, vocab_size, n_tokens).astype(np.int32)
    return Encoded(
        ids=ids,
        type_ids=rng.integers(0, 2, n_tokens).astype(np.int8) if types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=rng.integers(0, 2, n),
        index=np.arange(n),
    )


def random_data(*, n_train: int = 50, n_eval: int = 30, types: bool = False, vocab_size: int = 60) -> EncodedData:
    kwargs: dict[str, Any] = {"types": types, "vocab_size": vocab_size}
    return EncodedData(
        train=random_split(n_train, seed=1, **kwargs),
        select=random_split(12, seed=2, **kwargs),
        eval=random_split(n_eval, seed=3, **kwargs),
        n_labels=2,
        metric="accuracy",
        data_hash="0" * 16,
    )


def budget(**changes: Any) -> TrainBudget:
    return replace(TrainBudget(max_steps=60, batch_size=8, eval_steps=20, precision="fp64"), **changes)


def trial(**changes: Any) -> Trial:
    """A LoRA trial on query and value; give method= and what it reads for another."""
    settings: dict[str, Any] = {
        "task": "t", "model": "m", "data_hash": "d", "model_hash": "h", "method": "lora", "seed": 0, "eta_A": 1e-3,
        "rank": 4, "lora_alpha": 8.0, "use_rslora": False, "lora_dropout": 0.0, "init": "zero_B",
        "target_modules": ("query", "value"), "budget": budget(),
    }  # fmt: skip
    settings.update(changes)
    if settings["method"] in ("lora", "lora+") and settings.get("eta_B") is None:
        settings["eta_B"] = settings["eta_A"]
    return Trial(**settings)


# A value of every setting that a method may read.
VALUES: dict[str, Any] = {
    "rank": 2, "lora_alpha": 5.0, "use_rslora": False, "lora_dropout": 0.1, "init": "zero_B",
    "target_modules": ("query",), "mora_type": 6, "mora_rounding": "floor", "adapter_activation": "relu",
    "adapter_gate": False,
}  # fmt: skip


def member(name: str, **changes: Any) -> Trial:
    """Return a trial of the method: what it reads is set, the rest is None."""
    reads = methods.get(name).reads
    return trial(**{key: value if key in reads else None for key, value in VALUES.items()} | {"method": name} | changes)


def clone(model: torch.nn.Module) -> Any:
    return copy.deepcopy(model)
