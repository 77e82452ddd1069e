"""Average ranks of long vectors: one equal-depth partition, every bucket sorted in cache.

Ties share the mean of their ranks (``scipy.stats.rankdata(method="average")``, equal to the last
bit). Both trips of the data, to the buckets and back, are streams: no index is carried and memory
is never walked at random, which is what makes an argsort of 10^7 values slow.
"""

from typing import Any

import numpy as np

from rsafast_kernels._native import native
from rsafast_kernels._threads import threads_for
from rsafast_kernels.device import namespace, on_gpu, to_gpu
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.rank import gpu

__all__ = ["average_ranks"]


def average_ranks(values: Any) -> Any:
    """Rank the values of each row from 1, ties sharing the mean of their ranks.

    Parameters
    ----------
    values : (n,) or (k, n) array, n < 2**32
        Finite. float32 and float64 are read as they are, other numeric types as float64 (integers
        beyond 2**53 would collide there, and are refused). Rows are ranked separately. Never
        modified. A CuPy array or torch CUDA tensor is ranked on its GPU.

    Returns
    -------
    (n,) or (k, n) float64, a NumPy array, or a CuPy array where the values are on a GPU
        Ranks 1..n; equal values (-0.0 equals 0.0) get the mean of the ranks they fill. The result
        is exact: it equals ``scipy.stats.rankdata(values, axis=-1)`` bit for bit, whatever the
        number of threads. Working memory is 10 bytes a value for rows beyond 16,384 values.

    Raises
    ------
    InvalidInputError
        For NaN or infinite values (the first position is named), for more than two dimensions, and
        for types that are not real numbers.

    Examples
    --------
    >>> from rsafast_kernels.rank import average_ranks
    >>> average_ranks([0.5, 0.1, 0.5, 0.9])
    array([2.5, 1. , 2.5, 4. ])
    """
    there = on_gpu(values)
    array = _as_float(to_gpu(values) if there else np.asarray(values))
    if array.ndim not in (1, 2):
        raise InvalidInputError(
            f"values must be (n,) or (k, n), got shape {array.shape}; reshape it first"
        )
    xp = namespace(array)
    rows = xp.ascontiguousarray(xp.atleast_2d(array))
    if rows.shape[1] >= 2**32:
        raise InvalidInputError(
            f"values holds {rows.shape[1]} values a row; the limit is 2**32 - 1"
        )
    workers = threads_for(20.0 * rows.size)
    bad = gpu.first_non_finite(rows) if there else native.first_non_finite(rows, workers)
    if bad >= 0:
        row, column = divmod(bad, rows.shape[1])
        where = f"[{row}, {column}]" if array.ndim == 2 else f"[{column}]"
        raise InvalidInputError(
            f"values{where} is {float(rows[row, column])}; ranks need finite values: drop it or"
            " mask it"
        )
    if there:
        return gpu.average_ranks(rows).reshape(array.shape)
    ranks = np.empty(rows.shape, dtype=np.float64)
    native.rank_average_ranks(rows, ranks, workers)
    return ranks.reshape(array.shape)


def _as_float(array: Any) -> Any:
    if array.dtype in (np.float32, np.float64):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise InvalidInputError(
            f"values must be real numbers of at most 64 bits, got dtype {array.dtype}"
        )
    wide = array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size > 0
    if wide and (int(array.max()) > 2**53 or int(array.min()) < -(2**53)):
        raise InvalidInputError(
            "values holds integers beyond 2**53, which float64 cannot tell apart; "
            "subtract an offset first"
        )
    return array.astype(np.float64)
