"""The metrics by name: accuracy, F1, Matthews, correlations, ...; each with the standard error over the examples.

numpy only. Every score takes predictions of any leading shape, [..., n], against one vector of labels, [n]; the
formulas are in `bench/core/scores.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bench.core import scores
from bench.core.errors import BadInput, one_of

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[Any]
Kind = Literal["classes", "numbers", "texts", "loss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric: what it scores, how it is computed, and in which direction it is better."""

    name: str
    of: Kind = "classes"
    score: Callable[[Values, Values], tuple[Floats, Floats]] | None = None  # None: the engine's, or one for each class
    by_class: Callable[..., tuple[Floats, Floats]] | None = None  # one score for each class: never what is chosen by
    higher_is_better: bool = True
    two_classes_only: bool = False


def score(metric: str, predictions: Values, labels: Values) -> tuple[Floats, Floats]:
    """Return the value of `metric` and its standard error, each of shape [...].

    Args:
        metric: a metric of classes or of numbers.
        predictions: predicted class indices, or predicted numbers, [..., n] with n >= 1.
        labels: true class indices, or true numbers, [n].

    The standard error is that of one sample of n independent examples: over evaluation examples, not over seeds. It
    is nan where the score is 0 only by convention (Matthews and correlations with one class or number, F1 without a
    positive): missing, not 0.
    """
    predictions, labels = _checked(predictions, labels)
    compute = get(metric).score
    if compute is None:
        raise ValueError(f"{metric} is not one function of predictions")
    return compute(predictions, labels)


def several(
    names: Iterable[str], predictions: Values, labels: Values, *, classes: tuple[str, ...]
) -> dict[str, tuple[Floats, Floats]]:
    """Return several metrics, by name; one of each class as `<metric>[<class>]`, in the order of `classes`."""
    found: dict[str, tuple[Floats, Floats]] = {}
    for name in names:
        by_class = get(name).by_class
        if by_class is None:
            found[name] = score(name, predictions, labels)
            continue
        values, errors = by_class(*_checked(predictions, labels), n_classes=len(classes))
        found |= {f"{name}[{label}]": (values[..., i], errors[..., i]) for i, label in enumerate(classes)}
    return found


def higher_is_better(metric: str) -> bool:
    """Return whether a larger value of `metric` is a better one."""
    return get(metric).higher_is_better


def get(name: str, *, where: str = "metric") -> Metric:
    """Return the metric called `name`; BadInput if there is none."""
    if name not in METRICS:
        raise BadInput(where, "must be a known metric", got=repr(name), way_out=f"known: {one_of(METRICS)}")
    return METRICS[name]


def names_of(kind: Kind, *, chosen_by: bool = True) -> tuple[str, ...]:
    """Return the metrics of a kind, in order; without `chosen_by` also those that are one number for each class."""
    return tuple(m.name for m in METRICS.values() if m.of == kind and not (chosen_by and m.by_class))


def _checked(predictions: Values, labels: Values) -> tuple[Values, Values]:
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if labels.ndim != 1 or predictions.shape[-1:] != labels.shape or not len(labels):
        raise ValueError(f"predictions [..., n] and labels [n], n >= 1, but got {predictions.shape} and {labels.shape}")
    return predictions, labels


_numbers = partial(Metric, of="numbers")
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", score=scores.accuracy),
        Metric(name="matthews_correlation", score=scores.matthews),
        Metric(name="f1", score=scores.f1, two_classes_only=True),
        Metric(name="macro_f1", score=scores.macro_f1),
        Metric(name="weighted_f1", score=scores.weighted_f1),
        Metric(name="balanced_accuracy", score=scores.balanced_accuracy),
        Metric(name="recall", by_class=scores.recall),
        _numbers(name="pearson", score=scores.pearson),
        _numbers(name="spearman", score=scores.spearman),
        _numbers(name="mse", score=scores.mse, higher_is_better=False),
        Metric(name="eval_loss", of="loss", higher_is_better=False),
        Metric(name="char_accuracy", of="texts"),  # of generated text, see bench/data/causal.py
        Metric(name="exact_match", of="texts"),
        Metric(name="perplexity", of="texts", higher_is_better=False),
        Metric(name="bits_per_byte", of="texts", higher_is_better=False),
    )
}
