"""BitFit in packs against plain transformers with requires_grad on the biases and the head only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, DebertaV2Config, GPT2Config, LlamaConfig, RobertaConfig

from bench import methods
from bench.core.errors import BadInput
from bench.core.spec import Trial
from bench.data.splits import Encoded
from bench.engine import unpadded
from bench.engine.batching import Batches
from bench.engine.layers import adapted_layers
from bench.engine.run import choose_path
from bench.models._base import LoadedModel
from tests.support.engine_helpers import budget, clone, load_random, random_data, tiny_model, trial
from tests.support.oracle import (
    CPU,
    HARD,
    Alone,
    Start,
    assert_hard,
    assert_same_course,
    make_alone,
    make_bank,
    optimizer_of,
    train_alone,
    train_pack,
)

BITFIT = methods.get("bitfit")
UNREAD = dict.fromkeys(("rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules"))
MEMBERS: list[dict[str, Any]] = [{"eta_A": 2e-3}, {"eta_A": 1e-2, "head_policy": 3e-3}, {"eta_A": 3e-2}]
GPT2 = GPT2Config(
    vocab_size=60, n_embd=16, n_layer=2, n_head=4, n_positions=40, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    initializer_range=0.2, pad_token_id=1, bos_token_id=0, eos_token_id=2, num_labels=2,
)  # fmt: skip


def bitfit(**changes: Any) -> Trial:
    return trial(**{**UNREAD, "method": "bitfit", "budget": budget(**HARD), **changes})


def model_of(kind: str) -> LoadedModel:
    torch.manual_seed(0)
    return load_random(GPT2) if kind == "gpt2" else tiny_model(kind)


def train_biases_alone(loaded: LoadedModel, split: Encoded, member: Trial, start: Start) -> Alone:
    model = clone(loaded.model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(".bias") or name in loaded.head_names)
    for name, value in start.head.items():
        model.get_parameter(name).data.copy_(value)
    return train_alone(model, split, member, optimizer_of(model, member))


@pytest.mark.parametrize(
    ("kind", "path"),
    [("roberta", "bank"), ("roberta", "unpadded"), ("bert", "bank"), ("bert", "unpadded"), ("gpt2", "bank")],
)
def test_a_pack_trains_as_transformers_alone(kind: str, path: str) -> None:
    loaded, data = model_of(kind), random_data(types=kind == "bert")
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    trials = [bitfit(**member) for member in MEMBERS]
    alone = make_alone(loaded, data, trials, train_biases_alone)
    packed = train_pack(loaded, data, trials, path=path, n_chunks=2)
    assert_hard(packed, HARD["max_grad_norm"])
    assert_same_course(packed, alone, atol=1e-10)
    assert all(torch.equal(p, before[name]) for name, p in loaded.model.named_parameters()), "the base has moved"
    for k, run in alone.items():
        for layer, own in packed.bank.adapters(k).items():
            theirs = run.model.get_parameter(f"{layer}.bias").detach()
            torch.testing.assert_close(own["bias"] + before[f"{layer}.bias"], theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("kind", "path"), [("roberta", "unpadded"), ("bert", "unpadded"), ("gpt2", "bank")])
def test_merging_equals_the_forward_pass(kind: str, path: str) -> None:
    loaded = model_of(kind)
    bank = make_bank(loaded, [bitfit(), bitfit(eta_A=0.1)])
    torch.manual_seed(1)
    bank.params.values.add_(0.1 * torch.randn_like(bank.params.values))
    chunk = Batches(random_data(types=kind == "bert").train, device=CPU).chunk(np.arange(6))
    with torch.no_grad():
        logits = choose_path(bank, path).logits(chunk)
        for k in range(2):
            torch.testing.assert_close(logits[k], merged_logits(loaded, bank, k, chunk), rtol=0, atol=1e-10)
    assert float((logits[0] - logits[1]).abs().max()) > 1e-2


def merged_logits(loaded: LoadedModel, bank: Any, k: int, chunk: Any) -> Tensor:
    """The logits of a plain model that holds trial k's head and the merged biases."""
    model = clone(loaded.model)
    for name in loaded.head_names:
        model.get_parameter(name).data.copy_(bank.params[name][k])
    for shape in bank.shapes:
        params = {name: value[None] for name, value in bank.adapters(k)[shape.path].items()}
        layer = model.get_submodule(shape.path)
        added = BITFIT.bias_delta(params, {})
        assert added is not None
        layer.bias.data.add_(added[0])
        change = BITFIT.weight_delta(params, {}, shape)[0]
        assert not change.any()
        assert change.numel() == layer.weight.numel()
    mask = chunk.padded(torch.ones_like(chunk.ids_N), 0)
    inputs = {"input_ids": chunk.padded(chunk.ids_N, 1), "attention_mask": mask}
    if chunk.type_ids_N is not None:
        inputs["token_type_ids"] = chunk.padded(chunk.type_ids_N, 0)
    logits: Tensor = model(**inputs).logits
    return logits


def test_every_bias_of_the_base_is_trained_once_and_the_head_beside() -> None:
    for kind in ("roberta", "bert", "gpt2"):
        loaded = model_of(kind)
        bank = make_bank(loaded, [bitfit()])
        own = dict(loaded.model.named_parameters())
        biases = {name for name in own if name.endswith("bias") and name not in loaded.head_names}
        assert {f"{shape.path}.bias" for shape in bank.shapes} == biases
        n_bias = sum(own[name].numel() for name in biases)
        n_head = sum(own[name].numel() for name in loaded.head_names)
        assert bank.n_trainable(bitfit()) == n_bias + n_head == bank.params.values.numel()
        assert bank.n_total(bitfit()) == sum(p.numel() for p in own.values())


def test_roberta_base_has_102_144_biases() -> None:
    """12 layers of 8,448 and the embeddings' LayerNorm of 768; 124,647,170 parameters in all."""
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(
            RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2)
        )
    head = [name for name, _ in model.named_parameters() if not name.startswith("roberta.")]
    shapes = adapted_layers(model, BITFIT, bitfit(), head)
    assert sum(p.numel() for p in model.parameters()) == 124_647_170
    assert sum(BITFIT.n_trainable(bitfit(), shape) for shape in shapes) == 102_144


def test_the_stream_is_shared_up_to_the_first_trained_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embeddings' LayerNorm is the first adapted module: its input is computed once, its output K times."""
    streams: list[int] = []
    plain = unpadded.layer_norm

    def layer_norm(x: Tensor, *args: Any) -> Tensor:
        streams.append(x.shape[0])
        return plain(x, *args)

    monkeypatch.setattr(unpadded, "layer_norm", layer_norm)
    chunk = Batches(random_data().train, device=CPU).chunk(np.arange(6))
    for one, expected in ((bitfit(), [1, 3, 3, 3, 3]), (trial(layers_to_transform=(1,)), [1, 1, 1, 3, 3])):
        streams.clear()
        bank = make_bank(tiny_model(), [one] * 3)
        choose_path(bank, "unpadded").logits(chunk)
        assert streams == expected


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (LlamaConfig, "the model must have biases"),
        (DebertaV2Config, "a table of relative positions"),
    ],
)
def test_a_model_whose_biases_cannot_be_held_is_refused(config: Any, rule: str) -> None:
    with torch.device("meta"):
        sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24}
        relative = {"relative_attention": True, "pos_att_type": ["p2c"]} if config is DebertaV2Config else {}
        model = AutoModelForSequenceClassification.from_config(
            config(**sizes, **relative, num_attention_heads=4, pad_token_id=1)
        )
    with pytest.raises(BadInput, match=rf"method bitfit.*{rule}"):
        adapted_layers(model, BITFIT, bitfit(), ["score.weight"])
