"""Dictionaries in .npy files: pickles, as several published data sets hold them."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
from rsafast_kernels.atomic import PathInput
from rsafast_kernels.pickles import load_pickle

from rsafast.errors import InvalidInputError
from rsafast.io.files import checked_file
from rsafast.io.numpy_files import npy_header


def read_dictionary(path: PathInput) -> dict[Any, Any]:
    """Return the dictionary of a .npy file that holds one and nothing else.

    Both forms that occur are read: an array of zero dimensions around the dictionary, as np.save
    writes it, and a plain pickle under the name of a .npy file. Only plain values and arrays are
    admitted: see `rsafast_kernels.pickles`.

    Raises
    ------
    InvalidInputError
        A file that is missing, damaged, or holds anything else.
    """
    file = checked_file(path)
    with file.open("rb") as handle:
        _skip_header(handle, file)
        content = load_pickle(handle, str(file))
    if isinstance(content, np.ndarray) and content.ndim == 0:
        content = content.item()
    if not isinstance(content, dict):
        raise InvalidInputError(f"{file}: holds a {type(content).__name__}, expected a dictionary")
    return content


def _skip_header(handle: IO[bytes], file: Path) -> None:
    """Move to the first byte of the pickle."""
    try:
        header = npy_header(handle)
    except ValueError as error:
        raise InvalidInputError(f"{file}: is a damaged .npy file ({error})") from None
    if header is None:
        return
    shape, dtype = header
    if not dtype.hasobject or shape != ():
        raise InvalidInputError(
            f"{file}: holds an array of shape {shape}, {dtype}; expected a dictionary"
        )
