"""STDP for sparse trains: events of one side gather the filtered train of the other (C++)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsafast_kernels._native import native
from rsafast_kernels._threads import num_threads
from rsafast_kernels.stdp.geometry import Geometry
from rsafast_kernels.stdp.rule import Side, Term

LISTING = 32  # additions that finding an event's row of the other train costs (bench_stdp.py)


def density(train: Tensor) -> float:
    """Share of non-zero entries, estimated from at most some 65,000 of them."""
    step = train.numel() // 65_536 | 1  # odd, so as not to walk down one column
    sample = train.reshape(-1)[::step]
    return torch.count_nonzero(sample).item() / max(1, len(sample))


def lighter_side(pre: Tensor, post: Tensor, geometry: Geometry) -> tuple[Side, float]:
    """Return the side whose events cost less to walk, and that cost over the dense product's.

    Both costs count additions; the overhead of an event is some LISTING of them.
    """
    c_out, c_in = geometry.weight_shape[0] // geometry.groups, geometry.weight_shape[1]
    costs: dict[Side, float] = {
        "pre": density(pre) * (1 + LISTING / c_out), "post": density(post) * (1 + LISTING / c_in)
    }  # fmt: skip
    dense = {"pre": pre.numel() * c_out, "post": post.numel() * c_in}
    side = min(costs, key=lambda side: costs[side] * dense[side])
    return side, costs[side]


def pair_sum(
    pre: Tensor, post: Tensor, terms: tuple[Term, ...], geometry: Geometry, events: Side
) -> Tensor:
    """Sum of the terms over time, batch and space: (G * Cout, Cin, kh, kw) float32.

    `events` ("pre" or "post") is the side to walk, where the term leaves the choice.
    """
    trains = {"pre": pre.numpy(), "post": post.numpy()}
    parts = []
    for term in terms:
        term = term.on("post" if events == "pre" else "pre")
        walked: Side = "post" if term.side == "pre" else "pre"
        parts.append(_gathered(trains[walked], trains[term.side], term, walked, geometry))
    return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]


def _gathered(
    events: NDArray[np.float32],
    other: NDArray[np.float32],
    term: Term,
    walked: Side,
    geometry: Geometry,
) -> Tensor:
    rows, columns = (
        np.array(geometry.positions(axis, walked), dtype=np.int32) for axis in (0, 1)
    )
    width = (geometry.out_size if walked == "pre" else geometry.in_size)[1]
    rows[rows > 0] *= width
    groups, (kh, kw) = geometry.groups, geometry.weight_shape[2:]
    walked_channels, other_channels = events.shape[2] // groups, other.shape[2] // groups
    out = np.empty((groups, walked_channels, kh * kw, other_channels), dtype=np.float32)
    trace = term.trace
    native.stdp_pair_sum(
        events.reshape(*events.shape[:3], -1),
        other.reshape(*other.shape[:3], -1),
        trace.past, trace.past_decay, trace.now, trace.future, trace.future_decay, trace.nearest,
        rows, columns, out, num_threads(),
    )  # fmt: skip
    order = (0, 3, 1, 2) if walked == "pre" else (0, 1, 3, 2)
    return torch.from_numpy(out.transpose(order).reshape(geometry.weight_shape))
