"""The study's CNN as its predictive coding ran it: maps settle before anything reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

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
            weight = self.get_parameter(f"{name}.weight").flatten(0, 1)
            x = F.conv_transpose2d(above, weight, padding=1, groups=self.seeds)
            found.append(F.interpolate(x, size=below.shape[-2:]).tanh())
        return found

    def settle(self, maps: Sequence[Tensor], nudge: Nudge | None = None) -> list[Tensor]:
        """Run the inference from r1, r2, r3; `nudge` is added to the drive of r3."""
        r1, r2, r3 = maps
        _, w2, w3 = (c.weight.flatten(0, 1) for c in self.convolutions)
        for _ in range(self.steps):
            p1, p2 = self.predictions((r1, r2, r3))
            e1, e2 = r1 - p1, r2 - p2
            up2, up3 = (
                F.avg_pool2d(F.conv2d(e, w, padding=1, groups=self.seeds), 2)
                for e, w in ((e1, w2), (e2, w3))
            )
            if nudge is not None:
                up3 = up3 + nudge(r3)
            r1, r2, r3 = (
                F.relu(r + self.rate * drive)
                for r, drive in ((r1, -e1), (r2, up2 - e2), (r3, up3))
            )
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
