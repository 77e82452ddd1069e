"""HDF5 files of rsafast: atomic writes, checked reads, and plain fields (docs/format.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import h5py
import numpy as np
from rsafast_kernels.atomic import PathInput, replacing

from rsafast.errors import InvalidInputError, RsafastError
from rsafast.io.files import checked_file

FORMAT = 1
Kind: TypeAlias = Literal[
    "bootstrap_result", "permutation_result", "rdms", "searchlight_result", "trajectory"
]

# Numeric datasets of at least this many values are compressed (lossless, readable everywhere).
_COMPRESS_FROM = 1 << 14
_TEXT = h5py.string_dtype("utf-8")


def write_atomic(path: PathInput, fill: Callable[[h5py.File], None]) -> None:
    """Write an HDF5 file that is there whole or not at all.

    Parameters
    ----------
    path : file to write; one that exists is replaced at the end, and kept on any failure
    fill : function that writes the content into the open file

    Raises
    ------
    InvalidInputError
        Where the folder cannot be written, or the disk fills up.
    """
    with replacing(path) as temporary, h5py.File(temporary, "x") as file:
        fill(file)


@contextmanager
def open_hdf5(path: PathInput) -> Iterator[h5py.File]:
    """Open any HDF5 file for reading; whatever h5py finds wrong names the file."""
    file_path = checked_file(path)
    try:
        with h5py.File(file_path, "r") as file:
            yield file
    except RsafastError:
        raise
    except KeyError as error:
        raise InvalidInputError(f"{path}: lacks a part it should hold: {error.args[0]}") from None
    # Damaged bytes also surface as text that is no UTF-8 or JSON, and as types h5py cannot map.
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise InvalidInputError(
            f"{path}: is no readable HDF5 file (truncated, damaged or another format): {error}"
        ) from error


@contextmanager
def read(path: PathInput, kind: Kind) -> Iterator[h5py.File]:
    """Open a file of rsafast, after a check of its version and of what it holds.

    Raises
    ------
    InvalidInputError
        For a file that is missing, damaged, not ours, of a newer format, or of another kind.
    """
    with open_hdf5(path) as file:
        version = file.attrs.get("rsafast_format")
        if version is None:
            raise InvalidInputError(
                f"{path}: was not written by rsafast; RDMs of other tools open with "
                "rsafast.io.read_rdms"
            )
        if int(version) > FORMAT:
            raise InvalidInputError(
                f"{path}: has format {int(version)}, this rsafast reads up to {FORMAT}; upgrade it"
            )
        found = file.attrs.get("rsafast_kind")
        if found != kind:
            raise InvalidInputError(f"{path}: holds {found!r}, expected {kind!r}")
        yield file


def write_header(file: h5py.File, kind: Kind) -> None:
    """Mark `file` as ours: the attributes that :func:`read` checks."""
    file.attrs["rsafast_format"] = FORMAT
    file.attrs["rsafast_kind"] = kind


def write_fields(group: h5py.Group, fields: Mapping[str, Any]) -> None:
    """Write each field as one dataset of `group`.

    Numbers, bools and numeric arrays are stored as they are; a str, and a sequence of str, as
    UTF-8; None as an empty dataspace; a dict as JSON (attribute ``encoding`` = "json").
    :func:`read_fields` gives them back, with two changes: a sequence of str becomes a tuple, and
    sequences inside a dict become lists.

    Raises
    ------
    InvalidInputError
        For a value of any other kind.
    """
    for name, value in fields.items():
        try:
            _write_field(group, name, value)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"field {name!r} cannot be stored in HDF5: {error}") from None


def _write_field(group: h5py.Group, name: str, value: Any) -> None:
    if not name or "/" in name:
        raise ValueError("its name must not be empty or hold '/'")
    if value is None:
        group.create_dataset(name, data=h5py.Empty("f8"))
    elif isinstance(value, Mapping):
        text = json.dumps(value, default=_plain, ensure_ascii=False)
        group.create_dataset(name, data=text, dtype=_TEXT).attrs["encoding"] = "json"
    elif isinstance(value, str):
        group.create_dataset(name, data=str(value), dtype=_TEXT)
    else:
        _write_array(group, name, value)


def _write_array(group: h5py.Group, name: str, value: Any) -> None:
    array = np.asarray(value)
    texts = array.dtype.kind == "U" or (isinstance(value, list | tuple) and not value)
    if texts and array.ndim == 1:
        group.create_dataset(name, data=array.astype(object), dtype=_TEXT)
    elif array.dtype.kind in "biuf":
        large = array.size >= _COMPRESS_FROM and array.dtype.kind in "biu"
        group.create_dataset(name, data=array, compression="gzip" if large else None)
    else:
        raise TypeError(f"dtype {array.dtype} of shape {array.shape} is not one of the kinds held")


def _plain(value: Any) -> Any:
    """What JSON has for a NumPy scalar or array."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} inside a dict has no JSON form")


def read_fields(group: h5py.Group, but: Collection[str] = ()) -> dict[str, Any]:
    """Read every dataset of `group` that :func:`write_fields` wrote, `but` these.

    Subgroups are left out.
    """
    return {
        name: _read_field(item)
        for name, item in group.items()
        if isinstance(item, h5py.Dataset) and name not in but
    }


def _read_field(dataset: h5py.Dataset) -> Any:
    if dataset.shape is None:
        return None
    if h5py.check_string_dtype(dataset.dtype) is not None:
        value = dataset.asstr("utf-8")[()]
        if dataset.shape:
            return tuple(value.tolist())
        return json.loads(value) if dataset.attrs.get("encoding") == "json" else value
    value = dataset[()]
    return value.item() if dataset.shape == () else value
