"""STDP as dense weight gradients: filter one train along time, fold time into the batch, multiply.

Every term of a pair rule is the weight gradient of the layer with the filtered train in the place
of the activations (or of their gradients), time steps being so many more samples. No loop over time
steps, pairs or kernel offsets is left.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rsafast_kernels.stdp.geometry import Geometry
from rsafast_kernels.stdp.rule import Term, Trace


def filtered(signal: Tensor, trace: Trace) -> Tensor:
    """Apply a trace along the first axis; shape and dtype of `signal` (T, ...)."""
    if trace.nearest:
        return _last_spike(signal, trace)
    steps = torch.arange(signal.shape[0], device=signal.device, dtype=torch.float64)
    lag = steps[:, None] - steps
    kernel = torch.where(
        lag > 0, trace.past * trace.past_decay**lag, trace.future * trace.future_decay**-lag
    ).fill_diagonal_(trace.now)
    return (kernel.to(signal.dtype) @ signal.reshape(len(steps), -1)).view(signal.shape)


def _last_spike(signal: Tensor, trace: Trace) -> Tensor:
    value = torch.zeros_like(signal[0])
    out = torch.empty_like(signal)
    for t, spikes in enumerate(signal):
        value = value * trace.past_decay
        out[t] = trace.past * value
        if trace.now:
            out[t] = torch.where(spikes != 0, trace.now * spikes, out[t])
        value = torch.where(spikes != 0, spikes, value)
    return out


def pair_sum(pre: Tensor, post: Tensor, terms: tuple[Term, ...], geometry: Geometry) -> Tensor:
    """Sum of the terms over time, batch and space: (G * Cout, Cin, kh, kw), dtype of `pre`."""
    parts = []
    for term in terms:
        term = term.on("pre" if pre.numel() < post.numel() else "post")
        x = filtered(pre, term.trace) if term.side == "pre" else pre
        y = filtered(post, term.trace) if term.side == "post" else post
        parts.append(_weight_gradient(x.flatten(0, 1), y.flatten(0, 1), geometry))
    return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]


def _weight_gradient(x: Tensor, y: Tensor, geometry: Geometry) -> Tensor:
    """Weight gradient of a convolution with inputs `x` and output gradients `y`."""
    in_channels = geometry.weight_shape[1]
    with _full_precision():
        if geometry.is_dense:
            x = x.view(len(x), geometry.groups, in_channels)
            y = y.view(len(y), geometry.groups, -1)
            return torch.bmm(y.permute(1, 2, 0), x.transpose(0, 1)).view(geometry.weight_shape)
        if in_channels < 8 and x.device.type == "cpu":
            # Few input channels leave the vector units of a planar layout half empty.
            x, y = (a.contiguous(memory_format=torch.channels_last) for a in (x, y))
        return torch.ops.aten.convolution_backward(
            y, x, x.new_empty(geometry.weight_shape), None, geometry.stride, geometry.padding,
            [1, 1], False, [0, 0], geometry.groups, [False, True, False],
        )[1]  # fmt: skip


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep TF32 out: LTP and LTD nearly cancel, and what is left needs all 24 bits."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
