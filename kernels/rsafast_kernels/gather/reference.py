"""Plain float64 products under given permutations: the oracle of every backend."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def gather_products(a: Float, b: Float, permutations: NDArray[np.int32]) -> Float:
    """See `rsafast_kernels.gather.gather_products`."""
    upper = np.triu_indices(a.shape[1], 1)
    fixed = b[:, *upper].T
    out = np.empty((len(a), len(b), len(permutations)))
    for p, pi in enumerate(permutations):
        out[:, :, p] = a[:, pi[:, None], pi[None, :]][:, *upper] @ fixed
    return out
