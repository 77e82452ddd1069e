"""Products of RDMs on resamples on a GPU: RDMs written out by a kernel, and multiplied by cuBLAS.

    order of every RDM's pairs, once --scan of weights, for each (resample, RDM)--> twice the ranks
    values --mean, then deviations, for each (resample, RDM)--> values about 0
    (part, RDM a, pair) x (part, pair, RDM b) --products, a part of 2048 pairs at a time--> sums

A resample holds some P' = P / 2.5 of the P pairs of the data. With K = M + N RDMs, a resample takes
4PK bytes of order (12PK with ties; resamples walked side by side share them in the L2 cache), 8P'K
written and 8P'K read again: 10PK in all; and 2P'MN operations in float64. For n = 720 and 40 x 10
RDMs on a card that makes 60 TFLOP/s and moves 3.3 TB/s, the bound is 40 µs a resample by the
bytes, and 1.4 µs by the operations. Ranks are scattered: the L2 cache takes 32 bytes for each of 8.

Where the RDMs are few, sums of values over all pairs of stimuli cost less (`ValueProducts`): with
Z = a_m b_n, element by element, w' Z w takes 2n² operations a product and resample, and Z is read
once for all resamples: 9 µs for the same shape.

Sums of whole numbers below 2**53 (ranks of up to some 800 stimuli) are exact, and equal to the
CPU's; others differ by rounding, also with how many resamples are multiplied at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels.cuda import launch
from rsafast_kernels.device import free_bytes, namespace, room_for, to_host
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.rank.gpu import sorted_rows

_THREADS = 256
_PART = 2048  # pairs of a product; 65,535 products, which cuBLAS takes at a time, hold any RDM
_MOST_PRODUCTS = 65_535
_STAGED = 4096  # stimuli of a resample that fit shared memory (cuda.cu)
_SHARE = 0.8  # of the memory that is free

FloatArray = NDArray[np.float64]
Counts = NDArray[np.int32]
Sums = tuple[FloatArray, FloatArray, FloatArray, FloatArray]


class Batch:
    """Resamples that are worked on together: what the kernels look up.

    Parameters
    ----------
    xp : CuPy
    counts : (R, n) of every stimulus.
    pairs : (R,) pairs of different stimuli that count in each, copies counted.
    """

    def __init__(self, xp: Any, counts: Counts, pairs: NDArray[np.int64]) -> None:
        self._xp, self._counts = xp, counts
        self._there = counts > 0
        held = self._there.sum(axis=1)
        self.resamples, self.n = counts.shape
        self.longest = max(1, int(held.max()))
        self.parts = parts_of(self.longest)
        self.held = xp.asarray(held.astype(np.int32))
        self.pairs = xp.asarray(pairs.astype(np.int32))

    @cached_property
    def stimuli(self) -> Any:
        """(R, n) uint32: how often each is drawn << 16 | its place among those drawn."""
        place = np.where(self._there, self._there.cumsum(axis=1) - 1, 0)
        return self._xp.asarray((self._counts.astype(np.uint32) << 16) | place.astype(np.uint32))

    @cached_property
    def drawn(self) -> Any:
        """(R, longest) uint32: numbers of those drawn << 16 | how often; 0 behind the last."""
        resample, stimulus = np.nonzero(self._there)
        place = (self._there.cumsum(axis=1) - 1)[resample, stimulus]
        table = np.zeros((self.resamples, self.longest), np.uint32)
        table[resample, place] = (stimulus << 16) | self._counts[resample, stimulus]
        return self._xp.asarray(table)


def parts_of(held: int) -> int:
    """Products of 2048 pairs that those of so many different stimuli take."""
    return max(1, -(-(held * (held - 1) // 2) // _PART))


@dataclass(frozen=True, slots=True)
class Ranks:
    """RDMs whose values are replaced by twice their average ranks in the resample.

    Attributes
    ----------
    order : (RDMs, pairs that count) uint32, pairs of stimuli i < j as i << 16 | j, from the
        smallest value to the largest.
    ties : (RDMs that have some, 2, pairs) int32: where in the order the run of equal values begins
        and ends that holds each.
    tie_row : (RDMs,) int32 row of `ties`, or -1.
    """

    order: Any
    ties: Any
    tie_row: Any
    centred: bool
    masked: bool

    @classmethod
    def of(cls, values: Any, keep: NDArray[np.bool_], n: int, centred: bool) -> Ranks:
        """Sort the kept of the values (RDMs, pairs)."""
        xp = namespace(values)
        i, j = (x[keep].astype(np.uint32) for x in np.triu_indices(n, 1))
        pairs = xp.asarray(i << 16 | j)
        order = xp.empty((len(values), len(pairs)), np.uint32)
        ties: list[Any] = []
        tie_row = np.full(len(values), -1, np.int32)
        kept = values if keep.all() else values[:, xp.asarray(np.flatnonzero(keep))]
        for rows, places, first, end in sorted_rows(kept):
            order[rows] = pairs[places]
            tied = np.flatnonzero(to_host((end - first > 1).any(axis=1)))
            tie_row[rows.start + tied] = len(ties) + np.arange(len(tied))
            ties += [xp.stack([first[k], end[k]]).astype(np.int32) for k in tied]
        stacked = xp.stack(ties) if ties else xp.empty((0, 2, len(pairs)), np.int32)
        return cls(order, stacked, xp.asarray(tie_row), centred, not keep.all())

    @property
    def rdms(self) -> int:
        """How many there are."""
        return len(self.order)

    def written(self, batch: Batch, right: bool) -> tuple[Any, Any]:
        """Pairs of the RDMs in every resample, and the sums of their squares (R, RDMs).

        The pairs are (R * parts, RDMs, 2048), or on the right side of a product times their weights
        and (R * parts, 2048, RDMs); 0 behind the last. Ranks less their mean where `centred`.
        """
        panel, squares = _empty(self, batch, right, namespace(self.order))
        if squares.size:
            launch(
                "resample", f"resample_ranks_{'staged' if batch.n <= _STAGED else 'any'}",
                (squares.size,), (_THREADS,),
                self.order, self.ties, self.tie_row, batch.stimuli, batch.held, batch.pairs,
                panel, squares, np.int32(batch.resamples), np.int32(self.rdms), np.int32(batch.n),
                np.int32(self.order.shape[1]), np.int32(batch.parts), np.int32(self.centred),
                np.int32(right), np.int32(self.masked),
            )  # fmt: skip
        return panel, squares


@dataclass(frozen=True, slots=True)
class Values:
    """RDMs as they are, (RDMs, pairs) float64, 0 for pairs that do not count.

    Attributes
    ----------
    keep : (pairs,) uint8, pairs that count; None where all do.
    """

    values: Any
    keep: Any | None
    centred: bool

    @classmethod
    def of(cls, values: Any, keep: NDArray[np.bool_], centred: bool) -> Values:
        """Take the values (RDMs, pairs)."""
        xp = namespace(values)
        if keep.all():
            return cls(xp.ascontiguousarray(values), None, centred)
        kept = xp.asarray(keep)
        return cls(xp.where(kept, values, 0.0), kept.astype(np.uint8), centred)

    @property
    def rdms(self) -> int:
        """How many there are."""
        return len(self.values)

    def written(self, batch: Batch, right: bool) -> tuple[Any, Any]:
        """Pairs in every resample, and their squares: see `Ranks`."""
        panel, squares = _empty(self, batch, right, namespace(self.values))
        if squares.size:
            launch(
                "resample", "resample_values", (squares.size,), (_THREADS,),
                self.values, np.uint64(0) if self.keep is None else self.keep, batch.drawn,
                batch.held, batch.pairs, panel, squares, np.int32(batch.resamples),
                np.int32(self.rdms), np.int32(batch.n), np.int32(batch.longest),
                np.int32(batch.parts), np.int32(self.centred), np.int32(right),
            )  # fmt: skip
        return panel, squares


Side = Ranks | Values


def _empty(side: Side, batch: Batch, right: bool, xp: Any) -> tuple[Any, Any]:
    products = batch.resamples * batch.parts
    wide = (products, _PART, side.rdms) if right else (products, side.rdms, _PART)
    return xp.empty(wide, np.float64), xp.empty((batch.resamples, side.rdms), np.float64)


class GpuResampler:
    """`Resampler` for RDMs on a GPU; see there.

    Parameters
    ----------
    a, b : (M, pairs) and (N, pairs) CuPy arrays, float64, finite where `keep` is true.
    begins : where every group of `b` begins, and the end; empty without groups.
    budget : bytes of GPU memory for working arrays; None for most of what is free.
    """

    def __init__(
        self,
        a: Any,
        b: Any,
        n: int,
        keep: NDArray[np.bool_],
        begins: NDArray[np.int32],
        *,
        ranks: bool,
        centred: bool,
        budget: int | None,
    ) -> None:
        self._xp = xp = namespace(a)
        self._scale = 0.25 if ranks else 1.0  # of products of twice the ranks
        self._sides: list[Side] = [
            Ranks.of(v, keep, n, centred) if ranks else Values.of(v, keep, centred) for v in (a, b)
        ]
        self._member = None  # (N, groups)
        if len(begins):
            self._member = xp.asarray(np.repeat(np.eye(len(begins) - 1), np.diff(begins), axis=0))
        self._kept_pairs = None  # (n, n) above the diagonal
        if not keep.all():
            square = np.zeros((n, n))
            square[np.triu_indices(n, 1)] = keep
            self._kept_pairs = xp.asarray(square)
        self._budget = _bytes(budget)

    def __call__(self, counts: Counts) -> Sums:
        """Products, squares of both sides and pairs, as `Products` holds them, on (R, n) counts."""
        left, right = (side.rdms for side in self._sides)
        wide = right if self._member is None else self._member.shape[1]
        total = len(counts)
        out = (
            np.empty((total, left, wide)), np.empty((total, left)), np.empty((total, right)),
            np.empty(total),
        )  # fmt: skip

        def work(some: slice) -> None:
            for whole, part in zip(out, self._sums(counts[some]), strict=True):
                whole[some] = part

        in_blocks(total, self._together(counts), work, "resamples")
        return out

    def _together(self, counts: Counts) -> int:
        """Resamples at a time."""
        left, right = (side.rdms for side in self._sides)
        parts = parts_of(int((counts > 0).sum(axis=1).max(initial=0)))
        one = 8 * (parts * (_PART * (left + right) + left * right) + 2 * left * right)
        affordable = _affordable(self._budget, one, f"one resample of {left} and {right} RDMs")
        return max(1, min(len(counts), affordable, _MOST_PRODUCTS // parts))

    def _sums(self, counts: Counts) -> Sums:
        xp, (a, b) = self._xp, self._sides
        pairs = self._pairs(counts)
        batch = Batch(xp, counts, pairs)
        left, squares_a = a.written(batch, right=False)
        right, squares_b = b.written(batch, right=True)
        products = xp.matmul(left, right).reshape(batch.resamples, batch.parts, a.rdms, b.rdms)
        products = products.sum(axis=1) * self._scale
        squares_a, squares_b = squares_a * self._scale, squares_b * self._scale
        if self._member is not None:
            there = squares_b > 0
            products = products * (there / xp.sqrt(xp.where(there, squares_b, 1.0)))[:, None, :]
            flat = products.reshape(-1, b.rdms)
            products = xp.matmul(flat, self._member).reshape(*products.shape[:2], -1)
        found = (to_host(x) for x in (products, squares_a, squares_b))
        return (*found, pairs.astype(np.float64))  # type: ignore[return-value]

    def _pairs(self, counts: Counts) -> NDArray[np.int64]:
        """(R,) pairs of different stimuli that count."""
        if self._kept_pairs is None:
            long = counts.astype(np.int64)
            return np.asarray((long.sum(axis=1) ** 2 - (long**2).sum(axis=1)) // 2)
        weights = self._xp.asarray(counts.astype(np.float64))
        sums = (self._xp.matmul(weights, self._kept_pairs) * weights).sum(axis=1)
        return to_host(sums).astype(np.int64)


class ValueProducts:
    """Sums of values and of products of two RDMs over the pairs of resamples, as w' Z w.

    Parameters
    ----------
    values : (K, pairs of stimuli) CuPy array, float64.
    pairs : (a, b) numbers of the RDMs that are multiplied.
    budget : bytes of GPU memory for working arrays; None for most of what is free.
    """

    def __init__(
        self, values: Any, n: int, pairs: Sequence[tuple[int, int]], budget: int | None
    ) -> None:
        xp, own = namespace(values), np.arange(len(values))
        products = np.array(pairs, np.int64).reshape(-1, 2)
        self._n, self._products = n, np.concatenate([products, np.stack([own, own], 1)])
        self._upper = xp.zeros((len(values), n, n))
        x, y = map(xp.asarray, np.triu_indices(n, 1))
        self._upper[:, x, y] = values
        self._budget = _bytes(budget)

    def __call__(self, counts: NDArray[np.integer]) -> FloatArray:
        """On the resamples (R, n): (R, pairs + 2K) products, squares, and values by themselves."""
        xp, upper = namespace(self._upper), self._upper
        a, b = self._products.T
        total = len(a) + len(upper)
        weights = xp.asarray(counts.astype(np.float64))
        out = np.empty((len(counts), total))

        def work(some: slice) -> None:
            these = np.arange(total)[some]
            products, single = these[these < len(a)], these[these >= len(a)] - len(a)
            z = xp.concatenate(
                [upper[xp.asarray(a[products])] * upper[xp.asarray(b[products])],
                 upper[xp.asarray(single)]]
            )  # fmt: skip
            out[:, some] = to_host((xp.matmul(weights, z) * weights).sum(axis=2)).T

        one = 8 * self._n * (4 * self._n + 2 * len(counts))
        step = _affordable(self._budget, one, f"a product of RDMs of {self._n} stimuli")
        in_blocks(total, step, work, "products")
        return out


def in_blocks(total: int, step: int, work: Callable[[slice], None], what: str) -> None:
    """Do 0..total some at a time; fewer where the GPU has less room than planned, which is said."""
    import cupy

    first = 0
    while first < total:
        some = slice(first, min(first + step, total))
        if some.stop == first + 1:
            with room_for(f"a single one of the {what}"):
                work(some)
        else:
            try:
                work(some)
            except cupy.cuda.memory.OutOfMemoryError:
                cupy.get_default_memory_pool().free_all_blocks()
                warnings.warn(
                    f"the GPU has less room than planned; {what} go in smaller blocks, with the"
                    " same result",
                    stacklevel=2,
                )
                step = (some.stop - first) // 2
                continue
        first = some.stop


def _bytes(budget: int | None) -> int:
    return int(_SHARE * free_bytes()) if budget is None else budget


def _affordable(budget: int, one: int, what: str) -> int:
    """How many fit the budget, at least one."""
    if one > budget:
        raise InvalidInputError(
            f"{what} takes {one:,} bytes of GPU memory, more than the {budget:,} there are for it;"
            " raise memory_budget, or use device='cpu'"
        )
    return budget // one
