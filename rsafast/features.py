"""From features (activations, patterns) to RDMs: what the kernel of pairwise distances is fed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.pairwise import (
    METRICS,
    Metric,
    check_rows,
    cholesky_factor,
    pairwise_distances,
)

from rsafast.errors import BackendUnavailableError, InvalidInputError
from rsafast.rdms import RDMs

Features: TypeAlias = ArrayLike | Mapping[str, ArrayLike] | Sequence[ArrayLike]
_Layers: TypeAlias = list[tuple[str, NDArray[np.floating]]]

_MIN_STIMULI = 4


def compute_rdms(
    features: Features,
    metric: Metric = "correlation",
    *,
    labels: Sequence[Any] | NDArray[Any] | None = None,
    noise_precision: ArrayLike | None = None,
    folds: Sequence[Any] | NDArray[Any] | None = None,
    normalize: Literal["channels"] | None = None,
    names: Sequence[str] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> RDMs:
    """RDMs of one or several sets of features over the same stimuli.

    Parameters
    ----------
    features : (n, p) or (k, n, p) array, {name: (n, p)} mapping, or list of (n, p) arrays
        n stimuli by p channels (units, voxels, sensors); layers of a mapping or a list may differ
        in p. float32 stays float32 in the products (relative error about 1e-6, 1e-4 at worst; see
        :func:`rsafast_kernels.pairwise.pairwise_distances`), other types are read as float64. For
        "crossnobis" the rows are observations: every stimulus in every fold.
    metric : str
        correlation, cosine, euclidean, sqeuclidean, cityblock, mahalanobis, crossnobis or poisson.
        The values, with d = a - b and P = `noise_precision`:

        ===========  ================================  ==============================
        metric       default (scipy's scale)           normalize="channels"
        ===========  ================================  ==============================
        correlation  1 - r                             the same
        cosine       1 - a·b / (norm(a) norm(b))       the same
        euclidean    sqrt(Σ d²)                        Σ d² / p (squared, as in rsatoolbox)
        sqeuclidean  Σ d²                              Σ d² / p
        cityblock    Σ abs(d)                          Σ abs(d) / p
        mahalanobis  sqrt(d' P d)                      d' P d / p (squared, as in rsatoolbox)
        crossnobis   mean over folds of d_m' P d_-m    the same / p
        poisson      Σ (λ_a - λ_b)(log λ_a - log λ_b)  the same / p
        ===========  ================================  ==============================

        d_m is the difference in fold m, d_-m the mean difference of the other folds (Walther et
        al. 2016). Poisson rates are λ = (x + 0.1) / 1.1 (prior rate 1, weight 0.1, as in
        rsatoolbox).
    labels : sequence of n, optional
        Stimulus ids, unique; for "crossnobis" one an observation, repeated across folds, and the
        RDMs list the stimuli in the order of their first appearance.
    noise_precision : (p, p) array, optional
        Inverse of the noise covariance, symmetric positive definite. "mahalanobis" needs it,
        "crossnobis" takes the identity by default.
    folds : sequence of n_obs, optional
        Fold (run, session) of every observation; "crossnobis" only. Repeats of a stimulus inside a
        fold are averaged.
    normalize : "channels" or None
        See the table: "channels" gives rsatoolbox's values.
    names : sequence of k str, optional
        Names of the RDMs; by default the keys of a mapping.
    device : {"auto", "cpu", "cuda"}
        This version ships no CUDA kernel of this operation: "auto" is the CPU, "cuda" raises.

    Returns
    -------
    RDMs
        k RDMs, `measure` being the metric (with " / channels" when normalised).

    Raises
    ------
    InvalidInputError
        For NaN or infinite values, a constant row ("correlation"), a zero row ("cosine") or a
        negative value ("poisson"), with the row and the layer; fewer than 4 stimuli; layers of
        different n; labels that repeat (average them first) or do not number n; a missing
        (stimulus, fold); a `noise_precision` of the wrong size or not positive definite; unknown
        choices. Every layer is checked before the first is worked on.
    BackendUnavailableError
        For device="cuda".

    Examples
    --------
    >>> import numpy as np
    >>> patterns = np.array([[1.0, 2, 3], [3.0, 2, 1], [1.0, 3, 2], [2.0, 1, 3]])
    >>> compute_rdms(patterns, labels=["a", "b", "c", "d"]).vectors.round(3) + 0.0
    array([[2. , 0.5, 0.5, 1.5, 1.5, 1.5]])
    """
    _check_choices(metric, normalize, device)
    layers, default_names = _layers(features)
    n_rows = _common_rows(layers)
    ids: list[Any] | None = None
    if metric == "crossnobis":
        ids, members = _design(labels, folds, n_rows)
        layers = [(name, _fold_patterns(x, members)) for name, x in layers]
        n_rows = len(ids)
    elif folds is not None:
        raise InvalidInputError(f"folds are for metric 'crossnobis' only, got metric {metric!r}")
    elif labels is not None:
        ids = _unique_labels(labels, n_rows)
    if n_rows < _MIN_STIMULI:
        raise InvalidInputError(f"an RDM needs at least {_MIN_STIMULI} stimuli, got {n_rows}")
    _check_precision(noise_precision, metric, layers)
    for name, x in layers:
        _in_layer(name, check_rows, x, metric)

    vectors = np.empty((len(layers), n_rows * (n_rows - 1) // 2))
    for row, (name, x) in zip(vectors, layers, strict=True):
        row[:] = _in_layer(name, _distances, x, metric, noise_precision, normalize)
    return RDMs.from_vectors(
        vectors,
        labels=ids,
        names=names if names is not None else default_names,
        measure=metric if normalize is None else f"{metric} / channels",
    )


def _check_choices(metric: str, normalize: str | None, device: str) -> None:
    if metric not in METRICS:
        raise InvalidInputError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")
    if normalize not in (None, "channels"):
        raise InvalidInputError(f"normalize is {normalize!r}; choose 'channels' or None")
    if device == "cuda":
        raise BackendUnavailableError(
            "compute_rdms has no CUDA kernel in this version; use device='cpu' or 'auto'"
        )
    if device not in ("auto", "cpu"):
        raise InvalidInputError(f"device is {device!r}; choose one of auto, cpu, cuda")


def _layers(features: Features) -> tuple[_Layers, list[str] | None]:
    """(what errors call it, (n, p) array) of every layer; the names, if the caller gave any."""
    if isinstance(features, Mapping):
        keys = list(features)
        wrong = next((key for key in keys if not isinstance(key, str)), None)
        if wrong is not None:
            raise InvalidInputError(f"features must have str names, got the key {wrong!r}")
        pairs = [(f"layer {key!r}", _matrix(features[key], f"layer {key!r}")) for key in keys]
        if not pairs:
            raise InvalidInputError("features is an empty mapping; give at least one layer")
        return pairs, keys
    if isinstance(features, (list, tuple)) and features and np.ndim(features[0]) == 2:
        named = [(f"features[{i}]", layer) for i, layer in enumerate(features)]
        return [(name, _matrix(layer, name)) for name, layer in named], None
    array = _real(features, "features")
    if array.ndim == 2:
        return [("features", array)], None
    if array.ndim != 3 or len(array) == 0:
        raise InvalidInputError(
            f"features must be (n, p), (k, n, p), a mapping or a list, got shape {array.shape}"
        )
    return [(f"features[{i}]", layer) for i, layer in enumerate(array)], None


def _real(values: Any, name: str) -> NDArray[np.floating]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidInputError(f"{name} is not a rectangular array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _matrix(values: Any, name: str) -> NDArray[np.floating]:
    array = _real(values, name)
    if array.ndim != 2:
        raise InvalidInputError(
            f"{name} must be (n, p), got shape {array.shape}; flatten it with x.reshape(len(x), -1)"
        )
    return array


def _common_rows(layers: _Layers) -> int:
    first_name, first = layers[0]
    for name, x in layers:
        if len(x) != len(first):
            raise InvalidInputError(
                f"{name} has {len(x)} rows and {first_name} has {len(first)}; "
                "all layers must list the same stimuli"
            )
        if x.shape[1] == 0:
            raise InvalidInputError(f"{name} has no channels: shape {x.shape}")
    return len(first)


def _as_list(values: Any, name: str, n: int) -> list[Hashable]:
    items = np.asarray(values).tolist() if isinstance(values, np.ndarray) else list(values)
    if len(items) != n:
        raise InvalidInputError(f"{name} must give one entry a row: {n} rows, {len(items)} {name}")
    return items


def _unique_labels(labels: Any, n: int) -> list[Hashable]:
    ids = _as_list(labels, "labels", n)
    seen: set[Hashable] = set()
    for label in ids:
        if label in seen:
            raise InvalidInputError(
                f"label {label!r} repeats; average the rows of a stimulus first, "
                "or use metric='crossnobis' with folds"
            )
        seen.add(label)
    return ids


def _design(labels: Any, folds: Any, n_rows: int) -> tuple[list[Hashable], list[list[list[int]]]]:
    """Stimulus ids by first appearance, and the rows of every (fold, stimulus)."""
    if labels is None or folds is None:
        missing = "labels" if labels is None else "folds"
        raise InvalidInputError(f"metric 'crossnobis' needs {missing}, one entry a row of features")
    of_row, fold_of_row = _as_list(labels, "labels", n_rows), _as_list(folds, "folds", n_rows)
    ids, fold_ids = list(dict.fromkeys(of_row)), list(dict.fromkeys(fold_of_row))
    if len(fold_ids) < 2:
        raise InvalidInputError(f"metric 'crossnobis' needs at least 2 folds, got {len(fold_ids)}")
    rows: dict[tuple[Hashable, Hashable], list[int]] = {}
    for row, key in enumerate(zip(fold_of_row, of_row, strict=True)):
        rows.setdefault(key, []).append(row)
    for fold in fold_ids:
        for stimulus in ids:
            if (fold, stimulus) not in rows:
                raise InvalidInputError(
                    f"stimulus {stimulus!r} is missing from fold {fold!r}; 'crossnobis' needs "
                    "every stimulus in every fold: drop the stimulus or the fold"
                )
    return ids, [[rows[fold, stimulus] for stimulus in ids] for fold in fold_ids]


def _fold_patterns(x: NDArray[np.floating], members: list[list[list[int]]]) -> NDArray[np.floating]:
    """(folds, stimuli, p) mean patterns."""
    if all(len(rows) == 1 for fold in members for rows in fold):
        return x[np.array([[rows[0] for rows in fold] for fold in members])]
    means = [[x[rows].mean(axis=0, dtype=np.float64) for rows in fold] for fold in members]
    return np.array(means, dtype=x.dtype)


def _check_precision(noise_precision: ArrayLike | None, metric: str, layers: _Layers) -> None:
    if noise_precision is None:
        if metric == "mahalanobis":
            raise InvalidInputError(
                "metric 'mahalanobis' needs noise_precision, the inverse of the noise covariance; "
                "without one use 'euclidean'"
            )
        return
    if metric not in ("mahalanobis", "crossnobis"):
        raise InvalidInputError(
            f"noise_precision is of no use to metric {metric!r}; use 'mahalanobis' or 'crossnobis'"
        )
    for p in {x.shape[-1] for _, x in layers}:
        cholesky_factor(noise_precision, p, "noise_precision")


def _in_layer(name: str, function: Any, *arguments: Any) -> Any:
    """Call it; its errors say `x`, the caller's say which layer."""
    try:
        return function(*arguments)
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}") from None


def _distances(
    x: NDArray[np.floating],
    metric: Metric,
    noise_precision: ArrayLike | None,
    normalize: str | None,
) -> NDArray[np.float64]:
    squared = normalize == "channels"
    kernel_metric = cast(Metric, "sqeuclidean") if squared and metric == "euclidean" else metric
    values = pairwise_distances(x, kernel_metric, precision=noise_precision).astype(np.float64)
    if not squared or metric in ("correlation", "cosine"):
        return values
    if metric == "mahalanobis":
        values *= values
    values /= x.shape[-1]
    return values
