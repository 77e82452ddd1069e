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
from scipy.stats import t as student

from rsafast.comparators import Comparator, FloatArray, get_comparator, prepare
from rsafast.comparison import require_correlation
from rsafast.errors import InvalidInputError
from rsafast.inference.bootstrap.draws import STIMULI, SUBJECTS, blocks, draw_counts
from rsafast.inference.bootstrap.resampled import MIN_DISTINCT
from rsafast.inference.bootstrap.variance import corrected_variance
from rsafast.inference.bootstrap.variance import subsets as factor_subsets
from rsafast.inference.groups import BrainGroups, By, brain_groups
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
    component_standard_error, r_squared_standard_error : (regions, parts) by bootstrap, or None.
    component_bias, r_squared_bias : (regions, parts) jackknife estimate over the stimuli of how far
        the values lie too high, since R² of a sample exceeds that of all stimuli; or None. They are
        not subtracted from the values.
    component_interval, r_squared_interval : (regions, parts, 2): value less bias, give or take
        Student's t times the standard error; or None. They may reach below 0.
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
    component_standard_error: FloatArray | None = None
    component_bias: FloatArray | None = None
    component_interval: FloatArray | None = None
    r_squared_standard_error: FloatArray | None = None
    r_squared_bias: FloatArray | None = None
    r_squared_interval: FloatArray | None = None
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
        for name in ("component", "r_squared"):
            interval = getattr(self, f"{name}_interval")
            if interval is not None:
                columns[f"{name}_bias"] = getattr(self, f"{name}_bias").ravel()
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
            "No part was tested. A unique part cannot be negative and noise makes it positive; "
            "rdm_regression tests whether a model adds anything."
        )
        lines.append(self._bootstrap())
        return "\n".join([*lines, *self.notes])

    def _bootstrap(self) -> str:
        if not self.n_resamples:
            return "These are values of this sample, without intervals (n_resamples=0)."
        text = (
            f"{self.level:.0%} intervals (less jackknife bias, give or take t standard errors of "
            f"{self.n_resamples:,} resamples of the {' and '.join(self.resample)}, seed "
            f"{self.seed}): they generalise to other {' and '.join(self.resample)} alone."
        )
        if self.excluded.any():
            text += f" Left out, by region: {', '.join(map(str, self.excluded))} resamples."
        return text

    def plot(self, ax: Axes | None = None, region: str | int = 0) -> Axes:
        """Draw the parts of one region as bars, with dots below them that name their models."""
        from rsafast.inference.decomposition.plot import draw_partition
        from rsafast.plotting import given_or_new

        place = self.regions.index(region) if region in self.regions else region
        if not isinstance(place, int) or not 0 <= place < len(self.regions):
            raise InvalidInputError(
                f"region must be one of {', '.join(self.regions)}, got {region!r}"
            )
        ax = given_or_new(ax)
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
        Coverage of the intervals: value less its jackknife bias over the stimuli, give or take
        Student's t times the bootstrap standard error (two factors: corrected as in Schütt et al.
        2023). Percentiles of a bootstrapped R² are not used: they double its bias.
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
    for its use with RDMs; Schütt et al. (2023), eLife 12:e82566, for the two-factor variance.

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
    keep = as_pair_mask(mask, x, y)
    check_complete(x, keep, "models")
    check_complete(y, keep, "brain")
    groups = brain_groups(y, regions, subjects)
    factors = _checked_bootstrap(resample, n_resamples, level, groups)
    parts = subsets(x.n_rdms)
    r_squared = explained(*_products(comparator, x, y, keep), parts)
    components = commonality(r_squared, parts)
    shares = _shares(groups)
    n_subjects = np.array([len(_subjects(groups, r)) for r in range(len(groups.regions))])
    spread: dict[str, Any] = {}
    excluded = np.zeros(len(groups.regions), np.int64)
    if n_resamples:
        replicates = _Replicates(comparator, x, y, keep, groups, parts, factors, int(seed))
        *spreads, excluded = _bootstrap(
            replicates, parts, (shares @ r_squared.T).T, n_subjects, int(n_resamples), level,
            progress,
        )  # fmt: skip
        spread = {
            f"{name}_{what}": np.swapaxes(getattr(s, what), 0, 1)
            for name, s in zip(("component", "r_squared"), spreads, strict=True)
            for what in ("standard_error", "bias", "interval")
        }
    pairs = int(keep.sum())
    sizes = np.array([len(part) for part in parts])
    return VariancePartition(
        components=shares @ components.T,
        r_squared=shares @ r_squared.T,
        parts=parts,
        components_by_rdm=components.T,
        r_squared_by_rdm=r_squared.T,
        adjusted_r_squared_by_rdm=1 - (1 - r_squared.T) * (pairs - 1) / (pairs - sizes - 1),
        model_names=x.names,
        brain_names=y.names,
        regions=groups.regions,
        n_subjects=n_subjects,
        method=comparator.name,
        n_stimuli=x.n_stimuli,
        pairs=pairs,
        resample=factors if n_resamples else (),
        n_resamples=int(n_resamples),
        level=level,
        seed=int(seed),
        excluded=excluded,
        notes=groups.notes,
        **spread,
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
        parts: Sequence[Subset],
        factors: tuple[str, ...],
        seed: int,
    ) -> None:
        self._groups, self._parts, self._seed = groups, parts, seed
        self.factors = factors
        self.n_stimuli, self._models = x.n_stimuli, x.n_rdms
        self._observed = explained(*_products(comparator, x, y, keep), parts)[None]
        self._resampler = None
        if "stimuli" in factors:
            stacked = np.concatenate([x.vectors, y.vectors])
            self._resampler = Resampler(
                x.vectors, stacked, self.n_stimuli, ranks=comparator.ranks, centred=True, keep=keep
            )

    def means(self, start: int, stop: int) -> dict[tuple[str, ...], FloatArray]:
        """Mean R² over subjects, (R, parts, regions), with each set of factors resampled.

        NaN where it is undefined.
        """
        r_squared, shares = {False: self._observed}, {False: _shares(self._groups)}
        if "stimuli" in self.factors:
            counts = draw_counts(self._seed, STIMULI, self.n_stimuli, start, stop)
            r_squared[True] = self._resampled(counts)
        if "subjects" in self.factors:
            people = len(dict.fromkeys(self._groups.subjects))
            drawn = draw_counts(self._seed, SUBJECTS, people, start, stop).astype(np.float64)
            shares[True] = _shares(self._groups, drawn)
        return {
            subset: self._region_means(
                r_squared["stimuli" in subset], shares["subjects" in subset]
            )
            for subset in factor_subsets(self.factors)
        }

    def without_each_stimulus(self) -> FloatArray:
        """Mean R² over subjects with each stimulus left out, (n, parts, regions)."""
        left = 1 - np.eye(self.n_stimuli, dtype=np.int64)
        shares = _shares(self._groups)
        means = [
            self._region_means(self._resampled(left[start:stop]), shares)
            for start, stop in blocks(self.n_stimuli, _BLOCK)
        ]
        return np.concatenate(means)

    def _region_means(self, r_squared: FloatArray, shares: FloatArray) -> FloatArray:
        """Only the RDMs of a region decide whether its mean is defined."""
        means = [
            r_squared[:, :, members] @ shares[..., r, members, None]
            for r, members in enumerate(self._groups.members)
        ]
        return np.concatenate(means, axis=-1)

    def _resampled(self, counts: NDArray[np.int64]) -> FloatArray:
        """R² (R, parts, N) on resamples of the stimuli."""
        assert self._resampler is not None
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
        return explained(gram, np.where(squares[:, None, k:] > 0, cross, np.nan), self._parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """Standard error, bias and interval of (parts, regions) estimates."""

    standard_error: FloatArray
    bias: FloatArray
    interval: FloatArray  # (parts, regions, 2)


def _bootstrap(
    replicates: _Replicates,
    parts: Sequence[Subset],
    estimate: FloatArray,
    n_subjects: NDArray[np.int64],
    n_resamples: int,
    level: float,
    progress: bool,
) -> tuple[_Spread, _Spread, NDArray[np.int64]]:
    """Spread of components and of R², and (regions,) the resamples left out."""
    pieces: list[dict[tuple[str, ...], FloatArray]] = []
    with track(n_resamples, "resamples", progress) as advance:
        for start, stop in blocks(n_resamples, _BLOCK):
            pieces.append(replicates.means(start, stop))
            advance(stop - start)
    means = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
    usable = np.all([np.isfinite(m).all(axis=1) for m in means.values()], axis=0)
    if (usable.sum(axis=0) < 2).any():
        raise InvalidInputError(
            "no two resamples can be used: with so few stimuli nearly all of them leave an RDM"
            " without spread or the models collinear; leave out the bootstrap (n_resamples=0)"
        )
    left_out = replicates.without_each_stimulus() if "stimuli" in replicates.factors else None
    if left_out is not None and not np.isfinite(left_out).all():
        raise InvalidInputError(
            "without one of the stimuli an RDM has no spread or the models are collinear, so that"
            " there is no bias correction; leave out the bootstrap (n_resamples=0)"
        )
    items = {"stimuli": np.array(replicates.n_stimuli), "subjects": n_subjects}
    spreads = []
    for transform in (lambda m: commonality(m, parts), lambda m: m):
        raw = {key: _variance(transform(m), usable) for key, m in means.items()}
        bias = np.zeros_like(estimate)
        if left_out is not None:
            n = replicates.n_stimuli
            bias = (n - 1) * (transform(left_out).mean(axis=0) - transform(estimate))
        error = np.sqrt(corrected_variance(raw, {f: items[f] for f in replicates.factors}))
        freedom = np.minimum.reduce([items[f] + 0 * n_subjects for f in replicates.factors]) - 1
        half = student.ppf((1 + level) / 2, freedom) * error
        centre = transform(estimate) - bias
        spreads.append(
            _Spread(
                standard_error=error, bias=bias,
                interval=np.stack([centre - half, centre + half], axis=-1),
            )
        )
    return spreads[0], spreads[1], (~usable).sum(axis=0)


def _variance(replicates: FloatArray, usable: NDArray[np.bool_]) -> FloatArray:
    """Variance over the usable resamples of each region, (parts, regions)."""
    return np.stack(
        [replicates[usable[:, r], :, r].var(axis=0, ddof=1) for r in range(usable.shape[1])],
        axis=-1,
    )
