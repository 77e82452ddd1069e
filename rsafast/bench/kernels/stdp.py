"""STDP of a convolution over a window of spike trains. torch is imported by the cases only."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from rsafast.bench.row import Case, Device, Peer, Row, Scale, Work, close

_STEPS, _RATE = 10, 0.1
_CORNER = 8  # positions a side that the loops of the reference go through
_PEER_IMAGES = 2  # it takes seconds for more, in proportion
# Of the largest change; LTP and LTD, which are exact to some 1e-6, nearly cancel.
_TOLERANCE = 1e-3


def _rule() -> Any:
    """SpikingJelly's rule: both traces are updated before use, decay 1 - 1 / tau."""
    from rsafast_kernels.stdp import STDP

    return STDP(1.0, 1.0, 2.0, 2.0, decay="euler", ties="both")


def _trains(c_in: int, c_out: int, size: int, images: int, device: Device) -> tuple[Any, Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    pre, post = (
        (torch.rand(_STEPS, images, c, size, size, generator=generator) < _RATE).float().to(device)
        for c in (c_in, c_out)
    )
    return pre, post, torch.zeros(c_out, c_in, 3, 3, device=device)


def _checker(pre: Any, post: Any, weight: Any) -> Callable[[Any], float]:
    """Compare all changes with float64 gradients, and those with the definition on a part."""
    from rsafast_kernels.stdp import reference, stdp_conv2d

    @cache
    def expected() -> Any:
        x, y, kernel = (a.cpu().double() for a in (pre, post, weight))
        folded: Any = partial(
            stdp_conv2d, rule=_rule(), padding=1, reduction="sum", backend="folded"
        )
        # By its definition, a pair of spikes at a time, on a corner of the first image.
        corner = [a[:, :1, -1:, :_CORNER, :_CORNER] for a in (x, y)]
        one = kernel[-1:, -1:]
        pairs = reference.stdp_conv2d(
            corner[0].numpy(), corner[1].numpy(), one, _rule(), padding=(1, 1), reduction="sum"
        )
        close(folded(*corner, one), pairs, 1e-9, "float64 gradients")
        return folded(x, y, kernel)

    return lambda answer: close(answer.cpu(), expected(), _TOLERANCE, "weight changes")


def _case(
    c_in: int, c_out: int, size: int, images: int, device: Device, backend: str = "auto"
) -> Case:
    from rsafast_kernels.stdp import stdp_conv2d

    trains = _trains(c_in, c_out, size, images, device)
    options: Any = {"padding": 1, "reduction": "sum", "backend": backend}
    run = partial(stdp_conv2d, *trains, _rule(), **options)
    return Case(run, _checker(*trains))


def _spikingjelly(c_in: int, c_out: int, size: int, device: Device) -> Case:
    import torch
    from spikingjelly.activation_based.functional.learning import stdp_conv2d_step

    pre, post, weight = _trains(c_in, c_out, size, _PEER_IMAGES, device)
    padded = torch.nn.functional.pad(pre, (1, 1, 1, 1))

    def run() -> Any:
        trace = torch.zeros_like(padded[0]), torch.zeros_like(post[0])
        change = torch.zeros_like(weight)
        for x, y in zip(padded, post, strict=True):
            step, trace = stdp_conv2d_step(
                x, y, trace, weight, stride=(1, 1), tau_pre=2.0, tau_post=2.0,
                f_pre=torch.ones_like, f_post=torch.ones_like,
            )  # fmt: skip
            change += step
        return change

    return Case(run, _checker(pre, post, weight))


def _gradient(c_in: int, c_out: int, size: int, images: int, device: Device) -> Case:
    """One weight gradient of the convolution: the floor of a dense method."""
    from torch.nn.grad import conv2d_weight

    pre, post, weight = _trains(c_in, c_out, size, images, device)
    x, y = pre.flatten(0, 1), post.flatten(0, 1)
    gradient = partial(conv2d_weight, weight_size=weight.shape, padding=1)

    def check(answer: Any) -> float:
        expected = gradient(x.cpu().double(), grad_output=y.cpu().double())
        return close(answer.cpu(), expected, 1e-4, "gradient")

    return Case(lambda: gradient(x, grad_output=y), check)


def _row(c_in: int, c_out: int, size: int, images: int, scale: Scale, device: Device) -> Row:
    shape = c_in, c_out, size
    # Every spike of one side adds a row of the other side's trace; borders see fewer taps.
    taps = (3 - 2 / size) ** 2
    events = _RATE * _STEPS * images * size * size * taps * c_in * c_out
    moved = 4.0 * (_STEPS * images * size * size * (c_in + c_out) + 9 * c_in * c_out)
    return Row(
        kernel="stdp",
        name=f"{c_in}→{c_out}, {size} × {size}, {images} images, {_STEPS} steps",
        device=device,
        size=c_in * c_out,
        items=images,
        unit="images",
        work=Work(2.0 * events, moved, "float32"),
        prepare=partial(_case, *shape, images, device),
        scale=scale,
        needs=("torch", "triton") if device == "cuda" else ("torch",),
        peers=(
            Peer(
                "SpikingJelly", ("torch", "spikingjelly"), "spikingjelly",
                partial(_spikingjelly, *shape, device), _PEER_IMAGES,
            ),
            Peer(
                "rsafast, dense form", ("torch",), "torch",
                partial(_case, *shape, images, device, "folded"), images, role="yardstick",
            ),
            Peer(
                "torch, one weight gradient", ("torch",), "torch",
                partial(_gradient, *shape, images, device), images, role="yardstick",
            ),
        ),
    )  # fmt: skip


_SIZES: tuple[tuple[int, int, int, int, Scale], ...] = (
    (3, 32, 32, 16, "quick"),
    (32, 64, 16, 16, "default"),
    (64, 128, 8, 16, "default"),
    (64, 128, 8, 128, "large"),
)
ROWS = tuple(_row(*size, device) for device in ("cpu", "cuda") for size in _SIZES)
