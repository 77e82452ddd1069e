"""What needs no download: 100 handwritten digits, and simulated subjects who see them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsafast.demo import brain, models
from rsafast.rdms import RDMs

_PER_CLASS = 10


def digit_images() -> tuple[NDArray[np.uint8], list[str]]:
    """Ten images of every digit: (100, 8, 8, 3) and their labels, such as "digit3_007"."""
    images, _, labels = models.digits()
    rows = _rows()
    grey = np.rint(images[rows] * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), [labels[row] for row in rows]


def simulated_brain(seed: int) -> RDMs:
    """RDMs of six subjects in the four regions of `rsafast.demo`, with those descriptors.

    "early" mixes Gabor energies, "late" digit identity and a convolutional network, "faint" holds
    little of identity and "noise" nothing at all.
    """
    images, classes, labels = models.digits()
    rows = _rows()
    features = models.model_features(images[rows], classes[rows])
    candidates = models.model_rdms(features, [labels[row] for row in rows])
    subjects = brain.simulate(features, candidates, seed).subjects
    # The demo's "null" is what readers of tables take for a missing value.
    regions = ["noise" if r == "null" else r for r in subjects.descriptors["region"].tolist()]
    return subjects.with_descriptors({"region": regions})


def _rows() -> NDArray[np.int64]:
    """The first images of each class among the demo's."""
    starts = np.arange(models.N_CLASSES) * models.PER_CLASS
    return (starts[:, None] + np.arange(_PER_CLASS)).ravel()
