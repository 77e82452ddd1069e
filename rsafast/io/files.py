"""Checks that every reader makes of a path, and the one shape of its errors."""

from __future__ import annotations

import os
from pathlib import Path

from rsafast_kernels.atomic import PathInput

from rsafast.errors import InvalidInputError


def checked_file(path: PathInput) -> Path:
    """`path`, if it is a file that can be read and holds something.

    Raises
    ------
    InvalidInputError
        For a path that is missing, a folder, unreadable or empty.
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidInputError(f"path must be a str or a Path, got {path!r}")
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            raise InvalidInputError(f"{path}: is a folder, expected a file; name a file in it")
        with file.open("rb") as handle:
            empty = not handle.read(1)
    except InvalidInputError:
        raise
    except FileNotFoundError:
        raise InvalidInputError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{path}: cannot be read ({error}); check its permissions"
        ) from None
    if empty:
        raise InvalidInputError(f"{path}: the file is empty; write it again")
    return file
