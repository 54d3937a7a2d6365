"""uuid: write the second UUID of a pair, given the first; random, so nothing but memory helps (docs/papers/uuid.md).

MoRA (arXiv:2405.12130), section 3 and Table 2. `uuid` has 256 pairs, `uuid-100` the first 100 of them; what is trained
on is what is evaluated. char_accuracy is 1/6 where only the layout is known: 4 hyphens, and 1/16 of 32 digits.
"""

from __future__ import annotations

import functools
from pathlib import Path

from bench.data import causal
from bench.data.causal import Layout
from bench.data.splits import TextData
from bench.embedded.uuids import pairs
from bench.tasks._base import Task

LAYOUT = Layout(evaluates_train=True)
METRIC = "char_accuracy"


def sized(n: int) -> Task:
    """Return the task of memorising n pairs."""
    name = "uuid" if n == pairs.N_PAIRS else f"uuid-{n}"
    return Task(
        name=name, kind=causal.KIND, metric=METRIC, other_metrics=("exact_match",), default_model="tiny-decoder",
        causal=LAYOUT, read=functools.partial(_read, n=n),
    )  # fmt: skip


def _read(data_dir: Path | None, *, n: int) -> TextData:
    """Return the generated pairs, whatever the data directory: `data_dir` is not read."""
    made = pairs.split(n)
    return causal.data_of(made, made, LAYOUT, METRIC)


TASK = sized(pairs.N_PAIRS)
