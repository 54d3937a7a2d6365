"""toy: the LoRA+ paper's own network and data (arXiv:2402.12354, Fig. 2), to the letter of its appendix C.1.1."""

from __future__ import annotations

from pathlib import Path

from bench.data import toy
from bench.tasks._base import Task


def _read(data_dir: Path | None) -> toy.ToyData:
    """Return what the toy's data is; `data_dir` is not read."""
    return toy.ToyData(target="sine")


TASK = Task(name="toy", kind=toy.KIND, metric="eval_loss", default_model="mlp", read=_read)
