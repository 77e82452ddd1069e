"""Orbit sampling of matrices that are never whole in memory, under shifts and units.

For relabellings g of A and r of B, a unit u of Z_n and a shift s, π = g ∘ (x → u·x + s) ∘ r⁻¹::

    T[g, r, u, s] = Σ_{x<y} A[π(x), π(y)] B[x, y]
                  = Σ_d w_d Σ_x A[g(ux+s), g(ux+s+ud)] B[r(x), r(x+d)]

over circulant diagonals d, one of each pair d, n - d. With Â_d and B̂_d the Fourier transforms of
the diagonals of either side, its transform over s is
``C_u[k] = Σ_d w_d Â_{ud}[k] conj B̂_d[uk] / n``, a sum over d that only needs the diagonals {ud}
together (`rsafast_kernels.orbit.units`). So a matrix is read in rows and in any order, a part of
its diagonals is filled (`fill`), transformed and multiplied into the sums chunk by chunk
(`Sums.add`), and the next part follows; when all are in, one inverse transform gives the statistics
of all shifts (`Sums.statistics`).

Relabelling r under unit u is relabelling x → r(u⁻¹x) without one, which is what the tests compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels._memory import aligned_empty
from rsafast_kernels._native import native
from rsafast_kernels._threads import num_threads, threads_for
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.orbit.units import Units, diagonal_orbits, frequency_order

__all__ = [
    "Chunk",
    "Sums",
    "chunks",
    "fill",
    "panel_bytes",
    "stored_diagonals",
    "sums_bytes",
    "transform_bytes",
]

_LANES = 8  # series are padded to the widest vector of any instruction set
_SLOTS = 128  # diagonals of a chunk, about: panels that stay small, and long sums


@dataclass(frozen=True, slots=True)
class Chunk:
    """Circulant diagonals that are transformed and multiplied at once: some orbits of the units.

    Attributes
    ----------
    residues : (L * D,) int64 diagonals 0 < d < n; orbit j is ``residues[j::D]``.
    moves : (m, L) int32, as of :class:`rsafast_kernels.orbit.units.DiagonalOrbits`.
    weight : of their products.
    """

    residues: NDArray[np.int64]
    moves: NDArray[np.int32]
    weight: float

    @property
    def length(self) -> int:
        """Orbits D."""
        return len(self.residues) // self.moves.shape[1]


def chunks(n: int, units: Units) -> list[Chunk]:
    """All circulant diagonals of n stimuli, in the order in which they are summed.

    It depends on nothing but n and the units, and so does the rounding of what is summed.
    """
    found = []
    for orbits in diagonal_orbits(n, units):
        count = _SLOTS // len(orbits.residues) // _LANES * _LANES or 4
        found += [
            Chunk(part.ravel(), orbits.moves, orbits.weight)
            for start in range(0, orbits.residues.shape[1], count)
            if (part := orbits.residues[:, start : start + count]).size
        ]
    return found


def stored_diagonals(residues: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Diagonals 1..n // 2 that hold these, sorted."""
    return np.unique(np.minimum(residues, n - residues))


def fill(
    values: NDArray[np.generic],
    first: int,
    last: int,
    relabeling: NDArray[np.int32],
    diagonals: NDArray[np.int64],
    out: NDArray[np.generic],
) -> None:
    """Put rows of a matrix where they belong on its relabelled circulant diagonals.

    Parameters
    ----------
    values : pairs of the rows first..last with all stimuli after them, in squareform order;
        float32, float64 or uint16.
    relabeling : (n,) int32 g, a permutation of 0..n-1.
    diagonals : (held,) the diagonals wanted, 1..n // 2.
    out : (held, n), of the type of `values`: ``out[h, x]`` is the value of the pair
        (g(x), g(x + d)) with ``d = diagonals[h]``, once all rows were there.
    """
    n = len(relabeling)
    if values.dtype != out.dtype or out.shape != (len(diagonals), n):
        raise InvalidInputError(
            f"out must be ({len(diagonals)}, {n}) of {values.dtype}, got {out.shape} of {out.dtype}"
        )
    if len(values) != (last - first) * n - (last * (last + 1) - first * (first + 1)) // 2:
        raise InvalidInputError(f"rows {first} to {last} of {n} do not have {len(values)} pairs")
    place = np.empty(n, np.int32)
    place[relabeling] = np.arange(n, dtype=np.int32)
    wanted = diagonals.astype(np.int32)
    workers = threads_for(4.0 * (last - first) * len(wanted))
    native.orbit_fill(values, first, last, relabeling, place, wanted, out, workers)


def panel_bytes(n: int, chunk: Chunk, rows: int) -> int:
    """Bytes of the spectra of a chunk of `rows` matrices."""
    return (n // 2 + 1) * rows * 2 * _stride(chunk) * 8


def transform_bytes(n: int) -> int:
    """Bytes that the transforms of all threads work in."""
    # Bluestein's algorithm pads n to twice its length and some more, and keeps both.
    return num_threads() * 7 * n * 2 * _LANES * 8


def sums_bytes(n: int, series: int) -> int:
    """Bytes of the sums of so many (row of A, row of B, unit)."""
    return (n // 2 + 1) * 2 * _padded(series) * 8


class Sums:
    """Sums over circulant diagonals of the products of two sides, at every frequency.

    Parameters
    ----------
    n : stimuli.
    rows_a, rows_b : relabelled matrices of either side; all pairs of them are multiplied.
    units : (m,) group of units, the unit 1 first.

    Attributes
    ----------
    values : (n // 2 + 1, 2, series) float64, real and imaginary parts; what a checkpoint holds.
    """

    def __init__(self, n: int, rows_a: int, rows_b: int, units: Units) -> None:
        self.n, self.rows_a, self.rows_b, self.units = n, rows_a, rows_b, units
        shape = (n // 2 + 1, 2, _padded(self.series))
        # Vectors of the last series may reach beyond them.
        room = aligned_empty((int(np.prod(shape)) + _LANES,))
        room[:] = 0.0
        self.values = room[:-_LANES].reshape(shape)
        self._order = frequency_order(n, units)
        self._panels: dict[str, NDArray[np.float64]] = {}

    @property
    def series(self) -> int:
        """Number of (row of A, row of B, unit), in this order."""
        return self.rows_a * self.rows_b * len(self.units)

    def add(
        self,
        chunk: Chunk,
        a: NDArray[np.generic],
        b: NDArray[np.generic],
        diagonals: NDArray[np.int64],
        scale: tuple[NDArray[np.float64], NDArray[np.float64]],
        centre: tuple[NDArray[np.float64], NDArray[np.float64]],
    ) -> None:
        """Add the products of a chunk of diagonals.

        Parameters
        ----------
        a, b : (rows, held, n) filled diagonals of either side.
        diagonals : (held,) which they are, sorted; those of the chunk among them.
        scale, centre : of every row of either side; what is multiplied is
            ``(value - centre) * scale``.
        """
        panels = []
        for side, rows, s, c in zip("ab", (a, b), scale, centre, strict=True):
            panel = self._panel(side, chunk, len(rows))
            native.orbit_transform(
                rows,
                np.searchsorted(
                    diagonals, np.minimum(chunk.residues, self.n - chunk.residues)
                ).astype(np.int32),
                # The pairs of diagonal n - d are those of d, met d stimuli later.
                np.where(2 * chunk.residues > self.n, chunk.residues, 0).astype(np.int32),
                len(chunk.residues),
                s,
                c,
                panel,
                num_threads(),
            )
            panels.append(panel)
        native.orbit_accumulate(
            *panels, self.n, chunk.length, chunk.moves, self.units, self._order,
            chunk.weight / self.n, self.values, num_threads(),
        )  # fmt: skip

    def statistics(self, row_a: int, rows: int = 1) -> NDArray[np.float64]:
        """Statistics of some rows of A: (rows, rows_b, m, n), by unit and shift."""
        each = self.rows_b * len(self.units)
        out = np.empty((rows * each, self.n))
        native.orbit_invert(self.values, self.n, row_a * each, out, num_threads())
        return out.reshape(rows, self.rows_b, len(self.units), self.n)

    def _panel(self, side: str, chunk: Chunk, rows: int) -> NDArray[np.float64]:
        shape = (self.n // 2 + 1, rows, 2, _stride(chunk))
        size = int(np.prod(shape))
        if side not in self._panels or self._panels[side].size < size:
            self._panels[side] = aligned_empty((size,))
        return self._panels[side][:size].reshape(shape)


def _stride(chunk: Chunk) -> int:
    return -(-len(chunk.residues) // (2 * _LANES)) * 2 * _LANES


def _padded(series: int) -> int:
    return -(-series // _LANES) * _LANES
