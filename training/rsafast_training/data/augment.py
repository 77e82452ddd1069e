"""Augmentation and normalisation of whole batches, on the device the batch is on.

What torchvision does image by image (``RandomHorizontalFlip``, ``RandomCrop(size, padding=4)``,
``ToTensor``, ``Normalize``), with all random numbers drawn first, from a generator that is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from rsafast_kernels.errors import InvalidInputError
from torch.nn import functional as F

__all__ = ["Augment", "Draws", "normalise"]


class Draws(NamedTuple):
    """Random numbers of n images.

    flip : (n,) bool, mirror left and right.
    top, left : (n,) int64, corner of the crop in the padded image, 0 to 2 `pad`; `pad` is no shift.
    """

    flip: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor

    def take(self, rows: slice | torch.Tensor) -> Draws:
        """Return the draws of some images."""
        return Draws(self.flip[rows], self.top[rows], self.left[rows])

    def to(self, device: torch.device | str) -> Draws:
        """Return the draws on a device."""
        return Draws(*(values.to(device) for values in self))


@dataclass(frozen=True, slots=True)
class Augment:
    """Random horizontal flip, then a random crop of the zero-padded image.

    The padding is 0 in pixel values, that is black, and so comes before normalisation.

    Attributes
    ----------
    flip : mirror each image with probability 1/2. Leave it off where mirror images are other
        things, such as digits.
    pad : black pixels put on each side before a crop of the original size; 0 crops nothing.
    """

    flip: bool = True
    pad: int = 4

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise InvalidInputError(f"pad must be 0 pixels or more, got {self.pad}")

    def draw(self, n: int, generator: torch.Generator) -> Draws:
        """Draw for `n` images; on the generator's device, and the same numbers for the same n."""
        device = generator.device
        flip = torch.zeros(n, dtype=torch.bool, device=device)
        if self.flip:
            flip = torch.randint(2, (n,), generator=generator, device=device).bool()
        corner = torch.randint(2 * self.pad + 1, (2, n), generator=generator, device=device)
        return Draws(flip, corner[0], corner[1])

    def apply(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Return (n, C, H, W) images of the same dtype, flipped and cropped as drawn."""
        if images.ndim != 4 or len(images) != len(draws.flip):
            raise InvalidInputError(
                f"images must have shape (n, C, H, W) with n = {len(draws.flip)}, as many as were "
                f"drawn for, got {tuple(images.shape)}"
            )
        draws = draws.to(images.device)
        rows = torch.arange(len(images), device=images.device)
        height, width = images.shape[2:]
        if self.flip:
            # Picking rows from the images and their mirror images is faster than torch.where.
            rows = rows + len(images) * draws.flip
            images = torch.cat((images, images.flip(3)))
        if not self.pad:
            return images.index_select(0, rows)
        # Every crop is a view; picking one an image copies each pixel once.
        crops = F.pad(images, (self.pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        return crops[rows, :, draws.top, draws.left]

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw and apply: (n, C, H, W), uint8 or float in pixel values, to the same."""
        return self.apply(images, self.draw(len(images), generator))


def normalise(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Turn (..., C, H, W) uint8 images into float32, (x / 255 - mean) / std channel by channel."""
    if images.dtype != torch.uint8:
        raise InvalidInputError(f"images must be uint8, values 0 to 255, got {images.dtype}")
    shape = (-1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    return images.float().div_(255).sub_(centre).div_(scale)
