"""Folders of image files, one sub-folder a class (torchvision's ``ImageFolder``, Tiny ImageNet).

``train/<class>/...`` with ``val/<class>/...`` or ``test/<class>/...``; or ``<class>/...`` alone,
which is divided here. Images may lie deeper (Tiny ImageNet's ``train/<wnid>/images/``). A ``val``
with ``val_annotations.txt`` (file, class, box) is read by it, the flat ``val`` of ImageNet-1k by
its development kit (`devkit`). Classes are numbered by the sorted names of their folders, whatever
the order of ``wnids.txt`` or the numbers of the kit. Hidden files and files that are no images by
their ending are passed over.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.errors import InvalidInputError

from rsafast_training.data import devkit
from rsafast_training.data.source import Pictures, Source, Split, random_split
from rsafast_training.images import decode_rgb

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"]
)
ANNOTATIONS, WORDS = "val_annotations.txt", "words.txt"

# Path of an image and its class; a Path would take four times the memory, and ImageNet has 1.3 M.
Labelled = list[tuple[str, str]]


def folder(root: Path, test_fraction: float, split_seed: int) -> Source:
    """Return the source of a folder; the file names are listed now, and nothing is decoded."""
    if not root.is_dir():
        raise InvalidInputError(f"{root}: is no folder; check the path")
    train_root = root / "train"
    train = _class_folders(train_root if train_root.is_dir() else root)
    ids = tuple(sorted({label for _, label in train}))
    test = _test_images(root, ids) if train_root.is_dir() else []

    def read() -> Pictures:
        classes, images = _class_names(root, ids), _split(train, ids)
        if test:
            return Pictures(classes, images, _split(test, ids))
        return random_split(images, classes, str(root), test_fraction, split_seed)

    start = len(str(root / "x")) - 1
    files = {path[start:].replace(os.sep, "/"): path for path, _ in (*train, *test)}
    # What else decides the classes of the images, and their names.
    for name in (Path("val", ANNOTATIONS), Path(WORDS), *(devkit.FOLDER / n for n in devkit.FILES)):
        if (root / name).is_file():
            files[name.as_posix()] = str(root / name)
    options = f"split {test_fraction} {split_seed}"
    return Source(root.resolve().name, str(root), files, read, options)


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


def _images(root: Path) -> list[str]:
    """Paths of the images at any depth, sorted folder by folder."""
    paths = [
        os.path.join(place, name)
        for place, _, names in os.walk(root, onerror=_unreadable)
        for name in names
        if is_image(name)
    ]
    return sorted(paths, key=lambda path: path.split(os.sep))


def _unreadable(error: OSError) -> None:
    raise InvalidInputError(
        f"{error.filename}: cannot be read ({error.strerror}); check the folder and its permissions"
    )


def is_image(name: str) -> bool:
    """Whether a file is an image by the ending of its name, and not hidden."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _test_images(root: Path, ids: tuple[str, ...]) -> Labelled:
    """List the held-out images: those of val/, or of test/ where there is no val/."""
    for held_out in (root / "val", root / "test"):
        if not held_out.is_dir():
            continue
        if (held_out / ANNOTATIONS).is_file():
            labelled = _annotated(held_out)
        else:
            labelled = _flat(held_out, root) or _class_folders(held_out)
        unknown = sorted({label for _, label in labelled} - set(ids))
        if unknown:
            raise InvalidInputError(
                f"{held_out}: the class {unknown[0]!r} is not among the {len(ids)} of "
                f"{root / 'train'}; add training images of it, or sort the images into the "
                "class folders of train/"
            )
        return labelled
    return []


def _annotated(held_out: Path) -> Labelled:
    """Read Tiny ImageNet's list: file name, class and box, separated by tabs."""
    listing = held_out / ANNOTATIONS
    text = listing.read_text(encoding="utf-8", errors="replace")
    images = set(_images(held_out / "images"))
    labelled: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{listing}, line {number}"
        fields = line.split("\t")
        path = str(held_out / "images" / fields[0])
        if len(fields) < 2:
            raise InvalidInputError(
                f"{where}: expected a file name, a tab and a class, got {line!r}"
            )
        if path not in images:
            raise InvalidInputError(
                f"{where}: the image {path} does not exist; unpack the archive again"
            )
        if path in labelled:
            raise InvalidInputError(f"{where}: names {fields[0]} again; unpack the archive again")
        labelled[path] = fields[1]
    unlisted = sorted(images.difference(labelled))
    if unlisted:
        raise InvalidInputError(
            f"{listing}: gives no class to {len(unlisted):,} of {len(images):,} images, such as "
            f"{unlisted[0]}; unpack the archive again"
        )
    return list(labelled.items())


def _flat(held_out: Path, root: Path) -> Labelled:
    """Label ImageNet's validation images where they lie in no class folders; else nothing."""
    with os.scandir(held_out) as entries:
        names = sorted(entry.name for entry in entries if is_image(entry.name))
    if not devkit.is_flat(names):
        return []
    folders = [p.name for p in held_out.iterdir() if p.is_dir()]
    if folders:
        raise InvalidInputError(
            f"{held_out}: holds {len(names):,} images outside its {len(folders):,} folders; sort "
            "all images into class folders, or none"
        )
    classes = devkit.flat_classes(held_out, names, root)
    return [(str(held_out / name), label) for name, label in zip(names, classes, strict=True)]


def _class_names(root: Path, ids: tuple[str, ...]) -> tuple[str, ...]:
    """Words of WordNet ids, where words.txt or ImageNet's meta.mat gives them; else the ids."""
    words = devkit.words(root)
    if (root / WORDS).is_file():
        text = (root / WORDS).read_text(encoding="utf-8", errors="replace")
        lines = (line.partition("\t") for line in text.splitlines())
        words = {wnid: name.strip() for wnid, _, name in lines}
    names = [words.get(label) or label for label in ids]
    times = Counter(names)
    # Two classes can share their words, as ImageNet's two cranes do.
    return tuple(
        name if times[name] == 1 else f"{name} ({label})"
        for name, label in zip(names, ids, strict=True)
    )


def _split(labelled: Labelled, ids: tuple[str, ...]) -> Split:
    position = {label: i for i, label in enumerate(ids)}

    def image(i: int) -> NDArray[np.uint8]:
        path = labelled[i][0]
        return decode_rgb(Path(path), path)

    labels = np.array([position[label] for _, label in labelled], np.int64)
    return Split(labels, image, lambda i: labelled[i][0])
