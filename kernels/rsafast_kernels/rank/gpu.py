"""Average ranks on a GPU: rows are sorted by CuPy, and runs of equal values found in their order.

The bound is that of the sort, and some 100 bytes more for every value: each step reads and writes
whole arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rsafast_kernels.device import namespace

_VALUES = 2**25  # sorted at a time: with their places, 2 to 3 GB


def average_ranks(rows: Any) -> Any:
    """Ranks (k, n) float64 of the values of each row; `rows` (k, n) is a finite CuPy array."""
    xp = namespace(rows)
    ranks = xp.empty(rows.shape, np.float64)
    for some, order, first, end in sorted_rows(rows):
        row = xp.arange(len(order))[:, None]
        ranks[some][row, order] = (first + end + 1) / 2
    return ranks


def sorted_rows(rows: Any) -> Iterator[tuple[slice, Any, Any, Any]]:
    """Sort a few rows (k, n) at a time.

    Yields
    ------
    which rows, and for every place in their order, int64: the value that has it, and where the run
    of values equal to that one begins and ends.
    """
    xp, (count, n) = namespace(rows), rows.shape
    if n == 0:
        return
    step = max(1, _VALUES // n)
    for k in range(0, count, step):
        part = rows[k : k + step]
        order = xp.argsort(part, axis=1)
        values = xp.take_along_axis(part, order, axis=1)
        starts = xp.ones(part.shape, bool)
        starts[:, 1:] = values[:, 1:] != values[:, :-1]
        begins = xp.flatnonzero(starts)
        run = (xp.cumsum(starts.ravel(), dtype=np.int64) - 1).reshape(part.shape)
        ends = xp.append(begins[1:], part.size)
        before = xp.arange(len(part))[:, None] * n
        yield slice(k, k + step), order, begins[run] - before, ends[run] - before


def first_non_finite(rows: Any) -> int:
    """Number of the first value of `rows` that is not finite, or -1."""
    finite = namespace(rows).isfinite(rows).ravel()
    return -1 if bool(finite.all()) else int(finite.argmin())
