"""Bottleneck adapters, rates that fall with depth and frozen lower layers, against torch modules and torch.optim."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.errors import BadInput
from bench.core.spec import Trial
from bench.data.splits import Encoded
from bench.models._base import LoadedModel
from tests.support.engine_helpers import budget, clone, random_data, tiny_model, trial
from tests.support.oracle import (
    HARD,
    Alone,
    Start,
    assert_hard,
    assert_same_course,
    make_alone,
    make_bank,
    train_alone,
    train_pack,
)

NONE = dict.fromkeys(("rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules"))


def adapter(name: str, eta: float, *, gate: bool = False) -> Trial:
    own = {"rank": 3, "target_modules": ("output.dense",), "adapter_activation": "gelu", "adapter_gate": gate}
    return trial(**{**NONE, "method": name, "eta_A": eta, "budget": budget(**HARD), **own})


class Wrapped(nn.Module):
    """A Linear with nn.Linears behind it or beside it, as Houlsby's and He's code have them."""

    def __init__(self, layer: nn.Linear, own: dict[str, Tensor], *, behind: bool) -> None:
        super().__init__()
        self.layer, self.behind = layer.requires_grad_(False), behind
        (rank, n_in), n_out = own["down"].shape, own["up"].shape[0]
        self.down, self.up = nn.Linear(n_in, rank).double(), nn.Linear(rank, n_out).double()
        for module, name in ((self.down, "down"), (self.up, "up")):
            module.weight.data.copy_(own[name])
            module.bias.data.copy_(own[f"{name}_bias"])
        self.gate = nn.Parameter(own["gate"].double()) if "gate" in own else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        y = self.up(nn.functional.gelu(self.down(h if self.behind else x)))
        return h + (y if self.gate is None else self.gate * y)


def train_wrapped(loaded: LoadedModel, split: Encoded, one: Trial, start: Start) -> Alone:
    model = clone(loaded.model).requires_grad_(False)
    for path, own in start.adapters.items():
        parent, _, leaf = path.rpartition(".")
        wrapped = Wrapped(model.get_submodule(path), own, behind=one.method == "sequential-adapter")
        setattr(model.get_submodule(parent), leaf, wrapped)
    for name, value in start.head.items():
        model.get_parameter(name).data.copy_(value)
        model.get_parameter(name).requires_grad_()
    return train_alone(model, split, one, adamw([(p, one.eta_A) for p in model.parameters() if p.requires_grad], one))


def adamw(rated: list[tuple[nn.Parameter, float]], one: Trial) -> torch.optim.Optimizer:
    b = one.budget
    groups = [{"params": [p], "lr": lr, "weight_decay": b.weight_decay if p.ndim > 1 else 0.0} for p, lr in rated]
    return torch.optim.AdamW(groups, betas=(b.adam_beta1, b.adam_beta2), eps=b.adam_eps)


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("name", ["sequential-adapter", "parallel-adapter"])
def test_a_pack_of_adapters_trains_as_torch_modules_alone(name: str, gate: bool) -> None:
    loaded, data = tiny_model(), random_data()
    trials = [adapter(name, eta, gate=gate) for eta in (1e-2, 3e-2, 5e-3)]
    alone = make_alone(loaded, data, trials, train_wrapped)
    for path in ("bank", "unpadded"):
        packed = train_pack(loaded, data, trials, path=path)
        assert_hard(packed, HARD["max_grad_norm"])
        assert_same_course(packed, alone, atol=1e-10)


DECAYED: dict[str, dict[str, Any]] = {
    "full": {**NONE, "method": "full"},
    "full, its top layer": {**NONE, "method": "full", "layers_to_transform": (1,)},
    "lora": {"rank": 2, "target_modules": ("query", "word_embeddings")},
}


def by_depth(name: str) -> int:
    """Of the tiny model's two layers: 1 of the upper, 2 of the lower, 3 of the embeddings, 0 of what lies above."""
    layer = re.search(r"layer\.(\d)\.", name)
    return 2 - int(layer[1]) if layer else 3 * ("embeddings" in name)


def train_decayed(loaded: LoadedModel, split: Encoded, one: Trial, start: Start) -> Alone:
    from tests.support.oracle import peft_model

    if one.method == "lora":
        model = peft_model(loaded, one, start)
    else:
        model = clone(loaded.model)
        for name, value in start.head.items():
            model.get_parameter(name).data.copy_(value)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(one.layers_to_transform is None or by_depth(name) < 2)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = adamw([(p, one.eta_A * one.layer_decay ** by_depth(n)) for n, p in trained], one)
    return train_alone(model, split, one, optimizer)


@pytest.mark.parametrize("name", DECAYED)
def test_rates_that_fall_with_depth_are_those_of_parameter_groups(name: str) -> None:
    loaded, data = tiny_model(), random_data()
    cells = ((1e-3, 0.5), (3e-3, 0.9), (1e-3, 1.0))
    trials = [trial(**{"budget": budget(**HARD), "eta_A": e, "layer_decay": d, **DECAYED[name]}) for e, d in cells]
    alone = make_alone(loaded, data, trials, train_decayed)
    packed = train_pack(loaded, data, trials)
    assert_same_course(packed, alone, atol=1e-9)
    one = train_pack(loaded, data, trials[:1])  # a pack of one has its rates in another form
    assert_same_course(one, {0: alone[0]}, atol=1e-9)
    trained = {n for n, p in alone[0].model.named_parameters() if p.requires_grad}
    assert one.bank.n_trainable(trials[0]) == sum(alone[0].model.get_parameter(n).numel() for n in trained)


def test_a_norm_that_is_no_layernorm_is_refused_in_one_line() -> None:
    loaded = tiny_model()
    loaded.model.roberta.encoder.layer[0].output.LayerNorm = nn.RMSNorm(16)
    with pytest.raises(BadInput, match="every norm must be a LayerNorm") as caught:
        make_bank(loaded, [trial(**{**NONE, "method": "ln-tuning"})])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"method": "dora"}, {"method": "hira"}, {"init": "pissa"}])
def test_a_base_in_packed_bits_is_refused_in_one_line(changes: dict[str, Any]) -> None:
    loaded = tiny_model()
    layer: Any = loaded.model.roberta.encoder.layer[0].attention.self.query
    layer.weight = nn.Parameter(torch.zeros(16, 16, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(BadInput, match=r"must be numbers, but got torch.uint8|torch.uint8 at"):
        make_bank(loaded, [trial(**changes)])
