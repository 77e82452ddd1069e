"""Spike-timing-dependent plasticity: convolutions learn from spike times, without labels.

Every convolution learns by itself, from patches of its input at random positions.

1. Encoding. A patch p is centred, decorrelated, z = (p - mean) Z, and brought to unit contrast, as
   retina and thalamus do. Each component then spikes once, with its sign: the larger, the earlier.
2. Integration. LIF neurons, one a channel, receive the spikes through synapses v; the first to
   reach its threshold spikes, and silences the others (winner-take-all).
3. Plasticity. Pair-based STDP between that spike and all input spikes: those up to it potentiate,
   those after it depress. At a spike of negative sign the synapse moves the other way: ON and OFF
   afferents share one signed weight.
4. Homeostasis. Thresholds move until all channels win equally often, synapses keep their length,
   and channels whose synapses overlap repel each other (lateral inhibition).

The weights of the convolution are receptive fields, synapses seen through the encoder: W = v Z, so
that W p is what v receives from p. The network is the ordinary one before, while and after it
learns. The linear layers are a readout, trained by the gradient of the cross-entropy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import cos, isfinite, pi
from typing import ClassVar

import torch
from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError
from rsafast_kernels.lif import LIF, LIFState, lif
from rsafast_kernels.stdp import STDP, stdp_linear
from torch import Tensor
from torch.nn import functional as F

from rsafast_training.layers import Conv2d
from rsafast_training.models.base import StackedModel
from rsafast_training.models.chain import Chain
from rsafast_training.optimisers import Optimiser, OptimiserSettings
from rsafast_training.randomness import from_host, generators
from rsafast_training.rules.base import Rule, StepResult, cross_entropy, prefixed, without_prefix

_EARLIEST = 2.0  # components of this size, in units of the patch's rms, spike in the first step
_THRESHOLD = 1.0  # of the neuron; where spikes really begin is _THRESHOLD + theta
_FIRING = 0.9  # share of patches that thresholds let a channel spike at
_THRESHOLD_RATE = 0.01  # a batch
_MEMORY = 0.01  # weight of a batch in mean and covariance, once there are many
_RENEWAL = 64  # batches between two encoders, after those of batches 1, 2, 4, 8, ...


@dataclass(frozen=True, slots=True)
class STDPSettings:
    """Settings of spike-timing-dependent plasticity.

    Attributes
    ----------
    rate : of learning in the first epoch; a synaptic vector of length 1 moves by up to about half
        of this a batch. It falls as a cosine to 0 in the last epoch, which is the readout's alone.
        0 leaves the convolutions as they were drawn.
    patches : of every image in a batch that each convolution learns from.
    steps : of time in which a patch spikes.
    tau_membrane, tau_plus, tau_minus : time constants of membrane, LTP and LTD, in steps.
    depression : amplitude of LTD where that of LTP is 1.
    whitening : variance that the encoder adds to every direction before it equalises them, in units
        of their mean; 0 would amplify noise, and much leaves the correlations of the input.
    repulsion : of channels, 0 to 1; 1 removes most of an overlap within few batches.
    optimiser : of the linear layers, as backpropagation's.
    """

    rate: float = 0.8
    patches: int = 4
    steps: int = 8
    tau_membrane: float = 8.0
    tau_plus: float = 3.0
    tau_minus: float = 3.0
    depression: float = 0.5
    whitening: float = 1.0
    repulsion: float = 1.0
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)

    def __post_init__(self) -> None:
        for name, least in (("patches", 1), ("steps", 2)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InvalidInputError(
                    f"{name} must be an integer of at least {least}, got {value}"
                )
        for name in ("rate", "depression", "repulsion"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInputError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.repulsion > 1:
            raise InvalidInputError(f"repulsion must be 0 to 1, got {self.repulsion}")
        if not (isfinite(self.whitening) and self.whitening > 0):
            raise InvalidInputError(f"whitening must be positive, got {self.whitening}")
        _neuron(self), _window(self)  # check the time constants


class SpikeTiming(Rule):
    """STDP of the convolutions of a chain of blocks; the linear layers read out."""

    name = "stdp"
    Settings: ClassVar[type] = STDPSettings
    settings: STDPSettings
    model: Chain

    def __init__(
        self, model: StackedModel, seeds: Sequence[int], settings: STDPSettings, epochs: int
    ) -> None:
        if not isinstance(model, Chain):
            raise UnsupportedCaseError(
                f"STDP needs a chain of blocks (cnn3, vgg5), not {model.name}"
            )
        super().__init__(model, seeds, settings, epochs)
        self._plastic = {
            block.name: PlasticConvolution(block.linear, settings)
            for block in model.blocks
            if isinstance(block.linear, Conv2d)
        }
        self._readout = [block for block in model.blocks if block.name not in self._plastic]
        parameters = [p for block in self._readout for p in block.linear.parameters()]
        self.optimiser = Optimiser(parameters, settings.optimiser, epochs)

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rates, and the generators of positions."""
        self.optimiser.start_epoch(epoch)
        done = (epoch - 1) / max(1, self.epochs - 1)
        rate = self.settings.rate * (1 + cos(pi * done)) / 2
        for name, layer in self._plastic.items():
            layer.start_epoch(rate, generators(self.seeds, f"stdp/{name}", epoch))

    def prepare(self, samples: int) -> None:
        """Count the batch in every convolution that learns."""
        for layer in self._learning:
            layer.prepare(samples)

    @property
    def decides(self) -> bool:
        """Whether an encoder is renewed, which decomposes a matrix with the host's help."""
        return any(layer.renews for layer in self._learning)

    @property
    def _learning(self) -> list[PlasticConvolution]:
        return [layer for layer in self._plastic.values() if layer.rate]

    def learn(self, images: Tensor, labels: Tensor) -> StepResult:
        """Let every convolution learn from what reaches it, then train the readout on the last."""
        x = self.model.stack_images(images).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            for block in self.model.blocks[: len(self._plastic)]:
                if self._plastic[block.name].rate:
                    self._plastic[block.name].learn(x)
                x = block(x)
        for block in self._readout:
            x = block(self.model.block_input(block, x))
        self.optimiser.zero_grad()
        cross_entropy(x, labels).sum().backward()
        self.optimiser.step()
        return StepResult.of_logits(x, labels)

    def diagnostics(self) -> dict[str, Tensor]:
        """Share of patches that made a channel spike, and share of all spikes of the rarest."""
        found: dict[str, Tensor] = {}
        for name, layer in self._plastic.items():
            if not layer.presented:
                continue
            found[f"spiking/{name}"] = layer.wins.sum(-1) / layer.presented
            found[f"rarest/{name}"] = layer.wins.amin(-1) / layer.wins.sum(-1).clamp(min=1)
        return found

    def state_tensors(self) -> dict[str, Tensor]:
        """State of the readout's optimiser, of encoders and of thresholds."""
        tensors = prefixed("readout", self.optimiser.state_tensors())
        for name, layer in self._plastic.items():
            tensors |= prefixed(name, layer.state)
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore them."""
        self.optimiser.load_state_tensors(without_prefix("readout", tensors))
        for name, layer in self._plastic.items():
            for key, value in without_prefix(name, tensors).items():
                layer.state[key].copy_(value)


class PlasticConvolution:
    """A convolution that learns by STDP, for S stacked networks, in float32.

    Parameters
    ----------
    convolution : its weights are changed in place
    settings : see :class:`STDPSettings`

    Attributes
    ----------
    state : dict of tensors
        mean (S, D) and covariance (S, D, D) of patches of D numbers; encoder Z and its inverse,
        decoder, (S, D, D); theta (S, out), adaptive part of the thresholds; batches () seen.
    wins, presented : (S, out) spikes, and patches, of the epoch so far.
    """

    def __init__(self, convolution: Conv2d, settings: STDPSettings) -> None:
        self.convolution, self.settings = convolution, settings
        self._neuron, self._window = _neuron(settings), _window(settings)
        weight = convolution.weight.detach()
        seeds, channels, inputs = weight.flatten(2).shape
        square = weight.new_zeros(seeds, inputs, inputs, dtype=torch.float32)
        self.state = {
            "mean": square[:, 0].clone(),
            "covariance": square,
            "encoder": square.clone(),
            "decoder": square.clone(),
            "theta": weight.new_zeros(seeds, channels, dtype=torch.float32),
            "batches": torch.tensor(0),  # stays on the CPU, where it is counted and read
        }

    def start_epoch(self, rate: float, draws: Sequence[torch.Generator]) -> None:
        """Set the learning rate and the generators of positions, one a seed."""
        self.rate, self._draws = rate, draws
        self.wins, self.presented = torch.zeros_like(self.state["theta"]), 0

    def prepare(self, samples: int) -> None:
        """Count a batch of `samples` images that will be seen."""
        self.state["batches"] += 1
        self.presented += samples * self.settings.patches

    @property
    def renews(self) -> bool:
        """Whether the batch that was counted last renews the encoder."""
        seen = int(self.state["batches"])
        return seen % _RENEWAL == 0 or seen & (seen - 1) == 0

    def learn(self, x: Tensor) -> None:
        """Change the weights by what happens when maps x, (N, S·in, H, W), are seen."""
        patches = self._patches(x).float()
        self._observe(patches)
        encoder, decoder = self.state["encoder"], self.state["decoder"]
        weight = self.convolution.weight.detach().flatten(2).float()
        synapses = F.normalize(weight @ decoder, dim=-1)
        synapses = self._after_spikes(synapses, encode(
            (patches - self.state["mean"].unsqueeze(1)) @ encoder, self.settings.steps
        ))  # fmt: skip
        fields = _repelled(synapses, self.settings.repulsion) @ encoder
        # Batch norm undoes any scale; keeping it keeps networks without batch norm in range.
        fields *= weight.norm(dim=-1, keepdim=True) / fields.norm(dim=-1, keepdim=True)
        self.convolution.weight.copy_(fields.view_as(self.convolution.weight))

    def _after_spikes(self, synapses: Tensor, pre: Tensor) -> Tensor:
        """Synapses (S, out, D) after patches have spiked, pre (T, S, M, D); moves thresholds."""
        theta, samples, inputs = self.state["theta"], *pre.shape[2:]
        current = (pre @ synapses.mT) * inputs**-0.5
        if int(self.state["batches"]) == 1:
            theta.copy_(self._initial_theta(current))
        post, _ = lif(current, self._neuron, state=LIFState.rest(current, theta))
        wins = post.sum((0, 2))
        theta += _THRESHOLD_RATE * (wins * wins.shape[1] / samples - _FIRING).clamp(max=3)
        self.wins += wins
        change = stdp_linear(pre, post, synapses, self._window, reduction="sum")
        step = self.rate * inputs**-0.5 / wins.clamp(min=1)
        return F.normalize(synapses + step.unsqueeze(-1) * change, dim=-1)

    def _initial_theta(self, current: Tensor) -> Tensor:
        """Theta, (S, 1), at which _FIRING of the patches would make a channel spike."""
        potential = torch.zeros_like(current[0])
        peak = potential.new_full(current.shape[1:3], -float("inf"))
        for arriving in current:
            potential = self._neuron.leak * potential + arriving
            peak = torch.maximum(peak, potential.amax(-1))
        return peak.quantile(1 - _FIRING, dim=-1, keepdim=True) - _THRESHOLD

    def _patches(self, x: Tensor) -> Tensor:
        """Patches at random positions of every map, (S, M, D), zero-padded as the convolution's."""
        padding, size = self.convolution.padding, self.convolution.weight.shape[-1]
        seeds, n = len(self.convolution.weight), len(x)
        x = F.pad(x, (padding,) * 4)
        height, width = x.shape[2:]
        corners = from_host(
            lambda: torch.stack([
                torch.stack([
                    torch.randint(side - size + 1, (n, self.settings.patches), generator=g)
                    for g in self._draws
                ])
                for side in (height, width)
            ]),
            x.device,
        )  # fmt: skip
        rows, columns = corners[..., None, None]
        offsets = torch.arange(size, device=x.device)
        s = torch.arange(seeds, device=x.device).view(-1, 1, 1, 1, 1)
        i = torch.arange(n, device=x.device).view(-1, 1, 1, 1)
        maps = x.view(n, seeds, -1, height, width)
        found = maps[i, s, :, rows + offsets.view(-1, 1), columns + offsets]
        return found.movedim(-1, -3).reshape(seeds, n * self.settings.patches, -1)

    def _observe(self, patches: Tensor) -> None:
        """Follow mean and covariance of the input, and renew the encoder from time to time."""
        state = self.state
        share = from_host(self._share, patches.device)
        state["mean"].lerp_(patches.mean(1), share)
        centred = patches - state["mean"].unsqueeze(1)
        state["covariance"].lerp_(centred.mT @ centred / patches.shape[1], share)
        if not self.renews:
            return
        variances, axes = torch.linalg.eigh(state["covariance"].double())
        added = self.settings.whitening * variances.mean(-1, keepdim=True)
        # The smallest normal number keeps an input that never changes from dividing by zero.
        deviations = (variances.clamp(min=0) + added).clamp(min=1e-30).sqrt().unsqueeze(1)
        state["encoder"].copy_((axes / deviations) @ axes.mT)
        state["decoder"].copy_((axes * deviations) @ axes.mT)


    def _share(self) -> Tensor:
        """Weight of the present batch in mean and covariance, ()."""
        return torch.tensor(max(1 / int(self.state["batches"]), _MEMORY))


def encode(components: Tensor, steps: int) -> Tensor:
    """Spikes of signed components, one each: the larger, the earlier.

    Parameters
    ----------
    components : (..., D) tensor
        Scaled to unit root mean square over D first; those of 2 and more spike in the first step,
        zeros never.
    steps : T, number of time steps

    Returns
    -------
    (T, ..., D) tensor
        -1, 0 or 1.
    """
    size = components.square().mean(-1, keepdim=True).sqrt()
    scaled = components / size.clamp(min=1e-6)
    times = ((1 - scaled.abs() / _EARLIEST).clamp(min=0) * steps).floor()
    signs = scaled.sign()
    return torch.stack([(times == step) * signs for step in range(steps)])


def _repelled(synapses: Tensor, repulsion: float) -> Tensor:
    """Unit vectors (S, out, D) after a step away from those they overlap with."""
    overlaps = synapses @ synapses.mT
    # The largest row sum bounds the spectrum of the overlaps, beyond which a step would diverge.
    step = repulsion / overlaps.abs().sum(-1).amax(-1).view(-1, 1, 1)
    overlaps.diagonal(dim1=1, dim2=2).zero_()
    return F.normalize(synapses - step * (overlaps @ synapses), dim=-1)


def _neuron(settings: STDPSettings) -> LIF:
    return LIF(
        tau=settings.tau_membrane, threshold=_THRESHOLD, refractory=settings.steps,
        winner_take_all="channels",
    )  # fmt: skip


def _window(settings: STDPSettings) -> STDP:
    return STDP(
        a_plus=1.0, a_minus=settings.depression, tau_plus=settings.tau_plus,
        tau_minus=settings.tau_minus, ties="ltp",
    )  # fmt: skip
