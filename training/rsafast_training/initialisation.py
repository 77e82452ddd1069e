"""Initial weights, from a seed alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from rsafast_kernels.errors import InvalidInputError
from torch import Tensor

from rsafast_training.layers import Conv2d, Linear
from rsafast_training.models.base import StackedModel

Scheme = Literal["torch", "kaiming-normal", "kaiming-normal-conv", "resnet"]


def initialise(model: StackedModel, seeds: Sequence[int], scheme: Scheme = "torch") -> None:
    """Draw the weights and biases of every layer, each seed from a generator of its own.

    Parameters
    ----------
    model : of ``len(seeds)`` networks
    seeds : one a network
    scheme : str
        "torch" draws what PyTorch's layers draw when they are made after
        ``torch.manual_seed(seed)``, bit for bit: uniform in ±1/sqrt(fan-in).
        "kaiming-normal": normal, variance 2/fan-in, biases uniform in ±1/sqrt(fan-in).
        "kaiming-normal-conv": so for convolutions, "torch" for linear layers.
        "resnet": as torchvision's ResNets: normal, variance 2/fan-out for convolutions; "torch" for
        linear layers.
    """
    if scheme not in get_args(Scheme):
        raise InvalidInputError(f"init is {scheme!r}; choose one of {', '.join(get_args(Scheme))}")
    layers = [m for m in model.modules() if isinstance(m, Conv2d | Linear)]
    with torch.no_grad():
        for index, seed in enumerate(seeds):
            draws = torch.Generator().manual_seed(seed)
            for layer in layers:
                _draw(layer, index, scheme, draws)


def _draw(layer: Conv2d | Linear, index: int, scheme: Scheme, draws: torch.Generator) -> None:
    weight = layer.weight[index]
    fan_in = weight[0].numel()
    bound = 1 / math.sqrt(fan_in)
    convolution = isinstance(layer, Conv2d)
    if scheme == "torch" or (scheme in ("resnet", "kaiming-normal-conv") and not convolution):
        # PyTorch's own route to this bound, which rounds differently from `bound`.
        torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=draws)
    elif scheme.startswith("kaiming-normal"):
        torch.nn.init.kaiming_normal_(weight, generator=draws)
    else:
        torch.nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=draws)
    if layer.bias is not None:
        layer.bias[index].uniform_(-bound, bound, generator=draws)


def xavier_normal(weight: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Fixed feedback weights of the shape of `weight`, (S, out, in, ...), one generator a seed."""
    fan_in, fan_out = weight[0, 0].numel(), weight[0, :, 0].numel()
    std = math.sqrt(2 / (fan_in + fan_out))
    drawn = [torch.empty(weight.shape[1:]).normal_(0, std, generator=g) for g in draws]
    return torch.stack(drawn).to(weight)
