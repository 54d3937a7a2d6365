"""Trials trained in a pack against the same trials trained alone with PEFT, or plain transformers, and torch.optim."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DebertaV2Config, DistilBertConfig, ElectraConfig

from bench.core.spec import Trial
from bench.data.splits import Encoded, EncodedData
from bench.models import load_model, locate, targets
from bench.models._base import LoadedModel
from tests.support.engine_helpers import budget, clone, load_random, random_data, tiny_model, trial
from tests.support.mora_oracle import train_mora_alone
from tests.support.oracle import (
    Alone,
    Start,
    assert_hard,
    assert_same_course,
    make_alone,
    optimizer_of,
    train_alone,
    train_pack,
    train_peft_alone,
)

HARD: dict[str, Any] = {  # everything on that could hide an error; 8 does not divide the 50 examples
    "max_steps": 20, "batch_size": 8, "max_grad_norm": 0.3, "warmup_steps": 7, "weight_decay": 0.1,
    "lr_scheduler_type": "linear", "adam_beta2": 0.99, "adam_eps": 1e-6, "eval_steps": 20,
}  # fmt: skip
MEMBERS: list[dict[str, Any]] = [
    {"rank": 2, "eta_A": 1e-3},
    {"rank": 4, "eta_A": 3e-3, "use_rslora": True},
    {"rank": 8, "eta_A": 2e-2, "lora_alpha": 16.0},
    {"rank": 4, "eta_A": 5e-4, "eta_B": 8e-3, "method": "lora+"},
    {"rank": 8, "eta_A": 1e-4, "eta_B": 6.4e-3, "method": "lora+"},
    {"rank": 3, "eta_A": 2e-3, "eta_B": 4e-3, "method": "lora+", "init": "zero_A"},
]
# Model, head policy of each member, adapted modules, and which members of the pack of six are trained alone as well.
# "dense" adapts every Linear but q, k and v: wide and tall layers too.
MIXED: tuple[str | float, ...] = ("eta_A", 3e-3, "peft", "peft", "eta_A", 1e-3)
SETUPS: dict[str, tuple[str, tuple[str | float, ...], tuple[str, ...], tuple[int, ...]]] = {
    "roberta": ("roberta", MIXED, ("query", "value", "dense"), (0, 1, 2, 3, 4, 5)),
    "roberta-paper": ("roberta", ("paper",) * 6, ("query", "value"), (2, 4)),
    "bert": ("bert", ("peft",) * 6, ("query", "value"), (0, 3, 5)),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pack, and some of its members trained alone: once, for every engine path."""

    loaded: LoadedModel
    data: EncodedData
    trials: tuple[Trial, ...]
    alone: dict[int, Alone]


@functools.cache
def lora_case(name: str) -> Case:
    kind, head_policies, modules, compared = SETUPS[name]
    loaded, data = tiny_model(kind), random_data(types=kind == "bert")
    pairs = zip(MEMBERS, head_policies, strict=True)
    trials = [trial(budget=budget(**HARD), head_policy=h, target_modules=modules, **m) for m, h in pairs]
    alone = make_alone(loaded, data, trials, train_peft_alone, compared)
    return Case(loaded=loaded, data=data, trials=tuple(trials), alone=alone)


@pytest.mark.parametrize("path", ["bank", "unpadded", "filled"])
@pytest.mark.parametrize("name", SETUPS)
def test_lora_pack_trains_as_peft_alone(name: str, path: str) -> None:
    case = lora_case(name)
    packed = train_pack(case.loaded, case.data, case.trials, path=path)
    assert_hard(packed, HARD["max_grad_norm"])
    assert_same_course(packed, case.alone, atol=1e-10)


def test_final_weights_are_those_of_peft_alone() -> None:
    case = lora_case("bert")
    packed = train_pack(case.loaded, case.data, case.trials)
    for k, run in case.alone.items():
        own = dict(run.model.named_parameters())
        for path, weights in packed.bank.adapters(k).items():
            for leaf, mine in weights.items():
                theirs = own[f"base_model.model.{path}.lora_{leaf}.default.weight"]
                torch.testing.assert_close(mine, theirs.detach(), rtol=0, atol=1e-9)


def test_oracle_would_notice_a_small_error() -> None:
    """The tolerance is tight enough to see a learning rate that is off by one part in a million."""
    case = lora_case("roberta-paper")
    packed = train_pack(case.loaded, case.data, [replace(t, eta_A=t.eta_A * (1 + 1e-6)) for t in case.trials])
    for k, run in case.alone.items():
        assert np.abs(packed.losses_SxK[:, k] - run.losses_S).max() > 1e-10


@pytest.mark.parametrize("mora_type", [1, 3, 6])
def test_mora_pack_trains_as_mora_alone(mora_type: int) -> None:
    loaded, data = tiny_model("roberta"), random_data()
    modules = ("value", "intermediate.dense", "output.dense")  # square, wide and tall
    etas = (1e-3, 3e-3, 1e-2, 5e-4, 2e-3, 6e-3)
    trials = [mora_trial(eta_A=eta, mora_type=mora_type, target_modules=modules) for eta in etas]
    alone = make_alone(loaded, data, trials, train_mora_alone, (0, 2) if mora_type == 3 else (0, 2, 5))
    for path in ("bank", "unpadded", "filled"):
        packed = train_pack(loaded, data, trials, path=path)
        assert_hard(packed, HARD["max_grad_norm"])
        assert_same_course(packed, alone, atol=1e-10)


def mora_trial(**changes: Any) -> Trial:
    """A MoRA trial: no alpha, no init and no eta_B, which it does not read."""
    unread = {"lora_alpha": None, "use_rslora": None, "init": None, "eta_B": None}
    settings = {"method": "mora", "mora_type": 6, "mora_rounding": "floor", "rank": 3, "budget": budget(**HARD)}
    return trial(**{**unread, **settings, **changes})


@pytest.mark.parametrize(
    ("kind", "path"), [("roberta", "bank"), ("roberta", "unpadded"), ("bert", "unpadded"), ("bert", "filled")]
)
def test_full_fine_tuning_trains_as_transformers_alone(kind: str, path: str) -> None:
    loaded, data = tiny_model(kind), random_data(types=kind == "bert")
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    member = full_trial(eta_A=2e-3)
    alone = make_alone(loaded, data, [member], train_full_alone)
    packed = train_pack(loaded, data, [member], path=path)
    assert_hard(packed, HARD["max_grad_norm"])
    assert_same_course(packed, alone, atol=1e-10)
    assert all(torch.equal(p, before[name]) for name, p in loaded.model.named_parameters()), "the base is not shared"


def full_trial(**changes: Any) -> Trial:
    """A trial of full fine-tuning: nothing of an adapter."""
    unread = dict.fromkeys(("rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules", "eta_B"))
    return trial(**{"method": "full", "budget": budget(**HARD), **unread, **changes})


def train_full_alone(loaded: LoadedModel, split: Encoded, member: Trial, start: Start) -> Alone:
    model = clone(loaded.model)
    model.requires_grad_(True)
    for name, value in start.head.items():
        model.get_parameter(name).data.copy_(value)
    return train_alone(model, split, member, optimizer_of(model, member))


def test_embedding_adapters_train_as_peft_alone() -> None:
    loaded, data = tiny_model("roberta"), random_data()
    shared = {"budget": budget(**HARD), "target_modules": ("word_embeddings", "query", "value")}
    members: list[dict[str, Any]] = [
        {"rank": 2, "eta_A": 1e-3}, {"rank": 4, "eta_A": 4e-3, "init": "zero_A"},
        {"rank": 3, "eta_A": 1e-3, "eta_B": 1.6e-2, "method": "lora+", "loraplus_lr_embedding": 2e-3},
    ]  # fmt: skip
    for policy, own in (("eta_A", members[:2]), ("peft", members[2:])):
        trials = [trial(head_policy=policy, **shared, **m) for m in own]
        alone = make_alone(loaded, data, trials, train_peft_alone)
        for path in ("bank", "unpadded"):
            packed = train_pack(loaded, data, trials, path=path)
            assert_hard(packed, HARD["max_grad_norm"])
            assert_same_course(packed, alone, atol=1e-10)


SMALL: dict[str, Any] = {"vocab_size": 60, "num_labels": 2, "initializer_range": 0.2}
FEW = {**HARD, "max_steps": 8, "warmup_steps": 2, "eval_steps": 8}
ARCHITECTURES: dict[str, Any] = {
    "distilbert": DistilBertConfig(
        **SMALL, dim=16, n_layers=2, n_heads=4, hidden_dim=24, max_position_embeddings=40, dropout=0.0,
        attention_dropout=0.0, seq_classif_dropout=0.0,
    ),
    "deberta-v2": DebertaV2Config(
        **SMALL, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, type_vocab_size=0,
        max_position_embeddings=40, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
        share_att_key=True, norm_rel_ebd="layer_norm", position_buckets=8, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, pooler_dropout=0.0, pooler_hidden_size=16,
    ),
    "electra": ElectraConfig(
        **SMALL, embedding_size=12, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_other_architectures_train_as_peft_alone(model_type: str) -> None:
    torch.manual_seed(0)
    loaded, data = load_random(ARCHITECTURES[model_type]), random_data(types=model_type == "electra")
    shared = {"budget": budget(**FEW), "target_modules": targets.default_targets(model_type)}
    trials = [trial(**shared, **member) for member in MEMBERS[1:4]]
    alone = make_alone(loaded, data, trials, train_peft_alone)
    packed = train_pack(loaded, data, trials, path="bank")
    assert_same_course(packed, alone, atol=1e-10)


def shipped_weights() -> bool:
    """Whether this checkout holds tiny-roberta's weights."""
    from bench.core.errors import BadInput

    try:
        locate("tiny-roberta")
    except BadInput:
        return False
    return True


@pytest.mark.skipif(not shipped_weights(), reason="tiny-roberta's weights are not in this checkout")
@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-5), ("fp64", 1e-10)])
def test_pack_on_tiny_roberta_trains_as_peft_alone(precision: str, atol: float) -> None:
    loaded = silent(load_model(locate("tiny-roberta"), 2, torch.float64 if precision == "fp64" else torch.float32))
    data = random_data(vocab_size=200)
    hard = budget(**{**HARD, "precision": precision})
    trials = [trial(budget=hard, **member) for member in MEMBERS]
    if precision == "fp32":  # at unstable rates float order alone moves float32 losses by more than 1e-5
        trials = [replace(t, eta_A=t.eta_A / 5, eta_B=(t.eta_B or 0) / 5) for t in trials]
    alone = make_alone(loaded, data, trials, train_peft_alone)
    for path in ("bank", "unpadded"):
        packed = train_pack(loaded, data, trials, path=path)
        assert_hard(packed, HARD["max_grad_norm"])
        for k, run in alone.items():
            np.testing.assert_allclose(packed.losses_SxK[:, k], run.losses_S, rtol=0, atol=atol)


def silent(loaded: LoadedModel) -> LoadedModel:
    """The same model with every dropout probability 0: PEFT's own masks have no keys."""
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return loaded
