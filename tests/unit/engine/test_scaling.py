"""Each trial's loss scale and the updates it skips, against torch.amp.GradScaler with torch.optim, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.core.record import Status
from bench.core.spec import Trial
from bench.engine.optim import schedule_factor
from bench.engine.params import ParamBank, Slot
from bench.engine.scaling import BACKOFF, INTERVAL, LOWEST, START, LossScale, SkippingOptimizer
from bench.methods._base import Role
from tests.support.engine_helpers import budget, tiny_model, trial

CPU = torch.device("cpu")
STEPS = 12
OVERFLOWS = {0: (), 1: (0, 3, 4), 2: (7,)}  # trial -> steps, from 0, in which its gradient is not finite


def gradients() -> Tensor:
    """[steps, K, 3, 2], with infinities and a nan where trials overflow."""
    grads = torch.randn(STEPS, 3, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for k, steps in OVERFLOWS.items():
        for step in steps:
            grads[step, k, 1, 0] = torch.inf if step % 2 else torch.nan
    return grads


def members(**changes: Any) -> list[Trial]:
    shared = budget(max_steps=STEPS, warmup_steps=2, weight_decay=0.1, precision="fp16", eval_steps=4, **changes)
    return [trial(budget=shared, eta_A=rate) for rate in (1e-2, 3e-2, 5e-3)]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_each_trial_moves_as_under_a_grad_scaler_of_its_own(optimizer: Any) -> None:
    trials, grads = members(optimizer=optimizer), gradients()
    start = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bank = ParamBank([Slot(name="w", role=Role.A, values=start)], n_trials=3, device=CPU, dtype=torch.float64)
    ours = SkippingOptimizer(bank, trials, trials[0].budget)
    for step in range(STEPS):
        bank.grads.copy_(grads[step].flatten())
        ours.step(torch.isfinite(bank.grad_norm()))
    for k, member in enumerate(trials):
        expected = alone(member, start[k], grads[:, k])
        torch.testing.assert_close(bank["w"][k].detach(), expected, rtol=0, atol=1e-14)
    assert ours.updates_K.tolist() == [STEPS - len(OVERFLOWS[k]) for k in range(3)]


def alone(member: Trial, start: Tensor, grads: Tensor) -> Tensor:
    """torch.optim with GradScaler; the schedule moves only when the optimizer does, as in accelerate."""
    b, w = member.budget, torch.nn.Parameter(start.clone())
    kinds: dict[str, Any] = {
        "adamw": lambda: torch.optim.AdamW([w], lr=member.eta_A, betas=(b.adam_beta1, b.adam_beta2), eps=b.adam_eps,
                                           weight_decay=b.weight_decay),
        # decoupled decay, which torch.optim.SGD does not have, is put into the gradient: the same for plain SGD
        "sgd": lambda: torch.optim.SGD([w], lr=member.eta_A, weight_decay=b.weight_decay),
    }  # fmt: skip
    optimizer = kinds[b.optimizer]()
    scaler = torch.amp.GradScaler("cpu")
    done = 0
    for grad in grads:
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = member.eta_A * schedule_factor(done, b)
        scaler.scale((w * grad).sum() if torch.isfinite(grad).all() else (w * torch.inf).sum()).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        done += scaler.get_scale() >= before
    return w.detach()


def test_the_scale_follows_grad_scaler() -> None:
    ours, scaler = LossScale(2, CPU), torch.amp.GradScaler("cpu")
    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([w], lr=0.0)
    for step in range(2 * INTERVAL + 5):
        overflow = step in (3, 4, INTERVAL + 1)
        w.grad = torch.full((1,), torch.inf if overflow else 1.0)
        scaler.scale(torch.zeros(1))  # GradScaler starts when it is first asked to scale
        scaler.step(optimizer)
        scaler.update()
        ours.update(torch.tensor([overflow, False]))
        assert float(ours.scale_K[0]) == scaler.get_scale()
    assert float(ours.scale_K[1]) == START * 2 * 2


def test_a_gradient_that_overflows_at_every_scale_means_divergence() -> None:
    scale = LossScale(2, CPU)
    for _ in range(int(np.log2(START / LOWEST))):
        scale.update(torch.tensor([True, False]))
    assert scale.exhausted().tolist() == [False, False]
    scale.update(torch.tensor([True, False]))
    assert scale.exhausted().tolist() == [True, False]
    assert float(scale.scale_K[0]) == LOWEST * BACKOFF


@pytest.mark.parametrize("path", ["bank", "unpadded"])
def test_a_pack_in_fp16_trains_nearly_as_in_fp32_and_leaves_its_neighbours_alone(path: Any) -> None:
    from tests.support.engine_runs import go

    def pack(precision: Any, rates: list[float]) -> list[Any]:
        short = budget(max_steps=12, eval_steps=12, precision=precision)
        dtype = {"fp16": torch.float16, "fp32": torch.float32}[precision]
        return go([trial(budget=short, eta_A=r) for r in rates], loaded=tiny_model(dtype=dtype), path=path)

    half, single = pack("fp16", [1e-3, 1e-2]), pack("fp32", [1e-3, 1e-2])
    assert [o.status for o in half] == [Status.OK] * 2
    for a, b in zip(half, single, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, abs=0.02)
    beside_a_broken_one = pack("fp16", [1e-3, 1e30])
    assert beside_a_broken_one[1].status == Status.DIVERGED
    assert beside_a_broken_one[0].train_loss == half[0].train_loss
