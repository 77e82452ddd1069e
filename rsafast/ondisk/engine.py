"""The streamed orbit engine: sums over diagonals part by part, then statistics tile by tile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.orbit import permutation, streaming
from rsafast_kernels.orbit.streaming import Chunk, Sums
from rsafast_kernels.orbit.units import Units
from rsafast_kernels.relabel import relabelings
from rsafast_kernels.tally import Tally

from rsafast.cluster import in_order, once
from rsafast.comparators import FloatArray
from rsafast.ondisk.plan import Orbits, StreamPlan
from rsafast.ondisk.rows import Rows, ahead, check_bits, fingerprints, panels
from rsafast.ondisk.survey import Survey, Values
from rsafast.ondisk.work import Work
from rsafast.permutation.counts import Counts
from rsafast.permutation.engines import PERMUTED, Block, fixed_relabelings
from rsafast.permutation.statistics import Index
from rsafast.progress import Advance, Share

if TYPE_CHECKING:
    from distributed import Client

_STATE = "state.npz"  # sums and counts of a run so far


@dataclass(frozen=True, slots=True)
class Side:
    """RDMs of one side, with what turns their values into factors of the statistic.

    Attributes
    ----------
    values : the RDMs.
    centre, norm : (K,) of each; what is multiplied is ``(value - centre) / norm``.
    seed, permuted : which relabellings they are taken under.
    """

    values: Sequence[Values]
    centre: FloatArray
    norm: FloatArray
    seed: int
    permuted: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type that holds the values of all RDMs."""
        return np.result_type(*[v.dtype for v in self.values])

    def draw(self, indices: range) -> Index:
        """Relabellings of these numbers: (count, n)."""
        n = self.values[0].rows.n_stimuli
        if self.permuted:
            return relabelings(self.seed, PERMUTED, indices.start, len(indices), n)
        return fixed_relabelings(self.seed, indices, n)


def sides(values: Sequence[Values], models: int, found: Survey, seed: int) -> tuple[Side, Side]:
    """Both sides of a test with this seed, of values that list so many models first."""
    m = models
    return (
        Side(values[:m], found.centre[:m], found.norm[:m], seed, permuted=True),
        Side(values[m:], found.centre[m:], found.norm[m:], seed, permuted=False),
    )


def permutation_at(orbits: Orbits, seed: int, place: int) -> Index:
    """Permutation number `place` of a test with this seed: (n,)."""
    n, m = orbits.n_stimuli, len(orbits.units)
    pair, rest = divmod(place, m * n)
    unit, shift = divmod(rest, n)
    i, j = divmod(pair, orbits.counts[1])
    g = relabelings(seed, PERMUTED, i, 1, n)[0]
    r = fixed_relabelings(seed, range(j, j + 1), n)[0]
    back = pow(int(orbits.units[unit]), -1, n)
    return permutation(g, r[back * np.arange(n) % n], shift)


class Checkpoint:
    """Sums and counts of a run so far, on disk; or nowhere, where there is no `work`.

    Attributes
    ----------
    tile, part : how many tiles are counted, and how many parts of the next one are in `sums`.
    sums : of the tile in flight.
    """

    def __init__(self, work: Work | None, counts: Counts, plan: StreamPlan) -> None:
        self.work, self.counts, self.size = work, counts, plan.tile
        self.tile, self.part, self.sums = 0, 0, np.zeros(0)
        if work is not None and work.done:
            with np.load(work.beside(_STATE), allow_pickle=False) as state:
                # Another budget may have cut the work into other tiles: then it starts anew.
                if tuple(state["size"]) == self.size:
                    self.tile, self.part = (int(x) for x in state["reached"])
                    self.sums = state["sums"]
                    _restore(counts, state)

    def save(self, tile: int, part: int, sums: FloatArray) -> None:
        """Note that `part` parts of tile number `tile` are in the sums.

        Raises
        ------
        InvalidInputError
            Where the disk does not take them; what was saved before is untouched.
        """
        if self.work is None:
            return
        state = {"size": np.array(self.size), "reached": np.array([tile, part]), "sums": sums}
        state |= _state(self.counts)
        self.work.keep(_STATE, lambda file: np.savez(file, **state))  # type: ignore[arg-type]


def _state(counts: Counts) -> dict[str, NDArray[Any]]:
    tally = {f"tally_{f.name}": np.asarray(getattr(counts.tally, f.name)) for f in fields(Tally)}
    return tally | ({} if counts.top is None else {"top": counts.top.scores})


def _restore(counts: Counts, state: Any) -> None:
    for field in fields(Tally):
        value = state[f"tally_{field.name}"]
        setattr(counts.tally, field.name, value if value.ndim else value.item())
    if counts.top is not None:
        counts.top.scores = state["top"]


class Stopwatch:
    """Seconds spent on each stage, so far."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time of a ``with`` block to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Tile:
    """What the sums of some parts of the diagonals are a function of, but for the parts.

    Attributes
    ----------
    n : stimuli.
    units : group of units.
    sides : models and brain RDMs.
    indices : relabellings of either side.
    """

    n: int
    units: Units
    sides: tuple[Side, Side]
    indices: tuple[range, range]

    @property
    def rdms(self) -> list[Rows]:
        """The RDMs of both sides."""
        return [values.rows for side in self.sides for values in side.values]

    def empty(self) -> Sums:
        """Sums of nothing yet."""
        rows = [len(s.values) * len(i) for s, i in zip(self.sides, self.indices, strict=True)]
        return Sums(self.n, rows[0], rows[1], self.units)


def run(
    plan: StreamPlan,
    sides: tuple[Side, Side],
    checkpoint: Checkpoint,
    watch: Stopwatch,
    advance: Advance,
    client: Client | None = None,
) -> Iterator[Block]:
    """Yield the statistics of all relabellings that are not counted yet, tile by tile.

    With a client the sums of parts are made by its cluster; they are added here, in order.
    """
    orbits = plan.orbits
    for number, indices in enumerate(plan.tiles):
        size = len(indices[0]) * len(indices[1]) * _of_a_pair(orbits)
        if number < checkpoint.tile:
            advance(size)
            continue
        tile = Tile(orbits.n_stimuli, orbits.units, sides, indices)
        progress = Share(advance, size / len(orbits.parts))
        # The sums have no name here: those of one tile are gone before the next one begins.
        yield from _blocks(
            _summed(plan, number, tile, checkpoint, watch, progress, client), tile, orbits, watch
        )
        if number + 1 < len(plan.tiles):
            checkpoint.save(number + 1, 0, np.zeros(0))


def _of_a_pair(orbits: Orbits) -> int:
    """Relabellings of one pair (g, r)."""
    return orbits.n_stimuli * len(orbits.units)


def _blocks(sums: Sums, tile: Tile, orbits: Orbits, watch: Stopwatch) -> Iterator[Block]:
    """Statistics of a tile, one relabelling of the models at a time."""
    (models, brain), (i, j) = tile.sides, tile.indices
    shape = (1, len(models.values), len(j), len(brain.values), -1)
    for row, relabeling in enumerate(i):
        with watch.timing("statistics"):
            values = sums.statistics(row * len(models.values), len(models.values))
        first = (relabeling * orbits.counts[1] + np.array([j])) * _of_a_pair(orbits)
        yield Block(values.reshape(shape), first)


def _summed(
    plan: StreamPlan,
    number: int,
    tile: Tile,
    checkpoint: Checkpoint,
    watch: Stopwatch,
    progress: Callable[[float], None],
    client: Client | None,
) -> Sums:
    """Sums of a tile over all diagonals, in the order of the parts."""
    sums = tile.empty()
    total = np.zeros_like(sums.values)
    start = 0
    if checkpoint.tile == number and checkpoint.part:
        start, total[:] = checkpoint.part, checkpoint.sums
        progress(start)
    parts, step = plan.orbits.parts, plan.parts_at_once
    groups = [parts[first : first + step] for first in range(start, len(parts), step)]
    found: Iterator[Iterable[FloatArray]]
    if client is None:
        found = (_sums_of(tile, group, sums, watch, progress) for group in groups)
    else:
        shared, expected = once(client, tile), fingerprints(tile.rdms)
        calls = [(shared, group, expected) for group in groups]
        found = _reported(in_order(client, _sums_there, calls), progress)
    for group, sums_of_parts in zip(groups, found, strict=True):
        for of_part in sums_of_parts:
            total += of_part
        start += len(group)
        if start < len(parts):
            checkpoint.save(number, start, total)
    sums.values[:] = total
    return sums


def _sums_of(
    tile: Tile,
    parts: list[list[Chunk]],
    sums: Sums,
    watch: Stopwatch,
    progress: Callable[[float], None],
) -> Iterator[FloatArray]:
    """Yield the sums over each of some parts that are in memory together; `sums` is overwritten."""
    residues = np.concatenate([chunk.residues for part in parts for chunk in part])
    diagonals = streaming.stored_diagonals(residues, tile.n)
    factors = []
    with watch.timing("reading and filling"):
        for side, indices in zip(tile.sides, tile.indices, strict=True):
            # Filling and transforming take about as long as each other.
            filled = _filled(side, indices, diagonals, lambda x: progress(len(parts) * x / 4))
            scale, centre = (np.tile(x, len(indices)) for x in (1.0 / side.norm, side.centre))
            factors.append((filled, scale, centre))
    (a, *_), (b, *_) = factors
    scales, centres = ((factors[0][k], factors[1][k]) for k in (1, 2))
    for part in parts:
        with watch.timing("transforms and products"):
            sums.values[:] = 0.0
            for chunk in part:
                sums.add(chunk, a, b, diagonals, scales, centres)
        progress(0.5)
        yield sums.values


def _sums_there(tile: Tile, parts: list[list[Chunk]], expected: list[str]) -> list[FloatArray]:
    """The work of one task of a cluster."""
    check_bits(tile.rdms, expected)
    each = _sums_of(tile, parts, tile.empty(), Stopwatch(), lambda done: None)
    return [values.copy() for values in each]


def _reported(
    found: Iterator[list[FloatArray]], progress: Callable[[float], None]
) -> Iterator[list[FloatArray]]:
    for sums_of_parts in found:
        progress(len(sums_of_parts))
        yield sums_of_parts


def _filled(
    side: Side,
    indices: range,
    diagonals: NDArray[np.int64],
    progress: Callable[[float], None],
) -> NDArray[Any]:
    """Diagonals of every RDM under every relabelling: (relabellings * RDMs, held, n)."""
    drawn, count = side.draw(indices), len(side.values)
    n = drawn.shape[1]
    out = np.empty((len(indices) * count, len(diagonals), n), side.dtype)
    for m, values in enumerate(side.values):
        for first, last, panel in ahead(values, panels(n, [values.rows.step]), values.rows):
            panel = panel.astype(side.dtype, copy=False)
            for k, relabeling in enumerate(drawn):
                streaming.fill(panel, first, last, relabeling, diagonals, out[k * count + m])
            progress(2 * len(panel) / (n * (n - 1)) / count)
    return out
