"""Batched RDMs: the distances of all pairs of rows, condensed.

Every metric but city block is offset_i + offset_j - weight * g_ij for a matrix of inner products g,
so that BLAS does the work. g is made a tile at a time and turned into condensed distances at once:
the full square is never held. Rows are centred and normalised as they are read, with
float64 accumulation, and pairs for which the difference cancels are computed again directly from
the rows in float64: near-duplicates are as accurate as distant rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rsafast_kernels._native import native
from rsafast_kernels._threads import num_threads, threads_for
from rsafast_kernels.device import on_gpu, resolve
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.pairwise.blas import one_blas_thread, one_blas_thread_here

__all__ = [
    "METRICS",
    "Distances",
    "Metric",
    "Products",
    "check_rows",
    "cholesky_factor",
    "pairwise_distances",
    "undefined_row",
    "value_error",
    "working_bytes",
]

Metric = Literal[
    "correlation",
    "cosine",
    "euclidean",
    "sqeuclidean",
    "cityblock",
    "mahalanobis",
    "crossnobis",
    "poisson",
]
METRICS: tuple[str, ...] = get_args(Metric)
Products = Literal["bf16x3", "bf16x6", "tf32x3", "ieee"]

FloatArray = NDArray[np.floating]
Float64Array = NDArray[np.float64]

_SQUARES, _PRODUCTS, _FOLDS = 0, 1, 2

# Below this share of the two squared norms a distance is computed again directly. Products are good
# to about eps * norm, so what stays has a relative error near eps / tau.
_TAU = {np.dtype(np.float32): 2e-3, np.dtype(np.float64): 1e-4}
# Rows this small beside the largest one underflow in the product.
_FLOOR = {np.dtype(np.float32): 1e-30, np.dtype(np.float64): 1e-280}
# Enough for BLAS to run at full speed, few enough rows that what a tile holds below the diagonal is
# a small share. A tile is at most 8 MB.
_TILE_ROWS, _TILE_COLUMNS = 256, 4096
# One tile in the calling thread costs less than handing tiles out: that takes 0.1 ms on a machine
# that is idle, and 2 to 4 ms on a shared one. A set of no more rows than a tile has can be one
# tile up to products of about that time; a larger one as far as it is quick in either case.
_INLINE_TILE, _INLINE_PRODUCTS = 30_000_000, 4_000_000
# Sets this small are shared out whole.
_SMALL_SET = 512


def _none() -> Float64Array:
    return np.empty(0)


@dataclass(frozen=True, slots=True)
class _Bilinear:
    """A metric as inner products of `left` and `right`, and how to finish them (see native.cpp)."""

    left: FloatArray
    right: FloatArray
    offset: Float64Array
    bound: Float64Array
    weight: float
    source: FloatArray
    pre: Float64Array = field(default_factory=_none)
    shift: Float64Array = field(default_factory=_none)
    scale: Float64Array = field(default_factory=_none)
    form: int = _SQUARES
    parts: int = 1
    direct_factor: float = 1.0
    factor: float = 1.0
    top: float = math.inf
    root: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled so that products stay the same: x @ x.T is rounded in a way of its own."""
        values = [getattr(self, f.name) for f in fields(self)]
        values[1] = None if self.right is self.left else self.right
        return _bilinear, tuple(values)


def _bilinear(left: FloatArray, right: FloatArray | None, *rest: Any) -> _Bilinear:
    # What arrives in messages may start at any byte, and is then copied for every product.
    left = np.require(left, requirements=["C", "A"])
    if right is not None:
        right = np.require(right, requirements=["C", "A"])
    return _Bilinear(left, left if right is None else right, *rest)


def pairwise_distances(
    x: Any,
    metric: Metric,
    *,
    precision: ArrayLike | None = None,
    prior_lambda: float = 1.0,
    prior_weight: float = 0.1,
    device: Literal["cpu", "cuda"] | None = None,
    products: Products = "bf16x3",
) -> Any:
    """Distances of all pairs of rows, in the order of ``scipy.spatial.distance.squareform``.

    Parameters
    ----------
    x : (n, p) or (k, n, p) array
        k sets of n rows (stimuli) of p features. For "crossnobis" (folds, n, p) or
        (k, folds, n, p): the same n rows, measured once in each of at least two folds. float32 and
        float64 are kept; other numeric types are read as float64. Never modified. NumPy, or on a
        GPU a torch tensor or CuPy array, which is shared and not copied.
    metric : str
        With a, b two rows, d = a - b, and P the `precision`:

        =============  =======================================================================
        correlation    1 - Pearson's r, in [0, 2]
        cosine         1 - a·b / (|a| |b|), in [0, 2]
        euclidean      |d|
        sqeuclidean    |d|²
        cityblock      sum of |d|
        mahalanobis    sqrt(d' P d)
        crossnobis     mean over folds m of d_m' P (mean of d over the other folds), any sign;
                       Walther et al. 2016
        poisson        sum of (λ_a - λ_b)(log λ_a - log λ_b), where
                       λ = (x + prior_lambda * prior_weight) / (1 + prior_weight);
                       symmetrised Kullback-Leibler divergence of Poisson rates
        =============  =======================================================================
    precision : (p, p) array, optional
        Symmetric positive definite; for "mahalanobis" (needed) and "crossnobis" (default:
        identity).
    prior_lambda, prior_weight : float
        Prior of "poisson": a rate of `prior_lambda` (default 1, in the unit of `x`) with the weight
        of `prior_weight` observations (default 0.1).
    device : {"cpu", "cuda"}, optional
        Where to work; by default where `x` lives. "cuda" copies a NumPy array to the current GPU
        and the distances back, in smaller pieces where the memory of the GPU asks for it.
    products : {"bf16x3", "bf16x6", "tf32x3", "ieee"}
        How a GPU multiplies float32 rows: tensor cores, in several products of parts, or float32
        units. docs/methods.md gives the error of each; float64 rows are multiplied in float64.

    Returns
    -------
    (n (n - 1) / 2,) or (k, n (n - 1) / 2) array
        Of the kind of `x`, on its device. float32 for float32 input, else float64. float32 input
        means float32 products: relative error about 1e-4 at worst, 1e-6 as a rule, for
        near-duplicate rows too. "crossnobis" and "poisson" are worked out in float64 for both
        types, since their terms cancel by nature. Working memory on the CPU: one copy of a set, for
        "mahalanobis" two in float64, for "poisson" and "crossnobis" up to four, and 8 MB a thread;
        never an (n, n) matrix.
        Results do not depend on :func:`rsafast_kernels.threads`.

    Raises
    ------
    InvalidInputError
        For an unknown metric, NaN or infinite values, a constant row ("correlation"), a zero row
        ("cosine"), a negative value ("poisson"), fewer than two folds ("crossnobis"), and a
        `precision` that is missing, of another size, or not symmetric positive definite. Row
        numbers count from 0.
    BackendUnavailableError
        For device="cuda" where no GPU can be used, and rows that do not fit its memory.

    Examples
    --------
    >>> from rsafast_kernels.pairwise import pairwise_distances
    >>> pairwise_distances([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]], "euclidean")
    array([5.        , 1.        , 4.24264069])
    """
    if products not in get_args(Products):
        raise InvalidInputError(
            f"products is {products!r}; choose one of {', '.join(get_args(Products))}"
        )
    prior = (prior_lambda, prior_weight)
    if device == "cuda" or (device is None and on_gpu(x)):
        resolve("cuda", "torch", "triton")
        return _on_gpu(x, metric, precision, prior, products)
    return _on_cpu(x, metric, precision, prior)


def _on_gpu(
    x: Any, metric: str, precision: ArrayLike | None, prior: tuple[float, float], products: str
) -> Any:
    """Distances from the GPU, of the kind of `x`, once shapes and choices are checked."""
    from rsafast_kernels.pairwise import gpu

    _check_metric(metric)
    foreign = hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray)
    array: Any = gpu.as_float(x) if foreign else _as_float(x)
    sets = _stack(array, metric)
    whitener = _whitener(precision, metric, sets.shape[-1])
    _check_prior(metric, *prior)
    out: Any = gpu.distances(sets, metric, whitener, prior, products)
    out = out if array.ndim == _stacked_ndim(metric) else out[0]
    return gpu.as_kind_of(x, out) if foreign else out


@one_blas_thread()
def _on_cpu(
    x: ArrayLike, metric: Metric, precision: ArrayLike | None, prior: tuple[float, float]
) -> FloatArray:
    array, sets, whitener = _checked(x, metric, precision, prior)
    n = sets.shape[-2]
    out = np.empty((len(sets), n * (n - 1) // 2), dtype=array.dtype)
    names = [f"x[{index}]" if len(sets) > 1 else "x" for index in range(len(sets))]
    if len(sets) > 1 and n <= _SMALL_SET:
        _run(
            [
                partial(_distances, rows, metric, name, whitener, prior, row_out, 1)
                for rows, name, row_out in zip(sets, names, out, strict=True)
            ],
            num_threads(),
        )
    else:
        for rows, name, row_out in zip(sets, names, out, strict=True):
            _distances(rows, metric, name, whitener, prior, row_out, num_threads())
    return out if array.ndim == _stacked_ndim(metric) else out[0]


def _checked(
    x: ArrayLike, metric: Metric, precision: ArrayLike | None, prior: tuple[float, float]
) -> tuple[FloatArray, FloatArray, Float64Array | None]:
    """The input as it came, as a stack of sets, and what whitens their rows."""
    _check_metric(metric)
    array = _as_float(x)
    sets = _stack(array, metric)
    whitener = _whitener(precision, metric, sets.shape[-1])
    _check_values(sets, metric, *prior)
    return array, sets, whitener


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise InvalidInputError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")


class Distances:
    """Distances of all pairs of rows, some rows at a time: the same numbers in less memory.

    Parameters
    ----------
    x, metric, precision, prior_lambda, prior_weight
        As of :func:`pairwise_distances`, for a single set: (n, p), or (folds, n, p) for
        "crossnobis".

    Attributes
    ----------
    n : rows.
    dtype : of the distances: float32 for float32 input, else float64.
    step : panels start at multiples of this many rows. The last one ends with row n.

    Raises
    ------
    InvalidInputError
        As :func:`pairwise_distances`.

    Examples
    --------
    >>> from rsafast_kernels.pairwise import Distances
    >>> distances = Distances([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]], "euclidean")
    >>> distances.panel(0, 3)
    array([5.        , 1.        , 4.24264069])
    """

    @one_blas_thread()
    def __init__(
        self,
        x: ArrayLike,
        metric: Metric,
        *,
        precision: ArrayLike | None = None,
        prior_lambda: float = 1.0,
        prior_weight: float = 0.1,
    ) -> None:
        prior = (prior_lambda, prior_weight)
        array, sets, whitener = _checked(x, metric, precision, prior)
        if array.ndim == _stacked_ndim(metric):
            raise InvalidInputError(f"x must be a single set, got shape {array.shape}")
        self.n, self.dtype = sets.shape[-2], array.dtype
        self.step = self.n if _is_small(self.n, sets[0].size) else _tile_rows(self.n)
        self._form = _formed(sets[0], metric, "x", whitener, prior, num_threads())

    @one_blas_thread()
    def panel(self, first: int, last: int) -> FloatArray:
        """Distances of the rows first..last with all rows after them, in squareform order.

        Raises
        ------
        InvalidInputError
            Where `first`, or a `last` that is not n, is no multiple of `step`.
        """
        edges_fit = first % self.step == 0 and (last == self.n or last % self.step == 0)
        if not 0 <= first < last <= self.n or not edges_fit:
            raise InvalidInputError(
                f"a panel of {self.n} rows starts and ends at multiples of {self.step}, or ends"
                f" with the last row; got {first} to {last}"
            )
        pairs = [row * self.n - row * (row + 1) // 2 for row in (first, last)]
        out = np.empty(pairs[1] - pairs[0], self.dtype)
        _fill(self._form, out, first, last, num_threads())
        return out


def _distances(
    rows: FloatArray,
    metric: str,
    name: str,
    whitener: Float64Array | None,
    prior: tuple[float, float],
    out: FloatArray,
    workers: int,
) -> None:
    if _is_small(len(rows), rows.size):
        workers = 1  # kernel threads that still spin would hold up those of BLAS by milliseconds
    form = _formed(rows, metric, name, whitener, prior, workers)
    _fill(form, out, 0, rows.shape[-2], workers)


def _formed(
    rows: FloatArray,
    metric: str,
    name: str,
    whitener: Float64Array | None,
    prior: tuple[float, float],
    workers: int,
) -> _Bilinear | FloatArray:
    """The metric as inner products; for city block, which has none, the rows themselves."""
    if metric == "cityblock":
        return rows
    if metric == "poisson":
        return _poisson(rows, *prior, workers)
    if metric == "crossnobis":
        return _crossnobis(rows, whitener, workers)
    if metric in ("correlation", "cosine"):
        return _unit(rows, metric, name, workers)
    return _squared(rows, metric, whitener, workers)


def _fill(
    form: _Bilinear | FloatArray, out: FloatArray, first: int, last: int, workers: int
) -> None:
    """Distances of the rows first..last with those after them."""
    if isinstance(form, _Bilinear):
        _condense(form, out, first, last, workers)
    else:
        native.pairwise_cityblock(form, out, first, last, workers)


def cholesky_factor(precision: ArrayLike, p: int, name: str = "precision") -> Float64Array:
    """Lower Cholesky factor of a (p, p) symmetric positive definite matrix, checked.

    Raises InvalidInputError, calling the matrix `name`, if it is anything else.
    """
    matrix = np.asarray(precision, dtype=np.float64)
    if matrix.shape != (p, p):
        raise InvalidInputError(
            f"{name} must be ({p}, {p}), one row a feature, got shape {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise InvalidInputError(f"{name} holds NaN or infinite values")
    gap = float(np.abs(matrix - matrix.T).max(initial=0.0))
    if gap > 1e-8 * float(np.abs(matrix).max(initial=0.0)):
        raise InvalidInputError(
            f"{name} is not symmetric (largest difference {gap:.3g}); pass (P + P.T) / 2"
        )
    try:
        factor = np.linalg.cholesky((matrix + matrix.T) / 2)
    except np.linalg.LinAlgError:
        raise InvalidInputError(
            f"{name} is not positive definite; regularise the covariance before inverting it"
        ) from None
    return np.asarray(factor, dtype=np.float64)


def working_bytes(shape: tuple[int, ...], dtype: DTypeLike, metric: Metric) -> int:
    """Most bytes that :class:`Distances` takes beside its input and the panels.

    Parameters
    ----------
    shape, dtype : of the input
    metric : see :func:`pairwise_distances`
    """
    size, own = math.prod(shape), np.dtype(dtype).itemsize
    # Rectified features are centred in float64 ("correlation", "cosine").
    copies = {"cityblock": 0, "correlation": own + 8, "cosine": own + 8, "euclidean": own,
              "sqeuclidean": own, "mahalanobis": own + 16}  # fmt: skip
    return size * copies.get(metric, 32) + num_threads() * 8 * _TILE_ROWS * _TILE_COLUMNS


def check_rows(x: ArrayLike, metric: Metric) -> None:
    """Raise what :func:`pairwise_distances` would raise for the values of `x`, in one quick pass.

    For callers with several sets who want the errors of all before the work on the first.
    """
    array = _as_float(x)
    sets = _stack(array, metric)
    _check_values(sets, metric, 1.0, 0.1)
    if metric not in ("correlation", "cosine"):
        return
    low, high = sets.min(axis=-1), sets.max(axis=-1)
    bad = low == high if metric == "correlation" else (low == 0) & (high == 0)
    if bad.any():
        index, row = np.unravel_index(int(np.argmax(bad)), bad.shape)
        raise undefined_row(sets.shape, int(index), int(row), metric)


def undefined_row(shape: Sequence[int], index: int, row: int, metric: str) -> InvalidInputError:
    """What to raise for a constant or zero row of a set, of `shape` = (k, n, p) in all."""
    return InvalidInputError(_undefined(row, f"x[{index}]" if shape[0] > 1 else "x", metric))


def _undefined(row: int, name: str, metric: str) -> str:
    what = "constant: its correlation" if metric == "correlation" else "zero: its cosine"
    return f"row {row} of {name} is {what} with any other row is undefined; drop the row"


def _as_float(x: ArrayLike) -> FloatArray:
    array = np.asarray(x)
    if array.dtype in (np.float32, np.float64):
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(f"x must hold real numbers, got dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float64)


def _stacked_ndim(metric: str) -> int:
    return 4 if metric == "crossnobis" else 3


def _stack(array: FloatArray, metric: str) -> FloatArray:
    stacked = _stacked_ndim(metric)
    if array.ndim not in (stacked - 1, stacked):
        shape = "(folds, n, p) or (k, folds, n, p)" if stacked == 4 else "(n, p) or (k, n, p)"
        raise InvalidInputError(f"x must be {shape} for {metric!r}, got shape {array.shape}")
    sets = array if array.ndim == stacked else array[np.newaxis]
    if sets.shape[-1] < 1 or sets.shape[-2] < 1:
        raise InvalidInputError(
            f"x needs at least one row and one feature, got shape {array.shape}"
        )
    if metric == "crossnobis" and sets.shape[1] < 2:
        raise InvalidInputError(f"crossnobis needs at least 2 folds, got {sets.shape[1]}")
    return sets


def _whitener(precision: ArrayLike | None, metric: str, p: int) -> Float64Array | None:
    if precision is None:
        if metric == "mahalanobis":
            raise InvalidInputError(
                "metric 'mahalanobis' needs a precision matrix; use 'euclidean' without one"
            )
        return None
    if metric not in ("mahalanobis", "crossnobis"):
        raise InvalidInputError(
            f"precision is of no use to metric {metric!r}; leave it out, or use 'mahalanobis'"
        )
    return cholesky_factor(precision, p)


def value_error(shape: Sequence[int], flat: int, value: float) -> InvalidInputError:
    """What to raise for the element at a flat index of sets of this shape.

    It is named as the caller indexes it: the leading axis of a single set is left out.
    """
    where = np.unravel_index(flat, tuple(shape))
    at = ", ".join(str(i) for i in (where if shape[0] > 1 else where[1:]))
    why = "every feature must be finite: drop the row or the feature"
    if math.isfinite(value):
        why = "poisson takes counts or rates, which are not negative"
    return InvalidInputError(f"x[{at}] is {value} (row {where[-2]}); {why}")


def _check_values(sets: FloatArray, metric: str, prior_lambda: float, prior_weight: float) -> None:
    bad = native.first_non_finite(sets, threads_for(sets.size))
    if bad >= 0:
        raise value_error(sets.shape, bad, float(sets.flat[bad]))
    _check_prior(metric, prior_lambda, prior_weight)
    if metric == "poisson" and sets.size and sets.min() < 0:
        first = int(np.argmax(sets < 0))
        raise value_error(sets.shape, first, float(sets.flat[first]))


def _check_prior(metric: str, prior_lambda: float, prior_weight: float) -> None:
    if metric == "poisson" and not (prior_lambda > 0 and prior_weight > 0):
        raise InvalidInputError(
            "prior_lambda and prior_weight must be positive, or a zero count has no logarithm; "
            f"got {prior_lambda} and {prior_weight}"
        )


def _unit(x: FloatArray, metric: str, where: str, workers: int) -> _Bilinear:
    """1 - cos of rows as half the squared distance of unit vectors."""
    n = len(x)
    unit = np.empty_like(x)
    pre, shift, scale = np.empty((3, n))
    centre = metric == "correlation"
    native.pairwise_unit_rows(x, unit, pre, shift, scale, centre, workers)
    if not scale.all():
        row = int(np.argmin(scale != 0))
        raise InvalidInputError(_undefined(row, where, metric))
    half_norms = np.full(n, 0.5)
    # Rows that all point one way (rectified features) would cancel in every pair. Distances do not
    # change when the mean is taken off the unit vectors, in float64, and the cancellation goes.
    common = unit[:: max(1, n // 64)].mean(axis=0, dtype=np.float64)
    if common @ common > 0.75:
        wide = np.empty(x.shape)
        native.pairwise_unit_rows(x.astype(np.float64), wide, pre, shift, scale, centre, workers)
        unit, norms = _centred(wide, x.dtype, 1.0, workers)
        half_norms = norms / 2
    return _Bilinear(
        unit, unit, half_norms, half_norms, 1.0, x, pre, shift, scale, direct_factor=0.5, top=2.0
    )


def _centred(
    x: FloatArray, dtype: np.dtype[np.floating], factor: float, workers: int
) -> tuple[FloatArray, Float64Array]:
    z = np.empty(x.shape, dtype=dtype)
    norms = np.empty(len(x))
    native.pairwise_centred_rows(x, z, norms, factor, workers)
    return z, norms


def _range_factor(x: FloatArray) -> float:
    """A power of two that brings the largest magnitude to [0.5, 1): products stay in range."""
    largest = max(float(x.max()), -float(x.min()))
    return math.ldexp(1.0, min(1000, max(-1000, -math.frexp(largest)[1]))) if largest else 1.0


def _whiten(x: FloatArray, factor: Float64Array | None) -> FloatArray:
    """Rows whose plain squared distance is d' P d; centred first, so that offsets cost nothing."""
    if factor is None:
        return x
    wide = x.astype(np.float64)
    return (wide - wide.mean(axis=-2, keepdims=True)) @ factor


def _squared(x: FloatArray, metric: str, whitener: Float64Array | None, workers: int) -> _Bilinear:
    source = _whiten(x, whitener)
    scale = _range_factor(source)
    z, norms = _centred(source, x.dtype, scale, workers)
    root = metric != "sqeuclidean"
    factor = 1.0 / scale if root else 1.0 / scale / scale
    return _Bilinear(z, z, norms, norms, 2.0, source, direct_factor=scale, factor=factor, root=root)


def _crossnobis(x: FloatArray, whitener: Float64Array | None, workers: int) -> _Bilinear:
    """With S the sum of the folds, the products are S S' - Σ X_m X_m', over folds (folds - 1)."""
    folds, n, p = x.shape
    source = np.ascontiguousarray(_whiten(x, whitener).transpose(1, 0, 2), dtype=np.float64)
    source = source.reshape(n, folds * p)
    scale = _range_factor(source)
    z, norms = _centred(source, source.dtype, scale, workers)
    total = z.reshape(n, folds, p).sum(axis=1)
    squared_total = np.einsum("ij,ij->i", total, total)
    return _Bilinear(
        np.hstack([total, z]),
        np.hstack([total, -z]),
        squared_total - norms,
        squared_total + norms,
        2.0,
        source,
        form=_FOLDS,
        parts=folds,
        direct_factor=scale,
        factor=1.0 / scale / scale / (folds * (folds - 1)),
    )


def _poisson(x: FloatArray, prior_lambda: float, prior_weight: float, workers: int) -> _Bilinear:
    """Σ(λ_i - λ_j)(log λ_i - log λ_j): products of [λ, log λ] with [log λ, λ]."""
    rate = (x.astype(np.float64) + prior_lambda * prior_weight) / (1 + prior_weight)
    source = np.hstack([rate, np.log(rate)])
    z, _ = _centred(source, source.dtype, 1.0, workers)
    rates, logs = np.hsplit(z, 2)
    size_rates, size_logs = float(np.linalg.norm(rates)), float(np.linalg.norm(logs))
    # Rates and logs of one size, so that the norms bound the products tightly.
    balance = math.sqrt(size_logs / size_rates) if size_rates and size_logs else 1.0
    rates, logs = rates * balance, logs / balance
    offset = np.einsum("ij,ij->i", rates, logs)
    bound = np.einsum("ij,ij->i", rates, rates) + np.einsum("ij,ij->i", logs, logs)
    return _Bilinear(
        np.hstack([rates, logs]),
        np.hstack([logs, rates]),
        offset,
        bound,
        1.0,
        source,
        form=_PRODUCTS,
        parts=2,
    )


def _is_small(n: int, values: int) -> bool:
    """Whether one tile in the calling thread holds all pairs of n rows of so many values."""
    return n * values <= (_INLINE_TILE if n <= _TILE_ROWS else _INLINE_PRODUCTS)


def _tile_rows(n: int) -> int:
    """Rows of a tile: at least about eight tiles, so that no thread is left without."""
    return min(_TILE_ROWS, 32 * -(-n // 256))


def _condense(form: _Bilinear, out: FloatArray, first: int, last: int, workers: int) -> None:
    """Make the products a tile at a time and finish each straight into `out`.

    The tiles, and so the results, depend on the shape alone. Each tile's product runs on one BLAS
    thread and `workers` tiles at once: BLAS threads that alternate with a kernel's own wait for
    each other's spinning (3000 rows of 1000: 0.19 s that way, 0.07 s this way).
    """
    dtype = form.left.dtype
    # float32 input whose products are float64 is rounded at the end.
    target = out if out.dtype == dtype else np.empty(out.shape, dtype=dtype)
    n = len(form.left)
    height = _tile_rows(n)
    if _is_small(n, form.left.size):
        _tile(form, target, 0, 0, n, 0, n)
    else:
        tiles = [
            (first, row, min(row + height, last), column, min(column + _TILE_COLUMNS, n))
            for row in range(first, last, height)
            for column in range(row, n, _TILE_COLUMNS)
        ]
        _run([partial(_tile, form, target, *tile) for tile in tiles], workers)
    if target is not out:
        out[:] = target


def _tile(
    form: _Bilinear, out: FloatArray, begin: int, first: int, last: int, column: int, end: int
) -> None:
    """Distances of rows first..last with rows column..end; `out` starts with row `begin`."""
    native.pairwise_finish(
        form.left[first:last] @ form.right[column:end].T,
        first,
        column,
        out,
        form.offset,
        form.bound,
        form.weight,
        _TAU[form.left.dtype],
        _FLOOR[form.left.dtype] if form.form != _PRODUCTS else 0.0,
        form.source,
        form.pre,
        form.shift,
        form.scale,
        form.form,
        form.parts,
        form.direct_factor,
        form.factor,
        form.top,
        form.root,
        begin,
    )


def _run(tasks: Sequence[Callable[[], None]], workers: int) -> None:
    """Run the tasks, `workers` at a time."""
    if workers == 1 or len(tasks) == 1:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(min(workers, len(tasks))) as pool:
        for done in [pool.submit(one_blas_thread_here()(task)) for task in tasks]:
            done.result()
