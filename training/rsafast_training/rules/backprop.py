"""Backpropagation, and the untrained control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from rsafast_training.models.base import StackedModel
from rsafast_training.optimisers import Optimiser, OptimiserSettings
from rsafast_training.rules.base import Rule, StepResult, cross_entropy


class GradientRule(Rule):
    """A rule that gives every parameter a gradient, which an optimiser follows.

    Its settings have an attribute ``optimiser``.
    """

    def __init__(
        self, model: StackedModel, seeds: Sequence[int], settings: Any, epochs: int
    ) -> None:
        super().__init__(model, seeds, settings, epochs)
        self.optimiser = Optimiser(model.parameters(), settings.optimiser, epochs)

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate."""
        self.optimiser.start_epoch(epoch)

    def learn(self, images: Tensor, labels: Tensor) -> StepResult:
        """Forward, backward, optimiser."""
        self.optimiser.zero_grad()
        result = self.accumulate_gradients(images, labels)
        self.optimiser.step()
        return result

    def accumulate_gradients(self, images: Tensor, labels: Tensor) -> StepResult:
        """Fill ``.grad`` of the parameters from the loss, through the layers' own backward pass."""
        logits = self.model(images)
        cross_entropy(logits, labels).sum().backward()
        return StepResult.of_logits(logits, labels)

    def state_tensors(self) -> dict[str, Tensor]:
        """State of the optimiser."""
        return self.optimiser.state_tensors()

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the optimiser."""
        self.optimiser.load_state_tensors(tensors)


@dataclass(frozen=True, slots=True)
class BackpropSettings:
    """Settings of backpropagation.

    Attributes
    ----------
    optimiser : Adam at 1e-3 with cosine schedule, as in the study.
    """

    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)


class Backprop(GradientRule):
    """Backpropagation of the cross-entropy."""

    name = "bp"
    Settings: ClassVar[type] = BackpropSettings


@dataclass(frozen=True, slots=True)
class UntrainedSettings:
    """The untrained control has nothing to set."""


class Untrained(Rule):
    """The control: weights stay as they were drawn."""

    name = "untrained"
    Settings: ClassVar[type] = UntrainedSettings

    def learn(self, images: Tensor, labels: Tensor) -> StepResult:
        """Change nothing."""
        return StepResult.of_logits(self.model(images), labels)
