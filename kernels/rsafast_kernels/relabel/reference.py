"""Relabellings drawn with NumPy's own Philox: the oracle of every backend."""

import numpy as np
from numpy.typing import NDArray


def relabelings(
    seed: int, stream: int, start: int, count: int, groups: NDArray[np.int32]
) -> NDArray[np.int32]:
    """See `rsafast_kernels.relabel.relabelings`."""
    n = len(groups)
    slots = np.argsort(groups, kind="stable")
    out = np.empty((count, n), np.int32)
    key = np.array([seed, stream], np.uint64)
    for i in range(count):
        counter = np.array([0, start + i, 0, 0], np.uint64)
        words = np.random.Philox(key=key, counter=counter).random_raw(n)
        out[i, slots] = np.lexsort((words, groups))
    return out
