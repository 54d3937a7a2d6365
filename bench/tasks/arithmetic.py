"""arithmetic: write the difference of two whole numbers of two digits, `83-47=` 36; evaluated on other pairs.

A stand-in, at the size of tiny-decoder, for the mathematical reasoning of MoRA (arXiv:2405.12130), Table 1: what is
learnt is a rule, not the pairs. tiny-decoder's tokens are digits, `-` and `=`, so it can write a difference; it has
seen pairs of UUIDs only. Numbers keep their leading zeros, and the first is never the smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.core import seeds
from bench.data import causal
from bench.data.causal import Layout
from bench.data.splits import TextData
from bench.tasks._base import Task

DIGITS = 2
N_TRAIN, N_EVAL = 3_000, 500
LAYOUT = Layout(prompt="question", max_new_tokens=DIGITS)
METRIC = "exact_match"


def rows() -> list[tuple[str, str]]:
    """Return (question, answer), no pair of numbers twice: the same at every call."""
    rng = np.random.Generator(np.random.Philox(seeds.derive("arithmetic")))
    numbers = np.sort(rng.integers(10**DIGITS, size=(2 * (N_TRAIN + N_EVAL), 2)), axis=1)
    distinct = list(dict.fromkeys((int(large), int(small)) for small, large in numbers))[: N_TRAIN + N_EVAL]
    return [(f"{a:0{DIGITS}}-{b:0{DIGITS}}=", f"{a - b:0{DIGITS}}") for a, b in distinct]


def _read(data_dir: Path | None) -> TextData:
    """Return the generated problems, whatever the data directory: `data_dir` is not read."""
    made: Sequence[tuple[str, str]] = rows()
    train, evaluation = (causal.split_of(part, LAYOUT) for part in (made[:N_TRAIN], made[N_TRAIN:]))
    return causal.data_of(train, evaluation, LAYOUT, METRIC)


TASK = Task(
    name="arithmetic", kind=causal.KIND, metric=METRIC, default_model="tiny-decoder",
    causal=LAYOUT, read=_read,
)  # fmt: skip
