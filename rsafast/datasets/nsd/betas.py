"""Betas of one session, for chosen channels alone: the rest is streamed past or never read.

A session has 750 trials. HDF5 files hold int16 in (trials, z, y, x), one channel's trials a chunk;
NIfTI files int16 in (x, y, z, trials), compressed as one stream; MGH files float32 in
(vertices, 1, 1, trials).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rsafast.datasets.nsd.design import TRIALS
from rsafast.datasets.selection import stretches
from rsafast.errors import InvalidInputError
from rsafast.io.files import checked_file
from rsafast.io.hdf5 import open_hdf5
from rsafast.io.images import nibabel_package, reading

_SCALE = 300  # int16 values of one per cent signal change
_BLOCK = 1 << 20  # bytes of an image held at once, but at least one trial


def check_betas(file: Path, shape: tuple[int, ...]) -> None:
    """Refuse a file whose head shows that it does not hold 750 trials of this space.

    Raises
    ------
    InvalidInputError
        A file that is missing, damaged, of another shape or another type of number.
    """
    if file.suffix == ".hdf5":
        with _open_hdf5(file, shape):
            return
    with _open_image(file, shape):
        return


def read_betas(
    file: Path, shape: tuple[int, ...], channels: NDArray[np.int64], into: NDArray[np.float32]
) -> None:
    """Read the betas of some channels, in per cent signal change.

    Parameters
    ----------
    file : of one session (and hemisphere).
    shape : (x, y, z) or (vertices,) that it must have.
    channels : ascending flat places; the first axis of `shape` runs fastest.
    into : (750, channels), is filled.
    """
    if file.suffix == ".hdf5":
        with _open_hdf5(file, shape) as betas:
            for index, place in _pieces(channels, shape):
                into[:, place] = betas[(slice(None), *index)]
    else:
        with _open_image(file, shape) as (values, handle):
            _stream(values, channels, into)
            # gzip compares its checksum at the end; an .mgh may hold tags there.
            if file.suffix == ".gz" and handle.read(1):
                raise InvalidInputError(f"{file}: goes on after its last trial; fetch it again")
    if file.suffix != ".mgh":
        into /= _SCALE


@contextmanager
def _open_hdf5(file: Path, shape: tuple[int, ...]) -> Iterator[h5py.Dataset]:
    with open_hdf5(file) as handle:
        betas = handle["betas"]
        # MATLAB wrote (x, y, z, trials); HDF5 has the axes in reverse.
        _check(file, betas.shape, (TRIALS, *shape[::-1]))
        _check(file, betas.dtype.name, "int16")
        yield betas


@contextmanager
def _open_image(file: Path, shape: tuple[int, ...]) -> Iterator[tuple[Any, Any]]:
    """The array of a NIfTI or MGH file, read where it is indexed, and the stream it comes from."""
    checked_file(file)
    nibabel = nibabel_package()
    surface = file.suffix == ".mgh"
    opened, image = (open, nibabel.MGHImage) if surface else (gzip.open, nibabel.Nifti1Image)
    with reading(file), opened(file, "rb") as handle:
        values = image.from_stream(handle).dataobj
        _check(file, values.shape, (*shape, 1, 1, TRIALS) if surface else (*shape, TRIALS))
        _check(file, values.dtype.name, "float32" if surface else "int16")
        _check(file, (values.slope, values.inter), (1, 0))
        size = values.offset + int(np.prod(values.shape)) * values.dtype.itemsize
        if surface and file.stat().st_size < size:
            raise InvalidInputError(f"{file}: is truncated; fetch it again")
        yield values, handle


def _check(file: Path, found: Any, expected: Any) -> None:
    if found != expected:
        raise InvalidInputError(
            f"{file}: holds betas of shape, type or scaling {found}, expected {expected}; the"
            " regions may be of another subject or space, or the file needs fetching again"
        )


def _pieces(
    channels: NDArray[np.int64], shape: tuple[int, ...]
) -> Iterator[tuple[tuple[Any, ...], slice]]:
    """Channels that adjoin along the first axis: HDF5 index, and place in `channels`."""
    row, x = np.divmod(channels, shape[0])
    # A gap after every row keeps the end of one apart from the start of the next.
    for place in stretches(channels + row):
        outer = np.unravel_index(row[place.start], shape[:0:-1]) if len(shape) > 1 else ()
        run = slice(int(x[place.start]), int(x[place.stop - 1]) + 1)
        yield (*map(int, outer), run), place


def _stream(values: Any, channels: NDArray[np.int64], into: NDArray[np.float32]) -> None:
    """Fill `into` from an image, a block of trials after another, in one pass."""
    size = int(np.prod(values.shape[:-1]))
    step = max(1, _BLOCK // (size * values.dtype.itemsize))
    for first in range(0, TRIALS, step):
        block = np.asarray(values[..., first : first + step])
        into[first : first + step] = block.reshape(size, -1, order="F")[channels].T
