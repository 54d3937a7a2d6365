"""The formulas of the scores: of classes, out of the table of true and predicted ones; of numbers, out of moments.

numpy only. Predictions have any leading shape, [..., n], against one vector of labels, [n]. Every standard error is
the delta method's: the standard deviation (divisor n) over the examples of the score's influence function / sqrt(n).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]
Scores = tuple[Floats, Floats]


def accuracy(predictions: Ints, labels: Ints) -> Scores:
    """Share of right predictions, and the binomial standard error sqrt(p (1 - p) / n)."""
    value = (predictions == labels).mean(axis=-1, dtype=np.float64)
    return value, np.sqrt(value * (1 - value) / len(labels))


def f1(predictions: Ints, labels: Ints) -> Scores:
    """F1 of class 1, 2 TP / (2 TP + FP + FN); 0 where there is no positive, and no standard error then."""
    p = shares(predictions, labels, n_classes=2)
    weights = np.zeros(p.shape[:-1])
    weights[..., 1] = 1.0
    value, slope = _mean_f1(p, weights)
    return value, np.where(_both_sides(p)[..., 1] > 0, _stderr(p, slope, len(labels)), np.nan)


def macro_f1(predictions: Ints, labels: Ints) -> Scores:
    """Mean over classes of each one's F1; classes that are neither true nor predicted are left out.

    That is scikit-learn's rule. Which classes occur is taken as given in the standard error.
    """
    p = shares(predictions, labels)
    present = (_both_sides(p) > 0).astype(np.float64)
    value, slope = _mean_f1(p, present / present.sum(axis=-1, keepdims=True))
    return value, _stderr(p, slope, len(labels))


def weighted_f1(predictions: Ints, labels: Ints) -> Scores:
    """Mean over classes of each one's F1, weighted by how often the class is true."""
    p = shares(predictions, labels)
    value, slope = _mean_f1(p, p.sum(axis=-1))
    return value, _stderr(p, slope + _f1_of_classes(p)[..., :, None], len(labels))


def balanced_accuracy(predictions: Ints, labels: Ints) -> Scores:
    """Mean over the true classes of each one's recall: what accuracy would be if all were equally frequent."""
    p = shares(predictions, labels)
    present = (p.sum(axis=-1) > 0).astype(np.float64)
    weights = present / present.sum(axis=-1, keepdims=True)
    recalls, slopes = _recalls(p)
    return np.sum(weights * recalls, axis=-1), _stderr(p, weights[..., :, None] * slopes, len(labels))


def recall(predictions: Ints, labels: Ints, *, n_classes: int) -> Scores:
    """Share of each class's examples that are predicted as it, [..., n_classes]; nan for a class that is never true."""
    p = shares(predictions, labels, n_classes=n_classes)
    recalls, slopes = _recalls(p)
    # the examples of other classes have slope 0: the variance is that of the class's own
    variance = np.sum(p * slopes**2, axis=-1)
    present = p.sum(axis=-1) > 0
    return np.where(present, recalls, np.nan), np.where(present, np.sqrt(variance / len(labels)), np.nan)


def matthews(predictions: Ints, labels: Ints) -> Scores:
    """Matthews correlation over K classes.

    With p the K x K table of shares, t its row and q its column sums: (sum_k p_kk - t.q) / sqrt((1 - t.t)(1 - q.q)),
    0 where either has one class only (Gorodkin 2004, eq. 8; for two classes it is the phi coefficient).
    """
    p = shares(predictions, labels)
    t, q = p.sum(axis=-1), p.sum(axis=-2)
    free_t, free_q = 1 - np.sum(t * t, axis=-1), 1 - np.sum(q * q, axis=-1)  # 0 where there is one class
    root = _safe(np.sqrt(free_t * free_q))
    value = np.where(free_t * free_q > 0, (np.trace(p, axis1=-2, axis2=-1) - np.sum(t * q, axis=-1)) / root, 0.0)
    # d value / d p at the cell (i, j): (1[i = j] - q_i - t_j) / root + value (t_i / free_t + q_j / free_q)
    slope = (np.eye(p.shape[-1]) - q[..., :, None] - t[..., None, :]) / root[..., None, None]
    own = (t / _safe(free_t)[..., None])[..., :, None] + (q / _safe(free_q)[..., None])[..., None, :]
    slope = slope + value[..., None, None] * own
    return value, np.where(free_t * free_q > 0, _stderr(p, slope, len(labels)), np.nan)


def shares(predictions: Ints, labels: Ints, *, n_classes: int = 1) -> Floats:
    """Return the shares of (true, predicted) pairs of classes: [..., K, K], K >= n_classes."""
    size = max(n_classes, int(max(predictions.max(), labels.max())) + 1)
    flat = predictions.reshape(-1, len(labels))
    cell = (np.arange(len(flat))[:, None] * size + labels) * size + flat
    counts = np.bincount(cell.ravel(), minlength=len(flat) * size * size)
    return np.asarray(counts.reshape(*predictions.shape[:-1], size, size) / len(labels))


def mse(predictions: Floats, labels: Floats) -> Scores:
    """Mean squared error, and the standard error of that mean."""
    squares = (predictions - labels) ** 2
    return squares.mean(axis=-1), squares.std(axis=-1) / np.sqrt(len(labels))


def pearson(predictions: Floats, labels: Floats) -> Scores:
    """Pearson's correlation r; 0 where either side is constant, and no standard error then.

    Its influence function is z_x z_y - r (z_x^2 + z_y^2) / 2 with z standardised (Devlin, Gnanadesikan and Kettenring
    1975, Biometrika 62).
    """
    x, y = (side - side.mean(axis=-1, keepdims=True) for side in (predictions, np.asarray(labels, dtype=np.float64)))
    return _correlation(x * y, x * x, np.broadcast_to(y * y, x.shape))


def spearman(predictions: Floats, labels: Floats) -> Scores:
    """Spearman's correlation: Pearson's of the ranks, the mean rank for ties.

    With u and v the mid-distribution functions (rank - 1/2) / n of each side, it is cov(u, v) / sqrt(var u var v). An
    example moves its own place and, by h(x) = mean over the others of what lies above x, the places of all others: the
    influence on the covariance is u v + h_v(x) + h_u(y) - 3 mean(u v), on a variance u^2 + 2 h_u(x) - 3 mean(u^2).
    """
    x, y = np.broadcast_arrays(predictions, np.asarray(labels, dtype=np.float64))
    u, v = _middle(x), _middle(y)
    half = 0.25  # the square of the mean of a mid-distribution function, which is 1/2 whatever the ties
    parts = (
        (u * v, _above(x, v) + _above(y, u)),
        (u * u, 2 * _above(x, u)),
        (v * v, 2 * _above(y, v)),
    )
    moments = [own.mean(axis=-1) - half for own, _ in parts]
    influence = [own + moved - 3 * own.mean(axis=-1, keepdims=True) for own, moved in parts]
    return _correlation(*(i + m[..., None] for i, m in zip(influence, moments, strict=True)))


def _correlation(xy: Floats, xx: Floats, yy: Floats) -> Scores:
    """Return mean(xy) / sqrt(mean(xx) mean(yy)) and its standard error, from each example's part of the three means."""
    c, a, b = (part.mean(axis=-1) for part in (xy, xx, yy))
    known = (a > 1e-24) & (b > 1e-24)
    root = np.where(known, np.sqrt(np.where(known, a * b, 1.0)), 1.0)
    value = np.where(known, c / root, 0.0)
    slopes = xy / root[..., None]
    for part, mean in ((xx, a), (yy, b)):
        slopes = slopes - value[..., None] / 2 * part / np.where(known, mean, 1.0)[..., None]
    return value, np.where(known, slopes.std(axis=-1) / np.sqrt(xy.shape[-1]), np.nan)


def _mean_f1(p: Floats, weights: Floats) -> Scores:
    """Return sum_k w_k F1_k and its slope in p, [..., K, K], the weights taken as given.

    F1_k = 2 p_kk / (t_k + q_k), of slope (2 [i = j = k] - F1_k ([i = k] + [j = k])) / (t_k + q_k) at the cell (i, j).
    """
    each = _f1_of_classes(p)
    by_side = weights / _safe(_both_sides(p))
    slope = 2 * by_side[..., :, None] * np.eye(p.shape[-1]) - (by_side * each)[..., :, None]
    return np.sum(weights * each, axis=-1), slope - (by_side * each)[..., None, :]


def _f1_of_classes(p: Floats) -> Floats:
    return 2 * np.diagonal(p, axis1=-2, axis2=-1) / _safe(_both_sides(p))


def _both_sides(p: Floats) -> Floats:
    """Return how often each class is true plus how often it is predicted, as shares: [..., K]."""
    return np.asarray(p.sum(axis=-1) + p.sum(axis=-2))


def _recalls(p: Floats) -> Scores:
    """Return p_kk / t_k, [..., K], and the slope of that of class i at the cell (i, j), [..., K, K]; 0 elsewhere."""
    true = _safe(p.sum(axis=-1))
    value = np.diagonal(p, axis1=-2, axis2=-1) / true
    return value, (np.eye(p.shape[-1]) - value[..., :, None]) / true[..., :, None]


def _stderr(p: Floats, slope: Floats, n: int) -> Floats:
    """Return the standard deviation of the slope over the cells, weighted by their shares, over sqrt(n)."""
    mean = np.sum(p * slope, axis=(-2, -1), keepdims=True)
    return np.asarray(np.sqrt(np.sum(p * (slope - mean) ** 2, axis=(-2, -1)) / n))


def _middle(x: Floats) -> Floats:
    """Return the mid-distribution function at each value: (how many are below + half of those equal) / n."""
    _, place, first, last = _runs(x)
    return np.asarray(np.take_along_axis((first + last + 1) / (2.0 * x.shape[-1]), place, axis=-1))


def _above(x: Floats, v: Floats) -> Floats:
    """Return, for each value, the mean over all examples of v where x is larger, half of it where it is equal."""
    order, place, first, last = _runs(x)
    summed = np.cumsum(np.take_along_axis(v, order, axis=-1), axis=-1)
    before = np.concatenate([np.zeros_like(summed[..., :1]), summed], axis=-1)
    ends = [np.take_along_axis(before, at, axis=-1) for at in (first, last + 1)]
    above = summed[..., -1:] - (ends[0] + ends[1]) / 2
    return np.asarray(np.take_along_axis(above, place, axis=-1) / x.shape[-1])


def _runs(x: Floats) -> tuple[Ints, Ints, Ints, Ints]:
    """Return the sorting order, each value's place in it, and, by place, the ends of its run of equal values."""
    order = np.argsort(x, axis=-1, kind="stable")
    ordered, n = np.take_along_axis(x, order, axis=-1), x.shape[-1]
    new = np.concatenate([np.ones_like(ordered[..., :1], dtype=bool), ordered[..., 1:] != ordered[..., :-1]], axis=-1)
    at = np.broadcast_to(np.arange(n), x.shape)
    first = np.maximum.accumulate(np.where(new, at, 0), axis=-1)
    ending = np.concatenate([new[..., 1:], np.ones_like(new[..., :1])], axis=-1)
    last = np.minimum.accumulate(np.where(ending, at, n - 1)[..., ::-1], axis=-1)[..., ::-1]
    return order, np.argsort(order, axis=-1, kind="stable"), first, last


def _safe(divisor: Floats) -> Floats:
    return np.asarray(np.where(divisor > 0, divisor, 1.0))
