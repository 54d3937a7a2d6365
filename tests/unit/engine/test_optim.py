"""The stacked optimizer against torch.optim, transformers' schedules and clip_grad_norm_, update for update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import get_scheduler

from bench.core.clock import Clock
from bench.core.spec import TrainBudget, Trial
from bench.engine.batching import Batches
from bench.engine.loop import Loop
from bench.engine.optim import Optimizer, schedule_factor
from bench.engine.params import ParamBank, Slot
from bench.engine.run import choose_path
from bench.methods._base import Role, rate_of
from tests.support.engine_helpers import budget, random_data, tiny_model, trial
from tests.support.oracle import CPU, make_bank

SHAPES = {  # one parameter of every role that a LoRA trial can have, as one trial sees it
    "A": (Role.A, (2, 5)), "B": (Role.B, (4, 2)), "head": (Role.HEAD_WEIGHT, (2, 4)), "bias": (Role.HEAD_BIAS, (2,)),
    "table_A": (Role.EMBEDDING_A, (2, 7)), "table_B": (Role.EMBEDDING_B, (4, 2)), "A2": (Role.A, (3, 3)),
}  # fmt: skip
FROZEN = {"dense": (Role.FROZEN_HEAD, (3, 3))}
TRIALS = [
    trial(eta_A=1e-2, eta_B=0.16, method="lora+", loraplus_lr_embedding=3e-3, head_policy="peft"),
    trial(eta_A=3e-2, head_policy=0.05),
    trial(eta_A=5e-3, eta_B=1e-2, method="lora+", loraplus_lr_embedding=1e-6),
]
HARD: dict[str, Any] = {"weight_decay": 0.1, "adam_eps": 1e-3, "adam_beta1": 0.8, "adam_beta2": 0.95, "warmup_steps": 3}


def stacked(seed: int = 0) -> tuple[ParamBank, dict[str, Tensor]]:
    """A bank of three trials and its initial values, [K, ...] each."""
    generator = torch.Generator().manual_seed(seed)
    every = {**SHAPES, **FROZEN}
    values = {n: torch.randn(3, *size, dtype=torch.float64, generator=generator) for n, (_, size) in every.items()}
    slots = [Slot(name=n, role=role, values=values[n]) for n, (role, _) in every.items()]
    return ParamBank(slots, n_trials=3, device=CPU, dtype=torch.float64), values


def gradients(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    sizes = {n: size for n, (_, size) in SHAPES.items()}
    return {
        n: torch.randn(3, *s, dtype=torch.float64, generator=generator) * 10.0 ** (step % 5 - 2)
        for n, s in sizes.items()
    }


def set_gradients(bank: ParamBank, grads: dict[str, Tensor]) -> None:
    bank.zero_grad()
    for name, grad in grads.items():
        mine = bank.trained(name).grad
        assert mine is not None
        mine.copy_(grad)


def torch_optimizer(own: dict[str, nn.Parameter], member: Trial, b: TrainBudget) -> torch.optim.Optimizer:
    groups = [
        {"params": [p], "lr": rate_of(SHAPES[n][0], member), "weight_decay": b.weight_decay if p.ndim > 1 else 0.0}
        for n, p in own.items()
    ]
    if b.optimizer == "sgd":  # torch's SGD couples the decay; decoupled it is AdamW's, which the test below spells out
        return torch.optim.SGD(groups)
    return torch.optim.AdamW(groups, betas=(b.adam_beta1, b.adam_beta2), eps=b.adam_eps)


@pytest.mark.parametrize("schedule", ["linear", "constant", "cosine"])
@pytest.mark.parametrize("max_grad_norm", [0.7, None])
def test_adamw_is_torch_adamw(schedule: Any, max_grad_norm: float | None) -> None:
    b = budget(max_steps=20, lr_scheduler_type=schedule, max_grad_norm=max_grad_norm, **HARD)
    bank, initial = stacked()
    optimizer = Optimizer(bank, TRIALS, b)
    own = [{n: nn.Parameter(initial[n][k].clone()) for n in SHAPES} for k in range(3)]
    theirs = [torch_optimizer(p, t, b) for p, t in zip(own, TRIALS, strict=True)]
    name = "constant_with_warmup" if schedule == "constant" else schedule
    schedules = [get_scheduler(name, o, num_warmup_steps=3, num_training_steps=20) for o in theirs]
    for step in range(20):
        grads = gradients(step)
        set_gradients(bank, grads)
        norm_K = optimizer.clip()
        optimizer.step(torch.ones(3, dtype=torch.bool), all_alive=True)
        for k in range(3):
            for n, p in own[k].items():
                p.grad = grads[n][k].clone()
            norm = torch.nn.utils.clip_grad_norm_(own[k].values(), max_grad_norm or float("inf"))
            assert float(norm_K[k]) == pytest.approx(float(norm), rel=1e-14)
            theirs[k].step()
            schedules[k].step()
            for n, p in own[k].items():
                torch.testing.assert_close(bank[n][k], p.data, rtol=0, atol=1e-14)
    assert torch.equal(bank["dense"], initial["dense"])


def test_sgd_is_torch_sgd() -> None:
    b = budget(max_steps=6, optimizer="sgd", max_grad_norm=None, weight_decay=0.0)
    bank, initial = stacked()
    optimizer = Optimizer(bank, TRIALS, b)
    own = [{n: nn.Parameter(initial[n][k].clone()) for n in SHAPES} for k in range(3)]
    theirs = [torch_optimizer(p, t, b) for p, t in zip(own, TRIALS, strict=True)]
    schedules = [get_scheduler("linear", o, num_warmup_steps=0, num_training_steps=6) for o in theirs]
    for step in range(6):
        grads = gradients(step)
        set_gradients(bank, grads)
        optimizer.step(torch.ones(3, dtype=torch.bool), all_alive=True)
        for k in range(3):
            for n, p in own[k].items():
                p.grad = grads[n][k].clone()
            theirs[k].step()
            schedules[k].step()
            for n, p in own[k].items():
                torch.testing.assert_close(bank[n][k], p.data, rtol=0, atol=1e-14)


def test_decay_is_decoupled_and_spares_biases() -> None:
    """Without gradients, one update multiplies matrices by 1 - rate * decay and leaves vectors as they are."""
    for kind in ("adamw", "sgd"):
        b = budget(max_steps=5, optimizer=kind, lr_scheduler_type="constant", weight_decay=0.1)
        bank, initial = stacked()
        Optimizer(bank, TRIALS, b).step(torch.ones(3, dtype=torch.bool), all_alive=True)
        for n, (role, size) in SHAPES.items():
            for k, member in enumerate(TRIALS):
                factor = 1 - (rate_of(role, member) or 0) * 0.1 if len(size) > 1 else 1
                torch.testing.assert_close(bank[n][k], initial[n][k] * factor, rtol=0, atol=1e-15)


@pytest.mark.parametrize("schedule", ["linear", "constant", "cosine"])
@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 30])
def test_schedules_are_those_of_transformers(schedule: Any, warmup_steps: int) -> None:
    b = budget(max_steps=30, warmup_steps=warmup_steps, lr_scheduler_type=schedule)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=30)
    for step in range(31):
        assert schedule_factor(step, b) == pytest.approx(theirs.get_last_lr()[0], abs=1e-15)
        optimizer.step()
        theirs.step()


def test_a_dead_trial_stays_and_its_neighbours_do_not_notice() -> None:
    b = budget(max_steps=5, **HARD)
    after = []
    for poison in (1.0, float("nan"), float("inf")):
        bank, initial = stacked()
        optimizer = Optimizer(bank, TRIALS, b)
        alive = torch.tensor([True, poison == 1.0, True])
        for step in range(5):
            grads = gradients(step)
            grads["B"][1, 0] *= poison
            set_gradients(bank, grads)
            optimizer.clip()
            optimizer.step(alive, all_alive=bool(alive.all()))
        after.append({n: bank[n].detach().clone() for n in SHAPES})
        if poison != 1.0:
            assert all(torch.equal(bank[n][1], initial[n][1]) for n in SHAPES)
    for n in SHAPES:
        for other in after[1:]:
            assert torch.equal(after[0][n][[0, 2]], other[n][[0, 2]])


def test_a_parameter_has_one_role_and_a_trained_role_a_rate() -> None:
    weight = torch.zeros(1, 2, 2)
    twice = [Slot(name="w", role=Role.A, values=weight), Slot(name="w", role=Role.B, values=weight)]
    with pytest.raises(ValueError, match="exactly one role"):
        ParamBank(twice, n_trials=1, device=CPU, dtype=torch.float64)
    frozen = (Role.FROZEN, Role.FROZEN_HEAD)
    assert all(rate_of(role, TRIALS[0]) is None for role in frozen)
    trained = [role for role in Role if role not in frozen]
    assert all(rate_of(role, member) is not None for role in trained for member in TRIALS)


@pytest.mark.parametrize(("method", "ratio"), [("lora", 1), ("lora+", 16)])
def test_one_step_moves_B_by_its_rate_and_A_not_at_all(method: str, ratio: int) -> None:
    """Rates are read from motion: at B = 0 Adam's first step is +-eta_B for B, and A has no gradient."""
    b = budget(max_steps=1, adam_eps=1e-12, max_grad_norm=None, lr_scheduler_type="constant")
    etas = (1e-3, 4e-3)
    members = [trial(method=method, eta_A=eta, eta_B=eta * ratio, head_policy=0.03, budget=b) for eta in etas]
    bank, data = make_bank(tiny_model(), members), random_data()
    before = {name: bank.params[name].detach().clone() for name in bank.params.names()}
    loop = Loop(
        bank, choose_path(bank, "auto"), Batches(data.train, device=CPU), b, n_chunks=2, clock=Clock(),
        evaluate=lambda: np.zeros(2),
    )  # fmt: skip
    loop.run()
    moved = {"A": 0, "B": 0}
    for name, old in before.items():
        leaf, change = name.rpartition(".")[2], bank.params[name].detach() - old
        for k, member in enumerate(members):
            if leaf == "A":
                assert torch.equal(change[k], torch.zeros_like(change[k]))
            elif leaf == "B":  # columns that pad a shorter rank do not exist here: the ranks are equal
                expected = torch.full_like(change[k], member.eta_B or 0)
                torch.testing.assert_close(change[k].abs(), expected, rtol=3e-7, atol=0)
            else:
                torch.testing.assert_close(
                    change[k].abs().max(), torch.tensor(0.03, dtype=torch.float64), rtol=3e-7, atol=0
                )
        moved[leaf] = moved.get(leaf, 0) + 1
    assert moved["A"] == moved["B"] == 4


def test_rates_by_role() -> None:
    plain, paper = trial(eta_A=1e-3, eta_B=8e-3, method="lora+"), trial(eta_A=1e-3, eta_B=8e-3, head_policy="paper")
    assert (rate_of(Role.A, plain), rate_of(Role.B, plain)) == (1e-3, 8e-3)
    assert (rate_of(Role.HEAD_WEIGHT, plain), rate_of(Role.HEAD_BIAS, plain)) == (1e-3, 1e-3)
    assert (rate_of(Role.HEAD_WEIGHT, paper), rate_of(Role.HEAD_BIAS, paper)) == (1e-3, 8e-3)
    fixed = replace(plain, head_policy=0.02, loraplus_lr_embedding=1e-6)
    assert (rate_of(Role.HEAD_WEIGHT, fixed), rate_of(Role.HEAD_BIAS, fixed)) == (0.02, 0.02)
    assert (rate_of(Role.EMBEDDING_A, fixed), rate_of(Role.EMBEDDING_B, fixed)) == (1e-6, 1e-6)
