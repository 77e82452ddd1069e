"""The Natural Scenes Dataset: its files in each space, and those to fetch for some sessions."""

from __future__ import annotations

import re
from itertools import product

from rsafast.datasets.catalogue.entries import (
    HEMISPHERES,
    PLACEHOLDERS,
    DataSet,
    Download,
    Files,
    Layout,
    Length,
    Values,
)
from rsafast.errors import InvalidInputError

SERVER = "https://natural-scenes-dataset.s3.us-east-2.amazonaws.com/"
FSAVERAGE = 163_842  # vertices a hemisphere
_TRIALS = 750  # a session
_SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)
_SUBJECTS = {f"subj0{i}": sessions for i, sessions in enumerate(_SESSIONS, start=1)}
# X, Y and Z of the 1.8 mm volumes.
_DIMS = {
    "subj01": (81, 104, 83), "subj02": (82, 106, 84), "subj03": (81, 106, 82),
    "subj04": (85, 99, 80), "subj05": (79, 97, 78), "subj06": (85, 113, 83),
    "subj07": (78, 95, 81), "subj08": (80, 103, 78),
}  # fmt: skip
_NATIVE = {("subj01", "lh"): 227_021, ("subj01", "rh"): 226_601}  # vertices


def _dim(axis: int) -> Length:
    return lambda at: _DIMS[at["subject"]][axis]


def _native(at: Values) -> int | None:
    return _NATIVE.get((at["subject"], at["hemisphere"]))


# Axes of the channels of a space: x, y and z, or the vertices of a hemisphere.
_SPACES: dict[str, tuple[Length, ...]] = {
    "func1pt8mm": (_dim(0), _dim(1), _dim(2)),
    "func1mm": (None, None, None),
    "nativesurface": (_native,),
    "fsaverage": (FSAVERAGE,),
}
_ATLASES = ("Kastner2015", "HCP_MMP1", "streams", "nsdgeneral")
_LOCALISERS = (
    "prf-visualrois", "prf-eccrois", "floc-faces", "floc-bodies", "floc-places", "floc-words",
)  # fmt: skip
_DESIGN = (
    Files(
        path="nsddata/experiments/nsd/nsd_expdesign.mat",
        holds="which image each trial showed",
        arrays={"masterordering": (1, 30_000), "subjectim": (8, 10_000), "sharedix": (1, 1_000)},
    ),
    Files(
        path="nsddata/experiments/nsd/nsd_stim_info_merged.csv",
        holds="the 73,000 images: COCO id, shared or not",
        needed=False,
        columns=("cocoId", "nsdId", "shared1000"),
    ),
)
_STIMULI = Files(
    path="nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5",
    holds="the images",
    needed=False,
    arrays={"imgBrick": (73_000, 425, 425, 3)},
)


def _layout(space: str, ending: str) -> Layout:
    """The files of one space, with betas in .hdf5, .nii.gz or .mgh."""
    channels = _SPACES[space]
    surface = len(channels) == 1
    image: tuple[Length, ...] = (*channels, 1, 1) if surface else channels
    part = "{hemisphere}." if surface else ""
    folder = f"nsddata_betas/ppdata/{{subject}}/{space}/{{betas}}"
    return Layout(
        name=f"{space}, .{ending}",
        files=(
            *_DESIGN,
            Files(
                path=f"{folder}/{part}betas_session{{session}}.{ending}",
                holds="betas, % signal change" if ending == "mgh" else "betas, 300 times % change",
                # MATLAB writes columns first, so h5py sees the axes reversed.
                arrays={"betas": (_TRIALS, *channels[::-1])}
                if ending == "hdf5"
                else {"": (*image, _TRIALS)},
                responses=True,
            ),
            # Other files of FreeSurfer's lie beside the regions of a surface; of them only the
            # header is looked at.
            Files(
                path=f"{_label_folder(space)}/{part}*.mgz"
                if surface
                else f"nsddata/ppdata/{{subject}}/{space}/roi/*.nii.gz",
                holds="regions",
                arrays={} if surface else {"": image},
            ),
            Files(
                path=f"{folder}/{part}ncsnr.{'mgh' if surface else 'nii.gz'}",
                holds="noise ceiling signal-to-noise ratio",
                needed=False,
                arrays={"": image},
            ),
            _STIMULI,
        ),
    )


def _label_folder(space: str) -> str:
    return f"nsddata/freesurfer/{'fsaverage' if space == 'fsaverage' else '{subject}'}/label"


NSD = DataSet(
    name="nsd",
    what="Natural Scenes Dataset: 7T fMRI, 8 subjects, up to 30,000 trials each",
    doi="10.1038/s41593-021-00962-x",
    size="1.05 GB a session at 1.8 mm (subj01, uncompressed); images 39.6 GB",
    access="open",
    source="Amazon S3 bucket natural-scenes-dataset (us-east-2), anonymous",
    reader="rsafast.datasets.read_nsd",
    subjects=_SUBJECTS,
    layouts=(
        *(_layout(s, e) for s in ("func1pt8mm", "func1mm") for e in ("hdf5", "nii.gz")),
        _layout("nativesurface", "hdf5"),
        _layout("fsaverage", "mgh"),
    ),
)


def nsd_downloads(
    subject: str, sessions: tuple[int, ...], space: str, betas: str, stimuli: bool
) -> tuple[Download, ...]:
    """Files of the public bucket that the reader needs for these sessions.

    Raises
    ------
    InvalidInputError
        A subject, space, version of the betas or session that NSD does not have.
    """
    if subject not in _SUBJECTS:
        raise InvalidInputError(
            f"--subject {subject!r}: NSD has {', '.join(_SUBJECTS)}; name one of them"
        )
    if space not in _SPACES:
        raise InvalidInputError(f"--space {space!r}: choose one of {', '.join(_SPACES)}")
    if not re.fullmatch(PLACEHOLDERS["betas"], betas):
        raise InvalidInputError(
            f"--betas {betas!r}: expected betas_assumehrf (b1), betas_fithrf (b2) or "
            "betas_fithrf_GLMdenoise_RR (b3)"
        )
    absent = [session for session in sessions if not 1 <= session <= _SUBJECTS[subject]]
    if absent or not sessions:
        raise InvalidInputError(
            f"--sessions: {subject} has sessions 1 to {_SUBJECTS[subject]}, not "
            f"{', '.join(map(str, absent)) or 'none'}"
        )
    choices = {
        "subject": [subject],
        "betas": [betas],
        "session": [f"{session:02d}" for session in sorted(set(sessions))],
        "hemisphere": HEMISPHERES,
    }
    regions = (*_ATLASES, *(() if space == "fsaverage" else _LOCALISERS))
    labels = Files(path=f"{_label_folder(space)}/*.mgz.ctab", holds="names of the labels")
    found: list[Download] = []
    for files in (*_layout(space, "mgh" if space == "fsaverage" else "hdf5").files, labels):
        if files is _STIMULI and not stimuli:
            continue
        # Which regions and maps exist differs between spaces and subjects.
        needed = files.responses or files in (*_DESIGN, _STIMULI)
        for values in product(*(choices[key] for key in files.placeholders)):
            path = files.filled(dict(zip(files.placeholders, values, strict=True)))
            paths = [path.replace("*", name) for name in regions] if "*" in path else [path]
            found += [Download(name=p, url=SERVER + p, needed=needed) for p in paths]
    return tuple(found)
