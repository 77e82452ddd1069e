"""Direct permutation: ⟨A_π, B⟩ for a list of permutations, n² / 2 gathered products each.

The oracle of the orbit engine, and the engine for restricted permutations and full enumeration.
"""

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels._native import native
from rsafast_kernels._threads import threads_for
from rsafast_kernels.errors import InvalidInputError

__all__ = ["gather_products"]


def gather_products(
    a: NDArray[np.float64], b: NDArray[np.float64], permutations: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Sum over pairs x < y of ``a[m, π(x), π(y)] * b[k, x, y]``.

    Parameters
    ----------
    a : (M, n, n) float64, symmetric; the side that is permuted.
    b : (N, n, n) float64, symmetric; the side that stays.
    permutations : (P, n) int32, each row a permutation of 0..n-1.

    Returns
    -------
    (M, N, P) float64.
    """
    n = a.shape[-1]
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != (n, n) or b.shape[1:] != (n, n):
        raise InvalidInputError(f"a and b must be (matrices, n, n), got {a.shape} and {b.shape}")
    if permutations.ndim != 2 or permutations.shape[1] != n:
        raise InvalidInputError(f"permutations must be (count, {n}), got {permutations.shape}")
    out = np.empty((len(a), len(b), len(permutations)))
    native.gather_products(
        np.ascontiguousarray(a),
        np.ascontiguousarray(b),
        np.ascontiguousarray(permutations, dtype=np.int32),
        out,
        threads_for(out.size * n * n / 2),
    )
    return out
