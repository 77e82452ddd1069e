"""Whether one file is whole, judged by its size, its header and its last bytes.

Nothing large is read. The one exception is a .gz file whose last bytes contradict its header: it is
decompressed to its end, so that a sound file is never called damaged. Each check imports what it
needs, so that the others need not wait for it.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from rsafast.datasets.catalogue.entries import Files, Values
from rsafast.errors import InvalidInputError

Shape: TypeAlias = tuple[int | None, ...]  # None where no length is published

AGAIN = "remove it and get it again"
_TAIL = 1 << 16  # bytes at the end of a table or after the voxels of an image
_BLOCK = 1 << 20
# A pickled dictionary ends in SETITEM(S) or, inside an array, in BUILD; then comes STOP.
_PICKLE_ENDS = (b"s.", b"u.", b"b.")


class Damaged(Exception):
    """A file that is not what was published.

    Attributes
    ----------
    what : is wrong with it; do : what a person can do.
    """

    def __init__(self, what: str, do: str = AGAIN) -> None:
        super().__init__(what)
        self.what, self.do = what, do


def check_header(path: Path, files: Files, at: Values) -> None:
    """Check one file against what is known of its kind.

    Parameters
    ----------
    path : of the file; files : its kind; at : what the placeholders of its path stand for.

    Raises
    ------
    Damaged
        It is empty, cut, cannot be opened, or holds arrays or columns other than published.
    BackendUnavailableError
        For images of the brain, where nibabel is not installed.
    """
    size = path.stat().st_size
    if size == 0:
        raise Damaged("is empty")
    if files.size is not None and size != files.size:
        raise Damaged(f"has {size:,} bytes, published are {files.size:,}")
    if size < files.at_least:
        raise Damaged(f"has {size:,} bytes, less than the {files.at_least:,} of its values")
    check = _CHECKS.get(_ending(path))
    if check is None:
        return
    try:
        check(path, files.shapes(at), files.columns)
    except InvalidInputError as error:
        raise Damaged(str(error).removeprefix(f"{path}: ")) from None
    except OSError as error:
        raise Damaged(f"cannot be read ({error})", "check its permissions and the disk") from None


def _ending(path: Path) -> str:
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


def _compare(name: str, shape: tuple[int, ...], published: Shape) -> None:
    fits = len(shape) == len(published) and all(
        expected in (None, length) for length, expected in zip(shape, published, strict=True)
    )
    if not fits:
        axes = " × ".join("any" if length is None else str(length) for length in published)
        found = " × ".join(map(str, shape)) or "a single value"
        raise Damaged(f"{name or 'its array'} is {found}, published is {axes}")


def _hdf5(path: Path, arrays: Mapping[str, Shape], _: tuple[str, ...]) -> None:
    import h5py

    from rsafast.io.hdf5 import open_hdf5

    with open_hdf5(path) as file:
        for name, shape in arrays.items():
            dataset = file.get(name)
            if not isinstance(dataset, h5py.Dataset):
                raise Damaged(f"holds no dataset {name!r}; it holds {', '.join(file) or 'nothing'}")
            _compare(name, dataset.shape or (), shape)


def _matlab(path: Path, arrays: Mapping[str, Shape], columns: tuple[str, ...]) -> None:
    """MATLAB 7.3 is HDF5. Older files are small here, and whole only if all of it can be read."""
    import h5py
    from scipy.io import loadmat

    if h5py.is_hdf5(path):
        _hdf5(path, arrays, columns)
        return
    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises many kinds on damaged bytes
        raise Damaged(f"is truncated or no MATLAB file ({error})") from None
    for name, shape in arrays.items():
        if name not in content:
            raise Damaged(f"holds no variable {name!r}")
        _compare(name, content[name].shape, shape)


def _npy(path: Path, arrays: Mapping[str, Shape], _: tuple[str, ...]) -> None:
    from rsafast.io.numpy_files import npy_header

    with path.open("rb") as file:
        try:
            header = npy_header(file)
        except ValueError as error:
            raise Damaged(f"has a damaged header ({error})") from None
        start = file.tell()
    # Some releases give plain pickles the name of an array.
    if header is None or header[1].hasobject:
        _pickle(path, arrays, ())
        return
    shape, dtype = header
    announced = start + math.prod(shape) * dtype.itemsize
    if path.stat().st_size != announced:
        raise Damaged(
            f"has {path.stat().st_size:,} bytes, its header announces {announced:,}"
            f" ({' × '.join(map(str, shape))} {dtype})"
        )
    for published in arrays.values():
        _compare("", shape, published)


def _pickle(path: Path, _: Mapping[str, Shape], __: tuple[str, ...]) -> None:
    """Look at the last two bytes alone: nothing of a pickle is run here."""
    if _last_bytes(path, 2) not in _PICKLE_ENDS:
        raise Damaged("does not end as a pickle of a dictionary ends; it is cut or another file")


def _last_bytes(path: Path, number: int) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(number, path.stat().st_size), os.SEEK_END)
        return file.read()


def _image(path: Path, arrays: Mapping[str, Shape], _: tuple[str, ...]) -> None:
    """NIfTI and MGH, compressed or not."""
    from rsafast.io.images import nibabel_package

    nibabel = nibabel_package()
    try:
        image = nibabel.load(path)
        proxy = image.dataobj
        shape = tuple(int(length) for length in proxy.shape)  # of MGH they are 32-bit integers
        ends = int(proxy.offset) + math.prod(shape) * proxy.dtype.itemsize
    except Exception as error:  # nibabel and zlib raise many kinds on damaged bytes
        raise Damaged(f"has no readable image header ({error})") from None
    there = _gzip_length(path, ends) if path.suffix in (".gz", ".mgz") else path.stat().st_size
    if there < ends:
        raise Damaged(f"holds {there:,} bytes, its header announces {ends:,}")
    for published in arrays.values():
        _compare("", shape, published)


def _gzip_length(path: Path, expected: int) -> int:
    """Bytes after decompression.

    The last four bytes of a gzip file are its length modulo 2^32. Where they fit what the header
    announces, and perhaps a few tags behind it, they are believed.
    """
    last = int.from_bytes(_last_bytes(path, 4), "little")
    surplus = (last - expected) % 2**32
    if surplus < _TAIL:
        return expected + surplus
    length = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(_BLOCK):
                length += len(block)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Damaged("is cut: its compressed data end too early") from None
    return length


def _table(path: Path, _: Mapping[str, Shape], columns: tuple[str, ...]) -> None:
    """Header of a table, and whether its last row is whole."""
    from rsafast.io.text import table_header

    separator, header = table_header(path)
    last_lines = _last_bytes(path, _TAIL).decode("utf-8", "replace").splitlines()
    try:
        last = next(csv.reader([last_lines[-1]], delimiter=separator), [])
    except csv.Error as error:
        raise Damaged(f"has a damaged last row ({error})") from None
    absent = [column for column in columns if column not in header]
    if absent:
        raise Damaged(f"has no column {', '.join(map(repr, absent))}")
    if last == header:
        raise Damaged("holds a header and no rows")
    if len(last) != len(header):
        raise Damaged(f"is cut: its last row has {len(last)} of {len(header)} cells")


_CHECKS: Mapping[str, Callable[[Path, Mapping[str, Shape], tuple[str, ...]], None]] = {
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".mat": _matlab,
    ".npy": _npy,
    ".nii": _image,
    ".nii.gz": _image,
    ".mgh": _image,
    ".mgz": _image,
    ".csv": _table,
    ".tsv": _table,
    "": _pickle,  # the Python version of CIFAR-10
    ".meta": _pickle,
}
