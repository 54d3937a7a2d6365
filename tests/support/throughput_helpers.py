"""Clocks and machines that are made up, and a tiny work for contenders."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.engine.batching import Batches
from bench.timing.peers import rows
from bench.timing.peers.rows import Row
from bench.timing.peers.timer import Timer
from bench.timing.peers.work import Work
from tests.support.engine_helpers import random_data, tiny_model, trial


class Machine:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    @property
    def timer(self) -> Timer:
        return Timer(now=self.now)


class Ticks:
    """A clock that moves one second at each look."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 1.0
        return self.time


def tiny_work(*, n: int = 24, batch_size: int = 4, kind: str = "roberta", **changes: Any) -> Work:
    """Return n examples in batches for a model of a few thousand weights."""
    member = trial(rank=2, lora_dropout=0.1)
    object.__setattr__(member.budget, "batch_size", batch_size)  # the helper's budget is its own
    data = random_data(n_train=n, n_eval=10)
    settings: dict[str, Any] = {
        "trial": member, "data": data, "loaded": tiny_model(kind, dtype=torch.float32), "matmul_params": 1000,
        "device": torch.device("cpu"), "steps": -(-n // batch_size), "pad_to": 20,
    }  # fmt: skip
    return Work(**{**settings, **changes})


def tokens_of(work: Work) -> int:
    """Return the real tokens of the block."""
    return int(work.data.train.lengths.sum())


def places(work: Work) -> list[Any]:
    """Return every batch of an epoch."""
    split = Batches(work.data.train, device=work.device)
    return list(split.order(seed=0, batch_size=work.batch_size, max_steps=work.steps))


def close(a: float, b: float) -> bool:
    return bool(np.isclose(a, b, rtol=1e-9))


CONTEXT = rows.Context(
    run_id="demo-tiny-1", matmul_params=10, head_params=0, clock="wall",
    task="demo", model="tiny", random_weights=False, batch_size=4,
    lora_dropout=0.1, target_modules='["query"]', threads=2, load_share=None, device="fake",
    started_at="2026-01-01T00:00:00+00:00", git_commit=None, git_dirty=None, source_hash="0", versions="{}",
)  # fmt: skip


def row(contender: str, seconds: float, **changes: Any) -> Row:
    settings: dict[str, Any] = {
        "part": "train", "precision": "fp32", "n_trials": 1, "rank": 8, "repeat": 0, "steps": 10, "examples": 40,
        "tokens": 400, "computed_tokens": 800, "peak_memory_bytes": 5,
    }  # fmt: skip
    return Row(contender=contender, seconds=seconds, **{**settings, **changes})


def limit(rate: float, repeat: int = 0) -> Row:
    return Row(
        part="ceiling", contender="matmul", precision="fp32", n_trials=1, rank=None, repeat=repeat, seconds=1.0,
        flop_per_second=rate,
    )  # fmt: skip
