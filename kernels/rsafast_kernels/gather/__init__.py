"""Direct permutation: ⟨A_π, B⟩ for a list of permutations, n² / 2 gathered products each.

The oracle of the orbit engine, and the engine for restricted permutations and full enumeration.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels._native import native
from rsafast_kernels._threads import threads_for
from rsafast_kernels.cuda import launch
from rsafast_kernels.device import namespace, on_gpu
from rsafast_kernels.errors import InvalidInputError

__all__ = ["gather_products"]


def gather_products(a: Any, b: Any, permutations: NDArray[np.int32]) -> Any:
    """Sum over pairs x < y of ``a[m, π(x), π(y)] * b[k, x, y]``.

    Parameters
    ----------
    a : (M, n, n) float64, symmetric; the side that is permuted.
    b : (N, n, n) float64, symmetric; the side that stays.
    permutations : (P, n) int32, each row a permutation of 0..n-1.

    All three are NumPy arrays, or CuPy arrays on one GPU.

    Returns
    -------
    (M, N, P) float64, where the arguments are.
    """
    n = a.shape[-1]
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != (n, n) or b.shape[1:] != (n, n):
        raise InvalidInputError(f"a and b must be (matrices, n, n), got {a.shape} and {b.shape}")
    if permutations.ndim != 2 or permutations.shape[1] != n:
        raise InvalidInputError(f"permutations must be (count, {n}), got {permutations.shape}")
    if on_gpu(a, b, permutations):
        return _on_gpu(a, b, permutations)
    out = np.empty((len(a), len(b), len(permutations)))
    native.gather_products(
        np.ascontiguousarray(a),
        np.ascontiguousarray(b),
        np.ascontiguousarray(permutations, dtype=np.int32),
        out,
        threads_for(out.size * n * n / 2),
    )
    return out


_THREADS = 128
_STAGED = 5760  # values of model rows that fit shared memory (cuda.cu)


def _on_gpu(a: Any, b: Any, permutations: Any) -> Any:
    xp, n, count = namespace(a), a.shape[-1], len(permutations)
    out = xp.empty((len(a), len(b), count), np.float64)
    together = 4 if 4 * n <= _STAGED else 1
    kernel = f"gather_products_{together if n <= _STAGED else 'any'}"
    brains = -(-len(b) // 4) if n <= _STAGED else len(b)
    launch(
        "gather", kernel, (-(-count // together), len(a), brains), (_THREADS,),
        xp.ascontiguousarray(a), xp.ascontiguousarray(b), xp.ascontiguousarray(permutations), out,
        np.int32(n), np.int32(len(b)), np.int64(count),
    )  # fmt: skip
    return out
