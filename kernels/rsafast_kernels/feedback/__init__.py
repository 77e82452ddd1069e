"""Feedback alignment: layers whose backward pass sends errors through fixed weights.

The forward pass and the weight gradient are those of backpropagation; only the gradient with
respect to the input uses the feedback weights B in place of W (Lillicrap et al. 2016):

    y = W x + b,    ∂W = δy xᵀ,    δx = Bᵀ δy.

The weight gradient of a convolution does not depend on its weights, so B takes the place of W in
the very call that backpropagation makes, at the same cost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rsafast_kernels.errors import InvalidInputError

__all__ = ["feedback_conv2d", "feedback_linear"]


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        feedback: Tensor,
        stride: int,
        padding: int,
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(x, feedback)
        ctx.options = (stride, padding, groups, None if bias is None else [len(weight)])
        return torch.nn.functional.conv2d(x, weight, bias, stride, padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, feedback = ctx.saved_tensors
        stride, padding, groups, bias_sizes = ctx.options
        gradients = torch.ops.aten.convolution_backward(
            grad_outputs[0], x, feedback, bias_sizes, [stride, stride], [padding, padding],
            [1, 1], False, [0, 0], groups, ctx.needs_input_grad[:3],
        )  # fmt: skip
        return (*gradients, None, None, None, None)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, feedback)
        y = x @ weight.mT
        return y if bias is None else y + bias.unsqueeze(-2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, feedback = ctx.saved_tensors
        dy = grad_outputs[0]
        dx = dy @ feedback if ctx.needs_input_grad[0] else None
        dw = dy.mT @ x if ctx.needs_input_grad[1] else None
        db = dy.sum(-2) if ctx.needs_input_grad[2] else None
        return dx, dw, db, None


def feedback_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    feedback: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """Two-dimensional convolution whose errors travel back through `feedback`.

    Parameters
    ----------
    x : (N, C_in, H, W) tensor
    weight : (C_out, C_in / groups, kh, kw) tensor
    bias : (C_out,) tensor or None
    feedback : tensor of the shape of `weight`
        Takes no gradient.
    stride, padding, groups : int
        As in :func:`torch.nn.functional.conv2d`.

    Returns
    -------
    (N, C_out, H', W') tensor
        The convolution with `weight`. Its gradients accumulate as the convolution of torch does on
        the device at hand.

    Raises
    ------
    InvalidInputError
        Where `feedback` has another shape than `weight`.
    """
    _check(weight, feedback)
    return _Conv2d.apply(x, weight, bias, feedback, stride, padding, groups)


def feedback_linear(x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor) -> Tensor:
    """Linear layer whose errors travel back through `feedback`.

    Parameters
    ----------
    x : (..., N, I) tensor
    weight : (..., O, I) tensor
    bias : (..., O) tensor or None
    feedback : tensor of the shape of `weight`
        Takes no gradient.

    Returns
    -------
    (..., N, O) tensor
        ``x @ weight.mT + bias``.

    Raises
    ------
    InvalidInputError
        Where `feedback` has another shape than `weight`.
    """
    _check(weight, feedback)
    return _Linear.apply(x, weight, bias, feedback)


def _check(weight: Tensor, feedback: Tensor) -> None:
    if feedback.shape != weight.shape:
        raise InvalidInputError(
            f"feedback must have the shape of weight, {tuple(weight.shape)}, "
            f"got {tuple(feedback.shape)}"
        )
