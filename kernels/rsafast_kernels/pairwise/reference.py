"""Pairwise distances in plain NumPy, float64, straight from their definitions, a pair at a time."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def _pairs(n: int, distance: Callable[[int, int], float]) -> FloatArray:
    return np.array([distance(i, j) for i in range(n) for j in range(i + 1, n)], dtype=np.float64)


def pairwise_distances(
    x: ArrayLike,
    metric: str,
    *,
    precision: ArrayLike | None = None,
    prior_lambda: float = 1.0,
    prior_weight: float = 0.1,
) -> FloatArray:
    """Condensed distances of the rows of (n, p); crossnobis takes (folds, n, p)."""
    x = np.asarray(x, dtype=np.float64)
    n, p = x.shape[-2:]
    inverse = np.eye(p) if precision is None else np.asarray(precision, dtype=np.float64)
    if metric == "correlation":
        z = x - x.mean(axis=1, keepdims=True)
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        # 1 - r without its cancellation.
        return _pairs(n, lambda i, j: 0.5 * ((z[i] - z[j]) ** 2).sum())
    if metric == "cosine":
        z = x / np.linalg.norm(x, axis=1, keepdims=True)
        return _pairs(n, lambda i, j: 0.5 * ((z[i] - z[j]) ** 2).sum())
    if metric == "euclidean":
        return _pairs(n, lambda i, j: np.sqrt(((x[i] - x[j]) ** 2).sum()))
    if metric == "sqeuclidean":
        return _pairs(n, lambda i, j: ((x[i] - x[j]) ** 2).sum())
    if metric == "cityblock":
        return _pairs(n, lambda i, j: np.abs(x[i] - x[j]).sum())
    if metric == "mahalanobis":
        return _pairs(n, lambda i, j: np.sqrt((x[i] - x[j]) @ inverse @ (x[i] - x[j])))
    if metric == "poisson":
        rate = (x + prior_lambda * prior_weight) / (1 + prior_weight)
        log = np.log(rate)
        return _pairs(n, lambda i, j: ((rate[i] - rate[j]) * (log[i] - log[j])).sum())
    if metric == "crossnobis":
        return _pairs(n, lambda i, j: _crossnobis(x[:, i] - x[:, j], inverse))
    raise ValueError(metric)


def _crossnobis(difference: FloatArray, inverse: FloatArray) -> float:
    """Mean over folds of (mean difference of the others)' precision (difference of the fold)."""
    folds = len(difference)
    each = [
        np.delete(difference, m, axis=0).mean(axis=0) @ inverse @ difference[m]
        for m in range(folds)
    ]
    return float(np.mean(each))
