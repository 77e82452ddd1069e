"""Whether a published data set is there, subject by subject, and whether its files are whole."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rsafast_kernels.atomic import PathInput

from rsafast.datasets.catalogue import data_set
from rsafast.datasets.catalogue.entries import (
    AXES,
    HEMISPHERES,
    RUNS,
    DataSet,
    Files,
    Layout,
    Values,
)
from rsafast.datasets.headers import AGAIN, Damaged, check_header
from rsafast.datasets.recognise import found_files, recognised
from rsafast.datasets.selection import ranges
from rsafast.errors import InvalidInputError
from rsafast.progress import track

State: TypeAlias = Literal["complete", "partial", "missing", "incomplete", "damaged"]
# Placeholders that tell one group of files, such as a subject's, from the next.
_GROUPS = ("subject", "betas", "set")
_Group: TypeAlias = tuple[tuple[str, str], ...]
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with one file, and what a person can do."""

    file: str
    what: str
    do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Files of one kind, of one subject and version.

    Attributes
    ----------
    layout, subject, version : whose files; "" where the data set has none.
    holds : what is in them; path : of the files, with placeholders.
    needed : by the reader.
    found, expected : numbers of files; `expected` is None where any number will do.
    missing : sessions or files that were published and are not here.
    state : "complete"; "partial" and "missing" where the reader can do without the rest; otherwise
        "incomplete" or "damaged".
    """

    layout: str
    subject: str
    version: str
    holds: str
    path: str
    needed: bool
    found: int
    expected: int | None
    missing: tuple[str, ...]
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    data_set, folder : the data set, and the folder that its paths start from.
    rows : one for each kind of files of each subject.
    problems : damaged files, and missing ones that the reader needs.
    readable : what the reader can read: subject, or layout and version.
    """

    data_set: str
    folder: str
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    readable: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Something can be read, and nothing is wrong. Sessions may be missing: see `rows`."""
        return bool(self.readable) and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``rsafast data verify --json`` prints them."""
        return {"ok": self.ok, **asdict(self)}


def verify(folder: PathInput, name: str | None = None, *, progress: bool = False) -> Verification:
    """Check the files of a published data set.

    Parameters
    ----------
    folder : of the data set, one in it, or one at most two levels above it.
    name : of the data set in the catalogue; recognised from the files by default.
    progress : show a bar on stderr.

    Returns
    -------
    Verification
        Files are judged by presence, size, header and last bytes; values are not read. Sessions
        that are not there are listed and are no problem, as nobody needs all of them; a session of
        which some files are there is.

    Raises
    ------
    InvalidInputError
        A folder that is missing or holds no known data set, or several.
    BackendUnavailableError
        For images of the brain, where nibabel is not installed.
    """
    place = Path(folder).expanduser().resolve()
    if not place.is_dir():
        raise InvalidInputError(f"{folder}: there is no such folder; check the path")
    try:
        root, entry = recognised(place, None if name is None else data_set(name))
        return _Check(root, entry, progress).run()
    except PermissionError as error:
        raise InvalidInputError(
            f"{error.filename}: cannot be read; check its permissions"
        ) from None


# --- The check ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Counted:
    """Files that are only counted: subject to folder to number, and subjects with empty files."""

    folders: Mapping[str, Counter[str]]
    empty: frozenset[str]


_Judged: TypeAlias = tuple[int, int | None, list[str], State]  # found, expected, missing


class _Check:
    """One run of `verify`: every kind of files is looked up once, every file checked once."""

    def __init__(self, root: Path, entry: DataSet, progress: bool) -> None:
        self._root, self._entry, self._progress = root, entry, progress
        self._hits: dict[str, list[tuple[str, Values]]] = {}
        self._counted: dict[str, _Counted] = {}
        self._problems: dict[str, Problem] = {}

    def run(self) -> Verification:
        for files in self._entry.files:
            if files.counts is None:
                self._hits[files.path] = sorted(
                    found_files(self._root, files, self._entry), key=lambda hit: hit[0]
                )
            else:
                self._counted[files.path] = self._count(files)
        self._check_headers()
        rows: list[Row] = []
        readable: list[str] = []
        for layout in self._layouts():
            for group in self._groups(layout):
                own = [self._row(layout, files, dict(group)) for files in layout.files]
                rows += own
                if all(row.state in ("complete", "partial") for row in own if row.needed):
                    readable.append(_label(layout, dict(group)))
        if not rows:
            self._report(
                str(self._root), "holds files that all subjects share, and responses of none",
                f"get a subject: `rsafast data fetch {self._entry.name}` says how",
            )  # fmt: skip
        return Verification(
            data_set=self._entry.name,
            folder=str(self._root),
            rows=tuple(rows),
            problems=tuple(self._problems.values()),
            readable=tuple(readable),
        )

    def _count(self, files: Files) -> _Counted:
        """Count the files of a tree too large to list; empty ones are reported."""
        folders: dict[str, Counter[str]] = {}
        empty: set[str] = set()
        total = sum((files.counts or {}).values())
        with track(total, f"counting {files.holds}", self._progress) as advance:
            for path, at in found_files(self._root, files, self._entry):
                subject = at.get("subject", "")
                folders.setdefault(subject, Counter())[os.path.dirname(path)] += 1
                if os.stat(path).st_size == 0:
                    self._report(path, "is empty", AGAIN)
                    empty.add(subject)
                advance(1)
        return _Counted(folders, frozenset(empty))

    def _check_headers(self) -> None:
        kinds = {files.path: files for files in self._entry.files}
        hits = [(kinds[kind], *hit) for kind, found in self._hits.items() for hit in found]
        with track(len(hits), "checking files", self._progress) as advance:
            for files, path, at in hits:
                try:
                    check_header(Path(path), files, at)
                except Damaged as damage:
                    self._report(path, damage.what, damage.do)
                advance(1)

    def _report(self, file: str, what: str, do: str) -> None:
        self._problems.setdefault(file, Problem(file=file, what=what, do=do))

    def _there(self, files: Files) -> bool:
        if files.counts is None:
            return bool(self._hits[files.path])
        return bool(self._counted[files.path].folders)

    def _layouts(self) -> list[Layout]:
        """Layouts that lie here; of those without groups, the ones that fit best."""
        fits = {}
        for layout in self._entry.layouts:
            there = [self._there(files) for files in layout.files if files.needed]
            fits[layout.name] = (sum(there) / len(there), sum(there))
        plain = [fits[layout.name] for layout in self._entry.layouts if not _group_keys(layout)]
        return [
            layout
            for layout in self._entry.layouts
            if _group_keys(layout) or (fits[layout.name] == max(plain) and max(plain) > (0, 0))
        ]

    def _groups(self, layout: Layout) -> list[_Group]:
        """Subjects and versions whose responses are here, or some of them."""
        keys = _group_keys(layout)
        groups = {
            tuple((key, at[key]) for key in keys)
            for files in layout.files
            if files.responses
            for _, at in self._hits[files.path]
        }
        return sorted(groups) if keys else [()]

    def _row(self, layout: Layout, files: Files, group: dict[str, str]) -> Row:
        if files.counts is not None:
            judged = self._judged_count(files, group.get("subject", ""))
        else:
            judged = self._judged_list(files, group)
        found, expected, missing, state = judged
        return Row(
            layout=layout.name, subject=group.get("subject", ""), version=_version(group),
            holds=files.holds, path=files.path, needed=files.needed, found=found,
            expected=expected, missing=tuple(missing), state=state,
        )  # fmt: skip

    def _judged_count(self, files: Files, subject: str) -> _Judged:
        assert files.counts is not None
        counted = self._counted[files.path]
        folders = counted.folders.get(subject, Counter())
        found, expected = folders.total(), files.counts[subject]
        if found == expected:
            return found, expected, [], "damaged" if subject in counted.empty else "complete"
        if not found and not files.needed:
            return found, expected, [], "missing"
        kind = files.path.replace("{subject}", subject)
        self._report(
            str(self._root / kind),
            f"{found:,} files in {len(folders):,} folders, published are {expected:,}"
            + _odd_folders(folders, self._root),
            "unpack the archive again",
        )
        return found, expected, [f"{expected - found:,} files"], "incomplete"

    def _judged_list(self, files: Files, group: dict[str, str]) -> _Judged:
        hits = [
            (path, at)
            for path, at in self._hits[files.path]
            if all(at.get(key, value) == value for key, value in group.items())
        ]
        damaged = any(path in self._problems for path, _ in hits)
        many = "*" in files.path  # any number of files will do
        axes = [] if many else [axis for axis in AXES if axis in files.placeholders]
        there = {tuple(at[axis] for axis in axes) for _, at in hits}
        expected = list(product(*(self._choices(axis, group) for axis in axes)))
        lacking = [choice for choice in expected if choice not in there]
        missing = []
        if axes[:1] == ["session"]:
            begun = {choice[0] for choice in there}
            absent = sorted({choice[0] for choice in lacking} - begun)
            missing += [f"sessions {ranges(map(int, absent))}"] if absent else []
            # Sessions after the last are nobody's mistake; of none at all, the first is named.
            last = max(begun, default=expected[0][0])
            lacking = [choice for choice in lacking if choice[0] <= last]
        paths = [files.filled(group | dict(zip(axes, c, strict=True))) for c in lacking]
        if files.needed:
            for path in paths:
                self._report_missing(path)
        if there and not many:
            missing += paths
        number = None if many else len(expected)
        state: State = "complete"
        if damaged:
            state = "damaged"
        elif paths and files.needed:
            state = "incomplete"
        elif not there:
            state = "missing"
        elif missing:
            state = "partial"
        return len(hits), number, missing, state

    def _choices(self, axis: str, group: dict[str, str]) -> list[str]:
        numbers = {"session": self._entry.subjects.get(group.get("subject", ""), 0), "run": RUNS}
        if axis == "hemisphere":
            return list(HEMISPHERES)
        return [f"{i:02d}" for i in range(1, numbers[axis] + 1)]

    def _report_missing(self, path: str) -> None:
        name = self._entry.name
        if (self._root / f"{path}.part").exists():
            self._report(
                str(self._root / path), "is not whole: its download was cut off",
                f"`rsafast data fetch {name}` with the same options goes on with it",
            )  # fmt: skip
        else:
            self._report(
                str(self._root / path), "is missing",
                f"put it there; `rsafast data fetch {name}` says where it comes from",
            )  # fmt: skip


def _group_keys(layout: Layout) -> tuple[str, ...]:
    """Placeholders that tell the groups of a layout apart."""
    used = {name for files in layout.files if files.responses for name in files.placeholders}
    return tuple(key for key in _GROUPS if key in used)


def _version(group: Mapping[str, str]) -> str:
    return group.get("betas") or group.get("set") or ""


def _label(layout: Layout, group: Mapping[str, str]) -> str:
    parts = (group.get("subject"), layout.name, _version(group))
    return " ".join(part for part in parts if part)


def _odd_folders(folders: Counter[str], root: Path) -> str:
    """Folders whose number of files differs from that of most others."""
    if len(folders) < 3:
        return ""
    usual, how_many = Counter(folders.values()).most_common(1)[0]
    if how_many * 2 < len(folders):
        return ""
    odd = [
        f"{Path(folder).relative_to(root)} holds {n:,}"
        for folder, n in sorted(folders.items())
        if n != usual
    ]
    return f"; most hold {usual:,}, but {', '.join(odd[:_SHOWN])}" if odd else ""
