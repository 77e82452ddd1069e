"""What a reader is asked for: subject, stimuli and regions, each checked and found in one way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError

Rois: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]]

_SHOWN = 5  # names listed in an error


def check_choice(name: str, value: Any, known: Iterable[Any]) -> None:
    """Raise for a value of the argument `name` that is none of those known."""
    if value not in (choices := list(known)):
        raise InvalidInputError(
            f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}"
        )


def subject_name(subject: str | int, prefix: str, number: int) -> str:
    """Name of a subject as published.

    Parameters
    ----------
    subject : such as "sub-01", "1" or 1.
    prefix : "sub-" or "subj".
    number : of subjects in the data set.

    Raises
    ------
    InvalidInputError
        Anything that names none of the subjects.
    """
    said = str(subject) if isinstance(subject, str | Integral) and subject is not True else ""
    match = re.fullmatch(rf"(?:{prefix})?0*([1-9]\d*)", said)
    if match is None or int(match[1]) > number:
        raise InvalidInputError(
            f"subject must be '{prefix}01' to '{prefix}{number:02d}' or 1 to {number}, got"
            f" {subject!r}"
        )
    return f"{prefix}{int(match[1]):02d}"


# ---------------------------------------------------------------- stimuli


def rows_of(ids: Sequence[str], stimuli: Sequence[str] | None, where: str) -> NDArray[np.int64]:
    """Rows of `stimuli`, in their order; all rows for None.

    Parameters
    ----------
    ids : stimulus of every row; a stimulus with repeats gives all of its rows.
    stimuli : each named once.
    where : the file, for errors.

    Raises
    ------
    InvalidInputError
        No stimuli; one that is named twice or is not there.
    """
    if stimuli is None:
        return np.arange(len(ids))
    check_stimuli(stimuli)
    place: dict[str, list[int]] = {}
    for row, stimulus in enumerate(ids):
        place.setdefault(stimulus, []).append(row)
    missing = [stimulus for stimulus in stimuli if stimulus not in place]
    if missing:
        raise InvalidInputError(
            f"{where}: holds no {listed(missing)} ({len(missing)} of {len(stimuli)} stimuli asked"
            f" for); it holds {listed(place)}"
        )
    return np.array([row for stimulus in stimuli for row in place[stimulus]], dtype=np.int64)


def check_stimuli(stimuli: Sequence[str]) -> None:
    """Raise for anything but a list of different ids."""
    if isinstance(stimuli, str) or not np.iterable(stimuli) or not len(stimuli):
        raise InvalidInputError(f"stimuli must be a list of at least one id, got {stimuli!r}")
    twice = first_repeated(stimuli)
    if twice is not None:
        raise InvalidInputError(f"stimuli names {twice!r} twice; name each once")


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that comes more than once, if any."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


# ---------------------------------------------------------------- regions


def region_members(rois: Rois, expanded: Callable[[str], Sequence[str]]) -> dict[str, list[str]]:
    """Region to the names in the files of what it unites.

    Parameters
    ----------
    rois : one region, several, or a mapping from names of one's own to what each unites.
    expanded : gives the names in the files of one that a user writes: both halves of "V1".

    Raises
    ------
    InvalidInputError
        No region, a region of nothing, or what is no text.
    """
    if isinstance(rois, str) or not np.iterable(rois):
        rois = [rois]
    named: Mapping[Any, Any] = rois if isinstance(rois, Mapping) else {name: name for name in rois}
    united = {
        name: [own] if isinstance(own, str) or not np.iterable(own) else list(own)
        for name, own in named.items()
    }
    texts = [text for name, own in united.items() for text in (name, *own)]
    empty = not united or not all(united.values())
    if empty or not all(isinstance(text, str) and text for text in texts):
        raise InvalidInputError(
            "rois must name at least one region, such as 'V1', ['V1', 'V2'] or"
            f" {{'early': ['V1', 'V2']}}, got {rois!r}"
        )
    return {name: [e for part in own for e in expanded(part)] for name, own in united.items()}


# ---------------------------------------------------------------- places and texts


def stretches(places: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of `places`, which ascend, in which each is the one before and 1."""
    starts = np.flatnonzero(np.diff(places, prepend=places[:1] - 2) != 1).tolist()
    for start, stop in pairwise([*starts, len(places)]):
        yield slice(start, stop)


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers in short: "1-3, 5"."""
    places = np.array([*numbers], dtype=np.int64)
    ends = [(places[own.start], places[own.stop - 1]) for own in stretches(places)]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ends)


def listed(names: Iterable[object]) -> str:
    """The first few names, for an error."""
    said = [repr(str(name)) for name in names]
    more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return (", ".join(said[:_SHOWN]) or "nothing") + more
