"""Value relaxation: which convolution runs when, shared by every backend.

A chain keeps, for layer l (counted from 0), the value above it h_l, its prediction mu_l, its error
eps_l = h_l - mu_l, and its gated error act'(a_l) * unpool(eps_l). One step needs one transposed
convolution, one convolution and one element-wise pass a layer; what cannot change is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rsafast_kernels.predictive.layer import (
    Layer,
    LayerGradient,
    backward,
    channels_last,
    folded,
    forward,
    weight_gradients,
)

OnStep = Callable[[list[LayerGradient]], None]


@dataclass(frozen=True, slots=True)
class Descent:
    """How values move: step size and momentum of the descent, and how many steps."""

    steps: int
    rate: float
    momentum: float


class Chain:
    """The mutable state of one batch while it relaxes."""

    def __init__(
        self, layers: list[Layer], x: Tensor, labels: Tensor, loss: str, passes: ModuleType
    ) -> None:
        self.given = layers
        self.layers = [folded(layer) for layer in layers]
        self.passes = passes
        self.loss = loss
        self.top = len(layers) - 1
        self.x = channels_last(x)
        self.a: list[Tensor] = []
        self.mu: list[Tensor] = []
        self._feed_forward()
        self.logits = self.mu[-1]
        self.target = torch.zeros_like(self.logits).scatter_(2, labels[..., None], 1.0)
        self.values = [mu.clone(memory_format=torch.preserve_format) for mu in self.mu[:-1]]
        self.errors = [torch.zeros_like(mu) for mu in self.mu]
        self.velocities: list[Tensor | None] = [None] * self.top
        # None stands for an error that is exactly zero: one that no step has reached.
        self.gated: list[Tensor | None] = [None] * len(layers)
        self._set_output(self.a[-1], self.mu[-1])

    def below(self, level: int) -> Tensor:
        """Value that feeds a layer."""
        return self.values[level - 1] if level else self.x

    def start_velocities(self, momentum: float) -> None:
        """Make room for momentum, if there is any."""
        if momentum:
            self.velocities = [torch.zeros_like(value) for value in self.values]

    def renew_output(self) -> None:
        """Predict the output from the value below it, and set its error."""
        a = forward(self.layers[-1], self.below(self.top))
        layer = self.layers[-1]
        self._set_output(a, self.passes.predict(a, layer.activation, layer.pool))

    def back(self, level: int) -> Tensor:
        """Return what the gated error of a layer asks of the value below it."""
        gated = self.gated[level]
        if gated is None:
            return torch.zeros_like(self.below(level))
        return backward(self.layers[level], gated, self.below(level))

    def gate(self, level: int, a: Tensor, error: Tensor) -> Tensor:
        """Leave act'(a) * unpool(error) in `a`, and return it."""
        return self.passes.gate(a, error, self.layers[level].activation, self.layers[level].pool)

    def advance(self, level: int, back: Tensor, descent: Descent) -> None:
        """Move a value whose prediction stays."""
        self.passes.advance(*self._state(level, back, descent))

    def step(self, level: int, a: Tensor, back: Tensor, descent: Descent) -> None:
        """Move a value, renew its prediction from the pre-activation, and gate its error."""
        layer = self.layers[level]
        self.gated[level] = self.passes.step(
            a, *self._state(level, back, descent), layer.activation, layer.pool
        )

    def _state(self, level: int, back: Tensor, descent: Descent) -> tuple[Any, ...]:
        own = (self.mu[level], self.values[level], self.errors[level])
        return *own, back, self.velocities[level], descent.rate, descent.momentum

    def gradients(self) -> list[LayerGradient]:
        """Weight gradients of all layers, each from its own error and input."""
        return weight_gradients(self.given, self.gated, [self.x, *self.values])

    def energy(self) -> Tensor:
        """Energy of every network, mean over the batch: (S,)."""
        seeds, samples = self.target.shape[:2]
        hidden = torch.zeros(seeds, dtype=self.x.dtype, device=self.x.device)
        for error in self.errors[:-1]:
            by_seed = error.view(seeds, -1) if error.ndim == 3 else _by_seed(error, seeds)
            hidden += 0.5 * by_seed.square().sum(1)
        if self.loss == "se":
            return (hidden + 0.5 * self.errors[-1].square().sum((1, 2))) / samples
        logits = self.predicted_output
        log_likelihood = (F.log_softmax(logits, 2) * self.target).sum((1, 2))
        return (hidden - log_likelihood) / samples

    def _feed_forward(self) -> None:
        below = self.x
        for layer in self.layers:
            a = forward(layer, below)
            below = self.passes.predict(a, layer.activation, layer.pool)
            self.a.append(a)
            self.mu.append(below)

    def _set_output(self, a: Tensor, mu: Tensor) -> None:
        self.predicted_output = mu
        expected = torch.softmax(mu, 2) if self.loss == "ce" else mu
        self.errors[-1] = self.target - expected
        self.gated[-1] = self.gate(self.top, a, self.errors[-1])


def standard(
    chain: Chain, descent: Descent, skip: bool, watch: Callable[[], None], on_step: OnStep | None
) -> None:
    """All values move at once, down the energy; with `on_step`, weights may move as well.

    Skipping is exact: after the feed-forward start a layer's error is zero until the step in which
    the signal from the output arrives, so before it nothing that depends on it can change; and the
    prediction of the first layer depends on the input alone.
    """
    layers, top = chain.layers, chain.top
    chain.start_velocities(descent.momentum)
    if not skip:
        chain.gated[:-1] = [torch.zeros_like(a) for a in chain.a[:-1]]
    for number in range(1, descent.steps + 1):
        lowest = max(0, top - number) if skip else 0
        backs = [chain.back(level + 1) for level in range(lowest, top)]
        if on_step is not None:
            on_step(chain.gradients())
            layers[:] = [folded(layer) for layer in chain.given]
        for level, back in zip(range(lowest, top), backs, strict=True):
            if skip and level == 0:
                chain.advance(0, back, descent)
                continue
            below_moved = not skip or level > lowest
            a = forward(layers[level], chain.below(level)) if below_moved else chain.a[level]
            chain.step(level, a, back, descent)
        chain.renew_output()
        watch()
    if skip and 0 < top <= descent.steps:
        chain.gated[0] = chain.gate(0, chain.a[0], chain.errors[0])


def fixed_prediction(
    chain: Chain, descent: Descent, skip: bool, watch: Callable[[], None]
) -> None:
    """Predictions and slopes stay those of the feed-forward pass; only errors move.

    With rate 1 and no momentum an error is final in the step that reaches it, and equals minus the
    gradient that backpropagation computes: one transposed convolution a layer does it all.
    """
    top = chain.top
    chain.start_velocities(descent.momentum)
    final_at_once = skip and descent.rate == 1.0 and descent.momentum == 0.0
    for number in range(1, descent.steps + 1):
        lowest = max(0, top - number) if skip else 0
        moving = range(lowest, top)
        if final_at_once:
            moving = range(lowest, lowest + 1 if number <= top else lowest)
        backs = [chain.back(level + 1) for level in moving]
        for level, back in zip(moving, backs, strict=True):
            chain.advance(level, back, descent)
            chain.gated[level] = chain.gate(level, chain.a[level].clone(), chain.errors[level])
        watch()


def error_based(chain: Chain, descent: Descent, watch: Callable[[], None]) -> None:
    """Optimise the errors instead of the values: h_l = mu_l(h_{l-1}) + eps_l in one sweep upwards.

    A signal crosses all layers in every step, so that deep chains need few. Goemaere et al. (2025).
    """
    top = chain.top
    chain.start_velocities(descent.momentum)
    for _ in range(descent.steps):
        signal = chain.gated[top]
        for level in range(top - 1, -1, -1):
            back = backward(chain.layers[level + 1], _present(signal), chain.values[level])
            chain.advance(level, back, descent)
            if level:
                signal = chain.gate(level, chain.a[level], back)
        for level in range(top):
            if level:
                layer = chain.layers[level]
                chain.a[level] = forward(layer, chain.below(level))
                chain.mu[level] = chain.passes.predict(
                    chain.a[level], layer.activation, layer.pool
                )
            torch.add(chain.mu[level], chain.errors[level], out=chain.values[level])
        chain.renew_output()
        watch()
    for level in range(top):
        chain.gated[level] = chain.gate(level, chain.a[level], chain.errors[level])


def _present(signal: Tensor | None) -> Tensor:
    if signal is None:
        raise RuntimeError("the output error is set when a chain is made")
    return signal


def _by_seed(map_: Tensor, seeds: int) -> Tensor:
    """(N, S*C, H, W) -> (S, N*C*H*W)."""
    return map_.reshape(map_.shape[0], seeds, -1).transpose(0, 1).reshape(seeds, -1)
