"""What a reader found in a file: named arrays, with the names and labels that came along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsafast._condensed import MIN_STIMULI, n_from_pairs
from rsafast.errors import InvalidInputError

# Keys that describe the other arrays of a file.
LABEL_KEYS = ("labels", "stimuli")
NAME_KEYS = ("names",)


@dataclass(frozen=True, slots=True)
class Entry:
    """One named part of a file.

    Attributes
    ----------
    values : the array: numbers, or str for labels and names; None where it is neither.
    said : shape or kind, for messages.
    names : one name an RDM, where the file gives them.
    labels : one id a stimulus, where the file gives them.
    """

    values: NDArray[Any] | None
    said: str
    names: tuple[str, ...] | None = None
    labels: tuple[Any, ...] | None = None


Entries: TypeAlias = Mapping[str, Entry]


def entry_of(values: NDArray[Any]) -> Entry:
    """The entry of an array; bytes become str, and objects are refused."""
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind not in "biufU":
        return Entry(None, f"{values.shape} of dtype {values.dtype}, which is no number")
    return Entry(values, str(values.shape))


def listing(entries: Entries) -> str:
    """Keys with their shapes, for an error message."""
    return "; ".join(f"{key!r}: {entry.said}" for key, entry in entries.items()) or "nothing"


def unknown_key(path: Path, key: str, known: Iterable[str]) -> InvalidInputError:
    """The error for a key that the file does not hold."""
    return InvalidInputError(f"{path}: no key {key!r}; it holds {', '.join(map(repr, known))}")


def companion(entries: Entries, keys: tuple[str, ...]) -> list[Any] | None:
    """The one-dimensional labels or names stored beside the other arrays, if any."""
    for key in keys:
        entry = entries.get(key)
        if entry is not None and entry.values is not None and entry.values.size:
            return entry.values.ravel().tolist()
    return None


def could_be_rdms(values: NDArray[Any] | None) -> bool:
    """Whether the shape allows RDMs of at least 4 stimuli; the values are checked later."""
    if values is None or values.dtype.kind not in "biuf" or values.ndim not in (1, 2, 3):
        return False
    if values.ndim >= 2 and values.shape[-1] == values.shape[-2]:
        return values.shape[-1] >= MIN_STIMULI
    n = n_from_pairs(values.shape[-1])
    return values.ndim < 3 and n is not None and n >= MIN_STIMULI
