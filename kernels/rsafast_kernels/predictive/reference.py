"""Predictive coding of one network in plain NumPy, float64: the oracle of every backend.

Layers are dicts with the fields of `Layer` without the axis of seeds: weight (out, in, kh, kw) or
(out, in), bias, scale and shift (out,) or None, activation, pool, stride, padding. Maps are
(N, C, H, W), vectors (N, F).
"""

from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
LayerDict = dict[str, Any]


def activate(a: Float, activation: str) -> Float:
    """act(a)."""
    if activation == "gelu":
        return a * _normal_cdf(a)
    if activation == "relu":
        return np.maximum(a, 0)
    if activation == "hardtanh":
        return np.clip(a, -1, 1)
    return np.tanh(a) if activation == "tanh" else a


def slope(a: Float, activation: str) -> Float:
    """act'(a)."""
    if activation == "gelu":
        return _normal_cdf(a) + a * np.exp(-(a**2) / 2) / np.sqrt(2 * np.pi)
    if activation == "relu":
        return (a > 0).astype(float)
    if activation == "hardtanh":
        return (np.abs(a) < 1).astype(float)
    return 1 - np.tanh(a) ** 2 if activation == "tanh" else np.ones_like(a)


def linear(layer: LayerDict, below: Float) -> Float:
    """W h + b, before the affine."""
    weight = layer["weight"]
    if weight.ndim == 2:
        out = below.reshape(len(below), -1) @ weight.T
    else:
        patches = _patches(layer, below)
        out = np.einsum("oikl,nikluv->nouv", weight, patches)
    bias = layer.get("bias")
    return out if bias is None else out + _per_channel(bias, out)


def preactivation(layer: LayerDict, below: Float) -> Float:
    """scale * (W h + b) + shift."""
    out = linear(layer, below)
    if layer.get("scale") is None:
        return out
    return out * _per_channel(layer["scale"], out) + _per_channel(layer["shift"], out)


def predict(layer: LayerDict, below: Float) -> Float:
    """mu = pool(act(a))."""
    value = activate(preactivation(layer, below), layer["activation"])
    return value if layer.get("pool") is None else _windows(value).max(2)


def gate(layer: LayerDict, below: Float, error: Float) -> Float:
    """act'(a) * unpool(error): the error goes to the first of a window's largest activations."""
    a = preactivation(layer, below)
    if layer.get("pool") is not None:
        windows = _windows(activate(a, layer["activation"]))
        unpooled = np.zeros_like(a)
        for index, which in np.ndenumerate(windows.argmax(2)):
            n, c, y, x = index
            unpooled[n, c, 2 * y + which // 2, 2 * x + which % 2] = error[index]
        error = unpooled
    return slope(a, layer["activation"]) * error


def back(layer: LayerDict, below: Float, error: Float) -> Float:
    """J^T eps: what a layer's error asks of the value below it."""
    gated = gate(layer, below, error)
    if layer.get("scale") is not None:
        gated = gated * _per_channel(layer["scale"], gated)
    weight = layer["weight"]
    if weight.ndim == 2:
        return (gated @ weight).reshape(below.shape)
    stride, pad = layer.get("stride", 1), layer.get("padding", 0)
    padded = np.zeros((*below.shape[:2], *(s + 2 * pad for s in below.shape[2:])))
    height, width = gated.shape[2:]
    for k in range(weight.shape[2]):
        for m in range(weight.shape[3]):
            padded[:, :, k : k + stride * height : stride, m : m + stride * width : stride] += (
                np.einsum("oi,nouv->niuv", weight[:, :, k, m], gated)
            )
    return padded[:, :, pad : pad + below.shape[2], pad : pad + below.shape[3]]


def gradient(layer: LayerDict, below: Float, error: Float) -> dict[str, Float]:
    """dE/dparameter, mean over the batch, from the layer's own error and input."""
    gated = -gate(layer, below, error) / len(below)
    sums = (0, *range(2, gated.ndim))
    result = {}
    if layer.get("scale") is not None:
        result["scale"] = (gated * linear(layer, below)).sum(sums)
        result["shift"] = gated.sum(sums)
        gated = gated * _per_channel(layer["scale"], gated)
    if layer["weight"].ndim == 2:
        result["weight"] = gated.T @ below.reshape(len(below), -1)
    else:
        result["weight"] = np.einsum("nouv,nikluv->oikl", gated, _patches(layer, below))
    if layer.get("bias") is not None:
        result["bias"] = gated.sum(sums)
    return result


def output_error(mu: Float, labels: NDArray[np.int64], loss: str) -> tuple[Float, Float]:
    """Minus the gradient of the loss in mu, and the loss of every sample."""
    target = np.eye(mu.shape[1])[labels]
    if loss == "se":
        return target - mu, 0.5 * ((target - mu) ** 2).sum(1)
    shifted = mu - mu.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return target - np.exp(log_p), -(target * log_p).sum(1)


def relax(
    layers: list[LayerDict],
    x: Float,
    labels: NDArray[np.int64],
    steps: int,
    rate: float,
    momentum: float = 0.0,
    loss: str = "ce",
) -> tuple[list[Float], list[Float], list[float]]:
    """Values h_0 .. h_{L-1}, errors eps_1 .. eps_L, and the energy before and after each step."""
    values = [x]
    for layer in layers[:-1]:
        values.append(predict(layer, values[-1]))
    velocities = [np.zeros_like(v) for v in values]
    errors, energy = _errors(layers, values, labels, loss)
    energies = [energy]
    for _ in range(steps):
        asked = [back(*above) for above in zip(layers, values, errors, strict=True)][1:]
        for level, wanted in enumerate(asked, start=1):
            velocities[level] = momentum * velocities[level] + errors[level - 1] - wanted
            values[level] = values[level] - rate * velocities[level]
        errors, energy = _errors(layers, values, labels, loss)
        energies.append(energy)
    return values, errors, energies


def _errors(
    layers: list[LayerDict], values: list[Float], labels: NDArray[np.int64], loss: str
) -> tuple[list[Float], float]:
    predictions = [predict(layer, v) for layer, v in zip(layers, values, strict=True)]
    errors = [v - mu for v, mu in zip(values[1:], predictions[:-1], strict=True)]
    last, losses = output_error(predictions[-1], labels, loss)
    energy = 0.5 * sum((e**2).sum() for e in errors) + losses.sum()
    return [*errors, last], float(energy / len(labels))


def _patches(layer: LayerDict, below: Float) -> Float:
    """(N, C, kh, kw, H', W') windows under every position of the kernel."""
    stride, pad = layer.get("stride", 1), layer.get("padding", 0)
    padded = np.pad(below, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, layer["weight"].shape[2:], axis=(2, 3)
    )
    return windows[:, :, ::stride, ::stride].transpose(0, 1, 4, 5, 2, 3)


def _windows(value: Float) -> Float:
    """(N, C, 4, H//2, W//2) the four entries of every 2x2 window, in reading order."""
    height, width = value.shape[2] // 2 * 2, value.shape[3] // 2 * 2
    value = value[:, :, :height, :width]
    corners = [value[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1)]
    return np.stack(corners, axis=2)


def _per_channel(parameter: Float, like: Float) -> Float:
    return parameter.reshape(1, -1, *(1,) * (like.ndim - 2))


def _normal_cdf(a: Float) -> Float:
    return 0.5 * (1 + np.vectorize(erf, otypes=[float])(a / np.sqrt(2)))
