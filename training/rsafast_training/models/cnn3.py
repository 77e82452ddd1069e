"""The study's small CNN: three convolutions and two linear layers (arXiv 2604.16875)."""

from __future__ import annotations

from itertools import pairwise

from rsafast_kernels.errors import InvalidInputError

from rsafast_training.layers import BatchNorm2d, Conv2d, Dropout, Linear
from rsafast_training.models.chain import Block, Chain


class Cnn3(Chain):
    """3 × [3×3 convolution → batch norm → ReLU → 2×2 max-pooling], 32, 64 and 128 channels; 512; K.

    Parameters
    ----------
    seeds : networks side by side.
    classes : K.
    image_size : side of the training images in pixels, at least 8.
    batch_norm : False leaves it out.
    conv_bias : biases of the convolutions; by default where there is no batch norm.
    dropout : rate after the hidden linear layer.
    """

    name = "cnn3"

    def __init__(
        self,
        seeds: int = 1,
        classes: int = 10,
        *,
        image_size: int = 32,
        batch_norm: bool = True,
        conv_bias: bool | None = None,
        dropout: float = 0.3,
    ) -> None:
        if image_size < 8:
            raise InvalidInputError(f"cnn3 needs images of at least 8 pixels, got {image_size}")
        super().__init__(seeds, grid=image_size // 8)
        bias = not batch_norm if conv_bias is None else conv_bias
        channels = (3, 32, 64, 128)
        for i, (before, after) in enumerate(pairwise(channels), start=1):
            convolution = Conv2d(seeds, before, after, 3, padding=1, bias=bias)
            norm = BatchNorm2d(seeds, after) if batch_norm else None
            self.add(Block(f"conv{i}", convolution, norm, pool=2))
        hidden = Linear(seeds, channels[-1] * self.grid**2, 512)
        self.add(Block("fc1", hidden, dropout=Dropout(dropout) if dropout else None))
        self.add(Block("fc2", Linear(seeds, 512, classes), activation="identity"))
