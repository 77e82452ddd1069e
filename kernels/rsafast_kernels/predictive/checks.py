"""Checks of a chain, its batch and its options, before any work starts."""

import torch
from torch import Tensor

from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.predictive.layer import Layer


def check_options(
    steps: int,
    rate: float,
    momentum: float,
    loss: str,
    schedule: str,
    solver: str,
    has_callback: bool,
) -> None:
    """Refuse options that have no meaning, alone or together."""
    if steps < 1:
        raise InvalidInputError(f"steps must be at least 1, got {steps}")
    if not rate > 0:
        raise InvalidInputError(f"rate must be positive, got {rate}")
    if not 0 <= momentum < 1:
        raise InvalidInputError(f"momentum must be in [0, 1), got {momentum}")
    for name, given, known in (
        ("loss", loss, ("ce", "se")),
        ("schedule", schedule, ("standard", "fixed-pred", "incremental")),
        ("solver", solver, ("state", "error")),
    ):
        if given not in known:
            raise InvalidInputError(f"{name} must be one of {', '.join(known)}, got {given!r}")
    if solver == "error" and schedule != "standard":
        raise InvalidInputError(
            f"solver='error' goes with schedule='standard', got {schedule!r}; use solver='state'"
        )
    if (schedule == "incremental") != has_callback:
        raise InvalidInputError(
            "on_step moves the weights in every step: give it with schedule='incremental', and "
            f"only then; got schedule={schedule!r} {'with' if has_callback else 'without'} on_step"
        )


def check_chain(layers: list[Layer], x: Tensor, labels: Tensor) -> None:
    """Check that every layer fits the shape that reaches it, and labels fit the output."""
    if not layers:
        raise InvalidInputError("layers is empty; a chain needs at least its output layer")
    if x.dtype not in (torch.float32, torch.float64) or x.ndim not in (3, 4):
        raise InvalidInputError(
            "x must be float32 or float64 of shape (N, S*C, H, W) or (S, N, F), "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    shape = tuple(x.shape)
    for number, layer in enumerate(layers):
        _check_seeds(layer, layers[0].seeds, x, number)
        shape = _predicted_shape(layer, shape, number)
    if len(shape) != 3:
        raise InvalidInputError(
            f"the last layer must give (S, N, K) class scores, got a map of shape {shape}; "
            "end the chain with a dense layer"
        )
    _check_labels(labels, shape)


def _check_seeds(layer: Layer, seeds: int, x: Tensor, number: int) -> None:
    if layer.seeds != seeds:
        raise InvalidInputError(
            f"layers[{number}] stacks {layer.seeds} networks, layers[0] stacks {seeds}; "
            "all must agree"
        )
    if layer.weight.dtype != x.dtype or layer.weight.device != x.device:
        raise InvalidInputError(
            f"layers[{number}].weight is {layer.weight.dtype} on {layer.weight.device}, x is "
            f"{x.dtype} on {x.device}; move one to the other"
        )


def _predicted_shape(layer: Layer, below: tuple[int, ...], number: int) -> tuple[int, ...]:
    """Shape of a layer's prediction, from the shape of the value below it."""
    name = f"layers[{number}].weight {tuple(layer.weight.shape)}"
    seeds, out, wanted = layer.weight.shape[:3]
    if not layer.convolutional:
        per_seed = below[1] * below[2] * below[3] / seeds if len(below) == 4 else below[2]
        if per_seed != wanted or (len(below) == 3 and below[0] != seeds):
            raise InvalidInputError(f"{name} takes {wanted} inputs, what reaches it is {below}")
        samples = below[0] if len(below) == 4 else below[1]
        if layer.mask is not None and tuple(layer.mask.shape) != (seeds, samples, wanted):
            raise InvalidInputError(
                f"layers[{number}].mask must be (S, N, in) = {(seeds, samples, wanted)}, "
                f"got {tuple(layer.mask.shape)}"
            )
        return seeds, samples, out
    if len(below) != 4 or below[1] != seeds * wanted:
        raise InvalidInputError(
            f"{name} takes maps of {seeds}*{wanted} channels, what reaches it is {below}"
        )
    sides = [
        (side + 2 * layer.padding - kernel) // layer.stride + 1
        for side, kernel in zip(below[2:], layer.weight.shape[3:], strict=True)
    ]
    height, width = (side // (layer.pool or 1) for side in sides)
    if height < 1 or width < 1:
        raise InvalidInputError(
            f"{name} leaves nothing of a map of {below[2]}x{below[3]}; use larger images, or fewer "
            "poolings"
        )
    return below[0], seeds * out, height, width


def _check_labels(labels: Tensor, scores: tuple[int, ...]) -> None:
    seeds, samples, classes = scores
    if labels.dtype != torch.int64 or tuple(labels.shape) != (seeds, samples):
        raise InvalidInputError(
            f"labels must be int64 of shape (S, N) = {(seeds, samples)}, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    # Reading a value from a GPU would wait for it, and a CUDA graph forbids that.
    if labels.device.type == "cpu" and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise InvalidInputError(
                f"labels must be in [0, {classes - 1}], got values from {low} to {high}"
            )
