"""Average ranks in plain NumPy: the k-th distinct value, held by c values, ranks at their mean."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def average_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Rank the last axis from 1, ties sharing their mean rank; float64, shape of `values`."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2:
        return np.array([average_ranks(row) for row in array]).reshape(array.shape)
    _, which, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]
