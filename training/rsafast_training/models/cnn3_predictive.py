"""The study's CNN as its predictive coding ran it: maps settle before anything reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rsafast_training.layers import Conv2d
from rsafast_training.models.cnn3 import Cnn3

Nudge = Callable[[Tensor], Tensor]


class PredictiveCnn3(Cnn3):
    """Cnn3 whose three maps r1, r2, r3 settle for some steps of the published inference.

    They start at the maps of the forward pass. In every step, with α the rate, W the convolutions
    without batch norm and P the prediction weights (``predict1``, ``predict2``),

        e1 = r1 − tanh(up(P1ᵀ r2)),  e2 = r2 − tanh(up(P2ᵀ r3))
        r1 ← ReLU(r1 − α e1)
        r2 ← ReLU(r2 + α (avg-pool(W2 ∗ e1) − e2))
        r3 ← ReLU(r3 + α avg-pool(W3 ∗ e2))

    (up: nearest neighbour). The linear layers and :meth:`features` read the settled maps. P is
    drawn after all other weights, as PyTorch draws a transposed convolution; whether the published
    P had a bias is not known to us, ours has none.

    Parameters
    ----------
    seeds, classes : as for :class:`~rsafast_training.models.cnn3.Cnn3`
    steps : of inference.
    rate : α.
    options : further ones of Cnn3
    """

    def __init__(
        self,
        seeds: int = 1,
        classes: int = 10,
        *,
        steps: int = 10,
        rate: float = 0.02,
        **options: Any,
    ) -> None:
        super().__init__(seeds, classes, **options)
        self.steps, self.rate = steps, rate
        for name, (lower, upper) in zip(
            ("predict1", "predict2"), pairwise(self.convolutions), strict=True
        ):
            channels = lower.weight.shape[1], upper.weight.shape[1]
            self.add_module(name, Conv2d(seeds, *channels, 3, padding=1))

    @property
    def convolutions(self) -> list[Conv2d]:
        """W1, W2 and W3."""
        return [b.linear for b in self.blocks if isinstance(b.linear, Conv2d)]

    def first_maps(self, images: Tensor) -> list[Tensor]:
        """Forward pass of the convolutional blocks: r1, r2, r3, each (N, S·C, H, W)."""
        maps = [self.stack_images(images)]
        for block in self.blocks[:3]:
            maps.append(block(maps[-1]))
        return maps[1:]

    def predictions(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """What r2 and r3 predict of r1 and r2."""
        found = []
        for name, (below, above) in zip(("predict1", "predict2"), pairwise(maps), strict=True):
            x = F.conv2d(above, self._backward_kernel(name), padding=1, groups=self.seeds).tanh()
            found.append(F.interpolate(x, size=below.shape[-2:]))
        return found

    def _backward_kernel(self, name: str) -> Tensor:
        """Weights of a plain convolution that does what P transposed does, but faster."""
        weight = self.get_parameter(f"{name}.weight")
        return weight.transpose(1, 2).flip((-2, -1)).flatten(0, 1)

    def settle(self, maps: Sequence[Tensor], nudge: Nudge | None = None) -> list[Tensor]:
        """Run the inference from r1, r2, r3; `nudge` is added to the drive of r3."""
        r1, r2, r3 = maps
        kernels = [_pooled_kernel(c.weight.flatten(0, 1)) for c in self.convolutions[1:]]
        for _ in range(self.steps):
            p1, p2 = self.predictions((r1, r2, r3))
            e1, e2 = r1 - p1, r2 - p2
            up2, up3 = (
                F.conv2d(e, kernel, stride=2, padding=1, groups=self.seeds)
                for e, kernel in zip((e1, e2), kernels, strict=True)
            )
            if nudge is not None:
                up3 = up3 + nudge(r3)
            r1 = torch.add(r1, e1, alpha=-self.rate).relu_()
            r2 = torch.add(r2, up2 - e2, alpha=self.rate).relu_()
            r3 = torch.add(r3, up3, alpha=self.rate).relu_()
        return [r1, r2, r3]

    def read_out(self, top: Tensor) -> Tensor:
        """Logits (S, N, K) of the linear layers, from r3."""
        return self._vectors(top)["fc2"]

    def _vectors(self, top: Tensor) -> dict[str, Tensor]:
        x, found = self.to_vectors(top), {}
        for block in self.blocks[3:]:
            found[block.name] = x = block(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (S, N, C, H, W) or (N, C, H, W), to logits (S, N, K)."""
        return self.read_out(self.settle(self.first_maps(images))[-1])

    def run_batch_norms(self, images: Tensor) -> None:
        """Forward pass of the convolutional blocks; what settles afterwards meets no batch norm."""
        self.first_maps(images)

    def features(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Settled maps (S, N, C, H, W) and activations (S, N, F) of the layers named."""
        self.check_layers(names)
        maps = self.settle(self.first_maps(images))
        found = dict(zip(self.layer_names, map(self.unstack_maps, maps), strict=False))
        if any(name not in found for name in names):
            found |= self._vectors(maps[-1])
        return {name: found[name] for name in names}


def _pooled_kernel(weight: Tensor) -> Tensor:
    """Kernels (..., 4, 4) that in steps of 2 do what 3 × 3 ones and average pooling by 2 do.

    A pooled unit reads its 4 × 4 inputs once, 16 products in place of 36.
    """
    return F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, stride=1)
