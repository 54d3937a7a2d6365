"""Decoders as sequence classifiers: GPT-2, Llama, Qwen2, Qwen3 and OPT in packs against PEFT, one trial at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from bench import models
from bench.core.errors import BadInput
from bench.engine.batching import Batches
from bench.engine.paths import BankPath, settle_masks
from bench.models import targets
from bench.models._base import LoadedModel
from bench.models._targets import ALL_LINEAR
from tests.support.decoders import DECODERS, MEMBERS, PACK, config_of
from tests.support.engine_helpers import budget, load_random, random_data, trial
from tests.support.mask_oracle import train_peft_with_masks
from tests.support.oracle import (
    CPU,
    assert_hard,
    assert_same_course,
    make_alone,
    make_bank,
    train_pack,
    train_peft_alone,
)
from tests.support.tiny_models import save_tokenizer


def decoder(model_type: str, dropout: float = 0.0) -> LoadedModel:
    """A random decoder in float64; transformers' RMSNorm, which computes in float32 whatever it is given, too."""
    torch.manual_seed(0)
    loaded = load_random(config_of(model_type, dropout))
    for name, module in list(loaded.model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            parent, _, leaf = name.rpartition(".")
            norm = nn.RMSNorm(module.weight.shape[0], eps=module.variance_epsilon, dtype=torch.float64)
            norm.weight.data.copy_(module.weight.data)
            setattr(loaded.model.get_submodule(parent), leaf, norm)
    return loaded


@pytest.mark.parametrize("modules", ["default", ALL_LINEAR])
@pytest.mark.parametrize("model_type", DECODERS)
def test_a_pack_trains_as_peft_alone(model_type: str, modules: str) -> None:
    loaded, data = decoder(model_type), random_data()
    chosen = ALL_LINEAR if modules == ALL_LINEAR else targets.default_targets(model_type)
    trials = [trial(budget=budget(**PACK), target_modules=chosen, **member) for member in MEMBERS]
    alone = make_alone(loaded, data, trials, train_peft_alone)
    packed = train_pack(loaded, data, trials, n_chunks=2)
    assert loaded.head_names == ("score.weight",)
    assert_hard(packed, PACK["max_grad_norm"])
    assert_same_course(packed, alone, atol=1e-10)


def test_the_modules_that_gpt2_is_adapted_at_in_the_lora_plus_paper() -> None:
    loaded, data = decoder("gpt2"), random_data()
    modules = ("c_attn", "c_proj", "c_fc")  # Conv1D all of them; c_proj in attention and in the MLP
    trials = [trial(budget=budget(**PACK), target_modules=modules, head_policy="peft", **m) for m in MEMBERS]
    packed = train_pack(loaded, data, trials, n_chunks=2)
    assert len(packed.bank.shapes) == 2 * 4
    assert {shape.kind for shape in packed.bank.shapes} == {"conv1d"}
    assert_same_course(packed, make_alone(loaded, data, trials, train_peft_alone), atol=1e-10)


def test_a_rank_above_a_layer_s_width_trains_as_peft_alone() -> None:
    """Grouped-query attention: v_proj gives 8 features of 16. A and B are as large as asked, and one pack holds all."""
    loaded, data = decoder("llama"), random_data()
    ranks = (4, 12, 20)  # below both sides of v_proj, between them, above both
    trials = [trial(budget=budget(**PACK), target_modules=("q_proj", "v_proj"), rank=r, eta_A=4e-3) for r in ranks]
    packed = train_pack(loaded, data, trials, n_chunks=2)
    assert_same_course(packed, make_alone(loaded, data, trials, train_peft_alone), atol=1e-10)
    shapes = {shape.path.rpartition(".")[2]: (shape.in_features, shape.out_features) for shape in packed.bank.shapes}
    assert shapes == {"q_proj": (16, 16), "v_proj": (16, 8)}
    assert packed.bank.n_trainable(trials[2]) == 2 * 20 * (32 + 24) + 32


@pytest.mark.parametrize("model_type", DECODERS)
def test_with_dropout_a_pack_trains_as_peft_alone_with_the_same_masks(model_type: str) -> None:
    """OPT drops by function calls, which are keyed as well; the others by modules and in attention."""
    loaded, data = decoder(model_type, dropout=0.2), random_data()
    trials = [trial(budget=budget(**PACK), target_modules=ALL_LINEAR, **member) for member in MEMBERS]
    functional = model_type == "opt"
    alone = make_alone(loaded, data, trials, lambda *a: train_peft_with_masks(*a, functional=functional))
    packed = train_pack(loaded, data, trials, n_chunks=2)
    assert packed.bank.keyed_calls == functional
    assert not packed.bank.only_keyed_masks
    assert_same_course(packed, alone, atol=1e-10)
    without = train_pack(decoder(model_type), data, trials, n_chunks=2)
    assert np.abs(without.losses_SxK - packed.losses_SxK).max() > 1e-3, "the masks do nothing"


def test_adapter_dropout_on_flattened_rows_does_not_depend_on_pack_or_chunks() -> None:
    """OPT's MLP sees [K * b * T, d]: each token still draws the mask of its example and position."""
    loaded, split = decoder("opt", dropout=0.2), Batches(random_data().train, device=CPU)
    found = {}
    places = np.arange(6)
    for n_trials, parts in ((1, [places]), (3, [places]), (3, [places[:1], places[1:3], places[3:]])):
        members = [trial(lora_dropout=0.3, init="zero_A", target_modules=("fc1", "fc2"))] * n_trials
        bank = make_bank(loaded, members)
        for name in bank.params.names():
            if name.endswith(".A"):
                bank.params.trained(name).data.add_(0.1)
        way = BankPath(bank)
        settle_masks(bank, way, split.chunk(places[:2]))
        with torch.no_grad(), bank.training():
            found[n_trials, len(parts)] = torch.cat([way.logits(split.chunk(part)) for part in parts], dim=1)
    reference = found[1, 1][0]
    for logits in found.values():
        torch.testing.assert_close(logits, reference.expand_as(logits), rtol=0, atol=1e-12)


@pytest.mark.parametrize("model_type", DECODERS)
def test_the_last_token_is_what_classifies_whatever_the_padding(model_type: str) -> None:
    """An example alone, without padding, has the logits it has beside longer ones."""
    bank = make_bank(decoder(model_type), [trial(target_modules=targets.default_targets(model_type))])
    split, path = Batches(random_data().train, device=CPU), BankPath(bank)
    places = np.argsort(split.lengths)[[0, 20, 49]]
    with torch.no_grad():
        together = path.logits(split.chunk(places))[0]
        apart = torch.cat([path.logits(split.chunk(places[i : i + 1]))[0] for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)
    assert float((apart[0] - apart[1]).abs().max()) > 1e-3


def save_decoder(directory: Path, model_type: str, **changes: Any) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(config_of(model_type)).save_pretrained(directory)
    save_tokenizer(directory, model_type)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    return directory


@pytest.mark.parametrize("model_type", [name for name in DECODERS if name != "opt"])  # OPT has one by default
def test_a_checkpoint_without_padding_token_gets_its_end_token(model_type: str, tmp_path: Path) -> None:
    located = models.locate(str(save_decoder(tmp_path / model_type, model_type, pad_token_id=None)))
    trials = [trial(target_modules=targets.default_targets(model_type))]
    models.check_targets(located, trials)
    loaded = models.load_model(located, 3)
    assert loaded.head_names == ("score.weight",)
    assert loaded.model.score.weight.shape == (3, 16)
    assert loaded.model.config.pad_token_id == 2
    assert not loaded.model.config.use_cache
    split = Batches(random_data().train, device=CPU)
    with torch.no_grad():
        logits = BankPath(make_bank(loaded, trials)).logits(split.chunk(np.arange(4)))
    assert logits.isfinite().all()


@pytest.mark.parametrize(("ends", "pad", "found"), [([7, 9], None, 7), (2, 5, 5), (2, -1, 2)])
def test_which_token_pads(ends: object, pad: int | None, found: int, tmp_path: Path) -> None:
    located = models.locate(str(save_decoder(tmp_path / "m", "llama", pad_token_id=pad, eos_token_id=ends)))
    assert models.load_model(located, 2).model.config.pad_token_id == found


def test_a_model_without_padding_and_end_token_is_refused(tmp_path: Path) -> None:
    place = save_decoder(tmp_path / "m", "gpt2", pad_token_id=None, eos_token_id=None)
    located = models.locate(str(place))
    assert models.load_model(located, 2).model.config.pad_token_id == 1, "the tokenizer's own"
    (place / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(BadInput, match=r"padding or an end token.*add pad_token_id"):
        models.load_model(located, 2)
