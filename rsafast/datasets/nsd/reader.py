"""`read_nsd`: the responses of one subject of the Natural Scenes Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput

from rsafast.datasets.nsd.betas import check_betas, read_betas
from rsafast.datasets.nsd.design import TRIALS, nsd_design, stimulus_id
from rsafast.datasets.nsd.layout import Layout, layout_of, session_files
from rsafast.datasets.nsd.rois import Regions, read_regions
from rsafast.datasets.nsd.selection import Selection, select
from rsafast.datasets.responses import Responses, Seen
from rsafast.datasets.selection import Rois, ranges
from rsafast.errors import InvalidInputError
from rsafast.io.images import read_image
from rsafast.progress import track


def read_nsd(
    root: PathInput,
    subject: str | int,
    rois: Rois,
    *,
    space: str = "func1pt8mm",
    betas: str = "betas_fithrf_GLMdenoise_RR",
    stimuli: Sequence[str] | str | None = None,
    sessions: Sequence[int] | None = None,
    z_score: bool = True,
    average: bool = True,
    min_repeats: int = 1,
    progress: bool = True,
) -> Responses:
    """Read the responses of one subject in some regions.

    Only the channels of the regions are kept, session by session, so that peak memory is the
    result and one session of the regions. The layout is that of the NSD Data Manual
    (cvnlab.slite.page); nibabel is needed (``pip install "rsafast[data]"``).

    Parameters
    ----------
    root : folder that holds ``nsddata`` and ``nsddata_betas``, as in the published bucket.
    subject : "subj01" or 1.
    rois : str, sequence of str, or mapping
        A region is a file with all its labels above 0 ("nsdgeneral"), one label of a file by name
        or number ("prf-visualrois/V1v", "HCP_MMP1/18"), or V1, V2, V3 (ventral and dorsal) and hV4
        of prf-visualrois. "lh." or "rh." in front takes one hemisphere. A mapping unites several
        under a name: ``{"early": ["V1", "V2"]}``. Names of labels come from the file's .ctab where
        there is one, else from the documented tables; ``source["labels"]`` says which.
    space : {"func1pt8mm", "func1mm", "nativesurface", "fsaverage"}
        Volumes are read from .hdf5, or .nii.gz where that lies alone; of surfaces both hemispheres
        are joined, the left one first. The prf and floc regions are not published for fsaverage.
    betas : folder of the version of the betas, for example "betas_assumehrf" or "betas_fithrf".
    stimuli : sequence of str, "shared1000", "shared515" or None
        Ids such as "nsd02950", **counted from 0**: the nsdId of nsd_stim_info_merged.csv, the row
        in nsd_stimuli.hdf5. The names of the shared1000 images count from 1
        (shared0001_nsd02951.png is "nsd02950"). "shared1000" takes those of the 1000 shared images
        that were shown in the sessions used. "shared515" takes, of these, the ones planned three
        times in the first 30 sessions, the fewest that a subject completed: the manual counts 515
        that everyone saw three times. By default every image shown.
    sessions : those to use, counted from 1; by default all on disk, which may be fewer than the 40
        planned but must have no hole.
    z_score : subtract from each channel the mean, and divide by the standard deviation (of n), over
        all 750 trials of the session, whatever stimuli are selected, as is usual with these data.
        If False, values stay in per cent signal change.
    average : average the repeats of each image. The rows are then in the order of `stimuli` where
        that names them, else by nsdId. If False, rows are trials in the order measured.
    min_repeats : images shown fewer times in the sessions used are left out and counted in `notes`;
        for one that `stimuli` names it is an error.
    progress : show a bar on stderr after a second.

    Returns
    -------
    Responses
        `channels` are "x-y-z", the indices of the voxel in the NIfTI volumes counted from 0, or
        "lh-12345", the hemisphere and the vertex counted from 0. `seen` has (session, run) of every
        presentation. `noise_ceiling`, if averaged, is the share of variance in per cent that
        stimuli can explain, 100 ncsnr² / (ncsnr² + mean(1/n)) with the n presentations averaged
        here. ncsnr is the published one beside the betas, made of z-scored betas of all sessions;
        without its file there is no ceiling, and a note.

        Channels without data in a session (0, or any other constant, throughout; NaN or infinite
        anywhere) are in no region; `notes` counts them. Sessions that hold no selected trial are
        not read.

    Raises
    ------
    InvalidInputError
        A folder, file, region, session or stimulus that is missing; files that are damaged or do
        not fit each other; no channel with data.
    BackendUnavailableError
        Where nibabel is not installed.

    Examples
    --------
    >>> responses = read_nsd("nsd", 1, ["V1", "floc-faces/FFA-1"])  # doctest: +SKIP
    >>> responses.rdms(metric="correlation")  # doctest: +SKIP
    """
    layout = layout_of(root, subject, space)
    folder = layout.betas_folder(betas)
    files, planned, selection = _chosen(layout, folder, sessions, stimuli, min_repeats)
    rows = selection.rows(average)
    read = set(selection.trials["session"])
    used = {session: of_session for session, of_session in files.items() if session in read}
    regions = read_regions(layout, rois)
    for of_session in used.values():
        for file, shape in zip(of_session, regions.shapes, strict=True):
            check_betas(file, shape)
    ceiling, note = _noise_ceiling(folder, layout, regions, selection) if average else (None, None)

    values, has_data = _read_values(used, regions, selection.trials, rows, z_score, progress)
    if not has_data.any():
        raise InvalidInputError(
            f"{folder}: none of the {len(has_data)} channels of {', '.join(regions.masks)} has data"
            f" in every one of the sessions {ranges(used)}"
        )
    if average:
        values /= np.bincount(rows).astype(np.float32)[:, None]
    return Responses(
        values=_columns(values, has_data),
        stimuli=tuple(stimulus_id(i) for i in selection.ids_of_rows(average)),
        subject=layout.subject,
        seen=_seen(selection.trials, rows),
        channels=_channel_ids(layout, regions)[has_data],
        rois={name: mask[has_data] for name, mask in regions.masks.items()},
        noise_ceiling=None if ceiling is None else ceiling[has_data],
        units="z" if z_score else "% signal change",
        notes=(
            f"sessions {ranges(files)} of {planned} planned, read: {ranges(used)}",
            *(_note_of_roi(name, mask, has_data) for name, mask in regions.masks.items()),
            *(["z-scored per channel over all trials of each session"] if z_score else []),
            *selection.notes(average, min_repeats),
            *([] if note is None else [note]),
        ),
        source={
            "data set": "Natural Scenes Dataset (doi 10.1038/s41593-021-00962-x)",
            "folder": str(folder), "space": space, "betas": betas, "sessions": list(used),
            "labels": dict(regions.named_by),
        },
    )  # fmt: skip


def nsd_stimuli(
    root: PathInput,
    subject: str | int,
    *,
    space: str = "func1pt8mm",
    betas: str = "betas_fithrf_GLMdenoise_RR",
    stimuli: Sequence[str] | str | None = None,
    min_repeats: int = 1,
) -> tuple[str, ...]:
    """Ids of the rows that `read_nsd` makes of the same arguments, from the design alone.

    Raises
    ------
    InvalidInputError
        As `read_nsd`, for what the design and the names of the files of betas show.
    """
    layout = layout_of(root, subject, space)
    folder = layout.betas_folder(betas)
    _, _, selection = _chosen(layout, folder, None, stimuli, min_repeats)
    return tuple(stimulus_id(i) for i in selection.ids)


def _chosen(
    layout: Layout,
    folder: Path,
    sessions: Sequence[int] | None,
    stimuli: Sequence[str] | str | None,
    min_repeats: int,
) -> tuple[dict[int, tuple[Path, ...]], int, Selection]:
    """Files of the sessions used, how many sessions were planned, and the trials to return."""
    design = nsd_design(layout.root, layout.subject)
    planned = int(design["session"].max())
    files = session_files(folder, layout.kind, sessions, planned)
    return files, planned, select(design, list(files), stimuli, min_repeats, layout.subject)


def _read_values(
    files: dict[int, tuple[Path, ...]],
    regions: Regions,
    trials: pd.DataFrame,
    rows: NDArray[np.int64],
    z_score: bool,
    progress: bool,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Sum of the trials of each row, and which channels have data in every session."""
    bounds = np.cumsum([0, *map(len, regions.channels)])
    values = np.zeros((int(rows.max()) + 1, bounds[-1]), np.float32)
    has_data = np.ones(bounds[-1], bool)
    block = np.empty((TRIALS, bounds[-1]), np.float32)
    session_of, trial_of = trials["session"].to_numpy(), trials["trial"].to_numpy() - 1
    with track(len(files), "sessions", progress) as advance:
        for session, of_session in files.items():
            for part, (file, own) in enumerate(zip(of_session, regions.channels, strict=True)):
                if len(own):
                    into = block[:, bounds[part] : bounds[part + 1]]
                    read_betas(file, regions.shapes[part], own, into)
            has_data &= _prepared(block, z_score)
            for i in np.flatnonzero(session_of == session):
                values[rows[i]] += block[trial_of[i]]
            advance(1)
    return values, has_data


def _prepared(block: NDArray[np.float32], z_score: bool) -> NDArray[np.bool_]:
    """Standardise a session in place; channels without data become 0 and are False here."""
    finite = np.isfinite(block).all(axis=0)
    block[:, ~finite] = 0
    varies = block.max(axis=0) > block.min(axis=0)
    if z_score:
        block -= block.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = np.sqrt(np.square(block).mean(axis=0, dtype=np.float64))
        block /= np.where(varies, spread, 1).astype(np.float32)
    return varies


def _columns(values: NDArray[np.float32], keep: NDArray[np.bool_]) -> NDArray[np.float32]:
    """`values[:, keep]`, moved together in the memory that `values` has."""
    if keep.all():
        return values
    kept, flat = np.flatnonzero(keep), values.reshape(-1)
    for row in range(len(values)):
        flat[row * len(kept) : (row + 1) * len(kept)] = values[row, kept]
    return flat[: len(values) * len(kept)].reshape(len(values), len(kept))


def _seen(trials: pd.DataFrame, rows: NDArray[np.int64]) -> tuple[Seen, ...]:
    seen: list[set[tuple[int, int]]] = [set() for _ in range(int(rows.max()) + 1)]
    for row, session, run in zip(rows, trials["session"], trials["run"], strict=True):
        seen[row].add((int(session), int(run)))
    return tuple(map(frozenset, seen))


def _channel_ids(layout: Layout, regions: Regions) -> NDArray[Any]:
    if layout.kind.is_volume:
        places = np.unravel_index(regions.channels[0], regions.shapes[0], order="F")
        return np.array([f"{x}-{y}-{z}" for x, y, z in zip(*places, strict=True)])
    by_part = zip(layout.kind.parts, regions.channels, strict=True)
    return np.array([f"{prefix[:2]}-{vertex}" for prefix, own in by_part for vertex in own])


def _noise_ceiling(
    folder: Path, layout: Layout, regions: Regions, selection: Selection
) -> tuple[NDArray[np.float64] | None, str]:
    """Explainable variance in per cent with the repeats that are averaged, and a note."""
    files = [folder / f"{prefix}ncsnr{layout.kind.ncsnr}" for prefix in layout.kind.parts]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        return None, f"no noise ceiling: {', '.join(missing)} is not beside the betas"
    parts = []
    for file, shape, own in zip(files, regions.shapes, regions.channels, strict=True):
        ncsnr = read_image(file)
        if ncsnr.shape != shape:
            raise InvalidInputError(f"{file}: is of shape {ncsnr.shape}, the regions of {shape}")
        parts.append(ncsnr.ravel(order="F")[own].astype(np.float64))
    signal = np.concatenate(parts) ** 2
    noise = float(np.mean(1 / selection.repeats()))
    return (
        100 * signal / (signal + noise),
        f"noise ceiling for the repeats averaged: 100 ncsnr² / (ncsnr² + {noise:.4g})",
    )


def _note_of_roi(name: str, mask: NDArray[np.bool_], has_data: NDArray[np.bool_]) -> str:
    lost = int((mask & ~has_data).sum())
    left = f", {lost} left out that have no data in a session" if lost else ""
    return f"{name}: {int(mask.sum())} channels{left}"
