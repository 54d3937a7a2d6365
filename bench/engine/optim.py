"""One optimizer over K trials at once: a learning rate for each trial and role, decay, and clipping for each trial.

torch.optim takes no vector of learning rates. What the rate multiplies is a file of `bench/engine/optimizers/`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.core.spec import TrainBudget, Trial
from bench.engine import optimizers
from bench.engine.params import BLOCK, ParamBank, Segment
from bench.methods._base import rate_of


def schedule_factor(step: int, budget: TrainBudget) -> float:
    """Return what the rate is multiplied by in the update after `step` updates, as transformers' get_*_schedule do.

    Linear warm-up over warmup_steps, then: linear, a straight line to 0 at max_steps; cosine, half a cosine to 0;
    constant, 1.
    """
    if step < budget.warmup_steps:
        return step / max(1, budget.warmup_steps)
    if budget.lr_scheduler_type == "constant":
        return 1.0
    left = max(1, budget.max_steps - budget.warmup_steps)
    if budget.lr_scheduler_type == "linear":
        return max(0.0, (budget.max_steps - step) / left)
    progress = (step - budget.warmup_steps) / left
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


class Optimizer:
    """The state of K optimizers over one ParamBank.

    A trial whose loss or gradient is not finite is switched off in `alive` and its parameters stay as they are; no
    value of one trial ever enters another's row.
    """

    def __init__(self, bank: ParamBank, trials: Sequence[Trial], budget: TrainBudget) -> None:
        self.bank, self.budget, self.steps_done = bank, budget, 0
        self.rates = [Rates(segment, trials, bank.values) for segment in bank.segments]
        self.rule = optimizers.of(budget)
        self.state = {name: torch.zeros_like(bank.values) for name in self.rule.state}

    def tensors(self) -> dict[str, Tensor]:
        """Return what a later run needs to go on bitwise, by name; it is put back by copying into these tensors."""
        return dict(self.state)

    @torch.no_grad()
    def clip(self) -> Tensor:
        """Scale each trial's gradient, in place, to norm max_grad_norm at most; return the norms before, [K].

        As torch's clip_grad_norm_, 1e-6 in the denominator too; nothing is scaled where max_grad_norm is None.
        """
        norm_K = self.bank.grad_norm()
        if self.budget.max_grad_norm is not None:
            self.bank.scale_grads((self.budget.max_grad_norm / (norm_K + 1e-6)).clamp(max=1.0))
        return norm_K

    @torch.no_grad()
    def step(self, alive_K: Tensor, *, all_alive: bool) -> None:
        """Update every trial that is alive, bool [K]. `all_alive`: the host knows that no trial is dead."""
        factor = schedule_factor(self.steps_done, self.budget)
        self.steps_done += 1
        for segment, rate in zip(self.bank.segments, self.rates, strict=True):
            part = slice(segment.start, segment.stop)
            self._update(part, rate.spread() * factor, None if all_alive else segment.spread(alive_K), segment)

    def _update(self, part: slice, rate: Tensor, alive: Tensor | None, segment: Segment) -> None:
        values, grads = self.bank.values[part], self.bank.grads[part]
        change = self.rule.direction(grads, self._state(part), self.steps_done, segment.parts).mul_(rate)
        if segment.decays and self.budget.weight_decay:
            change.add_(values * (rate * self.budget.weight_decay))
        if alive is not None:  # 0 * nan is nan: a dead trial's change is replaced, not multiplied away
            change = torch.where(alive, change, 0)
        values.sub_(change)

    def _state(self, part: slice) -> dict[str, Tensor]:
        return {name: tensor[part] for name, tensor in self.state.items()}


class Rates:
    """The learning rates of a segment: one for each trial and, where they fall with the layer, parameter.

    Raises:
        ValueError: where a trial has none for the segment's role.
    """

    def __init__(self, segment: Segment, trials: Sequence[Trial], like: Tensor) -> None:
        rates = [rate_of(segment.role, trial) for trial in trials]
        if any(rate is None for rate in rates):
            raise ValueError(f"role {segment.role} is trained, so it has a learning rate")
        rates_K = torch.tensor(rates, dtype=torch.float64)
        decay_K = torch.tensor([trial.layer_decay for trial in trials], dtype=torch.float64)
        falls = any(segment.depths) and bool((decay_K != 1).any())
        depths = segment.depths if falls else [0] * len(segment.depths)
        self._segment, self._falls = segment, falls
        self._parts = [(rates_K * decay_K**depth if depth else rates_K).to(like) for depth in depths]
        # those of a large pack are made anew in each update: they would take as much memory as its numbers
        self._kept = self._made() if like.numel() <= BLOCK else None

    def spread(self) -> Tensor:
        """Return the rate of each of the segment's numbers; [1] where there is but one."""
        return self._made() if self._kept is None else self._kept

    def _made(self) -> Tensor:
        if not self._falls:
            return self._segment.spread(self._parts[0])
        pairs = zip(self._parts, self._segment.widths, strict=True)
        return torch.cat([rates_K.repeat_interleave(width) for rates_K, width in pairs])
