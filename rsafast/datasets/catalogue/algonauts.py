"""The Algonauts challenges of 2019 and 2023."""

from __future__ import annotations

from rsafast.datasets.catalogue.entries import DataSet, Files, Layout, Length, Values
from rsafast.datasets.catalogue.nsd import FSAVERAGE, NSD

# Images, images and subjects; of MEG, samples before them: as HDF5 shows MATLAB's axes.
_FMRI: tuple[Length, ...] = (None, None, 15)
_MEG: tuple[Length, ...] = (None, None, None, 15)
_RDMS = (
    ("fMRI", "fmri", "RDMs of EVC and IT", {"EVC_RDMs": _FMRI, "IT_RDMs": _FMRI}),
    ("MEG", "meg", "RDMs of two intervals", {"MEG_RDMs_early": _MEG, "MEG_RDMs_late": _MEG}),
)

ALGONAUTS_2019 = DataSet(
    name="algonauts-2019",
    what="Algonauts 2019: RDMs of fMRI and MEG, 15 subjects, 92, 118 and 78 images",
    access="not stated",
    source="the site of the Algonauts challenge 2019; no address is recorded here",
    reader="rsafast.datasets.read_algonauts_2019, rsafast.datasets.read_algonauts_2019_meg",
    layouts=tuple(
        Layout(
            name=f"{name}{where}",
            files=(
                Files(
                    path=f"{folder}target_{kind}.mat", holds=holds, arrays=arrays, responses=True
                ),
            ),
        )
        for where, folder in (("", ""), (", a folder an image set", "{set}/"))
        for name, kind, holds, arrays in _RDMS
    ),
)

_SUBJECTS = tuple(NSD.subjects)
_TRAIN = dict.fromkeys(_SUBJECTS, 9_841)
_TRAIN |= dict.fromkeys(("subj03", "subj06"), 9_082)
_TRAIN |= dict.fromkeys(("subj04", "subj08"), 8_779)
_TEST = dict.fromkeys(_SUBJECTS, 159)
_TEST |= dict.fromkeys(("subj03", "subj06"), 293)
_TEST |= dict.fromkeys(("subj04", "subj08"), 395)
_VERTICES = dict.fromkeys(_SUBJECTS, (19_004, 20_544))  # left, right
_VERTICES |= {"subj06": (18_978, 20_220), "subj08": (18_981, 20_530)}


def _images(at: Values) -> int:
    return _TRAIN[at["subject"]]


def _vertices(at: Values) -> int:
    return _VERTICES[at["subject"]][at["hemisphere"] == "rh"]


ALGONAUTS_2023 = DataSet(
    name="algonauts-2023",
    what="Algonauts 2023: responses of NSD's 8 subjects on fsaverage, averaged",
    doi="10.48550/arXiv.2301.03198",
    access="form",
    source="a Google form on the site of the Algonauts challenge 2023",
    reader="rsafast.datasets.read_algonauts_2023",
    subjects=dict.fromkeys(_SUBJECTS, 0),
    layouts=(
        Layout(
            name="challenge",
            files=(
                Files(
                    path="{subject}/training_split/training_fmri/{hemisphere}_training_fmri.npy",
                    holds="responses, images × vertices",
                    arrays={"": (_images, _vertices)},
                    responses=True,
                ),
                Files(
                    path="{subject}/training_split/training_images/train-*_nsd-*.png",
                    holds="training images, whose names say which row is which",
                    counts=_TRAIN,
                ),
                Files(
                    path="{subject}/roi_masks/mapping_*.npy",
                    holds="names of the regions",
                ),
                Files(
                    path="{subject}/roi_masks/{hemisphere}.*_challenge_space.npy",
                    holds="regions of the vertices",
                    needed=False,
                    arrays={"": (_vertices,)},
                ),
                Files(
                    path="{subject}/roi_masks/{hemisphere}.*_fsaverage_space.npy",
                    holds="regions on fsaverage",
                    needed=False,
                    arrays={"": (FSAVERAGE,)},
                ),
                Files(
                    path="{subject}/test_split/test_images/test-*_nsd-*.png",
                    holds="test images",
                    needed=False,
                    counts=_TEST,
                ),
            ),
        ),
    ),
)
