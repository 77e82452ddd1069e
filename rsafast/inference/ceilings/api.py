"""Noise ceilings: how well any model could do, given how much the subjects agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice
from math import comb, sqrt
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.rank import average_ranks

from rsafast.comparators import (
    Comparator,
    FloatArray,
    get_comparator,
    prepare,
    require_plain,
)
from rsafast.comparison import compare
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.inference.groups import BrainGroups, By, brain_groups
from rsafast.mask import as_pair_mask, check_complete
from rsafast.rdms import RDMs, as_rdms

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Definition = Literal["rank-average", "average", "squared", "leave-one-out", "split-half"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)

# Comparators that are 0 for unrelated RDMs, so that N of them have an upper bound of 1/sqrt(N).
_CORRELATIONS = ("pearson", "spearman", "rho-a", "corr_cov")
# What messages call the pools.
THE_OTHERS, ALL = "the mean of the others", "the mean of all"
SPLITTABLE = ("pearson", "spearman", "corr_cov")  # comparators whose correlation can be stepped up
_BLOCK = 16  # splits whose mean RDMs are held in memory at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseCeiling:
    """Result of :func:`rsafast.noise_ceiling`, in memory or of files; arrays: one value a region.

    Attributes
    ----------
    lower, upper : (regions,) the bounds; `upper` is NaN for "leave-one-out", which has none.
    definition, method : how they were computed. Bounds of two definitions are not comparable.
    regions : names.
    n_subjects, n_rdms : (regions,) subjects and RDMs.
    upper_unrelated : (regions,) the upper bound that as many unrelated RDMs would give, about
        1/sqrt(subjects) (squared: 1/subjects): each subject is part of the mean it is compared
        with. NaN where it is not known (cosines, Kendall's tau) and where there is no such bound.
    lower_by_subject, upper_by_subject : for every region, (subjects,) whose mean the bound is;
        empty for "split-half", whose bounds belong to the mean RDM.
    subjects : for every region, the labels of its subjects.
    split_correlation : (regions,) mean similarity of the two halves; NaN but for "split-half".
    n_splits : (regions,) splits used; 0 but for "split-half".
    all_splits : whether these are all the splits there are, by region.
    n_stimuli, pairs, pairs_of : stimuli, pairs that count, and pairs there are.
    notes : what was taken for granted or cannot be had from these data.
    """

    lower: FloatArray
    upper: FloatArray
    definition: str
    method: str
    regions: tuple[str, ...]
    n_subjects: NDArray[np.int64]
    n_rdms: NDArray[np.int64]
    upper_unrelated: FloatArray
    lower_by_subject: tuple[FloatArray, ...]
    upper_by_subject: tuple[FloatArray, ...]
    subjects: tuple[tuple[str, ...], ...]
    split_correlation: FloatArray
    n_splits: NDArray[np.int64]
    all_splits: NDArray[np.bool_]
    n_stimuli: int
    pairs: int
    pairs_of: int
    notes: tuple[str, ...] = ()

    def to_dataframe(self) -> pd.DataFrame:
        """One row a region; the definition and the comparator are in every row."""
        import pandas as pd

        columns: dict[str, Any] = {
            "region": np.array(self.regions, dtype=object),
            "definition": self.definition,
            "method": self.method,
            "lower": self.lower,
            "upper": self.upper,
            "upper_unrelated": self.upper_unrelated,
            "n_subjects": self.n_subjects,
            "n_rdms": self.n_rdms,
        }
        if self.definition == "split-half":
            columns |= {
                "split_correlation": self.split_correlation,
                "n_splits": self.n_splits,
                "all_splits": self.all_splits,
            }
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Say in plain text what the bounds are, for which score, and where they say little."""
        pairs = f"{self.pairs:,} of {self.pairs_of:,} pairs"
        lines = [
            f"Noise ceiling, definition {self.definition!r}, comparator {self.method}, "
            f"{self.n_stimuli} stimuli, {pairs}.",
            *_MEANING[self.definition],
            "It speaks for these stimuli and subjects; bounds of another definition, comparator or "
            "number of subjects are other quantities.",
        ]
        lines += [self._line(r) for r in range(len(self.regions))]
        return "\n".join([*lines, *self.notes])

    def _line(self, r: int) -> str:
        count = f"{self.n_subjects[r]} subjects"
        if self.n_rdms[r] != self.n_subjects[r]:
            count += f", {self.n_rdms[r]} RDMs"
        upper = "" if np.isnan(self.upper[r]) else f", upper {self.upper[r]:.4f}"
        line = f"{self.regions[r]} ({count}): lower {self.lower[r]:.4f}{upper}."
        if self.definition == "split-half":
            kind = "all" if self.all_splits[r] else "random"
            line += (
                f" The halves correlate {self.split_correlation[r]:.4f}"
                f" ({self.n_splits[r]} splits, {kind})."
            )
        chance = self.upper_unrelated[r]
        if np.isnan(chance):
            return line
        line += f" Unrelated RDMs would have an upper bound of about {chance:.3f}"
        return line + (
            ": this one says little, it is mostly each subject's own noise."
            if self.upper[r] < 1.25 * chance
            else "."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the bounds of every region as a bar from lower to upper."""
        from rsafast.inference.ceilings.plot import draw_ceilings
        from rsafast.plotting import given_or_new

        ax = given_or_new(ax)
        draw_ceilings(ax, [self])
        return ax


_MEANING: dict[str, tuple[str, ...]] = {
    "rank-average": (
        "For the mean over subjects of a model's similarity to each subject's RDM.",
        "Upper: mean similarity of each subject to the pool of all, itself included; no single RDM "
        "scores higher with these subjects (exact for pearson, cosine, and spearman without ties; "
        "close for the others). It is too high by each subject's own noise.",
        "Lower: mean similarity of each subject to the pool of the others: a model that predicts "
        "as well as the other subjects do. It is too low by the noise of a smaller pool.",
    ),
    "average": (
        "For the mean over subjects of a model's similarity to each subject's RDM.",
        "Upper: mean similarity of each subject's RDM to the mean of all RDMs as they are, itself "
        "included; subjects with larger dissimilarities weigh more.",
        "Lower: mean similarity of each subject's RDM to the mean of the others.",
    ),
    "squared": (
        "For the mean over subjects of a model's squared similarity to each subject's RDM, as in "
        "the Algonauts 2019 challenge. Neither it nor its root is a ceiling of unsquared scores.",
        "Upper: mean squared similarity of each subject's RDM to the mean of all, itself included.",
        "Lower: the same with the mean of the others. Squares hide the sign: negative similarities "
        "raise it.",
    ),
    "leave-one-out": (
        "For the mean over subjects of a model's similarity to each subject's RDM.",
        "Lower: mean similarity of each subject's RDM to the mean of the other subjects'. This "
        "definition gives no upper bound; a good model may exceed it.",
    ),
    "split-half": (
        "For a model's similarity to the MEAN RDM of these subjects, not to single subjects' RDMs.",
        "Lower: reliability of the mean RDM, the similarity to expect from the mean RDM of as many "
        "other subjects. Split-half correlation, stepped up to all subjects (Spearman-Brown; Horst "
        "1951 where the halves are unequal).",
        "Upper: its square root, the best attainable correlation with this mean RDM. What only one "
        "subject has counts as noise; the step up takes subjects to be equally noisy.",
    ),
}  # fmt: skip


def noise_ceiling(
    brain: Any,
    method: str = "spearman",
    definition: Definition = "rank-average",
    *,
    regions: By | None = None,
    subjects: By | None = None,
    mask: ArrayLike | None = None,
    n_splits: int = 200,
    seed: int = 0,
) -> NoiseCeiling:
    """Bounds on what any model could score, given how much the subjects agree.

    No hypothesis is tested: these are estimates, for these stimuli and these subjects.

    Parameters
    ----------
    brain : RDMs, array ((k, pairs) or (k, n, n)) or rsatoolbox RDMs
        One RDM a subject and region; several of one subject where `subjects` says so.
    method : comparator, see `compare`
    definition : which of the definitions in use
        ``"rank-average"``, the default and rsatoolbox's (Nili et al. 2014): each subject against
        the pool of all (upper) and of the others (lower), pooled as suits the comparator: mean of
        ranks for rank comparators, of z-scored RDMs for pearson and corr_cov, of RDMs scaled to
        unit length for cosines. ``"average"``: the same with the mean of the RDMs as they are.
        ``"squared"``: as "average", but mean squares (Algonauts 2019). ``"leave-one-out"``: each
        subject against the mean of the others; no upper bound. ``"split-half"``: reliability of the
        mean RDM (lower) and its square root (upper), from the correlation of the mean RDMs of two
        halves of the subjects, stepped up to all of them; pearson, spearman and corr_cov.
    regions, subjects : descriptor name or one label an RDM
        By default all RDMs are of one region and each is a subject. All RDMs of a subject are left
        out together.
    mask : (pairs,) or (n, n) bool, optional
        True where a pair counts; missing (NaN) dissimilarities must lie outside it.
    n_splits : int
        Random splits for "split-half" where there are more than that; else all are used.
    seed : int
        Of the random splits.

    Returns
    -------
    NoiseCeiling

    Raises
    ------
    InvalidInputError
        Fewer than two subjects in a region, a constant RDM, missing pairs without a mask.
    UnsupportedCaseError
        "split-half" with a comparator that is no correlation.

    References
    ----------
    Nili et al. (2014), PLoS Comput Biol; Cichy et al. (2019), Algonauts challenge; Horst (1951),
    Psychometrika 16:189, for halves of unequal size.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> rng = np.random.default_rng(0)
    >>> subjects = rng.random((1, 190)) + 0.3 * rng.standard_normal((8, 190))
    >>> ceiling = rf.noise_ceiling(rf.RDMs.from_vectors(subjects), "pearson")
    >>> ceiling.lower.round(3), ceiling.upper.round(3), ceiling.definition
    (array([0.652]), array([0.743]), 'rank-average')
    """
    check_definition(definition)
    comparator = get_comparator(method)
    rdms = as_rdms(brain, "brain")
    keep = as_pair_mask(mask, rdms)
    check_complete(rdms, keep, "brain")
    if comparator.whitened and not keep.all():
        require_plain(comparator, "a mask")
    if definition == "split-half":
        _check_splits(comparator, n_splits)
    groups = brain_groups(rdms, regions, subjects)
    members = members_of(groups)
    parts = [_Region(comparator, rdms, keep, region) for region in members]
    if definition == "split-half":
        bounds = [part.split_half(int(n_splits), [seed, r]) for r, part in enumerate(parts)]
    else:
        bounds = [part.against_pools(definition) for part in parts]
    return ceiling_of(
        comparator, definition, members, bounds,
        n_stimuli=rdms.n_stimuli, pairs=int(keep.sum()), pairs_of=keep.size, notes=groups.notes,
    )  # fmt: skip


def reliability_of_mean(correlation: float, first: int, second: int) -> float:
    """Reliability of the mean of all, from the correlation of the means of two parts.

    With parts of `first` and `second` subjects, p and q their shares (Horst 1951, written so that
    it holds up to a correlation of 1)::

        R = 2 r / (r + sqrt(r² + 4 p q (1 - r²)))

    which for equal parts is the Spearman-Brown formula 2 r / (1 + r). Subjects are taken to be
    equally noisy measures of the same RDM.

    >>> round(reliability_of_mean(0.5, 10, 10), 4), round(reliability_of_mean(0.5, 1, 2), 4)
    (0.6667, 0.6861)
    """
    share = first * second / (first + second) ** 2
    root = sqrt(correlation**2 + 4 * share * (1 - correlation**2))
    if correlation + root <= 0:  # two halves that are each other's opposite
        return -np.inf
    return 2 * correlation / (correlation + root)


# ---------------------------------------------------------------- in memory or not


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The RDMs of one region.

    Attributes
    ----------
    region : name.
    places : (K,) of its RDMs among all.
    subjects : labels.
    subject_of : (K,) places in `subjects`.
    """

    region: str
    places: NDArray[np.int64]
    subjects: tuple[str, ...]
    subject_of: NDArray[np.int64]

    def others(self) -> NDArray[np.bool_]:
        """(subjects, K), for every subject True at the RDMs of the others."""
        return self.subject_of != np.arange(len(self.subjects))[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of one region, with the fields of :class:`NoiseCeiling` that belong to it."""

    lower: float
    upper: float
    lower_by_subject: FloatArray
    upper_by_subject: FloatArray
    split_correlation: float = np.nan
    n_splits: int = 0
    all_splits: bool = False

    @classmethod
    def of_rdms(
        cls, definition: str, members: Members, lower: FloatArray, upper: FloatArray
    ) -> Bounds:
        """From the similarity (K,) of every RDM with the pool of the others, and of all."""
        if definition == "squared":
            lower, upper = lower**2, upper**2
        own = ~members.others()
        low, high = (np.array([v[rdms].mean() for rdms in own]) for v in (lower, upper))
        return cls(
            lower=float(low.mean()), upper=float(high.mean()),
            lower_by_subject=low, upper_by_subject=high,
        )  # fmt: skip


def check_definition(definition: str) -> None:
    """Raise for a definition that there is not."""
    if definition not in DEFINITIONS:
        raise InvalidInputError(
            f"definition must be one of {', '.join(DEFINITIONS)}, got {definition!r}"
        )


def members_of(groups: BrainGroups) -> list[Members]:
    """The RDMs of every region.

    Raises
    ------
    InvalidInputError
        For a region of fewer than two subjects.
    """
    found = []
    for region, places in zip(groups.regions, groups.members, strict=True):
        labels = [groups.subjects[i] for i in places]
        subjects = tuple(dict.fromkeys(labels))
        if len(subjects) < 2:
            raise InvalidInputError(
                f"region {region!r} holds {len(subjects)} subject; a noise ceiling compares"
                " subjects and needs at least 2 (for one subject's runs, pass subjects= that name"
                " the runs)"
            )
        subject_of = np.array([subjects.index(label) for label in labels])
        found.append(
            Members(region=region, places=places, subjects=subjects, subject_of=subject_of)
        )
    return found


def ceiling_of(
    comparator: Comparator,
    definition: str,
    members: list[Members],
    bounds: list[Bounds],
    *,
    n_stimuli: int,
    pairs: int,
    pairs_of: int,
    notes: tuple[str, ...],
) -> NoiseCeiling:
    """The result, of the bounds of every region; `notes` are those on what was given."""
    n_subjects = np.array([len(region.subjects) for region in members])
    lower, upper = (np.array([getattr(b, side) for b in bounds]) for side in ("lower", "upper"))
    return NoiseCeiling(
        lower=lower,
        upper=upper,
        definition=definition,
        method=comparator.name,
        regions=tuple(region.region for region in members),
        n_subjects=n_subjects,
        n_rdms=np.array([len(region.places) for region in members]),
        upper_unrelated=_unrelated(comparator, definition, n_subjects),
        lower_by_subject=tuple(b.lower_by_subject for b in bounds),
        upper_by_subject=tuple(b.upper_by_subject for b in bounds),
        subjects=tuple(region.subjects for region in members),
        split_correlation=np.array([b.split_correlation for b in bounds]),
        n_splits=np.array([b.n_splits for b in bounds]),
        all_splits=np.array([b.all_splits for b in bounds]),
        n_stimuli=n_stimuli,
        pairs=pairs,
        pairs_of=pairs_of,
        notes=notes + _notes(comparator, definition, members, bounds),
    )


# ---------------------------------------------------------------- one region in memory


class _Region:
    """The RDMs of one region, on the pairs that count."""

    def __init__(
        self, comparator: Comparator, rdms: RDMs, keep: NDArray[np.bool_], members: Members
    ) -> None:
        self._comparator, self._n, self._keep = comparator, rdms.n_stimuli, keep
        self._members = members
        self._vectors = rdms.vectors[members.places][:, keep]
        self._names = tuple(rdms.names[i] for i in members.places)

    def against_pools(self, definition: str) -> Bounds:
        """Each RDM against the pool of all subjects and of the other subjects."""
        parts = self._vectors
        if definition == "rank-average":
            parts = _scaled_alike(self._comparator, self._vectors, self._n, self._names)
        pools = np.stack([parts[others].mean(axis=0) for others in self._members.others()])
        lower = self._similarity(pools, self._members.subject_of, THE_OTHERS)
        upper = np.full(len(parts), np.nan)
        if definition != "leave-one-out":
            pool = parts.mean(axis=0, keepdims=True)
            upper = self._similarity(pool, np.zeros_like(self._members.subject_of), ALL)
        return Bounds.of_rdms(definition, self._members, lower, upper)

    def _similarity(
        self, pools: FloatArray, pool_of: NDArray[np.int64], what: str
    ) -> FloatArray:
        """Similarity of every RDM with one of the pools."""
        names = tuple(f"{what} ({self._members.region}, {i})" for i in range(len(pools)))
        if self._comparator.concordance:
            return np.array(
                [
                    self._tau(pools[p], vector, (names[p], name))
                    for p, vector, name in zip(pool_of, self._vectors, self._names, strict=True)
                ]
            )
        x = prepare(self._comparator, pools, self._n, names)
        y = prepare(self._comparator, self._vectors, self._n, self._names)
        return np.einsum("kp,kp->k", x[pool_of], y)

    def _tau(self, pool: FloatArray, vector: FloatArray, names: tuple[str, str]) -> float:
        full = np.full((2, len(self._keep)), np.nan)
        full[:, self._keep] = pool, vector
        a, b = RDMs.from_vectors(full, names=names, missing="allow")
        return float(compare(a, b, self._comparator.name, mask=self._keep)[0, 0])

    def split_half(self, n_splits: int, seed: list[int]) -> Bounds:
        """Reliability of the mean RDM, stepped up from halves of the subjects."""
        own = np.stack([self._vectors[~others].mean(axis=0) for others in self._members.others()])
        count = len(own)
        halves = _halves(count, n_splits, seed)
        correlations = []
        while block := list(islice(halves, _BLOCK)):
            names = tuple(f"half of {self._members.region}" for _ in block)
            others = [tuple(set(range(count)) - set(half)) for half in block]
            x, y = (
                prepare(
                    self._comparator,
                    np.stack([own[list(half)].mean(axis=0) for half in side]),
                    self._n,
                    names,
                )
                for side in (block, others)
            )
            correlations += np.einsum("kp,kp->k", x, y).tolist()
        correlation = float(np.mean(correlations))
        reliability = reliability_of_mean(correlation, count // 2, count - count // 2)
        none = np.empty(0)
        return Bounds(
            lower=reliability, upper=sqrt(max(reliability, 0.0)),
            lower_by_subject=none, upper_by_subject=none,
            split_correlation=correlation, n_splits=len(correlations),
            all_splits=_count_halves(count) <= n_splits,
        )  # fmt: skip


def _scaled_alike(
    comparator: Comparator, vectors: FloatArray, n: int, names: tuple[str, ...]
) -> FloatArray:
    """RDMs on a scale on which their mean is the pool for this comparator."""
    if comparator.ranks or comparator.concordance:
        return average_ranks(vectors)
    return prepare(replace(comparator, whitened=False, normalised=True), vectors, n, names)


def _count_halves(count: int) -> int:
    """Ways to split subjects in two halves, the first of them the smaller where they differ."""
    ways = comb(count, count // 2)
    return ways if count % 2 else ways // 2


def _halves(count: int, n_splits: int, seed: list[int]) -> Iterator[tuple[int, ...]]:
    """First halves: all of them where there are at most `n_splits`, else random ones."""
    size = count // 2
    if _count_halves(count) <= n_splits:
        # With an even number each split would come twice: keep the one that holds subject 0.
        return (half for half in combinations(range(count), size) if count % 2 or 0 in half)
    generator = np.random.default_rng(seed)
    return (tuple(generator.permutation(count)[:size].tolist()) for _ in range(n_splits))


def _check_splits(comparator: Comparator, n_splits: int) -> None:
    if comparator.name not in SPLITTABLE:
        raise UnsupportedCaseError(
            "definition='split-half' steps up a correlation: use method pearson, spearman or"
            f" corr_cov, got {comparator.name!r}"
        )
    if isinstance(n_splits, bool) or int(n_splits) != n_splits or n_splits < 1:
        raise InvalidInputError(f"n_splits must be a positive integer, got {n_splits!r}")


def _unrelated(
    comparator: Comparator, definition: str, n_subjects: NDArray[np.int64]
) -> FloatArray:
    if comparator.name not in _CORRELATIONS or definition in ("leave-one-out", "split-half"):
        return np.full(len(n_subjects), np.nan)
    return 1.0 / n_subjects if definition == "squared" else 1.0 / np.sqrt(n_subjects)


def _notes(
    comparator: Comparator, definition: str, members: list[Members], bounds: list[Bounds]
) -> tuple[str, ...]:
    notes = []
    if comparator.concordance and definition == "rank-average":
        notes.append("For Kendall's tau the pool of mean ranks is a heuristic, as in rsatoolbox.")
    if definition != "split-half":
        return tuple(notes)
    few = [p.region for p, b in zip(members, bounds, strict=True) if b.n_splits < 10]
    if few:
        notes.append(
            f"Only few distinct splits exist ({', '.join(few)}): they share the same subjects, so"
            " that their spread is no confidence interval and its percentiles are no bounds."
        )
    odd = [p.region for p in members if len(p.subjects) % 2]
    if odd:
        notes.append(
            f"Odd numbers of subjects ({', '.join(odd)}) make unequal halves: 2r/(1+r) would not"
            " hold, Horst's formula does."
        )
    bad = [p.region for p, b in zip(members, bounds, strict=True) if b.lower <= 0]
    if bad:
        notes.append(
            f"No positive agreement between halves ({', '.join(bad)}): the attainable correlation"
            " is given as 0; these data bound nothing."
        )
    return tuple(notes)
