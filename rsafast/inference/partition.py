"""Variance partitioning: which part of a brain RDM only one model explains, and which several do.

Commonality analysis of the R² of all subsets of the models. The part that exactly the models S
share is, with S' the other models (inclusion-exclusion)::

    C(S) = - Σ_{T ⊆ S} (-1)^|T| R²(T ∪ S')

so that C({k}) is what R² loses without model k, and all parts add up to the R² of all models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.resample import Resampler

from rsafast.comparators import Comparator, FloatArray, get_comparator, prepare
from rsafast.comparison import require_correlation
from rsafast.errors import InvalidInputError
from rsafast.inference.draws import STIMULI, SUBJECTS, blocks, draw_counts
from rsafast.inference.groups import BrainGroups, By, brain_groups
from rsafast.inference.resampled import MIN_DISTINCT
from rsafast.mask import as_pair_mask, check_complete
from rsafast.progress import track
from rsafast.projection import orthonormal
from rsafast.rdms import RDMs, align, as_rdms

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Factor = Literal["stimuli", "subjects"]
Subset = tuple[int, ...]

MOST_MODELS = 4
_COLLINEAR = 1e-9  # 1 - |r| below which two models are one
_SINGULAR = 1e-10  # least eigenvalue of the models' correlations that a resample must have
_BLOCK = 128  # resamples at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class VariancePartition:
    """Result of :func:`rsafast.variance_partition`.

    Attributes
    ----------
    components : (regions, parts) mean over subjects of what exactly the models of a part explain.
    r_squared : (regions, parts) mean over subjects of the R² of a regression on these models; the
        last is that of all.
    parts : the models of each part, as places in `model_names`, smallest sets first.
    components_by_rdm, r_squared_by_rdm : (brain, parts) the same for every brain RDM.
    adjusted_r_squared_by_rdm : (brain, parts) R² adjusted for the number of models as if pairs were
        independent, which they are not: it corrects too little.
    component_interval, r_squared_interval : (regions, parts, 2) bootstrap intervals, or None.
    resample, n_resamples, level, seed : of the bootstrap; `resample` says what it generalises to.
    excluded : (regions,) resamples left out: fewer than three distinct stimuli, an RDM without
        spread, collinear models, or no subject of the region.
    negative : (regions,) parts that are below zero (suppression).
    """

    components: FloatArray
    r_squared: FloatArray
    parts: tuple[Subset, ...]
    components_by_rdm: FloatArray
    r_squared_by_rdm: FloatArray
    adjusted_r_squared_by_rdm: FloatArray
    component_interval: FloatArray | None
    r_squared_interval: FloatArray | None
    model_names: tuple[str, ...]
    brain_names: tuple[str, ...]
    regions: tuple[str, ...]
    n_subjects: NDArray[np.int64]
    method: str
    n_stimuli: int
    pairs: int
    resample: tuple[str, ...]
    n_resamples: int
    level: float
    seed: int
    excluded: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts: the models' names joined by " & "."""
        return tuple(" & ".join(self.model_names[k] for k in part) for part in self.parts)

    @property
    def negative(self) -> NDArray[np.int64]:
        """Parts below zero by region."""
        return (self.components < -1e-12).sum(axis=1)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a region and part: its component, share of the total, and R² of its models."""
        import pandas as pd

        regions, parts = self.components.shape
        total = self.r_squared[:, -1:]
        columns: dict[str, Any] = {
            "region": np.repeat(np.array(self.regions, dtype=object), parts),
            "part": np.tile(np.array(self.part_names, dtype=object), regions),
            "kind": np.tile(["unique" if len(p) == 1 else "shared" for p in self.parts], regions),
            "component": self.components.ravel(),
            "share_of_total": (self.components / total).ravel(),
            "r_squared_of_models": self.r_squared.ravel(),
        }
        for name, interval in (
            ("component", self.component_interval),
            ("r_squared", self.r_squared_interval),
        ):
            if interval is not None:
                columns[f"{name}_low"], columns[f"{name}_high"] = interval.reshape(-1, 2).T
        columns["method"] = self.method
        columns["n_subjects"] = np.repeat(self.n_subjects, parts)
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Say in plain text what was partitioned, how, and what it does not say."""
        lines = [
            f"Variance of {len(self.brain_names)} brain RDMs partitioned among "
            f"{len(self.model_names)} models ({', '.join(self.model_names)}); regression of "
            f"{'ranks' if self.method == 'spearman' else 'dissimilarities'}, {self.n_stimuli} "
            f"stimuli, {self.pairs:,} pairs; R² of each subject's RDM, averaged over subjects.",
        ]
        names = self.part_names
        for r, region in enumerate(self.regions):
            parts = ", ".join(
                f"{name} {value:.4f}" for name, value in zip(names, self.components[r], strict=True)
            )
            lines.append(
                f"{region} ({self.n_subjects[r]} subjects): total R² {self.r_squared[r, -1]:.4f} ="
                f" {parts}."
            )
        if self.negative.any():
            lines.append(
                "A negative shared part is no variance: models suppress one another, so that "
                "together they explain more than the sum of what they explain alone."
            )
        lines.append(
            "No part was tested. A unique part cannot be negative and noise makes it positive, so "
            "that an interval above 0 is no evidence; rdm_regression tests whether a model adds "
            "anything."
        )
        lines.append(self._bootstrap())
        return "\n".join([*lines, *self.notes])

    def _bootstrap(self) -> str:
        if not self.n_resamples:
            return "These are values of this sample, without intervals (n_resamples=0)."
        text = (
            f"{self.level:.0%} percentile intervals from {self.n_resamples:,} resamples of the "
            f"{' and '.join(self.resample)}, seed {self.seed}: they generalise to other "
            f"{' and '.join(self.resample)} alone."
        )
        if self.excluded.any():
            text += f" Left out, by region: {', '.join(map(str, self.excluded))} resamples."
        return text

    def plot(self, ax: Axes | None = None, region: str | int = 0) -> Axes:
        """Draw the parts of one region as bars, with dots below them that name their models."""
        from rsafast.inference.partition_plot import draw_partition

        place = self.regions.index(region) if region in self.regions else region
        if not isinstance(place, int) or not 0 <= place < len(self.regions):
            raise InvalidInputError(
                f"region must be one of {', '.join(self.regions)}, got {region!r}"
            )
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(layout="constrained")
        draw_partition(ax, self, place)
        return ax


def variance_partition(
    models: Any,
    brain: Any,
    *,
    method: Literal["spearman", "pearson"] = "spearman",
    regions: By | None = None,
    subjects: By | None = None,
    resample: Sequence[Factor] = ("stimuli",),
    n_resamples: int = 0,
    level: float = 0.95,
    seed: int = 0,
    mask: ArrayLike | None = None,
    progress: bool = True,
) -> VariancePartition:
    """Split the variance that two to four models explain into unique and shared parts.

    For every brain RDM, R² of the regression on each subset of the models (ranks for spearman), and
    from these the parts by inclusion-exclusion; then means over the subjects of a region. Nothing
    is tested: `rdm_regression` tests whether a model adds to the others.

    Parameters
    ----------
    models, brain : RDMs, arrays or rsatoolbox RDMs
        Two to four models, none a linear function of the others; matched by label.
    method : {"spearman", "pearson"}
        Ranks among the pairs that count, or dissimilarities as they are. Parts of ranks are not
        exactly those of the quantities behind them, since ranks of a sum do not add.
    regions, subjects : descriptor name or one label an RDM
        By default all brain RDMs are of one region and each is a subject. Several RDMs of a subject
        are averaged first (their R², not the RDMs).
    resample : which of "stimuli" and "subjects" the bootstrap resamples
        What is resampled is what the intervals generalise to.
    n_resamples : int
        0 for no intervals.
    level : float
        Coverage of the percentile intervals.
    seed : int
        The same seed gives the same resamples.
    mask : (pairs,) or (n, n) bool, optional
        True where a pair counts; missing (NaN) dissimilarities must lie outside it.
    progress : show a bar on stderr after a second.

    Returns
    -------
    VariancePartition

    Raises
    ------
    InvalidInputError
        Other than two to four models, collinear models (the pair is named), a constant RDM, missing
        pairs; subjects that are resampled over several regions and not named; fewer than two
        subjects to resample; too few usable resamples for an interval.
    UnsupportedCaseError
        Another method than pearson and spearman.

    References
    ----------
    Mood (1971), Am Educ Res J 8:191 (commonality analysis); Hebart et al. (2018), eLife 7:e32816,
    for its use with RDMs.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> x = np.random.default_rng(0).normal(size=(2, 30, 4))
    >>> models = rf.compute_rdms({"shape": x[0], "colour": x[1]}, "sqeuclidean")
    >>> brain = rf.RDMs([models.vectors[0] + models.vectors[1]])
    >>> parts = rf.variance_partition(models, brain, method="pearson")
    >>> parts.part_names, parts.components.round(3)
    (('shape', 'colour', 'shape & colour'), array([[0.38 , 0.576, 0.044]]))
    """
    comparator = get_comparator(method)
    require_correlation(comparator, "regressions")
    x, y = align(as_rdms(models, "models"), as_rdms(brain, "brain"))
    if not 2 <= x.n_rdms <= MOST_MODELS:
        raise InvalidInputError(
            f"models: {x.n_rdms} given; variance is partitioned among 2 to {MOST_MODELS} (the"
            " parts double with each model: choose those of interest with .subset())"
        )
    keep = as_pair_mask(mask, x.n_stimuli)
    check_complete(x, keep, "models")
    check_complete(y, keep, "brain")
    groups = brain_groups(y, regions, subjects)
    factors = _checked_bootstrap(resample, n_resamples, level, groups)
    parts = subsets(x.n_rdms)
    r_squared = explained(*_products(comparator, x, y, keep), parts)
    components = commonality(r_squared, parts)
    shares = _shares(groups)
    intervals, excluded = None, np.zeros(len(groups.regions), np.int64)
    if n_resamples:
        replicates = _Replicates(comparator, x, y, keep, groups, factors, int(seed))
        intervals, excluded = _intervals(replicates, parts, int(n_resamples), level, progress)
    pairs = int(keep.sum())
    sizes = np.array([len(part) for part in parts])
    return VariancePartition(
        components=shares @ components.T,
        r_squared=shares @ r_squared.T,
        parts=parts,
        components_by_rdm=components.T,
        r_squared_by_rdm=r_squared.T,
        adjusted_r_squared_by_rdm=1 - (1 - r_squared.T) * (pairs - 1) / (pairs - sizes - 1),
        component_interval=None if intervals is None else intervals[0],
        r_squared_interval=None if intervals is None else intervals[1],
        model_names=x.names,
        brain_names=y.names,
        regions=groups.regions,
        n_subjects=np.array([len(_subjects(groups, r)) for r in range(len(groups.regions))]),
        method=comparator.name,
        n_stimuli=x.n_stimuli,
        pairs=pairs,
        resample=factors if n_resamples else (),
        n_resamples=int(n_resamples),
        level=level,
        seed=int(seed),
        excluded=excluded,
        notes=groups.notes,
    )


# ---------------------------------------------------------------- R² of all subsets


def subsets(k: int) -> tuple[Subset, ...]:
    """All non-empty subsets of k models, smallest first, that of all models last."""
    return tuple(s for size in range(1, k + 1) for s in combinations(range(k), size))


def explained(gram: FloatArray, cross: FloatArray, parts: Sequence[Subset]) -> FloatArray:
    """R² (..., parts, N) of every subset.

    Parameters
    ----------
    gram : (..., K, K) correlations of the models, not singular.
    cross : (..., K, N) correlations of models and brain RDMs.
    parts : the subsets, places of their models.
    """
    out = np.empty((*cross.shape[:-2], len(parts), cross.shape[-1]))
    for p, part in enumerate(parts):
        rows = np.array(part)
        own = cross[..., rows, :]
        weights = np.linalg.solve(gram[..., rows[:, None], rows], own)
        out[..., p, :] = np.einsum("...kn,...kn->...n", own, weights)
    return out


def commonality(r_squared: FloatArray, parts: Sequence[Subset]) -> FloatArray:
    """Parts (..., parts, N) by inclusion-exclusion of the R² of all subsets, in the same order."""
    place = {frozenset(part): p for p, part in enumerate(parts)}
    everything = frozenset(parts[-1])
    signs = np.zeros((len(parts), len(parts)))
    for p, part in enumerate(parts):
        others = everything - set(part)
        for size in range(len(part) + 1):
            for chosen in combinations(part, size):
                used = others | set(chosen)
                if used:  # no model explains nothing
                    signs[p, place[used]] -= (-1.0) ** size
    return np.einsum("pq,...qn->...pn", signs, r_squared)


def _products(
    comparator: Comparator, x: RDMs, y: RDMs, keep: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray]:
    a, b = (
        prepare(comparator, rdms.vectors[:, keep], rdms.n_stimuli, rdms.names) for rdms in (x, y)
    )
    gram = a @ a.T
    for i, j in combinations(range(len(gram)), 2):
        if 1 - abs(gram[i, j]) < _COLLINEAR:
            raise InvalidInputError(
                f"models {x.names[i]!r} and {x.names[j]!r} are collinear (correlation"
                f" {gram[i, j]:+.6f}): what they explain cannot be told apart; leave one out"
            )
    orthonormal(a, x.names, "model")  # raises where one is a function of several others
    return gram, a @ b.T


# ---------------------------------------------------------------- subjects


def _subjects(groups: BrainGroups, region: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(groups.subjects[i] for i in groups.members[region]))


def _shares(groups: BrainGroups, counts: FloatArray | None = None) -> FloatArray:
    """Weight (..., regions, N) of every RDM in the mean of its region.

    Subjects weigh alike, or as `counts` (..., subjects of all regions) says; RDMs of a subject
    alike. NaN where a region has no subject left.
    """
    names = tuple(dict.fromkeys(groups.subjects))
    place = {name: s for s, name in enumerate(names)}
    subject_of = np.array([place[name] for name in groups.subjects])
    weights = np.ones(len(names)) if counts is None else counts
    out = np.zeros((*weights.shape[:-1], len(groups.regions), len(subject_of)))
    for r, members in enumerate(groups.members):
        rdms = np.bincount(subject_of[members], minlength=len(names))
        present = rdms > 0
        total = (weights * present).sum(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            out[..., r, members] = (weights / np.maximum(rdms, 1) / total)[..., subject_of[members]]
    return out


# ---------------------------------------------------------------- bootstrap


def _checked_bootstrap(
    resample: Sequence[Factor], n_resamples: int, level: float, groups: BrainGroups
) -> tuple[str, ...]:
    factors = (resample,) if isinstance(resample, str) else tuple(resample)
    if not factors or set(factors) - {"stimuli", "subjects"}:
        raise InvalidInputError(
            f"resample must hold 'stimuli', 'subjects' or both, got {resample!r}"
        )
    if isinstance(n_resamples, bool) or int(n_resamples) != n_resamples or n_resamples < 0:
        raise InvalidInputError(f"n_resamples must be 0 or a positive integer, got {n_resamples!r}")
    if not 0 < level < 1:
        raise InvalidInputError(f"level must lie between 0 and 1, got {level!r}")
    if n_resamples and "subjects" in factors:
        if len(groups.regions) > 1 and not groups.told_subjects:
            raise InvalidInputError(
                "subjects= is needed to resample subjects over several regions: a descriptor's"
                " name, or one label an RDM"
            )
        few = [r for r in range(len(groups.regions)) if len(_subjects(groups, r)) < 2]
        if few:
            raise InvalidInputError(
                f"region {groups.regions[few[0]]!r} holds one subject; resampling subjects needs"
                " at least 2"
            )
    return tuple(f for f in ("stimuli", "subjects") if f in factors)


class _Replicates:
    """R² of all subsets on resamples of stimuli, subjects or both."""

    def __init__(
        self,
        comparator: Comparator,
        x: RDMs,
        y: RDMs,
        keep: NDArray[np.bool_],
        groups: BrainGroups,
        factors: tuple[str, ...],
        seed: int,
    ) -> None:
        self._groups, self._factors, self._seed = groups, factors, seed
        self._n, self._models = x.n_stimuli, x.n_rdms
        self.n_regions = len(groups.regions)
        self._fixed = _products(comparator, x, y, keep)
        self._resampler = None
        if "stimuli" in factors:
            stacked = np.concatenate([x.vectors, y.vectors])
            self._resampler = Resampler(
                x.vectors, stacked, self._n, ranks=comparator.ranks, centred=True, keep=keep
            )

    def means(self, parts: Sequence[Subset], start: int, stop: int) -> FloatArray:
        """Mean R² over subjects, (stop - start, parts, regions); NaN where it is undefined."""
        if self._resampler is None:
            r_squared = explained(*self._fixed, parts)[None]
        else:
            r_squared = self._resampled(parts, start, stop)
        counts = None
        if "subjects" in self._factors:
            people = len(dict.fromkeys(self._groups.subjects))
            counts = draw_counts(self._seed, SUBJECTS, people, start, stop).astype(np.float64)
        shares = _shares(self._groups, counts)
        return self._region_means(r_squared, shares)

    def _region_means(self, r_squared: FloatArray, shares: FloatArray) -> FloatArray:
        """Only the RDMs of a region decide whether its mean is defined."""
        means = [
            r_squared[:, :, members] @ shares[..., r, members, None]
            for r, members in enumerate(self._groups.members)
        ]
        return np.concatenate(means, axis=-1)

    def _resampled(self, parts: Sequence[Subset], start: int, stop: int) -> FloatArray:
        """R² (R, parts, N) on resamples of the stimuli."""
        assert self._resampler is not None
        counts = draw_counts(self._seed, STIMULI, self._n, start, stop)
        got = self._resampler(counts)
        k = self._models
        squares_a, squares = got.squares_a, got.squares_b
        usable = (squares_a > 0).all(axis=1) & ((counts > 0).sum(axis=1) >= MIN_DISTINCT)
        with np.errstate(divide="ignore", invalid="ignore"):
            correlations = got.products / np.sqrt(squares_a[:, :, None] * squares[:, None, :])
        gram = np.where(usable[:, None, None], correlations[:, :, :k], np.eye(k))
        usable &= np.linalg.eigvalsh(gram)[:, 0] > _SINGULAR
        gram = np.where(usable[:, None, None], gram, np.eye(k))
        # A brain RDM without spread in this resample has R² 0/0, for that RDM alone.
        cross = np.where(usable[:, None, None], correlations[:, :, k:], np.nan)
        return explained(gram, np.where(squares[:, None, k:] > 0, cross, np.nan), parts)


def _intervals(
    replicates: _Replicates, parts: Sequence[Subset], n_resamples: int, level: float, progress: bool
) -> tuple[tuple[FloatArray, FloatArray], NDArray[np.int64]]:
    """Percentile intervals (regions, parts, 2) of components and R², and the resamples left out."""
    means = np.empty((n_resamples, len(parts), replicates.n_regions))
    with track(n_resamples, "resamples", progress) as advance:
        for start, stop in blocks(n_resamples, _BLOCK):
            means[start:stop] = replicates.means(parts, start, stop)
            advance(stop - start)
    usable: NDArray[np.bool_] = np.isfinite(means).all(axis=1)
    if (usable.sum(axis=0) < 2).any():
        raise InvalidInputError(
            "no two resamples can be used: with so few stimuli nearly all of them leave an RDM"
            " without spread or the models collinear; leave out the bootstrap (n_resamples=0)"
        )
    tails = [(1 - level) / 2, (1 + level) / 2]
    components, r_squared = (
        np.stack(
            [
                np.quantile(values[usable[:, r], :, r], tails, axis=0).T
                for r in range(replicates.n_regions)
            ]
        )
        for values in (commonality(means, parts), means)
    )
    return (components, r_squared), (~usable).sum(axis=0)
