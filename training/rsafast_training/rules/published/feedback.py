"""Feedback alignment, as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rsafast_training.models.base import StackedModel
from rsafast_training.optimisers import OptimiserSettings
from rsafast_training.rules.feedback import FeedbackAlignment, FeedbackSettings
from rsafast_training.rules.published.settings import PublishedSettings


@dataclass(frozen=True, slots=True)
class PublishedFeedbackSettings(PublishedSettings):
    """Settings of the published feedback alignment.

    Attributes
    ----------
    true_fc_gradients : bool
        The linear layers use their own weights in the backward pass; fixed random weights act only
        from conv3 to conv2 and from conv2 to conv1. Off: in the linear layers too.
    conv_bias : bool
        The convolutions have biases, which those of the other rules do not. Batch norm subtracts
        them in training; evaluated with mean 0 and variance 1, they shift every map.
    kaiming_init : bool
        Normal initial convolutions of variance 2 / fan-in: conv1 has a standard deviation of .272
        where the other rules' has .111, 2.4 times less. Off: PyTorch's own, as theirs.
    optimiser : SGD, 5e-4, momentum .9, weight decay 1e-4, cosine, gradients clipped to norm 1.
    published_normalisation : see :class:`~.settings.PublishedSettings`.
    """

    true_fc_gradients: bool = True
    conv_bias: bool = True
    kaiming_init: bool = True
    optimiser: OptimiserSettings = field(
        default_factory=lambda: OptimiserSettings("sgd", lr=5e-4, momentum=0.9)
    )

    @property
    def init(self) -> str:
        """Initial weights of the model."""
        return "kaiming-normal-conv" if self.kaiming_init else "torch"

    @property
    def model_options(self) -> dict[str, Any]:
        """Options of the model."""
        return {"conv_bias": True} if self.conv_bias else {}


class PublishedFeedback(FeedbackAlignment):
    """Feedback alignment of the convolutions, as published."""

    Settings = PublishedFeedbackSettings

    def __init__(
        self,
        model: StackedModel,
        seeds: Sequence[int],
        settings: PublishedFeedbackSettings,
        epochs: int,
    ) -> None:
        own = FeedbackSettings(
            layers="conv" if settings.true_fc_gradients else "all", optimiser=settings.optimiser
        )
        super().__init__(model, seeds, own, epochs)
