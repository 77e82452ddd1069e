"""Models that are a chain of blocks, which every learning rule can train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from rsafast_training.layers import BatchNorm2d, Conv2d, Dropout, Linear, maps_to_vectors
from rsafast_training.models.base import StackedModel

Activation = Literal["relu", "gelu", "tanh", "hardtanh", "identity"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "hardtanh": F.hardtanh,
    "identity": lambda x: x,
}


@dataclass(frozen=True, slots=True)
class Block:
    """One step of a chain: dropout(pool(activation(norm(linear(x))))).

    Attributes
    ----------
    name : layer name.
    linear : the convolution or linear layer.
    norm : batch normalisation, or None.
    activation : relu, gelu, tanh, hardtanh or identity.
    pool : side of the max-pooling window, or None.
    dropout : or None.
    """

    name: str
    linear: Conv2d | Linear
    norm: BatchNorm2d | None = None
    activation: Activation = "relu"
    pool: int | None = None
    dropout: Dropout | None = None

    def activate(self, x: Tensor) -> Tensor:
        """Pool(activation(x)) of a pre-activation."""
        x = _ACTIVATIONS[self.activation](x)
        return x if self.pool is None else F.max_pool2d(x, self.pool)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the block on (N, S·C, H, W) or (S, N, F)."""
        x = self.linear(x)
        if self.norm is not None:
            x = self.norm(x)
        x = self.activate(x)
        return x if self.dropout is None else self.dropout(x)


class Chain(StackedModel):
    """Convolutional blocks, then linear blocks.

    Attributes
    ----------
    blocks : list of Block
        In the order of the forward pass; the last one gives the logits.
    grid : int
        Side of the map that the first linear block reads. Maps of other sizes (larger images) are
        averaged to it.
    """

    blocks: list[Block]
    grid: int

    def add(self, block: Block) -> None:
        """Append a block, its modules registered under the names of an ordinary network."""
        self.add_module(block.name, block.linear)
        if block.norm is not None:
            self.add_module(block.name.replace("conv", "bn"), block.norm)
        if block.dropout is not None:
            self.add_module(f"{block.name}_dropout", block.dropout)
        self.blocks.append(block)

    def __init__(self, seeds: int, grid: int) -> None:
        super().__init__(seeds)
        self.blocks, self.grid = [], grid

    @property
    def layer_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the blocks."""
        return tuple(block.name for block in self.blocks)

    def to_vectors(self, x: Tensor) -> Tensor:
        """What the first linear block reads: (N, S·C, H, W) averaged to the grid, (S, N, F)."""
        if x.shape[-2:] != (self.grid, self.grid):
            x = F.adaptive_avg_pool2d(x, self.grid)
        return maps_to_vectors(x, self.seeds)

    def block_input(self, block: Block, x: Tensor) -> Tensor:
        """Turn the output of the block before into what `block` reads."""
        return self.to_vectors(x) if isinstance(block.linear, Linear) and x.ndim == 4 else x

    def _entered(self, images: Tensor) -> Tensor:
        """Stack images, channels last: a sixth off the time of a training step on a CPU."""
        return self.stack_images(images).contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (S, N, C, H, W) or (N, C, H, W), to logits (S, N, K)."""
        x = self._entered(images)
        for block in self.blocks:
            x = block(self.block_input(block, x))
        return x

    def features(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Activations after the blocks named, (S, N, C, H, W) or (S, N, F)."""
        self.check_layers(names)
        x, found = self._entered(images), {}
        for block in self.blocks:
            x = block(self.block_input(block, x))
            if block.name in names:
                found[block.name] = self.unstack_maps(x) if x.ndim == 4 else x
            if len(found) == len(set(names)):
                break
        return {name: found[name] for name in names}
