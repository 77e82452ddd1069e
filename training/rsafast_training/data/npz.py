""".npz archives of images: JPEG bytes end to end with offsets, or plain uint8 arrays.

==============  ==========================================================================
JPEG            ``{train,test}_jpeg`` uint8 bytes, ``_offsets`` (n + 1), ``_labels`` (n)
arrays          ``x_{train,test}`` uint8 (n, H, W, 3), (n, H, W, 1) or (n, H, W); ``y_...``
==============  ==========================================================================

``val`` stands for ``test`` where there is no ``test``. Without a prefix (``jpeg``, ``offsets``,
``labels``; ``x``, ``y``) the images are divided here. ``classes`` names the classes, else
``wnids``, else their numbers do.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.errors import InvalidInputError

from rsafast_training.data.source import Pictures, Source, Split, as_labels, random_split
from rsafast_training.images import decode_rgb

Arrays = Mapping[str, NDArray]


def npz(path: Path, test_fraction: float, split_seed: int) -> Source:
    """Return the source of one archive."""

    def read() -> Pictures:
        return _pictures(_load(path), path, test_fraction, split_seed)

    options = f"split {test_fraction} {split_seed}"
    return Source(path.stem, str(path), {"archive": path}, read, options)


def _load(path: Path) -> Arrays:
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("no zip archive")
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error):
            raise InvalidInputError(
                f"{path}: holds Python objects (a pickle), which can run code when opened; "
                "save plain numeric and str arrays instead"
            ) from None
        raise InvalidInputError(
            f"{path}: is truncated, damaged or no .npz archive ({error}); save or copy it again"
        ) from None


def _pictures(arrays: Arrays, path: Path, test_fraction: float, split_seed: int) -> Pictures:
    splits = {part: _split(arrays, part, path) for part in ("train", "test", "val", "")}
    train, whole = splits["train"], splits[""]
    test = splits["val"] if splits["test"] is None else splits["test"]
    if train is not None and test is not None:
        labels = np.concatenate([train.labels, test.labels])
        return Pictures(_class_names(arrays, labels, path), train, test)
    alone = whole if train is None else train
    if alone is None:
        raise InvalidInputError(
            f"{path}: found no images; expected train_jpeg/train_offsets/train_labels, or "
            f"x_train/y_train, or x/y, got {', '.join(arrays) or 'nothing'}; rename the arrays"
        )
    classes = _class_names(arrays, alone.labels, path)
    return random_split(alone, classes, str(path), test_fraction, split_seed)


def _split(arrays: Arrays, part: str, path: Path) -> Split | None:
    jpeg, offsets, labels = (f"{part}_{key}".strip("_") for key in ("jpeg", "offsets", "labels"))
    x, y = f"x_{part}".strip("_"), f"y_{part}".strip("_")
    if jpeg in arrays:
        _require(arrays, path, offsets, labels)
        return _jpeg_split(arrays[jpeg], arrays[offsets], arrays[labels], f"{path}, {jpeg}")
    if x in arrays:
        _require(arrays, path, y)
        return array_split(arrays[x], arrays[y], f"{path}, {x}")
    return None


def _require(arrays: Arrays, path: Path, *keys: str) -> None:
    for key in keys:
        if key not in arrays:
            raise InvalidInputError(
                f"{path}: lacks the array {key!r}, got {', '.join(arrays)}; add it"
            )


def _jpeg_split(blob: NDArray, offsets: NDArray, labels: NDArray, name: str) -> Split:
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise InvalidInputError(f"{name} must be bytes, (n,) uint8, got {blob.shape} {blob.dtype}")
    if (
        offsets.dtype.kind not in "iu"
        or offsets.ndim != 1
        or len(offsets) < 1
        or offsets[0] != 0
        or offsets[-1] != len(blob)
        or (offsets[1:] <= offsets[:-1]).any()
    ):
        raise InvalidInputError(
            f"{name}: offsets must rise from 0 to the {len(blob)} bytes of the images, one more "
            "than there are images; the archive is damaged, save or copy it again"
        )
    bounds = [int(offset) for offset in offsets]

    def image(i: int) -> NDArray[np.uint8]:
        return decode_rgb(blob[bounds[i] : bounds[i + 1]].tobytes(), f"{name} image {i}")

    return Split(
        as_labels(labels, len(bounds) - 1, f"{name}: labels"), image, lambda i: f"{name} image {i}"
    )


def array_split(x: NDArray, y: NDArray, name: str) -> Split:
    """Return the split of plain arrays: images (n, H, W, 3), (n, H, W, 1) or (n, H, W), uint8."""
    if x.dtype != np.uint8:
        raise InvalidInputError(
            f"{name} must be uint8 with values from 0 to 255, got {x.dtype}; convert it with "
            "(255 * x).round().astype('uint8') if it runs from 0 to 1"
        )
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] not in (1, 3)):
        raise InvalidInputError(
            f"{name} must have shape (n, H, W, 3), (n, H, W, 1) or (n, H, W), got {x.shape}; "
            "move the channels last"
        )
    pixels = x if x.ndim == 4 else x[..., None]

    def image(i: int) -> NDArray[np.uint8]:
        return np.broadcast_to(pixels[i], (*pixels.shape[1:3], 3))

    return Split(as_labels(y, len(x), f"{name}: labels"), image, lambda i: f"{name} image {i}")


def _class_names(arrays: Arrays, labels: NDArray[np.int64], path: Path) -> tuple[str, ...]:
    for key in ("classes", "wnids"):
        if key in arrays:
            names = arrays[key]
            if names.ndim != 1 or names.dtype.kind != "U":
                raise InvalidInputError(
                    f"{path}: {key!r} must be a list of str, got {names.shape} {names.dtype}"
                )
            # Two WordNet classes can share their common name; then the ids tell them apart.
            if len(set(names.tolist())) == len(names) or "wnids" not in arrays or key == "wnids":
                return tuple(names.tolist())
    return tuple(str(c) for c in range(int(labels.max(initial=-1)) + 1))
