"""Leaky integrate-and-fire neurons in plain NumPy, one position of one sample at a time.

The arithmetic is that of the current's dtype, operation by operation: in float64 it is the oracle,
in float32 every backend gives the same bits.
"""

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels.lif.neuron import LIF

Float = NDArray[np.floating]


def lif(
    current: Float,
    neuron: LIF,
    potential: Float,
    refractory: NDArray[np.int32],
    theta: Float,
    groups: int = 1,
) -> tuple[Float, Float, NDArray[np.int32], Float]:
    """Run T steps: current (T, N, groups * C, P); potential, refractory (N, groups * C, P).

    Returns spikes, and potential, refractory and theta (groups * C,) after the last step.
    """
    steps, samples, channels, positions = current.shape
    real = current.dtype.type
    leak, threshold = real(neuron.leak), real(neuron.threshold)
    v, left, theta = potential.copy(), refractory.copy(), theta.copy()
    spikes = np.zeros_like(current)
    winner = np.full((samples, groups, positions), -1)
    size = channels // groups
    for t in range(steps):
        for n, g, p in np.ndindex(winner.shape):
            here = slice(g * size, (g + 1) * size)
            limit = threshold + theta[here]
            crossing = np.zeros(size, bool)
            for c in range(size):
                at = n, g * size + c, p
                if left[at] > 0:
                    left[at] -= 1
                elif winner[n, g, p] in (-1, c):
                    v[at] = leak * v[at] + current[t, n, g * size + c, p]
                    crossing[c] = v[at] >= limit[c]
            if neuron.winner_take_all and winner[n, g, p] == -1 and crossing.any():
                winner[n, g, p] = np.argmax(np.where(crossing, v[n, here, p], -np.inf))
            for c in range(size):
                at = n, g * size + c, p
                if winner[n, g, p] not in (-1, c):
                    v[at] = 0
                elif crossing[c]:
                    spikes[(t, *at)] = 1
                    v[at] = 0 if neuron.reset == "zero" else v[at] - limit[c]
                    left[at] = neuron.refractory
        if neuron.theta_plus:
            counts = spikes[t].sum(axis=(0, 2))
            theta = real(neuron.theta_decay) * theta + real(neuron.theta_plus / samples) * counts
    return spikes, v, left, theta
