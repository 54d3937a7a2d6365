"""What every file of bench/engine/optimizers/ must hold: torch.optim's update for each trial, its state, its bytes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from bench.core import keys
from bench.core.errors import BadInput
from bench.core.spec import TrainBudget
from bench.engine import optimizers
from bench.engine.optim import Optimizer, schedule_factor
from bench.engine.params import ParamBank, Slot
from bench.engine.scaling import SkippingOptimizer
from bench.methods._base import Role, rate_of
from bench.schedule import planner
from tests.support.engine_helpers import budget, trial
from tests.support.oracle import CPU

# What each optimizer equals. A new file needs its line here: correctness is shown against code of somebody else.
TORCH: dict[str, Callable[[list[dict[str, Any]], TrainBudget], torch.optim.Optimizer]] = {
    "adamw": lambda groups, b: torch.optim.AdamW(
        groups, betas=(b.adam_beta1, b.adam_beta2), eps=b.adam_eps, weight_decay=b.weight_decay
    ),
    "sgd": lambda groups, b: torch.optim.SGD(groups, momentum=b.momentum),
    "muon": lambda groups, b: MuonAndAdamW(groups, b),
}


class MuonAndAdamW:
    """torch.optim.Muon for matrices, its iteration in float64 instead of bfloat16; AdamW for the rest."""

    def __init__(self, groups: list[dict[str, Any]], b: TrainBudget) -> None:
        muon = {"adjust_lr_fn": "match_rms_adamw", "weight_decay": b.weight_decay, "momentum": b.muon_momentum}
        self.all = [
            torch.optim.Muon([g], **muon) if g["params"][0].ndim == 2 else TORCH["adamw"]([g], b) for g in groups
        ]
        self.param_groups = [one.param_groups[0] for one in self.all]

    def step(self) -> None:
        with mock.patch.object(torch.Tensor, "bfloat16", lambda tensor: tensor.clone()):
            for one in self.all:
                one.step()


SHAPES = {"A": (Role.A, (2, 5)), "B": (Role.B, (4, 2)), "bias": (Role.HEAD_BIAS, (3,))}
TRIALS = [  # ragged: no two rates are equal
    trial(eta_A=1e-2, eta_B=0.16, method="lora+", loraplus_lr_embedding=1e-6, head_policy=0.07),
    trial(eta_A=3e-2, head_policy=0.05),
    trial(eta_A=5e-3, eta_B=2e-2, method="lora+", loraplus_lr_embedding=1e-6, head_policy=0.013),
]
ALL = torch.ones(3, dtype=torch.bool)
KINDS = [Optimizer, SkippingOptimizer]
every_optimizer = pytest.mark.parametrize("name", [*optimizers.names(), "sgd with momentum"])
every_kind = pytest.mark.parametrize("kind", KINDS)


def a_budget(name: str, **changes: Any) -> TrainBudget:
    if name == "sgd with momentum":
        return a_budget("sgd", momentum=0.9, **changes)
    decay = 0.1 if name in ("adamw", "muon") else 0.0  # torch.optim.SGD couples its decay; ours is decoupled for all
    hard = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_eps": 1e-3, "weight_decay": decay, "warmup_steps": 3}
    return budget(**{"max_steps": 12, "optimizer": name, "max_grad_norm": None, **hard, **changes})


def a_bank(dtype: torch.dtype = torch.float64) -> ParamBank:
    generator = torch.Generator().manual_seed(0)
    slots = [
        Slot(name=n, role=role, values=torch.randn(3, *size, dtype=dtype, generator=generator))
        for n, (role, size) in SHAPES.items()
    ]
    return ParamBank(slots, n_trials=3, device=CPU, dtype=dtype)


def set_gradients(bank: ParamBank, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    bank.zero_grad()
    bank.grads.copy_(
        torch.randn(bank.grads.shape, dtype=bank.grads.dtype, generator=generator) * 10.0 ** (step % 5 - 2)
    )


def rows(bank: ParamBank, k: int) -> dict[str, Tensor]:
    return {name: bank[name][k].detach().clone() for name in SHAPES}


@every_kind
@every_optimizer
def test_each_trial_is_updated_as_torch_optim_does_alone(name: str, kind: type[Optimizer]) -> None:
    b, bank = a_budget(name), a_bank()
    optimizer = kind(bank, TRIALS, b)
    alone = [{n: nn.Parameter(value) for n, value in rows(bank, k).items()} for k in range(3)]
    rates = [{n: rate_of(role, member) for n, (role, _) in SHAPES.items()} for member in TRIALS]
    theirs = [
        TORCH[b.optimizer]([{"params": [p], **({} if p.ndim > 1 else {"weight_decay": 0.0})} for p in own.values()], b)
        for own in alone
    ]
    for step in range(b.max_steps):
        set_gradients(bank, step)
        for own, rate, their in zip(alone, rates, theirs, strict=True):
            for group, n in zip(their.param_groups, own, strict=True):
                group["lr"] = (rate[n] or 0.0) * schedule_factor(step, b)
        for k, own in enumerate(alone):
            for n, parameter in own.items():
                grad = bank.trained(n).grad
                assert grad is not None
                parameter.grad = grad[k].clone()
            theirs[k].step()
        optimizer.step(ALL, all_alive=True)
        for k, own in enumerate(alone):
            for n, parameter in own.items():
                torch.testing.assert_close(bank[n][k], parameter.data, rtol=0, atol=1e-12)
    assert not torch.equal(bank["A"], a_bank()["A"])


@every_kind
@every_optimizer
@pytest.mark.parametrize("poison", [1.0, float("nan"), float("inf")])
def test_a_frozen_trial_stays_bitwise_still_and_nobody_notices(name: str, kind: type[Optimizer], poison: float) -> None:
    def train(frozen: bool) -> ParamBank:
        bank = a_bank()
        optimizer = kind(bank, TRIALS, a_budget(name))
        for step in range(6):
            set_gradients(bank, step)
            if frozen:
                grad = bank.trained("B").grad
                assert grad is not None
                grad[1].mul_(poison)
            alive = torch.tensor([True, not frozen, True])
            optimizer.step(alive, all_alive=not frozen)
        return bank

    with_it, without = train(True), train(False)
    for n in SHAPES:
        assert torch.equal(with_it[n][1], a_bank()[n][1])
        assert torch.equal(with_it[n][[0, 2]], without[n][[0, 2]])


@every_optimizer
def test_a_skipped_update_leaves_no_trace(name: str) -> None:
    """A trial that skips a step is afterwards where it would be had that step never been: state and count too."""

    def train(steps: list[tuple[int, bool]]) -> dict[str, Tensor]:
        bank = a_bank()
        optimizer = SkippingOptimizer(bank, TRIALS, a_budget(name))
        for step, ok in steps:
            set_gradients(bank, step)
            optimizer.step(torch.tensor([True, ok, True]))
        return rows(bank, 1)

    skipped, never = train([(0, True), (1, False), (2, True), (3, True)]), train([(0, True), (2, True), (3, True)])
    assert all(torch.equal(skipped[n], never[n]) for n in SHAPES)


@every_kind
@every_optimizer
def test_a_state_saved_and_put_back_goes_on_bitwise(name: str, kind: type[Optimizer]) -> None:
    def train(optimizer: Optimizer, bank: ParamBank, steps: range) -> None:
        for step in steps:
            set_gradients(bank, step)
            optimizer.step(ALL, all_alive=True)

    whole = a_bank()
    train(kind(whole, TRIALS, a_budget(name)), whole, range(8))
    first = a_bank()
    one = kind(first, TRIALS, a_budget(name))
    train(one, first, range(5))
    second = a_bank()
    other = kind(second, TRIALS, a_budget(name))
    second.values.data.copy_(first.values)
    other.steps_done = one.steps_done
    for key, tensor in one.tensors().items():
        other.tensors()[key].copy_(tensor)
    train(other, second, range(5, 8))
    assert torch.equal(second.values, whole.values)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bytes_told_are_the_bytes_held(name: str, dtype: torch.dtype) -> None:
    bank, b = a_bank(dtype), a_budget(name)
    optimizer = Optimizer(bank, TRIALS, b)
    for step in range(2):
        set_gradients(bank, step)
        optimizer.step(ALL, all_alive=True)
    held = [tensor for tensor in vars(optimizer).values() if isinstance(tensor, Tensor)]
    held += list(optimizer.tensors().values())
    told = optimizers.of(b).state_bytes(dtype.itemsize) * bank.values.numel()
    assert sum(tensor.numel() * tensor.element_size() for tensor in held) == told
    assert planner.training_bytes(b, dtype.itemsize) * bank.values.numel() == told + 2 * bank.values.nbytes


@every_optimizer
def test_names_are_those_of_the_project(name: str) -> None:
    rule = optimizers.of(a_budget(name))
    assert {setting.name for setting in fields(rule)} <= {setting.name for setting in fields(TrainBudget)}
    # names of a file that keeps a pack in mid-training (bench/engine/loop.py)
    assert not set(rule.state) & {"values", "alive_K", "died_K", "updates_K", "scale_K", "good_K"}
    assert not any(key.endswith("_SxK") for key in rule.state)
    known = a_budget(name).optimizer
    assert keys.TRAIN["optimizer"].value(known, "optimizer") == known
    assert known in TORCH, "say in TORCH what the new optimizer equals"


def test_an_optimizer_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(BadInput, match="known: adamw, muon, sgd"):
        keys.TRAIN["optimizer"].value("adam", "optimizer")
    with pytest.raises(BadInput, match="did you mean 'adamw'"):
        optimizers.of(budget(optimizer="adam"))


def test_the_planner_asks_without_torch() -> None:
    code = "import sys; from bench.schedule import planner; from bench.engine import optimizers as o; " \
        "from bench.core.spec import TrainBudget as B; print(sum(planner.training_bytes(B(max_steps=1, " \
        "eval_steps=1, optimizer=n), 4) for n in o.names()), 'torch' in sys.modules)"  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["40", "False"]
