"""fp16: a loss scale for each trial, and updates that each trial may skip on its own.

A global scale would let one trial's overflow skip every trial's update. The rule is torch.amp.GradScaler's, kept for
each trial: start at 2^16, halve after an overflow, double after 2,000 steps without one (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.2, for why).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.core.spec import TrainBudget, Trial
from bench.engine.optim import Optimizer, schedule_factor
from bench.engine.params import ParamBank

START, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000
LOWEST = 2.0**-14  # a gradient that overflows even below this is not finite in float32 either: diverged


class LossScale:
    """What each trial's loss is multiplied by before the backward pass: [K]."""

    def __init__(self, n_trials: int, device: torch.device) -> None:
        self.scale_K = torch.full((n_trials,), START, device=device)
        self.good_K = torch.zeros(n_trials, dtype=torch.int64, device=device)  # steps since the last change

    def update(self, overflowed_K: Tensor) -> None:
        """Halve the scale of trials in `overflowed_K`, bool; double it where there was none for INTERVAL steps."""
        self.good_K = torch.where(overflowed_K, 0, self.good_K + 1)
        grown_K = self.good_K == INTERVAL
        self.good_K = torch.where(grown_K, 0, self.good_K)
        factor_K = torch.where(overflowed_K, BACKOFF, torch.where(grown_K, GROWTH, 1.0))
        self.scale_K = self.scale_K * factor_K

    def exhausted(self) -> Tensor:
        """Return which trials overflow whatever the scale: bool [K]."""
        return self.scale_K < LOWEST


class SkippingOptimizer(Optimizer):
    """An optimizer in which a trial that overflowed skips the update, its state, its count and its schedule.

    So do GradScaler and accelerate for one trial; the bias corrections and the schedule follow each trial's own count.
    """

    def __init__(self, bank: ParamBank, trials: Sequence[Trial], budget: TrainBudget) -> None:
        super().__init__(bank, trials, budget)
        like = bank.values
        self.updates_K = torch.zeros(len(trials), dtype=torch.int64, device=like.device)
        factors = [schedule_factor(step, budget) for step in range(budget.max_steps + 1)]
        self._factors = torch.tensor(factors, dtype=torch.float64).to(like)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a later run needs: the state and each trial's count of updates."""
        return {**super().tensors(), "updates_K": self.updates_K}

    @torch.no_grad()
    def step(self, alive_K: Tensor, *, all_alive: bool = False) -> None:
        """Update the trials in `alive_K`, bool [K]: here, those whose gradient is finite in this step."""
        factor_K = self._factors[self.updates_K]
        self.updates_K += alive_K
        self.steps_done += 1
        for segment, rates in zip(self.bank.segments, self.rates, strict=True):
            part, rate = slice(segment.start, segment.stop), rates.spread()
            ok = segment.spread(alive_K)
            grads = torch.where(ok, self.bank.grads[part], 0)
            count = segment.spread(self.updates_K).clamp(min=1).to(rate.dtype)
            direction = self.rule.masked_direction(grads, self._state(part), count, ok, segment.parts)
            step = direction * rate * segment.spread(factor_K)
            values = self.bank.values[part]
            if segment.decays and self.budget.weight_decay:
                step = step + values * (rate * segment.spread(factor_K) * self.budget.weight_decay)
            values.sub_(torch.where(ok, step, 0))
