"""What the pretraining of the shipped models (bench/embedded) shares: schedule, optimizer, one update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Steps, learning rates and optimizer of one pretraining run."""

    steps: int
    batch_size: int = 64
    peak_learning_rate: float
    warmup_steps: int
    decay_from: float  # fraction of the steps after which the rate falls linearly to 0
    max_grad_norm: float = 1.0
    adam_betas: tuple[float, float] = (0.9, 0.98)  # those of RoBERTa (arXiv:1907.11692, table 9)
    adam_eps: float
    weight_decay: float = 0.01
    seed: int = 0


def learning_rate(step: int, schedule: Schedule) -> float:
    """Return the rate of step 0 .. steps - 1: linear warm-up, constant, linear decay."""
    warm = (step + 1) / schedule.warmup_steps
    decay = (schedule.steps - step) / (schedule.steps * (1 - schedule.decay_from))
    return schedule.peak_learning_rate * min(1.0, warm, decay)


def updater(model: nn.Module, schedule: Schedule) -> Callable[[int, Tensor], float]:
    """Return a function (step from 0, loss) -> loss as a float, which trains the model by one step of AdamW."""
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=schedule.adam_betas, eps=schedule.adam_eps, weight_decay=schedule.weight_decay
    )

    def update(step: int, loss: Tensor) -> float:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), schedule.max_grad_norm)
        optimizer.step()
        return float(loss.detach())

    return update
