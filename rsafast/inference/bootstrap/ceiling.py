"""Noise ceilings on bootstrap resamples, by rsatoolbox's definition (``boot_noise_ceiling``).

The upper bound is the mean similarity of the subjects' RDMs with the pool of all of them, the lower
with the pool of the other subjects, all copies of the subject itself left out. Subjects drawn
several times count so in the pool, and once in the mean. The pool is the mean of the RDMs after
scaling to unit root mean square (cosine, cosine_cov), z-scoring (pearson, corr_cov) or ranking
(spearman, rho-a); pools of whitened comparators are not whitened, the similarities are.

Pools that are sums need no pool: with P the products of all pairs of scaled RDMs and v the counts,
the similarity of RDM j with the pool is (P v)_j / sqrt(P_jj v'P v), and leaving j out subtracts
v_j P_jj from (P v)_j and 2 v_j (P v)_j - v_j² P_jj from v'P v. Pools of ranks are ranked anew in
every resample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels import threads
from rsafast_kernels.resample import Resampler, weighted_ranks

from rsafast.comparators import Comparator, FloatArray
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.inference.bootstrap.draws import Counts
from rsafast.inference.bootstrap.resampled import resampler_on, where_to_run
from rsafast.inference.layout import Layout

if TYPE_CHECKING:
    from rsafast.inference.bootstrap.replicates import ScoreBlock

Places = NDArray[np.int64]


class ResampledCeiling:
    """Noise ceilings of every region of a study, prepared once for any number of resamples.

    Parameters
    ----------
    comparator : see `rsafast.comparators`.
    layout : regions and subjects of the brain RDMs.
    brain : (N, pairs) dissimilarities of `n` stimuli.
    keep : (pairs,) pairs that count.
    device : "auto", "cpu" or "cuda"; pools that are sums are products on resamples, which have a
        GPU kernel unless whitened.
    gpu_budget : bytes of GPU memory for working arrays, by default most of what is free.

    Raises
    ------
    BackendUnavailableError
        For "cuda" with pools of ranks or whitened comparators, and where there is no GPU.
    UnsupportedCaseError
        For Kendall's tau, whose pools have no form that can be resampled.
    InvalidInputError
        Where a region has a single subject.
    """

    def __init__(
        self,
        comparator: Comparator,
        layout: Layout,
        brain: FloatArray,
        n: int,
        keep: NDArray[np.bool_],
        *,
        device: str = "cpu",
        gpu_budget: int | None = None,
    ) -> None:
        if comparator.concordance:
            raise UnsupportedCaseError(
                f"ceiling=True is not available for {comparator.name}; use spearman or rho-a, or"
                " noise_ceiling for the ceiling of the data alone"
            )
        check_subjects(layout)
        self._comparator, self._layout, self._keep = comparator, layout, keep
        self._n, centred = n, comparator.centred
        place = where_to_run(
            device, f"the noise ceiling of {comparator.name} on resamples",
            has_kernel=not (comparator.ranks or comparator.whitened),
        )  # fmt: skip
        if comparator.ranks:
            self._ranker = Resampler(brain, brain[:1], self._n, ranks=True, keep=keep)
            return
        self._plain = resampler_on(
            place, brain, brain, n=n, centred=centred, keep=keep, budget=gpu_budget
        )
        self._whitened = (
            Resampler(brain, brain, self._n, centred=centred, whitened=True)
            if comparator.whitened
            else None
        )

    def __call__(
        self, block: ScoreBlock | None, brain: Sequence[Counts | None]
    ) -> list[FloatArray]:
        """Bounds on resamples: see `rsafast.inference.bootstrap.replicates.Ceiling`."""
        stimuli = None if block is None else block.stimulus_counts
        weights = np.ones((1, self._n), np.int64) if stimuli is None else stimuli
        if self._comparator.ranks:
            with threads(1):  # many short rows: threads would only wait for one another
                return self._of_ranks(weights, brain)
        products = self._products(weights)
        return [pooled_by_region(self._layout, products, counts) for counts in brain]

    def _products(self, weights: Counts) -> FloatArray:
        """Products P (R, N, N) of the RDMs, scaled to length 1 before any whitening."""
        plain = self._plain(weights)
        products = (
            plain.products if self._whitened is None else self._whitened(weights).products
        )
        length = np.sqrt(plain.squares_a)
        with np.errstate(divide="ignore", invalid="ignore"):
            return products / (length[:, :, None] * length[:, None, :])

    def _of_ranks(
        self, weights: Counts, brain: Sequence[Counts | None]
    ) -> list[FloatArray]:
        total = max([len(weights)] + [len(counts) for counts in brain if counts is not None])
        regions = len(self._layout.regions)
        out = [np.empty((total if c is not None else len(weights), regions, 2)) for c in brain]
        x, y = np.triu_indices(self._n, 1)
        for r, row in enumerate(weights):
            pairs = np.asarray(row[x] * row[y] * self._keep, np.float64)
            held = pairs > 0
            ranks = self._ranker.ranks(row)[0][:, held]
            for bounds, counts in zip(out, brain, strict=True):
                if counts is None:
                    bounds[r] = self._ranked(ranks, pairs[held], None)
                elif len(weights) > 1 or total == 1:
                    bounds[r] = self._ranked(ranks, pairs[held], counts[r])
                else:  # the stimuli of the data, for every draw of subjects
                    for s, one in enumerate(counts):
                        bounds[s] = self._ranked(ranks, pairs[held], one)
        return out

    def _ranked(
        self, ranks: FloatArray, pairs: FloatArray, counts: NDArray[np.int64] | None
    ) -> FloatArray:
        each = np.ones(len(ranks), np.int64) if counts is None else counts
        bounds = np.empty((len(self._layout.regions), 2))
        for region in range(len(bounds)):
            of = np.flatnonzero(self._layout.region_of == region)
            bounds[region] = ranked_bounds(
                ranks[of], pairs, each[of], normalised=self._comparator.normalised
            )
        return bounds


def check_subjects(layout: Layout) -> None:
    """Raise where a region has a single subject."""
    if layout.n_subjects.min() < 2:
        name = layout.regions[int(np.argmin(layout.n_subjects))]
        raise InvalidInputError(
            f"ceiling=True needs at least 2 subjects in every region, and region {name!r} has"
            " 1; leave ceiling out"
        )


def pooled_by_region(layout: Layout, products: FloatArray, counts: Counts | None) -> FloatArray:
    """Bounds (R, regions, 2) of pools that are sums: `pooled_bounds` of every region."""
    each = np.ones((1, len(layout.region_of)), np.int64) if counts is None else counts
    bounds = []
    for region in range(len(layout.regions)):
        of = np.flatnonzero(layout.region_of == region)
        bounds.append(pooled_bounds(products[:, of[:, None], of], each[:, of]))
    return np.stack(bounds, axis=1)


def pooled_bounds(products: FloatArray, counts: Counts) -> FloatArray:
    """Lower and upper bound of pools that are sums: (R, 2).

    Parameters
    ----------
    products : (R, N, N) or (1, N, N) products of the scaled RDMs of one region
    counts : (R, N) or (1, N) how often each subject was drawn
    """
    v = counts.astype(np.float64)
    diagonal = np.diagonal(products, axis1=1, axis2=2)
    with_pool = np.matmul(products, v[:, :, None])[:, :, 0]
    pool = (v * with_pool).sum(axis=1, keepdims=True)
    with_rest = with_pool - v * diagonal
    rest = pool - 2 * v * with_pool + v**2 * diagonal
    drawn = v > 0
    alone = drawn.sum(axis=1) < 2
    with np.errstate(divide="ignore", invalid="ignore"):
        upper = np.where(drawn, with_pool / np.sqrt(diagonal * pool), 0.0)
        lower = np.where(drawn, with_rest / np.sqrt(diagonal * rest), 0.0)
        bounds = np.stack([lower.sum(axis=1), upper.sum(axis=1)], -1) / drawn.sum(1)[:, None]
    bounds[alone | np.zeros(len(bounds), bool)] = np.nan
    return bounds


def ranked_bounds(
    ranks: FloatArray, pairs: FloatArray, counts: NDArray[np.int64], *, normalised: bool
) -> FloatArray:
    """Lower and upper bound of pools of ranks in one resample: (2,).

    Parameters
    ----------
    ranks : (N, P) average ranks of the subjects' RDMs in the resample
    pairs : (P,) copies of each pair
    counts : (N,) how often each subject was drawn
    normalised : Spearman's correlation; if False rho-a
    """
    drawn = np.flatnonzero(counts)
    if len(drawn) < 2:
        return np.full(2, np.nan)
    weighted = counts[drawn, None] * ranks[drawn]
    pool = weighted.sum(axis=0)
    pools = weighted_ranks(np.vstack([pool, pool - weighted]), pairs)
    total = pairs.sum()
    middle = (total + 1) / 2  # the mean of any ranks
    own, pools = ranks[drawn] - middle, pools - middle
    products = np.stack(
        [((own * pools[1:]) @ pairs), own @ (pools[0] * pairs)]
    )  # lower, upper: (2, drawn)
    if not normalised:
        return products.mean(axis=1) * 12.0 / (total**3 - total)
    squares = (own**2) @ pairs
    lengths = np.stack([(pools[1:] ** 2) @ pairs, np.full(len(drawn), pools[0] ** 2 @ pairs)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (products / np.sqrt(squares * lengths)).mean(axis=1)
