"""Effect sizes of a few units: Cohen's d in its named forms, unbiased, with exact intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import gammaln
from scipy.stats import nct

from rsafast.errors import InvalidInputError
from rsafast.inference.exact.api import checked_columns, checked_names

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]

_MEANINGS = {
    "d": "mean over the standard deviation",
    "d_z": "mean difference over the standard deviation of the differences",
    "d_av": "mean difference over the root mean square of the two standard deviations",
    "d_s": "difference of means over the pooled standard deviation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectSize:
    """Result of `cohens_d`; arrays are (n_kinds, k), one column of the values a column.

    Attributes
    ----------
    kinds : which d each row is: "d" (one sample), "d_z" and "d_av" (pairs), "d_s" (two groups).
    estimate : d, with Hedges' correction where `hedges`.
    uncorrected : d without it.
    correction : (n_kinds, k) Hedges' J.
    ci : (n_kinds, k, 2) interval of the population's d.
    level : of the interval.
    df : (n_kinds, k) degrees of freedom of the standard deviation.
    n_units : units, or units of a and of b.
    names : of the k columns.
    """

    kinds: tuple[str, ...]
    estimate: FloatArray
    uncorrected: FloatArray
    correction: FloatArray
    ci: FloatArray
    level: float
    df: FloatArray
    hedges: bool
    n_units: tuple[int, ...]
    names: tuple[str, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a column and kind of d."""
        import pandas as pd

        k, rows = len(self.names), len(self.kinds)
        return pd.DataFrame(
            {
                "name": list(self.names) * rows,
                "kind": np.repeat(np.array(self.kinds, dtype=object), k),
                "estimate": self.estimate.ravel(),
                "ci_low": self.ci[..., 0].ravel(),
                "ci_high": self.ci[..., 1].ravel(),
                "uncorrected": self.uncorrected.ravel(),
                "df": self.df.ravel(),
            }
        )

    def summary(self) -> str:
        """Say which d it is, of how many units, and how sure."""
        units = " and ".join(map(str, self.n_units))
        what = "Hedges' correction applied" if self.hedges else "no correction for bias"
        lines = [f"Cohen's d of {units} units, {what}; {100 * self.level:g} % intervals."]
        for kind, estimates, limits in zip(self.kinds, self.estimate, self.ci, strict=True):
            lines.append(f"{kind}: {_MEANINGS[kind]}.")
            lines += [
                f"  {name}: {value:.3g} ({low:.3g} to {high:.3g})"
                for name, value, (low, high) in zip(self.names, estimates, limits, strict=True)
            ]
        if self.kinds == ("d_z", "d_av"):
            lines.append(
                "d_z grows without bound as the pairs agree (a d_z of 59 says that seeds hardly"
                " differ, not that the effect is large): compare studies by d_av."
            )
        return "\n".join(lines)


def cohens_d(
    a: ArrayLike,
    b: ArrayLike | None = None,
    *,
    paired: bool | None = None,
    hedges: bool = True,
    level: float = 0.95,
    names: Sequence[str] | None = None,
) -> EffectSize:
    """Cohen's d of one sample, of pairs or of two groups, with Hedges' correction and interval.

    One sample: d = mean / sd. Pairs: d_z = mean difference / sd of the differences, and d_av = mean
    difference / sqrt((s_a² + s_b²) / 2), both returned by name, since they answer different
    questions and differ by a factor of sqrt(2(1 - r)). Two groups: d_s = difference / pooled sd.
    All assume normal values; d_s and d_av also equal spreads.

    d overstates the population's d by 1/J with J(m) = Γ(m/2) / (sqrt(m/2) Γ((m-1)/2)) for m degrees
    of freedom; ``hedges=True`` multiplies by this exact J. m is n - 1, n_a + n_b - 2, and for d_av
    2(n - 1)/(1 + r²). The interval is for the population's d and is therefore not multiplied: it
    is exact (noncentral t) for d, d_z and d_s, and approximate for d_av, whose interval is that
    of d_z times the observed ratio of the two (Algina & Keselman 2003).

    Parameters
    ----------
    a, b : (units,) or (units, k), finite; d is that of a minus b, or of a against zero.
    paired : whether row i of a and of b belong together; must be given where b is.
    hedges : correct for bias.
    level : of the interval.
    names : of the k columns.

    Returns
    -------
    EffectSize

    Raises
    ------
    InvalidInputError
        No spread to divide by, too few units, unequal pairs, `paired` missing, NaN.

    References
    ----------
    Hedges (1981), eq. 6e; Cumming (2012); Algina & Keselman (2003); Cousineau & Goulet-Pelletier
    (2021) for the degrees of freedom of d_av.

    Examples
    --------
    >>> import rsafast as rf
    >>> result = rf.cohens_d([5.1, 5.4, 4.9, 5.6, 5.2], [4.1, 4.9, 4.2, 5.4, 4.0], paired=False)
    >>> print(result.summary())
    Cohen's d of 5 and 5 units, Hedges' correction applied; 95 % intervals.
    d_s: difference of means over the pooled standard deviation.
      value: 1.39 (0.0572 to 2.94)
    """
    if not 0 < level < 1:
        raise InvalidInputError(f"level must lie between 0 and 1, got {level!r}")
    x = checked_columns(a, "a", 0)
    columns = checked_names(names, x.shape[1])
    n_units: tuple[int, ...] = (len(x),)
    if b is None:
        if paired is not None:
            raise InvalidInputError("paired= needs b; leave it out for one sample")
        parts = [_one_sample(x, "d", level, columns)]
    else:
        y = checked_columns(b, "b", 0)
        if paired is None:
            raise InvalidInputError("paired must be True or False where b is given")
        if x.shape[1] != y.shape[1]:
            raise InvalidInputError(
                f"a holds {x.shape[1]} columns, b {y.shape[1]}; give both the same ones"
            )
        if paired:
            parts = _pairs(x, y, level, columns)
        else:
            parts, n_units = [_two_groups(x, y, level, columns)], (len(x), len(y))
    raw, df, ci = (np.stack([getattr(p, f) for p in parts]) for f in ("d", "df", "ci"))
    correction = hedges_j(df)
    return EffectSize(
        kinds=tuple(p.kind for p in parts),
        estimate=raw * correction if hedges else raw,
        uncorrected=raw,
        correction=correction,
        ci=ci,
        level=level,
        df=df,
        hedges=hedges,
        n_units=n_units,
        names=columns,
    )


def hedges_j(df: ArrayLike) -> FloatArray:
    """Hedges' exact correction J for so many degrees of freedom (Hedges 1981, eq. 6e)."""
    m = np.asarray(df, dtype=np.float64)
    return np.exp(gammaln(m / 2) - gammaln((m - 1) / 2)) / np.sqrt(m / 2)


@dataclass(frozen=True, slots=True)
class _Effect:
    kind: str
    d: FloatArray
    df: FloatArray
    ci: FloatArray


def _one_sample(x: FloatArray, kind: str, level: float, names: tuple[str, ...]) -> _Effect:
    n = len(x)
    if n < 3:
        raise InvalidInputError(f"d needs at least 3 units, got {n}")
    d = x.mean(axis=0) / _spread(x.std(axis=0, ddof=1), x, names)
    return _Effect(kind, d, np.full(len(d), n - 1.0), _interval(d, n - 1, float(n), level))


def _pairs(x: FloatArray, y: FloatArray, level: float, names: tuple[str, ...]) -> list[_Effect]:
    if len(x) != len(y):
        raise InvalidInputError(
            f"a holds {len(x)} units, b {len(y)}: pairs need equal numbers; match them first"
        )
    difference = x - y
    z = _one_sample(difference, "d_z", level, names)
    spread_x, spread_y = x.std(axis=0, ddof=1), y.std(axis=0, ddof=1)
    average = _spread(np.sqrt((spread_x**2 + spread_y**2) / 2), x, names)
    ratio = difference.std(axis=0, ddof=1) / average
    covariance = ((x - x.mean(axis=0)) * (y - y.mean(axis=0))).sum(axis=0) / (len(x) - 1)
    both = spread_x * spread_y
    r = np.divide(covariance, both, out=np.zeros_like(both), where=both > 0)
    av = _Effect("d_av", z.d * ratio, 2.0 * (len(x) - 1) / (1.0 + r**2), z.ci * ratio[:, None])
    return [z, av]


def _two_groups(x: FloatArray, y: FloatArray, level: float, names: tuple[str, ...]) -> _Effect:
    n_a, n_b = len(x), len(y)
    df = n_a + n_b - 2
    if min(n_a, n_b) < 1 or df < 2:
        raise InvalidInputError(f"d of two groups needs at least 4 units in all, got {n_a + n_b}")
    squares = ((x - x.mean(axis=0)) ** 2).sum(axis=0) + ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    pooled = _spread(np.sqrt(squares / df), np.concatenate([x, y]), names)
    d = (x.mean(axis=0) - y.mean(axis=0)) / pooled
    ci = _interval(d, df, n_a * n_b / (n_a + n_b), level)
    return _Effect("d_s", d, np.full(len(d), float(df)), ci)


def _spread(sd: FloatArray, values: FloatArray, names: tuple[str, ...]) -> FloatArray:
    """Return `sd`, or raise where it is nothing but rounding."""
    flat = sd <= 1e-14 * np.abs(values).max(axis=0)
    if flat.any():
        raise InvalidInputError(
            f"d is undefined for {names[int(np.argmax(flat))]!r}: its values do not vary; report"
            " the difference itself"
        )
    return sd


def _interval(d: FloatArray, df: int, n: float, level: float) -> FloatArray:
    """Limits of the population's d: t = d·sqrt(n) is noncentral t about them. (k, 2)."""
    root = np.sqrt(n)
    tails = ((1 + level) / 2, (1 - level) / 2)
    limits = np.array([[_noncentrality(abs(v) * root, df, q) / root for q in tails] for v in d])
    # Mirrored for negative d: SciPy's law has no values far on the other side of a negative t.
    return np.where(d[:, None] < 0, -limits[:, ::-1], limits)


def _noncentrality(t: float, df: int, probability: float) -> float:
    """Noncentrality under which P(T <= t) is `probability`, t >= 0; the one falls in the other."""

    def excess(value: float) -> float:
        below = float(nct.cdf(t, df, value))
        # SciPy has none for some noncentralities under -4.7 with t over 3.7, where it is 1.
        return (1.0 if np.isnan(below) and value < t else below) - probability

    reach = 4.0 + t / 2
    low, high = t - reach, t + reach
    while excess(low) < 0:
        low -= reach
    while excess(high) > 0:
        high += reach
    return float(brentq(excess, low, high, xtol=1e-10 * max(1.0, t), rtol=1e-12))
