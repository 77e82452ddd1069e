"""One layer of a predictive-coding chain, its three linear maps, and its local weight gradient.

Layer l predicts the value above it from the one below, mu_l = pool(act(scale * (W_l h_{l-1} + b_l)
+ shift)). All its parameters carry a leading axis of S networks ("seeds") that relax side by side:
convolutions become one grouped convolution, dense layers one batched matrix product.

Maps are (N, S*C, H, W), seed-major channels, in memory channels last; vectors are (S, N, F).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rsafast_kernels.errors import InvalidInputError

Activation = Literal["identity", "relu", "hardtanh", "tanh", "gelu"]
ACTIVATIONS: tuple[str, ...] = ("identity", "relu", "hardtanh", "tanh", "gelu")


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One prediction: a linear map, a frozen affine, an activation, a 2x2 max-pooling.

    Parameters
    ----------
    weight : (S, out, in, kh, kw) for a convolution, (S, out, in) for a dense layer.
    bias : (S, out), or None.
    activation : "identity", "relu", "hardtanh" (bounds -1 and 1), "tanh" or "gelu" (exact).
    pool : None, or 2 for a 2x2 max-pooling of stride 2 after the activation.
    stride, padding : of the convolution, equal in both directions.
    scale, shift : (S, out) applied before the activation, both or neither: a batch norm whose
        statistics are frozen, scale = gamma / sqrt(variance + eps) and shift = beta - mean * scale.
    mask : (S, N, in) factor on the input of a dense layer: the dropout of one batch, held while
        values relax.
    """

    weight: Tensor
    bias: Tensor | None = None
    activation: Activation = "identity"
    pool: int | None = None
    stride: int = 1
    padding: int = 0
    scale: Tensor | None = None
    shift: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim not in (3, 5):
            raise InvalidInputError(
                "weight must be (S, out, in) or (S, out, in, kh, kw), got shape "
                f"{tuple(self.weight.shape)}; add the axis of seeds with weight[None]"
            )
        if self.activation not in ACTIVATIONS:
            raise InvalidInputError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )
        if self.pool not in (None, 2) or (self.pool and not self.convolutional):
            raise InvalidInputError(
                f"pool must be None, or 2 after a convolution, got {self.pool!r} for a weight of "
                f"shape {tuple(self.weight.shape)}"
            )
        if (self.scale is None) != (self.shift is None):
            raise InvalidInputError("scale and shift go together: give both, or neither")
        if self.mask is not None and self.convolutional:
            raise InvalidInputError("mask is for the input of a dense layer, not of a convolution")
        for name in ("bias", "scale", "shift"):
            given = getattr(self, name)
            if given is not None and given.shape != self.weight.shape[:2]:
                raise InvalidInputError(
                    f"{name} must be (S, out) = {tuple(self.weight.shape[:2])}, "
                    f"got {tuple(given.shape)}"
                )

    @property
    def convolutional(self) -> bool:
        """Whether the layer is a convolution."""
        return self.weight.ndim == 5

    @property
    def seeds(self) -> int:
        """Networks that are stacked in the parameters, S."""
        return self.weight.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class LayerGradient:
    """dE/dparameter of one layer, mean over the batch; None where it has no such parameter."""

    weight: Tensor
    bias: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None


def channels_last(value: Tensor) -> Tensor:
    """Return a map in channels-last memory, a vector in contiguous memory."""
    if value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value.contiguous()


def folded(layer: Layer) -> Layer:
    """Return the layer with its affine inside weight and bias, weights laid out channels last."""
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    if layer.scale is not None and layer.shift is not None:
        scale = layer.scale.detach()
        weight = weight * scale.reshape(*scale.shape, *(1,) * (weight.ndim - 2))
        bias = layer.shift.detach() if bias is None else scale * bias + layer.shift.detach()
    if layer.convolutional:
        flat = weight.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        weight = flat.unflatten(0, layer.weight.shape[:2])
    return replace(layer, weight=weight, bias=bias, scale=None, shift=None)


def forward(layer: Layer, below: Tensor) -> Tensor:
    """Return the pre-activation of a folded layer; a map below a dense layer is flattened."""
    weight, bias = layer.weight, layer.bias
    if layer.convolutional:
        flat = None if bias is None else bias.flatten()
        a = torch.ops.aten.convolution(
            below, weight.flatten(0, 1), flat, [layer.stride] * 2, [layer.padding] * 2, [1, 1],
            False, [0, 0], layer.seeds,
        )  # fmt: skip
        return channels_last(a)
    vectors = _as_vectors(layer, below)
    if bias is None:
        return torch.bmm(vectors, weight.mT)
    return torch.baddbmm(bias[:, None], vectors, weight.mT)


def backward(layer: Layer, gated: Tensor, below: Tensor) -> Tensor:
    """Return W^T gated, in the shape of the value `below`."""
    if layer.convolutional:
        back, _, _ = _convolution_backward(layer, gated, below, [True, False, False])
        return channels_last(back)
    back = torch.bmm(gated, layer.weight)
    if layer.mask is not None:
        back *= layer.mask
    if below.ndim == 3:
        return back
    return channels_last(back.transpose(0, 1).reshape(below.shape))


def weight_gradient(layer: Layer, gated: Tensor, below: Tensor) -> LayerGradient:
    """Gradient of the energy, mean over the batch, from the layer's own error and input.

    Parameters
    ----------
    layer : as the caller has it; only the affine's gradients read its parameters.
    gated : act'(a) * unpool(error), in the shape of the pre-activation.
    below : value of the layer below.
    """
    samples = gated.shape[0] if layer.convolutional else gated.shape[1]
    if layer.convolutional:
        _, raw, sums = _convolution_backward(layer, gated, below, [False, True, True])
        # In the memory order of the parameter, which is what optimisers are fast on.
        weight = raw.contiguous().reshape(layer.weight.shape)
        bias = sums.reshape(layer.weight.shape[:2])
    else:
        weight = torch.bmm(gated.mT, _as_vectors(layer, below))
        bias = gated.sum(1)
    return _unfolded(layer, weight / -samples, bias / -samples)


def weight_gradients(
    layers: Sequence[Layer], gated: Sequence[Tensor | None], inputs: Sequence[Tensor]
) -> list[LayerGradient]:
    """`weight_gradient` of every layer; None stands for an error that is exactly zero."""
    return [
        _no_gradient(layer) if error is None else weight_gradient(layer, error, below)
        for layer, error, below in zip(layers, gated, inputs, strict=True)
    ]


def _no_gradient(layer: Layer) -> LayerGradient:
    def zeros(parameter: Tensor | None) -> Tensor | None:
        return None if parameter is None else torch.zeros_like(parameter)

    return LayerGradient(
        torch.zeros_like(layer.weight), zeros(layer.bias), zeros(layer.scale), zeros(layer.shift)
    )


def _unfolded(layer: Layer, weight: Tensor, bias: Tensor) -> LayerGradient:
    """Carry gradients of folded weight and bias to weight, bias, scale and shift."""
    own = None if layer.bias is None else layer.bias.detach()
    if layer.scale is None:
        return LayerGradient(weight, None if own is None else bias)
    scale = layer.scale.detach()
    to_scale = (weight * layer.weight.detach()).flatten(2).sum(2)
    return LayerGradient(
        weight=weight * scale.reshape(*scale.shape, *(1,) * (weight.ndim - 2)),
        bias=None if own is None else bias * scale,
        scale=to_scale if own is None else to_scale + bias * own,
        shift=bias,
    )


def _as_vectors(layer: Layer, value: Tensor) -> Tensor:
    """Input of a dense layer, masked: (S, N, F), or (N, S*C, H, W) flattened to it."""
    if value.ndim == 4:
        value = value.reshape(value.shape[0], layer.seeds, -1).transpose(0, 1)
    return value if layer.mask is None else value * layer.mask


def _convolution_backward(
    layer: Layer, gated: Tensor, below: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    weight = layer.weight.detach().flatten(0, 1)
    return torch.ops.aten.convolution_backward(
        gated, below, weight, [weight.shape[0]], [layer.stride] * 2, [layer.padding] * 2, [1, 1],
        False, [0, 0], layer.seeds, wanted,
    )  # fmt: skip
