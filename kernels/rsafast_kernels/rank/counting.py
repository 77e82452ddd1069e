"""Average ranks of more values than fit in memory, exact, by counting.

A float32 is one of 2^32 keys, and the values of an RDM lie in a few binades of 2^23: so few that
every key can have a counter. Three passes over the values, in blocks of any size and order: which
upper halves of keys occur (`scan`), how often each of their keys (`count`), and what its average
rank is (`ranks`). No value is moved, and nothing is sorted. Counts are whole numbers: those of
several rankers, each of some of the values, add up exactly and in any order.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels._native import native
from rsafast_kernels._threads import num_threads
from rsafast_kernels.errors import InvalidInputError

__all__ = ["Ranker"]

_HALF = 1 << 16
# Upper halves of the keys of -infinity and +infinity; those of NaN lie beyond.
_LOWEST, _HIGHEST = 0x007F, 0xFF80


class Ranker:
    """Ranks of float32 values that are handed over three times, in the same blocks or others.

    Attributes
    ----------
    total : values scanned so far.

    Examples
    --------
    >>> import numpy as np
    >>> from rsafast_kernels.rank.counting import Ranker
    >>> blocks = np.array([[0.5, 1.0], [1.0, 0.25]], np.float32)
    >>> ranker = Ranker()
    >>> for block in blocks: ranker.scan(block)
    >>> ranker.allocate()
    >>> for block in blocks: ranker.count(block)
    >>> ranker.finish("float32")
    >>> [ranker.ranks(block).tolist() for block in blocks]
    [[2.0, 3.5], [3.5, 1.0]]
    """

    def __init__(self) -> None:
        self._high = np.zeros(_HALF, np.uint64)
        self._row = np.full(_HALF, -1, np.int32)
        self._counts: NDArray[np.unsignedinteger] = np.zeros((0, _HALF), np.uint32)
        self._ranks: NDArray[np.generic] = np.zeros((0, _HALF), np.float32)

    def __setstate__(self, state: dict[str, NDArray[Any]]) -> None:
        # What arrives in messages may start at any byte.
        for name, table in state.items():
            setattr(self, name, np.require(table, requirements=["C", "A"]))

    @property
    def total(self) -> int:
        """Values scanned so far."""
        return int(self._high.sum())

    @property
    def table_bytes(self) -> int:
        """Most bytes that the tables of the values scanned take."""
        return int(np.count_nonzero(self._high)) * _HALF * (self._count_type.itemsize + 4)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, once it is finished."""
        return self._ranks.nbytes

    @property
    def _count_type(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype(np.uint32 if self.total < 2**32 else np.uint64)

    def scan(self, values: NDArray[np.float32]) -> None:
        """First pass.

        Raises
        ------
        InvalidInputError
            For values that are not finite.
        """
        native.rank_scan_keys(np.ascontiguousarray(values, np.float32), self._high, num_threads())
        # Infinity is the first key of its upper half and NaN the others: none is finite.
        if self._high[_HIGHEST:].any() or self._high[: _LOWEST + 1].any():
            raise InvalidInputError("values must be finite to be ranked")

    def merge_scanned(self, other: Ranker) -> None:
        """Add what another one scanned, in the first pass."""
        self._high += other._high

    def allocate(self) -> None:
        """Make the tables, once everything is scanned."""
        there = np.flatnonzero(self._high)
        self._row[there] = np.arange(len(there))
        self._counts = np.zeros((len(there), _HALF), self._count_type)

    def count(self, values: NDArray[np.float32]) -> None:
        """Second pass."""
        block = np.ascontiguousarray(values, np.float32)
        native.rank_count_keys(block, self._row, self._counts, num_threads())

    def part(self) -> Ranker:
        """Return one that counts some of the values, once everything is scanned."""
        other = Ranker()
        other._high[:] = self._high
        other.allocate()
        return other

    def merge_counted(self, other: Ranker) -> None:
        """Add what a part of this one counted, in the second pass."""
        self._counts += other._counts

    def finish(self, dtype: Literal["float32", "uint16"]) -> None:
        """Turn counts into ranks, once everything is counted.

        Parameters
        ----------
        dtype : "float32" for ranks from 1 to `total`, each to its nearest float32; "uint16" for
            (rank - 1) / (total - 1) * 65535, to the nearest whole number
        """
        if int(self._counts.sum()) != self.total:
            raise InvalidInputError("other values were counted than scanned")
        first, scale = (0, 65535 / max(self.total - 1, 1)) if dtype == "uint16" else (1, 1)
        self._ranks = np.zeros(self._counts.shape, dtype)
        native.rank_of_counts(self._counts, first, scale, self._ranks)
        self._counts = np.zeros((0, _HALF), self._count_type)  # a slice would keep the table

    def ranks(self, values: NDArray[np.float32]) -> NDArray[np.generic]:
        """Third pass: ranks of a block."""
        block = np.ascontiguousarray(values, np.float32)
        out = np.empty(block.shape, self._ranks.dtype)
        native.rank_look_up_keys(block, self._row, self._ranks, out, num_threads())
        return out
