"""The three engines: each yields blocks of permuted statistics for the tally to count.

orbit   n relabellings for the price of one FFT (`rsafast_kernels.orbit`), for bilinear statistics
exact   every relabelling once
direct  one random relabelling at a time: for any statistic, and within blocks
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil, factorial, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels import orbit
from rsafast_kernels._memory import aligned_empty
from rsafast_kernels.device import Device, namespace, on_gpu, to_gpu
from rsafast_kernels.relabel import relabelings, relabelings_on_gpu
from rsafast_kernels.tally import Recheck

from rsafast.comparators import FloatArray
from rsafast.errors import InvalidInputError
from rsafast.memory import format_bytes
from rsafast.permutation import gpu
from rsafast.permutation.statistics import BilinearStatistic, Group, Index, Statistic

# Streams of the seed's random numbers.
PERMUTED, _FIXED, _DIRECT = 0, 1, 2
PILOT = 3

_GPU_BLOCK_BYTES = 2**28  # statistics, or relabellings and their random words, of a block
_BLOCK_BYTES = 2**22  # statistics of a block: they should still be in cache when they are counted
_MOST_ROWS, _LEAST_ROWS = 96, 32  # of either side: where products run at full speed


@dataclass(frozen=True, slots=True)
class Block:
    """Statistics (I, M, J, N, S), and the number of the first relabelling of each (i, j).

    They are where they were made: on a GPU in CuPy arrays, float32 ones with a `recheck`.
    """

    values: FloatArray
    starts: NDArray[np.int64]
    recheck: Recheck | None = None

    @property
    def places(self) -> NDArray[np.int64]:
        """Number (I, J, S) of every relabelling among all."""
        return self.starts[:, :, None] + np.arange(self.values.shape[-1])

    @property
    def size(self) -> int:
        """Relabellings in the block."""
        return self.starts.size * self.values.shape[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which relabellings a test evaluates, and where."""

    engine: str
    n_permutations: int
    independent_blocks: bool  # whether the spread between blocks tells the Monte Carlo error
    details: dict[str, Any]
    device: Device = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Sampling):
    """A sampling, and the blocks that carry it out.

    Attributes
    ----------
    rows : what the work can be divided by.
    run : blocks of some of the rows; any parts of ``range(rows)`` make up the whole.
    """

    rows: int
    run: Callable[[range], Iterator[Block]]

    def blocks(self) -> Iterator[Block]:
        """All blocks."""
        return self.run(range(self.rows))


# ---------------------------------------------------------------- orbit


def plan_orbit(
    statistic: BilinearStatistic,
    n: int,
    n_permutations: int,
    seed: int,
    budget: int,
    single: bool = False,
) -> Plan:
    """Plan orbit sampling of at least `n_permutations` relabellings within `budget` bytes.

    `single` allows float32 products on a GPU, for counts alone: no statistic is kept.
    """
    groups = statistic.groups
    count_a, count_b = split_relabelings(
        ceil(n_permutations / n), sum(len(a) for a, _ in groups), sum(len(b) for _, b in groups)
    )
    device = device_of(statistic)
    if device == "cuda":
        gpu.tiles(statistic, n, (count_a, count_b), budget, 8)  # what is too large is told now
        run = partial(_run_orbit_on_gpu, statistic, n, count_b, seed, budget, single)
    else:
        sizes = _sizes(groups, n, count_a, count_b, budget)
        run = partial(_run_orbit, statistic, n, count_b, seed, sizes)
    return Plan(
        engine="orbit",
        n_permutations=count_a * count_b * n,
        independent_blocks=True,
        run=run,
        rows=count_a,
        details={"relabelings": [count_a, count_b], "shifts": n},
        device=device,
    )


def device_of(statistic: Statistic) -> Device:
    """Where the matrices of a statistic live, and so where it is evaluated."""
    there = statistic.bilinear and on_gpu(statistic.groups[0][0])  # type: ignore[attr-defined]
    return "cuda" if there else "cpu"


def _run_orbit_on_gpu(
    statistic: BilinearStatistic,
    n: int,
    count_b: int,
    seed: int,
    budget: int,
    single: bool,
    rows: range,
) -> Iterator[Block]:
    g = relabelings(seed, PERMUTED, rows.start, len(rows), n)
    r = fixed_relabelings(seed, range(count_b), n)
    for tile, values, recheck in gpu.run(statistic, g, r, budget, single):
        first = (np.array(tile.i)[:, None] + rows.start) * count_b + np.array(tile.j)
        yield Block(values, first * n, recheck)


def split_relabelings(blocks: int, rows_a: int, rows_b: int) -> tuple[int, int]:
    """Relabellings of either side, at least `blocks` pairs of them, for the fewest transforms.

    Depends on nothing but the sizes of the problem, so that a result never depends on memory.
    Both sides get at least two where there are four pairs: with one side in a single order, the
    orbits of ordered stimuli are less independent.
    """
    least = 2 if blocks >= 4 else 1
    ideal = sqrt(blocks * rows_b / rows_a)
    choices = {max(least, min(blocks, int(ideal) + step)) for step in (-2, -1, 0, 1, 2)}
    splits = [(a, max(least, ceil(blocks / a))) for a in sorted(choices)]
    return min(splits, key=lambda s: (s[0] * rows_a + s[1] * rows_b, s[0] * s[1]))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Relabellings of either side multiplied at a time, and of the fixed side held in memory."""

    tile_a: int
    tile_b: int
    held_b: int


def _sizes(groups: list[Group], n: int, count_a: int, count_b: int, budget: int) -> _Sizes:
    """Sizes that fit the budget. They decide how fast a test runs, never what it finds."""
    spectrum = orbit.spectra_bytes(n)
    rows_a, rows_b = (sum(len(g[side]) for g in groups) for side in (0, 1))

    def needed(tile_a: int, tile_b: int, held_b: int) -> int:
        products = sum(orbit.scratch_bytes(tile_a * len(a), tile_b * len(b), n) for a, b in groups)
        # Twice the products: for the combined statistic and what it takes to count it.
        return (tile_a * rows_a + held_b * rows_b) * spectrum + 2 * products

    if needed(1, 1, 1) > budget:
        raise InvalidInputError(
            f"memory_budget of {format_bytes(budget)} is too small: {n} stimuli, {rows_a} permuted"
            f" and {rows_b} fixed matrices need {format_bytes(needed(1, 1, 1))};"
            " raise it, or test fewer RDMs at a time"
        )
    tile_a, tile_b = _tile(groups, n, count_a, count_b)
    while needed(tile_a, tile_b, tile_b) > budget:
        tile_a, tile_b = max(1, tile_a // 2), max(1, tile_b // 2)
    # What is not held of the fixed side is transformed again for every tile of the permuted side.
    held_b = count_b
    while held_b > tile_b and needed(tile_a, tile_b, held_b) > budget:
        held_b = max(tile_b, held_b // 2)
    return _Sizes(tile_a, tile_b, held_b)


def _tile(groups: list[Group], n: int, count_a: int, count_b: int) -> tuple[int, int]:
    """Relabellings of either side in one product: many rows, but results that stay in cache."""
    widest_a, widest_b = (max(len(g[side]) for g in groups) for side in (0, 1))
    tile_a = min(count_a, max(1, _MOST_ROWS // widest_a))
    tile_b = min(count_b, max(1, _MOST_ROWS // widest_b))

    def size() -> int:
        return 8 * n * tile_a * widest_a * tile_b * widest_b

    def shrinkable(tile: int, widest: int) -> bool:
        least = _LEAST_ROWS if size() <= 16 * _BLOCK_BYTES else 0
        return tile > 1 and ceil(tile / 2) * widest >= least

    while size() > _BLOCK_BYTES:
        can_a, can_b = shrinkable(tile_a, widest_a), shrinkable(tile_b, widest_b)
        if can_a and (tile_a * widest_a >= tile_b * widest_b or not can_b):
            tile_a = ceil(tile_a / 2)
        elif can_b:
            tile_b = ceil(tile_b / 2)
        else:
            break
    return tile_a, tile_b


def _run_orbit(
    statistic: BilinearStatistic, n: int, count_b: int, seed: int, sizes: _Sizes, rows: range
) -> Iterator[Block]:
    groups = statistic.groups
    spectrum = orbit.spectra_bytes(n) // 8
    panels_a = [aligned_empty((sizes.tile_a * len(a) * spectrum,)) for a, _ in groups]
    panels_b = [aligned_empty((sizes.held_b * len(b) * spectrum,)) for _, b in groups]
    workspaces = [
        orbit.Workspace.empty(sizes.tile_a * len(a), sizes.tile_b * len(b), n) for a, b in groups
    ]
    fixed: list[FloatArray] = []
    for i in _parts(rows, sizes.tile_a):
        drawn = relabelings(seed, PERMUTED, i.start, len(i), n)
        permuted = [
            orbit.spectra(a, drawn, side="permuted", out=panel)
            for (a, _), panel in zip(groups, panels_a, strict=True)
        ]
        for held in _parts(range(count_b), sizes.held_b):
            if sizes.held_b < count_b or not fixed:
                drawn = fixed_relabelings(seed, held, n)
                fixed = [
                    orbit.spectra(b, drawn, side="fixed", out=panel)
                    for (_, b), panel in zip(groups, panels_b, strict=True)
                ]
            for j in _parts(held, sizes.tile_b):
                forms = [
                    orbit.correlate(
                        x, y, n, rows_b=_rows(j, held, len(b)), workspace=workspace
                    ).reshape(len(i), len(a), len(j), len(b), n)
                    for (a, b), x, y, workspace in zip(
                        groups, permuted, fixed, workspaces, strict=True
                    )
                ]
                first = np.array(i)[:, None] * count_b + np.array(j)
                yield Block(statistic.combine(forms), first * n)


def fixed_relabelings(seed: int, indices: range, n: int) -> Index:
    """Relabellings of the fixed side; the first is that of the permuted side.

    So the orbit holds the identity (at pair (0, 0), shift 0), which makes the test exact.
    """
    drawn = relabelings(seed, _FIXED, indices.start, len(indices), n)
    if indices.start == 0:
        drawn[0] = relabelings(seed, PERMUTED, 0, 1, n)[0]
    return drawn


def orbit_permutation(seed: int, i: int, j: int, shift: int, n: int) -> Index:
    """Permutation behind entry (i, j, shift) of an orbit test with this seed: (n,)."""
    g = relabelings(seed, PERMUTED, i, 1, n)[0]
    return orbit.permutation(g, fixed_relabelings(seed, range(j, j + 1), n)[0], shift)


def _parts(indices: range, size: int) -> list[range]:
    return [indices[k : k + size] for k in range(0, len(indices), size)]


def _rows(part: range, held: range, matrices: int) -> range:
    return range((part.start - held.start) * matrices, (part.stop - held.start) * matrices)


# ---------------------------------------------------------------- direct


def plan_direct(
    statistic: Statistic,
    n_pairs: int,
    n: int,
    n_permutations: int,
    seed: int,
    groups: NDArray[np.int64] | None,
) -> Plan:
    """Plan `n_permutations` independent relabellings, the first of them the identity."""

    device = device_of(statistic)
    drawing = relabelings_on_gpu if device == "cuda" else relabelings

    def draw(start: int, stop: int) -> Index:
        drawn = drawing(seed, _DIRECT, start, stop - start, n, groups)
        if start == 0:
            drawn[0] = namespace(drawn).arange(n)
        return drawn

    return Plan(
        engine="direct",
        n_permutations=n_permutations,
        independent_blocks=False,
        run=partial(_evaluate, statistic, _chunk(n_pairs, n, device), draw),
        rows=n_permutations,
        details={},
        device=device,
    )


def _chunk(n_pairs: int, n: int, device: Device) -> int:
    """Relabellings of one call: enough to share, few enough to answer to Ctrl-C."""
    if device == "cuda":
        return max(16, min(2**16, _GPU_BLOCK_BYTES // (8 * max(n_pairs, 2 * n))))
    most = _BLOCK_BYTES // (8 * n_pairs)
    return max(16, min(4096, most, 2**28 // (n * n * n_pairs) + 1))


def _evaluate(
    statistic: Statistic, chunk: int, draw: Callable[[int, int], Index], rows: range
) -> Iterator[Block]:
    for start in rows[::chunk]:
        stop = min(start + chunk, rows.stop)
        values = statistic.evaluate(draw(start, stop))
        yield Block(values[None, :, None, :, :], np.array([[start]]))


# ---------------------------------------------------------------- exact


def count_relabelings(n: int, groups: NDArray[np.int64] | None) -> int:
    """Number of relabellings there are, within groups if given."""
    sizes = [n] if groups is None else np.unique(groups, return_counts=True)[1].tolist()
    return prod(factorial(size) for size in sizes)


def plan_exact(
    statistic: Statistic, n_pairs: int, n: int, groups: NDArray[np.int64] | None
) -> Plan:
    """Plan every relabelling once, the identity first."""
    total = count_relabelings(n, groups)
    members = [np.arange(n)] if groups is None else [
        np.flatnonzero(groups == g) for g in np.unique(groups)
    ]  # fmt: skip
    device = device_of(statistic)
    there = to_gpu if device == "cuda" else np.asarray
    return Plan(
        engine="exact",
        n_permutations=total,
        independent_blocks=False,
        run=partial(
            _evaluate,
            statistic,
            _chunk(n_pairs, n, device),
            lambda a, b: there(enumerate_relabelings(members, a, b)),
        ),
        rows=total,
        details={},
        device=device,
    )


def enumerate_relabelings(members: list[NDArray[np.int64]], start: int, stop: int) -> Index:
    """Relabellings number `start` to `stop` in lexicographic order, each group on its own."""
    number = np.arange(start, stop, dtype=np.int64)
    out = np.empty((len(number), sum(len(m) for m in members)), np.int32)
    for group in reversed(members):
        number, code = np.divmod(number, factorial(len(group)))
        out[:, group] = group[_lexicographic(code, len(group))]
    return out


def _lexicographic(code: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Permutations of 0..n-1 with these lexicographic numbers, (count, n)."""
    digits = np.empty((len(code), n), np.int64)
    for place in range(n):
        digits[:, place], code = np.divmod(code, factorial(n - 1 - place))
    for place in range(n - 2, -1, -1):
        later = digits[:, place + 1 :]
        later += later >= digits[:, place : place + 1]
    return digits
