"""Exact tests of a few units: sign flips, label swaps and trends over seeds or subjects.

With five seeds there are 32 sign patterns, so that no asymptotic law is needed and none would hold:
every pattern is enumerated (up to 2²⁴; beyond, patterns are sampled with the observed one counted).
The price is a floor: no p-value of n units can fall below 2⁻ⁿ. Every result states it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import comb, factorial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.tally import ALTERNATIVES, Alternative
from scipy.stats import rankdata

from rsafast.errors import InvalidInputError
from rsafast.inference.exact import orbits
from rsafast.inference.exact.orbits import Orbit
from rsafast.inference.exact.result import ExactTestResult
from rsafast.progress import track

FloatArray = NDArray[np.float64]
Statistic = Literal["mean", "t"]
TrendStatistic = Literal["spearman", "pearson", "slope"]
TrendNull = Literal["checkpoints", "units"]
Unmatched = Literal["error", "drop"]

MAX_EXACT = 2**24
# Subset means held at a time for an interval (8 MB a column); beyond, random subsets.
_MAX_INTERVAL = 2**20


def sign_flip_test(
    values: ArrayLike,
    *,
    alternative: Alternative = "two-sided",
    units_axis: int = 0,
    statistic: Statistic = "mean",
    n_samples: int = 100_000,
    seed: int = 0,
    max_exact: int = MAX_EXACT,
    names: Sequence[str] | None = None,
    unit: str = "unit",
    level: float | None = None,
    progress: bool = True,
) -> ExactTestResult:
    """Test whether values are centred on zero by flipping the signs of whole units.

    The null hypothesis is that the values of the units (paired differences of two rules, one a
    seed; scores, one a subject) are symmetric about zero. All columns of a unit are flipped
    together, so that their dependence is kept and the family-wise p-values (max-T over columns)
    are jointly exact. It generalises to further units of the population that these were drawn
    from; what they all share (the stimuli; with seeds, also the subjects) is held fixed.

    All 2ⁿ sign patterns are enumerated up to `max_exact`; beyond, `n_samples` random ones, the
    observed one among them. No p can be below ``floor``: 2⁻ⁿ, two-sided 2¹⁻ⁿ.

    Parameters
    ----------
    values : (units,) or (units, k), finite; at least 2 units.
    alternative : {"two-sided", "greater", "less"}
        Two-sided counts patterns with at least the observed absolute value.
    units_axis : axis of the units.
    statistic : {"mean", "t"}
        Reported statistic. Mean and t order the patterns alike, and columns are compared with one
        another in units of their exact null standard deviation, so that the p-values are the same.
    n_samples : random patterns where there are more than `max_exact`.
    seed : of the random patterns.
    max_exact : most patterns to enumerate.
    names : of the k columns.
    unit : what a unit is ("seed", "subject"), for the summary.
    level : also give an interval at this level for the centre of each column, the values of it
        that the two-sided test does not reject (Hartigan 1969). It is infinite where the floor of
        the test is above 1 - level: five units have no exact 95 % interval.
    progress : show a bar on stderr after a second.

    Returns
    -------
    ExactTestResult

    Raises
    ------
    InvalidInputError
        Fewer than 2 units, NaN or infinite values, wrong names, an unknown choice.

    References
    ----------
    Fisher (1935); Westfall & Young (1993) for max-T; Hemerik & Goeman (2018) for random patterns;
    Hartigan (1969) for the interval.

    Examples
    --------
    >>> import rsafast as rf
    >>> result = rf.sign_flip_test([0.031, 0.025, 0.034, 0.028, 0.030], unit="seed")
    >>> float(result.p_value[0]), result.floor, result.n_patterns
    (0.0625, 0.0625, 32)
    """
    _check(alternative=alternative, statistic=statistic)
    x = checked_columns(values, "values", units_axis)
    samples = _check_samples(n_samples, seed, max_exact)
    level = _checked_level(level)
    n = len(x)
    _at_least(n, 2, "values", "units")
    return _flip(
        x, alternative=alternative, statistic=statistic, samples=samples,
        names=checked_names(names, x.shape[1]), unit=unit, level=level, progress=progress,
        test="sign flips",
    )  # fmt: skip


def swap_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    paired: bool,
    units_a: Sequence[Hashable] | None = None,
    units_b: Sequence[Hashable] | None = None,
    unmatched: Unmatched = "error",
    alternative: Alternative = "two-sided",
    statistic: Statistic = "mean",
    n_samples: int = 100_000,
    seed: int = 0,
    max_exact: int = MAX_EXACT,
    names: Sequence[str] | None = None,
    unit: str = "unit",
    level: float | None = None,
    progress: bool = True,
) -> ExactTestResult:
    """Test whether two groups of units differ by swapping their labels.

    The null hypothesis is that the label of a group tells nothing: within each pair the two values
    are exchangeable (``paired=True``; swapping a pair flips the sign of its difference), or all
    values are draws from one distribution (``paired=False``; every choice of n_a units out of
    n_a + n_b is as likely). Unpaired, "one distribution" includes its spread: with unequal group
    sizes, groups that differ in spread alone are found different too often or too seldom. It
    generalises to further units like these, the stimuli held fixed.

    Pair units that share something (the initial weights of a seed, a subject); leave unpaired those
    that share nothing. n pairs have a floor of 2¹⁻ⁿ (0.0625 for 5), two groups of n units one of
    2 / C(2n, n) (0.0079 for 5).

    Parameters
    ----------
    a, b : (units,) or (units, k), finite; the statistic is that of a minus b.
    paired : whether units of a and b belong together.
    units_a, units_b : ids of the units, unique within a group. Pairs are matched by them; without
        them, by position. Unpaired groups must not share any.
    unmatched : {"error", "drop"}
        What to do with a unit that only one of two paired groups has: raise, or leave it out and
        list it in ``excluded``.
    statistic : {"mean", "t"}
        Difference of means, or Student's t (of the differences, or with the pooled variance); the
        p-values are the same (see `sign_flip_test`).
    level : interval of the paired difference, see `sign_flip_test`; paired only.
    alternative, n_samples, seed, max_exact, names, unit, progress : see `sign_flip_test`.

    Returns
    -------
    ExactTestResult

    Raises
    ------
    InvalidInputError
        Paired groups of unequal size or with unmatched ids, unpaired groups that share units,
        too few units, NaN or infinite values, different columns.

    References
    ----------
    Pitman (1937); Westfall & Young (1993) for max-T.

    Examples
    --------
    >>> import rsafast as rf
    >>> result = rf.swap_test([5.1, 5.4, 4.9, 5.6, 5.2], [4.1, 4.5, 4.2, 4.4, 4.0], paired=False)
    >>> result.n_patterns, round(float(result.p_value[0]), 4)
    (252, 0.0079)
    """
    _check(alternative=alternative, statistic=statistic, unmatched=unmatched)
    samples = _check_samples(n_samples, seed, max_exact)
    level = _checked_level(level)
    x, y = checked_columns(a, "a", 0), checked_columns(b, "b", 0)
    if x.shape[1] != y.shape[1]:
        raise InvalidInputError(
            f"a holds {x.shape[1]} columns, b {y.shape[1]}; give both the same ones"
        )
    columns = checked_names(names, x.shape[1])
    ids_a = _checked_ids(units_a, len(x), "units_a")
    ids_b = _checked_ids(units_b, len(y), "units_b")
    if (ids_a is None) != (ids_b is None):
        raise InvalidInputError("units_a and units_b go together; give both or neither")
    if paired:
        differences, excluded = _paired_differences(x, y, ids_a, ids_b, unmatched)
        _at_least(len(differences), 2, "a and b", "pairs")
        return _flip(
            differences, alternative=alternative, statistic=statistic, samples=samples,
            names=columns, unit=unit, level=level, progress=progress, test="swaps within pairs",
            excluded=excluded,
        )  # fmt: skip
    if level is not None:
        raise InvalidInputError("level= is for pairs; leave it out with paired=False")
    if ids_a is not None and ids_b is not None and (shared := [u for u in ids_a if u in ids_b]):
        raise InvalidInputError(
            f"units {_some(shared)} are in both groups: use paired=True, or leave units_a and"
            " units_b out if equal ids mean nothing"
        )
    return _relabel(
        x, y, alternative=alternative, statistic=statistic, samples=samples, names=columns,
        unit=unit, progress=progress,
    )  # fmt: skip


def trend_test(
    values: ArrayLike,
    times: ArrayLike,
    *,
    null: TrendNull,
    statistic: TrendStatistic = "spearman",
    alternative: Alternative = "two-sided",
    n_samples: int = 100_000,
    seed: int = 0,
    max_exact: int = MAX_EXACT,
    names: Sequence[str] | None = None,
    unit: str = "seed",
    level: float | None = None,
    progress: bool = True,
) -> ExactTestResult:
    """Test for a monotone trend over checkpoints.

    The statistic is the mean over units of each unit's Spearman or Pearson correlation with time,
    or of its slope. There are two nulls, and they answer different questions:

    ``null="checkpoints"``: the order of the checkpoints carries nothing. All units' curves are
    reordered together by each of the T! orders (independent orders would ignore that units share
    checkpoint effects). It speaks for these units only, and rejects whatever makes the order
    matter: a trend, but also slow drift without direction. On random walks of 7 checkpoints it
    rejects 37 % of the time at a level of 0.05, so it is a test of "no dependence on time at all",
    never of "no trend". One curve is enough; 7 checkpoints have a floor of 2/5040.

    ``null="units"``: each unit's trend is symmetric about zero over units (sign flips of the
    trends). It allows any dependence between checkpoints and generalises to further units, with
    the floor of `sign_flip_test`: 2¹⁻ⁿ.

    Parameters
    ----------
    values : (T,) one curve, (units, T), or (units, T, k) for k curves a unit, tested jointly.
    times : (T,) of the checkpoints, increasing; epochs, or steps. Spearman uses their order only.
    null : {"checkpoints", "units"}
    statistic : {"spearman", "pearson", "slope"}
        The slope is in units of value per unit of time.
    unit : what a unit is, for the summary.
    level : interval of the mean trend, with ``null="units"``; see `sign_flip_test`.
    alternative, n_samples, seed, max_exact, names, progress : see `sign_flip_test`.

    Returns
    -------
    ExactTestResult
        ``per_unit`` holds the trend of each unit, (units, k).

    Raises
    ------
    InvalidInputError
        Fewer than 3 checkpoints, times that do not increase, NaN (a missing checkpoint), a constant
        curve with a correlation, fewer than 2 units with ``null="units"``.

    Examples
    --------
    >>> import rsafast as rf
    >>> curve = [0.053, 0.041, 0.030, 0.024, 0.020, 0.016, 0.012]
    >>> result = rf.trend_test(curve, [0, 1, 2, 5, 10, 20, 40], null="checkpoints")
    >>> round(float(result.statistic[0]), 6), float(result.p_value[0]) == 2 / 5040
    (-1.0, True)
    """
    _check(alternative=alternative, null=null, trend=statistic)
    samples = _check_samples(n_samples, seed, max_exact)
    level = _checked_level(level)
    curves, moments = _curves(values), _times(times)
    if curves.shape[1] != len(moments):
        raise InvalidInputError(
            f"values hold {curves.shape[1]} checkpoints, times {len(moments)}; give every"
            " checkpoint its time"
        )
    columns = checked_names(names, curves.shape[2])
    weights, prepared = _trend_parts(curves, moments, statistic, columns)
    trends = np.einsum("t,utk->uk", weights, prepared)
    if null == "units":
        _at_least(len(trends), 2, "values", "units")
        return _flip(
            trends, alternative=alternative, statistic="mean", samples=samples, names=columns,
            unit=unit, level=level, progress=progress, test=f"sign flips of each {unit}'s trend",
            statistic_name=f"mean {statistic}", per_unit=trends,
        )  # fmt: skip
    if level is not None:
        raise InvalidInputError("level= needs null='units'; orders of checkpoints give no interval")
    return _reorder(
        weights, prepared.mean(axis=0).T, trends, alternative=alternative, statistic=statistic,
        samples=samples, names=columns, unit=unit, progress=progress,
    )  # fmt: skip


# ---------------------------------------------------------------- the three groups


def _flip(
    x: FloatArray,
    *,
    alternative: Alternative,
    statistic: Statistic,
    samples: tuple[int, int, int],
    names: tuple[str, ...],
    unit: str,
    level: float | None,
    progress: bool,
    test: str,
    excluded: tuple[str, ...] = (),
    statistic_name: str | None = None,
    per_unit: FloatArray | None = None,
) -> ExactTestResult:
    """Sign flips of x (n, k)."""
    n_samples, seed, max_exact = samples
    n = len(x)
    columns = np.ascontiguousarray(x.T)
    largest = np.abs(columns).max(axis=1, keepdims=True)
    unit_scale = columns / np.where(largest > 0, largest, 1.0)
    length = np.sqrt((unit_scale**2).sum(axis=1, keepdims=True))
    z = unit_scale / np.where(length > 0, length, 1.0)
    two_sided = alternative == "two-sided"
    orbit = orbits.sign_orbit(z, two_sided, n_samples, seed, max_exact)
    interval = None
    if level is not None:
        most = min(max_exact, _MAX_INTERVAL)
        interval = orbits.flip_interval(columns, level, n_samples, seed, most)
    mean = x.mean(axis=0)
    zeros = (columns == 0).sum(axis=1)
    return _result(
        orbit, z.sum(axis=1), alternative, progress, seed,
        test=test,
        statistic_name=statistic_name or statistic,
        statistic=mean if statistic == "mean" else _one_sample_t(z),
        estimate=mean,
        floor=(2.0 if two_sided else 1.0) / 2**n,
        possible=2**n,
        names=names, unit=unit, n_units=(n,), excluded=excluded,
        notes=tuple(
            f"{name}: {count} of {n} values are exactly 0, and flipping them changes nothing"
            for name, count in zip(names, zeros, strict=True)
            if count
        ),
        interval=interval, level=level, per_unit=per_unit,
    )  # fmt: skip


def _one_sample_t(z: FloatArray) -> FloatArray:
    """Student's t of columns z (k, n) of unit length: a rising function of their sum."""
    n = z.shape[1]
    total = z.sum(axis=1)
    left = n - total**2
    with np.errstate(divide="ignore"):
        t = total * np.sqrt((n - 1) / np.where(left > 1e-12 * n, left, 0.0))
    return np.where(total == 0, 0.0, t)


def _relabel(
    x: FloatArray,
    y: FloatArray,
    *,
    alternative: Alternative,
    statistic: Statistic,
    samples: tuple[int, int, int],
    names: tuple[str, ...],
    unit: str,
    progress: bool,
) -> ExactTestResult:
    """All ways to call n_a of n_a + n_b units group a."""
    n_samples, seed, max_exact = samples
    for group, role in ((x, "a"), (y, "b")):
        _at_least(len(group), 1, role, "units")
    n_a, n_b = len(x), len(y)
    _at_least(n_a + n_b, 3, "a and b together", "units")
    pooled = np.concatenate([x, y]).T
    centred, flat = _centred(pooled)
    squares = (centred**2).sum(axis=1, keepdims=True)
    # Null variance of the sum over n_a of N units drawn without replacement.
    total = n_a + n_b
    spread = np.sqrt(squares * n_a * n_b / (total * (total - 1)))
    z = centred / np.where(spread > 0, spread, 1.0)
    observed = z[:, :n_a].sum(axis=1)
    orbit = orbits.subset_orbit(z, n_a, n_samples, seed, max_exact)
    difference = x.mean(axis=0) - y.mean(axis=0)
    patterns = comb(total, n_a)
    # The opposite labelling is a labelling too, and as extreme, where the groups are of one size.
    mirrored = alternative == "two-sided" and n_a == n_b
    return _result(
        orbit, observed, alternative, progress, seed,
        test="swaps between groups",
        statistic_name=statistic,
        statistic=difference if statistic == "mean" else _pooled_t(observed, total),
        estimate=difference,
        floor=(2.0 if mirrored else 1.0) / patterns,
        possible=patterns,
        names=names, unit=unit, n_units=(n_a, n_b),
        notes=tuple(
            f"{name}: all values are equal" for name, same in zip(names, flat, strict=True)
            if same
        ),
    )  # fmt: skip


def _pooled_t(z: FloatArray, total: int) -> FloatArray:
    """Student's t of two groups from the standardised sum of one: a rising function of it."""
    left = (total - 1) - z**2
    with np.errstate(divide="ignore"):
        t = z * np.sqrt((total - 2) / np.where(left > 1e-12 * total, left, 0.0))
    return np.where(z == 0, 0.0, t)


def _reorder(
    weights: FloatArray,
    mean_curves: FloatArray,
    trends: FloatArray,
    *,
    alternative: Alternative,
    statistic: TrendStatistic,
    samples: tuple[int, int, int],
    names: tuple[str, ...],
    unit: str,
    progress: bool,
) -> ExactTestResult:
    """All orders of the checkpoints of mean curves (k, T)."""
    n_samples, seed, max_exact = samples
    n = len(weights)
    centred, flat = _centred(mean_curves)
    rise = weights / np.sqrt((weights**2).sum())
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / (n - 1))
    z = centred / np.where(spread > 0, spread, 1.0)
    orbit = orbits.order_orbit(rise, z, n_samples, seed, max_exact)
    orders = factorial(n)
    # Evenly spaced times (and ranks): the reverse order is exactly as extreme.
    even = np.allclose(rise, -rise[::-1])
    mirrored = alternative == "two-sided" and even
    trend = trends.mean(axis=0)
    return _result(
        orbit, z @ rise, alternative, progress, seed,
        test="orders of the checkpoints",
        statistic_name=statistic if len(trends) == 1 else f"mean {statistic}",
        statistic=trend,
        estimate=trend,
        floor=(2.0 if mirrored else 1.0) / orders,
        possible=orders,
        names=names, unit=unit, n_units=(len(trends),), n_checkpoints=n,
        notes=tuple(
            f"{name}: the mean curve is constant" for name, same in zip(
                names, flat, strict=True
            ) if same
        ),
        per_unit=trends,
    )  # fmt: skip


def _centred(rows: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Rows minus their mean, at most 1 in size, and which of them do not vary (then zero)."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    centred = rows / np.where(largest > 0, largest, 1.0)
    centred = centred - centred.mean(axis=1, keepdims=True)
    spread = np.abs(centred).max(axis=1, keepdims=True)
    flat = spread <= 1e-14
    centred = np.where(flat, 0.0, centred / np.where(flat, 1.0, spread))
    # Again: far from zero, the first mean is off by its rounding, which would break ties.
    return centred - centred.mean(axis=1, keepdims=True), flat[:, 0]


def _result(
    orbit: Orbit,
    observed: FloatArray,
    alternative: Alternative,
    progress: bool,
    seed: int,
    *,
    floor: float,
    **fields: Any,
) -> ExactTestResult:
    """Count the patterns and write the result down."""
    with track(orbit.size, "patterns", progress) as advance:
        extremes = orbits.count_extremes(orbit, observed, alternative, advance)
    p = extremes.each / orbit.size
    return ExactTestResult(
        p_value=p,
        p_value_fwer=extremes.single_step / orbit.size,
        p_value_stepdown=orbits.step_down_p(extremes, observed, orbit, alternative),
        p_standard_error=np.zeros(len(p)) if orbit.exact else np.sqrt(p * (1 - p) / orbit.size),
        n_patterns=orbit.size,
        exact=orbit.exact,
        floor=max(floor, 0.0 if orbit.exact else 1.0 / orbit.size),
        alternative=alternative,
        seed=seed,
        **fields,
    )


# ---------------------------------------------------------------- trends


def _trend_parts(
    curves: FloatArray, times: FloatArray, statistic: TrendStatistic, names: tuple[str, ...]
) -> tuple[FloatArray, FloatArray]:
    """Weights (T,) and prepared curves (units, T, k) whose product is each unit's trend."""
    weights = rankdata(times) if statistic == "spearman" else times
    weights = weights - weights.mean()
    if statistic == "slope":
        return weights / (weights**2).sum(), curves
    prepared = rankdata(curves, axis=1) if statistic == "spearman" else curves
    scale = np.abs(prepared).max(axis=1, keepdims=True)
    prepared = prepared / np.where(scale > 0, scale, 1.0)
    prepared = prepared - prepared.mean(axis=1, keepdims=True)
    lengths = np.sqrt((prepared**2).sum(axis=1, keepdims=True))
    if (lengths < 1e-12).any():
        unit, _, column = np.argwhere(lengths < 1e-12)[0]
        raise InvalidInputError(
            f"the {statistic} correlation with time of unit {unit}, {names[column]}, is undefined:"
            " its curve is constant; leave it out, or use statistic='slope'"
        )
    return weights / np.sqrt((weights**2).sum()), prepared / lengths


def _curves(values: ArrayLike) -> FloatArray:
    """Values as (units, T, k)."""
    array = _as_floats(values, "values")
    if array.ndim == 1:
        array = array[None]
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise InvalidInputError(
            f"values must be (T,), (units, T) or (units, T, k), got shape {np.shape(values)}"
        )
    _at_least(array.shape[1], 3, "values", "checkpoints")
    if not np.isfinite(array).all():
        unit, checkpoint, column = np.argwhere(~np.isfinite(array))[0]
        raise InvalidInputError(
            f"values hold {array[unit, checkpoint, column]} at unit {unit}, checkpoint"
            f" {checkpoint}, column {column}; leave out the unit, or the checkpoint for all units"
        )
    return array


def _times(times: ArrayLike) -> FloatArray:
    array = _as_floats(times, "times")
    if array.ndim != 1 or not np.isfinite(array).all() or not (np.diff(array) > 0).all():
        raise InvalidInputError(
            f"times must be (T,) finite and increasing, got {np.array2string(array, threshold=8)}"
        )
    return array


# ---------------------------------------------------------------- input


def checked_columns(values: ArrayLike, what: str, axis: int) -> FloatArray:
    """`values` as (units, k), finite."""
    array = _as_floats(values, what)
    if array.ndim not in (1, 2):
        raise InvalidInputError(f"{what} must be (units,) or (units, k), got shape {array.shape}")
    if not -array.ndim <= axis < array.ndim:
        raise InvalidInputError(f"units_axis must be an axis of {what}, got {axis}")
    array = np.moveaxis(array, axis, 0)
    array = array[:, None] if array.ndim == 1 else array
    if array.shape[1] == 0:
        raise InvalidInputError(f"{what} must hold at least one column, got shape {array.shape}")
    if not np.isfinite(array).all():
        unit, column = np.argwhere(~np.isfinite(array))[0]
        raise InvalidInputError(
            f"{what} hold {array[unit, column]} at unit {unit}, column {column}; leave that unit"
            " out of every column, so that n is what the result says"
        )
    return array


def _as_floats(values: ArrayLike, what: str) -> FloatArray:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise InvalidInputError(f"{what} must be real numbers, got dtype {array.dtype}")
    return array.astype(np.float64)


def _at_least(n: int, least: int, what: str, of: str) -> None:
    if n < least:
        raise InvalidInputError(f"{what} must hold at least {least} {of}, got {n}")


def _check(**chosen: str) -> None:
    allowed = {
        "alternative": tuple(ALTERNATIVES),
        "statistic": get_args(Statistic),
        "trend": get_args(TrendStatistic),
        "null": get_args(TrendNull),
        "unmatched": get_args(Unmatched),
    }
    for name, value in chosen.items():
        if value not in allowed[name]:
            raise InvalidInputError(
                f"{'statistic' if name == 'trend' else name} must be one of"
                f" {', '.join(allowed[name])}, got {value!r}"
            )


def _check_samples(n_samples: int, seed: int, max_exact: int) -> tuple[int, int, int]:
    """The three numbers as int, or raise."""
    checked = []
    for name, value, least in (
        ("n_samples", n_samples, 1), ("seed", seed, 0), ("max_exact", max_exact, 1)
    ):  # fmt: skip
        whole = isinstance(value, int | float | np.integer) and not isinstance(value, bool)
        if not whole or value != int(value) or value < least:
            raise InvalidInputError(f"{name} must be an integer of at least {least}, got {value!r}")
        checked.append(int(value))
    return checked[0], checked[1], checked[2]


def _checked_level(level: float | None) -> float | None:
    if level is not None and not 0 < level < 1:
        raise InvalidInputError(f"level must lie between 0 and 1, got {level!r}")
    return level


def checked_names(names: Sequence[str] | None, k: int) -> tuple[str, ...]:
    """Names of k columns, by default "column 0" and so on."""
    if names is None:
        return tuple(f"column {i}" for i in range(k)) if k > 1 else ("value",)
    given = (names,) if isinstance(names, str) else tuple(map(str, names))
    if len(given) != k:
        raise InvalidInputError(f"names must name {k} columns, got {len(given)}")
    return given


def _checked_ids(
    ids: Sequence[Hashable] | None, n: int, what: str
) -> tuple[Hashable, ...] | None:
    if ids is None:
        return None
    given = tuple(ids.tolist() if isinstance(ids, np.ndarray) else ids)
    if len(given) != n:
        raise InvalidInputError(f"{what} must hold one id for each of {n} units, got {len(given)}")
    if len(set(given)) != n:
        twice = next(u for u in given if given.count(u) > 1)
        raise InvalidInputError(
            f"{what} holds {twice!r} more than once; average the values of a unit first"
        )
    return given


def _paired_differences(
    x: FloatArray,
    y: FloatArray,
    ids_a: tuple[Hashable, ...] | None,
    ids_b: tuple[Hashable, ...] | None,
    unmatched: Unmatched,
) -> tuple[FloatArray, tuple[str, ...]]:
    """Differences of matched units, and what was left out."""
    if ids_a is None or ids_b is None:
        if len(x) != len(y):
            raise InvalidInputError(
                f"a holds {len(x)} units, b {len(y)}: pairs need equal numbers; give units_a= and"
                " units_b= with unmatched='drop', or use paired=False"
            )
        return x - y, ()
    only_a = [u for u in ids_a if u not in ids_b]
    only_b = [u for u in ids_b if u not in ids_a]
    if (only_a or only_b) and unmatched == "error":
        said = [f"{_some(u)} only in {g}" for u, g in ((only_a, "a"), (only_b, "b")) if u]
        raise InvalidInputError(
            f"units do not match: {'; '.join(said)}; leave them out with unmatched='drop'"
        )
    place = {u: i for i, u in enumerate(ids_b)}
    both = [(i, place[u]) for i, u in enumerate(ids_a) if u in place]
    rows_a, rows_b = [i for i, _ in both], [j for _, j in both]
    excluded = [f"{u} (only in a)" for u in only_a] + [f"{u} (only in b)" for u in only_b]
    return x[rows_a] - y[rows_b], tuple(excluded)


def _some(units: Sequence[Hashable]) -> str:
    more = f" and {len(units) - 5} more" if len(units) > 5 else ""
    return ", ".join(repr(u) for u in units[:5]) + more
