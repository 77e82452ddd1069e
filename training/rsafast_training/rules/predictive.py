"""Predictive coding: activity settles first, then every layer learns from its own error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError
from rsafast_kernels.predictive import (
    Layer,
    LayerGradient,
    Loss,
    Schedule,
    Solver,
    check_options,
    relax,
)
from torch import Tensor

from rsafast_training.layers import BatchNorm2d, Linear
from rsafast_training.models.base import StackedModel
from rsafast_training.models.chain import Block, Chain
from rsafast_training.optimisers import OptimiserSettings
from rsafast_training.rules.backprop import GradientRule
from rsafast_training.rules.base import StepResult


def _adaptive() -> OptimiserSettings:
    # Gradients of the first layer are near rate ** depth times backpropagation's, which an eps of
    # 1e-8 would drown.
    return OptimiserSettings(optimiser="adamw", eps=1e-16)


@dataclass(frozen=True, slots=True)
class PredictiveSettings:
    """Settings of predictive coding; see :func:`rsafast_kernels.predictive.relax`.

    Attributes
    ----------
    steps : of inference on a batch.
    rate, momentum : of the descent in the values. Larger rates bring the values nearer to their
        equilibrium, and learned less well where this was tried: on 8,000 images of CIFAR-10, test
        accuracy of cnn3 after 10 epochs is 53 % at .05, and within a point of backpropagation's at
        .005 (docs/training/predictive-coding.md).
    loss : "ce" cross-entropy at the output, or "se" squared error to the one-hot label.
    schedule : "standard"; "fixed-pred", with the feed-forward predictions throughout, which at rate
        1 is backpropagation; or "incremental" (Salvatori et al. 2024), where the weights follow in
        every step of inference, so that the optimiser takes `steps` steps a batch.
    solver : "state" (values move), or "error" (errors move, with the same equilibria).
    optimiser : AdamW; else as backpropagation's. Errors shrink with every layer down, by a factor
        near `rate`, so that a penalty added to the gradient, as Adam's, would outweigh them there.
    """

    steps: int = 7
    rate: float = 0.005
    momentum: float = 0.0
    loss: Loss = "ce"
    schedule: Schedule = "standard"
    solver: Solver = "state"
    optimiser: OptimiserSettings = field(default_factory=_adaptive)

    def __post_init__(self) -> None:
        check_options(
            self.steps, self.rate, self.momentum, self.loss, self.schedule, self.solver,
            has_callback=self.schedule == "incremental",
        )  # fmt: skip


class PredictiveCoding(GradientRule):
    """Predictive coding of a chain of blocks, label clamped at the output.

    Networks have no batch norm, or a frozen one: statistics of a batch would join the errors of its
    images. Dropout is drawn once a batch and held while values settle.
    """

    name = "pc"
    Settings = PredictiveSettings
    settings: PredictiveSettings
    model: Chain
    regime = "none"

    def __init__(
        self, model: StackedModel, seeds: Sequence[int], settings: PredictiveSettings, epochs: int
    ) -> None:
        if not isinstance(model, Chain):
            raise UnsupportedCaseError(
                f"predictive coding needs a chain of blocks (cnn3, vgg5), not {model.name}"
            )
        if not all(norm.frozen for norm in model.batch_norms().values()):
            raise UnsupportedCaseError(
                "predictive coding computes each image by itself, and batch statistics join the "
                "images of a batch; use batch_norm='none' or 'frozen'"
            )
        arrival = len(model.blocks) - 1
        if settings.solver == "state" and settings.steps < arrival:
            raise InvalidInputError(
                f"steps must be at least {arrival}, got {settings.steps}: errors descend one layer "
                f"a step, and {model.layer_names[0]} would never learn"
            )
        super().__init__(model, seeds, settings, epochs)

    def learn(self, images: Tensor, labels: Tensor) -> StepResult:
        """Settle and learn; "incremental" learns while it settles."""
        if self.settings.schedule != "incremental":
            return super().learn(images, labels)
        return self._relax(images, labels, learn=True)

    def accumulate_gradients(self, images: Tensor, labels: Tensor) -> StepResult:
        """Fill the gradients of all parameters from the settled errors."""
        return self._relax(images, labels, learn=False)

    def _relax(self, images: Tensor, labels: Tensor, *, learn: bool) -> StepResult:
        """Settle a batch, and leave its gradients, or learn from them in every step of it."""
        layers, s = self.layers(images.shape[1]), self.settings

        def on_step(gradients: list[LayerGradient]) -> None:
            self._set_gradients(gradients)
            self.optimiser.step()
            self._renew_affines(layers)

        found = relax(
            layers, self.model.stack_images(images), labels, steps=s.steps, rate=s.rate,
            momentum=s.momentum, loss=s.loss, schedule=s.schedule, solver=s.solver,
            on_step=on_step if learn else None,
        )  # fmt: skip
        if not learn:
            self._set_gradients(found.gradients())
        return StepResult.of_logits(found.logits, labels)

    def layers(self, samples: int) -> list[Layer]:
        """Return the blocks as the kernel takes them; draws the dropout of a batch."""
        masks = [None, *(self._dropout(block, samples) for block in self.model.blocks[:-1])]
        return [_layer(b, mask) for b, mask in zip(self.model.blocks, masks, strict=True)]

    def _dropout(self, block: Block, samples: int) -> Tensor | None:
        """Factor on the output of a block, (S, N, F)."""
        if block.dropout is None or not block.dropout.training:
            return None
        seeds, features = block.linear.weight.shape[:2]
        return block.dropout(block.linear.weight.new_ones(seeds, samples, features))

    def _set_gradients(self, gradients: list[LayerGradient]) -> None:
        for block, gradient in zip(self.model.blocks, gradients, strict=True):
            block.linear.weight.grad = gradient.weight
            if block.linear.bias is not None:
                block.linear.bias.grad = gradient.bias
            if block.norm is not None and gradient.scale is not None:
                assert gradient.shift is not None
                norm, inverse_std = block.norm, _inverse_std(block.norm)
                norm.weight.grad = inverse_std * (
                    gradient.scale - norm.running_mean * gradient.shift
                )
                norm.bias.grad = gradient.shift

    def _renew_affines(self, layers: list[Layer]) -> None:
        """Carry what the optimiser did to batch norms into the layers of a running relaxation."""
        for block, layer in zip(self.model.blocks, layers, strict=True):
            if block.norm is not None and layer.scale is not None and layer.shift is not None:
                scale, shift = _affine(block.norm)
                layer.scale.copy_(scale)
                layer.shift.copy_(shift)


def _layer(block: Block, mask: Tensor | None) -> Layer:
    linear = block.linear
    scale, shift = (None, None) if block.norm is None else _affine(block.norm)
    geometry = {} if isinstance(linear, Linear) else {
        "stride": linear.stride, "padding": linear.padding
    }  # fmt: skip
    return Layer(
        linear.weight, linear.bias, block.activation, block.pool, **geometry,
        scale=scale, shift=shift, mask=mask,
    )  # fmt: skip


def _inverse_std(norm: BatchNorm2d) -> Tensor:
    return (norm.running_var + norm.eps).rsqrt()


def _affine(norm: BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm with fixed statistics."""
    scale = norm.weight.detach() * _inverse_std(norm)
    return scale, norm.bias.detach() - norm.running_mean * scale
