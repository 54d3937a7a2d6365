"""Levels that a reader needs beside a curve or a colour: the loss of the trivial predictor, where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench import tasks
from bench.data import toy

CLIP = 2.0  # colours of a toy's losses end at so many times the trivial predictor's loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Trivial:
    """The mean loss of the predictor that is 0 everywhere, over the seeds of some rows."""

    train: float
    eval: float

    def of(self, metric_name: str) -> float:
        """Return the level that goes with a loss by its name."""
        return self.train if metric_name.startswith("train") else self.eval

    def words(self) -> str:
        """Return the levels as a caption tells them."""
        return f"predicting 0 everywhere gives {self.eval:.3f} (test) and {self.train:.3f} (train), mean over seeds"


def trivial(df: pd.DataFrame) -> Trivial | None:
    """Return the levels of rows of the toy, computed from the data that their seeds draw; None for other tasks."""
    names = set(df["task"])
    if not names or not names <= set(tasks.names()) or any(tasks.get(name).kind != toy.KIND for name in names):
        return None
    seeds = sorted({int(seed) for seed in df["seed"]})
    means = [np.mean([toy.trivial_loss(seed, split) for seed in seeds]) for split in ("train", "eval")]
    return Trivial(train=float(means[0]), eval=float(means[1]))
