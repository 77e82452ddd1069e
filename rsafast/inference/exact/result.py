"""What an exact test of a few units returns."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactTestResult:
    """Result of `sign_flip_test`, `swap_test` and `trend_test`; arrays are (k,), one a column.

    Attributes
    ----------
    test : what was done: sign flips, swaps within pairs, swaps between groups, orders.
    statistic, statistic_name : observed value and what it is.
    estimate : mean, difference of means or mean trend, in the units of the data.
    p_value : share of the patterns at least as extreme as the observed one, itself counted.
    p_value_fwer, p_value_stepdown : family-wise over the k columns (max-T over columns in units of
        their null standard deviation), single-step and step-down; equal p_value where k = 1.
    p_standard_error : Monte Carlo standard error of p_value; 0 where `exact`.
    n_patterns : patterns evaluated; `possible` is how many there are.
    exact : whether all patterns were enumerated.
    floor : smallest p that these units allow.
    interval, level : (k, 2) interval of the estimate where one was asked for, else None.
    n_units : units, or units of group a and of group b.
    n_checkpoints : checkpoints whose orders were gone through, else None.
    excluded : units left out, and why.
    notes : what else a reader must know.
    per_unit : (units, k) trend of each unit, for `trend_test`.
    """

    test: str
    statistic_name: str
    statistic: FloatArray
    estimate: FloatArray
    p_value: FloatArray
    p_value_fwer: FloatArray
    p_value_stepdown: FloatArray
    p_standard_error: FloatArray
    n_patterns: int
    possible: int
    exact: bool
    floor: float
    alternative: str
    names: tuple[str, ...]
    unit: str
    n_units: tuple[int, ...]
    seed: int
    n_checkpoints: int | None = None
    interval: FloatArray | None = None
    level: float | None = None
    excluded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    per_unit: FloatArray | None = None

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a column of the values."""
        import pandas as pd

        columns: dict[str, Any] = {
            "name": list(self.names),
            "estimate": self.estimate,
            "statistic": self.statistic,
            "p_value": self.p_value,
            "p_value_fwer": self.p_value_fwer,
            "p_value_stepdown": self.p_value_stepdown,
            "p_standard_error": self.p_standard_error,
            "floor": np.full(len(self.names), self.floor),
            "n_patterns": np.full(len(self.names), self.n_patterns, dtype=np.int64),
        }
        if self.interval is not None:
            columns["ci_low"], columns["ci_high"] = self.interval.T
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Say what was tested, what came out, to whom it generalises, and the floor of p."""
        best = int(np.argmin(self.p_value))
        columns = f", {len(self.names)} columns tested jointly" if len(self.names) > 1 else ""
        lines = [
            f"{self.test[0].upper()}{self.test[1:]}, {self._who()}{columns}, "
            f"alternative {self.alternative!r}.",
            f"Null hypothesis: {self._null()}",
            self._generalises(),
            self._patterns(),
            *self._table(best),
            self._floor(),
        ]
        if self.excluded:
            lines.append(f"Left out: {', '.join(self.excluded)}.")
        lines += [f"Note: {note}." for note in self.notes]
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the estimate of every column, filled where its family-wise p is at most 0.05.

        Intervals are drawn where they were asked for and are finite.
        """
        from rsafast.inference.exact.plot import draw_exact

        return draw_exact(self, ax)

    # ------------------------------------------------------------ text

    def _who(self) -> str:
        named = [f"{n} {_plural(self.unit, n)}" for n in self.n_units]
        return " against ".join(named) + (
            f", {self.n_checkpoints} checkpoints" if self.n_checkpoints else ""
        )

    def _null(self) -> str:
        if self.n_checkpoints:
            return "the order of the checkpoints carries nothing: a test against any dependence on"\
                " time (drift included), not of a trend alone."
        if len(self.n_units) == 2:
            return f"the values of both groups of {_plural(self.unit, 2)} come from one"\
                " distribution."
        if self.test == "swaps within pairs":
            return f"within each {self.unit} the two values are exchangeable."
        what = "trends" if self.per_unit is not None else "values"
        return f"the {what} are symmetric about zero over {_plural(self.unit, 2)}."

    def _generalises(self) -> str:
        if self.n_checkpoints:
            return f"It speaks for these {_plural(self.unit, 2)} only."
        return f"It generalises to further {_plural(self.unit, 2)} like these; whatever they all "\
            "share (the stimuli first of all) is held fixed."

    def _patterns(self) -> str:
        if self.exact:
            return f"All {self.n_patterns:,} patterns, no sampling error."
        return f"{self.n_patterns:,} random patterns out of {self.possible:.3g}, the observed one"\
            f" among them, seed {self.seed}."

    def _table(self, best: int) -> list[str]:
        several = len(self.names) > 1
        line = f"{'Smallest p' if several else 'p'}: {self.p_value[best]:.4g}"
        if not self.exact:
            line += f" (Monte Carlo standard error {self.p_standard_error[best]:.1g})"
        line += f", {self.names[best]}, {self.statistic_name} {self.statistic[best]:.4g}."
        lines = [line]
        if several:
            below = int((self.p_value_stepdown <= 0.05).sum())
            lines.append(
                f"Family-wise p (step-down max-T) of at most 0.05: {below} of {len(self.names)}."
            )
        if self.interval is not None and self.level is not None:
            low, high = self.interval[best]
            finite = np.isfinite(low)
            lines.append(
                f"{100 * self.level:g} % interval of {self.names[best]}: "
                + (f"{low:.4g} to {high:.4g}." if finite else
                   f"none; {self._who()} give no exact interval at this level.")
            )  # fmt: skip
        return lines

    def _floor(self) -> str:
        sided = "two-sided" if self.alternative == "two-sided" else "one-sided"
        line = f"{self._who()}: p cannot be below {_short(self.floor)} {sided}; {self.lift}"
        if not self.exact or self.n_checkpoints:
            return f"{line}."
        return (
            f"{line}. To say something about these {_plural(self.unit, 2)} only, use a "
            "label permutation (permutation_test); to generalise to stimuli, resample stimuli "
            "(bootstrap)."
        )

    @property
    def lift(self) -> str:
        """What would lower the floor of p, in words."""
        if not self.exact:
            return "a larger n_samples would allow less"
        if self.n_checkpoints:
            return "every further checkpoint divides that by the number of checkpoints"
        n = min(self.n_units)
        each = " each" if len(self.n_units) == 2 else ""
        near, far = n + 1, n + 3
        return (
            f"{near} {_plural(self.unit, near)}{each} would allow {_short(self._floor_of(near))}, "
            f"{far} {_plural(self.unit, far)}{each} {_short(self._floor_of(far))}"
        )

    def _floor_of(self, n: int) -> float:
        sides = 2.0 if self.alternative == "two-sided" else 1.0
        return sides / (2**n if len(self.n_units) == 1 else comb(2 * n, n))


def _plural(unit: str, n: int) -> str:
    return unit if n == 1 else f"{unit}s"


def _short(p: float) -> str:
    return f"{p:.2g}" if p < 0.05 else f"{p:.4g}"
