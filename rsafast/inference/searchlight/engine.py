"""RDMs of neighbourhoods and their relabelled comparison with models, a batch of centres at a time.

All centres share the relabellings, which come in orbits of n (`rsafast_kernels.orbit`): about 2n
operations for each centre and relabelling, where multiplying relabelled models with the RDMs takes
n (n - 1). Kept of each relabelling is the largest standardised statistic over all models and
centres, and of each centre how many relabellings reach the observed value.

What is found does not depend on how large a batch is, to the last bit: `orbit.correlate` transforms
16 neighbouring centres together, so centres come in groups of 16 whose members never change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels import orbit
from rsafast_kernels._memory import aligned_empty
from rsafast_kernels.gather import gather_products
from rsafast_kernels.pairwise import Metric, pairwise_distances
from rsafast_kernels.relabel import relabelings

from rsafast._condensed import expand, n_pairs
from rsafast.comparators import Comparator, prepare
from rsafast.errors import InvalidInputError, RsafastError
from rsafast.inference.searchlight.neighbourhoods import FloatArray, Grid, IntArray
from rsafast.memory import format_bytes
from rsafast.permutation import moments
from rsafast.permutation.api import TOLERANCE
from rsafast.permutation.engines import (
    PERMUTED,
    Block,
    count_relabelings,
    fixed_relabelings,
    plan_exact,
)
from rsafast.permutation.statistics import Product
from rsafast.progress import track

_TOGETHER = 16  # centres that may share a transform
_MOST = 256  # centres of a batch: enough for every kernel to run at full speed
_BLOCK_BYTES = 2**25  # of permuted statistics at a time
_FLAT = 1e-12  # standard deviation of a null below which it has no spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourhoods:
    """Responses around the centres, in the order in which the centres are worked on.

    Attributes
    ----------
    values : (voxels, rows) of float32 or float64; rows are stimuli, or stimuli within folds.
    folds : number of folds, 0 where rows are stimuli.
    centres : (C,) voxels, by the size of their neighbourhood, so that many are equal in turn.
    sizes : (C,) voxels around each.
    coordinates : (voxels, 3) indices on the grid.
    """

    values: NDArray[np.floating]
    folds: int
    grid: Grid
    centres: IntArray
    sizes: IntArray
    coordinates: IntArray
    metric: Metric

    @property
    def n_stimuli(self) -> int:
        """Stimuli of every RDM."""
        return self.values.shape[1] // max(1, self.folds)

    def name(self, centre: int) -> str:
        """What errors call a centre."""
        return f"around voxel ({', '.join(map(str, self.coordinates[self.centres[centre]]))})"

    def rdms(self, start: int, stop: int) -> FloatArray:
        """RDM of each centre from `start` to `stop`, (k, pairs)."""
        out = np.empty((stop - start, n_pairs(self.n_stimuli)))
        runs = self.grid.runs(self.centres[start:stop], self.sizes[start:stop])
        for rows, around in runs:
            out[rows] = pairwise_distances(self.patterns(around), self.metric)
        return out

    def patterns(self, around: NDArray[np.int32]) -> NDArray[np.floating]:
        """Responses (k, stimuli, size), or (k, folds, stimuli, size), of k neighbourhoods."""
        x = np.ascontiguousarray(self.values[around].transpose(0, 2, 1))
        return x.reshape(len(x), self.folds, -1, x.shape[2]) if self.folds else x

    def check(self) -> None:
        """Raise for a neighbourhood in which the metric is undefined for a stimulus."""
        if self.metric not in ("correlation", "cosine"):
            return
        for start in range(0, len(self.centres), _MOST):
            part = slice(start, start + _MOST)
            for rows, around in self.grid.runs(self.centres[part], self.sizes[part]):
                # Only where two voxels agree can all of them.
                alike = (self.values[around[:, 0]] == self.values[around[:, -1]]).any(axis=1)
                for centre in np.flatnonzero(alike):
                    self._check_one(around[centre], start + rows.start + int(centre))

    def _check_one(self, around: NDArray[np.int32], centre: int) -> None:
        x = self.values[around]
        bad = x.min(axis=0) == x.max(axis=0)
        if self.metric == "cosine":
            bad &= x[0] == 0
        if bad.any():
            raise InvalidInputError(
                f"stimulus {int(np.argmax(bad))} has the same response in all {len(x)} voxels "
                f"{self.name(centre)}, so that its {self.metric} distance is undefined; leave these"
                " voxels or this stimulus out, or use metric='euclidean'"
            )


@dataclass(frozen=True, slots=True)
class Relabellings:
    """Relabellings of n stimuli, the same for every centre: all there are, or orbits.

    The fixed side has two relabellings, the fewest with which orbits of ordered stimuli stay nearly
    independent: each costs a transform of every centre, those of the model next to nothing.
    """

    n: int
    seed: int
    exact: bool
    permuted: int
    fixed: int

    @classmethod
    def at_least(cls, n: int, n_permutations: int, seed: int) -> Relabellings:
        """All relabellings, if they are no more than asked for; else whole orbits."""
        orbits = ceil(n_permutations / n)
        fixed = 2 if orbits >= 4 else 1
        exact = count_relabelings(n, None) <= n_permutations
        return cls(n, seed, exact, ceil(orbits / fixed), fixed)

    @property
    def total(self) -> int:
        """Relabellings evaluated, the identity among them."""
        if self.exact:
            return count_relabelings(self.n, None)
        return self.permuted * self.fixed * self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is known of every model and centre: (M, C) each, and of relabellings: (P,).

    `joint` is what family-wise p-values compare with `null_max`.
    """

    statistic: FloatArray
    exceedances: IntArray
    joint: FloatArray
    null_mean: FloatArray
    null_std: FloatArray
    null_max: FloatArray


def search(
    models: FloatArray,
    comparator: Comparator,
    around: Neighbourhoods,
    relabellings: Relabellings | None,
    alternative: str,
    budget: int,
    progress: bool,
) -> Found:
    """Compare every model with every neighbourhood, as they are and relabelled.

    Parameters
    ----------
    models : (M, n, n) prepared by the comparator.
    relabellings : None to leave the test out.
    budget : bytes of working arrays.
    """
    around.check()
    shape, n = (len(models), len(around.centres)), around.n_stimuli
    sizes = _sizes(shape[0], around, relabellings, budget)
    found = Found(
        statistic=np.empty(shape), exceedances=np.zeros(shape, np.int64), joint=np.empty(shape),
        null_mean=np.zeros(shape), null_std=np.zeros(shape),
        null_max=np.full(relabellings.total if relabellings else 0, -np.inf),
    )  # fmt: skip
    relabelled = Relabelled.of(models, relabellings, sizes) if relabellings else None
    identity = np.arange(n, dtype=np.int32)[None]
    with track(shape[1], "centres", progress) as advance:
        for start in range(0, shape[1], sizes.centres):
            stop = min(start + sizes.centres, shape[1])
            brain = _prepared(comparator, around, start, stop)
            part = slice(start, stop)
            observed = gather_products(models, brain, identity)[:, :, 0]
            found.statistic[:, part] = observed[:, : stop - start]
            if relabelled is not None:
                _count(relabelled, brain, observed, found, part, alternative)
            advance(stop - start)
    if relabelled is not None and not (found.exceedances > 0).all():
        raise RsafastError(
            "the observed labelling was not counted among the relabellings, so no p-value is"
            " given; please report this with the responses"
        )
    return found


def _prepared(comparator: Comparator, around: Neighbourhoods, start: int, stop: int) -> FloatArray:
    """Prepared matrices of the centres, and zeros up to a whole number of groups."""
    n, count = around.n_stimuli, stop - start
    vectors = np.zeros((-(-count // _TOGETHER) * _TOGETHER, n_pairs(n)))
    names = tuple(around.name(centre) for centre in range(start, stop))
    vectors[:count] = prepare(comparator, around.rdms(start, stop), n, names)
    return expand(vectors, n)


def _count(
    relabelled: Relabelled,
    brain: FloatArray,
    observed: FloatArray,
    found: Found,
    part: slice,
    alternative: str,
) -> None:
    """Count the relabellings of a batch, and raise the largest statistic of each."""
    true = part.stop - part.start
    mean, std = moments.mean_and_std(relabelled.models, brain)
    sign = {"greater": 1.0, "less": -1.0, "two-sided": 0.0}[alternative]
    scale = np.where(std > _FLAT, 1.0 / np.maximum(std, _FLAT), 0.0)
    thresholds = _scores(observed, alternative) - TOLERANCE
    for block in relabelled.blocks(brain):
        values = _scores(block.values, alternative)
        reached = (values >= thresholds[:, None, :, None]).sum(axis=(0, 2, 4))
        found.exceedances[:, part] += reached[:, :true]
        values -= (sign * mean)[:, None, :, None]
        values *= scale[:, None, :, None]
        largest = values[:, :, :, :true].max(axis=(1, 3))
        places = block.places
        found.null_max[places] = np.maximum(found.null_max[places], largest)
    found.joint[:, part] = ((thresholds - sign * mean) * scale)[:, :true]
    found.null_mean[:, part], found.null_std[:, part] = mean[:, :true], std[:, :true]


def _scores(values: FloatArray, alternative: str) -> FloatArray:
    """Statistic turned so that larger is more extreme; `values` themselves if they are."""
    if alternative == "greater":
        return values
    return -values if alternative == "less" else np.abs(values)


# ---------------------------------------------------------------- relabelled models


@dataclass(frozen=True, slots=True)
class Relabelled:
    """Models under all relabellings, ready to meet one batch of centres after another."""

    models: FloatArray
    plan: Relabellings
    sizes: Sizes
    held: FloatArray | None  # spectra of all relabelled models, where the budget has room for them
    panel: FloatArray
    workspace: orbit.Workspace

    @classmethod
    def of(cls, models: FloatArray, plan: Relabellings, sizes: Sizes) -> Relabelled:
        """Set the buffers up, and transform the models once if they can be held."""
        n, rows = plan.n, 0 if plan.exact else plan.fixed * sizes.centres
        out = cls(
            models, plan, sizes, None, aligned_empty((rows * orbit.spectra_bytes(n) // 8,)),
            orbit.Workspace.empty(0 if plan.exact else sizes.tile * len(models), rows, n),
        )  # fmt: skip
        if plan.exact or not sizes.hold:
            return out
        held = out._transformed(range(plan.permuted))
        return cls(models, plan, sizes, held, out.panel, out.workspace)

    def blocks(self, brain: FloatArray) -> Iterator[Block]:
        """Statistics of the models with these prepared matrices under every relabelling."""
        n, plan = self.plan.n, self.plan
        if plan.exact:
            pairs = len(self.models) * len(brain)
            yield from plan_exact(Product(self.models, brain), pairs, n, None).blocks()
            return
        drawn = fixed_relabelings(plan.seed, range(plan.fixed), n)
        fixed = orbit.spectra(brain, drawn, side="fixed", out=self.panel)
        m = len(self.models)
        for start in range(0, plan.permuted, self.sizes.tile):
            tile = range(start, min(start + self.sizes.tile, plan.permuted))
            held = self._transformed(tile) if self.held is None else self.held
            first = 0 if self.held is None else tile.start
            values = orbit.correlate(
                held, fixed, n, rows_a=range(first * m, (first + len(tile)) * m),
                workspace=self.workspace,
            )  # fmt: skip
            starts = np.array(tile)[:, None] * plan.fixed + np.arange(plan.fixed)
            yield Block(values.reshape(len(tile), m, plan.fixed, len(brain), n), starts * n)

    def _transformed(self, relabellings: range) -> FloatArray:
        drawn = relabelings(
            self.plan.seed, PERMUTED, relabellings.start, len(relabellings), self.plan.n
        )
        return orbit.spectra(self.models, drawn, side="permuted")


# ---------------------------------------------------------------- memory


@dataclass(frozen=True, slots=True)
class Sizes:
    """Centres of a batch, relabelled models multiplied at a time, whether to hold all of them."""

    centres: int
    tile: int
    hold: bool


def _sizes(m: int, around: Neighbourhoods, plan: Relabellings | None, budget: int) -> Sizes:
    """Sizes that fit the budget. They decide how fast a search runs, never what it finds."""
    n, rows = around.n_stimuli, around.values.shape[1]
    spectrum = orbit.spectra_bytes(n) if plan and not plan.exact else 0
    fixed = plan.fixed if plan else 0
    # Of a centre: patterns (gathered, turned), neighbours, dissimilarities and ranks, matrix.
    patterns = 3 * rows * int(around.sizes.max()) * around.values.itemsize
    centre = patterns + 16 * len(around.grid.steps) + 40 * n_pairs(n) + 16 * n * n

    def needed(centres: int, tile: int, held: int) -> int:
        products = 2 * orbit.scratch_bytes(tile * m, fixed * centres, n) if spectrum else 0
        return centres * (centre + fixed * spectrum) + products + held * m * spectrum

    def tile_of(centres: int) -> int:
        if not spectrum or plan is None:
            return 1
        return max(1, min(plan.permuted, _BLOCK_BYTES // (8 * n * m * fixed * centres)))

    if needed(_TOGETHER, 1, 1) > budget:
        raise InvalidInputError(
            f"memory_budget of {format_bytes(budget)} is too small: {_TOGETHER} centres at a time, "
            f"with {n} stimuli and {m} models, need {format_bytes(needed(_TOGETHER, 1, 1))}; raise"
            " it, or test fewer stimuli or models at a time"
        )
    centres = _MOST
    while centres > _TOGETHER and needed(centres, tile_of(centres), tile_of(centres)) > budget:
        centres //= 2
    tile = tile_of(centres)
    while tile > 1 and needed(centres, tile, tile) > budget:
        tile //= 2
    hold = bool(spectrum) and plan is not None and needed(centres, tile, plan.permuted) <= budget
    return Sizes(centres, tile, hold)
