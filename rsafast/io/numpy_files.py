"""Readers of .npy and .npz. Object arrays are pickles, which can run code, and are refused."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from rsafast.errors import InvalidInputError
from rsafast.io.entries import LABEL_KEYS, NAME_KEYS, Entry, entry_of, unknown_key


def read_npy(path: Path, key: str | None) -> dict[str, Entry]:
    """The one array of a .npy file, under the name of the file; it stays on disk until used."""
    if key is not None:
        raise InvalidInputError(f"{path}: a .npy file holds one array; leave key= out")
    with _clear_errors(path):
        return {path.stem: entry_of(np.load(path, mmap_mode="r", allow_pickle=False))}


def npy_header(handle: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Shape and dtype of the .npy file open at its start, and move to its first value.

    Returns
    -------
    tuple or None
        None for a file that is no .npy file whatever its name; then nothing has moved.

    Raises
    ------
    ValueError
        A header that is damaged or of an unknown version.
    """
    magic = handle.read(len(np.lib.format.MAGIC_PREFIX))
    handle.seek(0)
    if magic != np.lib.format.MAGIC_PREFIX:
        return None
    version = np.lib.format.read_magic(handle)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(handle)
    else:
        raise ValueError(f"version {version} of the format")
    return shape, dtype


def read_npz(path: Path, key: str | None) -> dict[str, Entry]:
    """The arrays of a .npz file; of one `key` alone, with labels and names, if it is given."""
    with _clear_errors(path):
        archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InvalidInputError(f"{path}: is no .npz archive; a single array is saved as .npy")
    with archive:
        if key is not None and key not in archive.files:
            raise unknown_key(path, key, archive.files)
        wanted = archive.files if key is None else [key, *LABEL_KEYS, *NAME_KEYS]
        entries = {}
        for name in dict.fromkeys(wanted):
            if name in archive.files:
                with _clear_errors(path, f" (key {name!r})"):
                    entries[name] = entry_of(archive[name])
    return entries


@contextmanager
def _clear_errors(path: Path, part: str = "") -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        # Of a file that is mapped, NumPy says that its Python objects cannot be.
        if "pickle" in str(error) or "Python objects" in str(error):
            raise InvalidInputError(
                f"{path}{part}: holds Python objects (a pickle), which can run code when opened "
                "and are not read; save a plain numeric or str array instead"
            ) from None
        raise InvalidInputError(
            f"{path}{part}: is truncated, damaged or no NumPy file ({error}); save it again"
        ) from None
