"""Concordant minus discordant pairs, counted pair of pairs by pair of pairs: the oracle."""

import numpy as np
from numpy.typing import NDArray


def concordance(
    a: NDArray[np.float64], b: NDArray[np.float64], permutations: NDArray[np.int32]
) -> NDArray[np.int64]:
    """See `rsafast_kernels.kendall.concordance`."""
    upper = np.triu_indices(a.shape[1], 1)
    out = np.empty((len(a), len(b), len(permutations)), np.int64)
    fixed = [np.sign(np.subtract.outer(v, v)) for v in b[:, *upper]]
    for p, pi in enumerate(permutations):
        for m, matrix in enumerate(a):
            vector = matrix[np.ix_(pi, pi)][upper]
            signs = np.sign(np.subtract.outer(vector, vector))
            out[m, :, p] = [int((signs * other).sum()) // 2 for other in fixed]
    return out
