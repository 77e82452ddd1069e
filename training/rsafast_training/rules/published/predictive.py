"""Predictive coding, as published: random convolutions, a constant drift, and a trained head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rsafast_kernels.errors import UnsupportedCaseError
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from rsafast_training.models.base import StackedModel
from rsafast_training.models.cnn3_predictive import PredictiveCnn3
from rsafast_training.optimisers import Optimiser, OptimiserSettings
from rsafast_training.rules.base import Rule, StepResult, cross_entropy
from rsafast_training.rules.published.settings import PublishedSettings, head_optimiser

_RATE = 1e-4  # of the convolutions, per unit of error times input
_LARGEST_ERROR = 0.5
_LARGEST_CHANGE = 0.01  # before _RATE: a weight moves by 1e-6 a step at most


@dataclass(frozen=True, slots=True)
class PublishedPredictiveSettings(PublishedSettings):
    """Settings of the published predictive coding.

    Attributes
    ----------
    dc_updates : bool
        A convolution changes by the product of two means, of the error of each output channel and
        of each input channel, over images and positions: one number for all nine weights of a
        kernel, so that no spatial pattern can be learned. Off: the mean over images of the sum over
        positions, weight by weight.
    clamp_updates : bool
        Errors are cut at ±.5 and products at ±.01, then multiplied by 1e-4: no weight moves by more
        than 1e-6 a step, 2.5e-3 in the 2,480 steps of the study (2.2 % of conv1's initial standard
        deviation, 7.3 % of conv2's). Off: neither is cut.
    freeze_conv3 : bool
        conv3 never changes. Off: as conv1 and conv2 do.
    untrained_feedback : bool
        The weights that predict each layer from the one above stay as drawn, so that errors
        measure nothing that was learned. Off: they descend the squared prediction errors.
    unsupervised_inference : bool
        Inference never sees the labels; only the linear layers learn from them. Off: in training
        the cross-entropy pulls r3 too, as an energy of its own.
    second_forward : bool
        Every step runs the forward pass twice (errors are taken against a fresh one), which moves
        batch norm's running averages twice. Off: once. Weights are the same.
    batch_statistics_at_evaluation : bool
        Evaluation normalises by the statistics of each batch of stimuli, since switching the mode
        did nothing: features of an image depend on the images beside it. Off: by the running
        averages.
    inference_steps, inference_rate : of the model, in training and in evaluation.
    optimiser : of the linear layers.
    published_normalisation : see :class:`~.settings.PublishedSettings`.
    """

    dc_updates: bool = True
    clamp_updates: bool = True
    freeze_conv3: bool = True
    untrained_feedback: bool = True
    unsupervised_inference: bool = True
    second_forward: bool = True
    batch_statistics_at_evaluation: bool = True
    inference_steps: int = 10
    inference_rate: float = 0.02
    optimiser: OptimiserSettings = field(default_factory=head_optimiser)

    @property
    def model_options(self) -> dict[str, Any]:
        """Options of the model."""
        inference = {"steps": self.inference_steps, "rate": self.inference_rate}
        return {"dropout": 0.0, "predictive": inference}


class PublishedPredictive(Rule):
    """Predictive coding as published; the model is a :class:`PredictiveCnn3`."""

    name = "pc"
    Settings = PublishedPredictiveSettings
    settings: PublishedPredictiveSettings
    model: PredictiveCnn3

    def __init__(
        self,
        model: StackedModel,
        seeds: Sequence[int],
        settings: PublishedPredictiveSettings,
        epochs: int,
    ) -> None:
        if not isinstance(model, PredictiveCnn3):
            raise UnsupportedCaseError(
                "published predictive coding needs the model that its settings describe, got "
                f"{type(model).__name__}; build it with settings.model_options"
            )
        super().__init__(model, seeds, settings, epochs)
        head = [p for name, p in model.named_parameters() if name.startswith("fc")]
        self.optimiser = Optimiser(head, settings.optimiser, epochs)

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate of the linear layers."""
        self.optimiser.start_epoch(epoch)

    def learn(self, images: Tensor, labels: Tensor) -> StepResult:
        """Infer, move the convolutions, and train the linear layers on r3."""
        model = self.model
        with torch.no_grad():
            first = model.first_maps(images)
            nudge = None
            if not self.settings.unsupervised_inference:
                nudge = lambda r3: -self._label_gradient(r3, labels)  # noqa: E731
            settled = model.settle(first, nudge)
            if self.settings.second_forward:
                first = model.first_maps(images)
            inputs = [model.stack_images(images), *settled]
            for index in range(2 if self.settings.freeze_conv3 else 3):
                change = self._change(settled[index] - first[index], inputs[index])
                model.convolutions[index].weight.add_(change, alpha=_RATE)
        if not self.settings.untrained_feedback:
            self._learn_predictions(settled)
        self.optimiser.zero_grad()
        logits = model.read_out(settled[-1])
        cross_entropy(logits, labels).sum().backward()
        self.optimiser.step()
        return StepResult.of_logits(logits, labels)

    def _change(self, error: Tensor, inputs: Tensor) -> Tensor:
        """Error of a layer, (N, S·out, h, w), times its input, as (S, out, in, 1, 1 or 3, 3)."""
        seeds, bounded = self.model.seeds, self.settings.clamp_updates
        if bounded:
            error = error.clamp(-_LARGEST_ERROR, _LARGEST_ERROR)
        if self.settings.dc_updates:
            post, pre = (x.mean((0, 2, 3)).view(seeds, -1) for x in (error, inputs))
            change = torch.einsum("so,si->soi", post, pre)[..., None, None]
        else:
            # A pooled unit stands for four positions; each gets its share.
            spread = F.interpolate(error, size=inputs.shape[-2:]) / 4
            shape = (spread.shape[1], inputs.shape[1] // seeds, 3, 3)
            sums = conv2d_weight(inputs, shape, spread, padding=1, groups=seeds)
            change = sums.unflatten(0, (seeds, -1)) / len(inputs)
        return change.clamp(-_LARGEST_CHANGE, _LARGEST_CHANGE) if bounded else change

    @torch.enable_grad()
    def _label_gradient(self, r3: Tensor, labels: Tensor) -> Tensor:
        """Gradient of each image's cross-entropy with respect to r3."""
        r3 = r3.detach().requires_grad_()
        loss = cross_entropy(self.model.read_out(r3), labels).sum() * labels.shape[-1]
        return torch.autograd.grad(loss, r3)[0]

    def _learn_predictions(self, settled: Sequence[Tensor]) -> None:
        """Descend the squared prediction errors, mean over images, with respect to P."""
        weights = [self.model.get_parameter(f"predict{i}.weight") for i in (1, 2)]
        guessed = self.model.predictions(settled)
        errors = [(r - p).square().sum() for r, p in zip(settled, guessed, strict=False)]
        energy = torch.stack(errors).sum() / (2 * len(settled[0]))
        gradients = torch.autograd.grad(energy, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.add_(gradient, alpha=-_RATE)

    def state_tensors(self) -> dict[str, Tensor]:
        """State of the optimiser."""
        return self.optimiser.state_tensors()

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the optimiser."""
        self.optimiser.load_state_tensors(tensors)
