"""Feedback alignment and its relatives: errors travel back through weights of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError
from torch import Tensor

from rsafast_training.initialisation import xavier_normal
from rsafast_training.layers import Conv2d, Linear
from rsafast_training.models.base import StackedModel
from rsafast_training.models.chain import Chain
from rsafast_training.optimisers import OptimiserSettings
from rsafast_training.randomness import generators
from rsafast_training.rules.backprop import GradientRule
from rsafast_training.rules.base import StepResult, angle_and_ratio

Variant = Literal["fa", "dfa", "sign"]


@dataclass(frozen=True, slots=True)
class FeedbackSettings:
    """Settings of feedback alignment.

    Attributes
    ----------
    variant : "fa" sends errors back layer by layer through fixed random weights (Lillicrap et al.
        2016), "dfa" from the output straight to every layer (Nøkland 2016), "sign" through the
        signs of the forward weights at a fixed size (uniform sign-concordant feedback, Moskovitz et
        al. 2018).
    layers : "all", or "conv": the linear layers then use their own weights, as the study did.
    optimiser : as backpropagation's.
    """

    variant: Variant = "fa"
    layers: Literal["all", "conv"] = "all"
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)

    def __post_init__(self) -> None:
        if self.variant not in ("fa", "dfa", "sign"):
            raise InvalidInputError(f"variant is {self.variant!r}; choose fa, dfa or sign")
        if self.layers not in ("all", "conv"):
            raise InvalidInputError(f"layers is {self.layers!r}; choose all or conv")


class FeedbackAlignment(GradientRule):
    """Feedback alignment; the feedback weights are Xavier normal and depend on the seed alone.

    The first layer has no one to send errors to, and no feedback weights.
    """

    name = "fa"
    Settings: ClassVar[type] = FeedbackSettings
    settings: FeedbackSettings

    def __init__(
        self, model: StackedModel, seeds: Sequence[int], settings: FeedbackSettings, epochs: int
    ) -> None:
        super().__init__(model, seeds, settings, epochs)
        named = {n: m for n, m in model.named_modules() if isinstance(m, Conv2d | Linear)}
        self._layers = {
            name: layer
            for name, layer in list(named.items())[1:]
            if settings.layers == "all" or isinstance(layer, Conv2d)
        }
        self._direct: dict[str, Tensor] = {}
        if settings.variant != "dfa":
            for name, layer in self._layers.items():
                layer.feedback = xavier_normal(layer.weight, generators(seeds, f"feedback/{name}"))
        elif not isinstance(model, Chain):
            raise UnsupportedCaseError(
                f"direct feedback needs a chain of blocks (cnn3, vgg5), not {model.name}; "
                "use variant='fa'"
            )
        elif settings.layers != "all":
            raise InvalidInputError("variant 'dfa' teaches all layers; leave layers at 'all'")

    def learn(self, images: Tensor, labels: Tensor) -> StepResult:
        """As backpropagation; "sign" reads the signs of the weights first."""
        if self.settings.variant == "sign":
            for layer in self._layers.values():
                assert layer.feedback is not None
                sizes = layer.feedback.flatten(1).square().mean(1).sqrt()
                shape = (-1, *[1] * (layer.weight.ndim - 1))
                layer.feedback.copy_(layer.weight.detach().sign() * sizes.view(shape))
        return super().learn(images, labels)

    def accumulate_gradients(self, images: Tensor, labels: Tensor) -> StepResult:
        """Fill the gradients; "dfa" projects the error of the output to every block."""
        if self.settings.variant != "dfa":
            return super().accumulate_gradients(images, labels)
        assert isinstance(self.model, Chain)
        outputs, x = [], self.model.stack_images(images)
        for block in self.model.blocks:
            x = block(self.model.block_input(block, x.detach()))
            outputs.append(x)
        logits = outputs[-1].detach()
        error = logits.softmax(-1)
        error.scatter_add_(-1, labels.unsqueeze(-1), -torch.ones_like(error[..., :1]))
        error /= labels.shape[-1]
        hidden = zip(self.model.layer_names, outputs[:-1], strict=False)
        teaching = [self._projected(error, name, output) for name, output in hidden]
        torch.autograd.backward(outputs, [*teaching, error])
        return StepResult.of_logits(logits, labels)

    def _projected(self, error: Tensor, name: str, output: Tensor) -> Tensor:
        """Send the error of the logits, (S, N, K), to the output of a block."""
        seeds, n, classes = error.shape
        units = output.numel() // (seeds * n)
        if name not in self._direct:
            draws = generators(self.seeds, f"feedback/{name}")
            self._direct[name] = xavier_normal(error.new_empty(seeds, units, classes), draws)
        taught = error @ self._direct[name].mT
        return taught if output.ndim == 3 else taught.transpose(0, 1).reshape(output.shape)

    def diagnostics(self) -> dict[str, Tensor]:
        """Angle in degrees between forward and feedback weights of each layer, and norm ratio."""
        found: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            if layer.feedback is not None:
                angle, ratio = angle_and_ratio(layer.weight.detach(), layer.feedback)
                found[f"angle/{name}"], found[f"norm_ratio/{name}"] = angle, ratio
        return found
