"""The streamed orbit engine: sums over diagonals part by part, then statistics tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import replacing
from rsafast_kernels.orbit import permutation, streaming
from rsafast_kernels.orbit.streaming import Chunk, Sums
from rsafast_kernels.relabel import relabelings
from rsafast_kernels.tally import Tally

from rsafast.comparators import FloatArray
from rsafast.ondisk.plan import Orbits, StreamPlan
from rsafast.ondisk.rows import ahead, panels
from rsafast.ondisk.survey import Survey, Values
from rsafast.ondisk.work import Work
from rsafast.permutation.counts import Counts
from rsafast.permutation.engines import PERMUTED, Block, fixed_relabelings
from rsafast.permutation.statistics import Index
from rsafast.progress import Advance


@dataclass(frozen=True, slots=True)
class Side:
    """RDMs of one side, with what turns their values into factors of the statistic.

    Attributes
    ----------
    values : the RDMs.
    centre, norm : (K,) of each; what is multiplied is ``(value - centre) / norm``.
    draw : relabellings of given numbers, (count, n).
    """

    values: Sequence[Values]
    centre: FloatArray
    norm: FloatArray
    draw: Callable[[range], Index]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type that holds the values of all RDMs."""
        return np.result_type(*[v.dtype for v in self.values])


def sides(values: Sequence[Values], models: int, found: Survey, seed: int) -> tuple[Side, Side]:
    """Both sides of a test with this seed, of values that list so many models first."""
    n, m = values[0].rows.n_stimuli, models
    return (
        Side(values[:m], found.centre[:m], found.norm[:m],
             lambda i: relabelings(seed, PERMUTED, i.start, len(i), n)),
        Side(values[m:], found.centre[m:], found.norm[m:],
             lambda j: fixed_relabelings(seed, j, n)),
    )  # fmt: skip


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
            with np.load(_state_of(work), allow_pickle=False) as state:
                # Another budget may have cut the work into other tiles: then it starts anew.
                if tuple(state["size"]) == self.size:
                    self.tile, self.part = (int(x) for x in state["reached"])
                    self.sums = state["sums"]
                    _restore(counts, state)

    def save(self, tile: int, part: int, sums: FloatArray) -> None:
        """Note that `part` parts of tile number `tile` are in the sums."""
        if self.work is None:
            return
        state = {"size": np.array(self.size), "reached": np.array([tile, part]), "sums": sums}
        state |= _state(self.counts)
        self.work.file.touch()  # without it the work would start anew
        with replacing(_state_of(self.work)) as temporary, temporary.open("wb") as file:
            np.savez(file, **state)  # type: ignore[arg-type]
        self.work.record(range(len(self.work.done), len(self.work.done) + 1))


def _state_of(work: Work) -> Path:
    return work.file.with_name("state.npz")


def _state(counts: Counts) -> dict[str, NDArray[Any]]:
    tally = {f"tally_{f.name}": np.asarray(getattr(counts.tally, f.name)) for f in fields(Tally)}
    return tally | ({} if counts.top is None else {"top": counts.top.scores})


def _restore(counts: Counts, state: Any) -> None:
    for field in fields(Tally):
        value = state[f"tally_{field.name}"]
        setattr(counts.tally, field.name, value if value.ndim else value.item())
    if counts.top is not None:
        counts.top.scores = state["top"]


def run(
    plan: StreamPlan, models: Side, brain: Side, checkpoint: Checkpoint, advance: Advance
) -> Iterator[Block]:
    """Yield the statistics of all relabellings that are not counted yet, tile by tile."""
    for number, (i, j) in enumerate(plan.tiles):
        if number < checkpoint.tile:
            advance(_size(plan, i, j))
            continue
        sums = _summed(plan, number, (models, i), (brain, j), checkpoint, advance)
        for row, relabeling in enumerate(i):
            values = sums.statistics(row * len(models.values), len(models.values))
            shape = (1, len(models.values), len(j), len(brain.values), -1)
            first = (relabeling * plan.orbits.counts[1] + np.array([j])) * _orbit(plan)
            yield Block(values.reshape(shape), first)
        if number + 1 < len(plan.tiles):
            checkpoint.save(number + 1, 0, np.zeros(0))


def _orbit(plan: StreamPlan) -> int:
    """Relabellings of one pair (i, j)."""
    return plan.orbits.n_stimuli * len(plan.orbits.units)


def _size(plan: StreamPlan, i: range, j: range) -> int:
    return len(i) * len(j) * _orbit(plan)


def _summed(
    plan: StreamPlan,
    number: int,
    models: tuple[Side, range],
    brain: tuple[Side, range],
    checkpoint: Checkpoint,
    advance: Advance,
) -> Sums:
    """Sums of a tile over all diagonals, in the order of the parts."""
    orbits = plan.orbits
    n, parts = orbits.n_stimuli, orbits.parts
    rows = [len(side.values) * len(indices) for side, indices in (models, brain)]
    sums = Sums(n, rows[0], rows[1], orbits.units)
    total = np.zeros_like(sums.values)
    start = 0
    if checkpoint.tile == number and checkpoint.part:
        start, total[:] = checkpoint.part, checkpoint.sums
    progress = _Share(advance, _size(plan, models[1], brain[1]), len(parts), start)
    for first in range(start, len(parts), plan.parts_at_once):
        together = parts[first : first + plan.parts_at_once]
        residues = np.concatenate([chunk.residues for part in together for chunk in part])
        diagonals = streaming.stored_diagonals(residues, n)
        # Filling and transforming take about as long as each other.
        filling = partial(_scaled, progress, len(together) / 4)
        a, b = (_filled(*side, diagonals, filling) for side in (models, brain))
        for part in together:
            sums.values[:] = 0.0
            for chunk in part:
                _add(sums, chunk, diagonals, (models, a), (brain, b))
            total += sums.values
            progress(0.5)
        if first + len(together) < len(parts):
            checkpoint.save(number, first + len(together), total)
    sums.values[:] = total
    return sums


def _add(
    sums: Sums,
    chunk: Chunk,
    diagonals: NDArray[np.int64],
    models: tuple[tuple[Side, range], NDArray[Any]],
    brain: tuple[tuple[Side, range], NDArray[Any]],
) -> None:
    scale, centre = [], []
    for (side, indices), _ in (models, brain):
        scale.append(np.tile(1.0 / side.norm, len(indices)))
        centre.append(np.tile(side.centre, len(indices)))
    sums.add(
        chunk, models[1], brain[1], diagonals, (scale[0], scale[1]), (centre[0], centre[1])
    )  # fmt: skip


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
        for first, last, panel in ahead(values.read_rows, panels(n, [values.rows.step])):
            panel = panel.astype(side.dtype, copy=False)
            for k, relabeling in enumerate(drawn):
                streaming.fill(panel, first, last, relabeling, diagonals, out[k * count + m])
            progress(2 * len(panel) / (n * (n - 1)) / count)
    return out


def _scaled(progress: Callable[[float], None], by: float, done: float) -> None:
    progress(by * done)


class _Share:
    """Progress of a tile in relabellings, told in parts of the diagonals."""

    def __init__(self, advance: Advance, size: int, parts: int, start: int) -> None:
        self.advance, self.each, self.done, self.told = advance, size / parts, 0.0, 0
        self(start)

    def __call__(self, parts: float) -> None:
        self.done += parts * self.each
        items = round(self.done) - self.told
        self.told += items
        self.advance(items)
