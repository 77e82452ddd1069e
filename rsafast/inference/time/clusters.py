"""Cluster inference over time: which stretches of a time course are more than chance.

A cluster is a run of neighbouring times whose score passes a threshold; its statistic is the sum of
their scores ("mass") or their number ("size"). The null distribution is that of the largest cluster
anywhere (any model, course and sign), so that p-values are family-wise (Maris & Oostenveld 2007).
The threshold decides what clusters look like, never whether the test is valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearson3
from scipy.stats import t as student_t

from rsafast.comparators import get_comparator
from rsafast.errors import InvalidInputError
from rsafast.inference.layout import labels_of
from rsafast.inference.time.movies import Grouping, TimeCourses, courses_of
from rsafast.mask import as_pair_mask
from rsafast.memory import parse_bytes
from rsafast.permutation import moments
from rsafast.permutation.setup import (
    Alternative,
    aligned,
    as_groups,
    check_choices,
    choose_plan,
    null_moments,
)
from rsafast.permutation.statistics import Product, Statistic, build_statistic
from rsafast.progress import track

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]
ClusterStatistic = Literal["mass", "size"]

_FLIPS, _CHUNK = 4, 256  # stream of the seed's random numbers; flips that share a generator
_MOST_FLIPS = 2**24
_BLOCK_BYTES = 2**25  # of t values that are worked out at a time
_ROUNDING = 1e-9  # share of a cluster's mass within which two are equal
_FLAT = 1e-12  # standard deviation of a null below which it has no spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One stretch of neighbouring times beyond the threshold.

    `start` and `stop` are its first and last time, `first` and `last` their positions. `statistic`
    is its mass or size, `sign` +1 or -1. `p_value` is family-wise, and speaks for the cluster as a
    whole: never for its borders, nor for any one time in it.
    """

    model: str
    course: str
    start: float
    stop: float
    first: int
    last: int
    sign: int
    statistic: float
    p_value: float
    peak_time: float
    peak_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterResult:
    """Result of :func:`cluster_test` or :func:`group_cluster_test`.

    M models, C courses (regions, subjects; 1 for a group), T times.

    Attributes
    ----------
    clusters : every cluster found, by p-value and then by time.
    values : (M, C, T) similarity, or mean over subjects.
    scores : (M, C, T) what is thresholded: null standard deviations, or t.
    null_mean, null_std : (M, C, T) what `scores` are standardised by; 0 and NaN for sign flips.
    upper, lower : (M, C, T) thresholds of `scores`; infinite where that side is not tested.
    null_maxima : (n_permutations,) largest cluster statistic under each relabelling or flip.
    times : (T,) increasing.
    test : "label permutation" or "sign flips".
    exact : whether all relabellings or flips were enumerated.
    n_units : stimuli relabelled, or subjects flipped.
    """

    clusters: tuple[Cluster, ...]
    values: FloatArray
    scores: FloatArray
    null_mean: FloatArray
    null_std: FloatArray
    upper: FloatArray
    lower: FloatArray
    null_maxima: FloatArray
    times: FloatArray
    model_names: tuple[str, ...]
    courses: tuple[str, ...]
    test: Literal["label permutation", "sign flips"]
    exact: bool
    n_permutations: int
    n_units: int
    statistic: ClusterStatistic
    threshold: float
    alternative: str
    method: str | None
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def smallest_p(self) -> float:
        """Smallest p-value that this test could have given."""
        two = self.test == "sign flips" and self.alternative == "two-sided" and self.exact
        return (2.0 if two else 1.0) / self.n_permutations

    def to_dataframe(self) -> pd.DataFrame:
        """One row a cluster: model, course, start, stop, n_times, sign, statistic, p_value, peak_*.

        p_value is family-wise over all models, courses and times.
        """
        import pandas as pd

        columns = (
            "model", "course", "start", "stop", "n_times", "sign", "statistic", "p_value",
            "peak_time", "peak_value",
        )  # fmt: skip
        rows = [
            [c.last - c.first + 1 if key == "n_times" else getattr(c, key) for key in columns]
            for c in self.clusters
        ]
        return pd.DataFrame(rows, columns=list(columns))

    def summary(self) -> str:
        """Say what was tested, what came out, and to whom it generalises."""
        m, c, t = self.values.shape
        family = f"{m} model{'s' * (m > 1)} × {c} course{'s' * (c > 1)} × {t} times"
        lines = [
            f"{family}, alternative {self.alternative!r}, clusters of times at which the score "
            f"passes a pointwise p of {self.threshold:g}, cluster statistic {self.statistic!r}."
        ]
        what = "relabellings" if self.test == "label permutation" else "flips"
        how = f"{self.n_permutations:,} {what}, the observed among them, seed {self.seed}"
        if self.exact:
            how = f"All {self.n_permutations:,} {what}"
        if self.test == "label permutation":
            lines += [
                "Null hypothesis: models and brain are unrelated at every time, so that the "
                f"{self.n_units} stimuli are exchangeable.",
                "It speaks for these stimuli and subjects only. "
                f"{how}, the same at all times. Smallest attainable p: {self.smallest_p:.3g}.",
            ]
        else:
            more = "" if self.smallest_p <= 0.01 else " Only more subjects lower it."
            lines += [
                f"Null hypothesis: the courses of the {self.n_units} subjects are symmetric about "
                "0, so that the sign of each may be flipped as a whole.",
                "It generalises to subjects like these, for these stimuli. "
                f"{how}. Smallest attainable p: {self.smallest_p:.3g}.{more}",
            ]
        found = [cluster for cluster in self.clusters if cluster.p_value <= 0.05]
        lines.append(
            f"{len(self.clusters)} cluster{'s' * (len(self.clusters) != 1)}, {len(found)} with a "
            f"family-wise p of at most 0.05{':' if found else '.'}"
        )
        lines += [
            f"  {c.model} × {c.course}: {c.start:g} to {c.stop:g}, {self.statistic} "
            f"{c.statistic:.4g}, p = {c.p_value:.3g}, peak {c.peak_value:.4g} at {c.peak_time:g}"
            for c in found
        ]
        lines.append(
            "A small p says that there is an effect somewhere in the cluster. It says nothing "
            "about any one time, nor when the effect starts or ends (Sassenhagen & Draschkow 2019)."
        )
        return "\n".join([*lines, *self.notes])

    def plot(self, ax: Axes | None = None, alpha: float = 0.05) -> Axes:
        """Draw the courses, with a bar under each for its clusters of p <= `alpha`.

        Parameters
        ----------
        ax : where to draw; by default a new pyplot figure.
        alpha : largest family-wise p that gets a bar.
        """
        from rsafast.inference.time.plot import draw_courses
        from rsafast.plotting import given_or_new

        ax = given_or_new(ax)
        draw_courses(ax, self, alpha)
        return ax


def cluster_test(
    models: Any,
    movie: Any,
    *,
    method: str = "spearman",
    times: Grouping = "time",
    courses: Grouping | None = None,
    n_permutations: int = 10_000,
    threshold: float = 0.01,
    statistic: ClusterStatistic = "mass",
    alternative: Alternative = "greater",
    mask: ArrayLike | None = None,
    blocks: ArrayLike | None = None,
    covariates: Any | None = None,
    seed: int = 0,
    memory_budget: int | str | None = None,
    progress: bool = True,
) -> ClusterResult:
    """Test when models are related to a movie, by relabelling the stimuli of the models.

    One relabelling serves all models, courses and times, so that what is correlated over time
    stays so under the null. The null hypothesis is that models and brain are unrelated at every
    time; p-values hold for the family of all clusters of all models and courses. They concern
    these stimuli and subjects. To generalise over subjects use :func:`group_cluster_test`. For a
    claim about single times use ``permutation_test(models, movie).p_value_fwer``, which is max-T
    over the same family.

    Parameters
    ----------
    models : RDMs or array
    movie : RDMs
        One RDM a time (and course), in any order; see :func:`rsafast.rdm_movie`.
    method, mask, blocks, covariates, seed, memory_budget, progress :
        See :func:`rsafast.permutation_test`.
    times : descriptor of `movie`, or one number an RDM
    courses : descriptor of `movie` or one label an RDM, optional
        What tells time courses apart (region, subject). All need the same times; neighbours are
        those that follow each other within a course.
    n_permutations : int
        The orbit engine does a few more; all there are, if that is no more than asked for.
    threshold : float, default 0.01
        Pointwise p at which a time joins a cluster (each side at half of it, if two-sided), from a
        Pearson III law with the exact moments of the null at that time; where these are not known
        (mask, covariates, blocks, Kendall), a normal law with the moments of 256 relabellings. It
        shapes the clusters; the cluster p-values are valid for any.
    statistic : {"mass", "size"}
        Sum of the scores in a cluster (null standard deviations from the null mean), or its times.
    alternative : {"greater", "less", "two-sided"}
        Two-sided: clusters of either sign, of one sign each.

    Returns
    -------
    ClusterResult
        p-values count the observed labelling, so none is 0.

    Raises
    ------
    InvalidInputError
        Times that are missing from a course or repeat, fewer than 2 times, a threshold outside
        (0, 0.5], and what :func:`rsafast.permutation_test` refuses.

    References
    ----------
    Maris & Oostenveld (2007); Nichols & Holmes (2002); Sassenhagen & Draschkow (2019).

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> rng = np.random.default_rng(0)
    >>> points, data = rng.normal(size=(16, 6)), rng.normal(size=(16, 6, 20))
    >>> data[:, :, 8:14] += points[:, :, None]
    >>> movie = rf.rdm_movie(data, "euclidean")
    >>> found = rf.cluster_test(rf.compute_rdms(points, "euclidean"), movie, n_permutations=2000)
    >>> [(c.start, c.stop, c.p_value < 0.01) for c in found.clusters if c.p_value < 0.05]
    [(8.0, 13.0, True)]
    """
    comparator = get_comparator(method)
    check_choices(n_permutations, alternative, None, "auto", seed, "freedman-lane")
    _check_cluster_choices(threshold, statistic)
    budget = parse_bytes(memory_budget)
    a, b, z = aligned(models, movie, covariates)
    keep = as_pair_mask(mask, a, b)
    groups = as_groups(blocks, a.n_stimuli)
    course_of = ["all"] * b.n_rdms if courses is None else labels_of(b, courses, "courses")
    course_names, when, place = courses_of(b, times, course_of, "course")
    if len(when) < 2:
        raise InvalidInputError("movie holds a single time; use permutation_test")
    forms = build_statistic(
        comparator, a, b, covariates=z, keep=keep, scheme="freedman-lane", rerank=False
    )
    pairs = a.n_rdms * b.n_rdms
    plan = choose_plan(
        forms, pairs, a.n_stimuli, int(n_permutations), "auto", int(seed), groups, budget
    )

    identity = np.arange(a.n_stimuli, dtype=np.int32)[None]
    observed = forms.evaluate(identity)[:, place, 0]
    null = null_moments(forms, a.n_stimuli, int(seed), groups, budget)
    mean, spread = null.mean[:, place], null.std[:, place]
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > _FLAT)
    skew = _skewness(forms, null.mean.shape, groups is None)[:, place]
    upper, lower = _cuts(skew, threshold, alternative)
    scores = (observed - mean) * scale
    maxima = np.empty(plan.n_permutations)
    with track(plan.n_permutations, "relabellings", progress) as advance:
        for block in plan.blocks():
            values = np.moveaxis(block.values, (1, 3), (0, 1))[:, place]  # (M, C, T, I, J, S)
            values -= mean[..., None, None, None]
            values *= scale[..., None, None, None]
            maxima[block.places] = _largest(values, upper, lower, statistic)
            advance(block.size)
    flat = int((scale == 0).sum())
    return _result(
        observed, scores, upper, lower, maxima, null_mean=mean, null_std=spread,
        times=when, model_names=a.names, courses=course_names, test="label permutation",
        exact=plan.engine == "exact", n_units=a.n_stimuli, statistic=statistic,
        threshold=threshold, alternative=alternative, method=comparator.name, seed=int(seed),
        notes=(
            (f"{flat} model × time cells have a null without spread and can join no cluster.",)
            if flat
            else ()
        ),
    )  # fmt: skip


def group_cluster_test(
    values: ArrayLike | TimeCourses,
    *,
    times: Sequence[float] | NDArray[Any] | None = None,
    names: Sequence[str] | None = None,
    n_permutations: int = 65_536,
    threshold: float = 0.01,
    statistic: ClusterStatistic = "mass",
    alternative: Alternative = "greater",
    seed: int = 0,
    progress: bool = True,
) -> ClusterResult:
    """Test when the courses of a group of subjects differ from 0, by flipping their signs.

    The null hypothesis is that each subject's whole course is distributed symmetrically about 0.
    It generalises to subjects like these. For two models pass the differences of their courses
    (``courses.difference("a", "b")``) and ``alternative="two-sided"``.

    Parameters
    ----------
    values : TimeCourses, or (subjects, times) or (subjects, models, times) array
        One similarity (or difference) a subject and time, see :func:`rsafast.time_courses`. Of
        several models all flips are shared, and p-values hold for the family of all models.
    times : sequence, optional
        Increasing; by default 0, 1, 2, ... or those of the TimeCourses.
    names : sequence of str, optional
        Names of the models.
    n_permutations : int, default 65,536
        All 2^subjects flips are enumerated if there are no more than this, else this many are
        drawn, the observed among them.
    threshold : float, default 0.01
        Pointwise p of the t-test (subjects - 1 degrees of freedom) at which a time joins a
        cluster; two-sided, each side at half of it.
    statistic : {"mass", "size"}
        Sum of t in a cluster, or its times.
    alternative : {"greater", "less", "two-sided"}

    Returns
    -------
    ClusterResult
        With all flips enumerated, the clusters and p-values of
        ``mne.stats.permutation_cluster_1samp_test`` at the same threshold.

    Raises
    ------
    InvalidInputError
        Fewer than 2 subjects or times, NaN, a time at which all subjects are equal.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.random.default_rng(0).normal(size=(10, 30))
    >>> values[:, 10:15] += 1.5
    >>> found = group_cluster_test(values)
    >>> [(c.start, c.stop, c.p_value) for c in found.clusters if c.p_value < 0.05]
    [(10.0, 14.0, 0.0009765625)]
    """
    check_choices(n_permutations, alternative, None, "auto", seed, "freedman-lane")
    _check_cluster_choices(threshold, statistic)
    x, when, labels, method = _as_courses(values, times, names)
    n, m, t = x.shape
    exact = n <= 60 and 2**n <= int(n_permutations)
    total = 2**n if exact else int(n_permutations)
    if total > _MOST_FLIPS:
        raise InvalidInputError(f"n_permutations must be at most {_MOST_FLIPS:,}, got {total:,}")
    side = threshold / 2 if alternative == "two-sided" else threshold
    cut = float(student_t.isf(side, n - 1))
    shape = (m, 1, t)
    upper = np.full(shape, np.inf if alternative == "less" else cut)
    lower = np.full(shape, -np.inf if alternative == "greater" else -cut)
    flat = x.reshape(n, m * t)
    scores = _t_values(np.ones((1, n)), flat).reshape(shape)
    maxima = np.empty(total)
    with track(total, "sign flips", progress) as advance:
        for start, signs in _flips(n, total, exact, int(seed), _BLOCK_BYTES // (8 * m * t)):
            stop = start + len(signs)
            flipped = _t_values(signs, flat).T.reshape(m, 1, t, stop - start)
            maxima[start:stop] = _largest(flipped, upper, lower, statistic)
            advance(stop - start)
    return _result(
        x.mean(axis=0)[:, None], scores, upper, lower, maxima,
        null_mean=np.zeros(shape), null_std=np.full(shape, np.nan), times=when,
        model_names=labels, courses=("group",), test="sign flips", exact=exact, n_units=n,
        statistic=statistic, threshold=threshold, alternative=alternative,
        method=method, seed=int(seed), notes=(),
    )  # fmt: skip


# ---------------------------------------------------------------- input


def _check_cluster_choices(threshold: float, statistic: str) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number):
        raise InvalidInputError(f"threshold must be a pointwise p, got {threshold!r}")
    if not 0 < threshold <= 0.5:
        raise InvalidInputError(
            f"threshold must be a pointwise p above 0 and at most 0.5, got {threshold!r}"
        )
    if statistic not in get_args(ClusterStatistic):
        raise InvalidInputError(f"statistic must be 'mass' or 'size', got {statistic!r}")


def _as_courses(
    values: Any, times: Any, names: Any
) -> tuple[FloatArray, FloatArray, tuple[str, ...], str | None]:
    """(subjects, models, times) values, times, names of the models, comparator if known."""
    method = None
    if isinstance(values, TimeCourses):
        method = values.method
        times = values.times if times is None else times
        names = values.model_names if names is None else names
        values = values.values
    x = np.asarray(values)
    if x.ndim not in (2, 3) or x.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"values must be (subjects, times) or (subjects, models, times), got shape {x.shape}"
        )
    x = x.astype(np.float64).reshape(len(x), -1, x.shape[-1])
    n, m, t = x.shape
    if n < 2 or t < 2 or m < 1:
        raise InvalidInputError(
            f"values must hold at least 2 subjects and 2 times, got {n} and {t}"
        )
    if not np.isfinite(x).all():
        s, k, i = np.argwhere(~np.isfinite(x))[0]
        raise InvalidInputError(
            f"values holds {x[s, k, i]} for subject {s}, model {k}, time {i}; leave the subject or "
            "the time out"
        )
    flat = np.ptp(x, axis=0) <= 1e-12 * np.abs(x).max(axis=0)
    if flat.any():
        k, i = np.argwhere(flat)[0]
        raise InvalidInputError(
            f"all subjects have the same value for model {k} at time {i}, which has no t; leave "
            "the time out"
        )
    when = np.arange(t, dtype=np.float64) if times is None else np.asarray(times, np.float64)
    if when.shape != (t,) or not np.isfinite(when).all() or (np.diff(when) <= 0).any():
        raise InvalidInputError(f"times must be {t} increasing numbers, got {times!r}")
    labels = tuple(f"model {k}" for k in range(m)) if names is None else tuple(names)
    if len(labels) != m:
        raise InvalidInputError(f"names must name {m} models, got {len(labels)}")
    return x, when, labels, method


# ---------------------------------------------------------------- work


def _skewness(statistic: Statistic, shape: tuple[int, ...], free: bool) -> FloatArray:
    """Skewness of the null, (M, N), where it is known, else 0."""
    if isinstance(statistic, Product) and free:
        return np.nan_to_num(moments.skewness(statistic.models, statistic.brain))
    return np.zeros(shape)


def _cuts(skew: FloatArray, threshold: float, alternative: str) -> tuple[FloatArray, FloatArray]:
    """Upper and lower thresholds of standardised scores, beyond which the null has the given p."""
    side = threshold / 2 if alternative == "two-sided" else threshold
    low, high = pearson3.ppf(side, skew), pearson3.isf(side, skew)
    # Clusters add up scores of one sign, whatever the skewness does to a lenient threshold.
    upper = np.full(skew.shape, np.inf) if alternative == "less" else np.maximum(high, 1e-6)
    lower = np.full(skew.shape, -np.inf) if alternative == "greater" else np.minimum(low, -1e-6)
    return upper, lower


def _largest(
    scores: FloatArray, upper: FloatArray, lower: FloatArray, statistic: str
) -> FloatArray:
    """Largest cluster statistic over models, courses and signs of scores (M, C, T, ...): (...)."""
    shape = scores.shape[3:]
    best = np.zeros(shape)
    pad = (slice(None), slice(None)) + (None,) * len(shape)
    for sign, cut in ((1.0, upper), (-1.0, -lower)):
        if not np.isfinite(cut).any():
            continue
        run = np.zeros(scores.shape[:2] + shape)
        for t in range(scores.shape[2]):
            at = sign * scores[:, :, t]
            run += at if statistic == "mass" else 1.0
            run *= at >= cut[:, :, t][pad]
            np.maximum(best, run.max(axis=(0, 1)), out=best)
    return best


def _t_values(signs: FloatArray, values: FloatArray) -> FloatArray:
    """t (F, columns) of values (n, columns) whose rows are multiplied by signs (F, n)."""
    n = len(values)
    mean = signs @ values / n
    squares = np.einsum("nc,nc->c", values, values)
    variance = np.maximum(squares - n * mean**2, 1e-14 * squares) / (n - 1)
    return mean / np.sqrt(variance / n)


def _flips(
    n: int, total: int, exact: bool, seed: int, most: int
) -> Iterator[tuple[int, FloatArray]]:
    """Sign flips (F, n), the first none; in parts of at most `most`, whatever that is the same."""
    most = max(1, most)
    for start in range(0, total, _CHUNK):
        count = min(_CHUNK, total - start)
        if exact:
            numbers = np.arange(start, start + count)[:, None]
            bits = numbers >> np.arange(n) & 1
        else:
            keys = np.random.SeedSequence([seed, _FLIPS, n, start // _CHUNK])
            bits = np.random.Generator(np.random.Philox(keys)).integers(0, 2, (_CHUNK, n))[:count]
            if start == 0:
                bits[0] = 0
        signs = np.where(bits, -1.0, 1.0)
        for first in range(0, count, most):
            yield start + first, signs[first : first + most]


def _runs(beyond: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last position of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], beyond, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _result(
    values: FloatArray,
    scores: FloatArray,
    upper: FloatArray,
    lower: FloatArray,
    maxima: FloatArray,
    **known: Any,
) -> ClusterResult:
    """Find the observed clusters and hold them against the maxima of the null."""
    upper, lower = (np.broadcast_to(cut, scores.shape).copy() for cut in (upper, lower))
    # The observed labelling is number 0; by the same arithmetic as the clusters that it is of.
    maxima[0] = _largest(scores[..., None], upper, lower, known["statistic"])[0]
    ordered = np.sort(maxima)
    found = []
    for m, c in np.ndindex(scores.shape[:2]):
        for sign, cut in ((1, upper), (-1, -lower)):
            course = sign * scores[m, c]
            for first, last in _runs(course >= cut[m, c]):
                inside = course[first : last + 1]
                size = float(inside.sum()) if known["statistic"] == "mass" else float(len(inside))
                above = len(ordered) - np.searchsorted(ordered, size * (1 - _ROUNDING))
                peak = first + int(np.argmax(inside))
                found.append(
                    Cluster(
                        model=known["model_names"][m],
                        course=known["courses"][c],
                        start=float(known["times"][first]),
                        stop=float(known["times"][last]),
                        first=first,
                        last=last,
                        sign=sign,
                        statistic=size,
                        p_value=int(above) / len(maxima),
                        peak_time=float(known["times"][peak]),
                        peak_value=float(values[m, c, peak]),
                    )
                )
    found.sort(key=lambda cluster: (cluster.p_value, cluster.start))
    return ClusterResult(
        clusters=tuple(found), values=values, scores=scores, upper=upper, lower=lower,
        null_maxima=maxima, n_permutations=len(maxima), **known,
    )  # fmt: skip
