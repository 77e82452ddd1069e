"""Backpropagation and the untrained control, as published."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rsafast_training.optimisers import OptimiserSettings
from rsafast_training.rules.backprop import Backprop, Untrained
from rsafast_training.rules.base import StepResult
from rsafast_training.rules.published.settings import PublishedSettings


class PublishedUntrained(Untrained):
    """The published control: PyTorch's own initial weights, batch norm with mean 0 and variance 1.

    It was described as He normal, and was not: the first convolution has a standard deviation of
    .111, not .272. Its batch norm never saw an image, unlike that of every network it is compared
    with.
    """

    Settings = PublishedSettings
    regime = "identity"


@dataclass(frozen=True, slots=True)
class PublishedBackpropSettings(PublishedSettings):
    """Settings of the published backpropagation.

    Attributes
    ----------
    second_forward : bool
        After every step, a second forward pass in training mode, without gradients: batch norm's
        running averages move twice a batch (an effective momentum of .19) and dropout draws twice.
        Weights follow another dropout sequence, and evaluation other statistics. True is the code
        of the trajectories (2605.30556), False that of the endpoints (2604.16875).
    optimiser : Adam, 1e-3, weight decay 1e-4, cosine schedule, gradients clipped to norm 1.
    published_normalisation : see :class:`PublishedSettings`.
    """

    second_forward: bool = True
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)


class PublishedBackprop(Backprop):
    """Backpropagation of the cross-entropy, as published."""

    Settings = PublishedBackpropSettings
    settings: PublishedBackpropSettings

    def learn(self, images: Tensor, labels: Tensor) -> StepResult:
        """Forward, backward, optimiser, and forward again."""
        result = super().learn(images, labels)
        if self.settings.second_forward:
            with torch.no_grad():
                self.model(images)
        return result
