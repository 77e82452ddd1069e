r"""Readers of plain folders, in which the names of files say what is in them.

A pattern describes the names: ``fmri_rdm_{roi}_{subject}.npy``. Each ``{field}`` stands for any
text without "/", the same text where a field comes twice; ``{field:expression}`` for text that
matches a regular expression (without braces): ``{subject:sub-\d+}``. Where a name can be read in
two ways (a region called "V1_v" between underscores), it is refused until an expression decides.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput

from rsafast.datasets.responses import Responses, Seen
from rsafast.datasets.selection import check_stimuli, listed, rows_of
from rsafast.errors import InvalidInputError
from rsafast.io.files import checked_file
from rsafast.io.readers import read_features, read_rdms
from rsafast.rdms import Missing, RDMs

_UNNAMED = ""  # the region of files that name none
_SEARCHED = 1000  # files looked at for the names that an error shows


def read_rdm_folder(
    root: PathInput,
    pattern: str = "fmri_rdm_{roi}_{subject}.npy",
    *,
    order: str | None = None,
    key: str | None = None,
    missing: Missing = "error",
) -> RDMs:
    r"""Read all RDMs of a folder; what the names of the files say becomes descriptors.

    Parameters
    ----------
    root : folder.
    pattern : names of the files, relative to `root`, with fields in braces: see
        `rsafast.datasets.folders`. Files of every format that `rf.read_rdms` reads; names that do
        not fit, and hidden files, are passed over.
    order : the file or files that hold the stimulus ids in the order of the RDMs, one a line, text
        in UTF-8: a name relative to `root`, with fields of `pattern` where there are several
        (``stim_order_{subject}.txt``). By default the files of RDMs tell, or nothing does.
    key, missing : as for `rf.read_rdms`.

    Returns
    -------
    RDMs
        In the order of the sorted names, with a descriptor (str) for each field. RDMs are named by
        their fields. Stimuli are in the order of the first file; the others are matched to it by
        their ids.

    Raises
    ------
    InvalidInputError
        A pattern that no file fits (the message shows files that are there), or that a name fits in
        two ways; a file that is no RDM; stimuli that differ between files; an order file of another
        length, or one that contradicts the labels of an RDM file; ids in some of the files only.

    Examples
    --------
    >>> rdms = read_rdm_folder("outputs_720", order="stim_order_{subject}.txt")  # doctest: +SKIP
    >>> rdms[{"roi": "V1"}].descriptors["subject"]  # doctest: +SKIP
    array(['sub-01', 'sub-02', 'sub-03'], dtype='<U6')
    """
    folder = Path(root).expanduser()
    files = _matches(folder, pattern)
    orders = _Orders(folder, order, pattern)
    stacks: list[RDMs] = []
    for file in files:
        read = read_rdms(file.path, key=key, missing=missing)
        stack = _described(read, file, orders.of(file, read.n_stimuli, read.labels))
        if stacks:
            _check_same_stimuli(stacks[0], files[0], stack, file)
        stacks.append(stack)
    return RDMs.concat(stacks)


def read_response_folder(
    root: PathInput,
    pattern: str = "{subject}/{roi}.npy",
    *,
    order: str | None = None,
    stimuli: Sequence[str] | None = None,
    key: str | None = None,
    units: str = "unknown",
) -> list[Responses]:
    r"""Read the responses of a folder of feature files, rows by channels, one file a region.

    Parameters
    ----------
    root, pattern, order : as for `read_rdm_folder`; files of every format that `rf.read_features`
        reads. The fields are "subject", "roi", "session" and "run"; "subject" must be there, and
        session and run must end in a number from 1 on (``ses-01``). Without "roi", the arrays of a
        file that holds several are regions by their keys. In an order file, an id may come several
        times: its rows are repeats.
    stimuli : ids to read, in that order; all by default. With sessions or runs, the rows of each
        come in that order, and each stimulus must be in at least one of them.
    key : the array to take from files that hold several.
    units : of the values.

    Returns
    -------
    list of Responses
        One a subject, sorted by name. Rows are in the order of the files of the first region, by
        session and run; other regions are matched to it by their ids. Subjects keep their own
        stimuli and order: `Responses.subset` brings them together.

    Raises
    ------
    InvalidInputError
        What `read_rdm_folder` raises; a pattern without "subject" or with other fields; files
        without stimulus ids; responses that are not rows by channels; regions of a subject that
        differ in stimuli, sessions or runs.

    Notes
    -----
    Files in .npy with values in float32 or float64 are mapped: memory is that of the rows asked for
    and those of one file again. Files of other formats are loaded, all of one subject together.

    Where no session or run is named, `seen` holds 0 for it.
    """
    if stimuli is not None:
        check_stimuli(stimuli)
    folder = Path(root).expanduser()
    fields = set(_fields(pattern))
    if "subject" not in fields or fields - {"subject", "roi", "session", "run"}:
        raise InvalidInputError(
            f"pattern {pattern!r} has the fields {listed(sorted(fields))}; it needs 'subject' and"
            " takes 'roi', 'session' and 'run' beside it"
        )
    orders = _Orders(folder, order, pattern)
    subjects: dict[str, list[_File]] = {}
    for file in _matches(folder, pattern):
        subjects.setdefault(file.fields["subject"], []).append(file)
    return [
        _responses(subject, files, orders, stimuli, key, units)
        for subject, files in sorted(subjects.items())
    ]


# ---------------------------------------------------------------- names of files


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    fields: Mapping[str, str]


def _matches(folder: Path, pattern: str) -> list[_File]:
    """Files that fit the pattern, sorted by name."""
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: is no folder; check root")
    if not pattern or Path(pattern).is_absolute():
        raise InvalidInputError(f"pattern must be relative to root, got {pattern!r}")
    longest, shortest = _expression(pattern, "+"), _expression(pattern, "+?")
    files = []
    for path in sorted(folder.glob(_wildcards(pattern))):
        name = path.relative_to(folder).as_posix()
        match = longest.fullmatch(name)
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if match is None or hidden or not path.is_file():
            continue
        other = shortest.fullmatch(name)
        if other is not None and other.groupdict() != match.groupdict():
            raise InvalidInputError(
                f"{path}: can be read as {match.groupdict()} and as {other.groupdict()}; say what a"
                r" field looks like in the pattern, for example {subject:sub-\d+}"
            )
        files.append(_File(path, match.groupdict()))
    if not files:
        there = (path for path in folder.rglob("*") if path.is_file())
        names = [p.relative_to(folder).as_posix() for p in islice(there, _SEARCHED)]
        raise InvalidInputError(
            f"{folder}: no file fits the pattern {pattern!r}; it holds {listed(sorted(names))}"
        )
    return files


def _parts(pattern: str) -> list[tuple[str, str | None, str]]:
    """(text, field that follows or None, expression of the field) of a pattern."""
    try:
        parsed = list(Formatter().parse(pattern))
    except ValueError as error:
        raise InvalidInputError(f"pattern {pattern!r} cannot be read ({error})") from None
    for _, field, _, conversion in parsed:
        if field is not None and (not field.isidentifier() or conversion):
            raise InvalidInputError(
                f"pattern {pattern!r}: a field is a name in braces, such as {{subject}}, got"
                f" {field!r}"
            )
    return [(text, field, expression or "") for text, field, expression, _ in parsed]


def _fields(pattern: str) -> list[str]:
    return [field for _, field, _ in _parts(pattern) if field is not None]


def _expression(pattern: str, many: str) -> re.Pattern[str]:
    """The pattern as a regular expression; fields take as much (or as little) as they can."""
    out, known = "", set()
    for text, field, expression in _parts(pattern):
        out += re.escape(text)
        if field is None:
            continue
        out += f"(?P={field})" if field in known else f"(?P<{field}>{expression or '[^/]' + many})"
        known.add(field)
    try:
        return re.compile(out)
    except re.error as error:
        raise InvalidInputError(
            f"pattern {pattern!r} holds no regular expression ({error})"
        ) from None


def _wildcards(pattern: str) -> str:
    return "".join(
        glob.escape(text) + ("*" if field is not None else "") for text, field, _ in _parts(pattern)
    )


# ---------------------------------------------------------------- stimulus order


class _Orders:
    """Stimulus ids of files: from order files, read once each, or from the files themselves."""

    def __init__(self, folder: Path, order: str | None, pattern: str) -> None:
        unknown = set(_fields(order or "")) - set(_fields(pattern))
        if unknown:
            raise InvalidInputError(
                f"order {order!r} has the field {listed(sorted(unknown))}, which the pattern"
                f" {pattern!r} lacks"
            )
        self._folder, self._order = folder, order
        self._read: dict[Path, tuple[str, ...]] = {}

    def of(
        self, file: _File, n: int, own: Sequence[str | int] | None
    ) -> tuple[str | int, ...] | None:
        """Ids of the `n` rows of a file that says `own`; None where nothing tells."""
        if self._order is None:
            return None if own is None else tuple(own)
        path = self._folder / "".join(
            text + (file.fields[field] if field is not None else "")
            for text, field, _ in _parts(self._order)
        )
        if path not in self._read:
            self._read[path] = _lines(path)
        ids = self._read[path]
        if len(ids) != n:
            raise InvalidInputError(
                f"{path}: lists {len(ids)} stimuli, {file.path} holds {n}; they do not belong"
                " together"
            )
        if own is not None and [str(label) for label in own] != list(ids):
            row = next(i for i, label in enumerate(own) if str(label) != ids[i])
            raise InvalidInputError(
                f"{path}: row {row} is {ids[row]!r}, but {file.path} says {own[row]!r}; leave"
                " order= out, or mend it"
            )
        return ids


def _lines(path: Path) -> tuple[str, ...]:
    try:
        text = checked_file(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: is no text in UTF-8 ({error})") from None
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "" in lines or not lines:
        raise InvalidInputError(
            f"{path}: line {lines.index('') + 1 if lines else 1} is empty; every line is the id of"
            " one stimulus"
        )
    return tuple(lines)


# ---------------------------------------------------------------- RDMs


def _described(rdms: RDMs, file: _File, labels: tuple[str | int, ...] | None) -> RDMs:
    for field, value in file.fields.items():
        said = [str(x) for x in rdms.descriptors.get(field, []) if str(x) != value]
        if said:
            raise InvalidInputError(
                f"{file.path}: says {field} {said[0]!r}, its name says {value!r}; mend one of them"
            )
    name = " ".join(file.fields.values()) or file.path.stem
    alone = rdms.n_rdms == 1
    try:
        return RDMs.from_vectors(
            rdms.vectors,
            labels=labels,
            names=[name] if alone else [f"{name} {own}" for own in rdms.names],
            measure=rdms.measure,
            descriptors={
                **rdms.descriptors,
                **{field: [value] * rdms.n_rdms for field, value in file.fields.items()},
            },
            missing=rdms.missing,
        )
    except InvalidInputError as error:
        raise InvalidInputError(f"{file.path}: {error}") from None


def _check_same_stimuli(a: RDMs, file_a: _File, b: RDMs, file_b: _File) -> None:
    if a.labels is None and b.labels is None:
        if a.n_stimuli != b.n_stimuli:
            raise InvalidInputError(
                f"{file_b.path}: holds {b.n_stimuli} stimuli, {file_a.path} {a.n_stimuli}; read"
                " them apart, or keep the common ones"
            )
        return
    if a.labels is None or b.labels is None:
        without, with_ids = (file_a, file_b) if a.labels is None else (file_b, file_a)
        raise InvalidInputError(
            f"{without.path}: holds no stimulus ids, {with_ids.path} does; name the order of all"
            " with order="
        )
    _check_same_ids(a.labels, file_a, b.labels, file_b)


def _check_same_ids(
    a: Sequence[str | int], file_a: _File, b: Sequence[str | int], file_b: _File
) -> None:
    more, less = sorted(set(b) - set(a), key=str), sorted(set(a) - set(b), key=str)
    if more or less:
        raise InvalidInputError(
            f"{file_b.path}: its stimuli are not those of {file_a.path}: {listed(more)} only in the"
            f" first, {listed(less)} only in the second; keep the common ones"
        )


# ---------------------------------------------------------------- responses


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows of one file and region."""

    file: _File
    values: NDArray[Any]  # all rows of the file
    rows: NDArray[np.int64]
    ids: tuple[str, ...]  # of `rows`


def _responses(
    subject: str,
    files: list[_File],
    orders: _Orders,
    stimuli: Sequence[str] | None,
    key: str | None,
    units: str,
) -> Responses:
    regions: dict[str, dict[tuple[int, int], _Block]] = {}
    for file in files:
        when = _number(file, "session"), _number(file, "run")
        for roi, block in _blocks(file, orders, stimuli, key).items():
            known = regions.setdefault(roi, {})
            if when in known:
                raise InvalidInputError(
                    f"{file.path}: is the same region, session and run as {known[when].file.path}"
                )
            known[when] = block
    first = _in_order(next(iter(regions.values())))
    sizes = [next(iter(blocks.values())).values.shape[1] for blocks in regions.values()]
    values = np.empty((sum(len(block.rows) for _, block in first), sum(sizes)), dtype=np.float32)
    stops = np.cumsum(sizes)
    for blocks, size, stop in zip(regions.values(), sizes, stops, strict=True):
        _fill(values[:, stop - size : stop], first, _in_order(blocks))
    found = {stimulus for _, block in first for stimulus in block.ids}
    lacking = [stimulus for stimulus in stimuli or () if stimulus not in found]
    if lacking:
        raise InvalidInputError(
            f"{files[0].path}: no file of {subject!r} holds {listed(lacking)} ({len(lacking)} of"
            " the stimuli asked for)"
        )
    named = np.repeat(list(regions), sizes)
    seen: list[Seen] = [frozenset({when}) for when, block in first for _ in block.ids]
    return Responses(
        values=values,
        stimuli=tuple(stimulus for _, block in first for stimulus in block.ids),
        subject=subject,
        seen=tuple(seen),
        channels=np.array(
            [
                f"{roi} {i}".strip()
                for roi, size in zip(regions, sizes, strict=True)
                for i in range(size)
            ]
        ),
        rois={roi: named == roi for roi in regions if roi != _UNNAMED},
        units=units,
        source={"files": [str(file.path) for file in files]},
    )


def _number(file: _File, field: str) -> int:
    """Session or run of a file; 0 where its name has no such field."""
    if field not in file.fields:
        return 0
    match = re.search(r"(\d+)$", file.fields[field])
    if match is None or int(match[1]) == 0:
        raise InvalidInputError(
            f"{file.path}: {field} {file.fields[field]!r} does not end in a number from 1 on (0"
            " stands for one that is not told); rename the files"
        )
    return int(match[1])


def _blocks(
    file: _File, orders: _Orders, stimuli: Sequence[str] | None, key: str | None
) -> dict[str, _Block]:
    """The regions in a file."""
    layers, own = read_features(file.path, key=key)
    roi = file.fields.get("roi")
    if roi is not None and len(layers) > 1:
        raise InvalidInputError(
            f"{file.path}: holds several arrays ({listed(layers)}); choose one with key="
        )
    for name, values in layers.items():
        if values.ndim != 2:
            raise InvalidInputError(
                f"{file.path}: {name!r} is {values.shape}; expected rows by channels"
            )
    labels = orders.of(file, len(next(iter(layers.values()))), own)
    if labels is None:
        raise InvalidInputError(
            f"{file.path}: holds no stimulus ids; name the file that does with order="
        )
    ids = tuple(map(str, labels))
    here = set(ids)
    wanted = None if stimuli is None else [stimulus for stimulus in stimuli if stimulus in here]
    rows = rows_of(ids, wanted, str(file.path)) if wanted != [] else np.empty(0, dtype=np.int64)
    taken = tuple(ids[row] for row in rows)
    only = _UNNAMED if roi is None and len(layers) == 1 else roi
    return {
        name if only is None else only: _Block(file, values, rows, taken)
        for name, values in layers.items()
    }


def _in_order(blocks: Mapping[tuple[int, int], _Block]) -> list[tuple[tuple[int, int], _Block]]:
    return sorted(blocks.items(), key=lambda item: item[0])


def _fill(
    values: NDArray[np.float32],
    first: list[tuple[tuple[int, int], _Block]],
    blocks: list[tuple[tuple[int, int], _Block]],
) -> None:
    """Write the blocks of a region, in the order of the stimuli of the first region."""
    lone = {when for when, _ in first} ^ {when for when, _ in blocks}
    if lone:
        raise InvalidInputError(
            f"{blocks[0][1].file.path}: its region and that of {first[0][1].file.path} do not both"
            f" have (session, run) {listed(sorted(lone))}; every region needs the same files"
        )
    start = 0
    for (_, model), (_, block) in zip(first, blocks, strict=True):
        if block.values.shape[1] != values.shape[1]:
            raise InvalidInputError(
                f"{block.file.path}: has {block.values.shape[1]} channels,"
                f" {blocks[0][1].file.path} {values.shape[1]}"
            )
        rows = _aligned(model, block)
        values[start : start + len(rows)] = block.values[rows]
        start += len(rows)


def _aligned(model: _Block, block: _Block) -> NDArray[np.int64]:
    """Rows of `block` in the order of the stimuli of `model`."""
    if block.ids == model.ids:
        return block.rows
    _check_same_ids(model.ids, model.file, block.ids, block.file)
    if len(set(block.ids)) < len(block.ids) or len(block.ids) != len(model.ids):
        raise InvalidInputError(
            f"{block.file.path}: its rows are not in the order of {model.file.path}; with repeats"
            " they cannot be matched by id"
        )
    place = dict(zip(block.ids, block.rows.tolist(), strict=True))
    return np.array([place[stimulus] for stimulus in model.ids], dtype=np.int64)
