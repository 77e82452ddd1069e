"""What a permutation test keeps of a block of permuted statistics, so that none need be stored.

`Tally` accumulates, for every pair of a model and a brain RDM: relabellings at least as extreme as
the observed labelling, their number squared per block (for the Monte Carlo error), moments, a
histogram, and the joint counts behind the family-wise p-values of Westfall & Young (1993).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels._native import native
from rsafast_kernels._threads import threads_for
from rsafast_kernels.errors import InvalidInputError

__all__ = ["ALTERNATIVES", "Alternative", "Tally"]

Alternative = Literal["greater", "less", "two-sided"]
ALTERNATIVES: dict[str, int] = {"greater": 0, "less": 1, "two-sided": 2}


@dataclass(slots=True)
class Tally:
    """Counts of permuted statistics against observed ones; add blocks in any order.

    Parameters of `start`
    ---------------------
    thresholds : (M, N) score that counts as at least as extreme (observed minus tolerance).
    alternative : the score is the statistic, its negative, or its absolute value.
    centres : (M, N) values near the null means; moments are summed about them.
    stds : (M, N) null standard deviations, by which the scores of different pairs are made
        comparable before their maximum is taken: (score - null mean) / std, or for "two-sided"
        score / std. None takes the maximum of the scores as they are.
    histogram_range : (M, N, 2) lowest and highest edge; values outside fall into the end bins.
    bins : number of histogram bins.
    """

    thresholds: NDArray[np.float64]
    alternative: Alternative
    centres: NDArray[np.float64]
    joint_centres: NDArray[np.float64]
    joint_scales: NDArray[np.float64]
    histogram_range: NDArray[np.float64]
    exceedances: NDArray[np.int64]
    squared_exceedances: NDArray[np.float64]
    single_step: NDArray[np.int64]
    step_down: NDArray[np.int64]
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]
    histogram: NDArray[np.int64]
    blocks: int = 0
    permutations: int = 0

    @classmethod
    def start(
        cls,
        thresholds: NDArray[np.float64],
        alternative: Alternative,
        centres: NDArray[np.float64],
        histogram_range: NDArray[np.float64],
        bins: int = 101,
        stds: NDArray[np.float64] | None = None,
    ) -> "Tally":
        """Return an empty tally of (M, N) pairs."""
        if alternative not in ALTERNATIVES:
            raise InvalidInputError(
                f"alternative must be one of {', '.join(ALTERNATIVES)}, got {alternative!r}"
            )
        shape = thresholds.shape
        sign = {"greater": 1.0, "less": -1.0, "two-sided": 0.0}[alternative]
        joint_centres, joint_scales = np.zeros(shape), np.ones(shape)
        if stds is not None:
            joint_centres = sign * centres
            joint_scales = 1.0 / np.where(stds > 0, stds, 1.0)
        return cls(
            thresholds=np.ascontiguousarray(thresholds, dtype=np.float64),
            alternative=alternative,
            centres=np.ascontiguousarray(centres, dtype=np.float64),
            joint_centres=joint_centres,
            joint_scales=joint_scales,
            histogram_range=np.ascontiguousarray(histogram_range, dtype=np.float64),
            exceedances=np.zeros(shape, np.int64),
            squared_exceedances=np.zeros(shape),
            single_step=np.zeros(shape, np.int64),
            step_down=np.zeros(shape, np.int64),
            sums=np.zeros(shape),
            squares=np.zeros(shape),
            histogram=np.zeros((*shape, bins), np.int64),
        )

    @property
    def joint_thresholds(self) -> NDArray[np.float64]:
        """Thresholds as they are compared across pairs, (M, N)."""
        return (self.thresholds - self.joint_centres) * self.joint_scales

    def add(self, values: NDArray[np.float64]) -> None:
        """Count a block of statistics.

        Parameters
        ----------
        values : (I, M, J, N, S) float64: S relabellings of every block (i, j) and pair (m, n).
        """
        blocks_a, m, blocks_b, n, size = values.shape
        if (m, n) != self.thresholds.shape:
            raise InvalidInputError(
                f"values are for {(m, n)} pairs, the tally is for {self.thresholds.shape}"
            )
        values = np.ascontiguousarray(values)
        self._add_each(values, blocks_a * blocks_b)
        if m * n > 1:
            self._add_joint(values)
        self.blocks += blocks_a * blocks_b
        self.permutations += blocks_a * blocks_b * size

    def _add_each(self, values: NDArray[np.float64], blocks: int) -> None:
        shape = self.thresholds.shape
        low, high = self.histogram_range[..., 0], self.histogram_range[..., 1]
        count = np.empty((blocks, *shape), np.int64)
        sums, squares = np.empty((blocks, *shape)), np.empty((blocks, *shape))
        native.tally_each(
            values,
            self.thresholds.ravel(),
            ALTERNATIVES[self.alternative],
            self.centres.ravel(),
            np.ascontiguousarray(low).ravel(),
            np.ascontiguousarray(self.histogram.shape[-1] / (high - low)).ravel(),
            count.reshape(blocks, -1),
            sums.reshape(blocks, -1),
            squares.reshape(blocks, -1),
            self.histogram.reshape(-1, self.histogram.shape[-1]),
            threads_for(3.0 * values.size),
        )
        self.exceedances += count.sum(axis=0)
        self.squared_exceedances += (count.astype(np.float64) ** 2).sum(axis=0)
        self.sums += sums.sum(axis=0)
        self.squares += squares.sum(axis=0)

    def _add_joint(self, values: NDArray[np.float64]) -> None:
        thresholds = self.thresholds.ravel()
        order = np.argsort(self.joint_thresholds.ravel(), kind="stable")
        down = np.zeros(thresholds.size, np.int64)
        bins = np.zeros(thresholds.size + 1, np.int64)
        workers = threads_for(3.0 * values.size)
        native.tally_joint(
            values,
            thresholds,
            ALTERNATIVES[self.alternative],
            self.joint_centres.ravel(),
            self.joint_scales.ravel(),
            order,
            down,
            bins,
            workers,
        )
        single = np.empty_like(down)
        single[order] = bins[::-1].cumsum()[::-1][1:]
        self.single_step += single.reshape(self.single_step.shape)
        self.step_down += down.reshape(self.step_down.shape)
