"""Which voxels lie around which: spheres on the grid of the voxels, by looking places up.

A sphere is one list of steps on the grid, the same for every centre, so that neighbourhoods are
looked up when they are needed and never stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_ROUNDING = 1e-9  # share of the radius by which a voxel on the sphere may seem to lie outside
_MOST_STEPS, _MOST_PLACES = 2**22, 2**28
_CHUNK = 2**22  # places looked up at a time


@dataclass(frozen=True, slots=True)
class Grid:
    """Voxels on their grid, and the steps from a voxel to those within the radius.

    Attributes
    ----------
    table : flat, number of the voxel at each place of the padded grid, -1 where there is none.
    places : (voxels,) place of each voxel in `table`.
    steps : (s,) ascending differences of places within the sphere, 0 among them.
    """

    table: NDArray[np.int32]
    places: IntArray
    steps: IntArray

    def neighbours(self, voxels: IntArray) -> NDArray[np.int32]:
        """Numbers of the voxels around each of k voxels, (k, s); -1 where there is none."""
        return self.table[self.places[voxels][:, None] + self.steps]

    def sizes(self) -> IntArray:
        """Voxels in each neighbourhood, (voxels,)."""
        out = np.empty(len(self.places), np.int64)
        step = max(1, _CHUNK // len(self.steps))
        for start in range(0, len(out), step):
            around = self.neighbours(np.arange(start, min(start + step, len(out))))
            out[start : start + step] = (around >= 0).sum(axis=1)
        return out

    def runs(self, voxels: IntArray, sizes: IntArray) -> Iterator[tuple[slice, NDArray[np.int32]]]:
        """Neighbourhoods of consecutive voxels of equal size: their rows, and numbers (k, size)."""
        around = self.neighbours(voxels)
        edges = np.flatnonzero(np.diff(sizes)) + 1
        for first, last in zip([0, *edges], [*edges, len(voxels)], strict=True):
            rows = around[first:last]
            yield slice(int(first), int(last)), rows[rows >= 0].reshape(last - first, -1)


def grid_of(coordinates: IntArray, radius: float, spacing: FloatArray) -> Grid:
    """Grid of voxels with indices (voxels, 3), each once.

    Parameters
    ----------
    radius : in the unit of `spacing`; a voxel on the sphere belongs to it.
    spacing : (3, 3) that takes indices to millimetres, offset apart.

    Raises
    ------
    InvalidInputError
        A sphere of more than 4 million steps, or indices that span more than 2**28 places.
    """
    low = coordinates.min(axis=0)
    extent = coordinates.max(axis=0) - low
    if np.prod(extent + 1.0) > _MOST_PLACES:
        raise InvalidInputError(
            f"coordinates span {' × '.join(map(str, extent + 1))} voxels; they must be indices of"
            " voxels, not millimetres"
        )
    # How many steps along each index can stay within the radius; none leaves the extent.
    most = radius * (1 + _ROUNDING) * np.linalg.norm(np.linalg.inv(spacing), axis=1)
    reach = np.minimum(np.floor(most), extent).astype(np.int64)
    if np.prod(2.0 * reach + 1) > _MOST_STEPS:
        raise InvalidInputError(
            f"radius {radius:g} reaches {' × '.join(map(str, reach))} voxels far; give voxel_size= "
            "if it is in millimetres"
        )
    ranges = [np.arange(-r, r + 1) for r in reach]
    steps = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    steps = steps[np.linalg.norm(steps @ spacing.T, axis=1) <= radius * (1 + _ROUNDING)]
    # Padded by the reach, so that a step from a voxel never leaves the table.
    shape = extent + 1 + 2 * reach
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    places = (coordinates - low + reach) @ strides
    table = np.full(int(shape.prod()), -1, np.int32)
    table[places] = np.arange(len(coordinates), dtype=np.int32)
    return Grid(table, places, steps @ strides)
