"""Text files that appear under their name only once they are complete."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from rsafast.errors import InvalidInputError


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text to a temporary name and rename it; an existing file is replaced at once.

    Returns
    -------
    Path
        The absolute path that was written.

    Raises
    ------
    InvalidInputError
        The folder is missing or cannot be written, or the disk is full.
    """
    from rsafast.io.hdf5 import check_writable

    target = check_writable(path)
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise InvalidInputError(
            f"{path}: could not be written ({error.strerror}); what was there before is untouched"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return target
