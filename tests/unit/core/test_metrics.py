"""Scores against values worked by hand, known identities, and standard errors against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, rankdata

from bench.core import metrics
from bench.core.errors import BadInput

CLASSES = metrics.names_of("classes")
NUMBERS = metrics.names_of("numbers")

# 20 examples: 6 true positives, 2 false positives, 1 false negative, 11 true negatives
LABELS = np.array([1] * 6 + [0] * 2 + [1] + [0] * 11)
PREDICTIONS = np.array([1] * 8 + [0] * 12)


def test_accuracy_by_hand() -> None:
    value, stderr = metrics.score("accuracy", PREDICTIONS, LABELS)
    assert value == pytest.approx(17 / 20)
    assert stderr == pytest.approx((0.85 * 0.15 / 20) ** 0.5)


def test_f1_by_hand() -> None:
    value, stderr = metrics.score("f1", PREDICTIONS, LABELS)
    assert value == pytest.approx(2 * 6 / (2 * 6 + 2 + 1))
    # F1 = .8: six examples leave (2 - .8 * 2)^2 = .16, three leave .64, mean .144; mean of b is 15 / 20
    assert stderr == pytest.approx((0.144 / 20) ** 0.5 / 0.75)


def test_matthews_by_hand() -> None:
    value, _ = metrics.score("matthews_correlation", PREDICTIONS, LABELS)
    assert value == pytest.approx((6 * 11 - 2 * 1) / (8 * 7 * 13 * 12) ** 0.5)


def test_matthews_of_two_classes_is_pearson_s_correlation() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    predictions = np.where(rng.random(200) < 0.7, labels, 1 - labels)
    value, _ = metrics.score("matthews_correlation", predictions, labels)
    assert value == pytest.approx(pearsonr(predictions, labels).statistic, abs=1e-12)


def test_matthews_of_three_classes_is_gorodkin_s() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    predictions = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 3, 300))
    # Gorodkin's definition: the covariance of the one-hot matrices, over the root of their own covariances
    x, y = np.eye(3)[predictions], np.eye(3)[labels]
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    expected = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    value, _ = metrics.score("matthews_correlation", predictions, labels)
    assert value == pytest.approx(expected, abs=1e-12)


def test_one_class_scores_zero_by_convention_and_has_no_standard_error() -> None:
    zeros = np.zeros(20, dtype=int)
    np.testing.assert_array_equal(metrics.score("matthews_correlation", zeros, LABELS), (0, np.nan))
    np.testing.assert_array_equal(metrics.score("matthews_correlation", PREDICTIONS, zeros), (0, np.nan))
    np.testing.assert_array_equal(metrics.score("matthews_correlation", zeros, zeros), (0, np.nan))
    np.testing.assert_array_equal(metrics.score("f1", zeros, zeros), (0, np.nan))
    np.testing.assert_array_equal(metrics.score("f1", zeros, LABELS), (0, 0))


@pytest.mark.parametrize("name", [name for name in (*CLASSES, *NUMBERS) if name != "mse"])
def test_all_right_is_one_without_error(name: str) -> None:
    value, stderr = metrics.score(name, LABELS, LABELS)
    assert value == pytest.approx(1.0)
    assert stderr == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("name", CLASSES)
def test_leading_axes_are_scored_one_by_one(name: str) -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 50)
    predictions = rng.integers(0, 2, (3, 4, 50))
    value, stderr = metrics.score(name, predictions, labels)
    assert value.shape == stderr.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            one = metrics.score(name, predictions[i, j], labels)
            np.testing.assert_allclose((value[i, j], stderr[i, j]), one, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", CLASSES)
def test_the_standard_error_is_the_spread_over_fresh_samples(name: str) -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((3000, 400)) < 0.3).astype(int)
    wrong = rng.random((3000, 400)) < np.where(labels == 1, 0.3, 0.1)
    predictions = np.where(wrong, 1 - labels, labels)
    scores = [metrics.score(name, p, y) for p, y in zip(predictions, labels, strict=True)]
    values, stderrs = np.array(scores).T
    # 3,000 samples know their own spread to 1.3 %
    assert stderrs.mean() == pytest.approx(values.std(), rel=0.05)


def drawn(n_classes: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of unequal frequency, predictions that are right in 6 of 10."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(n_classes, n, p=np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum())
    return np.where(rng.random(n) < 0.6, labels, rng.integers(0, n_classes, n)), labels


def by_definition(name: str, predictions: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """The metric of a weighted sample, out of counts: scikit-learn's definitions, written class by class."""
    total, classes = weights.sum(), np.union1d(predictions, labels)
    f1, recall, support = {}, {}, {}
    for c in classes:
        hit = weights[(predictions == c) & (labels == c)].sum()
        support[c], named = weights[labels == c].sum(), weights[predictions == c].sum()
        f1[c] = 2 * hit / (support[c] + named)
        recall[c] = hit / support[c] if support[c] else None
    match name:
        case "accuracy":
            return float(weights[predictions == labels].sum() / total)
        case "f1":
            return float(f1[1])
        case "macro_f1":
            return float(np.mean(list(f1.values())))
        case "weighted_f1":
            return float(sum(f1[c] * support[c] for c in classes) / total)
        case "balanced_accuracy":
            return float(np.mean([r for r in recall.values() if r is not None]))
        case "matthews_correlation":
            x, y = (np.stack([side == c for c in classes]).astype(float) for side in (predictions, labels))
            x, y = (side - (side @ weights / total)[:, None] for side in (x, y))
            cov = lambda a, b: float(((a * b) @ weights).sum() / total)  # noqa: E731
            return cov(x, y) / (cov(x, x) * cov(y, y)) ** 0.5
    raise AssertionError(name)


def delta_method(name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    """The standard error by numerical differentiation: the slope of the score in each example's weight."""
    n, step = len(labels), 1e-6
    slopes = []
    for i in range(n):
        up, down = np.ones(n), np.ones(n)
        up[i], down[i] = 1 + step, 1 - step
        gap = by_definition(name, predictions, labels, up) - by_definition(name, predictions, labels, down)
        slopes.append(gap / (2 * step) * n)
    return float(np.std(slopes) / n**0.5)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_classes_by_definition_and_their_errors_by_numerical_slopes(name: str, n_classes: int) -> None:
    predictions, labels = drawn(n_classes, 90, seed=n_classes)
    if name == "f1" and n_classes > 2:
        predictions, labels = (predictions == 1).astype(int), (labels == 1).astype(int)
    value, stderr = metrics.score(name, predictions, labels)
    assert value == pytest.approx(by_definition(name, predictions, labels, np.ones(90)), abs=1e-12)
    assert stderr == pytest.approx(delta_method(name, predictions, labels), rel=1e-5)


def test_f1_and_recall_of_classes_by_hand() -> None:
    #          true:  0  0  0  0  1  1  1  2  2  2
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    predicted = np.array([0, 0, 0, 1, 1, 1, 0, 2, 0, 1])
    # F1: 2*3/(4+5), 2*2/(3+4), 2*1/(3+1); recall: 3/4, 2/3, 1/3
    assert metrics.score("macro_f1", predicted, labels)[0] == pytest.approx((6 / 9 + 4 / 7 + 2 / 4) / 3)
    assert metrics.score("weighted_f1", predicted, labels)[0] == pytest.approx((4 * 6 / 9 + 3 * 4 / 7 + 3 * 2 / 4) / 10)
    assert metrics.score("balanced_accuracy", predicted, labels)[0] == pytest.approx((3 / 4 + 2 / 3 + 1 / 3) / 3)
    found = metrics.several(["recall", "accuracy"], predicted, labels, classes=("a b", "c", "d", "never"))
    assert list(found) == ["recall[a b]", "recall[c]", "recall[d]", "recall[never]", "accuracy"]
    assert [float(value) for value, _ in found.values()] == pytest.approx(
        [3 / 4, 2 / 3, 1 / 3, np.nan, 0.6], nan_ok=True
    )
    # of 10 examples 4 are of the class: the error of a ratio, sqrt(p (1 - p) / 4)
    assert float(found["recall[a b]"][1]) == pytest.approx((3 / 16 / 4) ** 0.5)
    assert np.isnan(found["recall[never]"][1])


def test_a_class_that_is_only_predicted_counts_in_macro_f1_and_not_in_balanced_accuracy() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    assert metrics.score("macro_f1", predicted, labels)[0] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics.score("balanced_accuracy", predicted, labels)[0] == pytest.approx((1 / 2 + 1) / 2)


def numbers(n: int, seed: int, *, tied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.gamma(2.0, size=n)
    predictions = labels[None] * 0.5 + rng.normal(size=(3, n))
    return (np.round(predictions), np.round(labels)) if tied else (predictions, labels)


@pytest.mark.parametrize("tied", [False, True])
def test_correlations_are_scipy_s_of_each_trial(tied: bool) -> None:
    predictions, labels = numbers(70, 5, tied=tied)
    pearson, spearman = (metrics.score(name, predictions, labels)[0] for name in ("pearson", "spearman"))
    for k in range(3):
        assert pearson[k] == pytest.approx(pearsonr(predictions[k], labels).statistic, abs=1e-12)
        ranks = pearsonr(rankdata(predictions[k]), rankdata(labels)).statistic
        assert spearman[k] == pytest.approx(ranks, abs=1e-12)
    value, stderr = metrics.score("mse", predictions, labels)
    squares = (predictions - labels) ** 2
    np.testing.assert_allclose(value, squares.mean(axis=1))
    np.testing.assert_allclose(stderr, squares.std(axis=1) / 70**0.5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", NUMBERS)
def test_errors_of_correlations_are_near_the_jackknife_s(name: str, tied: bool) -> None:
    predictions, labels = numbers(400, 6, tied=tied)
    stderr = metrics.score(name, predictions, labels)[1]
    for k in range(3):
        left = [metrics.score(name, np.delete(predictions[k], i), np.delete(labels, i))[0] for i in range(400)]
        jackknife = (399 / 400 * np.sum((np.array(left) - np.mean(left)) ** 2)) ** 0.5
        assert stderr[k] == pytest.approx(jackknife, rel=0.05)


@pytest.mark.parametrize("name", NUMBERS)
def test_the_standard_error_of_numbers_is_the_spread_over_fresh_samples(name: str) -> None:
    rng = np.random.default_rng(7)
    values, stderrs = [], []
    for _ in range(1500):
        labels = np.round(rng.uniform(0, 5, 200), 1)
        value, stderr = metrics.score(name, labels * 0.7 + rng.normal(size=200), labels)
        values.append(value)
        stderrs.append(stderr)
    assert np.mean(stderrs) == pytest.approx(np.std(values), rel=0.06)


def test_a_constant_has_no_correlation_and_no_standard_error() -> None:
    labels = np.linspace(0, 5, 9)
    for name in ("pearson", "spearman"):
        np.testing.assert_array_equal(metrics.score(name, np.full((1, 9), 2.5), labels), ([0], [np.nan]))
        np.testing.assert_array_equal(metrics.score(name, labels, np.ones(9)), (0, np.nan))


def test_directions() -> None:
    assert metrics.higher_is_better("accuracy")
    assert not metrics.higher_is_better("eval_loss")
    assert not metrics.higher_is_better("mse")


def test_unknown_metric_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"known metric, but got 'acuracy'; known: accuracy, .*eval_loss, .*f1"):
        metrics.get("acuracy")


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"but got \(3,\) and \(2,\)"):
        metrics.score("accuracy", np.zeros(3), np.zeros(2))
