"""Counting what an engine yields, and turning the counts into p-values and their errors."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.device import to_host
from rsafast_kernels.tally import Alternative, Tally
from rsafast_kernels.tally.reference import scores
from scipy.stats import false_discovery_control

from rsafast.comparators import FloatArray
from rsafast.errors import RsafastError
from rsafast.io.provenance import input_hashes, provenance
from rsafast.permutation.engines import Block, Sampling
from rsafast.permutation.result import PermutationResult
from rsafast.permutation.setup import NullMoments
from rsafast.permutation.tails import TopScores, gpd_p, pearson3_p

# How far below the observed value a relabelling still counts as equal to it: above the rounding of
# float64 products of unit vectors (about 1e-15), below any difference that means something. Where
# the statistic divides by little (`conditioning`), rounding grows with it and so does this.
TOLERANCE = 1e-11
_HISTOGRAM_STDS, _BINS = 8.0, 129


@dataclass(frozen=True, slots=True)
class Observed:
    """What relabellings are compared with, and what is known of the null beforehand: (M, N) each.

    Attributes
    ----------
    statistic : of the labelling as it is.
    tolerance : how far below it still counts as equal.
    null : mean and standard deviation of the null.
    skewness : of the null, where it is known.
    """

    statistic: FloatArray
    tolerance: FloatArray | float
    null: NullMoments
    skewness: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What is kept of the relabellings seen so far; blocks may come in any order."""

    tally: Tally
    top: TopScores | None
    null: FloatArray | None

    @classmethod
    def start(
        cls, observed: Observed, alternative: Alternative, tail: str | None, kept: int = 0
    ) -> "Counts":
        """Return empty counts; of `kept` relabellings every statistic is kept."""
        mean, std = observed.null.mean, observed.null.std
        half = np.maximum(_HISTOGRAM_STDS * std, 1e-9)
        thresholds = scores(observed.statistic, alternative) - observed.tolerance
        return cls(
            Tally.start(
                thresholds,
                alternative,
                mean,
                np.stack([mean - half, mean + half], axis=-1),
                bins=_BINS,
                stds=std if observed.null.exact else None,
            ),
            TopScores(thresholds.shape) if tail == "gpd" else None,
            np.empty((*thresholds.shape, kept)) if kept else None,
        )

    def add(self, block: Block) -> None:
        """Count a block."""
        self.tally.add(block.values, block.recheck)
        if self.top is not None:
            self.top.add(scores(to_host(block.values), self.tally.alternative))
        if self.null is not None:
            self.null[:, :, block.places] = np.moveaxis(to_host(block.values), (1, 3), (0, 1))

    def merge(self, other: "Counts") -> None:
        """Take in the counts of other relabellings; nulls that are kept are not merged."""
        self.tally.merge(other.tally)
        if self.top is not None and other.top is not None:
            self.top.merge(other.top)

    def check(self) -> None:
        """Raise unless the observed labelling was among the relabellings of every pair."""
        if not (self.tally.exceedances > 0).all():
            raise RsafastError(
                "the observed labelling was not counted among the relabellings, so no p-value is"
                " given; please report this with the RDMs"
            )


def result_of(
    sampling: Sampling,
    counts: Counts,
    observed: Observed,
    model_names: tuple[str, ...],
    brain_names: tuple[str, ...],
    n: int,
    *,
    tail: str | None,
    method: str,
    seed: int,
    parameters: dict[str, Any],
    inputs: dict[str, NDArray[Any]],
    started: float,
) -> PermutationResult:
    """Make the result of counts that are complete; `inputs` are hashed."""
    tally, total, expected = counts.tally, sampling.n_permutations, observed.null
    statistic, alternative = observed.statistic, tally.alternative
    p = tally.exceedances / total
    several = statistic.size > 1
    mean, std = (
        (expected.mean, expected.std) if expected.exact else _sampled_moments(tally, expected)
    )
    skew = np.full_like(mean, np.nan) if observed.skewness is None else observed.skewness
    p_tail: FloatArray | None = None
    if tail == "pearson3":
        p_tail = pearson3_p(statistic, mean, std, skew, alternative)
    elif counts.top is not None:
        p_tail = _gpd(counts.top, scores(statistic, alternative), tally.exceedances, total)
    return PermutationResult(
        statistic=statistic,
        exceedances=tally.exceedances,
        p_value=p,
        p_value_fwer=tally.single_step / total if several else p,
        p_value_stepdown=_step_down(tally) if several else p,
        q_value=false_discovery_control(p.ravel(), method="bh").reshape(p.shape),
        p_standard_error=_standard_error(sampling, tally),
        null_mean=mean,
        null_std=std,
        null_skewness=skew,
        histogram=tally.histogram,
        histogram_range=tally.histogram_range,
        n_permutations=total,
        n_stimuli=n,
        method=method,
        alternative=alternative,
        engine=sampling.engine,
        device=sampling.device,
        seed=seed,
        moments="exact" if expected.exact else "sampled",
        model_names=model_names,
        brain_names=brain_names,
        tail=tail,
        p_tail=p_tail,
        null=counts.null,
        parameters=parameters,
        provenance=provenance()
        | {"seconds": time.perf_counter() - started, **sampling.details}
        | input_hashes(**inputs),
    )


def _sampled_moments(tally: Tally, expected: NullMoments) -> tuple[FloatArray, FloatArray]:
    offset = tally.sums / tally.permutations
    variance = np.maximum(tally.squares / tally.permutations - offset**2, 0.0)
    return expected.mean + offset, np.sqrt(variance)


def _standard_error(sampling: Sampling, tally: Tally) -> FloatArray:
    """Monte Carlo standard error of p: never below that of independent relabellings.

    Orbits are pairwise independent, so the variance between their counts is unbiased for the
    sampling variance; it is uninformative where the observed value is hardly ever reached.
    """
    if sampling.engine == "exact":
        return np.zeros(tally.exceedances.shape)
    total, blocks = tally.permutations, tally.blocks
    p = tally.exceedances / total
    binomial = np.sqrt(p * (1 - p) / total)
    if not sampling.independent_blocks or blocks < 2:
        return binomial
    between = tally.squared_exceedances / blocks - (tally.exceedances / blocks) ** 2
    spread = np.sqrt(np.maximum(between, 0.0) / (blocks - 1)) * blocks / total
    return np.maximum(binomial, spread)


def _step_down(tally: Tally) -> FloatArray:
    """Step-down p-values, made monotone in the observed score (Westfall & Young 1993)."""
    raw = tally.step_down.ravel() / tally.permutations
    order = np.argsort(tally.joint_thresholds.ravel(), kind="stable")[::-1]
    out = np.empty(raw.size)
    out[order] = np.maximum.accumulate(raw[order])
    return out.reshape(tally.step_down.shape)


def _gpd(
    top: TopScores, observed: FloatArray, exceedances: NDArray[np.int64], total: int
) -> FloatArray:
    out = np.empty(observed.shape)
    for pair in np.ndindex(*observed.shape):
        out[pair] = gpd_p(top.scores[pair], float(observed[pair]), int(exceedances[pair]), total)
    return out
