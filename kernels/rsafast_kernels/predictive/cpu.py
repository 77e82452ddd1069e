"""The element-wise passes compiled for the CPU (native.cpp): float32, signatures of torch_.py."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsafast_kernels._native import native
from rsafast_kernels._threads import threads_for
from rsafast_kernels.predictive.layer import ACTIVATIONS

_CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
# Operations an element, for the choice of threads.
_COST = {"identity": 4.0, "relu": 4.0, "hardtanh": 4.0, "tanh": 20.0, "gelu": 40.0}


def _raw(tensor: Tensor) -> NDArray[np.float32]:
    """View the memory of a tensor as (N, H, W, C), or (S, N, F) as (S, 1, N, F)."""
    if tensor.ndim == 4:
        return tensor.permute(0, 2, 3, 1).numpy()
    return tensor.unsqueeze(1).numpy()


def _threads(a: Tensor, activation: str) -> int:
    return threads_for(_COST[activation] * a.numel())


def predict(a: Tensor, activation: str, pool: int | None) -> Tensor:
    """pool(act(a)), a new tensor."""
    if pool is None:
        mu = torch.empty_like(a)
    else:
        n, c, height, width = a.shape
        mu = a.new_empty((n, c, height // 2, width // 2)).contiguous(
            memory_format=torch.channels_last
        )
    native.predictive_predict(
        _raw(a), _raw(mu), _CODES[activation], pool is not None, _threads(a, activation)
    )
    return mu


def gate(a: Tensor, error: Tensor, activation: str, pool: int | None) -> Tensor:
    """Leave act'(a) * unpool(error) in `a`, and return it."""
    native.predictive_gate(
        _raw(a), _raw(error), _CODES[activation], pool is not None, _threads(a, activation)
    )
    return a


def advance(
    mu: Tensor,
    value: Tensor,
    error: Tensor,
    back: Tensor,
    velocity: Tensor | None,
    rate: float,
    momentum: float,
) -> None:
    """Move a value down its energy, its prediction staying, in place (see torch_.py)."""
    spare = error if velocity is None else velocity
    native.predictive_advance(
        _raw(mu), _raw(value), _raw(error), _raw(back), _raw(spare), rate,
        0.0 if velocity is None else momentum, _threads(mu, "relu"),
    )  # fmt: skip


def step(
    a: Tensor,
    mu: Tensor,
    value: Tensor,
    error: Tensor,
    back: Tensor,
    velocity: Tensor | None,
    rate: float,
    momentum: float,
    activation: str,
    pool: int | None,
) -> Tensor:
    """`advance`, renew the prediction from `a`, and `gate` the new error, in one pass."""
    spare = error if velocity is None else velocity
    native.predictive_step(
        _raw(a), _raw(mu), _raw(value), _raw(error), _raw(back), _raw(spare), rate,
        0.0 if velocity is None else momentum, _CODES[activation], pool is not None,
        _threads(a, activation),
    )  # fmt: skip
    return a
