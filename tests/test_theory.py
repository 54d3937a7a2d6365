"""What the LoRA+ paper proves (Hayou et al. 2024, arXiv:2402.12354), measured with the project's LoRA and AdamW.

The paper's model: one adapted layer with one output, f(x) = W* x + s B A x, inputs of width n with entries of order 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from engine_helpers import budget, trial
from torch import Tensor

from bench import methods
from bench.engine.optim import Optimizer
from bench.engine.params import ParamBank, Slot
from bench.methods._base import LayerShape, Role
from bench.spec import Trial

CPU = torch.device("cpu")
LORA = methods.get("lora")
RATE = 0.05  # "c": of order 1 in the width
FAR = 1e6  # targets so far away that no output reaches them: what explodes is not turned back
WIDTHS = (64, 128, 256, 512, 1024)
N_EXAMPLES, N_SEEDS, N_STEPS = 8, 16, 4
# Where B = 0 the gradient of A is exactly 0, and 0 / (0 + eps) must be 0: as good as eps = 0 for every other gradient.
NO_EPS = budget(max_steps=N_STEPS, adam_eps=1e-300, lr_scheduler_type="constant", max_grad_norm=None)


@dataclass
class Run:
    """K trials on one layer with one output: their parameters and their optimizer."""

    bank: ParamBank
    optimizer: Optimizer
    scale: Tensor
    x_NxI: Tensor
    y_N: Tensor

    @classmethod
    def of(cls, trials: Sequence[Trial], width: int, init_scale: Sequence[float] | None = None) -> Run:
        shape = LayerShape(path="layer", in_features=width, out_features=1)
        drawn = [LORA.init(t, shape, torch.Generator().manual_seed(t.seed)) for t in trials]
        values = {name: tensor.double() for name, tensor in LORA.stack(drawn).items()}
        values["A"] = values["A"] * torch.tensor(init_scale or [1.0] * len(trials)).double()[:, None, None]
        slots = [Slot(name=n, role=role, values=values[n]) for n, role in LORA.roles(shape).items()]
        bank = ParamBank(slots, n_trials=len(trials), device=CPU, dtype=torch.float64)
        generator = torch.Generator().manual_seed(width)
        return cls(
            bank=bank,
            optimizer=Optimizer(bank, trials, trials[0].budget),
            scale=LORA.constants(trials, shape)["scaling"],  # type: ignore[arg-type]
            x_NxI=torch.randn(N_EXAMPLES, width, dtype=torch.float64, generator=generator),
            y_N=torch.full((N_EXAMPLES,), FAR, dtype=torch.float64),
        )

    def output(self) -> Tensor:
        """s B A x of each trial: [K, N]."""
        x_KxNxI = self.x_NxI.expand(len(self.scale), -1, -1)
        params = {name: self.bank[name] for name in self.bank.names()}
        return LORA.delta(params, {"scaling": self.scale}, x_KxNxI)[..., 0]

    def step(self) -> None:
        self.bank.zero_grad()
        torch.square(self.output() - self.y_N).mean(dim=1).sum().backward()
        self.optimizer.step(torch.ones(len(self.scale), dtype=torch.bool), all_alive=True)

    def values(self) -> dict[str, Tensor]:
        return {name: self.bank[name].detach().clone() for name in self.bank.names()}


def pair(seed: int, eta_A: float, eta_B: float, **more: object) -> Trial:
    one = trial(method="lora+", eta_A=eta_A, eta_B=eta_B, rank=1, lora_alpha=1.0, loraplus_lr_embedding=1e-6, seed=seed)
    return replace(one, budget=NO_EPS, **more)  # type: ignore[arg-type]


def feature_updates(width: int, eta_A: float, eta_B: float) -> tuple[float, float]:
    """|B dA x| and |dB A x| of the last of N_STEPS steps: medians over seeds, means over examples.

    They are the paper's two linear contributions to the change of a layer's output, equation (5).
    """
    run = Run.of([pair(seed, eta_A, eta_B) for seed in range(N_SEEDS)], width)
    for _ in range(N_STEPS):
        before = run.values()
        run.step()
    after = run.values()
    x = run.x_NxI.T
    of_A = before["B"] @ ((after["A"] - before["A"]) @ x)
    of_B = (after["B"] - before["B"]) @ (before["A"] @ x)
    return float(of_A.abs().mean(dim=(1, 2)).median()), float(of_B.abs().mean(dim=(1, 2)).median())


def slopes(power_A: int, power_B: int) -> tuple[float, float]:
    """The exponents of the two updates in the width, for eta_A = c n^power_A and eta_B = c n^power_B."""
    updates = [feature_updates(n, RATE * n**power_A, RATE * n**power_B) for n in WIDTHS]
    return tuple(np.polyfit(np.log(WIDTHS), np.log(np.array(updates)), 1)[0])  # type: ignore[return-value]


def test_features_move_at_every_width_only_if_eta_B_outgrows_eta_A() -> None:
    """eta_A of order 1/n and eta_B of order 1 keep both updates of order 1; equal rates let them vanish or explode."""
    assert slopes(-1, 0) == pytest.approx((0, 0), abs=0.15)
    assert slopes(-1, -1) == pytest.approx((-1, -1), abs=0.15)
    assert slopes(0, 0) == pytest.approx((1, 1), abs=0.15)


@pytest.mark.parametrize("ratio", [1, 4, 32])
def test_the_first_step_moves_B_by_its_rate_and_A_not_at_all(ratio: int) -> None:
    run = Run.of([pair(0, 1e-3, 1e-3 * ratio)], 64)
    before = run.values()
    run.step()
    after = run.values()
    assert torch.equal(after["A"], before["A"])
    torch.testing.assert_close((after["B"] - before["B"]).abs(), torch.full((1, 1, 1), 1e-3 * ratio).double())


def test_alpha_init_and_rates_are_two_numbers_too_many() -> None:
    """alpha / (p q), p init_A, p eta_A, q eta_B train the same function; p and q powers of 2, so to the last bit.

    (Schulman and Thinking Machines Lab 2025, "LoRA Without Regret": with eps = 0 and B = 0.)
    """
    factors = [(1.0, 1.0), (4.0, 1.0), (1.0, 8.0), (0.25, 2.0), (16.0, 0.5)]
    base = pair(0, 1e-3, 1.6e-2, rank=4)
    trials = [
        replace(base, lora_alpha=4.0 / (p * q), eta_A=p * base.eta_A, eta_B=q * (base.eta_B or 0)) for p, q in factors
    ]
    run = Run.of(trials, 64, [p for p, _ in factors])
    for _ in range(N_STEPS):
        run.step()
    output = run.output().detach()
    assert output[0].abs().min() > 1e-3
    for other in output[1:]:
        assert torch.equal(other, output[0])
    broken = Run.of([base, replace(base, eta_A=2 * base.eta_A)], 64)
    for _ in range(N_STEPS):
        broken.step()
    first, second = broken.output().detach()
    assert not torch.allclose(first, second, rtol=1e-6)


def test_roles_are_A_and_B() -> None:
    run = Run.of([pair(0, 1e-3, 1e-2)], 8)
    assert {segment.role for segment in run.bank.segments} == {Role.A, Role.B}
