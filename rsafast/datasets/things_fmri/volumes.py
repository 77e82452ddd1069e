"""Responses of THINGS-fMRI in the files of its runs, in which a volume is a trial."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rsafast.datasets.things_fmri.layout import Files
from rsafast.datasets.things_fmri.tables import IntArray, read_header, read_table
from rsafast.datasets.things_fmri.trials import Wanted, stimulus_id
from rsafast.datasets.things_fmri.voxels import Voxels
from rsafast.datasets.zscores import Moments
from rsafast.errors import InvalidInputError
from rsafast.io.images import open_image, read_image, reading
from rsafast.progress import track


class _Run(NamedTuple):
    """Volumes of one run to read."""

    path: Path
    trials: IntArray
    volumes: IntArray  # ascending


def read_volumes(
    files: Files, wanted: Wanted, voxels: Voxels, progress: bool
) -> NDArray[np.float32]:
    """Read the chosen trials × chosen voxels."""
    trials, chosen, blocks = wanted
    shape, places = _voxel_places(files, voxels)
    needed = np.zeros(len(trials), bool)
    needed[chosen] = True
    if blocks is not None:
        needed = np.isin(blocks, blocks[chosen])
    runs = [
        _checked_run(files, own, int(session), int(run), shape)
        for (session, run), own in trials.groupby(["session", "run"])
        if needed[own["trial_id"]].any()
    ]
    values = np.empty((len(chosen), len(voxels.rows)), np.float32)
    row_of = np.full(len(trials), -1)
    row_of[chosen] = np.arange(len(chosen))
    moments: dict[int, Moments] = {}
    with track(len(runs), "Reading runs", progress) as advance:
        for run in runs:
            keep = needed[run.trials]
            betas = _run_betas(run.path, run.volumes[keep], places)
            wanted.check_finite(betas, run.trials[keep], voxels.ids[voxels.rows], run.path)
            rows = row_of[run.trials[keep]]
            values[rows[rows >= 0]] = betas[rows >= 0]
            if blocks is not None:
                block = int(blocks[run.trials[0]])
                moments.setdefault(block, Moments(betas.shape[1:])).add(betas)
            advance(1)
    for block, found in moments.items():
        mean, spread = found.mean_and_spread()
        # Row by row, so that the selection is not held a second time in double precision.
        for row in np.flatnonzero(blocks[chosen] == block):  # type: ignore[index]
            values[row] = (values[row] - mean) / spread
    return values


def _voxel_places(files: Files, voxels: Voxels) -> tuple[tuple[int, ...], IntArray]:
    """Shape of a volume, and (3, chosen) indices of the chosen voxels in it."""
    assert files.mask is not None
    assert voxels.xyz is not None
    mask = read_image(files.mask) > 0
    if mask.ndim != 3:
        raise InvalidInputError(f"{files.mask}: is {mask.shape}, expected three dimensions")
    # Whether indices count from 0 or 1 is not documented. Only one can fill the mask exactly.
    for first in (0, 1):
        index = voxels.xyz - first
        if ((index >= 0) & (index < mask.shape)).all():
            filled = np.zeros_like(mask)
            filled[tuple(index.T)] = True
            if np.array_equal(filled, mask):
                return mask.shape, index[voxels.rows].T
    inside = np.asarray((voxels.xyz < mask.shape).all(axis=1))
    inside[inside] = mask[tuple(voxels.xyz[inside].T)]
    outside = voxels.xyz[~inside][:1].tolist()
    said = f"voxel {voxels.ids[~inside][0]} at {outside[0]} lies outside of" if outside else (
        "the voxels leave a part empty of"
    )  # fmt: skip
    raise InvalidInputError(
        f"{files.voxels}: {said} the brain mask {files.mask}, which is {mask.shape} with"
        f" {int(mask.sum())} voxels (the table has {len(inside)}); the files are of different"
        " subjects or releases"
    )


def _checked_run(
    files: Files, trials: pd.DataFrame, session: int, run: int, shape: tuple[int, ...]
) -> _Run:
    """Where the trials of a run lie in its file; catch trials are left out."""
    name = f"{files.subject}_ses-things{session:02d}_run-{run:02d}"
    folder = files.responses / f"ses-things{session:02d}"
    conditions, path = folder / f"{name}_conditions.tsv", folder / f"{name}_betas.nii.gz"
    separator, _ = read_header(conditions, ["image_filename"])
    table = read_table(conditions, sep=separator, dtype=str, keep_default_na=False)
    shown = [stimulus_id(image) for image in table["image_filename"]]
    images = {
        volume: image for volume, image in enumerate(shown) if not re.fullmatch(r"catch\d+", image)
    }
    expected = sorted(trials["stimulus"])
    if sorted(images.values()) != expected or len(set(expected)) != len(expected):
        other = sorted(set(expected) ^ set(images.values()))
        raise InvalidInputError(
            f"{conditions}: lists {len(images)} images besides catch trials, {files.trials}"
            f" {len(expected)} for this run; they differ in {', '.join(other[:5]) or 'repeats'}"
        )
    image_shape = open_image(path).shape
    if image_shape != (*shape, len(shown)):
        raise InvalidInputError(
            f"{path}: is {image_shape}, expected {(*shape, len(shown))}: the shape of {files.mask}"
            f" and a volume for every row of {conditions.name}"
        )
    trial_of = dict(zip(trials["stimulus"], trials["trial_id"], strict=True))
    return _Run(path, np.array([trial_of[image] for image in images.values()]), np.array([*images]))


def _run_betas(path: Path, volumes: IntArray, places: IntArray) -> NDArray[np.float64]:
    """(volumes, voxels) of one run, a volume at a time from first to last."""
    betas = np.empty((len(volumes), places.shape[1]))
    with reading(path):
        data = open_image(path).dataobj
        for row, volume in enumerate(volumes):
            betas[row] = np.asarray(data[..., int(volume)])[tuple(places)]
    return betas
