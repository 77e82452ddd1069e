"""Plain float64 orbit products, one relabelling at a time: the oracle of every backend."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Index = NDArray[np.int32]


def permutation(g: Index, r: Index, shift: int) -> Index:
    """Relabelling that entry (g, r, shift) of the orbit stands for: ``g ∘ c^shift ∘ r⁻¹``."""
    n = len(g)
    inverse = np.argsort(r)
    return g[(inverse + shift) % n].astype(np.int32)


def orbit_products(a: Float, b: Float, g: Index, r: Index) -> Float:
    """Sum over pairs of ``a[m][π][:, π] * b[k]`` for every π of the orbit, directly.

    Shapes: a (M, n, n), b (N, n, n), g (I, n), r (J, n); returns (I, M, J, N, n).
    """
    n = a.shape[1]
    rows, columns = np.triu_indices(n, 1)
    stacks = a.reshape(len(a), n * n)
    kept = b[:, rows, columns].T
    out = np.empty((len(g), len(a), len(r), len(b), n))
    for i in range(len(g)):
        for j in range(len(r)):
            for s in range(n):
                pi = permutation(g[i], r[j], s)
                # As a[:, pi[rows], pi[columns]], in a third of the time.
                out[i, :, j, :, s] = stacks.take(pi[rows] * n + pi[columns], axis=1) @ kept
    return out
