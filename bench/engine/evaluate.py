"""Evaluation of K trials at once: the split sorted by length, each chunk K wide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.core import devices, metrics
from bench.engine.batching import Batches
from bench.engine.chunking import evaluation_rows
from bench.engine.paths import Path

CPU_ROWS = 4096  # of classifiers; see bench.engine.chunking.evaluation_rows
Floats = npt.NDArray[np.float64]
CONSTANT = 1e-3  # numbers that spread less than this share of the labels' spread are one number


@dataclass(frozen=True, kw_only=True, slots=True)
class _Predicted:
    """What K trials predict on one split. A trial with logits that are not finite has loss nan."""

    predicted_KxN: npt.NDArray[Any]  # classes, int64, or numbers, float64
    loss_K: Floats
    labels_N: npt.NDArray[Any]

    def score(self, metric: str) -> tuple[Floats, Floats]:
        """Return the metric of each trial and its standard error over the examples: [K] each.

        See `bench.core.metrics.score`.
        """
        return metrics.score(metric, self.predicted_KxN, self.labels_N)

    def several(self, names: Sequence[str], classes: tuple[str, ...]) -> dict[str, tuple[Floats, Floats]]:
        """Return metrics by name, as `bench.core.metrics.several` does."""
        return metrics.several(names, self.predicted_KxN, self.labels_N, classes=classes)

    def predictions(self, k: int) -> npt.NDArray[Any]:
        """Return what trial k predicts, in file order: [N]."""
        return np.asarray(self.predicted_KxN[k])


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation(_Predicted):
    """Predicted classes."""

    def accuracy(self, k: int) -> float:
        """Return the share of examples that trial k got right."""
        return float(self.score("accuracy")[0][k])

    def says_one_thing(self, k: int) -> bool:
        """Return whether trial k predicts one class only."""
        return len(np.unique(self.predicted_KxN[k])) == 1

    def correct(self, k: int) -> npt.NDArray[np.bool_]:
        """Return which examples trial k got right, in file order: [N]."""
        return np.asarray(self.predicted_KxN[k] == self.labels_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class Regressed(_Predicted):
    """Predicted numbers: right and wrong are no words for them."""

    def accuracy(self, k: int) -> None:
        """Return None."""

    def correct(self, k: int) -> None:
        """Return None."""

    def says_one_thing(self, k: int) -> bool:
        """Return whether trial k's numbers hardly differ."""
        return bool(np.ptp(self.predicted_KxN[k]) <= CONSTANT * np.ptp(self.labels_N))


def evaluate(path: Path, split: Batches, labels_N: npt.NDArray[np.int64], *, n_trials: int) -> Evaluation:
    """Return predicted classes and mean losses of all trials on the whole split; `labels_N` in file order."""
    predicted, loss_K = _predict(path, split, n_trials, torch.int64, lambda logits: logits.argmax(-1), summed_loss)
    return Evaluation(predicted_KxN=predicted, loss_K=loss_K, labels_N=np.asarray(labels_N))


def regress(path: Path, split: Batches, labels_N: Floats, *, n_trials: int) -> Regressed:
    """Return predicted numbers and mean losses of all trials on the whole split; `labels_N` in file order."""
    read = partial(torch.squeeze, dim=-1)
    wide = devices.widest_float(split.device)
    predicted, loss_K = _predict(path, split, n_trials, wide, read, summed_squares)
    predicted = predicted.astype(np.float64)
    # a trial that has diverged has loss nan, and is scored with the others: its numbers must not warn
    return Regressed(predicted_KxN=np.nan_to_num(predicted, posinf=0, neginf=0), loss_K=loss_K, labels_N=labels_N)


@torch.no_grad()
def _predict(
    path: Path, split: Batches, n_trials: int, dtype: torch.dtype, read: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> tuple[npt.NDArray[Any], Floats]:  # fmt: skip
    predicted = torch.zeros(n_trials, split.n, dtype=dtype, device=split.device)
    wide = devices.widest_float(split.device)
    loss_K = torch.zeros(n_trials, dtype=wide, device=split.device)
    rows = evaluation_rows(path.name, on_cpu=split.device.type == "cpu", cpu_rows=CPU_ROWS)
    for chunk in split.chunks_of(max(1, rows // n_trials)):
        logits_KxbxC = path.logits(chunk)
        predicted[:, chunk.place_b] = read(logits_KxbxC).to(dtype)
        loss_K += loss(logits_KxbxC, chunk.labels_b).to(wide)
    return predicted.cpu().numpy(), loss_K.cpu().numpy().astype(np.float64) / split.n


def summed_squares(logits_Kxbx1: Tensor, labels_b: Tensor) -> Tensor:
    """Return each trial's squared errors, summed over the chunk's examples: [K]; labels of any float type."""
    return (logits_Kxbx1.squeeze(-1) - labels_b.to(logits_Kxbx1.dtype)).square().sum(dim=1)


def summed_loss(logits_KxbxC: Tensor, labels_b: Tensor) -> Tensor:
    """Return each trial's cross-entropy in nats, summed over the chunk's examples: [K]; labels int64."""
    n_trials, n_examples, _ = logits_KxbxC.shape
    losses = cross_entropy(logits_KxbxC.flatten(0, 1), labels_b.repeat(n_trials), reduction="none")
    return losses.unflatten(0, (n_trials, n_examples)).sum(dim=1)
