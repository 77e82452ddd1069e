"""The orbit engine on a GPU: the same relabellings as on the CPU, and the same counts.

Products are made in float64, which data-centre GPUs multiply about as fast as float32. Where the
card's float64 is slow, products of a plain statistic are made in float32, how far they are off is
measured against float64 on the first orbits, and every relabelling of which some comparison lies
within a multiple of that is evaluated again, directly and in float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels import orbit
from rsafast_kernels.device import namespace, room_for, to_gpu, to_host
from rsafast_kernels.orbit import gpu as orbits
from rsafast_kernels.tally import Recheck

from rsafast.errors import InvalidInputError
from rsafast.memory import format_bytes
from rsafast.permutation.statistics import BilinearStatistic, Product

_LARGEST_BLOCK = 2**27  # statistics: enough to keep a GPU busy, few enough to show progress
_SLOW_FLOAT64 = 4  # times the rate of float32, from which float32 is worth making sure of
# The band is this many times the largest error seen on the first orbits (a maximum of 10⁴ and more
# errors, so some 4 standard deviations), and no less than rounding of the observed value.
_BAND, _ROUNDING = 8.0, 32 * float(np.finfo(np.float32).eps)
_PILOT = 4  # relabellings of either side whose orbits tell the error

S = TypeVar("S", bound=BilinearStatistic)
Array = Any  # a CuPy array


def moved(statistic: S) -> S:
    """The statistic with its matrices on the current GPU; RsafastError where they do not fit."""
    found = {f.name: getattr(statistic, f.name) for f in fields(statistic)}  # type: ignore[arg-type]
    found = {name: x for name, x in found.items() if isinstance(x, np.ndarray)}
    size = format_bytes(sum(x.nbytes for x in found.values()))
    with room_for(f"the matrices of these RDMs, {size}"):
        arrays = {name: to_gpu(x) for name, x in found.items()}
    return replace(statistic, **arrays)  # type: ignore[type-var]


def prefers_float32() -> bool:
    """Whether float64 is so slow on the current GPU that float32, made sure of, is faster."""
    import cupy

    ratio = cupy.cuda.Device().attributes.get("SingleToDoublePrecisionPerfRatio", 1)
    return ratio > _SLOW_FLOAT64


@dataclass(frozen=True, slots=True)
class Tile:
    """Relabellings of either side that are multiplied at a time."""

    i: range
    j: range

    def halves(self) -> list[Tile]:
        """Two tiles, one after the other; the longer side is cut."""
        if len(self.i) >= len(self.j):
            middle = len(self.i) // 2
            return [Tile(self.i[:middle], self.j), Tile(self.i[middle:], self.j)]
        middle = len(self.j) // 2
        return [Tile(self.i, self.j[:middle]), Tile(self.i, self.j[middle:])]


def tiles(
    statistic: BilinearStatistic, n: int, counts: tuple[int, int], budget: int, itemsize: int
) -> list[Tile]:
    """Tiles that fit `budget` bytes: few of the fixed side, whose spectra are held.

    Raises
    ------
    InvalidInputError
        Where not even one relabelling of either side fits.
    """
    groups = statistic.groups
    spectrum = orbits.spectra_bytes(n, itemsize)
    rows_a, rows_b = (sum(len(g[side]) for g in groups) for side in (0, 1))
    entries = sum(x.size for g in groups for x in g)
    matrices = entries * (8 if itemsize == 8 else 8 + itemsize)  # float64 ones stay, to make sure

    def needed(tile_a: int, tile_b: int) -> int:
        products = sum(
            orbits.scratch_bytes(tile_a * len(a), tile_b * len(b), n, itemsize) for a, b in groups
        )
        held = (tile_a * rows_a + tile_b * rows_b) * spectrum
        rows = max(tile_a * rows_a, tile_b * rows_b)
        return matrices + held + max(products, orbits.transform_bytes(rows, n, itemsize))

    if needed(1, 1) > budget:
        raise InvalidInputError(
            f"memory_budget of {format_bytes(budget)} is too small for the GPU: {n} stimuli,"
            f" {rows_a} permuted and {rows_b} fixed matrices need {format_bytes(needed(1, 1))};"
            " raise it, or use device='cpu'"
        )
    size_a, size_b = 1, counts[1]
    while size_b > 1 and needed(1, size_b) > budget // 2:
        size_b = ceil(size_b / 2)
    widest = n * size_b * sum(len(a) * len(b) for a, b in groups)
    while (
        size_a < counts[0]
        and needed(2 * size_a, size_b) <= budget
        and 2 * size_a * widest <= _LARGEST_BLOCK
    ):
        size_a = min(2 * size_a, counts[0])
    parts = [
        [range(k)[at : at + size] for at in range(0, k, size)]
        for k, size in zip(counts, (size_a, size_b), strict=True)
    ]
    return [Tile(i, j) for j in parts[1] for i in parts[0]]


class Orbits:
    """Statistics of orbits, a tile at a time.

    Parameters
    ----------
    statistic : with its matrices on the GPU, float64.
    g, r : (K_A, n), (K_B, n) relabellings of the permuted and the fixed side.
    single : make products in float32.
    """

    def __init__(
        self,
        statistic: BilinearStatistic,
        g: NDArray[np.int32],
        r: NDArray[np.int32],
        single: bool = False,
    ) -> None:
        self.statistic, self.n = statistic, g.shape[1]
        self._drawn = (to_gpu(g), to_gpu(r))
        self._groups = statistic.groups
        if single:
            self._groups = [(a.astype(np.float32), b.astype(np.float32)) for a, b in self._groups]
        self._held: dict[int, tuple[range, list[Array]]] = {}

    def values(self, tile: Tile) -> Array:
        """Statistics (I, M, J, N, n) of every pair of relabellings of a tile."""
        permuted, fixed = self._spectra(0, tile.i), self._spectra(1, tile.j)
        forms = [
            orbit.correlate(x, y, self.n).reshape(len(tile.i), len(a), len(tile.j), len(b), self.n)
            for (a, b), x, y in zip(self._groups, permuted, fixed, strict=True)
        ]
        return self.statistic.combine(forms)

    def _spectra(self, side: int, part: range) -> list[Array]:
        if side not in self._held or self._held[side][0] != part:
            self._held.pop(side, None)
            drawn = self._drawn[side][part.start : part.stop]
            found = [
                orbit.spectra(g[side], drawn, side="fixed" if side else "permuted")
                for g in self._groups
            ]
            self._held[side] = (part, found)
        return self._held[side][1]

    def forget(self) -> None:
        """Give the memory of spectra back."""
        self._held.clear()

    def exactly(self, tile: Tile, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Statistics (M, N, L), float64 and directly, of relabellings numbered within a tile."""
        xp = namespace(self._drawn[0])
        pair, shift = np.divmod(places, self.n)
        i, j = np.divmod(pair, len(tile.j))
        g = self._drawn[0][xp.asarray(i + tile.i.start)]
        inverse = xp.argsort(self._drawn[1][tile.j.start : tile.j.stop], axis=1)[xp.asarray(j)]
        at = (inverse + xp.asarray(shift)[:, None]) % self.n
        permutations = xp.take_along_axis(g, at, axis=1).astype(np.int32)
        return to_host(self.statistic.evaluate(permutations))


def run(
    statistic: BilinearStatistic,
    g: NDArray[np.int32],
    r: NDArray[np.int32],
    budget: int,
    single: bool,
) -> Iterator[tuple[Tile, Array, Recheck | None]]:
    """Every tile with its statistics (I, M, J, N, n) and, in float32, how to make sure of them.

    A tile for which the GPU has no room is cut in two, which is said once.
    """
    single = single and isinstance(statistic, Product)
    found = Orbits(statistic, g, r, single)
    band = _band(statistic, g, r, found, budget) if single else 0.0
    left = tiles(statistic, g.shape[1], (len(g), len(r)), budget, 4 if single else 8)[::-1]
    while left:
        tile = left.pop()
        values = _attempt(found, tile)
        if values is None:
            left += tile.halves()[::-1]
            continue
        recheck = None
        if single:
            recheck = Recheck(band, lambda places, tile=tile: found.exactly(tile, places))  # type: ignore[misc]
        yield tile, values, recheck


def _attempt(found: Orbits, tile: Tile) -> Array | None:
    """Statistics of a tile, or None where the GPU has no room for them."""
    import cupy

    try:
        return found.values(tile)
    except cupy.cuda.memory.OutOfMemoryError:
        found.forget()
        cupy.get_default_memory_pool().free_all_blocks()
        if len(tile.i) == len(tile.j) == 1:
            with room_for(f"a single orbit of {found.n} stimuli"):
                raise
        warnings.warn(
            "the GPU has less room than planned; relabellings go in smaller blocks, with the same"
            " result",
            stacklevel=2,
        )
        return None


def _band(
    statistic: BilinearStatistic,
    g: NDArray[np.int32],
    r: NDArray[np.int32],
    single: Orbits,
    budget: int,
) -> float:
    """How far float32 statistics may be off, from those of the first orbits in both precisions."""
    first = (min(_PILOT, len(g)), min(_PILOT, len(r)))
    tile = tiles(statistic, g.shape[1], first, budget, 8)[0]
    exact = Orbits(statistic, g, r).values(tile)
    off = abs(single.values(tile) - exact).max()
    return _BAND * float(off) + _ROUNDING * float(abs(exact).max())
