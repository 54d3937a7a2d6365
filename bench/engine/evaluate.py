"""Evaluation of K trials at once: the split sorted by length, each chunk K wide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench import metrics
from bench.engine.batching import Batches
from bench.engine.paths import Path

CPU_CHUNK_ROWS, CHUNK_ROWS = 4096, 8192  # padded tokens of all trials in a chunk; a CPU's caches hold much of theirs


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What K trials make of one split. A trial with logits that are not finite has loss nan."""

    predicted_KxN: npt.NDArray[np.int64]
    loss_K: npt.NDArray[np.float64]
    labels_N: npt.NDArray[np.int64]

    def score(self, metric: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the metric of each trial and its standard error over the examples: [K] each.

        See `bench.metrics.score`.
        """
        return metrics.score(metric, self.predicted_KxN, self.labels_N)

    def accuracy(self, k: int) -> float:
        """Return the share of examples that trial k got right."""
        return float(self.score("accuracy")[0][k])

    def says_one_thing(self, k: int) -> bool:
        """Return whether trial k predicts one class only."""
        return len(np.unique(self.predicted_KxN[k])) == 1

    def correct(self, k: int) -> npt.NDArray[np.bool_]:
        """Return which examples trial k got right, in file order: [N]."""
        return np.asarray(self.predicted_KxN[k] == self.labels_N)


@torch.no_grad()
def evaluate(path: Path, split: Batches, labels_N: npt.NDArray[np.int64], *, n_trials: int) -> Evaluation:
    """Return predictions and mean losses of all trials on the whole split; `labels_N` in file order."""
    predicted = torch.zeros(n_trials, split.n, dtype=torch.int64, device=split.device)
    loss_K = torch.zeros(n_trials, dtype=torch.float64, device=split.device)
    rows = CPU_CHUNK_ROWS if split.device.type == "cpu" else CHUNK_ROWS
    for chunk in split.chunks_of(max(1, rows // n_trials)):
        logits_KxbxC = path.logits(chunk)
        predicted[:, chunk.place_b] = logits_KxbxC.argmax(dim=-1)
        loss_K += summed_loss(logits_KxbxC, chunk.labels_b).double()
    return Evaluation(
        predicted_KxN=predicted.cpu().numpy(), loss_K=(loss_K / split.n).cpu().numpy(), labels_N=np.asarray(labels_N)
    )


def summed_loss(logits_KxbxC: Tensor, labels_b: Tensor) -> Tensor:
    """Return each trial's cross-entropy in nats, summed over the chunk's examples: [K]; labels int64."""
    n_trials, n_examples, _ = logits_KxbxC.shape
    losses = cross_entropy(logits_KxbxC.flatten(0, 1), labels_b.repeat(n_trials), reduction="none")
    return losses.unflatten(0, (n_trials, n_examples)).sum(dim=1)
