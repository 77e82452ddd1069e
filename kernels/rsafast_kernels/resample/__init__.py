"""Products of RDMs on bootstrap resamples of the stimuli, without writing the resamples out.

A resample that draws stimulus x w_x times has, between different stimuli, w_x·w_y copies of the
dissimilarity of the pair (x, y); copies of one stimulus have none. So every sum over the pairs of
the resample is a sum over the pairs of the data with weights w_x·w_y, and three things follow:

ranks      The order of the pairs never changes: sort once. The average rank in a resample is the
           running sum of the weights over that order, at the middle of the pair's own copies. 16
           resamples are ranked in one walk over the order, exactly, in integers.
whitening  V, the covariance of dissimilarities, acts on F(x, y) of the resample as
           2F + S_x + S_y with S_x = Σ_z w_z F(x, z), so that with row sums f_x = Σ_z w_z f(x, z)
           and c_x = w_x / (2 + n - 2 w_x):
           ⟨f, V⁻¹ g⟩ = ½ [ Σ w_x w_y f g - Σ c_x f_x g_x + (Σ c_x f_x)(Σ c_x g_x) / (1 + Σ c_x) ].
products   The pairs that a resample holds (two in five of a bootstrap's) are written side by side,
           a few RDMs at a time, and one matrix product in float64 serves all models and all brain
           RDMs. Products of centred ranks are sums of integers, exact up to some 800 stimuli
           (float32 would be twice as fast at the products, and wrong by up to 10^-9).

Memory: 8 bytes a pair and RDM, and working arrays that do not grow with the number of resamples:
the prepared `b` of 16 resamples (at most 1 GiB), up to 32 RDMs of 16 resamples (at most 2 GiB over
all threads), and 64 bytes a pair and thread. They are taken anew by every call: hand over a hundred
resamples or more at a time. On a GPU see gpu.py.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast_kernels._native import native
from rsafast_kernels._threads import num_threads
from rsafast_kernels.device import namespace, on_gpu, to_gpu
from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError
from rsafast_kernels.rank import average_ranks
from rsafast_kernels.resample.gpu import GpuResampler

__all__ = ["Products", "Resampler", "weighted_ranks"]

MAX_STIMULI = 16_383  # four times the number of a stimulus fits 16 bits
MAX_DRAWN = 46_340  # stimuli of one resample: twice its pairs fit 32 bits
_ROWS = 16  # RDMs sorted at a time

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Products:
    """What similarities on R resamples are made of.

    Attributes
    ----------
    products : (R, M, N) inner products of the prepared vectors of `a` and `b`; with groups
        (R, M, groups) those of `a` with the sum over a group of `b`, each divided by its length.
    squares_a, squares_b : (R, M) and (R, N) inner products of each vector with itself; exactly 0
        where an RDM has no spread in the resample (less than 1e-12 of its length).
    pairs : (R,) pairs of different stimuli that the resample holds, copies counted.
    """

    products: FloatArray
    squares_a: FloatArray
    squares_b: FloatArray
    pairs: FloatArray


class Resampler:
    """RDMs of two sides, prepared once for any number of resamples.

    Parameters
    ----------
    a, b : (M, pairs) and (N, pairs) float64 dissimilarities in squareform order; NumPy arrays, or
        CuPy arrays on one GPU, which then makes the products
    n : stimuli, at most 16,383
    ranks : replace values by their average ranks in the resample
    centred : subtract the mean over the pairs of the resample
    whitened : multiply by V^(-1/2) of the resample (without a mask, and on the CPU only)
    keep : (pairs,) bool, optional
        Pairs that count; values elsewhere are never read and may be NaN.
    groups : (N,) group of every RDM of `b`: 0, 0, 1, 1, 1, 2, ..., optional
        Where only the mean similarity to a group is asked for: the products of a whole group cost
        what those of one RDM do.
    budget : bytes of GPU memory for working arrays, by default four fifths of what is free

    Raises
    ------
    InvalidInputError
        For shapes that do not fit `n`, for values that are not finite where `keep` is true, and for
        whitened products under a mask.
    UnsupportedCaseError
        For whitened products of CuPy arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from rsafast_kernels.resample import Resampler
    >>> rng = np.random.default_rng(0)
    >>> resampler = Resampler(rng.random((2, 15)), rng.random((3, 15)), 6, ranks=True, centred=True)
    >>> resampler([[1, 1, 1, 1, 1, 1], [2, 0, 1, 2, 0, 1]]).pairs
    array([15., 13.])
    """

    def __init__(
        self,
        a: Any,
        b: Any,
        n: int,
        *,
        ranks: bool = False,
        centred: bool = False,
        whitened: bool = False,
        keep: NDArray[np.bool_] | None = None,
        groups: ArrayLike | None = None,
        budget: int | None = None,
    ) -> None:
        if not 2 <= n <= MAX_STIMULI:
            raise InvalidInputError(f"n must be from 2 to {MAX_STIMULI} stimuli, got {n}")
        pairs = n * (n - 1) // 2
        self._n = n
        self._keep = np.ones(pairs, bool) if keep is None else np.asarray(keep, bool)
        if self._keep.shape != (pairs,):
            raise InvalidInputError(f"keep must be ({pairs},), got {self._keep.shape}")
        self._masked = not self._keep.all()
        if whitened and self._masked:
            raise InvalidInputError("whitened products are not defined under a mask")
        self._ranks, self._centred, self._whitened = ranks, centred, whitened
        there = on_gpu(a, b)
        sides = [_checked(v, pairs, name, there) for v, name in ((a, "a"), (b, "b"))]
        self._groups = groups
        self._group_begin = _begins(groups, len(sides[1]))
        self._gpu = None
        if there:
            if whitened:
                raise UnsupportedCaseError(
                    "whitened products have no GPU kernel; hand over NumPy arrays"
                )
            _check_finite_on_gpu(sides, self._keep)
            self._gpu = GpuResampler(
                sides[0], sides[1], n, self._keep, self._group_begin, ranks=ranks, centred=centred,
                budget=budget,
            )  # fmt: skip
            return
        self._prepared: list[tuple[NDArray[Any], ...]] = [
            _sorted(v, self._keep, n) if ranks else (_padded(v, self._keep, n),) for v in sides
        ]
        self._padded_keep = np.zeros(0, np.int32)
        if self._masked:
            counted = self._keep[None].astype(np.float64)
            self._padded_keep = _padded(counted, self._keep, n)[0].astype(np.int32)

    def __call__(self, weights: ArrayLike) -> Products:
        """Products on the resamples `weights`, (R, n) counts of every stimulus; NumPy arrays."""
        rows = _counts(weights, self._n)
        if self._gpu is not None:
            return Products(*self._gpu(rows))
        if self._ranks and self._whitened:
            return _joined([self._whitened_ranks(row) for row in rows], *self._sizes())
        # The side with fewer RDMs, or with groups, is the one that is held for all of the other.
        grouped = self._groups is not None
        swapped = not grouped and len(self._prepared[0][0]) < len(self._prepared[1][0])
        first, second = reversed(self._prepared) if swapped else self._prepared
        held = len(self._group_begin) - 1 if grouped else len(second[0])
        products, pairs = np.empty((len(rows), len(first[0]), held)), np.empty(len(rows))
        squares = [np.empty((len(rows), len(side[0]))) for side in (first, second)]
        head = (
            self._n, *first, *second, self._group_begin, rows, self._padded_keep, self._centred
        )  # fmt: skip
        out = (products, *squares, pairs, num_threads())
        if self._ranks:
            native.resample_ranked(*head, *out)
        else:
            native.resample_values(*head, self._whitened, *out)
        if swapped:
            return Products(products.transpose(0, 2, 1), squares[1], squares[0], pairs)
        return Products(products, squares[0], squares[1], pairs)

    def ranks(self, weights: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Average ranks (M, pairs) and (N, pairs) in one resample (n,); 0 for absent pairs."""
        if not self._ranks or self._gpu is not None:
            raise InvalidInputError("ranks need a Resampler of NumPy arrays, made with ranks=True")
        row = _counts(np.asarray(weights)[None], self._n)[0]
        out = []
        for order, _, _, tied in self._prepared:
            out.append(np.empty((len(order), len(self._keep))))
            native.resample_rank_one(self._n, order, tied, row, out[-1], num_threads())
        return out[0], out[1]

    def _sizes(self) -> tuple[int, int, int]:
        models, brains = (len(side[0]) for side in self._prepared)
        return models, brains, brains if self._groups is None else len(self._group_begin) - 1

    def _whitened_ranks(self, row: NDArray[np.int32]) -> Products:
        ranked = Resampler(
            *self.ranks(row), self._n, centred=self._centred, whitened=True, groups=self._groups
        )
        return ranked(row[None])


def weighted_ranks(values: ArrayLike, weights: ArrayLike) -> FloatArray:
    """Average ranks (K, P) of values (K, P) that occur `weights` (P,) times each.

    Weights are whole numbers. A value that occurs no time gets 0, is not read and may be NaN.
    """
    rows, counts = np.atleast_2d(np.asarray(values, np.float64)), np.asarray(weights)
    there = counts > 0
    out = np.zeros(rows.shape)
    held = counts[there].astype(np.float64)
    for row, ranked in zip(rows, out, strict=True):
        # Twice the unweighted average rank tells tied groups apart, in order.
        places = (2 * average_ranks(row[there])).astype(np.intp)
        copies = np.bincount(places, held)
        ranked[there] = (np.cumsum(copies) - (copies - 1) / 2)[places]
    return out


def _checked(values: Any, pairs: int, name: str, there: bool) -> Any:
    rows = to_gpu(values) if there else values
    rows = namespace(rows).ascontiguousarray(rows, np.float64)
    if rows.ndim != 2 or rows.shape[1] != pairs:
        raise InvalidInputError(f"{name} must be (RDMs, {pairs}), got {rows.shape}")
    return rows


def _counts(weights: ArrayLike, n: int) -> NDArray[np.int32]:
    rows = np.asarray(weights)
    if rows.ndim != 2 or rows.shape[1] != n:
        raise InvalidInputError(f"weights must be (resamples, {n}), got {rows.shape}")
    with np.errstate(invalid="ignore"):  # NaN is refused below
        counts = np.ascontiguousarray(rows, np.int32)
    if not np.array_equal(counts, rows) or (counts < 0).any():
        raise InvalidInputError("weights must be counts (0, 1, 2, ...) of every stimulus")
    drawn = int(counts.sum(axis=1, dtype=np.int64).max(initial=0))
    if drawn > MAX_DRAWN:
        raise InvalidInputError(
            f"a resample may draw at most {MAX_DRAWN} stimuli, got {drawn}; divide the weights"
        )
    return counts


def _begins(groups: ArrayLike | None, rdms: int) -> NDArray[np.int32]:
    """Where every group begins, and the end; empty without groups."""
    if groups is None:
        return np.zeros(0, np.int32)
    numbers = np.asarray(groups)
    if numbers.shape != (rdms,) or not np.array_equal(
        numbers, np.unique(numbers, return_inverse=True)[1]
    ) or (np.diff(numbers) < 0).any():
        raise InvalidInputError(
            f"groups must number the {rdms} RDMs of b by group: 0, 0, 1, 1, 1, 2, ...; got"
            f" {numbers.tolist()}"
        )
    return np.concatenate([[0], np.cumsum(np.bincount(numbers))]).astype(np.int32)


def _check_finite_on_gpu(sides: list[Any], keep: NDArray[np.bool_]) -> None:
    for values in sides:
        xp = namespace(values)
        if not bool((xp.isfinite(values) | ~xp.asarray(keep)).all()):
            raise InvalidInputError("dissimilarities must be finite where keep is true")


def _padded(values: FloatArray, keep: NDArray[np.bool_], n: int) -> FloatArray:
    out = np.empty((len(values), native.resample_padded_pairs(n)))
    native.resample_pad(n, values, keep.view(np.uint8), out, num_threads())
    if not np.isfinite(out).all():
        raise InvalidInputError("dissimilarities must be finite where keep is true")
    return out


def _sorted(values: FloatArray, keep: NDArray[np.bool_], n: int) -> tuple[NDArray[Any], ...]:
    count, padded = int(keep.sum()), native.resample_padded_pairs(n)
    order = np.empty((len(values), count), np.uint32)
    slot, chunk = (np.empty((len(values), padded), np.uint16) for _ in range(2))
    tied = np.empty(len(values), np.uint8)
    for k in range(0, len(values), _ROWS):
        some = slice(k, k + _ROWS)
        ranks = average_ranks(np.ascontiguousarray(values[some][:, keep]))
        native.resample_sort(
            n, ranks, keep.view(np.uint8), order[some], slot[some], chunk[some], tied[some],
            num_threads(),
        )  # fmt: skip
    return order, slot, chunk, tied


def _joined(parts: list[Products], models: int, brains: int, columns: int) -> Products:
    empty = np.zeros((0, models, columns)), np.zeros((0, models)), np.zeros((0, brains))
    together = zip(*[(p.products, p.squares_a, p.squares_b, p.pairs) for p in parts], strict=True)
    return Products(*map(np.concatenate, together)) if parts else Products(*empty, np.zeros(0))
