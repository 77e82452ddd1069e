"""Spike-timing-dependent plasticity (STDP) of convolutions and dense layers, over whole trains.

A pair rule is bilinear in the two spike trains, so a window of T steps on N samples is one or two
products of a filtered train with the other one, and never a loop over steps or pairs. Backends:

- ``folded``: dense weight gradients in torch; any density, CPU and CUDA, float32 and float64.
- ``sparse``: C++, event by event; CPU, float32, in time proportional to the number of spikes.
- ``triton``: traces filtered inside the product, bounds in its epilogue; CUDA, float32.
- ``reference``: float64 loops over spike pairs, for tests.

Traces start at zero in every call, and the weights are frozen within it. "Spikes" need not be 0 and
1: rates, signed and graded values are multiplied as they are, on both sides (for the pairing
"nearest", any non-zero value is a spike).
"""

import math
from dataclasses import replace
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError
from rsafast_kernels.stdp import folded, reference, sparse
from rsafast_kernels.stdp.geometry import Geometry, pair
from rsafast_kernels.stdp.rule import STDP

__all__ = ["STDP", "latency_stdp_conv2d", "latency_stdp_linear", "stdp_conv2d", "stdp_linear"]

Backend = Literal["auto", "folded", "sparse", "triton", "reference"]
Precision = Literal["auto", "exact", "tf32x3", "bf16x3", "ieee", "tf32"]
Reduction = Literal["mean", "sum"]
BACKENDS = ("auto", "folded", "sparse", "triton", "reference")
PRECISIONS = ("auto", "exact", "tf32x3", "bf16x3", "ieee", "tf32")

# An addition of "sparse" takes some three times as long as one of the dense product, whose operands
# lie in order (bench_stdp.py).
SPARSE_BELOW = 1 / 3


def stdp_conv2d(
    pre: Tensor,
    post: Tensor,
    weight: Tensor,
    rule: STDP,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
    precision: Precision = "auto",
) -> Tensor:
    """Weight change of a convolution after T steps of activity.

    Parameters
    ----------
    pre : (T, N, groups * Cin, H, W) tensor
        Input spikes of N samples; any real dtype, on the device of `weight`.
    post : (T, N, groups * Cout, H', W') tensor
        Output spikes, of the size that the convolution gives.
    weight : (groups * Cout, Cin, kh, kw) tensor
        float32 (float64 only for "folded" and "reference"). It is read for the bounds and is never
        modified.
    rule : STDP
        The rule, its amplitudes and its bounds.
    stride, padding : int or (int, int), default 1 and 0
        As in ``torch.nn.functional.conv2d``; padding is silent. The dilation is 1.
    groups : int, default 1
        Independent groups of channels; S stacked networks are ``groups=S``.
    reduction : {"mean", "sum"}, default "mean"
        Over the batch: mean or sum. Over positions, where the weight is shared, always the sum.
    backend : {"auto", "folded", "sparse", "triton", "reference"}, default "auto"
        "auto" is "triton" on CUDA; on the CPU it is "sparse" where spikes are few enough for it to
        be faster (under some 20 %, estimated), and "folded" otherwise. An explicit choice never
        falls back.
    precision : {"auto", "exact", "tf32x3", "bf16x3", "ieee", "tf32"}, default "auto"
        Products of "triton", all on tensor cores but for "ieee", which is float32 units. "exact"
        takes trains of bytes (bool or uint8), which bfloat16 holds, and traces in three parts, so
        that no product is rounded. "tf32x3" takes any train in two parts, with errors near
        float32's, and "bf16x3" is coarser (1e-5 of a product). "tf32" rounds to 10 bits; LTP and
        LTD nearly cancel, so expect 2 to 3 digits. "auto" is "exact" for bytes, else "tf32x3".
        The other backends compute in full precision.

    Returns
    -------
    (groups * Cout, Cin, kh, kw) tensor
        The change to be added to `weight`, in its dtype. Sums are accumulated in that dtype; their
        relative error in float32 is some 1e-6 of the LTP and LTD sums, before they cancel.

    Raises
    ------
    InvalidInputError
        For shapes, devices or dtypes that do not fit together and for unknown choices. NaN and
        infinity are not looked for: what they touch is undefined.
    BackendUnavailableError
        Where an explicit backend cannot run on the tensors' device.

    Examples
    --------
    >>> import torch
    >>> from rsafast_kernels.stdp import STDP, stdp_conv2d
    >>> pre, post = torch.zeros(4, 1, 1, 1, 1), torch.zeros(4, 1, 1, 1, 1)
    >>> pre[0], post[2] = 1, 1
    >>> rule = STDP(a_plus=1, tau_plus=2, decay="euler")
    >>> stdp_conv2d(pre, post, torch.zeros(1, 1, 1, 1), rule).item()
    0.25
    """
    _check_choices(reduction, backend, precision)
    if pre.dim() != 5 or post.dim() != 5 or weight.dim() != 4:
        raise InvalidInputError(
            "pre and post must be (T, N, C, H, W) and weight (Cout, Cin, kh, kw), got "
            f"{tuple(pre.shape)}, {tuple(post.shape)} and {tuple(weight.shape)}; "
            "dense layers take stdp_linear"
        )
    geometry = Geometry(
        (weight.shape[0], weight.shape[1], weight.shape[2], weight.shape[3]),
        (pre.shape[3], pre.shape[4]), (post.shape[3], post.shape[4]),
        pair(stride, "stride", 1), pair(padding, "padding", 0), groups,
    )  # fmt: skip
    _check_geometry(pre, post, geometry)
    return _change(pre, post, weight, rule, geometry, reduction, backend, precision)


def stdp_linear(
    pre: Tensor,
    post: Tensor,
    weight: Tensor,
    rule: STDP,
    *,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
    precision: Precision = "auto",
) -> Tensor:
    """Weight change of a dense layer after T steps of activity.

    Parameters
    ----------
    pre : (T, N, I) tensor, or (T, S, N, I) for S stacked networks
        Input spikes of N samples.
    post : (T, N, O) or (T, S, N, O) tensor
        Output spikes.
    weight : (O, I) or (S, O, I) tensor
        float32 (float64 only for "folded" and "reference").
    rule, reduction, backend, precision
        As in `stdp_conv2d`, which also documents errors and accuracy.

    Returns
    -------
    (O, I) or (S, O, I) tensor
        The change to be added to `weight`.

    Examples
    --------
    >>> import torch
    >>> from rsafast_kernels.stdp import STDP, stdp_linear
    >>> pre, post = torch.zeros(4, 1, 1), torch.zeros(4, 1, 1)
    >>> pre[2], post[0] = 1, 1
    >>> rule = STDP(a_minus=1, tau_minus=2, decay="euler")
    >>> stdp_linear(pre, post, torch.zeros(1, 1), rule).item()
    -0.25
    """
    _check_choices(reduction, backend, precision)
    dims = weight.dim()
    if dims not in (2, 3) or pre.dim() != dims + 1 or post.dim() != dims + 1:
        raise InvalidInputError(
            "pre, post and weight must be (T, N, I), (T, N, O) and (O, I), or (T, S, N, I), "
            f"(T, S, N, O) and (S, O, I), got {tuple(pre.shape)}, {tuple(post.shape)} and "
            f"{tuple(weight.shape)}"
        )
    stack = 1 if dims == 2 else weight.shape[0]
    if dims == 3:
        if not pre.shape[1] == post.shape[1] == stack:
            raise InvalidInputError(
                f"pre, post and weight hold {pre.shape[1]}, {post.shape[1]} and {stack} networks; "
                "the stacks must be of one size"
            )
        pre, post = (a.transpose(1, 2).flatten(2) for a in (pre, post))
    flat = weight.flatten(0, -2)[..., None, None]
    geometry = Geometry((flat.shape[0], flat.shape[1], 1, 1), (1, 1), (1, 1), groups=stack)
    pre, post = pre[..., None, None], post[..., None, None]
    _check_geometry(pre, post, geometry)
    change = _change(pre, post, flat, rule, geometry, reduction, backend, precision)
    return change.view(weight.shape)


def latency_stdp_conv2d(
    pre_time: Tensor,
    post_time: Tensor,
    weight: Tensor,
    rule: STDP,
    *,
    window: Literal["exp", "order"] = "exp",
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
    precision: Precision = "auto",
) -> Tensor:
    """Weight change of a convolution whose neurons spike at most once.

    Parameters
    ----------
    pre_time : (N, groups * Cin, H, W) tensor
        Time of each input spike: whole steps of at least 0, or ``inf`` for a silent neuron.
    post_time : (N, groups * Cout, H', W') tensor
        Times of output spikes.
    weight, rule, stride, padding, groups, reduction, backend, precision
        As in `stdp_conv2d`.
    window : {"exp", "order"}, default "exp"
        "exp" is the rule's own window. "order" looks at order alone: every output spike adds
        ``a_plus`` where the input spiked no later, and subtracts ``a_minus`` where it spiked later
        or not at all (padding, too, is silent input). It takes neither the rule's time constants
        nor its ties; with ``bounds="product"`` it is the rule of Masquelier & Thorpe (2007).

    Returns
    -------
    (groups * Cout, Cin, kh, kw) tensor
        The change to be added to `weight`.

    Raises
    ------
    InvalidInputError
        As in `stdp_conv2d`, and for times that are negative, NaN or between steps.

    Examples
    --------
    >>> import torch
    >>> from rsafast_kernels.stdp import STDP, latency_stdp_conv2d
    >>> inf = float("inf")
    >>> pre = torch.tensor([0.0, 3.0, inf]).view(1, 3, 1, 1)
    >>> post, weight = torch.full((1, 1, 1, 1), 2.0), torch.zeros(1, 3, 1, 1)
    >>> latency_stdp_conv2d(pre, post, weight, STDP(a_plus=2, a_minus=1), window="order").flatten()
    tensor([ 2., -1., -1.])
    """
    rule = _latency_rule(rule, window)
    pad = pair(padding, "padding", 0)
    if window == "order":
        # Silent input counts as late, and what lies beyond the border is silent.
        widths = (pad[1], pad[1], pad[0], pad[0])
        pre_time = torch.nn.functional.pad(pre_time.float(), widths, value=math.inf)
        pad = (0, 0)
    pre, post = _trains(pre_time, post_time, silent_is_late=window == "order")
    return stdp_conv2d(
        pre, post, weight, rule, stride=stride, padding=pad, groups=groups,
        reduction=reduction, backend=backend, precision=precision,
    )  # fmt: skip


def latency_stdp_linear(
    pre_time: Tensor,
    post_time: Tensor,
    weight: Tensor,
    rule: STDP,
    *,
    window: Literal["exp", "order"] = "exp",
    reduction: Reduction = "mean",
    backend: Backend = "auto",
    precision: Precision = "auto",
) -> Tensor:
    """Weight change of a dense layer whose neurons spike at most once.

    Parameters
    ----------
    pre_time : (N, I) tensor, or (S, N, I) for S stacked networks
        Time of each input spike: whole steps of at least 0, or ``inf`` for a silent neuron.
    post_time : (N, O) or (S, N, O) tensor
        Times of output spikes.
    weight, rule, window, reduction, backend, precision
        As in `stdp_linear` and `latency_stdp_conv2d`.

    Returns
    -------
    (O, I) or (S, O, I) tensor
        The change to be added to `weight`.
    """
    rule = _latency_rule(rule, window)
    pre, post = _trains(pre_time, post_time, silent_is_late=window == "order")
    return stdp_linear(
        pre, post, weight, rule, reduction=reduction, backend=backend, precision=precision
    )


def _latency_rule(rule: STDP, window: str) -> STDP:
    if window not in ("exp", "order"):
        raise InvalidInputError(f"window must be 'exp' or 'order', got {window!r}")
    if window == "exp":
        return rule
    return replace(rule, tau_plus=math.inf, tau_minus=math.inf, ties="ltp", pairing="all")


def _trains(
    pre_time: Tensor, post_time: Tensor, *, silent_is_late: bool
) -> tuple[Tensor, Tensor]:
    """Spike trains (T, ...) of spike times; silent inputs may spike in a last step of their own."""
    steps = 0
    for name, time in (("pre_time", pre_time), ("post_time", post_time)):
        if torch.any((time < 0) | (time != time.floor())):  # NaN differs from itself
            raise InvalidInputError(
                f"{name} must hold whole steps of at least 0, or inf for silent neurons; "
                "round the times to steps first"
            )
        spiking = time[time != math.inf]
        steps = max(steps, int(spiking.max().item()) + 1 if spiking.numel() else 0)
    if silent_is_late:
        pre_time = pre_time.clamp(max=steps)
        steps += 1
    step = torch.arange(steps, device=pre_time.device)
    pre, post = (
        (time[None] == step.view(-1, *[1] * time.dim())).float() for time in (pre_time, post_time)
    )
    return pre, post


def _change(
    pre: Tensor,
    post: Tensor,
    weight: Tensor,
    rule: STDP,
    geometry: Geometry,
    reduction: str,
    backend: str,
    precision: str,
) -> Tensor:
    """Run one backend and apply the bounds."""
    if not pre.device == post.device == weight.device:
        raise InvalidInputError(
            f"pre, post and weight are on {pre.device}, {post.device} and {weight.device}; "
            "move them to one device"
        )
    if weight.dtype not in (torch.float32, torch.float64):
        raise InvalidInputError(f"weight must be float32 or float64, got {weight.dtype}")
    if pre.is_complex() or post.is_complex():
        raise InvalidInputError(f"spikes must be real, got {pre.dtype} and {post.dtype}")
    pre, post, weight = pre.detach(), post.detach(), weight.detach()
    scale = 1 / max(1, pre.shape[1]) if reduction == "mean" else 1.0
    if 0 in pre.shape or 0 in post.shape or 0 in weight.shape:
        return _bounded([torch.zeros_like(weight)] * (1 + rule.is_split), weight, rule)
    if backend == "reference":
        change = reference.stdp_conv2d(
            pre.cpu(), post.cpu(), weight.cpu(), rule,
            stride=geometry.stride, padding=geometry.padding, groups=geometry.groups,
            reduction=reduction,
        )  # fmt: skip
        return torch.from_numpy(change).to(weight)
    if backend == "auto" and weight.is_cuda and weight.dtype == torch.float32 and _has_triton():
        backend = "triton"
    if backend == "triton":
        return _triton_change(pre, post, weight, rule, geometry, scale, precision)
    pre, post = (a.to(weight.dtype).contiguous() for a in (pre, post))
    events = _events(pre, post, weight, geometry, backend)
    if events is not None:
        sums = [sparse.pair_sum(pre, post, t, geometry, events) for t in rule.sums()]
    else:
        sums = [folded.pair_sum(pre, post, t, geometry) for t in rule.sums()]
    return _bounded([s.mul_(scale) for s in sums], weight, rule)


def _has_triton() -> bool:
    return find_spec("triton") is not None


def _triton_change(
    pre: Tensor,
    post: Tensor,
    weight: Tensor,
    rule: STDP,
    geometry: Geometry,
    scale: float,
    precision: str,
) -> Tensor:
    if not _has_triton():
        raise BackendUnavailableError("backend='triton' needs triton: pip install rsafast[gpu]")
    from rsafast_kernels.stdp import triton_

    device = weight.device.type
    if not triton_.runs_on(device):
        raise BackendUnavailableError(
            f"backend='triton' runs on CUDA tensors, got tensors on {device}; use backend='auto'"
        )
    _check_single(weight, "triton")
    if rule.bounds == "soft" and rule.mu == 0:
        rule = replace(rule, bounds="hard")
    pre, post = (_bytes_or_floats(a) for a in (pre, post))
    bytes_both = pre.dtype == post.dtype == torch.uint8
    if precision == "auto":
        precision = "exact" if bytes_both else "tf32x3"
    if precision == "exact" and not bytes_both:
        raise InvalidInputError(
            f"precision='exact' takes spikes as bool or uint8, got {pre.dtype} and {post.dtype}; "
            "convert them, or use precision='auto'"
        )
    return triton_.weight_change(pre, post, weight, rule, geometry, scale, precision)


def _bytes_or_floats(train: Tensor) -> Tensor:
    """Spikes as the kernels read them: a byte each where they are bytes already."""
    if train.dtype == torch.bool:
        train = train.view(torch.uint8)
    return train.contiguous() if train.dtype == torch.uint8 else train.float().contiguous()


def _events(
    pre: Tensor, post: Tensor, weight: Tensor, geometry: Geometry, backend: str
) -> sparse.Side | None:
    """Side whose events the sparse backend walks, or None for the folded backend."""
    if backend == "sparse":
        _check_single(weight, backend)
        if weight.device.type != "cpu":
            raise BackendUnavailableError(
                f"backend='sparse' runs on the CPU, got tensors on {weight.device}; "
                "use backend='auto'"
            )
    elif backend == "folded" or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    side, cost = sparse.lighter_side(pre, post, geometry)
    return side if backend == "sparse" or cost < SPARSE_BELOW else None


def _check_single(weight: Tensor, backend: str) -> None:
    if weight.dtype != torch.float32:
        raise InvalidInputError(
            f"backend={backend!r} computes in float32, got {weight.dtype}; use backend='folded'"
        )


def _bounded(sums: list[Tensor], weight: Tensor, rule: STDP) -> Tensor:
    """Weight change of LTP - LTD, or of LTP and LTD apart, under the rule's bounds."""
    if rule.bounds == "none":
        return sums[0]
    room, height = (rule.w_max - weight).clamp_(min=0), (weight - rule.w_min).clamp_(min=0)
    if rule.bounds == "soft":
        change = room**rule.mu * sums[0] - height**rule.mu * sums[1]
    else:
        change = sums[0] * (height * room) if rule.bounds == "product" else sums[0]
    return torch.minimum(torch.maximum(change, rule.w_min - weight), rule.w_max - weight)


def _check_choices(reduction: str, backend: str, precision: str) -> None:
    for name, value, choices in (
        ("reduction", reduction, ("mean", "sum")),
        ("backend", backend, BACKENDS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in choices:
            raise InvalidInputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_geometry(pre: Tensor, post: Tensor, geometry: Geometry) -> None:
    groups = geometry.groups
    if groups < 1 or geometry.weight_shape[0] % groups:
        raise InvalidInputError(
            f"groups must divide the {geometry.weight_shape[0]} output channels, got {groups}"
        )
    size = [
        (n + 2 * p - k) // s + 1
        for n, p, k, s in zip(
            geometry.in_size, geometry.padding, geometry.weight_shape[2:], geometry.stride,
            strict=True,
        )
    ]  # fmt: skip
    inputs = (groups * geometry.weight_shape[1], *geometry.in_size)
    outputs = (geometry.weight_shape[0], *size)
    for name, train, expected in (("pre", pre, inputs), ("post", post, outputs)):
        if tuple(train.shape[2:]) != expected:
            raise InvalidInputError(
                f"{name} must be (T, N, {', '.join(map(str, expected))}) for this weight, stride, "
                f"padding and groups, got {tuple(train.shape)}"
            )
    if pre.shape[:2] != post.shape[:2]:
        raise InvalidInputError(
            f"pre and post must have the same steps and samples, got (T, N) = "
            f"{tuple(pre.shape[:2])} and {tuple(post.shape[:2])}"
        )
