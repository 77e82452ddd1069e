"""Leaky integrate-and-fire layers over whole trains. torch is imported by the cases only."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rsafast.bench.row import Case, Device, Peer, Row, Scale, Work, close

_STEPS = 10
_POSITIONS = 32  # of a sample, that the reference does too


def _neuron() -> Any:
    from rsafast_kernels.lif import LIF

    return LIF(tau=2.0, decay="euler")


def _current(images: int, channels: int, size: int, device: Device) -> Any:
    import torch

    shape = _STEPS, images, channels, size, size
    drawn = np.random.default_rng(0).random(shape, dtype=np.float32) * 1.5
    return torch.from_numpy(drawn).to(device)


def _check(spikes: Any, current: Any) -> float:
    """Spikes equal the reference's to the last one, at some positions of two samples."""
    from rsafast_kernels.lif import reference

    ends = [0, current.shape[1] - 1]
    part = current.cpu().numpy().reshape(*current.shape[:3], -1)[:, ends, :, -_POSITIONS:]
    rest = np.zeros(part.shape[1:], np.float32)
    expected = reference.lif(
        part, _neuron(), rest, np.zeros(rest.shape, np.int32), np.zeros(rest.shape[1], np.float32)
    )[0]
    got = spikes.cpu().numpy().reshape(*current.shape[:3], -1)[:, ends, :, -_POSITIONS:]
    return close(got, expected, 0.0, "spikes")


def _case(images: int, channels: int, size: int, device: Device) -> Case:
    from rsafast_kernels.lif import lif

    current = _current(images, channels, size, device)
    return Case(lambda: lif(current, _neuron())[0], lambda answer: _check(answer, current))


def _spikingjelly(images: int, channels: int, size: int, device: Device) -> Case:
    import torch
    from spikingjelly.activation_based.neuron import LIFNode

    current = _current(images, channels, size, device)
    node = LIFNode(tau=2.0, decay_input=False, v_reset=0.0, step_mode="m").to(device)

    def run() -> Any:
        node.reset()
        with torch.no_grad():
            return node(current)

    return Case(run, lambda answer: _check(answer, current))


def _row(images: int, channels: int, size: int, scale: Scale, device: Device) -> Row:
    count = _STEPS * images * channels * size * size
    shape = images, channels, size
    return Row(
        kernel="lif",
        name=f"{images} images, {channels} channels, {size} × {size}, {_STEPS} steps",
        device=device,
        size=channels * size * size,
        items=count,
        unit="neuron steps",
        # Leak, current, threshold, reset; the current in, spikes out.
        work=Work(4.0 * count, 8.0 * count, "float32"),
        prepare=partial(_case, *shape, device),
        scale=scale,
        needs=("torch", "triton") if device == "cuda" else ("torch",),
        peers=(
            Peer("SpikingJelly LIFNode", ("torch", "spikingjelly"), "spikingjelly",
                 partial(_spikingjelly, *shape, device), count),
        ),
    )  # fmt: skip


_SIZES: tuple[tuple[int, int, int, Scale], ...] = (
    (16, 32, 32, "quick"),
    (128, 32, 32, "default"),
    (128, 128, 8, "default"),
)
ROWS = tuple(_row(*size, device) for device in ("cpu", "cuda") for size in _SIZES)
