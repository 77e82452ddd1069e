"""Folds over stimuli and subjects, and models fitted and scored on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast.comparators import Comparator, FloatArray, require_plain
from rsafast.comparison import compare, noise_covariance
from rsafast.errors import InvalidInputError
from rsafast.inference.layout import labels_of
from rsafast.inference.models.api import FixedModel, Model
from rsafast.inference.models.fitting import LinearSums, RankSums, StimulusProducts, criterion_of
from rsafast.mask import as_pair_mask, check_complete
from rsafast.rdms import RDMs, align, as_rdms

MIN_STIMULI = 3  # of a fold: three dissimilarities, the fewest whose pattern can be compared
FEW_STIMULI = 5  # below this a fold's score hangs on a handful of dissimilarities
_STIMULUS_STREAM, _SUBJECT_STREAM = 101, 102

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Models and brain RDMs, aligned and checked, with products of all of them at hand.

    Attributes
    ----------
    slices : where each model's components are among all components.
    region, subject : (N,) indices into the names.
    """

    models: tuple[Model, ...]
    slices: tuple[slice, ...]
    brain: RDMs
    products: StimulusProducts
    keep: NDArray[np.bool_]
    region: IntArray
    region_names: tuple[str, ...]
    subject: IntArray
    subject_names: tuple[str, ...]

    @property
    def n_components(self) -> int:
        """Number of components of all models together."""
        return self.slices[-1].stop


@dataclass(frozen=True, slots=True)
class Scores:
    """What one part of the stimuli gave.

    Attributes
    ----------
    models : (M, N) similarity of each model, as fitted without it, with each brain RDM.
    lower, upper : (N,) similarity of the pool without and with its subject.
    thetas : (folds, regions, K) weights of all components, per fold of the subjects.
    """

    models: FloatArray
    lower: FloatArray
    upper: FloatArray
    thetas: FloatArray


def build_study(
    models: Any,
    brain: Any,
    comparator: Comparator,
    *,
    regions: Any,
    subjects: Any,
    mask: ArrayLike | None,
    sigma_k: ArrayLike | None,
    subjects_matter: bool,
) -> Study:
    """Check and align everything that a cross-validation takes."""
    listed = as_models(models)
    reference = next((m.rdms for m in listed if m.rdms.labels is not None), listed[0].rdms)
    parts = [align(reference, m.rdms)[1] for m in listed]
    components = RDMs.from_vectors(
        np.concatenate([part.vectors for part in parts]), reference.labels
    )
    components, data = align(components, as_rdms(brain, "brain"))
    keep = as_pair_mask(mask, components, data)
    if comparator.whitened and not keep.all():
        require_plain(comparator, "a mask")
    check_complete(data, keep, "brain")
    noise = noise_covariance(comparator, sigma_k, components.n_stimuli)
    # Refuses, before any work and by name, what is undefined even on all stimuli.
    for part, others in [*((part, data[0]) for part in parts), (parts[0][0], data)]:
        compare(part, others, comparator.name, mask=keep, sigma_k=noise)
    ends = np.cumsum([part.n_rdms for part in parts]).tolist()
    region, region_names = _grouping(regions, data, "regions")
    if subjects is None and subjects_matter and len(region_names) > 1:
        raise InvalidInputError(
            "subjects is needed where several regions are cross-validated over subjects, so that a"
            " subject is left out of all of them; name the descriptor that says whose each RDM is"
        )
    subject, subject_names = (
        (np.arange(data.n_rdms), data.names)
        if subjects is None
        else _grouping(subjects, data, "subjects")
    )
    return Study(
        models=listed,
        slices=tuple(slice(a, b) for a, b in zip([0, *ends], ends, strict=False)),
        brain=data,
        products=StimulusProducts(comparator, components, data, keep, noise),
        keep=keep, region=region, region_names=region_names,
        subject=subject, subject_names=subject_names,
    )  # fmt: skip


def as_models(models: Any) -> tuple[Model, ...]:
    """`models` as models of different names; every RDM that is none becomes a `FixedModel`."""
    items = [models] if isinstance(models, Model | RDMs | np.ndarray) else models
    if not isinstance(items, Sequence):
        items = [items]
    listed: list[Model] = []
    for item in items:
        listed += [item] if isinstance(item, Model) else map(FixedModel, as_rdms(item, "models"))
    if not listed:
        raise InvalidInputError("models: got none; pass a model, RDMs, or a list of them")
    names = [model.name for model in listed]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(
            f"models: {names.count(twice)} are called {twice!r}; give each its own name="
        )
    return tuple(listed)


def _grouping(values: Any, brain: RDMs, what: str) -> tuple[IntArray, tuple[str, ...]]:
    """Index of the group of every brain RDM, and the groups' names in order of appearance."""
    if values is None:
        return np.zeros(brain.n_rdms, np.int64), ("all",)
    labels = labels_of(brain, values, what)
    names = list(dict.fromkeys(labels))
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[label] for label in labels]), tuple(map(str, names))


# ---------------------------------------------------------------- folds


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """How many folds of each kind, and which are fixed.

    Attributes
    ----------
    stimuli, subjects : number of folds, 1 where nothing is left out.
    fixed : (n,) fold of every stimulus where the caller chose it.
    leave_one_out : one fold a subject.
    """

    stimuli: int
    subjects: int
    fixed: IntArray | None
    leave_one_out: bool

    @property
    def random(self) -> bool:
        """Whether another repeat would split anything differently."""
        stimuli = self.stimuli > 1 and self.fixed is None
        return stimuli or (self.subjects > 1 and not self.leave_one_out)

    def stimulus_folds(self, items: IntArray, n: int, seed: Sequence[int]) -> IntArray:
        """Fold (n,) of every stimulus, -1 for those not among `items`."""
        if self.fixed is not None:
            return np.where(np.isin(np.arange(n), items), self.fixed, -1)
        return _split(items, n, self.stimuli, [_STIMULUS_STREAM, *seed])

    def subject_folds(self, items: IntArray, n: int, seed: Sequence[int]) -> IntArray:
        """Fold (n,) of every subject, -1 for those not among `items`."""
        if self.leave_one_out:
            folds = np.full(n, -1)
            folds[items] = np.arange(len(items))
            return folds
        return _split(items, n, self.subjects, [_SUBJECT_STREAM, *seed])


def _split(items: IntArray, n: int, folds: int, seed: Sequence[int]) -> IntArray:
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(list(seed))))
    out = np.full(n, -1)
    for fold, part in enumerate(np.array_split(generator.permutation(items), folds)):
        out[part] = fold
    return out


def plan_folds(study: Study, stimulus_folds: Any, subject_folds: Any) -> FoldPlan:
    """Check the folds asked for against what there is to split."""
    if stimulus_folds is None and subject_folds is None:
        raise InvalidInputError(
            "stimulus_folds and subject_folds are both None, which would score models on the data"
            " that they were fitted to; give at least one a number of folds"
        )
    n, fixed = study.brain.n_stimuli, None
    stimuli = 1 if stimulus_folds is None else stimulus_folds
    if stimulus_folds is not None and not _is_whole(stimulus_folds):
        stimuli, fixed = _fixed_folds(stimulus_folds, n)
    elif stimulus_folds is not None:
        most, of = n // MIN_STIMULI, f"{n} stimuli, at least {MIN_STIMULI} a fold"
        _check_number(stimuli, most, "stimulus_folds", of)
    subjects, loo = 1, False
    if subject_folds is not None:
        per_region = [
            len(set(study.subject[study.region == r])) for r in range(len(study.region_names))
        ]
        if min(per_region) < 2:
            where = study.region_names[int(np.argmin(per_region))]
            raise InvalidInputError(
                f"subject_folds needs at least 2 subjects in every region, got {min(per_region)} in"
                f" {where!r}; pass subject_folds=None to leave out stimuli only"
            )
        if subject_folds == "leave-one-out":
            subjects, loo = len(study.subject_names), True
        else:
            _check_number(subject_folds, min(per_region), "subject_folds",
                          f"{min(per_region)} subjects", "'leave-one-out', ")  # fmt: skip
            subjects = subject_folds
    return FoldPlan(int(stimuli), int(subjects), fixed, loo)


def _fixed_folds(labels: Any, n: int) -> tuple[int, IntArray]:
    array = np.asarray(labels)
    if array.shape != (n,):
        raise InvalidInputError(
            f"stimulus_folds must be a number of folds, one label for each of {n} stimuli, or None,"
            f" got {labels!r}"
        )
    _, fixed, sizes = np.unique(array, return_inverse=True, return_counts=True)
    if len(sizes) < 2 or sizes.min() < MIN_STIMULI:
        raise InvalidInputError(
            f"stimulus_folds must make at least 2 folds of at least {MIN_STIMULI} stimuli, got"
            f" sizes {sizes.tolist()}; merge the small ones"
        )
    return len(sizes), fixed.astype(np.int64)


def _check_number(value: Any, most: int, what: str, of: str, other: str = "") -> None:
    if not _is_whole(value) or not 2 <= value <= most:
        raise InvalidInputError(
            f"{what} must be {other}None or an integer from 2 to {most} ({of}), got {value!r}"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


# ---------------------------------------------------------------- fit here, score there


def run_folds(
    study: Study, jobs: Sequence[tuple[IntArray, IntArray, IntArray, IntArray]], folds: int
) -> Iterator[Scores]:
    """Fit and score on every job: (training counts, test counts, subject fold, subject counts).

    Counts say how often a stimulus (n,) or a brain RDM (N,) is there; the fold of a brain RDM is
    -1 where it is not. With one fold every subject both trains and is scored.
    """
    rows = np.array([row for job in jobs for row in job[:2]], dtype=np.int64)
    sums = study.products.each(rows)
    for _, _, fold, counts in jobs:
        train, test = next(sums), next(sums)
        yield _run_one(study, train, test, fold, counts.astype(np.float64), folds)


def _run_one(
    study: Study,
    train: LinearSums | RankSums,
    test: LinearSums | RankSums,
    fold: IntArray,
    counts: FloatArray,
    folds: int,
) -> Scores:
    m, n, r = len(study.models), study.brain.n_rdms, len(study.region_names)
    thetas = np.full((folds, r, study.n_components), np.nan)
    rows, places = [], []
    for f in range(folds):
        for region in range(r):
            here = (study.region == region) & (counts > 0)
            tested = here & (fold == f) if folds > 1 else here
            trained = here & ~tested if folds > 1 else here
            if not tested.any() or not trained.any():
                continue
            criterion = criterion_of(train, np.where(trained, counts, 0.0))
            for i, (model, part) in enumerate(zip(study.models, study.slices, strict=True)):
                theta = model.maximise(criterion.part(part))
                thetas[f, region, part] = theta
                rows.append(np.zeros(study.n_components))
                rows[-1][part] = theta
                places.append((i, tested))
    scores = np.full((m, n), np.nan)
    for (i, tested), row in zip(places, _unique_scores(test, np.array(rows)), strict=True):
        scores[i, tested] = row[tested]
    lower, upper = _ceilings(study, test, fold, counts, folds)
    return Scores(scores, lower, upper, thetas)


def _unique_scores(test: LinearSums | RankSums, rows: FloatArray) -> FloatArray:
    """Scores of predictions, those that occur more than once (fixed models) ranked once."""
    different, place = np.unique(rows, axis=0, return_inverse=True)
    return test.score(different)[place.ravel()]


def _ceilings(
    study: Study, test: LinearSums | RankSums, fold: IntArray, counts: FloatArray, folds: int
) -> tuple[FloatArray, FloatArray]:
    """Similarity of every brain RDM with the pool of the others, and with that of all.

    The others are the training subjects or, where no subject is left out, all but its own.
    """
    left_out = fold if folds > 1 else study.subject
    keys = np.stack([study.region, left_out])
    groups, place = np.unique(keys, axis=1, return_inverse=True)
    place = place.ravel()
    pools = [
        np.where((study.region == region) & (left_out != out), counts, 0.0)
        for region, out in groups.T
    ]
    pools += [np.where(study.region == r, counts, 0.0) for r in range(len(study.region_names))]
    totals = np.array([pool.sum() for pool in pools])
    similarity = np.full((len(pools), study.brain.n_rdms), np.nan)
    some = totals > 0
    similarity[some] = test.pooled(np.array(pools)[some] / totals[some, None])
    index, there = np.arange(study.brain.n_rdms), counts > 0
    lower = np.where(there, similarity[place, index], np.nan)
    upper = np.where(there, similarity[len(groups.T) + study.region, index], np.nan)
    return lower, np.where(np.isnan(lower), np.nan, upper)
