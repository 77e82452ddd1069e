"""VGG-5, the network on which predictive coding is benchmarked (Pinchetti et al. 2024, PCX)."""

from __future__ import annotations

from itertools import pairwise

from rsafast_kernels.errors import InvalidInputError

from rsafast_training.layers import BatchNorm2d, Conv2d, Linear
from rsafast_training.models.chain import Activation, Block, Chain


class Vgg5(Chain):
    """Four 3×3 convolutions (128, 256, 512, 512), each with 2×2 max-pooling, and a linear layer.

    Parameters
    ----------
    seeds : networks side by side.
    classes : K.
    image_size : side of the training images in pixels, at least 16.
    batch_norm : the published network has none.
    activation : gelu as in the published recipe for predictive coding.
    """

    name = "vgg5"

    def __init__(
        self,
        seeds: int = 1,
        classes: int = 10,
        *,
        image_size: int = 32,
        batch_norm: bool = False,
        activation: Activation = "gelu",
    ) -> None:
        if image_size < 16:
            raise InvalidInputError(f"vgg5 needs images of at least 16 pixels, got {image_size}")
        super().__init__(seeds, grid=image_size // 16)
        channels = (3, 128, 256, 512, 512)
        for i, (before, after) in enumerate(pairwise(channels), start=1):
            convolution = Conv2d(seeds, before, after, 3, padding=1, bias=not batch_norm)
            norm = BatchNorm2d(seeds, after) if batch_norm else None
            self.add(Block(f"conv{i}", convolution, norm, activation, pool=2))
        last = Linear(seeds, channels[-1] * self.grid**2, classes)
        self.add(Block("fc", last, activation="identity"))
