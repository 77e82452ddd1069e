"""The stage that says which images a study uses, and in what order: the brain's, as a rule."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rsafast_kernels.atomic import write_text

from rsafast.datasets.selection import listed
from rsafast.errors import InvalidInputError
from rsafast.study.embedded import digit_images
from rsafast.study.recipe import Algonauts2023, Measured, Nsd, RdmFiles, RdmFolder, Recipe
from rsafast.study.sources import measured_stimuli, source_hash, source_rdms
from rsafast.study.stage import Stage, file_hash, located

if TYPE_CHECKING:
    from rsafast_training.stimuli import Stimuli

STIMULI, _ORDER = "stimuli", "order.txt"
# train-0001_nsd-00013.png of Algonauts 2023, and shared0001_nsd02951.png, which counts from 1.
_NSD_FILE = re.compile(
    r"((train|test)-\d+_nsd-(?P<from0>\d{5})|shared\d{4}_nsd(?P<from1>\d{5}))(\.\w+)?"
)


class Images(NamedTuple):
    """The images of a study: the stage that says which, in what order, and about how many."""

    stage: Stage
    number: int


def find_images(recipe: Recipe, base: Path) -> Images:
    """Find the images of a study and what orders them; none is decoded.

    Measured stimuli are named by a design, which is read here: the stage depends on the names
    alone, so that another metric or region lets networks see no image again.

    Raises
    ------
    InvalidInputError
        Stimuli of the brain that have no image; an order that names others than the brain's.
    """
    asked, brain = recipe.stimuli, recipe.brain
    labels = measured_stimuli(brain, base) if isinstance(brain, Measured) else None
    digits = asked.images == "digits"
    found: Sequence[str] = digit_images()[1] if digits else _ordered(recipe, base, labels).labels

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        order = found
        if isinstance(brain, RdmFiles | RdmFolder):
            order = _order_of_rdms(recipe, brain, base)
        write_text(folder / _ORDER, "".join(f"{label}\n" for label in order))

    if digits:
        return Images(Stage(STIMULI, work, {"images": "digits"}), len(found))
    files = [asked.images, *([] if asked.order is None else [asked.order])]
    settings: dict[str, Any] = {
        "images": [file_hash(located(base, file)) for file in files], "key": asked.key,
        "brain": {"source": brain.source},
    }  # fmt: skip
    if labels is None:
        settings["brain"] |= brain.model_dump(mode="json", exclude={"path", "files"})
        settings["brain"]["files"] = source_hash(brain, base)
    else:
        settings["brain"]["labels"] = hashlib.sha256("\n".join(labels).encode()).hexdigest()
    return Images(Stage(STIMULI, work, settings), len(found))


def read_images(recipe: Recipe, base: Path, folder: Path, needs: Mapping[str, Path]) -> Stimuli:
    """The images in their order, the embedded ones by way of a file in the stage's folder."""
    from rsafast_training.stimuli import read_stimuli

    asked, order = recipe.stimuli, read_order(needs)
    if asked.images != "digits":
        return read_stimuli(
            located(base, asked.images), order=order, key=asked.key, stimulus_id=_ids(recipe)
        )
    pixels, labels = digit_images()
    np.savez(folder / "digits.npz", images=pixels, labels=np.array(labels))
    return read_stimuli(folder / "digits.npz", order=order)


def read_order(needs: Mapping[str, Path]) -> list[str]:
    """Labels of the images, as the stage wrote them."""
    text = (needs[STIMULI] / _ORDER).read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n")


def _order_of_rdms(recipe: Recipe, brain: RdmFiles | RdmFolder, base: Path) -> Sequence[str]:
    """Labels of the images in the order of RDMs; where these have none, the numbers must agree."""
    rdms = source_rdms(brain, base)
    said = None if rdms.labels is None else [str(label) for label in rdms.labels]
    images = _ordered(recipe, base, said)
    if rdms.n_stimuli != len(images):
        raise InvalidInputError(
            f"the brain's RDMs have {rdms.n_stimuli} stimuli and no labels, the images are"
            f" {len(images)}; choose the images, and their order, with stimuli.order"
        )
    return images.labels


def _ordered(recipe: Recipe, base: Path, labels: Sequence[str] | None) -> Stimuli:
    """The images in the order of the file, else of the brain's labels, else in their own."""
    from rsafast_training.stimuli import read_stimuli

    asked = recipe.stimuli
    order = labels if asked.order is None else located(base, asked.order)
    try:
        images = read_stimuli(
            located(base, asked.images), order=order, key=asked.key, stimulus_id=_ids(recipe)
        )
    except InvalidInputError as error:
        if asked.order is None and str(error).startswith("order: "):
            raise InvalidInputError(
                f"{error} (as stimuli.order is absent, the order is that of the brain's stimuli)"
            ) from None
        raise
    brain, seen = set(labels or images.labels), set(images.labels)
    unseen, unmeasured = sorted(brain - seen), sorted(seen - brain)
    if unseen or unmeasured:
        raise InvalidInputError(
            f"{len(unseen)} stimuli of the brain are not in stimuli.order ({listed(unseen)}), and"
            f" {len(unmeasured)} that are in it are not of the brain ({listed(unmeasured)}); leave"
            " it out to take the brain's"
        )
    return images


def _ids(recipe: Recipe) -> Any:
    """What makes labels of the paths of images; None for their stems."""
    return _nsd_id if isinstance(recipe.brain, Nsd | Algonauts2023) else None


def _nsd_id(name: str) -> str:
    """NsdId, from 0, of the names that images of NSD are given: see docs/training/features.md."""
    match = _NSD_FILE.fullmatch(name.rpartition("/")[2])
    if match is None:
        return name
    return f"nsd{match['from0']}" if match["from0"] else f"nsd{int(match['from1']) - 1:05d}"
