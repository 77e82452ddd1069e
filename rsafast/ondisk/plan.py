"""What a streamed permutation test will do: relabellings, units, parts, memory, and how long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.orbit import streaming
from rsafast_kernels.orbit.streaming import Chunk
from rsafast_kernels.orbit.units import Units, unit_group

from rsafast.memory import format_bytes
from rsafast.ondisk.survey import fits
from rsafast.permutation.engines import split_relabelings

# Time of a relabelled matrix (its diagonals filled and transformed) and of a product of two, for
# one unit: nanoseconds a pair on two cores. They choose between more relabellings and more units.
_TIME_OF_MATRIX, _TIME_OF_PRODUCT = 15.0, 0.3
_PARTS = 64  # of the diagonals: what a killed run does again, at most
_MOST_BLOCKS = 10**6  # pairs of relabellings


@dataclass(frozen=True, slots=True)
class Orbits:
    """The relabellings of a test: everything that decides what it finds.

    It depends on the number of stimuli, of RDMs and of relabellings asked for, and on nothing else.

    Attributes
    ----------
    n_stimuli : n.
    counts : relabellings of the models and of the brain RDMs.
    units : (m,) group of units of Z_n.
    parts : all circulant diagonals, in the order in which they are summed.
    """

    n_stimuli: int
    counts: tuple[int, int]
    units: Units
    parts: list[list[Chunk]]

    @property
    def n_permutations(self) -> int:
        """Relabellings in all, the identity among them."""
        return self.counts[0] * self.counts[1] * len(self.units) * self.n_stimuli


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """How a streamed test runs; see :func:`rsafast.plan_permutation_test_files`.

    Attributes
    ----------
    orbits : its relabellings.
    tile : relabellings of either side that are worked on at a time.
    parts_at_once : parts of the diagonals that are in memory at a time.
    memory : bytes that it takes, at most.
    memory_budget : bytes that it may take.
    bytes_read : what is read of the RDMs in all.
    seconds : estimate of every stage, measured on a small part of it; empty where none was made.
    """

    orbits: Orbits
    tile: tuple[int, int]
    parts_at_once: int
    memory: int
    memory_budget: int
    bytes_read: int
    seconds: dict[str, float]

    @property
    def tiles(self) -> list[tuple[range, range]]:
        """Relabellings of either side, tile by tile."""
        (a, b), (i, j) = self.orbits.counts, self.tile
        return [
            (range(x, min(x + i, a)), range(y, min(y + j, b)))
            for x in range(0, a, i)
            for y in range(0, b, j)
        ]

    @property
    def passes(self) -> int:
        """How often the RDMs are read for the relabellings."""
        return len(self.tiles) * ceil(len(self.orbits.parts) / self.parts_at_once)

    def __str__(self) -> str:
        o = self.orbits
        lines = [
            f"{o.n_permutations:,} relabellings of {o.n_stimuli:,} stimuli: {o.counts[0]} orders of"
            f" the models x {o.counts[1]} of the brain RDMs x {len(o.units)} units"
            f" x {o.n_stimuli:,} shifts",
            f"smallest p {1 / o.n_permutations:.2g}",
            f"diagonals in {len(o.parts)} parts, {self.parts_at_once} in memory at a time:"
            f" {self.passes} passes over the RDMs, {format_bytes(self.bytes_read)} read",
            f"memory {format_bytes(self.memory)} of {format_bytes(self.memory_budget)}",
        ]
        if self.seconds:
            stages = ", ".join(f"{name} {_duration(s)}" for name, s in self.seconds.items())
            lines.append(f"about {_duration(sum(self.seconds.values()))}: {stages}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a plan has to know of the RDMs.

    Attributes
    ----------
    rdms : number of models and of brain RDMs.
    itemsize : bytes of a value on either side.
    reading : bytes that reading and everything else that does not depend on the plan takes.
    stored : bytes of all RDMs, read once.
    """

    rdms: tuple[int, int]
    itemsize: tuple[int, int]
    reading: int
    stored: int


def choose_orbits(n: int, n_permutations: int, models: int, brain: int) -> Orbits:
    """Relabellings and units for at least `n_permutations`, for the least time.

    Few relabellings say little of the Monte Carlo error, which comes from the spread between pairs
    of them: with b pairs, a plan counts as 1 + 1 / (b - 1) times as long as it is. One pair, whose
    error is taken for that of independent relabellings, will do where one orbit is enough.
    """
    blocks = ceil(n_permutations / n)
    best: tuple[float, tuple[int, int], NDArray[np.int64]] | None = None
    for wanted in _numbers_of_pairs(blocks):
        a, b = split_relabelings(wanted, models, brain)
        units = unit_group(n, ceil(blocks / (a * b)))
        if units is None:
            continue
        time = _TIME_OF_MATRIX * (a * models + b * brain)
        time += _TIME_OF_PRODUCT * a * models * b * brain * len(units)
        time *= 1 + 1 / (a * b - 1) if a * b > 1 else 1
        if best is None or time < best[0]:
            best = time, (a, b), units
    assert best is not None  # as many pairs as blocks need no units
    return Orbits(n, best[1], best[2], _parts(streaming.chunks(n, best[2])))


def _numbers_of_pairs(blocks: int) -> list[int]:
    """Numbers of pairs of relabellings to choose from, 1 only where it is enough."""
    roots = range(1, isqrt(min(blocks, _MOST_BLOCKS)) + 3)
    numbers = {k for root in roots for k in (root * root, root * (root + 1))} | {blocks}
    # Four pairs where two would do: the spread between two says next to nothing.
    most = max(4, blocks) if blocks > 1 else 1
    return sorted(k for k in numbers if min(2, blocks) <= k <= most)


def _parts(chunks: list[Chunk]) -> list[list[Chunk]]:
    """Consecutive chunks of about as many diagonals in every part."""
    ends = np.cumsum([len(chunk.residues) for chunk in chunks])
    part_of = (ends - 1) * min(_PARTS, len(chunks)) // ends[-1]
    return [
        [chunk for chunk, part in zip(chunks, part_of, strict=True) if part == number]
        for number in np.unique(part_of)
    ]


def make_plan(orbits: Orbits, sizes: Sizes, budget: int) -> StreamPlan:
    """Fit the work into a budget of bytes, with as few passes over the RDMs as it allows.

    Raises
    ------
    InvalidInputError
        Where the budget is too small for one pair of relabellings and one part of the diagonals.
    """
    smallest = _memory(orbits, sizes, (1, 1), 1)
    what = f"a test of {sum(sizes.rdms)} RDMs of {orbits.n_stimuli:,} stimuli"
    fits(smallest, budget, what)
    plans = [
        StreamPlan(orbits, tile, at_once, _memory(orbits, sizes, tile, at_once), budget, 0, {})
        for tile in _tiles(orbits.counts, sizes.rdms)
        if (at_once := _parts_that_fit(orbits, sizes, tile, budget)) >= 1
    ]
    plan = min(plans, key=lambda plan: plan.passes)
    return replace(plan, bytes_read=plan.passes * sizes.stored)


def _tiles(counts: tuple[int, int], rdms: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """All relabellings at a time, then half of those of the side with more rows, and so on."""
    a, b = counts
    yield a, b
    while (a, b) != (1, 1):
        if b == 1 or (a > 1 and a * rdms[0] >= b * rdms[1]):
            a = ceil(a / 2)
        else:
            b = ceil(b / 2)
        yield a, b


def _parts_that_fit(orbits: Orbits, sizes: Sizes, tile: tuple[int, int], budget: int) -> int:
    none, one = (_memory(orbits, sizes, tile, parts) for parts in (0, 1))
    return min(len(orbits.parts), (budget - none) // (one - none))


def _memory(orbits: Orbits, sizes: Sizes, tile: tuple[int, int], parts: int) -> int:
    """Most bytes of a tile with so many parts of the diagonals in memory."""
    n = orbits.n_stimuli
    rows = [count * rdms for count, rdms in zip(tile, sizes.rdms, strict=True)]
    series = rows[0] * rows[1] * len(orbits.units)
    diagonals = max(sum(len(c.residues) for c in part) for part in orbits.parts) * parts
    held = sum(
        row * diagonals * n * itemsize for row, itemsize in zip(rows, sizes.itemsize, strict=True)
    )
    largest = max((chunk for part in orbits.parts for chunk in part), key=_slots)
    panels = sum(streaming.panel_bytes(n, largest, row) for row in rows)
    # The sums of a part and of all parts; the statistics of one relabelling, and of their counting.
    sums = 2 * streaming.sums_bytes(n, series) + 16 * n * (series // tile[0])
    return int(sizes.reading + streaming.transform_bytes(n) + held + panels + sums)


def _slots(chunk: Chunk) -> int:
    return len(chunk.residues)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"


def details(plan: StreamPlan) -> dict[str, Any]:
    """What a result says of how it was made."""
    return {
        "relabelings": list(plan.orbits.counts),
        "units": [int(u) for u in plan.orbits.units],
        "shifts": plan.orbits.n_stimuli,
    }
