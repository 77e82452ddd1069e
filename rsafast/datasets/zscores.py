"""Mean and spread of every channel, over trials that come at once or in pieces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Moments:
    """Mean and standard deviation of channels over the trials of one block.

    Parameters
    ----------
    shape : of one trial: (channels,) or (channels, times).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._n = 0
        self._mean = np.zeros(shape)
        self._squares = np.zeros(shape)
        self._largest = np.zeros(shape)

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in (trials, channels, ...)."""
        mean = values.mean(axis=0)
        step, total = mean - self._mean, self._n + len(values)
        self._squares += np.square(values - mean).sum(axis=0)
        self._squares += np.square(step) * (self._n * len(values) / total)
        self._mean += step * (len(values) / total)
        self._largest = np.maximum(self._largest, np.abs(values).max(axis=0))
        self._n = total

    def mean_and_spread(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and the divisor: infinite for a channel that does not vary."""
        spread = np.sqrt(self._squares / self._n)
        # What rounding leaves of a constant is no variation.
        return self._mean, np.where(spread <= 1e-6 * self._largest, np.inf, spread)
