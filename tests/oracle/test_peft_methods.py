"""Every method that PEFT has, trained in a pack, against PEFT's own module and torch.optim, one trial at a time.

PEFT is given what the exported adapter holds: so the names, shapes and settings of the export are compared too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType

from bench import methods
from bench.core.spec import Trial
from bench.data.splits import Encoded
from bench.export import takeaway
from bench.methods import _inits
from bench.methods.lora import scaling
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
    optimizer_of,
    peft_model,
    train_alone,
    train_pack,
)

MODULES = ("query", "value", "dense")  # square, wide and tall layers
MEMBERS: dict[str, tuple[dict[str, Any], ...]] = {
    "dora": ({"rank": 2}, {"rank": 4, "use_rslora": True}, {"rank": 3, "init": "zero_A"}),
    "lora-fa": ({"rank": 2}, {"rank": 4, "use_rslora": True}, {"rank": 3}),
    "vera": ({"rank": 6}, {"rank": 6}, {"rank": 6}),
    "hira": ({"rank": 2}, {"rank": 4}, {"rank": 3, "init": "zero_A"}),
    "ia3": ({}, {}, {}),
    "ln-tuning": ({}, {}, {}),
}
NOT_GIVEN = ("peft_type", "inference_mode", "base_model_name_or_path")
RATES = (1e-2, 3e-2, 5e-3)


def members(name: str) -> list[Trial]:
    """Three trials of the method; fields that it does not read are None."""
    reads = methods.get(name).reads
    unread = dict.fromkeys({"rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules"} - reads)
    # PEFT's l of (IA)^3 is [O, 1], a matrix by its shape; here vectors never decay
    how = {**HARD, "weight_decay": 0.0} if name == "ia3" else HARD
    shared = {**unread, "method": name, "budget": budget(**how)}
    modules = {"target_modules": MODULES} if "target_modules" in reads else {}
    found = [trial(**{**shared, **modules, "eta_A": eta, **own}) for eta, own in zip(RATES, MEMBERS[name], strict=True)]
    return [replace(one, eta_B=one.eta_A) if "eta_B" in reads else one for one in found]


def of_peft(loaded: LoadedModel, one: Trial) -> Any:
    """Return PEFT's model with the exported adapter in it."""
    method, bank = methods.get(one.method), make_bank(loaded, [one])
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(str(method.peft_type))]
    known = takeaway.adapter_config(one, bank.shapes, loaded, base_model="")
    settings = {key: value for key, value in known.items() if key not in NOT_GIVEN}
    model = get_peft_model(clone(loaded.model), kind(**settings), autocast_adapter_dtype=False).double()
    found = set_peft_model_state_dict(model, takeaway.adapter_state(bank, loaded))
    assert not found.unexpected_keys
    return model


def train_of_peft(loaded: LoadedModel, split: Encoded, one: Trial, start: Start) -> Alone:
    model = of_peft(loaded, one)
    if one.method == "lora-fa":  # PEFT's own optimizer of that name does more than the paper
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and ".lora_A." not in name)
    return train_alone(model, split, one, optimizer_of(model, one))


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # PEFT's word on LayerNorms, which it adapts
@pytest.mark.parametrize("name", MEMBERS)
def test_a_pack_trains_as_peft_alone(name: str) -> None:
    loaded, data, trials = tiny_model(), random_data(), members(name)
    alone = make_alone(loaded, data, trials, train_of_peft)
    for path in ("bank", "unpadded"):
        packed = train_pack(loaded, data, trials, path=path)
        assert_hard(packed, HARD["max_grad_norm"])
        assert_same_course(packed, alone, atol=1e-10)


INITS = ("pissa", "olora", "milora", "nonzero")


def start_of(init: str) -> list[Trial]:
    shared: dict[str, Any] = {"init": init, "target_modules": MODULES, "budget": budget(**HARD)}
    return [trial(**shared, eta_A=eta, rank=r) for eta, r in zip((3e-3, 1e-2, 2e-3), (2, 5, 3), strict=True)]


def train_residual(loaded: LoadedModel, split: Encoded, one: Trial, start: Start) -> Alone:
    """Train PEFT's LoRA on a base from which what the factors start from was taken: PiSSA's own way."""
    base = clone(loaded.model)
    for path, own in start.adapters.items():
        base.get_submodule(path).weight.data -= scaling(one) * own["B"] @ own["A"]
    model = peft_model(replace(loaded, model=base), one, start)
    return train_alone(model, split, one, optimizer_of(model, one))


@pytest.mark.parametrize("init", INITS)
def test_an_init_that_is_taken_off_trains_as_on_a_residual_base(init: str) -> None:
    loaded, data, trials = tiny_model(), random_data(), start_of(init)
    alone = make_alone(loaded, data, trials, train_residual)
    for path in ("bank", "unpadded"):
        packed = train_pack(loaded, data, trials, path=path)
        assert_same_course(packed, alone, atol=1e-9)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_what_the_factors_start_from_is_pefts(init: str) -> None:
    """The product: the signs of singular vectors are anybody's."""
    loaded = tiny_model(dtype=torch.float32)
    (one,) = [replace(t, budget=budget(precision="fp32")) for t in start_of(init)[1:2]]
    bank = make_bank(loaded, [one])
    settings = methods.get("lora").peft_settings(one)
    assert settings["init_lora_weights"] == init
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.LORA]
    theirs = get_peft_model(clone(loaded.model), kind(**settings, target_modules=list(MODULES)))
    for path, own in bank.adapters(0).items():
        layer = theirs.get_base_model().get_submodule(path)
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        torch.testing.assert_close(own["B"] @ own["A"], product.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", ["lora", "dora"])
def test_what_is_exported_is_an_ordinary_adapter_of_twice_the_rank(name: str, init: str) -> None:
    """PEFT, which knows nothing of where it started, computes what the merged model computes."""
    if (name, init) == ("dora", "nonzero"):
        pytest.skip("one of the two is enough: magnitudes of a start that is taken off are tested with pissa")
    loaded = tiny_model()
    one = replace(start_of(init)[1], method=name, use_rslora=True)
    bank = make_bank(loaded, [one])
    torch.manual_seed(3)
    with torch.no_grad():
        bank.params.values += 0.02 * torch.randn_like(bank.params.values)
    model = clone(loaded.model)
    config = takeaway.adapter_config(one, bank.shapes, loaded, base_model="")
    assert config["r"] == 2 * (one.rank or 0)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.LORA]
    config = {key: value for key, value in config.items() if key not in NOT_GIVEN}
    theirs = get_peft_model(model, kind(**config), autocast_adapter_dtype=False).double().eval()
    assert not set_peft_model_state_dict(theirs, takeaway.adapter_state(bank, loaded)).unexpected_keys
    ids = torch.randint(4, 60, (3, 9))
    with torch.no_grad():
        expected = takeaway.merged_model(bank, loaded)(input_ids=ids).logits
        torch.testing.assert_close(theirs(input_ids=ids).logits, expected, rtol=0, atol=1e-10)


def test_one_decomposition_serves_all_trials_of_a_layer() -> None:
    loaded, trials, seen = tiny_model(), start_of("pissa"), []
    real = torch.linalg.svd
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "svd", lambda *a, **k: seen.append(a) or real(*a, **k))
        bank = make_bank(loaded, trials)
    assert len(seen) == len(bank.shapes)


def test_the_frozen_weights_are_the_same_tensors_for_every_init() -> None:
    loaded = tiny_model()
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in loaded.model.named_parameters()}
    for init in (*INITS, "zero_B"):
        bank = make_bank(loaded, start_of(init))
        for shape in bank.shapes:
            layer: Any = bank.model.get_submodule(shape.path)
            assert layer.layer.weight.data_ptr() == before[f"{shape.path}.weight"][0]
    assert all(torch.equal(p, before[name][1]) for name, p in loaded.model.named_parameters())


@pytest.mark.parametrize("init", _inits.OF_THE_WEIGHT)
def test_a_rank_above_the_smaller_side_is_refused_in_one_line(init: str) -> None:
    one = replace(start_of(init)[0], rank=17)
    with pytest.raises(Exception, match=rf"init {init} takes a rank of at most 16 for .*but got rank=17") as caught:
        make_bank(tiny_model(), [one])
    assert "\n" not in str(caught.value)


def _one(name: str, **own: Any) -> Trial:
    reads = methods.get(name).reads
    known = {"rank": 3, "lora_alpha": 6.0, "use_rslora": False, "lora_dropout": 0.0, "init": "zero_B",
             "target_modules": MODULES, "eta_B": 1e-2, "loraplus_lr_embedding": 1e-6}  # fmt: skip
    how = budget(**HARD | {"max_steps": 4, "eval_steps": 4})
    return trial(**{k: v if k in reads else None for k, v in known.items()}, method=name, budget=how, eta_A=1e-2, **own)


def _sharing() -> list[list[Trial]]:
    """Return the trials of different methods and inits that may share a pack, pack by pack."""
    names = ("lora", "lora+", "dora", "lora-fa", "hira", "pissa", "olora", "milora")
    every = [_one(name) for name in names]
    every += [replace(every[0], init=init) for init in ("zero_A", *sorted(_inits.TAKEN_OFF))]
    packs: dict[object, list[Trial]] = {}
    for one in every:
        packs.setdefault(methods.get(one.method).pack_key(one), []).append(one)
    return [members for members in packs.values() if len(members) > 1]


@pytest.mark.parametrize("members", _sharing(), ids=lambda members: "-".join(t.method for t in members))
def test_methods_that_share_a_pack_train_as_each_does_alone(members: list[Trial]) -> None:
    """Each starts as its own method says, whichever comes first: a pack's method is that of its first trial."""
    data = random_data()
    alone = [train_pack(tiny_model(), data, [one]).losses_SxK[:, 0] for one in members]
    for order in (members, members[::-1]):
        found = train_pack(tiny_model(), data, order).losses_SxK
        for k, one in enumerate(order):
            np.testing.assert_allclose(found[:, k], alone[members.index(one)], rtol=1e-10, atol=0)
    inits = {methods.get(one.method).own_init or one.init for one in members}
    assert len({tuple(np.round(losses, 12)) for losses in alone}) >= len(inits)  # they do differ
