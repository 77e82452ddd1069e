"""Condensed vectors and square matrices: the shape rules, the checks, the conversions.

A condensed vector holds the n(n-1)/2 dissimilarities of one RDM in the order of
:func:`scipy.spatial.distance.squareform`: the upper triangle, row by row.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError

FloatArray = NDArray[np.float64]

MIN_STIMULI = 4
_EDGE = 64  # rows whose columns are copied at once, while both are in cache
# Elements of a matrix block that is checked at once: 2 MiB of float64, so that it stays in cache.
_BLOCK = 1 << 18


def n_pairs(n: int) -> int:
    """Pairs among `n` stimuli."""
    return n * (n - 1) // 2


def n_from_pairs(pairs: int) -> int | None:
    """Stimuli of a condensed vector of `pairs` values, None where no number of stimuli fits."""
    n = (1 + isqrt(1 + 8 * pairs)) // 2
    return n if n_pairs(n) == pairs else None


def row_start(row: int, n: int) -> int:
    """Where the pairs of a row with the stimuli after it start in the condensed vector."""
    return row * n - row * (row + 1) // 2


def condensed_index(first: NDArray[Any], second: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Places in the condensed vector of the pairs (first, second), first != second."""
    low = np.minimum(first, second).astype(np.int64)
    high = np.maximum(first, second).astype(np.int64)
    return low * n - low * (low + 1) // 2 + high - low - 1


def pair_at(position: int, n: int) -> tuple[int, int]:
    """Row and column (row < column) of a place in the condensed vector."""
    ends = np.cumsum(np.arange(n - 1, 0, -1))
    row = int(np.searchsorted(ends, position, side="right"))
    before = int(ends[row - 1]) if row else 0
    return row, position - before + row + 1


def select_stimuli(vectors: FloatArray, n: int, order: NDArray[np.int64]) -> FloatArray:
    """Condensed vectors of the stimuli `order` (m,) out of `n`, in that order: (k, m(m-1)/2)."""
    m = len(order)
    out = np.empty((len(vectors), n_pairs(m)))
    start = 0
    for row in range(m - 1):
        stop = start + m - 1 - row
        places = condensed_index(order[row], order[row + 1 :], n)
        out[:, start:stop] = vectors[:, places]
        start = stop
    return out


def expand(vectors: FloatArray, n: int) -> FloatArray:
    """Square matrices (k, n, n) of condensed vectors (k, n(n-1)/2); the diagonal is zero."""
    out = np.zeros((len(vectors), n, n))
    start = 0
    for row in range(n - 1):
        stop = start + n - 1 - row
        out[:, row, row + 1 :] = vectors[:, start:stop]
        start = stop
    for first in range(0, n, _EDGE):
        last = min(first + _EDGE, n)
        corner = out[:, first:last, first:last]
        corner += corner.transpose(0, 2, 1)
        out[:, last:, first:last] = out[:, first:last, last:].transpose(0, 2, 1)
    return out


def as_real_array(values: Any) -> NDArray[Any]:
    """`values` as a bool, integer or floating array; raise for anything else."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"dissimilarities must be one regular numeric array; numpy says: {error}"
        ) from None
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"dissimilarities must be real numbers, got dtype {array.dtype}; "
            "convert them with .astype(float) (for complex values decide which part is meant)"
        )
    if array.size == 0:
        raise InvalidInputError(f"dissimilarities are empty: shape {array.shape}")
    return array


def condense(values: Any) -> FloatArray:
    """Read any accepted shape and return new condensed vectors (k, pairs), float64.

    Accepted: (pairs,), (k, pairs), (n, n) and (k, n, n). A square 2-D array is one matrix, with
    one exception: where its side is itself a number of pairs (6, 10, 15, 21, ...) it may also be a
    stack of vectors. There, symmetric with a zero diagonal means one matrix, neither symmetric
    nor zero on the diagonal means a stack, and anything between raises.
    """
    array = as_real_array(values)
    if array.ndim == 1:
        return checked_vectors(array[np.newaxis])
    if array.ndim == 2:
        rows, columns = array.shape
        if rows == columns and (n_from_pairs(columns) is None or _is_one_matrix(array)):
            return _condense_matrices(array[np.newaxis])
        return checked_vectors(array)
    if array.ndim == 3 and array.shape[1] == array.shape[2]:
        return _condense_matrices(array)
    raise InvalidInputError(
        "dissimilarities must have shape (pairs,), (k, pairs), (n, n) or (k, n, n), "
        f"got {array.shape}"
    )


def checked_vectors(array: NDArray[Any]) -> FloatArray:
    """A float64 copy of (k, pairs) `array`, after a check of the number of pairs."""
    if array.ndim != 2:
        raise InvalidInputError(f"condensed vectors must have shape (k, pairs), got {array.shape}")
    pairs = array.shape[1]
    n = n_from_pairs(pairs)
    if n is None:
        below = (1 + isqrt(1 + 8 * pairs)) // 2
        near = [f"{n_pairs(m)} (n = {m})" for m in (below, below + 1) if m >= MIN_STIMULI]
        raise InvalidInputError(
            f"dissimilarities of shape {array.shape}: {pairs} is no number of pairs n(n-1)/2; "
            f"the nearest are {' and '.join(near) or '6 (n = 4)'}. Pass vectors in "
            "scipy.squareform order as (k, pairs), or square matrices as (k, n, n)"
        )
    _check_n(n)
    return np.array(array, dtype=np.float64, order="C")


def _check_n(n: int) -> None:
    if n < MIN_STIMULI:
        raise InvalidInputError(
            f"an RDM needs at least {MIN_STIMULI} stimuli, got {n}: fewer leave nothing to permute"
        )


def _is_one_matrix(array: NDArray[Any]) -> bool:
    """Tell a matrix from a stack of vectors where the shape allows both; raise if unclear."""
    values = array.astype(np.float64)
    tolerance = _tolerance(array)
    hollow = bool(np.all(np.nan_to_num(np.abs(np.diagonal(values))) <= tolerance))
    symmetric = bool(np.allclose(values, values.T, rtol=0, atol=tolerance, equal_nan=True))
    if hollow == symmetric:
        return hollow
    side = len(array)
    seen = "zero on the diagonal but not symmetric" if hollow else "symmetric but not zero on it"
    raise InvalidInputError(
        f"dissimilarities of shape {array.shape} are {seen}, so they may be one damaged "
        f"({side}, {side}) matrix or {side} vectors over {n_from_pairs(side)} stimuli; "
        "pass x[None] for one matrix, RDMs.from_vectors(x) for vectors"
    )


def _tolerance(matrix: NDArray[Any]) -> float:
    """Rounding allowed in a matrix: 1e-8 of its largest value, more for float32 and float16."""
    finite = matrix if np.isfinite(matrix).all() else matrix[np.isfinite(matrix)]
    scale = max(float(finite.max()), -float(finite.min())) if finite.size else 0.0
    eps = float(np.finfo(matrix.dtype).eps) if matrix.dtype.kind == "f" else 0.0
    return max(1e-8, 8 * eps) * scale


def _condense_matrices(matrices: NDArray[Any]) -> FloatArray:
    """Condensed vectors of (k, n, n), after checks; rounding asymmetry is averaged away."""
    k, n, _ = matrices.shape
    _check_n(n)
    out = np.empty((k, n_pairs(n)))
    rows = min(n, max(1, _BLOCK // n))
    for index in range(k):
        matrix = matrices[index]
        tolerance = _tolerance(matrix)
        _check_diagonal(matrix, tolerance, index)
        for start in range(0, n, rows):
            block = _symmetric_block(matrix, start, min(start + rows, n), tolerance, index)
            for i, row in enumerate(block):
                at = start + i
                first = row_start(at, n)
                out[index, first : first + n - 1 - at] = row[i + 1 :]
    return out


def _symmetric_block(
    matrix: NDArray[Any], start: int, stop: int, tolerance: float, index: int
) -> FloatArray:
    """Rows start..stop from the diagonal on, averaged with the columns that mirror them."""
    upper = matrix[start:stop, start:].astype(np.float64)
    lower = matrix[start:, start:stop].T.astype(np.float64)
    same = upper == lower
    if same.all():
        return upper
    _check_symmetry(upper, lower, tolerance, index, start)
    with np.errstate(invalid="ignore"):
        # Equal sides are kept bit for bit; infinities too, for the caller to refuse.
        return np.where(same, upper, upper + 0.5 * (lower - upper))


def _check_diagonal(matrix: NDArray[Any], tolerance: float, index: int) -> None:
    diagonal = np.diagonal(matrix).astype(np.float64)
    bad = np.flatnonzero(np.nan_to_num(np.abs(diagonal)) > tolerance)
    if bad.size:
        i = int(bad[0])
        hint = (
            "; ones on the diagonal suggest similarities: pass 1 - x"
            if np.allclose(diagonal, 1.0)
            else "; set it to zero if only the off-diagonal values matter"
        )
        raise InvalidInputError(
            f"RDM {index}: the diagonal must be zero, got {diagonal[i]:.6g} at ({i}, {i}){hint}"
        )


def _check_symmetry(
    upper: FloatArray, lower: FloatArray, tolerance: float, index: int, start: int
) -> None:
    same = (upper == lower) | (np.isnan(upper) & np.isnan(lower))
    with np.errstate(invalid="ignore"):
        same |= np.abs(upper - lower) <= tolerance
    if not same.all():
        row, column = (int(x) for x in np.argwhere(~same)[0])
        i, j = row + start, column + start
        raise InvalidInputError(
            f"RDM {index} is not symmetric: ({i}, {j}) is {upper[row, column]:.9g} and "
            f"({j}, {i}) is {lower[row, column]:.9g}; pass (x + x.T) / 2 if it should be"
        )
