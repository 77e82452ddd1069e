"""One RDM that stays on disk: created, and mapped to be read in parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray
from rsafast_kernels.atomic import PathInput

from rsafast._condensed import n_from_pairs, n_pairs, row_start
from rsafast.errors import InvalidInputError
from rsafast.io import hdf5
from rsafast.io.provenance import provenance
from rsafast.ondisk.work import no_room, not_kept, reserve
from rsafast.rdms import Label

_DATA = "dissimilarities"


@dataclass(frozen=True, slots=True)
class StoredRDM:
    """An RDM in a file, read where it is used (:func:`rsafast.open_rdm`).

    Attributes
    ----------
    path : the file.
    values : (pairs,) dissimilarities in squareform order, mapped: nothing is read until it is used.
    n_stimuli : number of stimuli n; pairs = n (n - 1) / 2.
    labels : (n,) stimulus ids, or None.
    name, measure : as of :class:`rsafast.RDMs`.
    descriptors : names and this RDM's values, of a file that :meth:`rsafast.RDMs.save` wrote.
    """

    path: Path
    values: np.memmap[Any, np.dtype[Any]] = field(repr=False)
    n_stimuli: int
    labels: tuple[Label, ...] | None = field(repr=False)
    name: str
    measure: str | None
    descriptors: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as a reference to the file, which the reader must reach under the same path."""
        where = (self.values.dtype, self.values.offset, len(self.values))
        known = (self.n_stimuli, self.labels, self.name, self.measure, self.descriptors)
        return _mapped, (self.path, *where, *known)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.values.dtype

    @property
    def step(self) -> int:
        """Any row may start what is read."""
        return 1

    @property
    def where(self) -> str:
        """What messages call it."""
        return str(self.path)

    @property
    def identity(self) -> str:
        """Changes with the file: its place, size, time of change, and which of its RDMs this is."""
        found = self.path.stat()
        place = str(self.path.resolve())
        return repr((place, found.st_size, found.st_mtime_ns, self.values.offset))

    @property
    def working_bytes(self) -> int:
        """Memory that reading takes beside what is read."""
        return 0

    def read_rows(self, first: int, last: int) -> NDArray[Any]:
        """Dissimilarities of the rows first..last with all stimuli after them, in memory."""
        return self.read(row_start(first, self.n_stimuli), row_start(last, self.n_stimuli))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Values start..stop in memory: of mapped ones, pages stay until the system needs them."""
        values = self.values
        offset = values.offset + start * values.itemsize
        return np.fromfile(self.path, values.dtype, stop - start, offset=offset)

    def rows(self, first: int, last: int) -> NDArray[Any]:
        """Dissimilarities of the stimuli first..last with all stimuli after them, row by row."""
        return self.values[row_start(first, self.n_stimuli) : row_start(last, self.n_stimuli)]


def open_rdm(path: PathInput, rdm: int = 0) -> StoredRDM:
    """Open one RDM of a file without reading its dissimilarities.

    Parameters
    ----------
    path : file that :func:`rsafast.compute_rdm_file`, :func:`rsafast.rank_rdm_file` or
        :meth:`rsafast.RDMs.save` wrote
    rdm : which one, from 0

    Raises
    ------
    InvalidInputError
        For a file that is missing, damaged or of another kind, and for an RDM that is not there.
    """
    found = open_rdms(path)
    if not 0 <= rdm < len(found):
        raise InvalidInputError(f"{path}: holds {len(found)} RDMs, numbered from 0; got {rdm}")
    return found[rdm]


def open_rdms(path: PathInput) -> list[StoredRDM]:
    """All RDMs of a file, as :func:`open_rdm` opens them."""
    with hdf5.read(path, "rdms") as file:
        data = file[_DATA]
        (count, pairs), dtype = data.shape, data.dtype
        n, offset = n_from_pairs(pairs), data.id.get_offset()
        fields = hdf5.read_fields(file, but=(_DATA,))
        descriptors = hdf5.read_fields(file["descriptors"])
        if n is None or offset is None:
            raise InvalidInputError(f"{path}: cannot be mapped; read it with RDMs.load")
        labels, name_of, measure = fields["labels"], fields["names"], fields["measure"]
    ids = None if labels is None else tuple(np.asarray(labels).tolist())
    starts = [offset + rdm * pairs * dtype.itemsize for rdm in range(count)]
    return [
        _mapped(
            Path(path), dtype, start, pairs, n, ids, name_of[rdm], measure,
            {key: values[rdm] for key, values in descriptors.items()},
        )
        for rdm, start in enumerate(starts)
    ]  # fmt: skip


def _mapped(
    path: Path,
    dtype: DTypeLike,
    start: int,
    pairs: int,
    n: int,
    labels: tuple[Label, ...] | None,
    name: str,
    measure: str | None,
    descriptors: Mapping[str, Any],
) -> StoredRDM:
    try:
        values = np.memmap(path, dtype, "r", start, (pairs,))
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{path}: cannot be read here ({error}); workers of a cluster need it on a disk that"
            " they share, under this path"
        ) from None
    return StoredRDM(path, values, n, labels, name, measure, descriptors)


def create_rdm(
    file: Path,
    dtype: DTypeLike,
    n: int,
    *,
    labels: tuple[Label, ...] | None,
    name: str,
    measure: str | None,
    target: PathInput,
) -> None:
    """Create the file of one RDM whose dissimilarities are still to be written.

    They lie in one piece, so that they can be written and mapped without HDF5: a kill in the middle
    of a write leaves the file as sound as before.

    Raises
    ------
    InvalidInputError
        Where the disk has no room for them; `target` is what the message calls the file.
    """
    shape, size = (1, n_pairs(n)), n_pairs(n) * np.dtype(dtype).itemsize
    try:
        with h5py.File(file, "w") as handle:
            hdf5.write_header(handle, "rdms")
            hdf5.write_fields(
                handle,
                {
                    "labels": labels,
                    "names": (name,),
                    "measure": measure,
                    "missing": "error",
                    "provenance": provenance(),
                },
            )
            handle.create_group("descriptors", track_order=True)
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            h5py.h5d.create(
                handle.id, _DATA.encode(), h5py.h5t.py_create(np.dtype(dtype)),
                h5py.h5s.create_simple(shape), layout,
            )  # fmt: skip
    except (OSError, RuntimeError) as error:  # h5py has no other word for a file that cannot grow
        raise no_room(file, size, target, error) from None
    reserve(file, data_offset(file), size, target)


def write_values(
    file: Path, values: NDArray[Any], offset: int, start: int, target: PathInput
) -> None:
    """Write dissimilarities from number `start` on, past HDF5, and wait for the disk.

    `offset` is the file's :func:`data_offset`.
    """
    try:
        with file.open("r+b") as handle:
            handle.seek(offset + start * values.itemsize)
            handle.write(values.data.cast("B"))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise not_kept(target, error) from None


def data_offset(file: Path) -> int:
    """Byte of the file at which the dissimilarities start."""
    with h5py.File(file, "r") as handle:
        return int(handle[_DATA].id.get_offset())
