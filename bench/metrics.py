"""Scores of classification: accuracy, Matthews correlation, F1; each with the standard error over the examples.

numpy only. Every score takes predictions of any leading shape, [..., n], against one vector of labels, [n].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import BadInput, one_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One score: how it is computed, and in which direction it is better."""

    name: str
    score: Callable[[Ints, Ints], tuple[Floats, Floats]] | None  # None: the engine computes it, as for eval_loss
    higher_is_better: bool = True
    two_classes_only: bool = False


def score(metric: str, predictions: Ints, labels: Ints) -> tuple[Floats, Floats]:
    """Return the value of `metric` and its standard error, each of shape [...].

    Args:
        metric: "accuracy", "matthews_correlation" or "f1".
        predictions: predicted class indices, [..., n] with n >= 1.
        labels: true class indices, [n].

    The standard error is that of one sample of n independent examples: over evaluation examples, not over seeds. It
    is nan where the score is 0 only by convention (Matthews with one class, F1 without a positive): missing, not 0.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if labels.ndim != 1 or predictions.shape[-1:] != labels.shape or not len(labels):
        raise ValueError(f"predictions [..., n] and labels [n], n >= 1, but got {predictions.shape} and {labels.shape}")
    compute = get(metric).score
    if compute is None:
        raise ValueError(f"{metric} is not a function of predictions")
    return compute(predictions, labels)


def higher_is_better(metric: str) -> bool:
    """Return whether a larger value of `metric` is a better one."""
    return get(metric).higher_is_better


def get(name: str, *, where: str = "metric") -> Metric:
    """Return the metric called `name`; BadInput if there is none."""
    if name not in METRICS:
        raise BadInput(where, "must be a known metric", got=repr(name), way_out=f"known: {one_of(METRICS)}")
    return METRICS[name]


def _accuracy(predictions: Ints, labels: Ints) -> tuple[Floats, Floats]:
    """Share of right predictions, and the binomial standard error sqrt(p (1 - p) / n)."""
    n = len(labels)
    value = (predictions == labels).mean(axis=-1, dtype=np.float64)
    return value, np.sqrt(value * (1 - value) / n)


def _f1(predictions: Ints, labels: Ints) -> tuple[Floats, Floats]:
    """F1 of class 1, 2 TP / (2 TP + FP + FN), and its delta-method standard error; 0 where there is no positive.

    Each example adds a = 2 [both] to the numerator and b = [predicted] + [true] to the denominator, so F1 is a ratio
    of means and its variance is mean((a - F1 b)^2) / (n mean(b)^2).
    """
    predicted, true = predictions == 1, labels == 1
    top = 2.0 * (predicted & true)
    bottom = predicted.astype(np.float64) + true
    mean = bottom.mean(axis=-1)
    some = np.where(mean > 0, mean, 1.0)
    value = top.mean(axis=-1) / some
    spread = np.mean((top - value[..., None] * bottom) ** 2, axis=-1)
    return value, np.where(mean > 0, np.sqrt(spread / len(labels)) / some, np.nan)


def _matthews(predictions: Ints, labels: Ints) -> tuple[Floats, Floats]:
    """Matthews correlation over K classes, and its delta-method standard error.

    With p the K x K table of shares, t its row and q its column sums: (sum_k p_kk - t.q) / sqrt((1 - t.t)(1 - q.q)),
    0 where either has one class only (Gorodkin 2004, eq. 8; for two classes it is the phi coefficient). The standard
    error is that of the mean of the gradient with respect to p, taken at each example's cell.
    """
    classes = int(max(predictions.max(), labels.max())) + 1
    true = np.eye(classes)[labels]  # [n, K]
    predicted = np.eye(classes)[predictions]  # [..., n, K]
    t, q = true.mean(axis=0), predicted.mean(axis=-2)  # [K], [..., K]
    right = (predictions == labels).astype(np.float64)
    free_t, free_q = np.asarray(1 - t @ t), 1 - np.sum(q * q, axis=-1)  # exactly 0 where there is one class
    value, root = _ratio(right.mean(axis=-1) - q @ t, np.sqrt(free_t * free_q))
    # d value / d p at the cell (i, j): (1[i = j] - q_i - t_j) / root + value (t_i / free_t + q_j / free_q)
    q_predicted = np.take_along_axis(q, predictions, axis=-1)
    own_t, own_q = t[labels] / _safe(free_t), q_predicted / _safe(free_q)[..., None]
    slope = (right - q[..., labels] - t[predictions]) / root[..., None] + value[..., None] * (own_t + own_q)
    stderr = slope.std(axis=-1) / np.sqrt(len(labels))
    return value, np.where(free_t * free_q > 0, stderr, np.nan)


def _ratio(top: Floats, bottom: Floats) -> tuple[Floats, Floats]:
    """Return top / bottom, 0 where bottom is 0, and the bottom that is safe to divide by."""
    return np.where(bottom > 0, top, 0.0) / _safe(bottom), _safe(bottom)


def _safe(divisor: Floats) -> Floats:
    return np.where(divisor > 0, divisor, 1.0)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", score=_accuracy),
        Metric(name="matthews_correlation", score=_matthews),
        Metric(name="f1", score=_f1, two_classes_only=True),
        Metric(name="eval_loss", score=None, higher_is_better=False),
        Metric(name="char_accuracy", score=None),  # of generated text, see bench/causal.py
        Metric(name="exact_match", score=None),
        Metric(name="perplexity", score=None, higher_is_better=False),
    )
}
