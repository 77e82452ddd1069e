"""Kendall's concordance of two RDMs under relabelling, by Knight's (1966) O(N log N) count.

The pairs of A are sorted once; a relabelling only changes which entry of B stands beside each.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rsafast_kernels._native import native
from rsafast_kernels._threads import threads_for

__all__ = ["concordance", "concordance_of_vectors", "tied_pairs"]


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
    fixed = np.ascontiguousarray(b[:, x, y])
    dense = np.zeros((len(b), n, n), np.int32)
    dense[:, x, y] = dense[:, y, x] = _dense_ranks(fixed)
    places = np.stack([x, y], axis=1).astype(np.int32)
    return _count(np.ascontiguousarray(a[:, x, y]), places, fixed, dense, permutations)


def concordance_of_vectors(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.int64]:
    """Concordant minus discordant pairs of entries of (M, m) and (N, m) vectors: (M, N) int64."""
    m = a.shape[1]
    places = np.stack([np.zeros(m), np.arange(m)], axis=1).astype(np.int32)
    identity = np.arange(m, dtype=np.int32)[None]
    return _count(a, places, b, _dense_ranks(b)[:, None, :], identity)[:, :, 0]


def _dense_ranks(vectors: NDArray[np.float64]) -> NDArray[np.int32]:
    return rankdata(vectors, method="dense", axis=1).astype(np.int32)


def _count(
    a: NDArray[np.float64],
    places: NDArray[np.int32],
    b: NDArray[np.float64],
    dense: NDArray[np.int32],
    permutations: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Sort every vector of `a` once and count against the brains that stand in `dense`."""
    ascending = np.argsort(a, axis=1, kind="stable")
    ordered = np.take_along_axis(a, ascending, axis=1)
    edges = [np.flatnonzero(np.r_[True, row[1:] != row[:-1], True]) for row in ordered]
    entries = a.shape[1]
    tied = [np.array([tied_pairs(v) for v in side], np.int64) for side in (a, b)]
    constant = entries * (entries - 1) // 2 - tied[0][:, None] - tied[1][None, :]
    out = np.empty((len(a), len(b), len(permutations)), np.int64)
    native.kendall_concordance(
        np.ascontiguousarray(places[ascending]),
        np.concatenate(edges),
        np.cumsum([0, *(len(e) for e in edges)], dtype=np.int64),
        np.ascontiguousarray(dense),
        np.ascontiguousarray(constant),
        np.ascontiguousarray(permutations, dtype=np.int32),
        out,
        threads_for(20.0 * out.size * entries),
    )
    return out
