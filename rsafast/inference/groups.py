"""Which region and which subject every brain RDM belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError
from rsafast.inference.layout import Described, labels_of

By = str | Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrainGroups:
    """Brain RDMs by region, and by subject within each.

    Attributes
    ----------
    regions : names, in the order in which they first occur.
    members : for every region, the places of its RDMs.
    subjects : (N,) label of every RDM's subject; RDMs of a region with the same label are of one.
    told_subjects : whether the caller said which RDMs are of one subject.
    notes : what was taken for granted.
    """

    regions: tuple[str, ...]
    members: tuple[NDArray[np.int64], ...]
    subjects: tuple[str, ...]
    told_subjects: bool
    notes: tuple[str, ...] = ()


def brain_groups(brain: Described, regions: By | None, subjects: By | None) -> BrainGroups:
    """Group brain RDMs by descriptor names or by one label an RDM.

    By default all RDMs are of one region, and each RDM of a region is a subject of its own.

    Raises
    ------
    InvalidInputError
        A descriptor that is not there, a wrong number of labels; RDMs of a region that share a
        subject by their descriptor while `subjects` does not say that this is meant.
    """
    notes = []
    if regions is None:
        of_region = ["all"] * brain.n_rdms
        held = brain.descriptors.get("region")
        if held is not None and len(set(held.tolist())) > 1:
            notes.append(
                f"The RDMs are of {len(set(held.tolist()))} regions by their descriptor 'region',"
                " but were taken as one; regions='region' tells them apart."
            )
    else:
        of_region = labels_of(brain, regions, "regions")
    names = tuple(dict.fromkeys(of_region))
    members = tuple(
        np.array([i for i, region in enumerate(of_region) if region == name]) for name in names
    )
    if subjects is None:
        _check_own_subjects(brain, names, members)
        place = {int(i): k for positions in members for k, i in enumerate(positions)}
        of_subject = [str(place[i]) for i in range(brain.n_rdms)]
    else:
        of_subject = labels_of(brain, subjects, "subjects")
    return BrainGroups(
        regions=names, members=members, subjects=tuple(of_subject),
        told_subjects=subjects is not None, notes=tuple(notes),
    )  # fmt: skip


def _check_own_subjects(
    brain: Described, names: tuple[str, ...], members: tuple[NDArray[np.int64], ...]
) -> None:
    """Refuse to take RDMs for independent subjects where a descriptor says otherwise."""
    if "subject" not in brain.descriptors:
        return
    held = brain.descriptors["subject"].tolist()
    for name, positions in zip(names, members, strict=True):
        labels = [held[i] for i in positions]
        twice = next((label for k, label in enumerate(labels) if label in labels[:k]), None)
        if twice is not None:
            raise InvalidInputError(
                f"region {name!r} holds several RDMs of subject {twice!r}, which are not"
                " independent; give regions= that tell them apart, or subjects='subject'"
            )
