"""From pictures to arrays: decode, bring to one size, and take the fingerprint on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels import num_threads
from rsafast_kernels.errors import InvalidInputError

from rsafast_training.data.source import Pictures, Split
from rsafast_training.images import fit_square

BLOCK = 256  # images decoded before they are passed on
_LARGE = 100 * 100 * 3  # values of an image from which threads help to decode it

Progress = Callable[[int, int], None]


class Decoded(NamedTuple):
    """The arrays of `ImageData`, in its order."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    split: str


def decode(pictures: Pictures, image_size: int | None = None) -> Decoded:
    """Decode everything into memory."""
    decoder = Decoder(pictures, image_size)
    train, test = (
        np.concatenate(list(decoder.blocks(split))) for split in (pictures.train, pictures.test)
    )
    return decoder.finish(train, test)


@dataclass
class Decoder:
    """Decodes splits block by block; `finish` says what the whole amounted to.

    The training split comes first, then the test split, each once: the fingerprint runs on.
    Threads share the images of a block where these are large: while it decodes, Pillow frees the
    interpreter's lock, which small images hold most of the time.
    """

    pictures: Pictures
    image_size: int | None

    def __post_init__(self) -> None:
        first = self.pictures.train.image(0)
        self._threads = num_threads() if first.size >= _LARGE else 1
        self.shape: tuple[int, ...] = self._square(first).shape
        self._digest = hashlib.sha256(repr((self.pictures.classes, self.shape)).encode())
        self._sums = np.zeros(3, np.uint64)
        self._squares = np.zeros(3, np.uint64)

    def blocks(self, split: Split) -> Iterator[NDArray[np.uint8]]:
        """Yield the images of a split, (b, H, W, 3) at a time."""
        self._digest.update(split.labels.astype("<i8").tobytes())
        with ThreadPoolExecutor(self._threads) as pool:
            for start in range(0, len(split), BLOCK):
                rows = range(start, min(start + BLOCK, len(split)))
                share = -(-len(rows) // self._threads)
                parts = [rows[i : i + share] for i in range(0, len(rows), share)]
                block = np.concatenate(list(pool.map(partial(self._stacked, split), parts)))
                self._digest.update(block.data)
                if split is self.pictures.train:
                    # Whole-number sums are exact, so mean and std do not depend on the block size.
                    wide = block.astype(np.uint32)
                    self._sums += wide.sum(axis=(0, 1, 2), dtype=np.uint64)
                    self._squares += (wide * wide).sum(axis=(0, 1, 2), dtype=np.uint64)
                yield block

    def finish(self, train: NDArray[np.uint8], test: NDArray[np.uint8]) -> Decoded:
        """Return the result, with the decoded arrays in it."""
        mean, std = self.statistics()
        return Decoded(
            train,
            self.pictures.train.labels,
            test,
            self.pictures.test.labels,
            self.pictures.classes,
            mean,
            std,
            self.fingerprint(),
            self.pictures.split,
        )

    def fingerprint(self) -> str:
        """SHA-256 of what was decoded so far, as hexadecimal digits."""
        return self._digest.hexdigest()

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of R, G and B of the training images, in 0 to 1."""
        count = len(self.pictures.train) * self.shape[0] * self.shape[1]
        mean = self._sums / count
        variance = self._squares / count - mean**2
        if (variance < 1e-6).any():
            channel = "RGB"[int(np.argmin(variance))]
            raise InvalidInputError(
                f"all training images have the same {channel} in every pixel, which cannot be "
                "normalised; check how the images were made"
            )
        return tuple((mean / 255).tolist()), tuple((np.sqrt(variance) / 255).tolist())

    def _square(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return image if self.image_size is None else fit_square(image, self.image_size)

    def _stacked(self, split: Split, rows: range) -> NDArray[np.uint8]:
        # stack keeps the order in memory of what it is given, such as CIFAR-10's planes.
        return np.ascontiguousarray(np.stack([self._checked(split, i) for i in rows]))

    def _checked(self, split: Split, i: int) -> NDArray[np.uint8]:
        image = self._square(split.image(i))
        if image.shape != self.shape:
            raise InvalidInputError(
                f"{split.name(i)} has {image.shape[0]} x {image.shape[1]} pixels and the first "
                f"image {self.shape[0]} x {self.shape[1]}; pass image_size to bring all to one size"
            )
        return image
