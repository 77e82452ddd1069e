"""Which RDM belongs to whom: models to rules and seeds, brain RDMs to regions and subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast.comparators import FloatArray
from rsafast.errors import InvalidInputError

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Models by rule and seed, brain RDMs by region and subject.

    Attributes
    ----------
    rules, regions, subjects : names, in the order in which they first occur.
    rule_of : (M,) place in `rules` of every model RDM.
    region_of, subject_of : (N,) places in `regions` and `subjects` of every brain RDM.
    seed_names : (M,) name of every model's seed.
    """

    rules: tuple[str, ...]
    rule_of: Places
    seed_names: tuple[str, ...]
    regions: tuple[str, ...]
    region_of: Places
    subjects: tuple[str, ...]
    subject_of: Places

    @property
    def n_seeds(self) -> Places:
        """Seeds of every rule, (rules,)."""
        return np.bincount(self.rule_of, minlength=len(self.rules))

    @property
    def n_subjects(self) -> Places:
        """Subjects of every region, (regions,)."""
        return np.bincount(self.region_of, minlength=len(self.regions))

    def means(
        self,
        scores: FloatArray,
        model_counts: ArrayLike | None = None,
        brain_counts: ArrayLike | None = None,
    ) -> FloatArray:
        """Mean score of every rule with every region, over seeds and subjects.

        Parameters
        ----------
        scores : (R, M, N), or (1, M, N) where the scores of all resamples are the same
        model_counts, brain_counts : (R, M) and (R, N), optional
            How often each RDM counts; once by default.

        Returns
        -------
        (R, rules, regions); NaN where a resample holds no subject of a region.
        """
        by_region = _group_means(scores, self.region_of, len(self.regions), brain_counts)
        by_rule = _group_means(
            np.swapaxes(by_region, 1, 2), self.rule_of, len(self.rules), model_counts
        )
        return np.swapaxes(by_rule, 1, 2)

    def model_means(self, scores: FloatArray) -> FloatArray:
        """Mean score (rules, N) over every rule's seeds, of scores (M, N)."""
        return _group_means(scores.T[None], self.rule_of, len(self.rules), None)[0].T


def _group_means(
    values: FloatArray, group_of: Places, groups: int, counts: ArrayLike | None
) -> FloatArray:
    """Mean of every group over the last axis of `values`: (R, other, groups)."""
    member = (group_of[:, None] == np.arange(groups)).astype(np.float64)
    if counts is None:
        return values @ (member / member.sum(axis=0))
    weights = np.asarray(counts, np.float64)
    with np.errstate(invalid="ignore"):  # 0/0 where a resample holds nobody of the group
        return ((values * weights[:, None, :]) @ member) / (weights @ member)[:, None, :]


def study_layout(
    models: Named,
    brain: Named,
    *,
    rules: str | Sequence[Any] | None = None,
    seeds: str | Sequence[Any] | None = None,
    regions: str | Sequence[Any] | None = None,
    subjects: str | Sequence[Any] | None = None,
    match_subjects: bool = False,
) -> Layout:
    """Group RDMs, each group named by a descriptor of the RDMs or by one label an RDM.

    Parameters
    ----------
    rules, seeds : groups of the models
        By default every model is a rule of its own, with one seed; where `rules` are given, the
        models of a rule are its seeds.
    regions, subjects : groups of the brain RDMs
        By default all are of one region, and each is a subject of its own.
    match_subjects : the analysis must know which RDMs are of the same subject.

    Raises
    ------
    InvalidInputError
        A descriptor that is not there, a wrong number of labels, two RDMs of the same seed in one
        rule or of the same subject in one region, subjects that are needed and not given.
    """
    rule_labels = list(models.names) if rules is None else labels_of(models, rules, "rules")
    if rules is None and len(set(rule_labels)) < len(rule_labels):
        raise InvalidInputError(
            f"models: two are called {_twice(rule_labels)!r}; give them names of their own, or say"
            " with rules= which of them are seeds of one rule"
        )
    region_labels = (
        ["all"] * brain.n_rdms if regions is None else labels_of(brain, regions, "regions")
    )
    seed_labels = _members(models, seeds, rule_labels, "seed", "rule")
    if subjects is None and match_subjects and len(set(region_labels)) > 1:
        raise InvalidInputError(
            "subjects= is needed with several regions, to know which RDMs are of one subject; give"
            " a descriptor of the brain RDMs or one label an RDM"
        )
    subject_labels = _members(brain, subjects, region_labels, "subject", "region")
    rule_names, rule_of = _grouped(rule_labels)
    region_names, region_of = _grouped(region_labels)
    subject_names, subject_of = _grouped(subject_labels)
    return Layout(
        rules=rule_names, rule_of=rule_of, seed_names=tuple(seed_labels),
        regions=region_names, region_of=region_of,
        subjects=subject_names, subject_of=subject_of,
    )  # fmt: skip


class Described(Protocol):
    """RDMs, in memory or not, as far as grouping them asks."""

    @property
    def n_rdms(self) -> int:
        """Number of RDMs k."""
        ...

    @property
    def descriptors(self) -> Mapping[str, NDArray[Any]]:
        """Names and values (k,) of what is known of them."""
        ...


class Named(Described, Protocol):
    """The same, with names."""

    @property
    def names(self) -> tuple[str, ...]:
        """(k,) names."""
        ...


def labels_of(rdms: Described, by: str | Sequence[Any], role: str) -> list[str]:
    """One label an RDM, from the descriptor called `by` or from `by` itself."""
    if isinstance(by, str):
        if by not in rdms.descriptors:
            known = ", ".join(map(repr, rdms.descriptors)) or "none"
            raise InvalidInputError(
                f"{role}: the RDMs have no descriptor {by!r} (they have: {known}); give one label"
                " an RDM instead"
            )
        return [str(value) for value in rdms.descriptors[by].tolist()]
    values = np.asarray(by)
    if values.shape != (rdms.n_rdms,):
        raise InvalidInputError(
            f"{role} must be a descriptor's name or {rdms.n_rdms} labels, one an RDM, got shape"
            f" {values.shape}"
        )
    return [str(value) for value in values.tolist()]


def _members(
    rdms: Described, by: str | Sequence[Any] | None, groups: list[str], member: str, group: str
) -> list[str]:
    """Label of every RDM within its group (seed in rule, subject in region), none twice."""
    told = by is not None
    if by is None and member in rdms.descriptors:
        by = member  # only to find out whether RDMs would be taken for independent that are not
    if by is None:
        return [f"{member} {place}" for place in _places_within(groups)]
    labels = labels_of(rdms, by, f"{member}s")
    pairs = list(zip(groups, labels, strict=True))
    if len(set(pairs)) < len(pairs):
        name, label = _twice(pairs)
        raise InvalidInputError(
            f"{member}s: {group} {name!r} holds {member} {label!r} more than once; average these"
            f" RDMs first, keep one with .subset(), or give {group}s= that tell them apart"
        )
    if not told:
        return [f"{member} {place}" for place in _places_within(groups)]
    return labels


def _places_within(groups: list[str]) -> list[int]:
    seen: dict[str, int] = {}
    places = []
    for group in groups:
        places.append(seen.get(group, 0))
        seen[group] = places[-1] + 1
    return places


def _twice(values: Sequence[Any]) -> Any:
    return next(value for i, value in enumerate(values) if value in values[:i])


def _grouped(labels: list[str]) -> tuple[tuple[str, ...], Places]:
    names = tuple(dict.fromkeys(labels))
    place = {name: i for i, name in enumerate(names)}
    return names, np.array([place[label] for label in labels], dtype=np.int64)
