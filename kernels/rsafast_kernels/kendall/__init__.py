"""Kendall's concordance of two RDMs under relabelling, by Knight's (1966) O(N log N) count.

The pairs of A are sorted once; a relabelling only changes which entry of B stands beside each.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rsafast_kernels._native import native
from rsafast_kernels._threads import num_threads

__all__ = ["concordance", "tied_pairs"]


def tied_pairs(vector: NDArray[np.float64]) -> int:
    """Number of pairs of equal values."""
    counts = np.unique(vector, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def concordance(
    a: NDArray[np.float64], b: NDArray[np.float64], permutations: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Concordant minus discordant pairs of entries of ``a[m]`` relabelled by π and ``b[k]``.

    Parameters
    ----------
    a : (M, n, n) float64, symmetric; the side that is permuted.
    b : (N, n, n) float64, symmetric; the side that stays.
    permutations : (P, n) int32.

    Returns
    -------
    (M, N, P) int64. Divided by N(N-1)/2, N = n(n-1)/2, it is tau-a.
    """
    n = a.shape[1]
    x, y = np.triu_indices(n, 1)
    pairs = len(x)
    stimuli = np.stack([x, y], axis=1).astype(np.int32)
    order = np.empty((len(a), pairs, 2), np.int32)
    edges: list[NDArray[np.int64]] = []
    tied_a = np.empty(len(a), np.int64)
    for m, matrix in enumerate(a):
        vector = matrix[x, y]
        ascending = np.argsort(vector, kind="stable")
        order[m] = stimuli[ascending]
        ordered = vector[ascending]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
        edges.append(starts.astype(np.int64))
        tied_a[m] = tied_pairs(vector)
    ranks = np.zeros((len(b), n, n), np.int32)
    tied_b = np.empty(len(b), np.int64)
    for k, matrix in enumerate(b):
        dense = rankdata(matrix[x, y], method="dense")
        ranks[k, x, y] = ranks[k, y, x] = dense
        tied_b[k] = tied_pairs(dense)
    constant = pairs * (pairs - 1) // 2 - tied_a[:, None] - tied_b[None, :]
    out = np.empty((len(a), len(b), len(permutations)), np.int64)
    native.kendall_concordance(
        order,
        np.concatenate(edges),
        np.cumsum([0, *(len(e) for e in edges)], dtype=np.int64),
        ranks,
        np.ascontiguousarray(constant),
        np.ascontiguousarray(permutations, dtype=np.int32),
        out,
        num_threads(),
    )
    return out
