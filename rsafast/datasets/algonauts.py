"""Readers of the Algonauts challenges: RDMs of 2019, responses to natural scenes of 2023."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput

from rsafast.datasets.nsd.design import stimulus_id
from rsafast.datasets.nsd.layout import SUBJECTS
from rsafast.datasets.responses import NOT_TOLD, Responses
from rsafast.datasets.selection import (
    Rois,
    check_choice,
    listed,
    region_members,
    rows_of,
    subject_name,
)
from rsafast.errors import InvalidInputError
from rsafast.io.files import checked_file
from rsafast.io.matlab import read_mat
from rsafast.io.numpy_files import read_npy
from rsafast.io.pickled import read_dictionary
from rsafast.io.readers import read_rdms
from rsafast.rdms import RDMs

_REGIONS = ("EVC", "IT")
_INTERVALS = ("early", "late")
_HEMISPHERES = ("lh", "rh")
_ALL = "all-vertices"
_UNIONS = {area: (f"{area}v", f"{area}d") for area in ("V1", "V2", "V3")}
_ROWS_AT_ONCE = 64

Split = Literal["training", "test"]
Mask = dict[str, NDArray[np.bool_]]  # hemisphere to (vertices,)


def read_algonauts_2019(
    path: PathInput, *, rois: Sequence[str] | None = None, stimuli: Sequence[str] | None = None
) -> RDMs:
    """Read the fMRI RDMs of Algonauts 2019: early visual and inferior temporal cortex.

    Parameters
    ----------
    path : ``target_fmri.mat`` of one image set (92, 118 or 78), MATLAB v7.3, keys ``EVC_RDMs`` and
        ``IT_RDMs``; or a folder with ``fmri_EVC_RDMs.npz`` and ``fmri_IT_RDMs.npz`` (key
        ``arr_0``), the form in which the 78 images' RDMs are passed on.
    rois : of "EVC" and "IT"; both by default.
    stimuli : ids of the images in the order of the RDMs, which is that of their sorted file names.
        The files hold none.

    Returns
    -------
    RDMs
        One a region and subject (15 as published), `measure` "correlation", descriptors "roi" and
        "subject" (1, 2, ...).

    Raises
    ------
    InvalidInputError
        A file that is missing, damaged or holds no RDMs of the region; an unknown region; `stimuli`
        of another number.

    Notes
    -----
    The score of the challenge is the mean over subjects of the squared Spearman correlation. The
    published noise ceilings, in that unit, for EVC and IT: .1589 and .3075 (92 images), .1048 and
    .0728 (118), .0640 and .0647 (78).
    """
    place = Path(path).expanduser()
    parts = []
    for roi in _chosen("rois", rois, _REGIONS):
        file, key = place, f"{roi}_RDMs"
        if place.is_dir():
            file, key = place / f"fmri_{roi}_RDMs.npz", "arr_0"
        read = read_rdms(file, key=key, labels=stimuli)
        subjects = list(range(1, read.n_rdms + 1))
        parts.append(
            RDMs.from_vectors(
                read.vectors,
                labels=read.labels,
                names=[f"{roi} subject {subject}" for subject in subjects],
                measure="correlation",
                descriptors={"roi": [roi] * len(subjects), "subject": subjects},
            )
        )
    return RDMs.concat(parts)


def read_algonauts_2019_meg(
    path: PathInput, *, intervals: Sequence[str] | None = None, stimuli: Sequence[str] | None = None
) -> RDMs:
    """Read the MEG RDMs of Algonauts 2019: an early and a late interval, sample by sample.

    Parameters
    ----------
    path : ``target_meg.mat`` of one image set; in MATLAB's order ``MEG_RDMs_early`` and
        ``MEG_RDMs_late`` are (subjects, samples, images, images).
    intervals : of "early" and "late"; both by default.
    stimuli : as for `read_algonauts_2019`.

    Returns
    -------
    RDMs
        One an interval, subject and sample, descriptors "interval", "subject" (1, 2, ...) and
        "time". The file does not tell milliseconds: "time" counts the samples of an interval from
        0. ``rf.time_courses(models, rdms[{"interval": "early"}])`` takes them.

    Raises
    ------
    InvalidInputError
        A file that is missing, damaged or of another shape; an unknown interval; `stimuli` of
        another number.

    Notes
    -----
    Numbers of subjects and samples are taken from the file. The score of the challenge averages
    the correlation over samples, then squares it. The published noise ceilings, early and late:
    .4634 and .2275 (92 images), .3468 and .2265 (118), .3562 and .4452 (78).
    """
    file = checked_file(path)
    parts = []
    for interval in _chosen("intervals", intervals, _INTERVALS):
        key = f"MEG_RDMs_{interval}"
        values = read_mat(file, key)[key].values
        if values is None or values.ndim != 4 or values.shape[2] != values.shape[3]:
            said = "no numbers" if values is None else f"an array {values.shape}"
            raise InvalidInputError(
                f"{file}: key {key!r} holds {said}; expected (subjects, samples, images, images) in"
                " MATLAB's order"
            )
        subjects, samples = values.shape[:2]
        each = [(subject + 1, time) for subject in range(subjects) for time in range(samples)]
        try:
            read = RDMs(
                values.reshape(-1, *values.shape[2:]),
                labels=stimuli,
                names=[f"{interval} subject {subject} sample {time}" for subject, time in each],
                descriptors={
                    "interval": [interval] * len(each),
                    "subject": [subject for subject, _ in each],
                    "time": [time for _, time in each],
                },
            )
        except InvalidInputError as error:
            raise InvalidInputError(f"{file} (key {key!r}): {error}") from None
        parts.append(read)
    return RDMs.concat(parts)


def _chosen(what: str, wanted: Sequence[str] | None, known: Sequence[str]) -> Sequence[str]:
    if wanted is None:
        return known
    unknown = [name for name in wanted if name not in known]
    if isinstance(wanted, str) or not len(wanted) or unknown:
        raise InvalidInputError(f"{what} must be a list of {listed(known)}, got {wanted!r}")
    return wanted


def read_algonauts_2023(
    root: PathInput,
    subject: str | int,
    rois: Rois,
    *,
    stimuli: Sequence[str] | None = None,
    split: Split = "training",
) -> Responses:
    """Read responses of Algonauts 2023 (Natural Scenes Dataset, vertices of both hemispheres).

    Parameters
    ----------
    root : folder that holds ``subj01`` ... ``subj08`` as the challenge ships them.
    subject : "subj01" or 1.
    rois : regions by their names in ``roi_masks/mapping_*.npy`` ("V1v", "FFA-1", "early", ...); V1,
        V2, V3 (ventral and dorsal); or "all-vertices" for the whole challenge space. A mapping
        unites several under a name: ``{"faces": ["FFA-1", "FFA-2"]}``. Regions are both hemispheres
        together.
    stimuli : ids to read, in that order; all by default. An id is "nsd" and the image's number in
        the Natural Scenes Dataset, counted from 0, as in the names of the image files: "nsd00013".
    split : "training", or "test" where the responses to the test images are there: participants'
        copies lack them.

    Returns
    -------
    Responses
        One row an image, z-scored per session and averaged over its repeats by the authors of the
        challenge. `channels` are "lh-0", "lh-1", ..., "rh-0", ...: positions in the challenge
        space. `noise_ceiling` is set for the test split where its files are there, in per cent (the
        files hold fractions).

    Raises
    ------
    InvalidInputError
        A missing or damaged file; another number of images than of rows; image files that were
        renamed or are missing; masks of another length than the responses; an unknown region or
        stimulus; no vertex in any region.

    Notes
    -----
    In which session and run an image was seen is not told, so `seen` holds (0, 0) and run masks
    cannot be made from these files; read the Natural Scenes Dataset itself for them. Images have
    one to three repeats, also not told.

    The files of responses are mapped, not loaded: memory is that of the rows and vertices asked
    for, plus a block. A region that is empty in this subject is named in `notes`; taking it with
    `Responses.roi` raises.

    Layout: Gifford et al. 2023, https://doi.org/10.48550/arXiv.2301.03198.
    """
    check_choice("split", split, get_args(Split))
    name = subject_name(subject, "subj", SUBJECTS)
    folder = _subject_folder(root, name)
    ids = _image_ids(folder, split)
    rows = rows_of(ids, stimuli, str(_images(folder, split)))
    fmri = {side: _fmri(folder, split, side, len(ids)) for side in _HEMISPHERES}
    sizes = {side: values.shape[1] for side, values in fmri.items()}
    regions = _regions(folder / "roi_masks", rois, sizes)
    union = {
        side: np.logical_or.reduce([mask[side] for mask in regions.values()])
        for side in _HEMISPHERES
    }
    if not any(mask.any() for mask in union.values()):
        raise InvalidInputError(
            f"{folder}: {listed(regions)} are empty in this subject; choose other regions"
        )
    empty = [roi for roi, mask in regions.items() if not any(m.any() for m in mask.values())]
    return Responses(
        values=_loaded(fmri, rows, union),
        stimuli=tuple(ids[row] for row in rows),
        subject=name,
        seen=(NOT_TOLD,) * len(rows),
        channels=np.array(
            [f"{side}-{vertex}" for side in _HEMISPHERES for vertex in np.flatnonzero(union[side])]
        ),
        rois={
            roi: np.concatenate([mask[side][union[side]] for side in _HEMISPHERES])
            for roi, mask in regions.items()
        },
        noise_ceiling=_noise_ceiling(folder, union) if split == "test" else None,
        units="z",
        notes=(
            "z-scored per session and averaged over repeats by the authors of the challenge",
            *(f"region {roi!r} is empty in this subject" for roi in empty),
        ),
        source={"data set": "Algonauts 2023", "folder": str(folder), "split": split},
    )


def algonauts_2023_stimuli(
    root: PathInput, subject: str | int, *, split: Split = "training"
) -> tuple[str, ...]:
    """Ids of the rows that `read_algonauts_2023` makes of the same arguments, by images alone.

    Raises
    ------
    InvalidInputError
        No folder of the subject; image files that were renamed or are missing.
    """
    check_choice("split", split, get_args(Split))
    folder = _subject_folder(root, subject_name(subject, "subj", SUBJECTS))
    return tuple(_image_ids(folder, split))


def _subject_folder(root: PathInput, subject: str) -> Path:
    folder = Path(root).expanduser()
    if not (folder / subject).is_dir():
        there = sorted(path.name for path in folder.glob("subj*")) if folder.is_dir() else []
        raise InvalidInputError(
            f"{folder}: holds no folder {subject!r}; it holds {listed(there)}; pass the folder that"
            " holds subj01, subj02, ..."
        )
    return folder / subject


def _images(folder: Path, split: Split) -> Path:
    return folder / f"{split}_split" / f"{split}_images"


def _image_ids(subject: Path, split: Split) -> list[str]:
    """Id of every image, in the order of the rows of the responses."""
    folder, prefix = _images(subject, split), "train" if split == "training" else "test"
    found = []
    for path in folder.glob("*.png"):
        if path.name.startswith("."):
            continue
        match = re.fullmatch(rf"{prefix}-(\d+)_nsd-(\d+)\.png", path.name)
        if match is None:
            raise InvalidInputError(
                f"{path}: is not named {prefix}-NUMBER_nsd-NUMBER.png, so its row is unknown; move"
                " it elsewhere"
            )
        found.append((int(match[1]), int(match[2])))
    if not found:
        raise InvalidInputError(f"{folder}: holds no images ({prefix}-*.png); unpack them there")
    found.sort()
    for place, (number, nsd) in enumerate(found, start=1):
        if number != place:
            raise InvalidInputError(
                f"{folder}: image {min(number, place)} is missing or there twice; its row cannot be"
                " told; unpack the images again"
            )
        if place > 1 and nsd <= found[place - 2][1]:
            raise InvalidInputError(
                f"{folder}: the nsd number of image {number} ({nsd}) is not above that of the image"
                " before, as in the published files; unpack the images again"
            )
    return [stimulus_id(nsd) for _, nsd in found]


def _fmri(folder: Path, split: Split, side: str, n_images: int) -> NDArray[Any]:
    path = folder / f"{split}_split" / f"{split}_fmri" / f"{side}_{split}_fmri.npy"
    if split == "test" and not path.exists():
        raise InvalidInputError(
            f"{path}: no such file; participants' copies of the challenge lack the responses to the"
            " test images"
        )
    values = _array(path, ndim=2)
    if len(values) != n_images:
        raise InvalidInputError(
            f"{path}: holds {len(values)} rows, but there are {n_images} images; rows and images"
            " must be of the same copy of the data"
        )
    return values


def _array(path: Path, ndim: int) -> NDArray[Any]:
    """The numbers of a .npy file, which stay on disk."""
    entry = read_npy(checked_file(path), None)[path.stem]
    if entry.values is None or entry.values.dtype.kind not in "biuf" or entry.values.ndim != ndim:
        raise InvalidInputError(
            f"{path}: holds {entry.said}; expected numbers in {ndim} dimensions"
        )
    return entry.values


def _per_vertex(path: Path, n_vertices: int) -> NDArray[Any]:
    values = _array(path, ndim=1)
    if len(values) != n_vertices:
        raise InvalidInputError(
            f"{path}: is of {len(values)} vertices, the responses are of {n_vertices}; one of the"
            " files is of another hemisphere, subject or space"
        )
    return values


def _regions(folder: Path, rois: Rois, sizes: Mapping[str, int]) -> dict[str, Mask]:
    """Mask of every region asked for, in the challenge space."""
    groups = region_members(rois, lambda name: _UNIONS.get(name, (name,)))
    labels = _labels(folder)
    unknown = [n for names in groups.values() for n in names if n not in labels and n != _ALL]
    if unknown:
        raise InvalidInputError(
            f"{folder}: has no region {listed(unknown)}; it has {', '.join(labels)} and {_ALL}"
        )
    codes: dict[str, dict[str, NDArray[Any]]] = {}  # every mask file is read once

    def members(name: str, side: str) -> NDArray[np.bool_]:
        if name == _ALL:
            return np.ones(sizes[side], dtype=bool)
        atlas, code = labels[name]
        if atlas not in codes:
            codes[atlas] = {
                s: _per_vertex(folder / f"{s}.{atlas}_challenge_space.npy", sizes[s])
                for s in _HEMISPHERES
            }
        return codes[atlas][side] == code

    return {
        group: {
            side: np.logical_or.reduce([members(name, side) for name in names])
            for side in _HEMISPHERES
        }
        for group, names in groups.items()
    }


def _labels(folder: Path) -> dict[str, tuple[str, int]]:
    """Name of every region to its atlas and its code there; code 0 is "Unknown"."""
    labels: dict[str, tuple[str, int]] = {}
    for path in sorted(folder.glob("mapping_*.npy")):
        atlas = path.stem.removeprefix("mapping_")
        for code, name in read_dictionary(path).items():
            if not isinstance(code, int | np.integer) or not isinstance(name, str):
                raise InvalidInputError(
                    f"{path}: maps {code!r} to {name!r}; expected numbers to names of regions"
                )
            if name in labels and code != 0:
                raise InvalidInputError(
                    f"{path}: region {name!r} is named in mapping_{labels[name][0]}.npy too"
                )
            if code != 0:
                labels[name] = atlas, int(code)
    if not labels:
        raise InvalidInputError(f"{folder}: holds no mapping_*.npy; unpack roi_masks there")
    return labels


def _loaded(
    fmri: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], union: Mask
) -> NDArray[np.float32]:
    """The rows and vertices asked for, one hemisphere beside the other."""
    columns = {side: np.flatnonzero(mask) for side, mask in union.items()}
    loaded = np.empty((len(rows), sum(map(len, columns.values()))), dtype=np.float32)
    first = 0
    for side, own in columns.items():
        part = loaded[:, first : first + len(own)]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            part[start : start + len(some)] = fmri[side][np.ix_(some, own)]
        first += len(own)
    return loaded


def _noise_ceiling(folder: Path, union: Mask) -> NDArray[np.float64] | None:
    """Per cent; the files hold fractions, and are not in participants' copies."""
    parent = folder / "test_split" / "noise_ceiling"
    if not parent.is_dir():
        return None
    fractions = [
        _per_vertex(parent / f"{side}_noise_ceiling.npy", len(mask))[mask]
        for side, mask in union.items()
    ]
    return 100 * np.concatenate(fractions).astype(np.float64)
