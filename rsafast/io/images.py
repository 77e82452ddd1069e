"""NIfTI and MGH files by way of nibabel, which is an optional package."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsafast.errors import BackendUnavailableError, InvalidInputError, RsafastError
from rsafast.io.files import checked_file


def nibabel_package() -> Any:
    """Import nibabel.

    Raises
    ------
    BackendUnavailableError
        Where it is not installed.
    """
    try:
        import nibabel
    except ImportError:
        raise BackendUnavailableError(
            'NIfTI and MGH files need nibabel: pip install "rsafast[data]"'
        ) from None
    return nibabel


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Name the file in whatever nibabel or gzip find wrong with it."""
    nibabel = nibabel_package()
    wrong = (
        OSError, EOFError, ValueError, TypeError, zlib.error,
        nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError,
    )  # fmt: skip
    try:
        yield
    except RsafastError:
        raise
    except wrong as error:
        raise InvalidInputError(
            f"{file}: is truncated, damaged or of another format ({error}); fetch it again"
        ) from None


def read_image(file: Path) -> NDArray[Any]:
    """The values of one volume (x, y, z), or of one map over vertices (vertices,)."""
    checked_file(file)
    nibabel = nibabel_package()
    with reading(file):
        values = np.asanyarray(nibabel.load(file).dataobj)
    return values.reshape(-1) if values.shape[1:] in ((), (1,), (1, 1)) else values


def open_image(file: Path) -> Any:
    """An image of nibabel's whose values stay on disk, in one file that stays open."""
    checked_file(file)
    nibabel = nibabel_package()
    with reading(file):
        return nibabel.load(file, keep_file_open=True)
