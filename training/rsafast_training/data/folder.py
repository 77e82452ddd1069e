"""Folders of image files, one sub-folder a class (torchvision's ``ImageFolder``, Tiny ImageNet).

``train/<class>/...`` with ``val/<class>/...`` or ``test/<class>/...``; or ``<class>/...`` alone,
which is divided here. Images may lie deeper (Tiny ImageNet's ``train/<wnid>/images/``). A ``val``
with ``val_annotations.txt`` (file, class, box) is read by it. Classes are sorted by name. Hidden
files and files that are no images by their ending are passed over.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.errors import InvalidInputError

from rsafast_training.data.source import Pictures, Source, Split, random_split
from rsafast_training.images import decode_rgb

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"]
)
ANNOTATIONS = "val_annotations.txt"

Labelled = list[tuple[Path, str]]


def folder(root: Path, test_fraction: float, split_seed: int) -> Source:
    """Return the source of a folder; the file names are listed now, and nothing is decoded."""
    if not root.is_dir():
        raise InvalidInputError(f"{root}: is no folder; check the path")
    train_root = root / "train"
    train = _class_folders(train_root if train_root.is_dir() else root)
    classes = tuple(sorted({label for _, label in train}))
    test = _test_images(root, classes) if train_root.is_dir() else []
    files = [path for path, _ in (*train, *test)]

    def read() -> Pictures:
        images = _split(train, classes)
        if test:
            return Pictures(classes, images, _split(test, classes))
        return random_split(images, classes, str(root), test_fraction, split_seed)

    named = {path.relative_to(root).as_posix(): path for path in files}
    if test and (root / "val" / ANNOTATIONS).is_file():
        named[ANNOTATIONS] = root / "val" / ANNOTATIONS
    options = f"split {test_fraction} {split_seed}"
    return Source(root.resolve().name, str(root), named, read, options)


def _class_folders(root: Path) -> Labelled:
    """List the images below each sub-folder with its name."""
    labelled: Labelled = []
    for sub in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images = _images(sub)
        if not images:
            raise InvalidInputError(f"{sub}: is a class folder without images; fill or remove it")
        labelled += [(path, sub.name) for path in images]
    if not labelled:
        raise InvalidInputError(
            f"{root}: has no class folders; expected {root.name}/<class>/<image> or "
            f"{root.name}/train/<class>/<image>"
        )
    return labelled


def _images(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _test_images(root: Path, classes: tuple[str, ...]) -> Labelled:
    """List the held-out images: those of val/, or of test/ where there is no val/."""
    for held_out in (root / "val", root / "test"):
        if not held_out.is_dir():
            continue
        if (held_out / ANNOTATIONS).is_file():
            labelled = _annotated(held_out)
        else:
            labelled = _class_folders(held_out)
        unknown = sorted({label for _, label in labelled} - set(classes))
        if unknown:
            raise InvalidInputError(
                f"{held_out}: the class {unknown[0]!r} is not among the {len(classes)} of "
                f"{root / 'train'}; add training images of it, or sort the images into the "
                "class folders of train/"
            )
        return labelled
    return []


def _annotated(held_out: Path) -> Labelled:
    """Read Tiny ImageNet's list: file name, class and box, separated by tabs."""
    listing = held_out / ANNOTATIONS
    labelled: Labelled = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        path = held_out / "images" / fields[0]
        if len(fields) < 2:
            raise InvalidInputError(
                f"{listing}, line {number}: expected a file name, a tab and a class, got {line!r}"
            )
        if not path.is_file():
            raise InvalidInputError(
                f"{listing}, line {number}: the image {path} does not exist; unpack the archive "
                "again"
            )
        labelled.append((path, fields[1]))
    return labelled


def _split(labelled: Labelled, classes: tuple[str, ...]) -> Split:
    position = {label: i for i, label in enumerate(classes)}
    paths = [path for path, _ in labelled]

    def image(i: int) -> NDArray[np.uint8]:
        return decode_rgb(paths[i], str(paths[i]))

    labels = np.array([position[label] for _, label in labelled], np.int64)
    return Split(labels, image, lambda i: str(paths[i]))
