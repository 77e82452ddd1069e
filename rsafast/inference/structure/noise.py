"""Noise covariance of channels with shrinkage, and its inverse, in O(p²) memory.

With X the residuals (n, p) and S = X'X, the methods are those of rsatoolbox:

full            S / dof
diag            its diagonal
shrinkage_eye   Ledoit & Wolf (2004): towards the identity times the mean variance
shrinkage_diag  Schäfer & Strimmer (2005): towards the diagonal, by shrinking correlations

The spread of the products x_i x_j over rows, which sets how much to shrink, needs Σ x_i² x_j² only.
For "diag" that is the product of squared residuals, (X∘X)'(X∘X), for "eye" its sum, so that no
(n, p, p) array is ever made.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

from rsafast.errors import InvalidInputError

FloatArray = NDArray[np.float64]
NoiseMethod = Literal["shrinkage_diag", "shrinkage_eye", "diag", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePrecision:
    """Inverse noise covariance of p channels: see :func:`noise_precision`.

    Pass the object itself as ``compute_rdms(noise_precision=...)``.

    Attributes
    ----------
    precisions, covariances : (k, p, p), k = 1 or one a run.
    runs : the k runs in the order of their first appearance; None where all were pooled.
    shrinkage : (k,) weight of the target, 0 (none) to 1; 0 for "full", 1 for "diag".
    degrees_of_freedom : (k,) what the sums of squares were divided by.
    n_observations : (k,) rows behind each.
    method : as asked for.
    notes : what else should be known of it.
    """

    precisions: FloatArray
    covariances: FloatArray
    runs: tuple[Any, ...] | None
    shrinkage: FloatArray
    degrees_of_freedom: FloatArray
    n_observations: NDArray[np.int64]
    method: str
    notes: tuple[str, ...] = ()

    @property
    def precision(self) -> FloatArray:
        """The one precision (p, p); an error where there is one a run."""
        if self.runs is not None:
            raise InvalidInputError(
                f"there are {len(self.runs)} precisions, one a run; use .precisions or .by_run()"
            )
        return self.precisions[0]

    def by_run(self) -> dict[Any, FloatArray]:
        """Precision (p, p) of each run."""
        if self.runs is None:
            raise InvalidInputError("there is one precision for all runs; use .precision")
        return dict(zip(self.runs, self.precisions, strict=True))

    def summary(self) -> str:
        """Say what was estimated from how much, and how far it was shrunk."""
        p = self.precisions.shape[1]
        lines = [f"Noise precision of {p} channels, method {self.method}."]
        for k in range(len(self.precisions)):
            where = "all observations" if self.runs is None else f"run {self.runs[k]!r}"
            lines.append(
                f"{where}: {self.n_observations[k]} observations, "
                f"{self.degrees_of_freedom[k]:g} degrees of freedom, "
                f"shrinkage {self.shrinkage[k]:.3f}."
            )
        return "\n".join([*lines, *self.notes])


def noise_precision(
    data: ArrayLike,
    *,
    method: NoiseMethod = "shrinkage_diag",
    labels: Sequence[Any] | NDArray[Any] | None = None,
    runs: Sequence[Any] | NDArray[Any] | None = None,
    dof: float | None = None,
) -> NoisePrecision:
    """Inverse of the noise covariance of channels, for "mahalanobis" and "crossnobis" RDMs.

    Parameters
    ----------
    data : (n, p) array
        Residuals of a first-level model (rows: volumes), or, with `labels`, patterns measured
        repeatedly (rows: trials).
    method : {"shrinkage_diag", "shrinkage_eye", "diag", "full"}
        Schäfer & Strimmer (2005), Ledoit & Wolf (2004), variances only, no shrinkage. "full" needs
        more rows than channels.
    labels : sequence of n, optional
        Stimulus of every row: its mean is removed, whatever its number of repeats. Without, the
        mean of all rows is. For residuals of several runs, pooled, ``labels=runs`` removes the mean
        of each run.
    runs : sequence of n, optional
        Run of every row: one precision a run, each from its own rows only.
    dof : float, optional
        Degrees of freedom of the sums of squares; by default rows less means removed. Residuals of
        a model with q regressors have n - q: pass it. With `runs`, it holds for each.

    Returns
    -------
    NoisePrecision

    Raises
    ------
    InvalidInputError
        NaN or infinity, a channel without variance, `labels` that never repeat, `dof` that is not
        positive, a covariance that has no inverse.

    Notes
    -----
    Equal to rsatoolbox 0.3.2 ``prec_from_residuals`` and ``prec_from_unbalanced``, and to
    ``prec_from_measurements`` for the same `dof`; left to itself that last one takes n minus the
    number of *repeats* where n minus the number of stimuli is meant.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> found = noise_precision(rng.normal(size=(200, 3)) * [1, 2, 4], method="diag")
    >>> found.precision.round(2)
    array([[0.97, 0.  , 0.  ],
           [0.  , 0.25, 0.  ],
           [0.  , 0.  , 0.07]])
    """
    if method not in get_args(NoiseMethod):
        raise InvalidInputError(
            f"method must be one of {', '.join(get_args(NoiseMethod))}, got {method!r}"
        )
    if dof is not None and not dof > 0:
        raise InvalidInputError(f"dof must be positive, got {dof!r}")
    x = _checked(data)
    stimuli = None if labels is None else _codes(labels, "labels", len(x))[1]
    if runs is None:
        names, parts = None, [np.arange(len(x))]
    else:
        names, code = _codes(runs, "runs", len(x))
        parts = [np.flatnonzero(code == k) for k in range(len(names))]
    found = [
        _one(x[rows], None if stimuli is None else stimuli[rows], method, dof, _where(names, k))
        for k, rows in enumerate(parts)
    ]
    return NoisePrecision(
        precisions=np.stack([one[1] for one in found]),
        covariances=np.stack([one[0] for one in found]),
        runs=None if names is None else tuple(names),
        shrinkage=np.array([one[2] for one in found]),
        degrees_of_freedom=np.array([one[3] for one in found]),
        n_observations=np.array([len(rows) for rows in parts]),
        method=method,
        notes=_notes(x, stimuli, runs is not None, dof),
    )


def shrunk_covariance(residuals: FloatArray, dof: float, method: str) -> tuple[FloatArray, float]:
    """Covariance (p, p) of residuals (n, p) whose means are removed, and the weight of the target.

    Ledoit & Wolf (2004), equation 14 and the lemma before it; Schäfer & Strimmer (2005), table 2,
    target D, with the correlations standardised by the unbiased variances.
    """
    n = len(residuals)
    products = residuals.T @ residuals
    covariance = products / dof
    if method == "full":
        return covariance, 0.0
    variances = np.diagonal(covariance).copy()
    if method == "diag":
        return np.diag(variances), 1.0
    if method == "shrinkage_eye":
        return _towards_identity(residuals, products / n, n / dof)
    scaled = residuals / np.sqrt(variances)
    correlations = scaled.T @ scaled / (n - 1)
    squares = (scaled**2).T @ (scaled**2) / (n - 1)
    # Sums over the off-diagonal entries: the whole less the diagonal.
    spread = squares - correlations**2
    error = (spread.sum() - np.trace(spread)) * n / dof**2
    size = np.sum(correlations**2) - np.sum(np.diagonal(correlations) ** 2)
    weight = float(np.clip(error / size, 0.0, 1.0)) if size > 0 else 1.0
    covariance *= 1 - weight
    np.fill_diagonal(covariance, variances)
    return covariance, weight


def _towards_identity(
    residuals: FloatArray, s: FloatArray, scale: float
) -> tuple[FloatArray, float]:
    n, p = residuals.shape
    mean_variance = float(np.trace(s)) / p
    distance = float(np.sum(s**2)) - p * mean_variance**2
    error = (float(np.sum(np.sum(residuals**2, axis=1) ** 2)) / n - float(np.sum(s**2))) / n
    weight = min(error, distance) / distance if distance > 0 else 1.0
    shrunk = (1 - weight) * s
    shrunk[np.diag_indices(p)] += weight * mean_variance
    return shrunk * scale, weight


def _one(
    x: FloatArray, stimuli: NDArray[np.int64] | None, method: str, dof: float | None, where: str
) -> tuple[FloatArray, FloatArray, float, float]:
    """Covariance, precision, shrinkage and degrees of freedom of these rows."""
    groups = np.zeros(len(x), np.int64) if stimuli is None else stimuli
    code = np.unique(groups, return_inverse=True)[1]
    counts = np.bincount(code)
    free = float(len(x) - len(counts)) if dof is None else float(dof)
    if len(x) - len(counts) < 1:
        what = "one row" if stimuli is None else f"{len(x)} rows of {len(counts)} stimuli"
        raise InvalidInputError(
            f"data{where} holds {what}: no repeats to tell noise from; pass residuals, or leave "
            "runs out"
        )
    means = np.zeros((len(counts), x.shape[1]))
    np.add.at(means, code, x)
    residuals = x - (means / counts[:, None])[code]
    spread = np.einsum("np,np->p", residuals, residuals)
    flat = np.flatnonzero(spread <= 1e-24 * np.einsum("np,np->p", x, x))
    if flat.size:
        raise InvalidInputError(
            f"channel {flat[0]} of data{where} has no variance ({flat.size} such channels); leave "
            "it out"
        )
    covariance, weight = shrunk_covariance(residuals, free, method)
    return covariance, _inverse(covariance, method, where), weight, free


def _inverse(covariance: FloatArray, method: str, where: str) -> FloatArray:
    """Inverse of a covariance, refused where the covariance is singular to rounding."""
    scale = 1 / np.sqrt(np.diagonal(covariance))
    try:
        factor = cho_factor(covariance * scale * scale[:, None], lower=True)
    except np.linalg.LinAlgError:
        factor = None
    if factor is None or np.diagonal(factor[0]).min() < 1e-6:
        raise InvalidInputError(
            f"the noise covariance{where} has no inverse (method {method!r}, {len(covariance)} "
            "channels); use method='shrinkage_diag' or fewer channels"
        )
    inverse = cho_solve(factor, np.eye(len(covariance))) * scale * scale[:, None]
    return (inverse + inverse.T) / 2


def _checked(data: ArrayLike) -> FloatArray:
    x = np.asarray(data)
    if x.ndim != 2 or x.dtype.kind not in "biuf" or x.shape[1] == 0:
        raise InvalidInputError(
            f"data must be a real (n, p) array, got shape {x.shape}, dtype {x.dtype}"
        )
    x = x.astype(np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise InvalidInputError(f"data holds NaN or infinity, first in row {bad[0]}; drop the row")
    return x


def _codes(values: Any, name: str, n: int) -> tuple[list[Hashable], NDArray[np.int64]]:
    items = np.asarray(values).tolist() if isinstance(values, np.ndarray) else list(values)
    if len(items) != n:
        raise InvalidInputError(f"{name} must give one entry a row: {n} rows, {len(items)} {name}")
    place = {value: i for i, value in enumerate(dict.fromkeys(items))}
    return list(place), np.array([place[value] for value in items])


def _where(names: list[Hashable] | None, k: int) -> str:
    return "" if names is None else f" in run {names[k]!r}"


def _notes(
    x: FloatArray, stimuli: NDArray[np.int64] | None, by_run: bool, dof: float | None
) -> tuple[str, ...]:
    notes = []
    if stimuli is not None and not by_run:
        single = int((np.bincount(stimuli) == 1).sum())
        if single:
            notes.append(
                f"{single} stimuli were measured once: their rows are their own means and tell "
                "nothing of the noise."
            )
    if stimuli is None and dof is None:
        notes.append(
            "dof was left to rows less 1; residuals of a model have rows less its regressors."
        )
    return tuple(notes)
