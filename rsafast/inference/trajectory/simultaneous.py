"""Linear contrasts of resampled curves: corrected errors, simultaneous bands, max-|t| p-values.

Standard errors
    From the covariances with every set of factors resampled, by inclusion and exclusion, the
    stimuli's part by the jackknife: `rsafast.inference.bootstrap.variance`.
Degrees of freedom
    Welch-Satterthwaite over the single factors, seeds counted rule by rule, since every rule has
    seeds of its own: few seeds or subjects widen the interval as a t law does.
Simultaneity
    The largest |deviation| / (its standard deviation) over the family, on every joint resample,
    gives the law of the maximum, its correlations shrunk where few items carry them; its quantile
    is carried over to the t law of each contrast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm, t

from rsafast.comparators import FloatArray
from rsafast.inference.bootstrap.variance import corrected_variance, jackknife_dof, satterthwaite
from rsafast.inference.trajectory.resample import factor_sets

if TYPE_CHECKING:
    import pandas as pd

_NOTHING = 1e-24  # variance below which a contrast does not vary: rounding of values up to 1
_TINY = 1e-300
_NOISE = 20_240_229  # key of the noise that takes correlations towards 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """Estimates on a grid of named axes; every array has the shape of the grid.

    Attributes
    ----------
    what : what is estimated, in words.
    axes : names of the axes, and `coords` their values.
    estimate : value on the data.
    standard_error : corrected for factors that are resampled together.
    dof : degrees of freedom of the t law behind the intervals.
    low, high : interval of each estimate by itself.
    band_low, band_high : band that holds all estimates of a family at once.
    p_value : two-sided, for the null hypothesis that this quantity is 0, for each by itself; at
        least 1 / (resamples + 1).
    p_value_fwer : the same, the maximum over its family in the statistic (max-|t|).
    family : over what the band and the family-wise p hold at once, in words.
    level : of intervals and bands.
    reason : why an estimate is NaN, "" where it is not; one a row of the table. Empty where none
        can be.
    """

    what: str
    axes: tuple[str, ...]
    coords: tuple[tuple[Any, ...], ...]
    estimate: FloatArray
    standard_error: FloatArray
    dof: FloatArray
    low: FloatArray
    high: FloatArray
    band_low: FloatArray
    band_high: FloatArray
    p_value: FloatArray
    p_value_fwer: FloatArray
    family: str
    level: float
    reason: tuple[str, ...] = ()

    def to_dataframe(self) -> pd.DataFrame:
        """One row an estimate, the last axis varying fastest."""
        import pandas as pd

        columns: dict[str, Any] = grid_columns(self.axes, self.coords)
        for name in (
            "estimate", "standard_error", "dof", "low", "high", "band_low", "band_high",
            "p_value", "p_value_fwer",
        ):  # fmt: skip
            columns[name] = getattr(self, name).ravel()
        if self.reason:
            columns["reason"] = list(self.reason)
        return pd.DataFrame(columns)


def grid_columns(
    axes: tuple[str, ...], coords: tuple[tuple[Any, ...], ...]
) -> dict[str, list[Any]]:
    """Coordinates of every point of a grid, one list an axis."""
    places = np.indices([len(values) for values in coords]).reshape(len(axes), -1)
    return {
        axis: [values[i] for i in place]
        for axis, values, place in zip(axes, coords, places, strict=True)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What every contrast is computed from.

    Attributes
    ----------
    values : (C,) cells of the data.
    deviations : (C, R) joint replicates minus their mean.
    covariances : (2^K - 1, C, C), see `Resamples`.
    jackknife : (C, groups), see `Resamples`.
    sizes : items of each of the K factors that were resampled, in their order.
    rule_of : (C,) rule of every cell.
    level : of intervals and bands.
    """

    values: FloatArray
    deviations: FloatArray
    covariances: FloatArray
    jackknife: FloatArray
    sizes: Mapping[str, int]
    rule_of: NDArray[np.int64]
    level: float

    @property
    def n_resamples(self) -> int:
        """Joint resamples that count, R."""
        return self.deviations.shape[1]


@dataclass(frozen=True, slots=True)
class Contrasts:
    """Sums Σ_k weight[k]·cell[index[k]]: both arrays are (terms, *grid)."""

    index: NDArray[np.int64]
    weight: FloatArray

    def estimate(self, values: FloatArray) -> FloatArray:
        """Value of every contrast."""
        return (values[self.index] * self.weight).sum(axis=0)


def infer(
    basis: Basis,
    contrasts: Contrasts,
    families: NDArray[np.int64],
    *,
    what: str,
    axes: tuple[str, ...],
    coords: tuple[tuple[Any, ...], ...],
    family: str,
) -> Estimates:
    """Estimate every contrast; those with the same number in `families` form a family."""
    estimate = contrasts.estimate(basis.values)
    error, dof = standard_errors(basis, contrasts)
    p = _two_sided_p(estimate, error, dof)
    smallest = 1 / (basis.n_resamples + 1)
    width, simultaneous = t.isf((1 - basis.level) / 2, dof), np.empty(estimate.shape)
    p_fwer = np.empty(estimate.shape)
    for number in np.unique(families):
        members = np.nonzero(families == number)
        shrink = shrinkage(len(members[0]), float(dof[members].min()))
        largest = largest_deviations(basis, contrasts, members, shrink)
        normal = _critical(largest, basis.level)
        simultaneous[members] = t.isf(norm.sf(normal), dof[members])
        p_fwer[members] = family_wise(p[members], largest)
    return Estimates(
        what=what, axes=axes, coords=coords, estimate=estimate, standard_error=error, dof=dof,
        low=estimate - width * error, high=estimate + width * error,
        band_low=estimate - simultaneous * error, band_high=estimate + simultaneous * error,
        p_value=np.maximum(p, smallest), p_value_fwer=p_fwer, family=family, level=basis.level,
    )  # fmt: skip


def _critical(largest: FloatArray, level: float) -> float:
    """Quantile of the maximum, never below that of a single normal value."""
    return max(float(np.quantile(largest, level)), float(norm.isf((1 - level) / 2)))


def _two_sided_p(estimate: FloatArray, error: FloatArray, dof: FloatArray) -> FloatArray:
    """p of t laws; 1 where an estimate is 0 without error, NaN where it is not."""
    p = np.where(np.abs(estimate) < 1e-12, 1.0, np.nan)
    some = error > 0
    p[some] = 2 * t.sf(np.abs(estimate[some]) / error[some], dof[some])
    return p


def family_wise(p: FloatArray, largest: FloatArray) -> FloatArray:
    """Share of maxima at least as extreme as each p; NaN stays."""
    equivalent = -ndtri(np.clip(np.nan_to_num(p, nan=1.0), _TINY, 1.0) / 2)
    ordered = np.sort(largest)
    beyond = len(ordered) - np.searchsorted(ordered, equivalent - 1e-12)
    adjusted = np.maximum((1 + beyond) / (1 + len(ordered)), p)
    return np.where(np.isnan(p), np.nan, adjusted)


def shrinkage(contrasts: int, dof: float) -> float:
    """How far the correlations of a family are taken towards 0, from 0 to 1.

    Five seeds span four directions, in which the deviations of eight epochs look more alike than
    they are, and their maximum too small. Measured on simulated seeds and subjects (the tests
    hold the coverage); as good as nothing where stimuli are what varies.
    """
    return min(1.0, (1 + float(np.log2(contrasts))) / dof) if contrasts > 1 else 0.0


def largest_deviations(
    basis: Basis, contrasts: Contrasts, members: tuple[NDArray[np.int64], ...], shrink: float
) -> FloatArray:
    """(R,) largest |standardised deviation| over the contrasts at `members`."""
    largest = np.zeros(basis.n_resamples)
    rng = np.random.Generator(np.random.Philox(_NOISE))
    for place in zip(*members, strict=True):
        z = standardised(contrast_deviations(basis, contrasts, place))
        if shrink and z.any():
            z *= np.sqrt(1 - shrink)
            z += np.sqrt(shrink) * rng.standard_normal(len(z))
        np.maximum(largest, np.abs(z, out=z), out=largest)
    return largest


def contrast_deviations(basis: Basis, contrasts: Contrasts, place: tuple[Any, ...]) -> FloatArray:
    """(R,) deviations of one contrast."""
    weight = contrasts.weight[(slice(None), *place)]
    index = contrasts.index[(slice(None), *place)]
    return weight @ basis.deviations[index]


def standardised(deviations: FloatArray) -> FloatArray:
    """Deviations in their standard deviations; 0 where they do not vary."""
    variance = deviations @ deviations / (len(deviations) - 1)
    return deviations / np.sqrt(variance) if variance > _NOTHING else np.zeros(len(deviations))


# ---------------------------------------------------------------- variances


def standard_errors(basis: Basis, contrasts: Contrasts) -> tuple[FloatArray, FloatArray]:
    """Corrected standard error and degrees of freedom of every contrast."""
    raw = np.stack([_quadratic(c, contrasts) for c in basis.covariances])
    variance = total_variance(raw, basis.sizes)
    variance = np.where(variance > _NOTHING, variance, 0.0)
    parts, dof = _single_components(basis, contrasts, raw)
    return np.sqrt(variance), satterthwaite(variance, parts, dof)


def total_variance(raw: FloatArray, sizes: Mapping[str, int]) -> FloatArray:
    """Variance from those `raw` (2^K - 1, ...) of all sets of factors."""
    return corrected_variance(dict(zip(factor_sets(tuple(sizes)), raw, strict=True)), sizes)


def _quadratic(covariance: FloatArray, contrasts: Contrasts) -> FloatArray:
    """Variance of every contrast under one covariance matrix."""
    total = np.zeros(contrasts.index.shape[1:])
    for i, w in zip(contrasts.index, contrasts.weight, strict=True):
        for j, v in zip(contrasts.index, contrasts.weight, strict=True):
            total += w * v * covariance[i, j]
    return np.maximum(total, 0.0)


def _single_components(
    basis: Basis, contrasts: Contrasts, raw: FloatArray
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Variance due to each factor, and its degrees of freedom; seeds rule by rule."""
    parts: dict[str, FloatArray] = {}
    dof: dict[str, FloatArray] = {}
    for k, (factor, n) in enumerate(basis.sizes.items()):
        if factor == "seeds":
            rule_of = basis.rule_of[contrasts.index]
            for rule in np.unique(rule_of):
                own = Contrasts(contrasts.index, np.where(rule_of == rule, contrasts.weight, 0.0))
                name = f"seeds of rule {rule}"
                parts[name] = _quadratic(basis.covariances[2**k - 1], own) / (1 - 1 / n)
                dof[name] = np.asarray(n - 1.0)
            continue
        parts[factor] = raw[2**k - 1] / (1 - 1 / n)
        dof[factor] = np.asarray(n - 1.0)
        if factor == "stimuli":
            dof[factor] = _stimulus_dof(basis, contrasts)
    return parts, dof


def _stimulus_dof(basis: Basis, contrasts: Contrasts) -> FloatArray:
    left_out = np.zeros((*contrasts.index.shape[1:], basis.jackknife.shape[1]))
    for index, weight in zip(contrasts.index, contrasts.weight, strict=True):
        left_out += weight[..., None] * basis.jackknife[index]
    return jackknife_dof(np.moveaxis(left_out, -1, 0))


# ---------------------------------------------------------------- curves as a whole


def corrected_replicates(basis: Basis, cells: NDArray[np.int64]) -> FloatArray:
    """Replicates (R, cells) around the data whose covariance is the corrected one.

    For functions of a whole curve that are no contrasts. Along every direction the joint
    replicates are drawn together as far as `corrected_variance` says for that direction.
    """
    among = np.ix_(cells, cells)
    apart = basis.deviations[cells]
    joint = apart @ apart.T / (apart.shape[1] - 1)
    scale, directions = np.linalg.eigh(joint)
    use = scale > max(scale.max(), 0.0) * 1e-12
    deviations = apart.T @ directions[:, use]
    # Directions of the corrected covariance relative to the joint one.
    whiten = directions[:, use] / np.sqrt(scale[use])
    parts = np.stack([whiten.T @ c[among] @ whiten for c in basis.covariances])
    total = _corrected_matrix(parts, basis.sizes)
    _, axes = np.linalg.eigh((total + total.T) / 2)
    raw = np.stack([np.einsum("ki,kl,li->i", axes, part, axes) for part in parts])
    ratio = np.sqrt(np.maximum(total_variance(np.maximum(raw, 0.0), basis.sizes), 0.0))
    along = (deviations / np.sqrt(scale[use])) @ axes * ratio
    return basis.values[cells] + along @ axes.T @ (directions[:, use] * np.sqrt(scale[use])).T


def _corrected_matrix(parts: FloatArray, sizes: Mapping[str, int]) -> FloatArray:
    """The linear part of `corrected_variance`, on matrices."""
    sets = [frozenset(chosen) for chosen in factor_sets(tuple(sizes))]
    total = np.zeros(parts.shape[1:])
    for chosen in sets:
        for part, value in zip(sets, parts, strict=True):
            if part <= chosen:
                sign = (-1.0) ** (len(chosen) + 1 + len(chosen) - len(part))
                shrunk = np.prod([1 - 1 / sizes[factor] for factor in chosen])
                total += sign * value / shrunk
    return total

