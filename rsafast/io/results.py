"""Results in files: everything to HDF5 (docs/format.md), the table to CSV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rsafast.errors import InvalidInputError

if TYPE_CHECKING:
    import h5py
    import pandas as pd

    from rsafast.io.hdf5 import Kind

T = TypeVar("T")


class Tabular(Protocol):
    """A result that has a table."""

    def to_dataframe(self) -> pd.DataFrame:
        """Return the table."""
        ...


def save_result(
    result: Tabular, path: str | Path, kind: Kind, fill: Callable[[h5py.File], None] | None = None
) -> None:
    """Write a result, whole or not at all: to .h5 or .hdf5, its table to .csv.

    Parameters
    ----------
    result : a dataclass with a table.
    kind : of the file; with blanks for underscores, what errors call it.
    fill : function that writes the content; by default every field by its name.

    Raises
    ------
    InvalidInputError
        The ending of `path` is none of these, or the folder cannot be written.
    """
    path = Path(path)
    if path.suffix == ".csv":
        from rsafast_kernels.atomic import write_text

        write_text(path, result.to_dataframe().to_csv(index=False, lineterminator="\n"))
    elif path.suffix in (".h5", ".hdf5"):
        from rsafast.io import hdf5

        def content(file: h5py.File) -> None:
            hdf5.write_header(file, kind)
            if fill is None:
                hdf5.write_fields(file, {n: getattr(result, n) for n in field_names(result)})
            else:
                fill(file)

        hdf5.write_atomic(path, content)
    else:
        raise InvalidInputError(
            f"{path}: a {kind.replace('_', ' ')} is saved as .h5, .hdf5 or .csv, not as "
            f"{path.suffix or 'a name without an ending'!r}"
        )


def load_result(cls: type[T], path: str | Path, kind: Kind) -> T:
    """Read a result of class `cls` that :func:`save_result` wrote field by field.

    Raises
    ------
    InvalidInputError
        The file is missing, no HDF5 file, holds something else, or lacks a field.
    """
    from rsafast.io import hdf5

    with hdf5.read(path, kind) as file:
        values = hdf5.read_fields(file)
    check_fields(cls, values, path)
    return cls(**{name: values[name] for name in field_names(cls)})


def check_fields(
    cls: type[Any], values: dict[str, Any], path: str | Path, without: tuple[str, ...] = ()
) -> None:
    """Raise where a file lacks fields of `cls` other than those `without`."""
    missing = [name for name in field_names(cls) if name not in (*values, *without)]
    if missing:
        raise InvalidInputError(f"{path}: lacks the fields {', '.join(missing)}")


def field_names(result: Any) -> list[str]:
    """Names of the fields of a dataclass, or of one of its objects."""
    return [f.name for f in fields(result)]
