"""How the catalogue describes a data set: its kinds of files, its layouts, its downloads.

Sizes, shapes and checksums are those that the sources or code that ran on the real files state.
What none of them states is left open, and `verify` does not judge it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

# What the placeholders of a path stand for in one file, such as {"subject": "subj01"}.
Values: TypeAlias = Mapping[str, str]
# Length of an axis, which may depend on the file; None where none is published.
Length: TypeAlias = int | Callable[[Values], int | None] | None

# Placeholders of paths, and what they match. Those of AXES are listed in full for every subject;
# the others are choices of which any may be there.
PLACEHOLDERS = {
    "subject": r"[^/]+",
    "session": r"\d\d",
    "run": r"\d\d",
    "hemisphere": r"lh|rh",
    "betas": r"betas_\w+",
    "set": r"[^/]+",
    "wnid": r"n\d{8}",
}
AXES = ("session", "run", "hemisphere")
HEMISPHERES = ("lh", "rh")
RUNS = 10  # a session, where {run} occurs


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Files of one kind.

    Attributes
    ----------
    path : relative to the data set's folder, with placeholders such as {subject} and with ``*``.
    also : other places in which the reader looks for it.
    holds : what is in them.
    needed : the reader cannot do without them.
    responses : a subject of whom one of them is there is expected to be there whole.
    counts : subject to the number of files that ``*`` stands for; "" where all have one number.
    size : bytes of each file, exactly; at_least : bytes below which a file must be cut.
    arrays : name to lengths of the axes, in the order of the file. The name is a dataset of HDF5 or
        a variable of MATLAB, and "" in a file of one array.
    columns : that the header of a table must hold.
    """

    path: str
    holds: str
    also: tuple[str, ...] = ()
    needed: bool = True
    responses: bool = False
    counts: Mapping[str, int] | None = None
    size: int | None = None
    at_least: int = 1
    arrays: Mapping[str, tuple[Length, ...]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Names of the placeholders, each once."""
        return tuple(dict.fromkeys(re.findall(r"\{(\w+)\}", self.path)))

    def filled(self, values: Values) -> str:
        """The path with the placeholders replaced that have a value."""
        return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), self.path)

    def shapes(self, at: Values) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the arrays in one file."""
        return {
            name: tuple(length(at) if callable(length) else length for length in lengths)
            for name, lengths in self.arrays.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One of the forms in which a data set is published."""

    name: str
    files: tuple[Files, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file that a server gives to anyone.

    Attributes
    ----------
    name : path below the target folder.
    url : of the file.
    known_hash : "md5:..." where one is published.
    gives : folder that unpacking makes, for an archive.
    unpacked : bytes of what it makes, where they are known.
    needed : a file that the server lacks is an error; otherwise it is named and left out.
    """

    name: str
    url: str
    known_hash: str | None = None
    gives: str | None = None
    unpacked: int | None = None
    needed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSet:
    """A published data set.

    Attributes
    ----------
    name : of the data set here, as ``rsafast data`` takes it.
    what : one line.
    doi, licence, size : as the source states them.
    access : "open" (anyone downloads it), "registration", "form", or "not stated".
    source : where a person gets it.
    reader : the functions that read it, with commas between them.
    subjects : subject to its number of sessions; empty where there are no subjects.
    layouts : the forms in which it is published.
    downloads : variant to the archive that `fetch` gets, the usual one first. NSD is fetched file
        by file (`nsd_downloads`) and has none here.
    """

    name: str
    what: str
    doi: str = ""
    licence: str = "see the source's terms"
    size: str = "not stated"
    access: Literal["open", "registration", "form", "not stated"]
    source: str
    reader: str
    subjects: Mapping[str, int] = field(default_factory=dict)
    layouts: tuple[Layout, ...]
    downloads: Mapping[str, Download] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Files, ...]:
        """The files of all layouts, each once."""
        kinds: dict[str, Files] = {}
        for files in (files for layout in self.layouts for files in layout.files):
            kinds.setdefault(files.path, files)  # the first tells more, where two name one path
        return tuple(kinds.values())
