"""The tables of THINGS-fMRI: text with commas or tabs, checked column by column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError
from rsafast.io.files import checked_file
from rsafast.io.text import table_header

IntArray: TypeAlias = NDArray[np.int64]


def read_header(path: Path, needed: Sequence[str]) -> tuple[str, list[str]]:
    """Separator and column names of a table."""
    separator, header = table_header(checked_file(path))
    missing = [name for name in needed if name not in header]
    if missing:
        raise InvalidInputError(
            f"{path}: lacks the columns {', '.join(missing)}; it has {', '.join(header[:12])}"
        )
    return separator, header


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """What pandas makes of a table."""
    try:
        return pd.read_csv(path, encoding="utf-8-sig", **options)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{path}: is no readable table ({error}); download it again"
        ) from None


def whole_numbers(table: pd.DataFrame, column: str, path: Path, least: int = 0) -> IntArray:
    """A column of whole numbers."""
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~((values >= least) & (values == np.floor(values))))
    if len(bad):
        raise InvalidInputError(
            f"{path}: {column} of row {bad[0] + 1} is {table[column].iloc[bad[0]]!r}, expected a"
            f" whole number of at least {least}; download it again"
        )
    return values.astype(np.int64)


def check_subject(table: pd.DataFrame, subject: str, path: Path) -> None:
    """Stop at a table that says it belongs to another subject."""
    said = table["subject_id"].unique() if "subject_id" in table else []
    numbers = {int(match[0]) for own in said if (match := re.search(r"\d+", str(own)))}
    if numbers - {int(subject[4:])}:
        raise InvalidInputError(
            f"{path}: holds subject {', '.join(map(str, sorted(numbers)))}, expected"
            f" {subject}; the files were mixed up"
        )
