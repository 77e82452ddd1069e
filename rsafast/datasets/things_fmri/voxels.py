"""The voxels of THINGS-fMRI: which regions hold them, where they lie, their noise ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rsafast.datasets.selection import Rois, region_members
from rsafast.datasets.things_fmri.layout import Files
from rsafast.datasets.things_fmri.tables import (
    IntArray,
    check_subject,
    read_header,
    read_table,
    whole_numbers,
)
from rsafast.errors import InvalidInputError

_UNIONS = {
    **{
        name: [f"l{name}", f"r{name}"]
        for name in ("EBA", "FFA", "OFA", "STS", "PPA", "RSC", "TOS", "LOC")
    },
    "V4": ["hV4"],
}
_XYZ = ["voxel_x", "voxel_y", "voxel_z"]
_CEILINGS = ["nc_singletrial", "nc_testset"]
_NO_REGIONS = {
    "voxel_id", "subject_id", *_XYZ, *_CEILINGS, "splithalf_uncorrected", "splithalf_corrected",
    "prf-eccentricity", "prf-polarangle", "prf-rsquared", "prf-size",
}  # fmt: skip


class Voxels(NamedTuple):
    """The voxel metadata: all ids, and what is asked for of the chosen voxels."""

    ids: IntArray
    rows: IntArray  # of the chosen voxels, ascending
    rois: dict[str, NDArray[np.bool_]]  # over the chosen voxels
    ceilings: Mapping[str, NDArray[np.float64]]  # of the chosen voxels
    xyz: IntArray | None  # (all, 3)


def read_voxels(files: Files, rois: Rois | None) -> Voxels:
    """Read the voxel metadata of the voxels in some regions; of all for None."""
    path = files.voxels
    xyz = _XYZ if files.layout == "volume" else []
    separator, header = read_header(path, ["voxel_id", *xyz])
    regions = {} if rois is None else _region_columns(rois, header, path)
    columns = {column for own in regions.values() for column in own}
    wanted = {"voxel_id", "subject_id", *xyz, *_CEILINGS, *columns}
    table = read_table(path, sep=separator, usecols=[name for name in header if name in wanted])
    check_subject(table, files.subject, path)
    ids = whole_numbers(table, "voxel_id", path)
    if len(np.unique(ids)) != len(ids) or not len(ids):
        raise InvalidInputError(
            f"{path}: lists {len(np.unique(ids))} different voxel ids in {len(ids)} rows, expected"
            " every voxel once; download it again"
        )
    masks = {
        name: np.logical_or.reduce([_is_in(table, column, path) for column in own])
        for name, own in regions.items()
    }
    chosen = np.logical_or.reduce(list(masks.values())) if masks else np.ones(len(ids), bool)
    if not chosen.any():
        raise InvalidInputError(
            f"{path}: no voxel of {files.subject} is in {', '.join(masks)}; choose other regions"
        )
    rows = np.flatnonzero(chosen)
    return Voxels(
        ids=ids,
        rows=rows,
        rois={name: mask[rows] for name, mask in masks.items()},
        ceilings={
            name: pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)[rows]
            for name in _CEILINGS
            if name in table
        },
        xyz=np.stack([whole_numbers(table, name, path) for name in xyz], axis=1) if xyz else None,
    )


def _region_columns(rois: Rois, header: Sequence[str], path: Path) -> dict[str, list[str]]:
    """Columns of every region that is asked for."""
    # Two names are published with a line break in the middle; both spellings are understood.
    known = {name.replace("\n", ""): name for name in header if name not in _NO_REGIONS}

    def expanded(name: str) -> list[str]:
        plain = name.replace("\n", "")
        return [plain] if plain in known else _UNIONS.get(plain, [plain])

    asked = region_members(rois, expanded)
    for name, columns in asked.items():
        for column in columns:
            if column not in known:
                raise _unknown_region(name, column, known, path)
    return {name: [known[column] for column in columns] for name, columns in asked.items()}


def _unknown_region(
    name: str, column: str, known: Mapping[str, str], path: Path
) -> InvalidInputError:
    """Error that lists the columns: those of the atlas only to who asked for one of them."""
    atlas = [known_name for known_name in known if known_name.startswith("glasser-")]
    others = [known_name for known_name in known if known_name not in atlas]
    listed = atlas if column.startswith("glasser") else others
    more = f" and {len(atlas)} named 'glasser-...'" if listed is others and atlas else ""
    return InvalidInputError(
        f"{path}: region {name!r} needs the column {column!r}; there are {', '.join(listed)}{more}."
        " A mapping unites several: {name: [columns]}"
    )


def _is_in(table: pd.DataFrame, column: str, path: Path) -> NDArray[np.bool_]:
    """Which voxels a 0/1 column marks."""
    values = pd.to_numeric(table[column], errors="coerce")
    bad = np.flatnonzero(~values.isin([0, 1]))
    if len(bad):
        raise InvalidInputError(
            f"{path}: column {column!r} holds {table[column].iloc[bad[0]]} in row {bad[0] + 1},"
            " expected the 0 or 1 of a region; choose another column or download it again"
        )
    return values.to_numpy() == 1
