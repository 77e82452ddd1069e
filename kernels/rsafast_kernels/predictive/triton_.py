"""The element-wise passes in Triton: float32 maps in channels-last memory, signatures of torch_.py.

One program takes BLOCK values; with pooling, each value reads the four pre-activations of its
window and leaves the gated error in their place. Nothing is read back by the host and every shape
is static, so that a whole relaxation can be captured in one CUDA graph.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rsafast_kernels.errors import UnsupportedCaseError

# Four values a thread with pooling, which is one load of 128 bits, and eight without: at most 64
# registers (cross-compiled for sm_80 and sm_90), so that at least half of the warps that a
# multiprocessor holds hide each other's loads.
BLOCK, POOLED_BLOCK = 1024, 512
# Offsets are 32-bit: a division of 64-bit integers costs more than the rest of the pass.
LARGEST = 2**31 - BLOCK


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    # Cephes: a polynomial near 0, where the exponentials would cancel.
    z = x * x
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    size = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.minimum(size, 40.0)) + 1.0)
    return tl.where(size < 0.625, p * z * x + x, tl.where(x < 0, -far, far))


@triton.jit
def _activate(a, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    if ACTIVATION == "relu":
        return tl.maximum(a, 0.0)
    if ACTIVATION == "hardtanh":
        return tl.minimum(tl.maximum(a, -1.0), 1.0)
    if ACTIVATION == "tanh":
        return _tanh(a)
    if ACTIVATION == "gelu":
        return 0.5 * a * (1.0 + tl.erf(a * 0.7071067811865476))
    return a


@triton.jit
def _slope(a, v, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    if ACTIVATION == "relu":
        return tl.where(a > 0, 1.0, 0.0)
    if ACTIVATION == "hardtanh":
        return tl.where((a > -1.0) & (a < 1.0), 1.0, 0.0)
    if ACTIVATION == "tanh":
        return 1.0 - v * v
    if ACTIVATION == "gelu":
        below = 0.5 * (1.0 + tl.erf(a * 0.7071067811865476))
        return below + a * 0.3989422804014327 * tl.exp(-0.5 * a * a)
    return a * 0.0 + 1.0


@triton.jit
def _moved(  # type: ignore[no-untyped-def]
    at, mask, p_error, p_back, p_velocity, rate, momentum, MOMENTUM: tl.constexpr
):
    # The error after the value has moved, before its prediction does.
    error = tl.load(p_error + at, mask)
    change = error - tl.load(p_back + at, mask)
    if MOMENTUM:
        change += momentum * tl.load(p_velocity + at, mask)
        tl.store(p_velocity + at, change, mask)
    return error - rate * change


@triton.jit
def advance_kernel(  # type: ignore[no-untyped-def]
    p_mu, p_value, p_error, p_back, p_velocity, size, rate, momentum,
    MOMENTUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Move errors, and values with them."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    error = _moved(at, mask, p_error, p_back, p_velocity, rate, momentum, MOMENTUM)
    tl.store(p_error + at, error, mask)
    tl.store(p_value + at, tl.load(p_mu + at, mask) + error, mask)


@triton.jit
def pass_kernel(  # type: ignore[no-untyped-def]
    p_a, p_mu, p_value, p_error, p_back, p_velocity, size, channels, columns, rows, line, image,
    rate, momentum,
    ACTIVATION: tl.constexpr, POOL: tl.constexpr, MODE: tl.constexpr, MOMENTUM: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """MODE "predict" writes p_mu, "gate" reads p_error, "step" moves first; see torch_.py.

    `line` and `image` are the elements of a row and of an image of the pre-activation.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    if POOL:
        pixel = at // channels
        row = pixel // columns
        top = (row // rows) * image + (row % rows) * 2 * line
        first = p_a + top + (pixel % columns) * 2 * channels + at % channels
        second, third = first + channels, first + line
        fourth = third + channels
        a = tl.load(first, mask)
        mu = _activate(a, ACTIVATION)
        winner = tl.zeros_like(at)
        a1, a2, a3 = tl.load(second, mask), tl.load(third, mask), tl.load(fourth, mask)
        v1, v2, v3 = _activate(a1, ACTIVATION), _activate(a2, ACTIVATION), _activate(a3, ACTIVATION)
        a, winner, mu = tl.where(v1 > mu, a1, a), tl.where(v1 > mu, 1, winner), tl.maximum(v1, mu)
        a, winner, mu = tl.where(v2 > mu, a2, a), tl.where(v2 > mu, 2, winner), tl.maximum(v2, mu)
        a, winner, mu = tl.where(v3 > mu, a3, a), tl.where(v3 > mu, 3, winner), tl.maximum(v3, mu)
    else:
        a = tl.load(p_a + at, mask)
        mu = _activate(a, ACTIVATION)
    if MODE == "predict":
        tl.store(p_mu + at, mu, mask)
    else:
        if MODE == "step":
            error = _moved(at, mask, p_error, p_back, p_velocity, rate, momentum, MOMENTUM)
            error -= mu - tl.load(p_mu + at, mask)
            tl.store(p_mu + at, mu, mask)
            tl.store(p_value + at, mu + error, mask)
            tl.store(p_error + at, error, mask)
        else:
            error = tl.load(p_error + at, mask)
        gated = error * _slope(a, mu, ACTIVATION)
        if POOL:
            tl.store(first, tl.where(winner == 0, gated, 0.0), mask)
            tl.store(second, tl.where(winner == 1, gated, 0.0), mask)
            tl.store(third, tl.where(winner == 2, gated, 0.0), mask)
            tl.store(fourth, tl.where(winner == 3, gated, 0.0), mask)
        else:
            tl.store(p_a + at, gated, mask)


def predict(a: Tensor, activation: str, pool: int | None) -> Tensor:
    """pool(act(a)), a new tensor."""
    if pool is None:
        mu = torch.empty_like(a)
    else:
        n, c, height, width = a.shape
        mu = torch.empty(
            (n, c, height // 2, width // 2), dtype=a.dtype, device=a.device,
            memory_format=torch.channels_last,
        )  # fmt: skip
    _launch("predict", a, mu, mu, mu, mu, None, 0.0, 0.0, activation, pool)
    return mu


def gate(a: Tensor, error: Tensor, activation: str, pool: int | None) -> Tensor:
    """Leave act'(a) * unpool(error) in `a`, and return it."""
    _launch("gate", a, error, error, error, error, None, 0.0, 0.0, activation, pool)
    return _without_margin(a, pool)


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
    size = _size(mu)
    spare = error if velocity is None else velocity
    advance_kernel[(triton.cdiv(size, BLOCK),)](
        mu, value, error, back, spare, size, rate, momentum,
        MOMENTUM=velocity is not None, BLOCK=BLOCK,
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
    _launch("step", a, mu, value, error, back, velocity, rate, momentum, activation, pool)
    return _without_margin(a, pool)


def _launch(
    mode: str,
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
) -> None:
    _size(a)
    size = value.numel()
    channels = height = width = 1
    if pool is not None:
        channels, height, width = a.shape[1:]
    spare: Any = error if velocity is None else velocity
    block = BLOCK if pool is None else POOLED_BLOCK
    pass_kernel[(triton.cdiv(size, block),)](
        a, mu, value, error, back, spare, size, channels, width // 2, height // 2,
        width * channels, height * width * channels, rate, momentum,
        ACTIVATION=activation, POOL=pool is not None, MODE=mode, MOMENTUM=velocity is not None,
        BLOCK=block,
    )  # fmt: skip


def _without_margin(gated: Tensor, pool: int | None) -> Tensor:
    """Zero the odd last row and column, which no window covers."""
    if pool is not None:
        height, width = gated.shape[2:]
        gated[:, :, height // 2 * 2 :] = 0.0
        gated[..., width // 2 * 2 :] = 0.0
    return gated


def _size(tensor: Tensor) -> int:
    if tensor.numel() > LARGEST:
        raise UnsupportedCaseError(
            f"a layer of {tensor.numel()} values exceeds the {LARGEST} of one launch; "
            "use a smaller batch"
        )
    return tensor.numel()
