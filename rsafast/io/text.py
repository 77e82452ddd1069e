"""Reader of .csv and .tsv tables of numbers, with or without a header row and an index column."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError
from rsafast.io.entries import Entry

_MISSING = {"", "na", "nan", "null", "none"}
_INTEGER = re.compile(r"-?(0|[1-9]\d*)")


@dataclass(frozen=True, slots=True)
class _Table:
    values: NDArray[np.float64]
    header: list[str] | None
    index: list[str] | None


def read_rdm_table(path: Path) -> dict[str, Entry]:
    """A square matrix with or without labels, or one condensed vector a row."""
    table = _read_table(path, square=True)
    values = table.values.ravel() if table.values.shape[1] == 1 else table.values
    square = values.ndim == 2 and values.shape[0] == values.shape[1]
    labels = None
    if square:
        labels = table.header or table.index
        if table.header and table.index and table.header != table.index:
            at = next(
                i for i, pair in enumerate(zip(table.header, table.index, strict=True))
                if pair[0] != pair[1]
            )  # fmt: skip
            raise InvalidInputError(
                f"{path}: column {at + 1} is called {table.header[at]!r} but row {at + 1} "
                f"{table.index[at]!r}; rows and columns must name the same stimuli in one order"
            )
    names = None if square or not table.index else tuple(table.index)
    return {
        path.stem: Entry(values, str(values.shape), names, None if not labels else _typed(labels))
    }


def read_feature_table(path: Path) -> dict[str, Entry]:
    """One stimulus a row, one feature a column; text in the first column is the labels."""
    table = _read_table(path, square=False)
    labels = None if table.index is None else _typed(table.index)
    return {path.stem: Entry(table.values, str(table.values.shape), None, labels)}


def table_header(path: Path) -> tuple[str, list[str]]:
    """Separator and column names of a table; some data sets write .tsv files with commas.

    Raises
    ------
    InvalidInputError
        Bytes that are no text, or no row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            separator = max(",\t", key=file.readline().count)
            file.seek(0)
            return separator, next(csv.reader(file, delimiter=separator))
    except (UnicodeDecodeError, csv.Error, StopIteration) as error:
        raise InvalidInputError(
            f"{path}: is no table of text ({error}); download it again"
        ) from None


def _typed(labels: list[str]) -> tuple[Any, ...]:
    """Labels as int where every one is written as an integer."""
    if all(_INTEGER.fullmatch(label) for label in labels):
        return tuple(int(label) for label in labels)
    return tuple(labels)


def _read_table(path: Path, square: bool) -> _Table:
    rows = _read_rows(path)
    has_header = _has_header(rows, square)
    body = rows[has_header:]
    if not body:
        raise InvalidInputError(f"{path}: holds a header and no rows")
    has_index = _has_index(rows[0], body, has_header, square)
    width = len(body[0])
    values = np.empty((len(body), width - has_index))
    for i, row in enumerate(body):
        line = i + 1 + has_header
        if len(row) != width:
            raise InvalidInputError(
                f"{path}: row {line} has {len(row)} cells, the first has {width}"
            )
        values[i] = _numbers(path, row[has_index:], line, 1 + has_index)
    header = None
    if has_header:
        header = rows[0][has_index:] if len(rows[0]) == width else rows[0]
        if len(header) != values.shape[1]:
            raise InvalidInputError(
                f"{path}: the header names {len(header)} columns, the rows have {values.shape[1]}"
            )
    return _Table(values, header, [row[0] for row in body] if has_index else None)


def _read_rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            cells = csv.reader(file, delimiter=_delimiter(path, first))
            rows = [[cell.strip() for cell in row] for row in cells]
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path}: is no UTF-8 text; save it as CSV (UTF-8)") from None
    except csv.Error as error:
        raise InvalidInputError(f"{path}: is no table of text ({error})") from None
    rows = [row for row in rows if any(row)]
    if not rows:
        raise InvalidInputError(f"{path}: holds no rows")
    return rows


def _delimiter(path: Path, first: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((mark for mark in (",", ";", "\t") if mark in first), ",")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.lower() in _MISSING
    return True


def _has_header(rows: list[list[str]], square: bool) -> bool:
    """Text in the first row, an empty corner over an index, or one row more than a square has."""
    first = rows[0]
    if not all(_is_number(cell) for cell in first[1:]) or not _is_number(first[0]):
        # Text in the first cell alone is the label of a row without a header above it.
        text = [cell for cell in first if not _is_number(cell)]
        labelled_row = text == [first[0]] and len(first) > 1
        second_too = len(rows) > 1 and not _is_number(rows[1][0])
        integers = all(_INTEGER.fullmatch(cell) for cell in first[1:])
        return not (labelled_row and second_too and not integers)
    if not square or len(rows) < 2:
        return first[0] == "" and len(first) > 1 and len(rows) > 1 and not square
    width = len(rows[1])
    if len(rows) == width + 1:
        return len(first) == width
    return len(rows) == width and (first[0] == "" or len(first) == width - 1)


def _has_index(first: list[str], body: list[list[str]], has_header: bool, square: bool) -> bool:
    """Text in the first column, an empty corner, or one column more than a square has."""
    row = body[0]
    if len(row) == 1:
        return False
    if not _is_number(row[0]) or (has_header and (first[0] == "" or len(first) == len(row) - 1)):
        return True
    return square and len(row) == len(body) + 1


def _numbers(path: Path, cells: list[str], line: int, column: int) -> NDArray[np.float64]:
    cleaned = ["nan" if cell.lower() in _MISSING else cell for cell in cells]
    try:
        return np.array(cleaned, dtype=np.float64)
    except ValueError:
        at = next(i for i, cell in enumerate(cells) if not _is_number(cell))
        raise InvalidInputError(
            f"{path}: row {line}, column {at + column} holds {cells[at]!r}, which is no number"
        ) from None
