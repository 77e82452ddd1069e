"""Which published data set lies in a folder, and where its files are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from rsafast.datasets.catalogue import CATALOGUE
from rsafast.datasets.catalogue.entries import PLACEHOLDERS, DataSet, Files, Values
from rsafast.errors import InvalidInputError

_DEPTH = 2  # levels below the folder in which a data set is looked for, if it is not in it
_ANCESTORS = 6
_FOLDERS = 200  # looked into on each level
_SHOWN = 5


# --- Which data set, and where ------------------------------------------------------------------


def recognised(folder: Path, asked: DataSet | None) -> tuple[Path, DataSet]:
    """The folder from which the paths of a data set start, and the data set."""
    entries = list(CATALOGUE.values()) if asked is None else [asked]
    for places in _places(folder, entries):
        scores = {place: score for place in places if (score := _score(*place))}
        best = [place for place, score in scores.items() if score == max(scores.values())]
        if len(best) == 1:
            return best[0]
        if best:
            listed = "; ".join(f"{root} ({entry.name})" for root, entry in best[:_SHOWN])
            raise InvalidInputError(
                f"{folder}: holds several data sets: {listed}; name the folder of one, and which"
                " with --as"
            )
    expected = asked.name if asked else f"any of {', '.join(CATALOGUE)}"
    raise InvalidInputError(
        f"{folder}: holds no files of {expected} as published, nor does a folder above or in it;"
        " `rsafast data fetch NAME` says which files must lie where"
    )


def _places(folder: Path, entries: list[DataSet]) -> Iterator[list[tuple[Path, DataSet]]]:
    """Where to look, the likeliest first: the folder, those above it, then those in it."""
    yield [(folder, entry) for entry in entries]
    for root in list(folder.parents)[:_ANCESTORS]:
        yield [(root, entry) for entry in entries if _owns(entry, root, folder)]
    level = [folder]
    for _ in range(_DEPTH):
        level = [sub for parent in level for sub in _folders(parent)][:_FOLDERS]
        yield [(root, entry) for root in level for entry in entries]


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _owns(entry: DataSet, root: Path, folder: Path) -> bool:
    """Whether `folder` lies in one of the folders that the data set has below `root`."""
    name = folder.relative_to(root).parts[0]
    firsts = {files.path.split("/")[0] for files in entry.files if "/" in files.path}
    # "{set}" is any name: every folder beside a data set would be one of its own.
    return any(re.fullmatch(_pattern(first, entry), name) for first in firsts - {"{set}"})


def _score(root: Path, entry: DataSet) -> int:
    """The largest number of needed kinds of files that one layout has here."""
    return max(
        sum(next(found_files(root, f, entry), None) is not None for f in layout.files if f.needed)
        for layout in entry.layouts
    )


# --- Files that match a path with placeholders --------------------------------------------------


def _pattern(component: str, entry: DataSet) -> str:
    """The regular expression of one component of a path."""
    text, seen = "", set()
    for piece in re.split(r"(\{\w+\}|\*)", component):
        if piece == "*":
            text += ".*"
        elif not piece.startswith("{"):
            text += re.escape(piece)
        elif (name := piece[1:-1]) in seen:
            text += f"(?P={name})"
        else:
            seen.add(name)
            subjects = name == "subject" and entry.subjects
            text += f"(?P<{name}>{'|'.join(entry.subjects) if subjects else PLACEHOLDERS[name]})"
    return text


def found_files(root: Path, files: Files, entry: DataSet) -> Iterator[tuple[str, Values]]:
    """Paths of the files of one kind, with what their placeholders stand for."""
    for path in (files.path, *files.also):
        parts = [
            re.compile(_pattern(part, entry)) if re.search(r"[{*]", part) else part
            for part in path.split("/")
        ]
        hits = _walk(str(root), parts, {})
        first = next(hits, None)
        if first is not None:
            yield first
            yield from hits
            return


def _walk(
    folder: str, parts: list[re.Pattern[str] | str], at: dict[str, str]
) -> Iterator[tuple[str, Values]]:
    head, rest = parts[0], parts[1:]
    if isinstance(head, str):
        path = os.path.join(folder, head)
        if rest:
            yield from _walk(path, rest, at)
        elif os.path.isfile(path):
            yield path, at
        return
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            match = None if entry.name.startswith(".") else head.fullmatch(entry.name)
            if match is None or any(at.get(k, v) != v for k, v in match.groupdict().items()):
                continue
            now = at | match.groupdict()
            if rest:
                if entry.is_dir():
                    yield from _walk(entry.path, rest, now)
            elif entry.is_file():
                yield entry.path, now
