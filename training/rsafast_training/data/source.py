"""What every reader hands over: labels, and images that are decoded one at a time when asked for.

A `Source` is cheap to make (paths and options only), so that a data set whose decoded copy is in
the cache is never read again; `Source.read` gives the `Pictures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.errors import InvalidInputError

__all__ = ["Pictures", "Source", "Split", "as_labels", "random_split"]

AS_GIVEN = "as given"


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled images, decoded on demand.

    Attributes
    ----------
    labels : (n,) int64, positions in the class names.
    image : gives image i as (H, W, 3) uint8 RGB.
    name : gives what error messages call image i.
    """

    labels: NDArray[np.int64]
    image: Callable[[int], NDArray[np.uint8]]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Split:
        """Return the images at `rows`, in that order."""
        return Split(
            self.labels[rows], lambda i: self.image(int(rows[i])), lambda i: self.name(int(rows[i]))
        )


@dataclass(frozen=True, slots=True)
class Pictures:
    """The two splits of a data set, their class names, and where the division came from."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    split: str = AS_GIVEN

    def check(self, name: str) -> Pictures:
        """Return self, or raise `InvalidInputError` for labels that fit no training."""
        if len(self.classes) < 2:
            raise InvalidInputError(
                f"{name}: has {len(self.classes)} class; training needs at least 2"
            )
        if len(set(self.classes)) < len(self.classes):
            twice = next(c for c in self.classes if self.classes.count(c) > 1)
            raise InvalidInputError(f"{name}: the class name {twice!r} occurs twice; rename one")
        for part, split in (("training", self.train), ("test", self.test)):
            if len(split) == 0:
                raise InvalidInputError(f"{name}: has no {part} images")
            wrong = np.flatnonzero((split.labels < 0) | (split.labels >= len(self.classes)))
            if wrong.size:
                raise InvalidInputError(
                    f"{name}: {part} label {split.labels[wrong[0]]} of {split.name(int(wrong[0]))} "
                    f"is none of the {len(self.classes)} classes (0 to {len(self.classes) - 1}); "
                    "correct the labels or the list of classes"
                )
        strange = sorted(set(self.test.labels.tolist()) - set(self.train.labels.tolist()))
        if strange:
            raise InvalidInputError(
                f"{name}: class {self.classes[strange[0]]!r} has test images and no training "
                "images; add some, or remove the class"
            )
        return self


@dataclass(frozen=True, slots=True)
class Source:
    """A data set that can be read.

    Attributes
    ----------
    name : short name for results.
    where : what error messages call it.
    files : the files whose bytes decide the content, by a name that survives moving them; none
        for data that come with the package.
    read : reads them.
    options : whatever else decides the content, as text.
    """

    name: str
    where: str
    files: Mapping[str, str | Path]
    read: Callable[[], Pictures]
    options: str = ""


def as_labels(values: ArrayLike, count: int, name: str) -> NDArray[np.int64]:
    """Check that `values` are whole-number labels of `count` images, (n,) or (n, 1)."""
    labels = np.asarray(values)
    if labels.shape not in ((count,), (count, 1)):
        raise InvalidInputError(
            f"{name} must hold one label for each of the {count} images, got shape {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise InvalidInputError(
            f"{name} must hold whole numbers (class 0, 1, ...), got {labels.dtype}"
        )
    return labels.reshape(-1).astype(np.int64)


def random_split(
    images: Split, classes: Sequence[str], name: str, test: float | int, seed: int
) -> Pictures:
    """Divide images that come undivided, each class in the same proportion.

    Parameters
    ----------
    test : fraction, or number, of test images.
    """
    from sklearn.model_selection import train_test_split

    counts = np.bincount(images.labels, minlength=len(classes))
    if (counts < 2).any():
        small = int(np.argmin(counts))
        raise InvalidInputError(
            f"{name}: class {classes[small]!r} has {counts[small]} image(s); dividing into "
            "training and test images needs at least 2 a class"
        )
    try:
        train_rows, test_rows = train_test_split(
            np.arange(len(images)), test_size=test, stratify=images.labels, random_state=seed
        )
    except ValueError as error:
        raise InvalidInputError(
            f"{name}: cannot be divided with test_fraction={test} ({error}); "
            "choose another fraction"
        ) from None
    return Pictures(
        tuple(classes),
        images.take(np.sort(train_rows)),
        images.take(np.sort(test_rows)),
        f"drawn here, stratified, seed {seed}",
    )
