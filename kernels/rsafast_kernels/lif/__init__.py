"""Leaky integrate-and-fire (LIF) layers over whole trains: all time steps in one call.

Options: reset to zero or by subtraction, a refractory period, winner-take-all across the channels
of a position, and thresholds that adapt so that all channels come to spike. Backends:

- ``native``: C++, a sample's steps fused in cache; CPU.
- ``triton``: the same on CUDA, one launch for all steps (one a step with adaptive thresholds).
- ``reference``: plain loops, in the dtype of the current, for tests.

All compute in float32 without fused multiply-adds, so that spikes agree to the last one.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rsafast_kernels._native import native
from rsafast_kernels._threads import threads_for
from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError
from rsafast_kernels.lif import reference
from rsafast_kernels.lif.neuron import LIF

__all__ = ["LIF", "LIFState", "lif"]

BACKENDS = ("auto", "native", "triton", "reference")


@dataclass(frozen=True, slots=True)
class LIFState:
    """What a layer carries from one call to the next.

    Attributes
    ----------
    potential : tensor of the shape of one time step
        Membrane potentials after the last step.
    refractory : int32 tensor of the same shape
        Refractory steps that are left.
    theta : (channels,) or (S, F) tensor
        Adaptive part of each channel's threshold. To begin a new sample and keep the thresholds,
        pass ``LIFState.rest(current, theta)``.
    """

    potential: Tensor
    refractory: Tensor
    theta: Tensor

    @classmethod
    def rest(cls, current: Tensor, theta: Tensor | None = None) -> "LIFState":
        """State at rest for a layer driven by `current`; theta is 0 unless given."""
        if current.dim() == 4:
            channels: tuple[int, ...] = (current.shape[1], current.shape[3])
        else:
            channels = (current.shape[2],)
        zero = torch.zeros(current.shape[1:], dtype=torch.float32, device=current.device)
        if theta is None:
            theta = torch.zeros(channels, dtype=torch.float32, device=current.device)
        return cls(zero, torch.zeros_like(zero, dtype=torch.int32), theta)


def lif(
    current: Tensor,
    neuron: LIF,
    *,
    state: LIFState | None = None,
    groups: int = 1,
    backend: Literal["auto", "native", "triton", "reference"] = "auto",
) -> tuple[Tensor, LIFState]:
    """Spikes of a layer of leaky integrate-and-fire neurons, and its state after the last step.

    Parameters
    ----------
    current : (T, N, C, H, W), (T, N, F) or (T, S, N, F) tensor
        Input current of T steps: maps, vectors, or vectors of S stacked networks. float32; it is
        not modified and no gradient flows through it.
    neuron : LIF
        The parameters.
    state : LIFState, optional
        Where to start from; at rest by default. It is not modified.
    groups : int, default 1
        Networks stacked in the channels of (T, N, C, H, W) or (T, N, F): winners are taken within
        each. (T, S, N, F) has S groups of its own.
    backend : {"auto", "native", "triton", "reference"}, default "auto"
        "auto" is "triton" on CUDA and "native" on the CPU. An explicit choice never falls back.

    Returns
    -------
    spikes : tensor of the shape of `current`
        0 or 1, float32.
    state : LIFState
        After the last step.

    Raises
    ------
    InvalidInputError
        For shapes and dtypes that do not fit. NaN and infinity are not looked for: a neuron that
        receives NaN never spikes again.
    BackendUnavailableError
        Where an explicit backend cannot run on the tensors' device.

    Examples
    --------
    >>> import torch
    >>> from rsafast_kernels.lif import LIF, lif
    >>> spikes, state = lif(torch.full((5, 1, 1), 0.4), LIF(tau=float("inf")))
    >>> spikes.flatten()
    tensor([0., 0., 1., 0., 0.])
    >>> round(state.potential.item(), 6)
    0.8
    """
    if backend not in BACKENDS:
        raise InvalidInputError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if current.dim() not in (3, 4, 5):
        raise InvalidInputError(
            "current must be (T, N, C, H, W), (T, N, F) or (T, S, N, F), "
            f"got shape {tuple(current.shape)}"
        )
    if current.dtype != torch.float32:
        raise InvalidInputError(
            f"current must be float32, got {current.dtype}; convert it with .float()"
        )
    state = LIFState.rest(current) if state is None else state
    _check_state(current, state)
    stacked = current.dim() == 4
    if stacked:
        groups = current.shape[1]
    channels = state.theta.numel()
    if groups < 1 or channels % groups:
        raise InvalidInputError(f"groups must divide the {channels} channels, got {groups}")
    trains, potential, refractory = (
        _canonical(a, stacked) for a in (current, state.potential[None], state.refractory[None])
    )
    spikes, *after = _run(
        trains.contiguous(), neuron, potential[0], refractory[0], state.theta.detach().flatten(),
        groups, backend,
    )  # fmt: skip
    shape = current.shape
    return _original(spikes, shape), LIFState(
        _original(after[0][None], shape)[0], _original(after[1][None], shape)[0],
        after[2].view(state.theta.shape),
    )  # fmt: skip


def _canonical(a: Tensor, stacked: bool) -> Tensor:
    """(T, N, channels, positions) of any of the accepted layouts."""
    a = a.detach()
    if stacked:
        a = a.transpose(1, 2).flatten(2)
    return a.flatten(3) if a.dim() == 5 else a[..., None]


def _original(a: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) == 4:
        return a.view(len(a), a.shape[1], shape[1], shape[3]).transpose(1, 2)
    return a.view(len(a), *shape[1:])


def _run(
    current: Tensor,
    neuron: LIF,
    potential: Tensor,
    refractory: Tensor,
    theta: Tensor,
    groups: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    device = current.device.type
    if backend == "reference":
        found = reference.lif(
            current.cpu().numpy(), neuron, potential.cpu().numpy(), refractory.cpu().numpy(),
            theta.cpu().numpy(), groups,
        )  # fmt: skip
        spikes, v, left, adapted = (torch.from_numpy(a).to(current.device) for a in found)
        return spikes, v, left, adapted
    if backend == "triton" or (backend == "auto" and device != "cpu"):
        if find_spec("triton") is None:
            raise BackendUnavailableError(
                f"current is on {device} and triton is not installed: pip install rsafast[gpu], "
                "or move it to the CPU"
            )
        from rsafast_kernels.lif import triton_

        gain = theta_gain(neuron, current.shape[1])
        return triton_.run(current, neuron, potential, refractory, theta, groups, gain)
    if device != "cpu":
        raise BackendUnavailableError(
            f"backend='native' runs on the CPU, got tensors on {device}; use backend='auto'"
        )
    spikes = torch.empty_like(current)
    potential, refractory, theta = (
        a.clone(memory_format=torch.contiguous_format) for a in (potential, refractory, theta)
    )
    native.lif_run(
        current.numpy(), potential.numpy(), refractory.numpy(), theta.numpy(), spikes.numpy(),
        groups, neuron.leak, neuron.threshold, neuron.reset == "subtract",
        neuron.winner_take_all is not None, neuron.refractory, neuron.theta_decay,
        theta_gain(neuron, current.shape[1]), threads_for(8.0 * current.numel()),
    )  # fmt: skip
    return spikes, potential, refractory, theta


def theta_gain(neuron: LIF, samples: int) -> float:
    """What one spike adds to its channel's theta."""
    return float(np.float32(neuron.theta_plus / max(1, samples)))


def _check_state(current: Tensor, state: LIFState) -> None:
    expected = LIFState.rest(current)
    for name in ("potential", "refractory", "theta"):
        got, want = getattr(state, name), getattr(expected, name)
        if (got.shape, got.dtype, got.device) != (want.shape, want.dtype, want.device):
            raise InvalidInputError(
                f"state.{name} must be {want.dtype} {tuple(want.shape)} on {want.device}, "
                f"got {got.dtype} {tuple(got.shape)} on {got.device}"
            )
