"""Layers of feedback alignment against gradients written out position by position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.feedback import feedback_conv2d, feedback_linear, reference
from torch.nn import functional as F

CASES = [  # n, in, out, size, kernel, stride, padding, groups
    (3, 2, 4, 7, 3, 1, 1, 1),
    (2, 4, 6, 8, 3, 2, 1, 2),
    (1, 3, 3, 5, 1, 1, 0, 3),
    (2, 2, 2, 9, 5, 2, 0, 1),
    (4, 1, 5, 6, 3, 1, 2, 1),
]


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(3)
    return [torch.randn(s, generator=draws, dtype=torch.float64) for s in shapes]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_matches_reference(case: tuple[int, ...]) -> None:
    n, c, o, size, k, stride, padding, groups = case
    x, w, b, feedback = tensors((n, c, size, size), *[(o, c // groups, k, k)] * 1, (o,),
                                (o, c // groups, k, k))  # fmt: skip
    inputs = [t.requires_grad_() for t in (x, w, b)]
    y = feedback_conv2d(*inputs, feedback, stride=stride, padding=padding, groups=groups)
    assert torch.equal(y, F.conv2d(x, w, b, stride, padding, groups=groups))
    (dy,) = tensors(tuple(y.shape))
    y.backward(dy)
    wanted = reference.conv2d_gradients(
        x.detach().numpy(), dy.numpy(), feedback.numpy(), stride, padding, groups
    )
    for tensor, gradient in zip(inputs, wanted, strict=True):
        np.testing.assert_allclose(tensor.grad, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 3, 4), (1, 1, 1), (2, 7, 31, 33), (1, 2, 5, 3)], ids=str)
def test_linear_matches_reference(shape: tuple[int, ...]) -> None:
    *lead, n, i, o = shape if len(shape) == 4 else (1, *shape)
    x, w, b, feedback = tensors((*lead, n, i), (*lead, o, i), (*lead, o), (*lead, o, i))
    inputs = [t.requires_grad_() for t in (x, w, b)]
    y = feedback_linear(*inputs, feedback)
    (dy,) = tensors(tuple(y.shape))
    y.backward(dy)
    for s in range(lead[0]):
        wanted = reference.linear_gradients(
            x[s].detach().numpy(), dy[s].numpy(), feedback[s].numpy()
        )
        for tensor, gradient in zip(inputs, wanted, strict=True):
            np.testing.assert_allclose(tensor.grad[s], gradient, rtol=1e-12, atol=1e-12)


def test_equals_backpropagation_where_feedback_is_the_weight() -> None:
    x, w, b = tensors((2, 3, 8, 8), (4, 3, 3, 3), (4,))
    theirs = [t.clone().requires_grad_() for t in (x, w, b)]
    ours = [t.clone().requires_grad_() for t in (x, w, b)]
    F.conv2d(*theirs, padding=1).square().sum().backward()
    feedback_conv2d(*ours, w.clone(), padding=1).square().sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("layer", ["conv", "linear"])
def test_backward_pass_never_reads_the_weight(layer: str) -> None:
    """Overwriting W between the passes with NaN leaves every gradient as it was."""
    shapes = ((2, 3, 6, 6), (4, 3, 3, 3)) if layer == "conv" else ((1, 5, 6), (1, 4, 6))
    x, w, feedback = tensors(*shapes, shapes[1])
    gradients = []
    for poison in (False, True):
        own_x, own_w = x.clone().requires_grad_(), w.clone().requires_grad_()
        if layer == "conv":
            y = feedback_conv2d(own_x, own_w, None, feedback)
        else:
            y = feedback_linear(own_x, own_w, None, feedback)
        if poison:
            own_w.data.fill_(float("nan"))
        y.sum().backward()
        gradients.append((own_x.grad, own_w.grad))
    for clean, poisoned in zip(*gradients, strict=True):
        assert torch.equal(clean, poisoned)


def test_feedback_of_another_shape_is_refused() -> None:
    x, w, feedback = tensors((1, 2, 5, 5), (3, 2, 3, 3), (2, 3, 3, 3))
    with pytest.raises(InvalidInputError, match=r"\(3, 2, 3, 3\), got \(2, 3, 3, 3\)"):
        feedback_conv2d(x, w, None, feedback)
