"""RDMs in the HDF5 format of rsafast, and out of the HDF5 files of rsatoolbox."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rsafast.errors import InvalidInputError
from rsafast.io import hdf5
from rsafast.io.provenance import provenance
from rsafast.rdms import Missing, RDMs

HDF5_SUFFIXES = (".h5", ".hdf5")


def save_rdms(rdms: RDMs, path: hdf5.PathInput) -> None:
    """Write `rdms` to an HDF5 file (docs/format.md), whole or not at all.

    Raises
    ------
    InvalidInputError
        For a name that does not end in .h5 or .hdf5, and for a folder that cannot be written.
    """
    check_suffix(path)

    def fill(file: h5py.File) -> None:
        hdf5.write_header(file, "rdms")
        hdf5.write_fields(
            file,
            {
                "dissimilarities": rdms.vectors,
                "labels": rdms.labels,
                "names": rdms.names,
                "measure": rdms.measure,
                "missing": rdms.missing,
                "provenance": provenance(),
            },
        )
        hdf5.write_fields(file.create_group("descriptors", track_order=True), rdms.descriptors)

    hdf5.write_atomic(path, fill)


def check_suffix(path: hdf5.PathInput) -> None:
    """Raise for a name that does not say HDF5."""
    if Path(path).suffix.lower() not in HDF5_SUFFIXES:
        raise InvalidInputError(f"{path}: RDMs are saved as HDF5; choose a name ending in .h5")


def load_rdms(path: hdf5.PathInput) -> RDMs:
    """Read RDMs that :func:`save_rdms` wrote.

    Raises
    ------
    InvalidInputError
        For a file that is missing, damaged, of another kind or of a newer format.
    """
    with hdf5.read(path, "rdms") as file:
        fields = hdf5.read_fields(file)
        descriptors = hdf5.read_fields(file["descriptors"])
        try:
            return RDMs.from_vectors(
                fields["dissimilarities"],
                labels=fields["labels"],
                names=fields["names"],
                measure=fields["measure"],
                descriptors=descriptors,
                missing=fields["missing"],
            )
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: {error}") from None


def is_rsatoolbox(file: h5py.File) -> bool:
    """Whether an open file holds an RDMs object of rsatoolbox."""
    return "dissimilarities" in file and "pattern_descriptors" in file


def load_rsatoolbox(file: h5py.File, labels: str | None, missing: Missing) -> RDMs:
    """RDMs of an open HDF5 file that ``rsatoolbox.rdm.RDMs.save`` wrote."""
    content = _read_group(file)
    return RDMs.from_rsatoolbox(
        _TheirRDMs(
            content["dissimilarities"],
            content.get("dissimilarity_measure"),
            content.get("descriptors", {}),
            content.get("rdm_descriptors", {}),
            content.get("pattern_descriptors", {}),
        ),
        labels=labels,
        missing=missing,
    )


@dataclass(frozen=True, slots=True)
class _TheirRDMs:
    """The attributes of rsatoolbox's RDMs that the conversion reads."""

    dissimilarities: Any
    dissimilarity_measure: str | None
    descriptors: dict[str, Any]
    rdm_descriptors: dict[str, Any]
    pattern_descriptors: dict[str, Any]


def _read_group(group: h5py.Group) -> dict[str, Any]:
    """A group of rsatoolbox as a dict: strings are attributes or fixed-length bytes."""
    content: dict[str, Any] = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in group.attrs.items()
    }
    for key, item in group.items():
        if isinstance(item, h5py.Group):
            content[key] = _read_group(item)
        elif item.shape is None:
            content[key] = None
        elif item.dtype.kind in "SO":
            content[key] = item.asstr("utf-8")[()].tolist() if item.shape else item.asstr()[()]
        else:
            content[key] = item[()]
    return content
