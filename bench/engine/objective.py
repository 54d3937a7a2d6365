"""What a pack is trained and scored on: classes of examples, numbers, or the next tokens of their targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bench.engine.batching import Batches, Chunk
from bench.engine.evaluate import Evaluation, Regressed, evaluate, regress, summed_loss, summed_squares
from bench.engine.paths import Path

Floats = npt.NDArray[np.float64]


class Scored(Protocol):
    """What K trials make of one split. A trial with logits that are not finite has loss nan."""

    @property
    def loss_K(self) -> Floats:
        """Return the mean loss over examples, or over target tokens."""
        ...

    def score(self, metric: str) -> tuple[Floats, Floats]:
        """Return the metric of each trial and its standard error over the examples: [K] each."""
        ...

    def accuracy(self, k: int) -> float | None:
        """Return the share of examples that trial k got right; None where right and wrong are no words for it."""
        ...

    def correct(self, k: int) -> npt.NDArray[np.bool_] | None:
        """Return which examples trial k got right, in file order, [N], or None."""
        ...

    def several(self, names: Sequence[str], classes: tuple[str, ...]) -> dict[str, tuple[Floats, Floats]]:
        """Return several metrics of each trial and their standard errors, by name: [K] each."""
        ...

    def predictions(self, k: int) -> npt.NDArray[Any] | None:
        """Return the class or number that trial k predicts for each example, in file order, [N]; None for texts."""
        ...

    def says_one_thing(self, k: int) -> bool:
        """Return whether trial k gives every example the same answer."""
        ...


class Objective(Protocol):
    """The loss of a task kind, and its evaluation."""

    chance_loss: float  # of the predictor that knows nothing

    def summed_loss(self, path: Path, chunk: Chunk) -> Tensor:
        """Return each trial's loss, summed over what the chunk counts: [K]."""
        ...

    def count(self, split: Batches, places: npt.NDArray[np.int64]) -> int:
        """Return what a batch's summed loss is divided by: the mean is over the batch, whatever its chunks."""
        ...

    def evaluate(self, path: Path, split: Batches, *, n_trials: int) -> Scored:
        """Return what all trials make of a split."""
        ...


class Classification:
    """Cross-entropy of an example's class, the mean over examples."""

    def __init__(self, n_labels: int) -> None:
        self.chance_loss = float(np.log(n_labels))

    def summed_loss(self, path: Path, chunk: Chunk) -> Tensor:
        """Return each trial's cross-entropy, summed over the chunk's examples: [K]."""
        return summed_loss(path.logits(chunk), chunk.labels_b)

    def count(self, split: Batches, places: npt.NDArray[np.int64]) -> int:
        """Return the number of examples."""
        return len(places)

    def evaluate(self, path: Path, split: Batches, *, n_trials: int) -> Evaluation:
        """Return predictions and mean losses of all trials on the whole split."""
        return evaluate(path, split, split.labels, n_trials=n_trials)


class Regression:
    """Squared error of one number, the mean over examples: transformers' own loss of `problem_type` "regression"."""

    def __init__(self, labels_N: npt.NDArray[Any]) -> None:
        self.chance_loss = float(np.var(labels_N))  # of always saying the mean

    def summed_loss(self, path: Path, chunk: Chunk) -> Tensor:
        """Return each trial's squared errors, summed over the chunk's examples: [K]."""
        return summed_squares(path.logits(chunk), chunk.labels_b)

    def count(self, split: Batches, places: npt.NDArray[np.int64]) -> int:
        """Return the number of examples."""
        return len(places)

    def evaluate(self, path: Path, split: Batches, *, n_trials: int) -> Regressed:
        """Return predictions and mean losses of all trials on the whole split."""
        return regress(path, split, np.asarray(split.labels, dtype=np.float64), n_trials=n_trials)
