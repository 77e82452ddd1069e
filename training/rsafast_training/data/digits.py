"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels, embedded in the package."""

from __future__ import annotations

import numpy as np

from rsafast_training.data.source import Pictures, Source, Split, random_split

TEST_IMAGES = 297


def digits() -> Source:
    """Return the source: 1,500 training and 297 test images, the same division every time.

    Grey levels 0 to 16 become 0 to 255 in three equal channels; no pixel is added.
    """
    return Source("digits", "digits", {}, _read)


def _read() -> Pictures:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    grey = np.rint(bundle.images * (255 / 16)).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    images = Split(bundle.target.astype(np.int64), lambda i: rgb[i], lambda i: f"digit {i}")
    return random_split(images, [str(c) for c in range(10)], "digits", TEST_IMAGES, seed=0)
