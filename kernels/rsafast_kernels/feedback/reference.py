"""Gradients of feedback alignment, position by position in float64: the oracle of the tests."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def conv2d_gradients(
    x: Float, dy: Float, feedback: Float, stride: int, padding: int, groups: int
) -> tuple[Float, Float, Float]:
    """(dx, dw, db) for x (N, C, H, W), dy (N, O, H', W'), feedback (O, C / groups, kh, kw)."""
    out_channels, in_channels, kh, kw = feedback.shape
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    dx, dw = np.zeros_like(padded), np.zeros_like(feedback)
    for o in range(out_channels):
        first = o // (out_channels // groups) * in_channels
        channels = slice(first, first + in_channels)
        for i in range(dy.shape[2]):
            for j in range(dy.shape[3]):
                top, left = i * stride, j * stride
                rows, columns = slice(top, top + kh), slice(left, left + kw)
                error = dy[:, o, i, j][:, None, None, None]
                dw[o] += (error * padded[:, channels, rows, columns]).sum(0)
                dx[:, channels, rows, columns] += error * feedback[o]
    end = slice(padding, -padding) if padding else slice(None)
    return dx[:, :, end, end], dw, dy.sum((0, 2, 3))


def linear_gradients(x: Float, dy: Float, feedback: Float) -> tuple[Float, Float, Float]:
    """(dx, dw, db) for x (N, I), dy (N, O), feedback (O, I)."""
    return dy @ feedback, dy.T @ x, dy.sum(0)
