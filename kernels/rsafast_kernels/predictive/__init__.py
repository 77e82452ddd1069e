"""Predictive coding: relax the values of a chain of layers, and read local weight gradients off it.

The energy of a batch is E = sum_l 1/2 ||h_l - mu_l||^2, where mu_l = f_l(W_l h_{l-1}) is what layer
l predicts, f_l an affine, an activation and a max-pooling, h_0 the input; at the output the squared
error to the one-hot label, or the cross-entropy of mu_L. With errors eps_l = h_l - mu_l (at the
output: minus the gradient of the loss), inference descends E in the values,

    h_l <- h_l - rate * (eps_l - J_{l+1}^T eps_{l+1}),    J_{l+1} = d mu_{l+1} / d h_l,

from h_l = mu_l, and learning descends it in the weights, dE/dW_l = -(f_l' eps_l) * h_{l-1}: a
product of the layer's own error and its own input. Rao & Ballard (1999), Whittington & Bogacz
(2017).

Stacking: parameters have a leading axis of S networks, maps are (N, S*C, H, W), vectors (S, N, F).
Importing this module imports torch.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.predictive import relaxation
from rsafast_kernels.predictive.backends import Backend, full_precision, passes_for
from rsafast_kernels.predictive.checks import check_chain, check_options
from rsafast_kernels.predictive.layer import (
    ACTIVATIONS,
    Activation,
    Layer,
    LayerGradient,
    channels_last,
    folded,
    forward,
    weight_gradient,
    weight_gradients,
)
from rsafast_kernels.predictive.relaxation import Chain, Descent, OnStep

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Backend",
    "Layer",
    "LayerGradient",
    "Loss",
    "Relaxation",
    "Schedule",
    "Solver",
    "check_options",
    "local_gradient",
    "relax",
]

Loss = Literal["ce", "se"]
Schedule = Literal["standard", "fixed-pred", "incremental"]
Solver = Literal["state", "error"]


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """What `relax` found. Lists have one entry a layer, from the input to the output.

    Attributes
    ----------
    inputs : what feeds each layer, h_{l-1}: the relaxed value, or under "fixed-pred" the
        feed-forward prediction.
    values : relaxed values of the hidden layers, so one fewer than layers.
    errors : eps_l.
    gated : act'(a_l) * unpool(eps_l), in the shape of the pre-activation; None where eps_l is
        exactly zero because no step has reached the layer.
    logits : (S, N, K) output of the feed-forward pass, before relaxation.
    energy : (steps + 1, S) energy before the first step and after each, mean over the batch, if it
        was asked for.
    """

    layers: list[Layer]
    inputs: list[Tensor]
    values: list[Tensor]
    errors: list[Tensor]
    gated: list[Tensor | None]
    logits: Tensor
    energy: Tensor | None

    @torch.no_grad()
    @full_precision()
    def gradients(self) -> list[LayerGradient]:
        """Return `local_gradient` of every layer, without computing its pre-activation again."""
        return weight_gradients(self.layers, self.gated, self.inputs)


@torch.no_grad()
@full_precision()
def relax(
    layers: list[Layer],
    x: Tensor,
    labels: Tensor,
    *,
    steps: int = 7,
    rate: float = 0.05,
    momentum: float = 0.0,
    loss: Loss = "ce",
    schedule: Schedule = "standard",
    solver: Solver = "state",
    skip: bool = True,
    record_energy: bool = False,
    on_step: OnStep | None = None,
    backend: Backend = "auto",
) -> Relaxation:
    """Clamp input and label, start from the feed-forward pass, and let the values settle.

    Parameters
    ----------
    layers : from the input to the output; the last gives (S, N, K) class scores.
    x : (N, S*C, H, W), or (S, N, F) for a chain of dense layers; float32 or float64, the dtype of
        the parameters. Values must be finite; that is not checked here.
    labels : (S, N) int64 classes.
    steps, rate, momentum : of the descent in the values. A layer k below the output moves from step
        k on, so that the first of L layers learns only from `steps` >= L - 1.
    loss : "ce" cross-entropy, or "se" squared error to the one-hot label.
    schedule : "standard"; "fixed-pred", where predictions and slopes stay those of the feed-forward
        pass (rate 1 and L - 1 steps give the gradients of backpropagation); or "incremental",
        where `on_step` moves the weights together with the values, in every step.
    solver : "state" descends in the values, "error" in the errors, whose minima are the same.
    skip : leave out what cannot change. Exact; only a test has a reason to say False. Under
        "incremental" nothing can be left out.
    record_energy : keep the energy before the first step and after each.
    on_step : takes the weight gradients of one step, and updates the parameters in place.
    backend : "native" (CPU, float32), "torch" (any device and dtype), "triton" (CUDA, float32), or
        "auto": native or triton where they run, else torch.

    Raises
    ------
    InvalidInputError
        A shape, dtype or option does not fit.
    BackendUnavailableError
        The backend that was asked for cannot run here.
    """
    check_options(steps, rate, momentum, loss, schedule, solver, on_step is not None)
    check_chain(layers, x, labels)
    chain = Chain(layers, x, labels, loss, passes_for(x, backend))
    energies = [chain.energy()] if record_energy else []

    def watch() -> None:
        if record_energy:
            energies.append(chain.energy())

    descent = Descent(steps, rate, momentum)
    if solver == "error":
        relaxation.error_based(chain, descent, watch)
    elif schedule == "fixed-pred":
        relaxation.fixed_prediction(chain, descent, skip, watch)
    else:
        incremental = schedule == "incremental"
        relaxation.standard(chain, descent, skip and not incremental, watch, on_step)
    sources = chain.mu[:-1] if schedule == "fixed-pred" else chain.values
    return Relaxation(
        layers=list(layers),
        inputs=[chain.x, *sources],
        values=chain.values,
        errors=chain.errors,
        gated=chain.gated,
        logits=chain.logits,
        energy=torch.stack(energies) if record_energy else None,
    )


@torch.no_grad()
@full_precision()
def local_gradient(
    layer: Layer, below: Tensor, error: Tensor, *, backend: Backend = "auto"
) -> LayerGradient:
    """Gradient of the energy in one layer's parameters, from its own input and error alone.

    Parameters
    ----------
    layer : the layer.
    below : value that feeds it, (N, S*C, H, W) or (S, N, F).
    error : eps_l, in the shape of its prediction.

    Returns
    -------
    LayerGradient, mean over the batch; a descent step subtracts it.
    """
    passes = passes_for(below, backend)
    below, error = channels_last(below), channels_last(error)
    a = forward(folded(layer), below)
    expected = passes.predict(a, layer.activation, layer.pool).shape
    if error.shape != expected:
        raise InvalidInputError(
            f"error must have the shape of the layer's prediction, {tuple(expected)}, "
            f"got {tuple(error.shape)}"
        )
    return weight_gradient(layer, passes.gate(a, error, layer.activation, layer.pool), below)
