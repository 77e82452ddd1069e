"""Products of RDMs on bootstrap resamples, of RDMs that are read in rows and never whole.

As in :mod:`rsafast_kernels.resample` a sum over the pairs of a resample is a sum over the pairs of
the data with weights w_x·w_y. Sixteen resamples are the lanes of vectors, and any number of them
share a pass over the rows.

ranks   Values are told apart as 65,536 classes in their order, such as ranks in as many equal
        steps. A first pass adds up the copies of every class in every resample; their running sum
        gives the average ranks that the class has there; a second pass looks them up and multiplies
        them. Values of one class are tied: exact where there are no more values than classes.
values  Every sum is w' Z w with Z a product of two RDMs, element by element: for many resamples a
        matrix product, in float64.

Memory: 4 MiB for every RDM and 16 resamples (ranks), or 8 bytes for every stimulus and resample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast_kernels._memory import aligned_empty
from rsafast_kernels._native import native
from rsafast_kernels._threads import num_threads
from rsafast_kernels.errors import InvalidInputError

__all__ = ["CLASSES", "LANES", "RankSums", "ValueSums", "working_bytes"]

LANES = 16  # resamples of a vector
CLASSES = 65_536
MAX_COUNT = 255  # of a stimulus in a resample
MAX_DRAWN = 92_681  # stimuli of a resample: its pairs fit 32 bits
_NOISE = 1e-12  # of the squares: what is below is no spread

FloatArray = NDArray[np.float64]
Pairs = Sequence[tuple[int, int]]


class RankSums:
    """Correlations of average ranks on R resamples.

    Parameters
    ----------
    weights : (R, n) counts of every stimulus, at most 255
    rdms : number K of RDMs
    pairs : (a, b) numbers of the RDMs that are correlated

    Examples
    --------
    >>> import numpy as np
    >>> from rsafast_kernels.resample.streaming import RankSums
    >>> values = np.array([[3, 1, 2, 0, 5, 4], [2, 0, 3, 1, 5, 4]], np.uint16)  # of 4 stimuli
    >>> sums = RankSums([[1, 1, 1, 1], [2, 1, 1, 0]], 2, [(0, 1)])
    >>> sums.count(values, 0, 4)
    >>> sums.rank()
    >>> sums.multiply(values, 0, 4)
    >>> sums.correlations().round(3)
    array([[0.829],
           [0.105]])
    """

    def __init__(self, weights: ArrayLike, rdms: int, pairs: Pairs) -> None:
        self._weights, self._total = _packed(weights)
        self._pairs = np.array(pairs, np.int32).reshape(-1, 2)
        groups = len(self._weights)
        self._tables = aligned_empty((groups, rdms, CLASSES, LANES), np.uint32)
        self._tables[:] = 0
        self._squares = np.zeros((groups, rdms, LANES))
        self._sums = np.zeros((groups, len(self._pairs), LANES))
        self._resamples = len(np.asarray(weights))

    def count(self, values: NDArray[np.uint16], first: int, last: int) -> None:
        """First pass: (K, pairs) classes of the rows first..last with all stimuli after them."""
        _check(values, np.uint16, self._tables.shape[1], self._weights.shape[1], first, last)
        native.resample_count_classes(
            values, first, last, self._weights, self._tables, num_threads()
        )

    def rank(self) -> None:
        """Turn counts into ranks, when all rows are counted."""
        native.resample_rank_classes(
            self._tables, self._total, self._squares, num_threads()
        )

    def multiply(self, values: NDArray[np.uint16], first: int, last: int) -> None:
        """Second pass, over the rows in order."""
        _check(values, np.uint16, self._tables.shape[1], self._weights.shape[1], first, last)
        native.resample_multiply_ranks(
            values, first, last, self._weights, self._tables.view(np.float32), self._pairs,
            self._sums, num_threads(),
        )  # fmt: skip

    def correlations(self) -> FloatArray:
        """(R, pairs); NaN where an RDM has no spread in the resample."""
        squares = np.moveaxis(self._squares, 1, 0)
        return _by_resample(_ratio(self._sums, squares, self._pairs), self._resamples)


class ValueSums:
    """Correlations or cosines of values on R resamples.

    Parameters
    ----------
    weights : (R, n) counts of every stimulus, at most 255
    rdms : number K of RDMs
    pairs : (a, b) numbers of the RDMs that are correlated
    centred : subtract the mean of each resample
    """

    def __init__(self, weights: ArrayLike, rdms: int, pairs: Pairs, *, centred: bool) -> None:
        counts, self._total = _packed(weights)
        self._weights = counts.astype(np.float64)
        self._rdms, self._centred = rdms, centred
        self._pairs = np.array(pairs, np.int32).reshape(-1, 2)
        own = np.arange(rdms, dtype=np.int32)
        self._all = np.vstack([self._pairs, np.stack([own, own], 1)])
        self._sums = np.zeros((len(counts), len(self._all) + rdms, LANES))
        self._resamples = len(np.asarray(weights))

    def multiply(self, values: FloatArray, first: int, last: int) -> None:
        """Add (K, pairs) values of the rows first..last, in order.

        Centred ones should lie about 0 with a length near 1: the squares that are subtracted in the
        end are small then.
        """
        _check(values, np.float64, self._rdms, self._weights.shape[1], first, last)
        native.resample_add_values(
            values, first, last, self._weights, self._all, self._sums, num_threads()
        )

    def add(self, sums: FloatArray) -> None:
        """Add what was summed elsewhere, (R, pairs + 2K): products, squares and values."""
        padded = np.zeros((len(self._sums) * LANES, sums.shape[1]))
        padded[: len(sums)] = sums
        self._sums += padded.reshape(-1, LANES, sums.shape[1]).swapaxes(1, 2)

    def correlations(self) -> FloatArray:
        """(R, pairs); NaN where an RDM has no spread in the resample."""
        products, squares, _ = self._moments()
        return _by_resample(_ratio(products, squares, self._pairs), self._resamples)

    def smallest_share(self) -> FloatArray:
        """(R,) of the squares that are left when the mean is subtracted, of the worst RDM.

        Relative errors of correlations are some 1e-15 over it.
        """
        _, squares, raw = self._moments()
        share = np.divide(squares, raw, out=np.zeros_like(raw), where=raw > 0)
        return share.min(axis=0).ravel()[: self._resamples]

    def _moments(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Products (groups, pairs, 16), squares (K, groups, 16), and these before centring."""
        products, own = np.split(self._sums[:, : -self._rdms], [len(self._pairs)], axis=1)
        raw = np.moveaxis(own, 1, 0)
        if not self._centred:
            return products, raw, raw
        sums = np.moveaxis(self._sums[:, -self._rdms :], 1, 0)
        a, b = self._pairs.T
        with np.errstate(divide="ignore", invalid="ignore"):
            products = products - np.moveaxis(sums[a] * sums[b] / self._total, 0, 1)
            squares = raw - sums**2 / self._total
        return products, np.where(squares > _NOISE * raw, squares, 0.0), raw


def working_bytes(n: int, resamples: int, rdms: int, *, ranks: bool) -> int:
    """Bytes of the tables and weights of so many resamples."""
    groups = -(-resamples // LANES)
    if ranks:
        return groups * LANES * (rdms * CLASSES * 4 + n * 2)
    return groups * LANES * n * (8 + 2)


def _packed(weights: ArrayLike) -> tuple[NDArray[np.uint16], FloatArray]:
    """Counts (groups, n, 16), filled up with resamples of nothing; pairs (groups, 16) of each."""
    rows = np.asarray(weights)
    if rows.ndim != 2 or not np.array_equal(rows, counts := rows.astype(np.int64)):
        raise InvalidInputError("weights must be (resamples, n) counts of every stimulus")
    if counts.size and (counts.min() < 0 or counts.max() > MAX_COUNT):
        raise InvalidInputError(
            f"a resample may hold a stimulus 0 to {MAX_COUNT} times, got"
            f" {counts.min()} to {counts.max()}"
        )
    drawn = counts.sum(axis=1)
    if drawn.max(initial=0) > MAX_DRAWN:
        raise InvalidInputError(
            f"a resample may draw at most {MAX_DRAWN} stimuli, got {drawn.max()}"
        )
    groups = -(-len(counts) // LANES)
    padded = np.zeros((groups * LANES, counts.shape[1]), np.uint16)
    padded[: len(counts)] = counts
    pairs = np.zeros(groups * LANES)
    pairs[: len(counts)] = (drawn**2 - (counts**2).sum(axis=1)) / 2
    lanes = padded.reshape(groups, LANES, -1).swapaxes(1, 2)
    return np.ascontiguousarray(lanes), pairs.reshape(groups, LANES)


def _check(
    values: NDArray[np.generic], dtype: type, rdms: int, n: int, first: int, last: int
) -> None:
    pairs = (last - first) * n - (last * (last + 1) - first * (first + 1)) // 2
    if values.dtype != dtype or values.shape != (rdms, pairs) or not values.flags.c_contiguous:
        raise InvalidInputError(
            f"rows {first} to {last} of {rdms} RDMs of {n} stimuli are ({rdms}, {pairs})"
            f" {np.dtype(dtype)} in one piece, got {values.shape} {values.dtype}"
        )


def _ratio(products: FloatArray, squares: FloatArray, pairs: NDArray[np.int32]) -> FloatArray:
    """Products (groups, pairs, 16) by the lengths, of squares (K, groups, 16)."""
    a, b = pairs.T
    scale = np.moveaxis(np.sqrt(squares[a] * squares[b]), 0, 1)
    out = np.full(products.shape, np.nan)
    np.divide(products, scale, out=out, where=scale > 0)
    return out


def _by_resample(values: FloatArray, resamples: int) -> FloatArray:
    """(groups, pairs, 16) to (resamples, pairs)."""
    return values.swapaxes(1, 2).reshape(-1, values.shape[1])[:resamples]
