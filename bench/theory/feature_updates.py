"""How far each half of LoRA's update moves a layer's output as the layer gets wider: what LoRA+ follows from.

The model of the LoRA+ paper (Hayou et al. 2024, arXiv:2402.12354, Theorem 1): one adapted layer with one output,
f(x) = W* x + s B A x, inputs of width n with entries of order 1. An update of A and B changes the output by s B dA x,
s dB A x and their product; with AdamW, only eta_A of order 1/n with eta_B of order 1 keeps both of order 1. Measured
with this project's own LoRA and optimizer, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench import methods
from bench.core.spec import TrainBudget, Trial
from bench.engine.optim import Optimizer
from bench.engine.params import ParamBank, Slot
from bench.methods._base import LayerShape
from bench.theory.widths import SCALINGS, WIDTHS, Scaling, Updates

RATE = 0.05  # c: of order 1 in the width
N_EXAMPLES, N_SEEDS, N_STEPS = 8, 16, 4
FAR = 1e6  # the targets, so far away that no output reaches them: what explodes is not turned back
# Where B = 0 the gradient of A is exactly 0, and 0 / (0 + eps) must be 0: as good as eps = 0 for every other gradient.
BUDGET = TrainBudget(
    max_steps=N_STEPS, eval_steps=N_STEPS, batch_size=N_EXAMPLES, precision="fp64", adam_eps=1e-300,
    lr_scheduler_type="constant", max_grad_norm=None,
)  # fmt: skip
LORA = methods.get(methods.BASELINE)


def measure(widths: Sequence[int] = WIDTHS, *, n_seeds: int = N_SEEDS) -> tuple[Updates, ...]:
    """Return the updates of every scaling, width and seed after N_STEPS steps; the seeds of a width are one pack."""
    return tuple(one for scaling in SCALINGS for width in widths for one in _updates(scaling, width, n_seeds))


def _updates(scaling: Scaling, width: int, n_seeds: int) -> list[Updates]:
    eta_A, eta_B = RATE * float(width) ** scaling.power_A, RATE * float(width) ** scaling.power_B
    layer = OneLayer([one_trial(seed, eta_A, eta_B) for seed in range(n_seeds)], width)
    for _ in range(N_STEPS):
        before = layer.values()
        layer.step()
    after = layer.values()
    x_IxN = layer.x_NxI.T
    of_A = before["B"] @ ((after["A"] - before["A"]) @ x_IxN)
    of_B = (after["B"] - before["B"]) @ (before["A"] @ x_IxN)
    means = [part.abs().mean(dim=(1, 2)).tolist() for part in (of_A, of_B)]
    return [Updates(scaling=scaling, width=width, seed=k, of_A=means[0][k], of_B=means[1][k]) for k in range(n_seeds)]


def one_trial(seed: int, eta_A: float, eta_B: float, *, rank: int = 1, lora_alpha: float = 1.0) -> Trial:
    """Return a trial on the one layer."""
    return Trial(
        task="one-layer", model="one-layer", data_hash="", model_hash="", method=methods.PLUS, seed=seed, eta_A=eta_A,
        eta_B=eta_B, rank=rank, lora_alpha=lora_alpha, use_rslora=False, lora_dropout=0.0, init="zero_B",
        target_modules=("layer",), loraplus_lr_embedding=1e-6, budget=BUDGET,
    )  # fmt: skip


class OneLayer:
    """K trials on one layer with one output: their parameters, their optimizer, and the examples that they share."""

    def __init__(self, trials: Sequence[Trial], width: int, init_scale: Sequence[float] | None = None) -> None:
        """`init_scale`: what each trial's A is multiplied by at the start, [K]."""
        shape = LayerShape(path="layer", in_features=width, out_features=1)
        drawn = [LORA.init(t, shape, torch.Generator().manual_seed(t.seed), None) for t in trials]
        values = {name: tensor.double() for name, tensor in LORA.stack(drawn).items()}
        values["A"] = values["A"] * torch.tensor(init_scale or [1.0] * len(trials)).double()[:, None, None]
        slots = [Slot(name=n, role=role, values=values[n]) for n, role in LORA.roles(shape).items()]
        self.bank = ParamBank(slots, n_trials=len(trials), device=torch.device("cpu"), dtype=torch.float64)
        self.optimizer = Optimizer(self.bank, trials, trials[0].budget)
        self.constants = LORA.constants(trials, shape, None)
        self.n_trials = len(trials)
        self.x_NxI = torch.randn(N_EXAMPLES, width, dtype=torch.float64, generator=torch.Generator().manual_seed(width))

    def output(self) -> Tensor:
        """Return s B A x of each trial: [K, N]."""
        params = {name: self.bank[name] for name in self.bank.names()}
        return LORA.delta(params, self.constants, self.x_NxI.expand(self.n_trials, -1, -1))[..., 0]

    def step(self) -> None:
        """Update all trials once on the squared distance to the targets."""
        self.bank.zero_grad()
        torch.square(self.output() - FAR).mean(dim=1).sum().backward()
        self.optimizer.step(torch.ones(self.n_trials, dtype=torch.bool), all_alive=True)

    def values(self) -> dict[str, Tensor]:
        """Return copies of A [K, r, n] and B [K, 1, r]."""
        return {name: self.bank[name].detach().clone() for name in self.bank.names()}
