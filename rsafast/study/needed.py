"""The data that a study names, and a word on what is missing: what, where from, how large."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rsafast.datasets.catalogue import data_set
from rsafast.errors import InvalidInputError
from rsafast.study.recipe import Measured, RdmFiles, RdmFolder, Recipe
from rsafast.study.sources import rdm_file
from rsafast.study.stage import located

_CATALOGUED = {
    "cifar10": "cifar-10", "things-fmri": "things-fmri", "things-eeg": "things-eeg2", "nsd": "nsd",
    "algonauts-2023": "algonauts-2023",
}  # fmt: skip
_IMAGES = {
    "things-fmri": "the folder object_images of the THINGS database (osf.io/jum2f, 26,107 images)",
    "things-eeg": "the folder test_images or training_images of THINGS-EEG2 (osf.io/3jk45)",
    "nsd": "nsd_stimuli.hdf5 (39.6 GB): rsafast data fetch nsd --stimuli",
    "algonauts-2023": "the images of the subject, which come with the responses",
}


def check_data(recipe: Recipe, base: Path) -> None:
    """Raise for data that are not there, all of them at once.

    Raises
    ------
    InvalidInputError
        Naming each path with the key of the file that asks for it, what belongs there, where it
        comes from and how large it is.
    """
    missing = [f"{key} = {path}, {what}" for key, path, what in _needed(recipe, base)
               if not path.exists()]  # fmt: skip
    if missing:
        raise InvalidInputError(f"data of this study are missing: {'; '.join(missing)}")


def _needed(recipe: Recipe, base: Path) -> Iterator[tuple[str, Path, str]]:
    """Key, path and description of all data but weights of networks, which are a file a network."""
    kind, colon, path = recipe.networks.data.partition(":")
    if colon and recipe.networks.weights is None:
        yield "networks.data", located(base, path), _described(kind, located(base, path))
    if recipe.networks.control_images is not None:
        where = located(base, recipe.networks.control_images)
        yield "networks.control_images", where, "training images, or a sample of them"
    stimuli, brain = recipe.stimuli, recipe.brain
    if stimuli.images != "digits":
        what = _IMAGES.get(brain.source, "the images that networks and brains saw")
        yield "stimuli.images", located(base, stimuli.images), what
    if stimuli.order is not None:
        yield "stimuli.order", located(base, stimuli.order), "a text file of labels, one a line"
    if isinstance(brain, Measured):
        where = located(base, brain.path)
        yield "brain.path", where, _described(brain.source, where)
    if isinstance(brain, RdmFolder):
        yield "brain.path", located(base, brain.path), "a folder of RDMs"
    if isinstance(brain, RdmFiles):
        for region, spec in brain.files.items():
            yield f"brain.files.{region}", rdm_file(spec, base)[0], "a file of RDMs"


def _described(kind: str, path: Path) -> str:
    """What a data set is, in the words of the catalogue."""
    if kind not in _CATALOGUED:
        return "images for training"
    known = data_set(_CATALOGUED[kind])
    fetched = known.downloads or known.name == "nsd"
    how = f"rsafast data fetch {known.name} --to {path}" if fetched else known.source
    return f"{known.what} ({known.size}; access: {known.access}): {how}"
