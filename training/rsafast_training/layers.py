"""Layers that hold S networks of one shape, one a seed, and run them together.

Every parameter has a leading axis of seeds. Feature maps are (N, S·C, H, W), the channels of a seed
side by side, so that a convolution of all seeds is one grouped convolution; vectors are (S, N, F).
S = 1 is an ordinary network. What a seed computes does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rsafast_kernels.feedback import feedback_conv2d, feedback_linear
from torch import Tensor, nn
from torch.nn import functional as F

from rsafast_training.randomness import from_host

__all__ = ["BatchNorm2d", "Conv2d", "Dropout", "Linear", "maps_to_vectors"]


class Conv2d(nn.Module):
    """Convolution with square kernels, stride and padding.

    Attributes
    ----------
    weight : (S, out, in, k, k) parameter
    bias : (S, out) parameter or None
    feedback : (S, out, in, k, k) buffer or None
        Weights that errors travel back through; None is backpropagation.
    """

    feedback: Tensor | None

    def __init__(
        self,
        seeds: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        shape = (seeds, out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(seeds, out_channels)) if bias else None
        self.register_buffer("feedback", None, persistent=False)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, S·in, H, W) to (N, S·out, H', W')."""
        weight = self.weight.flatten(0, 1)
        bias = None if self.bias is None else self.bias.flatten()
        groups = len(self.weight)
        if self.feedback is None:
            return F.conv2d(x, weight, bias, self.stride, self.padding, groups=groups)
        return feedback_conv2d(
            x, weight, bias, self.feedback.flatten(0, 1),
            stride=self.stride, padding=self.padding, groups=groups,
        )  # fmt: skip


class Linear(nn.Module):
    """Linear layer.

    Attributes
    ----------
    weight : (S, out, in) parameter
    bias : (S, out) parameter
    feedback : (S, out, in) buffer or None
        As in :class:`Conv2d`.
    """

    feedback: Tensor | None

    def __init__(self, seeds: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(seeds, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(seeds, out_features))
        self.register_buffer("feedback", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (S, N, in) to (S, N, out)."""
        if self.feedback is not None:
            return feedback_linear(x, self.weight, self.bias, self.feedback)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)


class BatchNorm2d(nn.Module):
    """Batch normalisation of feature maps, as ``torch.nn.BatchNorm2d`` (eps 1e-5, momentum 0.1).

    Attributes
    ----------
    weight, bias : (S, C) parameters
    running_mean, running_var : (S, C) buffers
    num_batches_tracked : (S,) int64 buffer
    frozen : bool
        Normalise by the running statistics in training too.
    batch_statistics : bool
        Normalise by the statistics of the batch in evaluation too, and update the running ones: the
        published study's defect, for the faithful profile.
    momentum : float or None
        None averages all batches equally.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, seeds: int, channels: int) -> None:
        super().__init__()
        shape = (seeds, channels)
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.register_buffer("num_batches_tracked", torch.zeros(seeds, dtype=torch.int64))
        self.momentum: float | None = 0.1
        self.eps = 1e-5
        self.frozen = self.batch_statistics = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, S·C, H, W)."""
        by_batch = self.batch_statistics or (self.training and not self.frozen)
        share = 0.0
        if by_batch:
            self.num_batches_tracked += 1
            share = self.momentum or 1.0 / float(self.num_batches_tracked[0])
        return F.batch_norm(
            x, self.running_mean.view(-1), self.running_var.view(-1), self.weight.flatten(),
            self.bias.flatten(), by_batch, share, self.eps,
        )  # fmt: skip

    def reset_statistics(self) -> None:
        """Mean 0, variance 1, no batch seen: the identity up to `eps`."""
        self.running_mean.zero_()
        self.running_var.fill_(1.0)
        self.num_batches_tracked.zero_()


class Dropout(nn.Module):
    """Dropout of (S, N, F), each seed from its own generator (`generators`, set by the trainer)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.generators: Sequence[torch.Generator] = ()

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share `rate` of the units in training, and scale the others up."""
        if not self.training or self.rate == 0:
            return x
        if len(self.generators) != len(x):
            raise RuntimeError(f"dropout of {len(x)} seeds has {len(self.generators)} generators")
        shape = x.shape[1:]
        draws = from_host(
            lambda: torch.stack([torch.rand(shape, generator=g) for g in self.generators]),
            x.device,
        )
        return x * (draws >= self.rate).to(x) / (1 - self.rate)


def maps_to_vectors(x: Tensor, seeds: int) -> Tensor:
    """Flatten (N, S·C, H, W) to (S, N, C·H·W)."""
    return x.reshape(len(x), seeds, -1).transpose(0, 1)
