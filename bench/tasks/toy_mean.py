"""toy-mean: the toy with its target replaced by the target's mean, which fits Fig. 2 (docs/papers/toy.md)."""

from __future__ import annotations

from pathlib import Path

from bench.data import toy
from bench.tasks._base import Task


def _read(data_dir: Path | None) -> toy.ToyData:
    """Return what the toy's data is; `data_dir` is not read."""
    return toy.ToyData(target="mean")


TASK = Task(name="toy-mean", kind=toy.KIND, metric="eval_loss", default_model="mlp", read=_read)
