"""Spike-timing-dependent plasticity as published: of channel means, and with the sign reversed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rsafast_kernels.errors import UnsupportedCaseError
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from rsafast_training.layers import Conv2d
from rsafast_training.models.base import StackedModel
from rsafast_training.models.cnn3 import Cnn3
from rsafast_training.optimisers import Optimiser, OptimiserSettings
from rsafast_training.randomness import from_host, generators
from rsafast_training.rules.base import Rule, StepResult, cross_entropy
from rsafast_training.rules.published.settings import PublishedSettings, head_optimiser

STEPS = 10  # of the simulation
SILENT = 11  # time of the first spike of a neuron that has none
TIME_CONSTANT = 20.0  # in steps
AMPLITUDE = 0.003
_RATE = 5e-4
_LARGEST_CHANGE = 0.002
_LARGEST_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class PublishedStdpSettings(PublishedSettings):
    """Settings of the published STDP.

    Attributes
    ----------
    reversed_window : bool
        See :func:`window`: a presynaptic spike before a postsynaptic one weakens the synapse, the
        opposite of the text and of biology. Off: it strengthens it, less the longer the interval.
    gap_rates : bool
        A "neuron" is the spatial mean of a channel, and all nine weights of a kernel change alike,
        so that no spatial pattern can be learned. Off: every position spikes, and each weight
        changes by the pairs that it connects, summed over positions.
    silent_as_late : bool
        A neuron without a spike counts as one that fired at step 11: about 60 % of the neurons
        whose input is near 0. Off: it pairs with no one.
    clamp_updates : bool
        Changes are cut at ±.002 and weights at ±1. With the other settings as published neither
        happens: changes stay below .003 · (1 − exp(−11/20)) = .00127. Off: neither is cut.
    train_batch_norm : bool
        Backpropagation trains scale and shift of all three batch norms, beside the linear layers:
        what of the features changes in training, does so through them. Off: the linear layers only.
    second_forward : bool
        Every step runs the forward pass twice, for the spikes and for the loss, which moves batch
        norm's running averages twice. Off: once, and the loss is that before the change.
    batch_statistics_at_evaluation : bool
        As in predictive coding: evaluation normalises by the statistics of each batch of stimuli.
    kaiming_init : bool
        As in feedback alignment: conv1 starts 2.4 times larger than that of the untrained control.
    optimiser : of linear layers and batch norm.
    published_normalisation : see :class:`~.settings.PublishedSettings`.
    """

    reversed_window: bool = True
    gap_rates: bool = True
    silent_as_late: bool = True
    clamp_updates: bool = True
    train_batch_norm: bool = True
    second_forward: bool = True
    batch_statistics_at_evaluation: bool = True
    kaiming_init: bool = True
    optimiser: OptimiserSettings = field(default_factory=head_optimiser)

    @property
    def init(self) -> str:
        """Initial weights of the model."""
        return "kaiming-normal-conv" if self.kaiming_init else "torch"

    @property
    def model_options(self) -> dict[str, Any]:
        """Options of the model."""
        return {"dropout": 0.0}


def window(dt: Tensor, *, reversed_window: bool = True) -> Tensor:
    """Weight change of a pair of spikes, of dt = t_post − t_pre in steps.

    Parameters
    ----------
    dt : tensor
    reversed_window : bool
        As published, A · (exp(−max(dt, 0)/20) − exp(min(dt, 0)/20)) with A = .003: −6.6e-4 for
        dt = 5, 6.6e-4 for dt = −5, 0 for 0; it grows with the interval. Else
        A · sign(dt) · exp(−|dt|/20): potentiation where the presynaptic spike comes first.
    """
    if reversed_window:
        late, early = dt.clamp(min=0), dt.clamp(max=0)
        return AMPLITUDE * ((-late / TIME_CONSTANT).exp() - (early / TIME_CONSTANT).exp())
    return AMPLITUDE * dt.sign() * (-dt.abs() / TIME_CONSTANT).exp()


def first_spikes(drive: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """First spike, 0 to 9 or `SILENT`, of neurons that fire with p = sigmoid(drive) / 10 a step.

    The step of the first success of independent draws is geometric, so one draw a neuron is enough.

    Parameters
    ----------
    drive : (S, N, ...) tensor
    draws : one generator a seed
    """
    p = torch.sigmoid(drive) / 10
    shape = drive.shape[1:]
    uniform = from_host(
        lambda: torch.stack([torch.rand(shape, generator=g) for g in draws]), p.device
    ).to(p)
    times = torch.floor(torch.log1p(-uniform) / torch.log1p(-p))
    return times.masked_fill(times >= STEPS, SILENT)


class PublishedStdp(Rule):
    """STDP of the convolutions, with batch norm and linear layers trained on the labels."""

    name = "stdp"
    Settings = PublishedStdpSettings
    settings: PublishedStdpSettings
    model: Cnn3

    def __init__(
        self,
        model: StackedModel,
        seeds: Sequence[int],
        settings: PublishedStdpSettings,
        epochs: int,
    ) -> None:
        if not isinstance(model, Cnn3):
            raise UnsupportedCaseError(f"published STDP trains cnn3, got {model.name}")
        super().__init__(model, seeds, settings, epochs)
        trained = ("fc", "bn") if settings.train_batch_norm else ("fc",)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = Optimiser(parameters, settings.optimiser, epochs)
        self._draws: list[torch.Generator] = []

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate, and the spikes of the epoch."""
        self.optimiser.start_epoch(epoch)
        self._draws = generators(self.seeds, "spikes", epoch)

    def learn(self, images: Tensor, labels: Tensor) -> StepResult:
        """Change the convolutions by their spikes, then descend the loss of a second pass."""
        self.optimiser.zero_grad()
        if self.settings.second_forward:
            with torch.no_grad():
                self._learn(self._pass(images)[0])
            logits = self.model(images)
        else:
            activity, logits = self._pass(images)
        cross_entropy(logits, labels).sum().backward()
        if not self.settings.second_forward:
            with torch.no_grad():
                self._learn(activity)
        self.optimiser.step()
        return StepResult.of_logits(logits, labels)

    def _pass(self, images: Tensor) -> tuple[list[tuple[Conv2d, Tensor, Tensor]], Tensor]:
        """Run the network; each convolution with its input and its rectified output, and logits."""
        x, activity = self.model.stack_images(images), []
        for block in self.model.blocks:
            x = self.model.block_input(block, x)
            y = block.linear(x)
            if isinstance(block.linear, Conv2d):
                activity.append((block.linear, x, F.relu(y)))
            x = block.activate(y if block.norm is None else block.norm(y))
        return activity, x

    def _learn(self, activity: Sequence[tuple[Conv2d, Tensor, Tensor]]) -> None:
        for layer, inputs, outputs in activity:
            pre, post = (self._spikes(x) for x in (inputs, outputs))
            change = self._between_means(pre, post) if self.settings.gap_rates else (
                self._between_positions(pre, post)
            )
            if self.settings.clamp_updates:
                change = change.clamp(-_LARGEST_CHANGE, _LARGEST_CHANGE)
            layer.weight.add_(change, alpha=_RATE)
            if self.settings.clamp_updates:
                layer.weight.clamp_(-_LARGEST_WEIGHT, _LARGEST_WEIGHT)

    def _spikes(self, maps: Tensor) -> Tensor:
        """First spikes of channel means, (S, N, C), or of all positions, (S, N, C, H, W)."""
        drive = self.model.unstack_maps(maps)
        return first_spikes(drive.mean((3, 4)) if self.settings.gap_rates else drive, self._draws)

    def _between_means(self, pre: Tensor, post: Tensor) -> Tensor:
        """Mean over images of the window of all pairs of channels, (S, out, in, 1, 1)."""
        changes = self._window(post.unsqueeze(3) - pre.unsqueeze(2))
        if not self.settings.silent_as_late:
            changes = changes * (post < STEPS).unsqueeze(3) * (pre < STEPS).unsqueeze(2)
        return changes.mean(1)[..., None, None]

    def _between_positions(self, pre: Tensor, post: Tensor) -> Tensor:
        """As between means, for every connected pair of positions, summed: (S, out, in, 3, 3).

        All outputs that fire at one step see their inputs through the same window, so the pairs of
        a step are one weight gradient.
        """
        seeds, n, channels = post.shape[:3]
        shape = (seeds * channels, pre.shape[2], 3, 3)
        before, after = (x.transpose(0, 1).flatten(1, 2) for x in (pre, post))
        late = self.settings.silent_as_late
        total = torch.zeros(shape, dtype=pre.dtype, device=pre.device)
        for step in [*range(STEPS), *([SILENT] if late else [])]:
            seen = self._window(step - before)
            if not late:
                seen = seen * (before < STEPS)
            fired = (after == step).to(pre)
            total += conv2d_weight(seen, shape, fired, padding=1, groups=seeds)
        return total.unflatten(0, (seeds, channels)) / n

    def _window(self, dt: Tensor) -> Tensor:
        return window(dt, reversed_window=self.settings.reversed_window)

    def state_tensors(self) -> dict[str, Tensor]:
        """State of the optimiser."""
        return self.optimiser.state_tensors()

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the optimiser."""
        self.optimiser.load_state_tensors(tensors)
