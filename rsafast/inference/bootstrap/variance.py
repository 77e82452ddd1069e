"""Variance of an estimate of which several factors are samples: the corrected bootstrap.

Resampling two crossed factors at once triples the variance of their interaction (and more factors
make it worse), while resampling one of them already holds the interaction once. So the bootstrap
variances s_U of all subsets U of the factors are combined by inclusion and exclusion:

    q_U = Σ_{V ⊆ U} (-1)^(|U| - |V|) s_V,     s_∅ = 0
    c_U = q_U / Π_{f ∈ U} (1 - 1/n_f)
    variance = Σ_{U ≠ ∅} (-1)^(|U| + 1) c_U

For a component of variance σ²_T that belongs to the factors T, s_V holds
σ²_T (Π_{f ∈ V ∩ T} (2 - 1/n_f) - 1), so that c_U is σ²_T for every U ⊆ T and 0 for the others, and
the sum is σ²_T: unbiased for balanced random effects of any order. One factor: s n/(n - 1). Two:
the correction of Schütt et al. (2023, eLife 12:e82566), as rsatoolbox applies it. As there, the
result is kept above the largest single-factor term c_f and below the variance with all factors
resampled. Where these two disagree, the first holds (in rsatoolbox the second, which with five
items of a factor is only 4/5 of what that factor contributes).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Subset = tuple[str, ...]


def subsets(factors: Subset) -> list[Subset]:
    """Every non-empty subset, the smallest first and all factors last."""
    sizes = (combinations(factors, size) for size in range(1, len(factors) + 1))
    return list(chain.from_iterable(sizes))


def corrected_variance(raw: Mapping[Subset, ArrayLike], n: Mapping[str, ArrayLike]) -> FloatArray:
    """Variance of an estimate when all factors are samples.

    Parameters
    ----------
    raw : bootstrap variance (any shape) with the factors of each subset resampled; all subsets
    n : items of every factor (a number, or an array that broadcasts against the variances)

    Returns
    -------
    Array of the shape of the variances.

    Examples
    --------
    >>> raw = {("stimuli",): 2.0, ("subjects",): 1.0, ("stimuli", "subjects"): 3.5}
    >>> float(corrected_variance(raw, {"stimuli": 100, "subjects": 11}).round(4))
    2.5646
    """
    variances = {subset: np.asarray(value, np.float64) for subset, value in raw.items()}
    kept = {f: 1.0 - 1.0 / np.asarray(value, np.float64) for f, value in n.items()}
    factors = max(variances, key=len)
    total = floor = np.zeros(())
    for subset in subsets(factors):
        part = _interaction(variances, subset)
        for factor in subset:
            part = part / kept[factor]
        total = total - (-1) ** len(subset) * part
        if len(subset) == 1:
            floor = np.maximum(floor, part)
    if len(factors) == 1:
        return np.asarray(total)
    return np.asarray(np.maximum(np.minimum(total, variances[factors]), floor))


def _interaction(variances: Mapping[Subset, FloatArray], subset: Subset) -> FloatArray:
    """q_U: what the factors of `subset` do together and not in any smaller group."""
    signed = [
        (-1) ** (len(subset) - len(smaller)) * variances[smaller] for smaller in subsets(subset)
    ]
    return np.sum(signed, axis=0)


def jackknife_variance(values: FloatArray) -> FloatArray:
    """Variance of an estimate from its values (items, ...) with each item left out in turn.

    NaN marks items without which there is no estimate; they are left out.
    """
    items = np.isfinite(values).sum(axis=0)
    deviations = values - np.nanmean(values, axis=0)
    return np.asarray((items - 1) / items * np.nansum(deviations**2, axis=0))


def with_leverage(
    raw: Mapping[Subset, ArrayLike], factor: str, variance: ArrayLike, n: ArrayLike
) -> dict[Subset, FloatArray]:
    """Bootstrap variances in which the part of one factor is replaced by its jackknife variance.

    A few influential stimuli pull a correlation of dissimilarities towards themselves in the
    data and again in every resample, so that bootstrap standard errors over stimuli come out too
    small: by 5 to 10 % for squared distances of Gaussian patterns at n = 92. Leaving stimuli out
    has no such bias. The variances are returned as a bootstrap without it would have given them.
    """
    kept = 1.0 - 1.0 / np.asarray(n, np.float64)
    more = np.asarray(variance) * kept - np.asarray(raw[(factor,)])
    return {
        subset: np.asarray(value, np.float64) + (more if factor in subset else 0.0)
        for subset, value in raw.items()
    }


def jackknife_dof(values: FloatArray) -> FloatArray:
    """Degrees of freedom of a jackknife variance: 2n/(κ - 1), at most n - 1.

    κ is the kurtosis of the values with each item left out: a variance that a few items make is
    known less well than n items promise (the variance of a sample variance is (κ - 1)/n of its
    square; 2/d for χ² with d degrees of freedom).
    """
    items = np.isfinite(values).sum(axis=0)
    squares = (values - np.nanmean(values, axis=0)) ** 2
    second, fourth = np.nanmean(squares, axis=0), np.nanmean(squares**2, axis=0)
    kurtosis = np.divide(fourth, second**2, out=np.full_like(second, 3.0), where=second > 0)
    with np.errstate(divide="ignore"):
        return np.clip(2 * items / (kurtosis - 1), 1.0, items - 1.0)


def own_parts(
    raw: Mapping[Subset, ArrayLike], variance: ArrayLike, n: Mapping[str, ArrayLike]
) -> dict[str, FloatArray]:
    """What each factor adds to `variance` by itself: the variance less that without the factor.

    Interactions (measurement noise of every subject and stimulus among them) are in no part: they
    are averaged over as many values as the factors have items together, so that they are known far
    better than the number of items of the smallest factor promises.
    """
    parts = {}
    for factor in n:
        rest = {subset: value for subset, value in raw.items() if factor not in subset}
        without = corrected_variance(rest, n) if rest else np.zeros(())
        parts[factor] = np.maximum(np.asarray(variance) - without, 0.0)
    return parts


def satterthwaite(
    variance: FloatArray, parts: Mapping[str, FloatArray], dof: Mapping[str, FloatArray]
) -> FloatArray:
    """Degrees of freedom of `variance`, to which the factors contribute `parts` with `dof` each.

    Welch-Satterthwaite, kept between the fewest of a factor and the sum over factors, which it
    cannot pass where the parts make up all of the variance. rsatoolbox takes the items of the
    smallest factor less 1, as if all of the variance came from it.
    """
    spread = sum((parts[f] ** 2 / dof[f] for f in parts), start=np.zeros(()))
    every = np.broadcast_arrays(*dof.values())
    least, most = np.min(every, axis=0), np.sum(every, axis=0)
    pooled = np.divide(
        variance**2, spread, out=np.broadcast_to(most, variance.shape).copy(), where=spread > 0
    )
    return np.clip(pooled, least, most)
