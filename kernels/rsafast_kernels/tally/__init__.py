"""What a permutation test keeps of a block of permuted statistics, so that none need be stored.

`Tally` accumulates, for every pair of a model and a brain RDM: relabellings at least as extreme as
the observed labelling, their number squared per block (for the Monte Carlo error), moments, a
histogram, and the joint counts behind the family-wise p-values of Westfall & Young (1993).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels._native import native
from rsafast_kernels._threads import threads_for
from rsafast_kernels.device import namespace, on_gpu, to_host
from rsafast_kernels.errors import InvalidInputError

__all__ = ["ALTERNATIVES", "Alternative", "Recheck", "Tally"]

Alternative = Literal["greater", "less", "two-sided"]
ALTERNATIVES: dict[str, int] = {"greater": 0, "less": 1, "two-sided": 2}


@dataclass(frozen=True, slots=True)
class Recheck:
    """How statistics in float32 are made sure of.

    Attributes
    ----------
    band : how far a statistic may be off. Relabellings of which some comparison lies within it are
        left out of what is counted in float32.
    evaluate : float64 statistics (M, N, L) of the relabellings with these numbers (L,), which
        count through the block: (i * J + j) * S + s.
    """

    band: float
    evaluate: Callable[[NDArray[np.int64]], NDArray[np.float64]]


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

    def add(self, values: Any, recheck: Recheck | None = None) -> None:
        """Count a block of statistics.

        Parameters
        ----------
        values : (I, M, J, N, S) float64: S relabellings of every block (i, j) and pair (m, n).
            CuPy arrays are counted on their GPU, and may be float32 where `recheck` is given.
        recheck : how float32 values are made sure of.
        """
        blocks_a, m, blocks_b, n, size = values.shape
        if (m, n) != self.thresholds.shape:
            raise InvalidInputError(
                f"values are for {(m, n)} pairs, the tally is for {self.thresholds.shape}"
            )
        if on_gpu(values):
            self._add_on_gpu(namespace(values).ascontiguousarray(values), recheck)
        else:
            values = np.ascontiguousarray(values)
            self._count(*self._each(values))
            self._add_joint(values)
        self.blocks += blocks_a * blocks_b
        self.permutations += blocks_a * blocks_b * size

    def merge(self, other: "Tally") -> None:
        """Take in what another tally, started alike, counted of other relabellings."""
        for name in (
            "exceedances", "squared_exceedances", "single_step", "step_down", "sums", "squares",
            "histogram", "blocks", "permutations",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def _count(
        self,
        count: NDArray[np.int64],
        sums: NDArray[np.float64],
        squares: NDArray[np.float64],
        histogram: NDArray[np.int64],
    ) -> None:
        """Take in exceedances, sums and squares (blocks, pairs) and a histogram (pairs, bins)."""
        shape = self.thresholds.shape
        self.exceedances += count.sum(axis=0).reshape(shape)
        self.squared_exceedances += (count.astype(np.float64) ** 2).sum(axis=0).reshape(shape)
        self.sums += sums.sum(axis=0).reshape(shape)
        self.squares += squares.sum(axis=0).reshape(shape)
        self.histogram += histogram.reshape(self.histogram.shape)

    def _each(
        self, values: NDArray[np.float64]
    ) -> tuple[
        NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]
    ]:
        blocks, pairs = values.shape[0] * values.shape[2], self.thresholds.size
        threshold, centre, low, scale = self._per_pair()
        count = np.empty((blocks, pairs), np.int64)
        sums, squares = np.empty((blocks, pairs)), np.empty((blocks, pairs))
        histogram = np.zeros((pairs, self.histogram.shape[-1]), np.int64)
        native.tally_each(
            values,
            threshold,
            ALTERNATIVES[self.alternative],
            centre,
            low,
            scale,
            count,
            sums,
            squares,
            histogram,
            threads_for(3.0 * values.size),
        )
        return count, sums, squares, histogram

    def _per_pair(self) -> NDArray[np.float64]:
        """Threshold, centre, lowest edge and bins per unit of every pair, (4, pairs)."""
        low, high = self.histogram_range[..., 0], self.histogram_range[..., 1]
        scale = self.histogram.shape[-1] / (high - low)
        return np.stack([v.ravel() for v in (self.thresholds, self.centres, low, scale)])

    def _add_joint(self, values: NDArray[np.float64]) -> None:
        thresholds = self.thresholds.ravel()
        if thresholds.size == 1:
            return
        order = np.argsort(self.joint_thresholds.ravel(), kind="stable")
        down = np.zeros(thresholds.size, np.int64)
        bins = np.zeros(thresholds.size + 1, np.int64)
        native.tally_joint(
            values,
            thresholds,
            ALTERNATIVES[self.alternative],
            self.joint_centres.ravel(),
            self.joint_scales.ravel(),
            order,
            down,
            bins,
            threads_for(3.0 * values.size),
        )
        self._count_joint(order, down[order], bins)

    def _count_joint(
        self, order: NDArray[np.int64], down: NDArray[np.int64], bins: NDArray[np.int64]
    ) -> None:
        """Take in step-down counts, pairs in order, and maxima by the thresholds they reach."""
        self.single_step.ravel()[order] += bins[::-1].cumsum()[::-1][1:]
        self.step_down.ravel()[order] += down

    def _add_on_gpu(self, values: Any, recheck: Recheck | None) -> None:
        from rsafast_kernels.tally import gpu

        alternative = ALTERNATIVES[self.alternative]
        pairs = self._ordered_pairs()
        marked, places = None, np.empty(0, np.int64)
        if recheck is not None:
            marked = gpu.mark(values, pairs, alternative, recheck.band)
            places = to_host(namespace(values).flatnonzero(marked))
        found = gpu.each(
            values, marked, self._per_pair(), alternative, self.histogram.shape[-1]
        )
        if recheck is not None and len(places):
            self._make_sure(found, places, recheck.evaluate(places), values.shape[-1])
        self._count(*found)
        if len(pairs.order) > 1:
            self._count_joint(pairs.order, *gpu.joint(values, marked, pairs, alternative))

    def _ordered_pairs(self) -> Any:
        from rsafast_kernels.tally.gpu import Joint

        joint = self.joint_thresholds.ravel()
        order = np.argsort(joint, kind="stable")
        return Joint(
            order,
            self.thresholds.ravel()[order],
            self.joint_centres.ravel()[order],
            self.joint_scales.ravel()[order],
            joint[order],
        )

    def _make_sure(
        self,
        found: tuple[
            NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]
        ],
        places: NDArray[np.int64],
        exact: NDArray[np.float64],
        size: int,
    ) -> None:
        """Add relabellings that were left out, by their exact values (M, N, L)."""
        values = np.ascontiguousarray(exact[None, :, None, :, :])
        self._add_joint(values)
        block = places // size
        # One at a time, so that each can go to the block that it belongs to.
        singly = np.ascontiguousarray(exact.transpose(2, 0, 1)[:, :, None, :, None])
        count, sums, squares, histogram = self._each(singly)
        for total, part in zip(found[:3], (count, sums, squares), strict=True):
            np.add.at(total, block, part)
        found[3][...] += histogram
