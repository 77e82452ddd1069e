# mypy: disallow-untyped-defs=False
"""LIF layers on the GPU (Triton): a tile of neurons stays in registers over all time steps.

A tile is some channels at some positions of one sample; with winner-take-all it holds all channels
of a group. Adaptive thresholds depend on the whole batch, so then there is one launch a step.
Addresses are 64-bit. Fused multiply-adds are off: see `rsafast_kernels.lif`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rsafast_kernels.errors import BackendUnavailableError
from rsafast_kernels.lif.neuron import LIF

TILE = 1024  # neurons of a program, where winner-take-all does not ask for more


@triton.jit
def lif_kernel(
    current_ptr, potential_ptr, left_ptr, theta_ptr, winner_ptr, spikes_ptr,
    steps, samples, positions, leak, threshold, refractory,
    GROUPS: tl.constexpr, SIZE: tl.constexpr, SUBTRACT: tl.constexpr, COMPETE: tl.constexpr,
    BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Advance potential, left (refractory steps) and winner, in place; write spikes."""
    group = tl.program_id(0) % GROUPS
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    p = tl.program_id(2) * BP + tl.arange(0, BP)
    mask = (c < SIZE)[:, None] & (p < positions)[None, :]
    first = tl.program_id(0).to(tl.int64) * SIZE * positions
    at = first + c[:, None] * positions + p[None, :]
    step = samples.to(tl.int64) * GROUPS * SIZE * positions
    v = tl.load(potential_ptr + at, mask=mask, other=0.0)
    left = tl.load(left_ptr + at, mask=mask, other=0)
    limit = threshold + tl.load(theta_ptr + group * SIZE + c, mask=c < SIZE, other=0.0)
    limit = tl.broadcast_to(limit[:, None], (BC, BP))
    winner_at = winner_ptr + tl.program_id(0).to(tl.int64) * positions + p
    winner = tl.load(winner_at, mask=p < positions, other=-1)
    for t in range(steps):
        current = tl.load(current_ptr + t * step + at, mask=mask, other=0.0)
        lost = (winner >= 0)[None, :] & (winner[None, :] != c[:, None])
        moves = (left <= 0) & (lost == 0)
        v = tl.where(moves, leak * v + current, v)
        crossing = moves & (v >= limit) & mask
        left -= (left > 0).to(tl.int32)
        if COMPETE:
            best = tl.max(tl.where(crossing, v, float("-inf")), axis=0)
            among = crossing & (v == best[None, :])
            found = tl.min(tl.where(among, c[:, None], SIZE), axis=0)
            winner = tl.where((winner < 0) & (found < SIZE), found, winner)
            lost = (winner >= 0)[None, :] & (winner[None, :] != c[:, None])
            v = tl.where(lost, 0.0, v)
            crossing = crossing & (lost == 0)
        after = v - limit if SUBTRACT else tl.zeros_like(v)
        v = tl.where(crossing, after, v)
        left = tl.where(crossing, refractory, left)
        tl.store(spikes_ptr + t * step + at, crossing.to(tl.float32), mask=mask)
    tl.store(potential_ptr + at, v, mask=mask)
    tl.store(left_ptr + at, left, mask=mask)
    if COMPETE:
        tl.store(winner_at, winner, mask=p < positions)


def tiles(neuron: LIF, size: int, positions: int) -> tuple[int, int]:
    """Channels and positions of a program's tile."""
    bp = min(triton.next_power_of_2(positions), 128)
    bc = triton.next_power_of_2(size)
    if neuron.winner_take_all is None:
        return min(bc, max(1, TILE // bp)), bp
    return bc, min(bp, max(1, TILE // bc))


def run(
    current: Tensor,
    neuron: LIF,
    potential: Tensor,
    refractory: Tensor,
    theta: Tensor,
    groups: int,
    gain: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run contiguous `current` (T, N, channels, positions); see `reference.lif`."""
    if not current.is_cuda and isinstance(lif_kernel, triton.JITFunction):
        raise BackendUnavailableError(
            f"backend='triton' runs on CUDA tensors, got tensors on {current.device}; "
            "use backend='auto'"
        )
    steps, samples, channels, positions = current.shape
    potential, refractory, theta = (
        a.clone(memory_format=torch.contiguous_format) for a in (potential, refractory, theta)
    )
    spikes = torch.empty_like(current)
    if not spikes.numel():
        return spikes, potential, refractory, theta
    size = channels // groups
    bc, bp = tiles(neuron, size, positions)
    grid = (samples * groups, triton.cdiv(size, bc), triton.cdiv(positions, bp))
    winner = torch.full((samples, groups, positions), -1, dtype=torch.int32, device=current.device)
    at_once = steps if gain == 0 else 1
    for t in range(0, steps, at_once):
        lif_kernel[grid](
            current[t:], potential, refractory, theta, winner, spikes[t:],
            at_once, samples, positions, neuron.leak, neuron.threshold, neuron.refractory,
            GROUPS=groups, SIZE=size, SUBTRACT=neuron.reset == "subtract",
            COMPETE=neuron.winner_take_all is not None, BC=bc, BP=bp,
            enable_fp_fusion=False,
        )  # fmt: skip
        if gain:
            theta = theta * neuron.theta_decay + spikes[t].sum(dim=(0, 2)) * gain
    return spikes, potential, refractory, theta
