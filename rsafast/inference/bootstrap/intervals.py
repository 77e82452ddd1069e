"""Confidence intervals and p-values from bootstrap replicates.

All functions take replicates (R, ...) and estimates (...) and work element by element.

With few items the quantiles of a bootstrap are too narrow twice over: its variance is too small by
(n - 1)/n, and its tails are normal where Student's are heavier. So quantiles are taken at expanded
levels (Hesterberg 2015, The American Statistician 69:371): at Φ(-sqrt(n/(n-1)) t) instead of α/2,
with t the quantile of Student's t. Where replicates have been rescaled to a corrected standard
error, which corrects the variance by itself, at Φ(-t).

Reflecting a skewed distribution puts its long tail on the wrong side. Basic intervals are therefore
reflected on a scale that has no skewness (Hall 1992, J. R. Stat. Soc. B 54:221), as Davison &
Hinkley (1997, section 5.2) advise: without it, those of the mean of 10 subjects whose alignment has
a skewness of .7 hold 92.6 % instead of 95 %, with it 93.6 %. That scale is known for means, over
subjects and seeds; a correlation over stimuli has a variance that follows its own value, and its
plain reflection holds 94 to 97 % (corrected as a mean is, 93).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from rsafast.errors import InvalidInputError

FloatArray = NDArray[np.float64]
Interval = Literal["percentile", "basic", "bca", "t"]
INTERVALS: tuple[str, ...] = get_args(Interval)
_SMALLEST_P = np.finfo(np.float64).tiny  # stands for p-values below what a float64 can hold


def check_interval(interval: str, level: float) -> None:
    """Raise for an unknown kind of interval or an impossible level."""
    if interval not in INTERVALS:
        raise InvalidInputError(
            f"interval must be one of {', '.join(INTERVALS)}, got {interval!r}"
        )
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise InvalidInputError(f"level must lie between 0 and 1, for example 0.95, got {level!r}")


def rescaled(replicates: FloatArray, estimate: FloatArray, ratio: FloatArray) -> FloatArray:
    """Replicates stretched about the estimate by `ratio` (corrected over raw standard error)."""
    return estimate + (replicates - estimate) * ratio


def interval(
    kind: str,
    replicates: FloatArray,
    estimate: FloatArray,
    standard_error: FloatArray,
    *,
    level: float,
    dof: FloatArray,
    stretch: FloatArray | float = 1.0,
    acceleration: FloatArray | float = 0.0,
) -> FloatArray:
    """Confidence interval (..., 2) of every estimate.

    Parameters
    ----------
    kind : "percentile", "basic", "bca" or "t"
    replicates : (R, ...) without NaN
    estimate, standard_error : (...)
    level : 0.95 for a 95 % interval
    dof : degrees of freedom of the standard error
    stretch : what the normal quantile is multiplied by beyond Student's: sqrt(n/(n-1)) for raw
        replicates of one factor, 1 for replicates rescaled to the corrected standard error
    acceleration : of BCa and basic intervals, see `acceleration`
    """
    t = student.ppf((1 + level) / 2, dof)
    if kind == "t":
        half = t * standard_error
        return np.stack([estimate - half, estimate + half], axis=-1)
    z = np.broadcast_to(stretch * t, estimate.shape)
    if kind == "bca":
        bias = _bias(replicates, estimate)
        levels = [
            norm.cdf(bias + (bias + side) / (1 - np.asarray(acceleration) * (bias + side)))
            for side in (-z, z)
        ]
    else:
        levels = [norm.cdf(-z), norm.cdf(z)]
    low, high = quantiles(replicates, np.stack(levels))
    if kind == "basic":
        low, high = (
            estimate - _reflected(end - estimate, standard_error, np.asarray(acceleration))
            for end in (high, low)
        )
    return np.stack([low, high], axis=-1)


def _reflected(above: FloatArray, error: FloatArray, skew: FloatArray) -> FloatArray:
    """How far below an estimate its target lies, where a replicate lies `above` the estimate.

    `skew` is the acceleration a: an estimate has skewness 6a, so that z = u - a (u² - 1) of the
    standardised replicate u has none (Cornish & Fisher); the studentised estimate has skewness -12a
    and Hall's g(t) = t + 2a t² + 4/3 a² t³ + a none, whose inverse brings z back.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.where(error > 0, above / error, 0.0)
        steepest = 0.5 / np.maximum(np.abs(u), 1.0)  # beyond, z would turn back
        skew = np.clip(skew, -steepest, steepest)
        z = u - skew * (u**2 - 1)
        t = (np.cbrt(1 + 6 * skew * (z - skew)) - 1) / (2 * skew)
    return np.where((error > 0) & (np.abs(skew) > 1e-8), t * error, above)


def quantiles(replicates: FloatArray, levels: FloatArray) -> FloatArray:
    """Quantiles (k, ...) at `levels` (k, ...): order statistic number level·(R + 1)."""
    total = len(replicates)
    ordered = np.sort(replicates, axis=0)
    place = np.clip(levels * (total + 1) - 1, 0, total - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, total - 1)
    low, high = (np.take_along_axis(ordered, i, axis=0) for i in (below, above))
    return low + (place - below) * (high - low)


def acceleration(
    jackknifes: Mapping[str, FloatArray], factors: Collection[str] | None = None
) -> FloatArray:
    """Acceleration of BCa from the estimates with one item left out, one array a factor.

    Each array is (items, ...), NaN where an item does not concern an estimate. With several factors
    the influences of all items are pooled, as for an estimate from several samples (Efron &
    Tibshirani 1993, section 14.3 and problem 14.10). With `factors`, the others add variance and no
    skewness.
    """
    cubes = squares = np.zeros(next(iter(jackknifes.values())).shape[1:])
    for factor, values in jackknifes.items():
        items = np.isfinite(values).sum(axis=0)
        influence = (np.nanmean(values, axis=0) - values) * (items - 1) / items
        if factors is None or factor in factors:
            cubes = cubes + np.nansum(influence**3, axis=0)
        squares = squares + np.nansum(influence**2, axis=0)
    out = np.zeros(squares.shape)
    np.divide(cubes, 6 * squares**1.5, out=out, where=squares > 0)
    return out


def _bias(replicates: FloatArray, estimate: FloatArray) -> FloatArray:
    """z0 of BCa: the normal quantile of the share of replicates below the estimate."""
    total = len(replicates)
    below = (replicates < estimate).sum(axis=0) + 0.5 * (replicates == estimate).sum(axis=0)
    return norm.ppf(np.clip(below / total, 1 / (total + 1), total / (total + 1)))


def t_test(
    estimate: FloatArray, standard_error: FloatArray, dof: FloatArray, *, two_sided: bool
) -> FloatArray:
    """p-values of estimate / standard error against Student's t; never 0.

    1 for an estimate of exactly 0, NaN for another one whose standard error is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(standard_error > 0, estimate / standard_error, np.nan)
    p = 2 * student.sf(np.abs(t), dof) if two_sided else student.sf(t, dof)
    p = np.where(np.isnan(t) & (estimate == 0), 1.0 if two_sided else 0.5, p)
    return np.where(np.isnan(p), p, np.maximum(p, _SMALLEST_P))


def quantile_p(
    replicates: FloatArray, *, two_sided: bool, dof: FloatArray, stretch: FloatArray | float
) -> FloatArray:
    """p-values of "the estimand is 0" by the share of replicates beyond 0: percentiles inverted.

    (k + 1)/(R + 1), k replicates at or below 0 (two-sided: twice the smaller side, at most 1), then
    brought to the expanded level at which the interval would end at 0. Never 0, never above 1.
    """
    total = len(replicates)
    p = ((replicates <= 0).sum(axis=0) + 1) / (total + 1)
    if two_sided:
        p = np.minimum(p, ((replicates >= 0).sum(axis=0) + 1) / (total + 1))
    p = np.minimum(p, total / (total + 1))
    p = student.sf(norm.isf(p) / stretch, dof)
    return np.minimum(2 * p, 1.0) if two_sided else p
