"""What a trajectory answers besides estimates: onsets, rates, relative changes, interactions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t

from rsafast.comparators import FloatArray
from rsafast.inference.trajectory.simultaneous import Estimates, grid_columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Onsets:
    """First epoch that differs from the baseline; every array is (rules, layers, regions).

    Attributes
    ----------
    epoch : first epoch that differs, ``inf`` where none does.
    change : change from the baseline at that epoch, NaN where there is none.
    p_value : for the null hypothesis of a curve that is flat after its baseline (max-|t| over its
        epochs): the smallest family-wise p of its epochs.
    low, high : interval of the onset on resamples; ``inf`` is "no epoch".
    level : an epoch differs where its family-wise p is at most 1 - level.
    """

    rules: tuple[Any, ...]
    layers: tuple[Any, ...]
    regions: tuple[Any, ...]
    epoch: FloatArray
    change: FloatArray
    p_value: FloatArray
    low: FloatArray
    high: FloatArray
    level: float

    def to_dataframe(self) -> pd.DataFrame:
        """One row a curve: rule, layer, region, epoch, change, p_value, low, high."""
        return _curve_table(self, ("epoch", "change", "p_value", "low", "high"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Exponential approaches a + (b - a)·exp(-(epoch - first)/τ); arrays (rules, layers, regions).

    Attributes
    ----------
    tau : time constant in epochs; NaN where `reason` says that it is not identifiable.
    low, high : interval of τ on resamples; 0 and ``inf`` where it runs off on that side.
    start, end : fitted alignment b at the first epoch and a far beyond the last.
    r2 : share of the curve's variance that the fit explains.
    monotonicity : Spearman correlation of alignment and epoch; ±1 for a monotonic curve.
    runs_off : share of resamples on which τ runs to an end of what the checkpoints can tell.
    reason : why τ is NaN, "" where it is not; one a curve, in the order of the table.
    """

    rules: tuple[Any, ...]
    layers: tuple[Any, ...]
    regions: tuple[Any, ...]
    tau: FloatArray
    low: FloatArray
    high: FloatArray
    start: FloatArray
    end: FloatArray
    r2: FloatArray
    monotonicity: FloatArray
    runs_off: FloatArray
    reason: tuple[str, ...]
    level: float

    def to_dataframe(self) -> pd.DataFrame:
        """One row a curve: rule, layer, region, the arrays above and the reason."""
        names = ("tau", "low", "high", "start", "end", "r2", "monotonicity", "runs_off")
        table = _curve_table(self, names)
        table["reason"] = list(self.reason)
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """Slopes over training in two regions compared, per rule and between rules.

    Attributes
    ----------
    regions, layers : what is compared: first (region, layer) minus second.
    slopes : slope of each rule in each of the two, axes (rule, region).
    difference : slope in the first minus slope in the second, axis (rule); bands over the rules.
    between : difference of that difference between rules, axis (rules); None for one rule.
    p_opposite : (rules,) for the null hypothesis that the two slopes do not have opposite signs
        (intersection-union: the larger two-sided p where the signs differ, else 1).
    p_seeds : (rules,) exact two-sided sign-flip p of the difference over the rule's seeds.
    p_seeds_fwer : the same, max-T over the rules.
    p_seeds_floor : the smallest value that `p_seeds` can take with this number of seeds.
    """

    regions: tuple[Any, Any]
    layers: tuple[Any, Any]
    slopes: Estimates
    difference: Estimates
    between: Estimates | None
    p_opposite: FloatArray
    p_seeds: FloatArray
    p_seeds_fwer: FloatArray
    p_seeds_floor: float

    def to_dataframe(self) -> pd.DataFrame:
        """One row a rule, then one a pair of rules; columns that do not apply are NaN."""
        import pandas as pd

        table = self.difference.to_dataframe()
        slopes = self.slopes.estimate
        table["slope_1"], table["slope_2"] = slopes[:, 0], slopes[:, 1]
        table["p_opposite"] = self.p_opposite
        table["p_seeds"], table["p_seeds_fwer"] = self.p_seeds, self.p_seeds_fwer
        if self.between is None:
            return table
        others = self.between.to_dataframe().rename(columns={"rules": "rule"})
        return pd.concat([table, others], ignore_index=True)


def _curve_table(result: Onsets | Rates, names: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = grid_columns(
        ("rule", "layer", "region"), (result.rules, result.layers, result.regions)
    )
    return pd.DataFrame(columns | {name: getattr(result, name).ravel() for name in names})


def relative_change(
    absolute: Estimates, later: Estimates, base: Estimates
) -> Estimates:
    """Change divided by the alignment at baseline, with Fieller's intervals.

    A ratio r lies in the set where |later - r·base| is within its own critical value times its
    own error, which is an interval as long as the baseline's band at that value excludes 0.

    Parameters
    ----------
    absolute : change from the baseline.
    later, base : alignment at the same epochs, and at baseline, on the same grid.
    """
    errors = (later.standard_error, base.standard_error, absolute.standard_error)
    shared = (errors[0] ** 2 + errors[1] ** 2 - errors[2] ** 2) / 2
    shared = np.clip(shared, -errors[0] * errors[1], errors[0] * errors[1])
    pointwise = t.isf((1 - absolute.level) / 2, absolute.dof)
    half = (absolute.band_high - absolute.band_low) / 2
    simultaneous = np.divide(half, errors[2], out=pointwise.copy(), where=errors[2] > 0)
    usable = base.estimate > simultaneous * base.standard_error
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(usable, later.estimate / base.estimate, np.nan)
        spread = np.sqrt(
            np.maximum(errors[0] ** 2 - 2 * ratio * shared + (ratio * errors[1]) ** 2, 0.0)
        ) / base.estimate  # fmt: skip
    low, high = _fieller(later.estimate, base.estimate, errors[0], errors[1], shared, pointwise)
    band_low, band_high = _fieller(
        later.estimate, base.estimate, errors[0], errors[1], shared, simultaneous
    )

    def share(values: FloatArray) -> FloatArray:
        return np.where(usable, values - 1, np.nan)

    return replace(
        absolute, what=f"relative {absolute.what}", estimate=ratio - 1, standard_error=spread,
        low=share(low), high=share(high), band_low=share(band_low), band_high=share(band_high),
        p_value=np.where(usable, absolute.p_value, np.nan),
        p_value_fwer=np.where(usable, absolute.p_value_fwer, np.nan),
        reason=tuple(
            "" if fine else "the band of the baseline does not lie above 0"
            for fine in usable.ravel()
        ),
    )  # fmt: skip


def _fieller(
    top: FloatArray,
    bottom: FloatArray,
    top_error: FloatArray,
    bottom_error: FloatArray,
    shared: FloatArray,
    critical: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Ends of Fieller's interval of top / bottom; only valid where bottom > critical·error."""
    a = bottom**2 - (critical * bottom_error) ** 2
    b = top * bottom - critical**2 * shared
    c = top**2 - (critical * top_error) ** 2
    root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (b - root) / a, (b + root) / a
