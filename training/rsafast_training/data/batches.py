"""Batches for networks that train together, each with its own order, crops and flips.

What seed s sees at epoch e depends on (s, e) alone: networks stacked or one by one, from the start
or resumed, get the same images in the same order.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.errors import InvalidInputError

from rsafast_training.data.augment import Augment, Draws, normalise
from rsafast_training.data.dataset import ImageData
from rsafast_training.randomness import generator

__all__ = ["Batches"]

Batch = tuple[torch.Tensor, torch.Tensor]


class Batches:
    """Training batches of stacked networks, and plain batches of either split.

    Parameters
    ----------
    data : the data set.
    indices : training images to use: positions for all seeds, or {seed: positions}, all of one
        length; None is all of them. See `ImageData.subset`.
    batch_size : images a batch and network.
    drop_last : leave out the images that do not fill a batch (others every epoch); False makes a
        smaller last batch of them.
    augment : flips and crops of training batches; None for none.
    device : where batches are made. The images are held there too (as uint8), unless they would
        fill more than half of what a GPU has free: then each batch is copied from the cache.

    Raises
    ------
    InvalidInputError
        For positions outside the training images, subsets of unequal length, or fewer images than
        one batch with `drop_last`.
    """

    def __init__(
        self,
        data: ImageData,
        indices: ArrayLike | Mapping[int, ArrayLike] | None = None,
        *,
        batch_size: int = 128,
        drop_last: bool = True,
        augment: Augment | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.data, self.augment, self.device = data, augment, torch.device(device)
        self.batch_size, self.drop_last = batch_size, drop_last
        self._subsets = _subsets(data, indices)
        self._held = held_on(self.device, data.train_images.nbytes + data.test_images.nbytes)
        self._images = {
            "train": _tensor(data.train_images).to(self._held),
            "test": _tensor(data.test_images).to(self._held),
        }
        self._labels = {
            "train": torch.from_numpy(data.train_labels).to(device),
            "test": torch.from_numpy(data.test_labels).to(device),
        }
        if batch_size < 1 or len(self) == 0:
            raise InvalidInputError(
                f"batch_size must be from 1 to the {self.n_train} training images, got "
                f"{batch_size}; lower it, or pass drop_last=False"
            )

    @property
    def n_train(self) -> int:
        """Training images of each network."""
        return len(next(iter(self._subsets.values())))

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        if self.drop_last:
            return self.n_train // self.batch_size
        return -(-self.n_train // self.batch_size)

    def epoch(self, seeds: Sequence[int], epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch for the networks of `seeds`.

        Yields
        ------
        images : (S, N, 3, H, W) float32, normalised, network s in row s.
        labels : (S, N) int64.
        """
        orders = torch.stack([self._order(seed, epoch) for seed in seeds])
        draws = [self._draw(seed, epoch) for seed in seeds]
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            here = slice(start, start + self.batch_size)
            rows = orders[:, here]
            images = self._gather("train", rows.reshape(-1))
            if self.augment is not None:
                drawn = zip(*(d.take(here) for d in draws), strict=True)
                images = self.augment.apply(images, Draws(*map(torch.cat, drawn)))
            yield self._finish(images, (len(seeds), -1)), self._labels["train"][rows]

    def clean(
        self, split: Literal["train", "test"], batch_size: int = 500
    ) -> Iterator[Batch]:
        """Yield every image of a split in order, without augmentation: one copy for all networks.

        Yields
        ------
        images : (N, 3, H, W) float32, normalised; the last batch may be smaller.
        labels : (N,) int64.

        Raises
        ------
        InvalidInputError
            "train" where the seeds have subsets of their own; `clean_subsets` yields those.
        """
        if split not in self._images:
            raise InvalidInputError(f"split must be 'train' or 'test', got {split!r}")
        rows = torch.arange(len(self._labels[split]))
        if split == "train":
            if _SHARED not in self._subsets:
                raise InvalidInputError(
                    "each seed has its own training images; use clean_subsets(seeds)"
                )
            rows = self._subsets[_SHARED]
        for chunk in rows.split(batch_size):
            here = chunk.to(self.device)
            yield self._finish(self._gather(split, here), (-1,)), self._labels[split][here]

    def clean_subsets(self, seeds: Sequence[int], batch_size: int = 500) -> Iterator[Batch]:
        """Yield each network's own training images in order, without augmentation.

        Yields
        ------
        images : (S, N, 3, H, W) float32, normalised; the last batch may be smaller.
        labels : (S, N) int64.
        """
        rows = torch.stack([self._subset(seed) for seed in seeds]).to(self.device)
        for here in rows.split(batch_size, dim=1):
            images = self._gather("train", here.reshape(-1))
            yield self._finish(images, (len(seeds), -1)), self._labels["train"][here]

    def _subset(self, seed: int) -> torch.Tensor:
        if _SHARED in self._subsets:
            return self._subsets[_SHARED]
        if seed not in self._subsets:
            raise InvalidInputError(
                f"indices name no training images for seed {seed}, only for "
                f"{', '.join(map(str, self._subsets))}; add them"
            )
        return self._subsets[seed]

    def _order(self, seed: int, epoch: int) -> torch.Tensor:
        subset = self._subset(seed)
        order = torch.randperm(len(subset), generator=generator(seed, "order", epoch))
        return subset[order].to(self.device)

    def _draw(self, seed: int, epoch: int) -> Draws:
        # Drawn for all positions of the epoch at once, so that the batch size changes nothing.
        augment = self.augment or Augment(flip=False, pad=0)
        return augment.draw(self.n_train, generator(seed, "augment", epoch)).to(self.device)

    def _gather(self, split: str, rows: torch.Tensor) -> torch.Tensor:
        # Channels first while a pixel is one byte: as float32 the move takes four times as long.
        images = self._images[split].index_select(0, rows.to(self._held)).to(self.device)
        return images.permute(0, 3, 1, 2).contiguous()

    def _finish(self, images: torch.Tensor, lead: tuple[int, ...]) -> torch.Tensor:
        x = normalise(images, self.data.mean, self.data.std)
        return x.view(*lead, *x.shape[1:])


def held_on(device: torch.device, n_bytes: int) -> torch.device:
    """Return the device that holds the images: the CPU where they leave a GPU too little room."""
    if device.type == "cuda" and n_bytes > torch.cuda.mem_get_info(device)[0] / 2:
        return torch.device("cpu")
    return device


def _tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    with warnings.catch_warnings():
        # The mapping of a data set larger than memory is read-only, and is only read here.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(images)


_SHARED = None  # key of a subset that all seeds share


def _subsets(
    data: ImageData, indices: ArrayLike | Mapping[int, ArrayLike] | None
) -> dict[int | None, torch.Tensor]:
    n = len(data.train_images)
    if indices is None:
        return {_SHARED: torch.arange(n)}
    if not isinstance(indices, Mapping):
        return {_SHARED: _positions(indices, n, "indices")}
    subsets: dict[int | None, torch.Tensor] = {
        seed: _positions(rows, n, f"indices of seed {seed}") for seed, rows in indices.items()
    }
    lengths = sorted({len(rows) for rows in subsets.values()})
    if len(lengths) != 1:
        raise InvalidInputError(
            f"indices must name as many images for every seed, got {lengths or 'no seed'}"
        )
    return subsets


def _positions(rows: ArrayLike, n: int, name: str) -> torch.Tensor:
    array: NDArray = np.asarray(rows)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.size == 0:
        raise InvalidInputError(
            f"{name} must be whole numbers, (n,), at least one, got {array.shape} {array.dtype}"
        )
    if array.min() < 0 or array.max() >= n:
        raise InvalidInputError(
            f"{name} must be from 0 to {n - 1}, got {array.min()} to {array.max()}"
        )
    return torch.from_numpy(array.astype(np.int64))
