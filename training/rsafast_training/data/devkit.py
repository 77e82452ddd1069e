"""ImageNet-1k (ILSVRC2012): what its development kit says of the classes and of the flat ``val/``.

``ILSVRC2012_devkit_t12/data/`` holds ``meta.mat``, a list of synsets, of which those without
children are the classes, and ``ILSVRC2012_validation_ground_truth.txt``, whose line i is the
ILSVRC2012_ID of ``ILSVRC2012_val_<i>.JPEG``. These numbers start at 1 and follow an order of the
kit's own: they are no positions among the sorted WordNet ids, which number the classes here and
in torchvision.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from rsafast_kernels.errors import InvalidInputError

FOLDER = Path("ILSVRC2012_devkit_t12", "data")
FILES = META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)


def is_flat(names: list[str]) -> bool:
    """Whether these files of ``val/`` are validation images that lie in no class folder."""
    return any(_IMAGE.fullmatch(name) for name in names)


def flat_classes(val: Path, names: list[str], root: Path) -> list[str]:
    """Return the WordNet id of every image of a flat ``val/``.

    Parameters
    ----------
    val : the folder, for errors.
    names : file names of the images in it.
    root : of the data set, where the development kit was unpacked.

    Raises
    ------
    InvalidInputError
        Without the two files of the kit; for images that are none of ILSVRC2012's, missing ones,
        and numbers that are no class.
    """
    kit = root / FOLDER
    if not ((kit / META).is_file() and (kit / TRUTH).is_file()):
        raise InvalidInputError(
            f"{val}: holds {len(names):,} images and no class folders. Their classes are in two "
            f"files of ILSVRC2012_devkit_t12.tar.gz, {META} and {TRUTH}; unpack it in {root}, so "
            f"that both are in {kit}, or sort the images into class folders"
        )
    matches = [_IMAGE.fullmatch(name) for name in names]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) < len(names):
        strange = names[matches.index(None)]
        raise InvalidInputError(
            f"{val / strange}: is no ILSVRC2012_val_<number>.JPEG, so its class is unknown; remove "
            "it, or sort all images into class folders"
        )
    wnids = _true_classes(kit)
    expected = set(range(1, len(wnids) + 1))
    wrong = sorted(expected.symmetric_difference(numbers))
    if wrong or len(numbers) != len(wnids):
        raise InvalidInputError(
            f"{val}: holds {len(numbers):,} images, and {kit / TRUTH} the classes of "
            f"{len(wnids):,}; number {(wrong or numbers)[0]} is not in both once; unpack the "
            "archive again"
        )
    return [wnids[number - 1] for number in numbers]


def _true_classes(kit: Path) -> list[str]:
    """WordNet ids of validation images 1, 2, ..."""
    classes = _leaves(kit / META)
    wnids = []
    text = (kit / TRUTH).read_text(encoding="ascii", errors="replace")
    for line, number in enumerate(text.split(), start=1):
        if not number.isdecimal() or int(number) not in classes:
            raise InvalidInputError(
                f"{kit / TRUTH}, line {line}: {number!r} is the ILSVRC2012_ID of none of the "
                f"{len(classes):,} classes of {META}; unpack the development kit again"
            )
        wnids.append(classes[int(number)][0])
    return wnids


def words(root: Path) -> dict[str, str]:
    """Return the words of ``meta.mat`` by WordNet id; nothing without the development kit."""
    meta = root / FOLDER / META
    return dict(_leaves(meta).values()) if meta.is_file() else {}


def _leaves(meta: Path) -> dict[int, tuple[str, str]]:
    """WordNet id and words by ILSVRC2012_ID, of synsets without children."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, variable_names=["synsets"], squeeze_me=True)["synsets"]
        return {
            int(synset["ILSVRC2012_ID"]): (str(synset["WNID"]), str(synset["words"]))
            for synset in np.atleast_1d(synsets)
            if int(synset["num_children"]) == 0
        }
    except Exception as error:  # a damaged MATLAB file can raise anything
        raise InvalidInputError(
            f"{meta}: is not the readable {META} of ILSVRC2012_devkit_t12 ({error}); unpack it "
            "again"
        ) from None
