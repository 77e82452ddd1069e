"""A step of predictive coding of ``cnn3``: T = 7, gradients of all layers. Cases import torch.

The yardstick is a step of backpropagation on the same network, in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from rsafast.bench.row import Case, Device, Peer, Quoted, Row, Scale, Work, WrongAnswer

_STEPS, _RATE = 7, 0.05
_SHAPES = [(32, 3, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (512, 2048), (10, 512)]
# Multiplications of a sample in each layer, on images of 32 × 32.
_LAYERS = (32 * 32 * 27 * 32, 16 * 16 * 288 * 64, 8 * 8 * 576 * 128, 2048 * 512, 512 * 10)
# Values that pass between the layers, of a sample.
_VALUES = 3 * 32 * 32 + 32 * 16 * 16 + 64 * 8 * 8 + 128 * 4 * 4 + 512
_PCX = Quoted(
    "PCX, VGG-5 (JAX, GPU)", "4.65 times backpropagation", "Pinchetti et al. 2024, its clock files"
)
# Of a layer's gradient: which of two nearly equal values of a pooling window wins is rounding's.
_TOLERANCE = 0.05
_BP_TOLERANCE = 5e-3


def _inputs(images: int, device: Device) -> tuple[list[Any], Any, Any]:
    import torch

    draws = torch.Generator().manual_seed(0)
    found = []
    for shape in _SHAPES:
        bound = float(np.prod(shape[1:])) ** -0.5
        for part in (shape, shape[:1]):
            found.append(((torch.rand(part, generator=draws) * 2 - 1) * bound).to(device))
    x = torch.randn(images, 3, 32, 32, generator=draws).to(device)
    labels = torch.randint(10, (images,), generator=draws).to(device)
    return [p.requires_grad_() for p in found], x, labels


def _predictions(p: list[Any]) -> list[Callable[[Any], Any]]:
    """The five layers, as functions of the value below."""
    from torch.nn import functional as F

    def convolution(i: int) -> Callable[[Any], Any]:
        return lambda h: F.max_pool2d(F.relu(F.conv2d(h, p[2 * i], p[2 * i + 1], padding=1)), 2)

    return [
        *(convolution(i) for i in range(3)),
        lambda h: F.relu(F.linear(h.flatten(1), p[6], p[7])),
        lambda h: F.linear(h, p[8], p[9]),
    ]


def backpropagation(p: list[Any], x: Any, labels: Any) -> list[Any]:
    """Gradients of the cross-entropy, in plain torch."""
    import torch

    h = x
    for predict in _predictions(p):
        h = predict(h)
    return list(torch.autograd.grad(torch.nn.functional.cross_entropy(h, labels), p))


def prototype(p: list[Any], x: Any, labels: Any) -> list[Any]:
    """Predictive coding as one writes it in torch: autograd of the energy in all values."""
    import torch

    layers = _predictions(p)

    def energy(values: list[Any]) -> Any:
        below, total = x, 0.0
        for predict, value in zip(layers, values, strict=False):
            total = total + 0.5 * (value - predict(below)).square().sum()
            below = value
        entropy = torch.nn.functional.cross_entropy
        return total + entropy(layers[-1](below), labels, reduction="sum")

    with torch.no_grad():
        values, h = [], x
        for predict in layers[:-1]:
            h = predict(h)
            values.append(h)
    for _ in range(_STEPS):
        values = [v.detach().requires_grad_() for v in values]
        slopes = torch.autograd.grad(energy(values), values)
        with torch.no_grad():
            values = [v - _RATE * s for v, s in zip(values, slopes, strict=True)]
    return list(torch.autograd.grad(energy(values) / len(x), p))


def relaxed(p: list[Any], x: Any, labels: Any, **options: Any) -> list[Any]:
    """Gradients of `relax`."""
    from rsafast_kernels.predictive import Layer, relax

    acts = ["relu"] * 4 + ["identity"]
    layers = [
        Layer(w[None], b[None], act, 2 if w.ndim == 4 else None, padding=1)  # type: ignore[arg-type]
        for w, b, act in zip(p[::2], p[1::2], acts, strict=True)
    ]
    options = {"steps": _STEPS, "rate": _RATE} | options
    gradients: Any = relax(layers, x, labels[None], **options).gradients()
    return [part[0] for g in gradients for part in (g.weight, g.bias)]


def _check(answer: list[Any], expected: list[Any], tolerance: float) -> float:
    """Largest relative error of a parameter's gradient, in the norm."""
    errors = []
    for got, wanted in zip(answer, expected, strict=True):
        got, wanted = got.detach().cpu().double(), wanted.detach().cpu().double()
        errors.append(float((got - wanted).norm() / wanted.norm()))
    worst = float(np.max(errors))  # unlike max, NaN if any is
    if not worst <= tolerance:
        raise WrongAnswer(f"gradients are off by {worst:.1e}, allowed {tolerance:.0e}")
    return worst


def _case(step: Callable[..., list[Any]], images: int, device: Device) -> Case:
    """A step, compared with the prototype in float64: float32 keeps too little of layer 1."""
    p, x, labels = _inputs(images, device)

    @cache
    def expected() -> list[Any]:
        wide = [q.detach().cpu().double().requires_grad_() for q in p]
        return prototype(wide, x.cpu().double(), labels.cpu())

    return Case(
        partial(step, p, x, labels), lambda answer: _check(answer, expected(), _TOLERANCE)
    )


def _prototype_case(images: int, device: Device) -> Case:
    """The prototype in float32 is right but in layer 1, which its float64 twin is compared in."""
    p, x, labels = _inputs(images, device)

    def check(answer: list[Any]) -> float:
        return _check(answer[2:], relaxed(p, x, labels)[2:], _TOLERANCE)

    return Case(partial(prototype, p, x, labels), check)


def _backpropagation_case(images: int, device: Device, last: bool) -> Case:
    """Backpropagation, which predictive coding under fixed predictions equals."""
    import torch

    p, x, labels = _inputs(images, device)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
        p = [
            w.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
            if w.ndim == 4 else w for w in p
        ]  # fmt: skip

    def check(answer: list[Any]) -> float:
        fixed = relaxed(p, x, labels, schedule="fixed-pred", rate=1.0)
        return _check(answer, fixed, _BP_TOLERANCE)

    return Case(partial(backpropagation, p, x, labels), check)


def _work(images: int) -> Work:
    """Linear maps that the feed-forward start leaves to do: see `relax`, "standard" with `skip`."""
    top = len(_LAYERS) - 1
    passes = [2 if level == 0 else 2 + 2 * (_STEPS - (top - level)) for level in range(top + 1)]
    products = sum(n * count for n, count in zip(passes, _LAYERS, strict=True))
    parameters = sum(int(np.prod(shape)) for shape in _SHAPES)
    # Parameters in, gradients out; values between the layers read and written once a step.
    moved = 8.0 * parameters + 8.0 * _VALUES * images * _STEPS
    return Work(2.0 * products * images, moved, "float32")


def _row(images: int, scale: Scale, device: Device) -> Row:
    peer = partial(Peer, needs=("torch",), install="torch", items=images)
    return Row(
        kernel="predictive",
        name=f"cnn3, {images} images of 32 × 32, {_STEPS} steps",
        device=device,
        size=images,
        items=images,
        unit="images",
        work=_work(images),
        prepare=partial(_case, relaxed, images, device),
        scale=scale,
        needs=("torch", "triton") if device == "cuda" else ("torch",),
        peers=(
            peer("autograd prototype", prepare=partial(_prototype_case, images, device)),
            peer(
                "backpropagation", role="yardstick",
                prepare=partial(_backpropagation_case, images, device, False),
            ),
            peer(
                "backpropagation, channels last", role="yardstick",
                prepare=partial(_backpropagation_case, images, device, True),
            ),
        ),
        quoted=(_PCX,),
    )  # fmt: skip


_SIZES: tuple[tuple[int, Scale], ...] = ((16, "quick"), (128, "default"))
ROWS = tuple(_row(*size, device) for device in ("cpu", "cuda") for size in _SIZES)
