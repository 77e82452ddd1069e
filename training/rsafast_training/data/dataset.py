"""A labelled image data set in memory or memory-mapped, and the one call that loads any."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.errors import InvalidInputError

from rsafast_training.data.cache import content_key, load_cached
from rsafast_training.data.cifar10 import cifar10, find_batches
from rsafast_training.data.decode import Decoded, Progress, decode
from rsafast_training.data.digits import digits
from rsafast_training.data.folder import folder
from rsafast_training.data.npz import array_split, npz
from rsafast_training.data.source import AS_GIVEN, Pictures, Source

__all__ = ["ImageData", "load_dataset"]

PathInput = str | os.PathLike[str]
SPECS = "digits, cifar10:PATH, npz:PATH or folder:PATH"


@dataclass(frozen=True, eq=False, slots=True)
class ImageData:
    """A data set for training.

    Attributes
    ----------
    name : short name.
    train_images, test_images : (n, H, W, 3) uint8 RGB; memory-mapped from the cache, except digits.
        Changes to them stay in this process.
    train_labels, test_labels : (n,) int64, positions in `classes`.
    classes : names of the classes.
    mean, std : of R, G and B over all training images, on the scale 0 to 1; what
        `rsafast_training.data.normalise` takes. `dataclasses.replace` sets others.
    fingerprint : SHA-256 of pixels, labels and class names, whatever format they came in.
    split : where the division into training and test images came from.
    """

    name: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    split: str = AS_GIVEN

    @classmethod
    def from_arrays(
        cls,
        train_images: NDArray[np.uint8],
        train_labels: ArrayLike,
        test_images: NDArray[np.uint8],
        test_labels: ArrayLike,
        *,
        classes: tuple[str, ...] | None = None,
        name: str = "arrays",
    ) -> ImageData:
        """Make a data set of arrays: images (n, H, W, 3) uint8, labels (n,) whole numbers.

        `classes` defaults to "0", "1", ... up to the highest label.
        """
        train = array_split(np.asarray(train_images), np.asarray(train_labels), "train_images")
        test = array_split(np.asarray(test_images), np.asarray(test_labels), "test_images")
        if classes is None:
            top = max(train.labels.max(initial=-1), test.labels.max(initial=-1))
            classes = tuple(str(c) for c in range(top + 1))
        return cls._of(name, decode(Pictures(classes, train, test).check(name)))

    @classmethod
    def _of(cls, name: str, decoded: Decoded) -> ImageData:
        return cls(name, *decoded)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train_images.shape[1], self.train_images.shape[2]

    def subset(self, n_train: int, seed: int) -> NDArray[np.int64]:
        """Draw training images: the first `n_train` of ``torch.randperm``, seeded by `seed`.

        This is the draw of the study (8,000 of 50,000, seed 42).

        Returns
        -------
        (n_train,) int64 positions in `train_images`, none twice.
        """
        n = len(self.train_images)
        if not 1 <= n_train <= n:
            raise InvalidInputError(
                f"n_train must be from 1 to the {n} training images of {self.name}, got {n_train}"
            )
        return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:n_train].numpy()

    def __str__(self) -> str:
        height, width = self.image_shape
        return (
            f"{self.name}: {len(self.train_images):,} training and {len(self.test_images):,} test "
            f"images of {height} x {width}, {len(self.classes)} classes, split {self.split}"
        )


def load_dataset(
    spec: PathInput,
    *,
    image_size: int | None = None,
    test_fraction: float = 0.2,
    split_seed: int | None = None,
    cache_dir: PathInput | None = None,
    progress: Progress | None = None,
) -> ImageData:
    """Load a data set, decoding it at most once.

    Parameters
    ----------
    spec : what to load. A path alone is understood by its form.

        - ``digits``: scikit-learn's 8 x 8 digits, embedded; 1,500 training and 297 test images;
        - ``cifar10:PATH``: the published CIFAR-10, binary or Python, as folder or .tar.gz;
        - ``npz:PATH``: an .npz archive of JPEG bytes or uint8 arrays;
        - ``folder:PATH``: image files in one sub-folder a class; Tiny ImageNet and ImageNet-1k as
          published.
    image_size : edge in pixels to which every image is brought: the shorter edge is scaled, then
        the centre cut (`rsafast_training.images.fit_square`). None keeps the pixels as they are,
        and all images must then be of one size.
    test_fraction : part held out of data that come without a test set.
    split_seed : seed of that draw; None is 0 and warns that a draw was made.
    cache_dir : where decoded images are kept; by default the folder in RSAFAST_CACHE, else
        ``~/.cache/rsafast``.
    progress : called as ``progress(images done, images in all)`` while images are decoded.

    Raises
    ------
    InvalidInputError
        For anything missing, damaged or contradictory, naming the file or image.
    """
    source = _source(spec, test_fraction, 0 if split_seed is None else split_seed)
    if image_size is not None and image_size < 1:
        raise InvalidInputError(f"image_size must be a positive number of pixels, got {image_size}")
    if not source.files:
        decoded = decode(source.read().check(source.where), image_size)
    else:
        decoded = load_cached(source, image_size, cache_dir, progress)
    data = ImageData._of(source.name, decoded)
    if source.files and data.split != AS_GIVEN and split_seed is None:
        warnings.warn(
            f"{data.name} has no test set: {len(data.test_images):,} of its images were held out "
            f"({data.split}); pass split_seed to choose the draw and drop this warning",
            stacklevel=2,
        )
    return data


def data_fingerprint(spec: PathInput, image_size: int | None = None) -> str:
    """Hash of all that decides the images of a data set, without decoding them.

    Raises
    ------
    InvalidInputError
        As `load_dataset`, for what is missing.
    """
    source = _source(spec, 0.2, 0)
    return content_key(source, image_size) if source.files else source.name


def _source(spec: PathInput, test_fraction: float, split_seed: int) -> Source:
    text = os.fspath(spec)
    if text == "digits":
        return digits()
    kind, colon, rest = text.partition(":")
    readers: dict[str, Callable[[Path], Source]] = {
        "cifar10": cifar10,
        "npz": lambda path: npz(path, test_fraction, split_seed),
        "folder": lambda path: folder(path, test_fraction, split_seed),
    }
    if kind in readers and not colon:
        raise InvalidInputError(f"data {text!r} lacks its path; write {kind}:PATH")
    if kind not in readers:
        kind, rest = _guess(text), text
    path = Path(rest).expanduser()
    if not path.exists():
        raise InvalidInputError(f"{path}: does not exist; check the path in {text!r}")
    return readers[kind](path)


def _guess(text: str) -> str:
    path = Path(text).expanduser()
    if path.is_dir():
        return "folder" if find_batches(path) is None else "cifar10"
    if path.is_file() and path.suffix == ".npz":
        return "npz"
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz")):
        return "cifar10"
    raise InvalidInputError(f"data must be {SPECS}, got {text!r}")
