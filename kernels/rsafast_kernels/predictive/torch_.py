"""The element-wise passes in plain torch: any dtype and device, and the CPU's float64 path.

`predict`, `gate`, `advance` and `step` have the same signatures in every backend. Where a pass has
an argument `a`, the pre-activation, it may leave the gated error in its place.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def activate(a: Tensor, activation: str) -> Tensor:
    """act(a)."""
    if activation == "relu":
        return F.relu(a)
    if activation == "hardtanh":
        return F.hardtanh(a)
    if activation == "tanh":
        return torch.tanh(a)
    return F.gelu(a) if activation == "gelu" else a


def slope(a: Tensor, activation: str) -> Tensor:
    """act'(a), 0 at the corners of relu and hardtanh."""
    if activation == "relu":
        return (a > 0).to(a.dtype)
    if activation == "hardtanh":
        return ((a > -1) & (a < 1)).to(a.dtype)
    if activation == "tanh":
        return 1 - torch.tanh(a) ** 2
    if activation == "gelu":
        bell = torch.exp(-0.5 * a * a) * (0.5 / torch.pi) ** 0.5
        return 0.5 * torch.erfc(-a * 0.5**0.5) + a * bell
    return torch.ones_like(a)


def predict(a: Tensor, activation: str, pool: int | None) -> Tensor:
    """pool(act(a)), a new tensor."""
    value = activate(a, activation)
    if pool is None:
        return value.clone() if value is a else value
    return F.max_pool2d(value, 2)


def gate(a: Tensor, error: Tensor, activation: str, pool: int | None) -> Tensor:
    """act'(a) * unpool(error): what leaves the layer downwards, before the transposed weights."""
    if pool is not None:
        _, winners = F.max_pool2d(activate(a, activation), 2, return_indices=True)
        error = F.max_unpool2d(error, winners, [2, 2], output_size=a.shape[-2:])
    return a.copy_(slope(a, activation).mul_(error))


def advance(
    mu: Tensor,
    value: Tensor,
    error: Tensor,
    back: Tensor,
    velocity: Tensor | None,
    rate: float,
    momentum: float,
) -> None:
    """Move a value, whose prediction `mu` stays, down its energy, in place.

    velocity <- momentum * velocity + (error - back); error <- error - rate * velocity;
    value <- mu + error. Errors are carried along, never computed as value - mu: far from the output
    they are smaller than the rounding of a value.
    """
    change = error - back
    if velocity is not None:
        change = velocity.mul_(momentum).add_(change)
    error.sub_(change, alpha=rate)
    torch.add(mu, error, out=value)


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
    """`advance`, take the prediction from `a` for the old one, and `gate` the new error.

    error <- error - (prediction - mu); mu <- prediction; value <- mu + error. The gated error is
    returned.
    """
    advance(mu, value, error, back, velocity, rate, momentum)
    prediction = predict(a, activation, pool)
    error.sub_(prediction - mu)
    mu.copy_(prediction)
    torch.add(mu, error, out=value)
    return gate(a, error, activation, pool)
