"""Approximations of p-values below 1 / n_permutations, each labelled one wherever it is shown."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import pearson3

FloatArray = NDArray[np.float64]

KEPT = 500  # largest null scores kept a pair for the tail fit
_FIRST, _LAST, _STEP = 250, 30, 10  # exceedances tried, as in Knijnenburg et al. (2009)
_LEAST_SHAPE = -0.5
_ENOUGH = 10  # exceedances of the observed value from which the exact p needs no help


def pearson3_p(
    statistic: FloatArray, mean: FloatArray, std: FloatArray, skew: FloatArray, alternative: str
) -> FloatArray:
    """Tail probability of a Pearson type III law with the null's exact moments.

    Two-sided: both tails beyond ±|statistic|, to match the exceedances that are counted.
    """

    def upper(value: FloatArray) -> FloatArray:
        return pearson3.sf((value - mean) / std, skew)

    def lower(value: FloatArray) -> FloatArray:
        return pearson3.cdf((value - mean) / std, skew)

    if alternative == "greater":
        return upper(statistic)
    if alternative == "less":
        return lower(statistic)
    return upper(np.abs(statistic)) + lower(-np.abs(statistic))


class TopScores:
    """The largest scores of every pair among all blocks added."""

    def __init__(self, shape: tuple[int, int], kept: int = KEPT) -> None:
        self._kept = kept
        self.scores = np.full((*shape, kept), -np.inf)

    def add(self, scores: FloatArray) -> None:
        """Take in (I, M, J, N, S) scores."""
        flat = np.moveaxis(scores, (1, 3), (0, 1)).reshape(*self.scores.shape[:2], -1)
        if flat.shape[-1] > self._kept:
            flat = np.partition(flat, flat.shape[-1] - self._kept, axis=-1)[..., -self._kept :]
        self._take_in(flat)

    def merge(self, other: "TopScores") -> None:
        """Take in the largest scores of other blocks."""
        self._take_in(other.scores)

    def _take_in(self, scores: FloatArray) -> None:
        both = np.concatenate([self.scores, scores], axis=-1)
        self.scores = np.partition(both, both.shape[-1] - self._kept, axis=-1)[..., -self._kept :]


@dataclass(frozen=True, slots=True)
class GpdFit:
    """Generalised Pareto law of exceedances: ``sf(y) = (1 + shape y / scale)^(-1 / shape)``."""

    shape: float
    scale: float

    def sf(self, y: FloatArray | float) -> FloatArray:
        """Probability of exceeding `y`."""
        y = np.asarray(y, float)
        if abs(self.shape) < 1e-8:
            return np.exp(-y / self.scale)
        return np.maximum(1 + self.shape * y / self.scale, 0.0) ** (-1 / self.shape)


def fit_gpd(exceedances: FloatArray, beyond: float = 0.0) -> GpdFit:
    """Maximum-likelihood fit whose support reaches past `beyond` (so that no p is zero).

    One parameter is left after profiling (Grimshaw 1993): theta = -shape / scale, for which the
    best shape is the mean of log(1 - theta y). The law ends at 1 / theta where theta > 0; keeping
    theta below 1 / beyond is the constraint of the zero-p-safe fit (permApprox, arXiv 2602.22975).
    """
    y = np.asarray(exceedances, float)
    mean = float(y.mean())
    y = y / mean
    end = max(float(y.max()), beyond / mean) * (1 + 1e-6)

    def loss(theta: float) -> float:
        if abs(theta) < 1e-7:
            return 1.0
        shape = float(np.log1p(-theta * y).mean())
        return float(np.log(-shape / theta) + shape + 1)

    # Below shape -1/2 maximum likelihood is not regular, and below -1 the likelihood is unbounded.
    upper = 1 / end
    if np.log1p(-upper * y).mean() < _LEAST_SHAPE:
        upper = float(brentq(lambda t: np.log1p(-t * y).mean() - _LEAST_SHAPE, 0.0, upper))
    ranges = [(-10.0, -1e-6)]
    if upper > 2e-6:  # else the law would end so far out that it is exponential
        ranges.append((1e-6, upper))
    best = min(
        (
            minimize_scalar(loss, bounds=b, method="bounded", options={"xatol": 1e-10})
            for b in ranges
        ),
        key=lambda r: float(r.fun),
    )
    theta = float(best.x) if best.fun < 1.0 else 0.0
    if abs(theta) < 1e-7:
        return GpdFit(0.0, mean)
    shape = float(np.log1p(-theta * y).mean())
    return GpdFit(shape, -shape / theta * mean)


def anderson_darling(exceedances: FloatArray, fit: GpdFit) -> float:
    """Anderson-Darling distance of the exceedances from the fitted law."""
    z = np.clip(1 - fit.sf(np.sort(exceedances)), 1e-12, 1 - 1e-12)
    m = len(z)
    weights = 2 * np.arange(1, m + 1) - 1
    return float(-m - (weights * (np.log(z) + np.log1p(-z[::-1]))).mean())


# 5 % points of the distance when shape and scale are fitted by `fit_gpd` (whose shape ends at
# -1/2), simulated with 4,000 samples of 250 a shape; their own error is about 0.02.
# test_tails.py repeats some. Same idea as the table of Choulakian & Stephens (2001), which is for
# unconstrained fits.
_SHAPES = np.array([-0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5])
_LIMITS = np.array([1.291, 1.115, 1.102, 1.052, 1.031, 0.946, 0.945, 0.928, 0.847, 0.814])


def gpd_p(scores: FloatArray, observed: float, exceedances: int, n_permutations: int) -> float:
    """Tail probability of `observed` by a generalised Pareto fit (Knijnenburg et al. 2009).

    Parameters
    ----------
    scores : largest null scores, the identity's among them.
    observed : score of the observed labelling.
    exceedances, n_permutations : as counted, the identity included.

    Returns
    -------
    The exact p where at least 10 relabellings reach the observed score; NaN where no number of
    exceedances from 250 down to 30 passes the Anderson-Darling test (5 %), as happens for heavily
    tied nulls. Otherwise positive: the fitted law is made to reach past `observed`.

    Notes
    -----
    Measured on RDMs of 30 stimuli: good to a factor of 2 down to a true p of about
    ``10 / n_permutations``; near ``1 / n_permutations`` half of the fits are too small by a factor
    of 2 to 5 and one in ten by 10 or more; below that it is no guide. Take more relabellings first.
    """
    if exceedances >= _ENOUGH:
        return exceedances / n_permutations
    null = np.sort(scores[np.isfinite(scores)])[::-1]
    identity = int(np.argmin(np.abs(null - observed)))
    null = np.delete(null, identity)
    for count in range(min(_FIRST, (n_permutations - 1) // 4, len(null) - 1), _LAST - 1, -_STEP):
        threshold = (null[count - 1] + null[count]) / 2
        tail = null[:count] - threshold
        if not tail.min() > 0:
            continue
        fit = fit_gpd(tail, beyond=observed - threshold)
        if anderson_darling(tail, fit) <= np.interp(fit.shape, _SHAPES, _LIMITS):
            p = count / (n_permutations - 1) * fit.sf(observed - threshold)
            return max(float(p), float(np.finfo(float).tiny))
    return float("nan")
