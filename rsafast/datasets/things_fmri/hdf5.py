"""Responses of THINGS-fMRI in the .h5 files of its tables, in which a row is a voxel.

pandas wrote them, with its column names as pickles. The pickles are left alone: columns are the
trials in the order of their metadata, and the voxel ids beside them are compared with theirs.
"""

from __future__ import annotations

import re

import h5py
import numpy as np
from numpy.typing import NDArray

from rsafast.datasets.selection import stretches
from rsafast.datasets.things_fmri.layout import Files
from rsafast.datasets.things_fmri.tables import IntArray
from rsafast.datasets.things_fmri.trials import Wanted
from rsafast.datasets.things_fmri.voxels import Voxels
from rsafast.datasets.zscores import Moments
from rsafast.errors import InvalidInputError
from rsafast.io.hdf5 import open_hdf5
from rsafast.progress import track

_CHUNK_BYTES = 16 << 20  # responses read before trials are selected; z-scoring holds a few copies


def read_hdf5(files: Files, wanted: Wanted, voxels: Voxels, progress: bool) -> NDArray[np.float32]:
    """Read the chosen trials × chosen voxels."""
    path, rows, n_trials = files.responses, voxels.rows, len(wanted.trials)
    values = np.empty((len(wanted.chosen), len(rows)), np.float32)
    size = max(1, _CHUNK_BYTES // (8 * n_trials))
    buffer = np.empty((min(size, len(rows)), n_trials))
    with open_hdf5(path) as file, track(len(rows), "Reading voxels", progress) as advance:
        betas = _checked_betas(file, files, n_trials, voxels.ids)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            for own in stretches(part):
                betas.read_direct(buffer, np.s_[part[own.start] : part[own.stop - 1] + 1], own)
            done = _z_scored(buffer[: len(part)].T, wanted)
            wanted.check_finite(done, wanted.chosen, voxels.ids[part], path)
            values[:, start : start + len(part)] = done
            advance(len(part))
    return values


def _checked_betas(file: h5py.File, files: Files, n_trials: int, ids: IntArray) -> h5py.Dataset:
    """The dataset of the responses, once the file is known to fit both tables."""
    path, group = files.responses, file.get("ResponseData")
    held = {} if not isinstance(group, h5py.Group) else {
        name: item for name, item in group.items() if re.fullmatch(r"block\d+_values", name)
    }  # fmt: skip
    # pandas numbers its blocks in no fixed order; one is of floats, the voxel ids are whole.
    betas = [item for item in held.values() if item.dtype.kind == "f" and item.ndim == 2]
    stored = [item for item in held.values() if item.dtype.kind in "iu" and item.shape[1:] == (1,)]
    if len(held) != 2 or len(betas) != 1 or len(stored) != 1:
        said = ", ".join(f"{name} {item.shape} {item.dtype}" for name, item in held.items())
        raise InvalidInputError(
            f"{path}: expected ResponseData with one block of responses (voxels, trials) and one of"
            f" voxel ids (voxels, 1), as pandas writes it; it holds {said or list(file)}"
        )
    for what, found, expected, source in (
        ("voxels", betas[0].shape[0], len(ids), files.voxels),
        ("voxel ids", stored[0].shape[0], len(ids), files.voxels),
        ("trials", betas[0].shape[1], n_trials, files.trials),
    ):
        if found != expected:
            raise InvalidInputError(
                f"{path}: holds {found} {what}, but {source} lists {expected}; the files are of"
                " different subjects or releases"
            )
    own = stored[0][:, 0]
    other = np.flatnonzero(own != ids)
    if len(other):
        row = other[0]
        raise InvalidInputError(
            f"{path}: row {row} is voxel {own[row]}, but voxel {ids[row]} in {files.voxels};"
            " the files are of different subjects or releases"
        )
    return betas[0]


@np.errstate(invalid="ignore")  # what is not finite is refused by the caller
def _z_scored(values: NDArray[np.float64], wanted: Wanted) -> NDArray[np.float64]:
    """Chosen rows of (trials, channels), z-scored within their blocks."""
    chosen, blocks = wanted.chosen, wanted.blocks
    done = values[chosen]
    if blocks is None:
        return done
    for block in np.unique(blocks[chosen]):
        moments = Moments(values.shape[1:])
        moments.add(values[blocks == block])
        mean, spread = moments.mean_and_spread()
        own = blocks[chosen] == block
        done[own] = (done[own] - mean) / spread
    return done
