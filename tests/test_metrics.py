"""Scores against values worked by hand, known identities, and standard errors against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from bench import metrics
from bench.errors import BadInput

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


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews_correlation"])
def test_all_right_is_one_without_error(name: str) -> None:
    value, stderr = metrics.score(name, LABELS, LABELS)
    assert value == pytest.approx(1.0)
    assert stderr == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews_correlation"])
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


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews_correlation"])
def test_the_standard_error_is_the_spread_over_fresh_samples(name: str) -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((3000, 400)) < 0.3).astype(int)
    wrong = rng.random((3000, 400)) < np.where(labels == 1, 0.3, 0.1)
    predictions = np.where(wrong, 1 - labels, labels)
    scores = [metrics.score(name, p, y) for p, y in zip(predictions, labels, strict=True)]
    values, stderrs = np.array(scores).T
    # 3,000 samples know their own spread to 1.3 %
    assert stderrs.mean() == pytest.approx(values.std(), rel=0.05)


def test_directions() -> None:
    assert metrics.higher_is_better("accuracy")
    assert not metrics.higher_is_better("eval_loss")


def test_unknown_metric_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"known metric, but got 'acuracy'; known: accuracy, .*eval_loss, .*f1"):
        metrics.get("acuracy")


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"but got \(3,\) and \(2,\)"):
        metrics.score("accuracy", np.zeros(3), np.zeros(2))
