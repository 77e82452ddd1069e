"""From features (activations, patterns) to RDMs: what the kernel of pairwise distances is fed."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, groupby
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.device import resolve
from rsafast_kernels.pairwise import (
    METRICS,
    Metric,
    check_rows,
    cholesky_factor,
    pairwise_distances,
)

from rsafast._condensed import condensed_index
from rsafast.errors import InvalidInputError
from rsafast.inference.structure.noise import NoisePrecision
from rsafast.rdms import Missing, RDMs

Features: TypeAlias = ArrayLike | Mapping[str, ArrayLike] | Sequence[ArrayLike]
Precision: TypeAlias = ArrayLike | NoisePrecision | Mapping[Any, ArrayLike]
_Layers: TypeAlias = list[tuple[str, NDArray[np.floating]]]

_MIN_STIMULI = 4


def compute_rdms(
    features: Features,
    metric: Metric = "correlation",
    *,
    labels: Sequence[Any] | NDArray[Any] | None = None,
    noise_precision: Precision | None = None,
    folds: Sequence[Any] | NDArray[Any] | None = None,
    normalize: Literal["channels"] | None = None,
    names: Sequence[str] | None = None,
    missing: Missing = "error",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> RDMs:
    """RDMs of one or several sets of features over the same stimuli.

    Parameters
    ----------
    features : (n, p) or (k, n, p) array, {name: (n, p)} mapping, or list of (n, p) arrays
        n stimuli by p channels (units, voxels, sensors); layers of a mapping or a list may differ
        in p. float32 stays float32 in the products (relative error about 1e-6, 1e-4 at worst; see
        :func:`rsafast_kernels.pairwise.pairwise_distances`), other types are read as float64. For
        "crossnobis" the rows are observations: every stimulus in every fold (or see `missing`).
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
    noise_precision : (p, p) array or NoisePrecision, optional
        Inverse of the noise covariance, symmetric positive definite
        (:func:`rsafast.noise_precision` estimates it). "mahalanobis" needs it, "crossnobis" takes
        the identity by default. For "crossnobis" also one a fold, as a mapping of fold to (p, p) or
        a NoisePrecision made with ``runs=``: folds i and j are then multiplied with the inverse of
        the mean of their covariances, ``inv((inv(P_i) + inv(P_j)) / 2)``, as in rsatoolbox.
    folds : sequence of n_obs, optional
        Fold (run, session) of every observation; "crossnobis" only. Repeats of a stimulus inside a
        fold are averaged.
    missing : {"error", "allow"}
        "allow" takes an unbalanced "crossnobis" design, in which stimuli miss some folds: the value
        of a pair is then averaged over the pairs of folds that hold both of its stimuli, and is NaN
        where there are none. The descriptors "fold_pairs_min" and "fold_pairs_max" of the RDMs say
        how many pairs of folds are behind a value, "missing_pairs" how many values are NaN.
        Differences are taken inside a fold, so that what a fold adds to all of its patterns
        cancels; it does not in rsatoolbox's ``calc_rdm_unbalanced``.
    normalize : "channels" or None
        See the table: "channels" gives rsatoolbox's values.
    names : sequence of k str, optional
        Names of the RDMs; by default the keys of a mapping.
    device : {"auto", "cpu", "cuda"}
        Where to work: "auto" is the GPU where one can be used (it needs torch and Triton), else
        the CPU. Layers of one shape go to a GPU together; memory of the host holds them twice.
        The values of the two differ by rounding: docs/methods.md states the errors.

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
        (stimulus, fold) without ``missing="allow"``; a stimulus of one fold only; a
        `noise_precision` of the wrong size, not positive definite or not of these folds; unknown
        choices. Every layer is checked before the first is worked on.
    BackendUnavailableError
        For device="cuda" where no GPU can be used.

    Examples
    --------
    >>> import numpy as np
    >>> patterns = np.array([[1.0, 2, 3], [3.0, 2, 1], [1.0, 3, 2], [2.0, 1, 3]])
    >>> compute_rdms(patterns, labels=["a", "b", "c", "d"]).vectors.round(3) + 0.0
    array([[2. , 0.5, 0.5, 1.5, 1.5, 1.5]])
    """
    _check_choices(metric, normalize, missing)
    where = resolve(device, "torch", "triton")
    layers, default_names = _layers(features)
    n_rows = _common_rows(layers)
    noise_precision = _plain(noise_precision)
    if metric == "crossnobis":
        design = _design(labels, folds, n_rows, missing)
        if not design.complete or isinstance(noise_precision, NoisePrecision | Mapping):
            return _fold_by_fold(
                layers, design, noise_precision, normalize, names, default_names, where
            )
    patterns = _patterns(layers, n_rows, metric, labels, noise_precision, folds)
    vectors = np.empty((len(layers), patterns.n * (patterns.n - 1) // 2))
    distances = partial(pairwise_distances, precision=patterns.precision, device=where)
    for first, name, x in _batches(patterns.layers, where):
        rows = vectors[first : first + len(x)]
        rows[:] = _in_layer(name, distances, x, kernel_metric(metric, normalize))
        normalise(rows, metric, normalize, x.shape[-1])
    return RDMs.from_vectors(
        vectors,
        labels=cast(Any, patterns.ids),
        names=names if names is not None else default_names,
        measure=measure_name(metric, normalize),
    )


def _batches(layers: _Layers, where: str) -> Iterator[tuple[int, str, NDArray[np.floating]]]:
    """First layer, its name and the stack of layers that are worked on together.

    A GPU is given neighbours of one shape at once: small RDMs do not fill it one by one.
    """
    if where == "cpu":
        yield from ((i, name, x[np.newaxis]) for i, (name, x) in enumerate(layers))
        return
    first = 0
    for _, same in groupby(layers, lambda layer: (layer[1].shape, layer[1].dtype)):
        names, stack = zip(*same, strict=True)
        yield first, names[0], stack[0][np.newaxis] if len(stack) == 1 else np.stack(stack)
        first += len(stack)


@dataclass(frozen=True, slots=True)
class Patterns:
    """What the kernel is given: layers of (n, p), for "crossnobis" (folds, n, p), all checked."""

    layers: _Layers
    ids: list[Hashable] | None
    n: int
    precision: ArrayLike | None


def one_layer(
    features: ArrayLike | Mapping[str, ArrayLike],
    metric: Metric,
    labels: Sequence[Any] | NDArray[Any] | None,
    noise_precision: Precision | None,
    folds: Sequence[Any] | NDArray[Any] | None,
    normalize: str | None,
) -> tuple[Patterns, str | None]:
    """Checked patterns of a single layer, as of :func:`compute_rdms`, and its name if it has one.

    Raises
    ------
    InvalidInputError
        As :func:`compute_rdms`; for several layers; and for designs and precisions that it works
        through fold by fold.
    """
    _check_choices(metric, normalize, "error")
    layers, names = _layers(features)
    if len(layers) != 1:
        raise InvalidInputError(
            f"features holds {len(layers)} layers, and a file of one RDM takes one; write one file"
            " a layer"
        )
    n_rows = _common_rows(layers)
    noise_precision = _plain(noise_precision)
    if isinstance(noise_precision, NoisePrecision | Mapping):
        raise InvalidInputError(
            "one noise_precision a fold is worked through fold by fold: use compute_rdms"
        )
    patterns = _patterns(layers, n_rows, metric, labels, noise_precision, folds)
    return patterns, None if names is None else names[0]


def kernel_metric(metric: Metric, normalize: str | None) -> Metric:
    """Metric that the kernel computes; :func:`normalise` makes of it what was asked for."""
    return "sqeuclidean" if normalize == "channels" and metric == "euclidean" else metric


def normalise(
    values: NDArray[np.floating], metric: Metric, normalize: str | None, channels: int
) -> None:
    """Bring the kernel's distances to the scale asked for, in place."""
    if normalize is None or metric in ("correlation", "cosine"):
        return
    if metric == "mahalanobis":
        values *= values
    values /= channels


def measure_name(metric: Metric, normalize: str | None) -> str:
    """What RDMs of this metric call their `measure`."""
    return metric if normalize is None else f"{metric} / channels"


def _plain(noise_precision: Precision | None) -> Precision | None:
    """The matrix of a precision that is the same in every fold."""
    if isinstance(noise_precision, NoisePrecision) and noise_precision.runs is None:
        return noise_precision.precision
    return noise_precision


def _patterns(
    layers: _Layers, n_rows: int, metric: Metric, labels: Any, noise_precision: Any, folds: Any
) -> Patterns:
    """Check everything before the first layer is worked on."""
    ids: list[Hashable] | None = None
    if metric == "crossnobis":
        design = _design(labels, folds, n_rows, "error")
        ids = design.ids
        layers = [(name, _fold_patterns(x, design.members)) for name, x in layers]
        n_rows = len(ids)
    elif folds is not None:
        raise InvalidInputError(f"folds are for metric 'crossnobis' only, got metric {metric!r}")
    elif labels is not None:
        ids = _unique_labels(labels, n_rows)
    _check_stimuli(n_rows)
    precision = _one_precision(noise_precision, metric, layers)
    for name, x in layers:
        _in_layer(name, check_rows, x, metric)
    return Patterns(layers, ids, n_rows, precision)


def _check_stimuli(n: int) -> None:
    if n < _MIN_STIMULI:
        raise InvalidInputError(f"an RDM needs at least {_MIN_STIMULI} stimuli, got {n}")


def _check_choices(metric: str, normalize: str | None, missing: str) -> None:
    if missing not in ("error", "allow"):
        raise InvalidInputError(f"missing must be 'error' or 'allow', got {missing!r}")
    if missing == "allow" and metric in METRICS and metric != "crossnobis":
        raise InvalidInputError(
            f"missing='allow' is for metric 'crossnobis' only, got metric {metric!r}"
        )
    if metric not in METRICS:
        raise InvalidInputError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")
    if normalize not in (None, "channels"):
        raise InvalidInputError(f"normalize is {normalize!r}; choose 'channels' or None")


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


@dataclass(frozen=True, slots=True)
class _Design:
    """Which rows hold which stimulus in which fold: `members[fold][stimulus]` lists them."""

    ids: list[Hashable]
    folds: list[Hashable]
    members: list[list[list[int]]]

    @property
    def complete(self) -> bool:
        return all(rows for fold in self.members for rows in fold)


def _design(labels: Any, folds: Any, n_rows: int, missing: Missing) -> _Design:
    """Stimuli and folds by first appearance, and the rows of every (fold, stimulus)."""
    if labels is None or folds is None:
        lacking = "labels" if labels is None else "folds"
        raise InvalidInputError(f"metric 'crossnobis' needs {lacking}, one entry a row of features")
    of_row, fold_of_row = _as_list(labels, "labels", n_rows), _as_list(folds, "folds", n_rows)
    ids, fold_ids = list(dict.fromkeys(of_row)), list(dict.fromkeys(fold_of_row))
    if len(fold_ids) < 2:
        raise InvalidInputError(f"metric 'crossnobis' needs at least 2 folds, got {len(fold_ids)}")
    rows: dict[tuple[Hashable, Hashable], list[int]] = {}
    for row, key in enumerate(zip(fold_of_row, of_row, strict=True)):
        rows.setdefault(key, []).append(row)
    for fold in fold_ids:
        for stimulus in ids:
            if missing == "error" and (fold, stimulus) not in rows:
                raise InvalidInputError(
                    f"stimulus {stimulus!r} is missing from fold {fold!r}; 'crossnobis' needs "
                    "every stimulus in every fold: drop the stimulus or the fold, or pass "
                    "missing='allow' to average over the folds that there are"
                )
    for stimulus in ids:
        if sum((fold, stimulus) in rows for fold in fold_ids) < 2:
            raise InvalidInputError(
                f"stimulus {stimulus!r} was measured in one fold only, so none of its distances "
                "can be crossvalidated; drop it"
            )
    return _Design(ids, fold_ids, [[rows.get((fold, s), []) for s in ids] for fold in fold_ids])


def _fold_by_fold(
    layers: _Layers,
    design: _Design,
    precision: Precision | None,
    normalize: str | None,
    names: Sequence[str] | None,
    default_names: list[str] | None,
    where: Literal["cpu", "cuda"],
) -> RDMs:
    """Crossnobis RDMs as means over pairs of folds, each of the stimuli that both folds hold."""
    _check_stimuli(len(design.ids))
    whitening = {x.shape[1]: _fold_precisions(precision, design, x.shape[1]) for _, x in layers}
    for name, x in layers:
        _in_layer(name, check_rows, x, "sqeuclidean")
    of_layer = partial(_over_fold_pairs, design=design, where=where)
    vectors = np.stack([_in_layer(name, of_layer, x, whitening[x.shape[1]]) for name, x in layers])
    if normalize is not None:
        vectors /= np.array([x.shape[1] for _, x in layers])[:, None]
    counts = _fold_pair_counts(design)
    described = {
        "fold_pairs_min": int(counts.min()),
        "fold_pairs_max": int(counts.max()),
        "missing_pairs": int((counts == 0).sum()),
    }
    complete = design.complete
    return RDMs.from_vectors(
        vectors,
        labels=cast(Any, design.ids),
        names=names if names is not None else default_names,
        measure="crossnobis" if normalize is None else f"crossnobis / {normalize}",
        descriptors={} if complete else {k: [v] * len(layers) for k, v in described.items()},
        missing="error" if complete else "allow",
    )


def _fold_pair_counts(design: _Design) -> NDArray[np.int64]:
    """(pairs,) in how many pairs of folds both stimuli of a pair were measured."""
    present = np.array([[bool(rows) for rows in fold] for fold in design.members], float)
    both = np.rint(present.T @ present).astype(np.int64)[np.triu_indices(len(design.ids), 1)]
    return both * (both - 1) // 2


def _over_fold_pairs(
    x: NDArray[np.floating],
    precisions: list[NDArray[np.float64]],
    design: _Design,
    where: Literal["cpu", "cuda"],
) -> NDArray[np.float64]:
    """Mean over pairs of folds of the products of differences, (pairs,); NaN where there is none.

    `precisions` holds nothing (identity), one for all folds or one a fold.
    """
    n = len(design.ids)
    total, counts = np.zeros(n * (n - 1) // 2), _fold_pair_counts(design)
    if len(precisions) == 1:
        x = x.astype(np.float64) @ cholesky_factor(precisions[0], x.shape[1], "noise_precision")
    covariances = [np.linalg.inv(p) for p in precisions] if len(precisions) > 1 else []
    for i, j in combinations(range(len(design.folds)), 2):
        held = [s for s in range(n) if design.members[i][s] and design.members[j][s]]
        if len(held) < 2:
            continue
        members = [[design.members[fold][s] for s in held] for fold in (i, j)]
        between = np.linalg.inv((covariances[i] + covariances[j]) / 2) if covariances else None
        values = pairwise_distances(
            _fold_patterns(x, members), "crossnobis",
            precision=None if between is None else (between + between.T) / 2, device=where,
        )  # fmt: skip
        first, second = np.array(held)[np.array(np.triu_indices(len(held), 1))]
        total[condensed_index(first, second, n)] += values
    return np.divide(total, counts, out=np.full(len(total), np.nan), where=counts > 0)


def _fold_precisions(
    precision: Precision | None, design: _Design, p: int
) -> list[NDArray[np.float64]]:
    """Precisions of the folds in their order, one for all, or none; checked."""
    if precision is None:
        return []
    if not isinstance(precision, NoisePrecision | Mapping):
        cholesky_factor(precision, p, "noise_precision")
        return [np.asarray(precision, np.float64)]
    of_fold = precision.by_run() if isinstance(precision, NoisePrecision) else precision
    absent = [fold for fold in design.folds if fold not in of_fold]
    if absent:
        raise InvalidInputError(
            f"noise_precision lacks fold {absent[0]!r}; it has {', '.join(map(repr, of_fold))}"
        )
    for fold in design.folds:
        cholesky_factor(of_fold[fold], p, f"noise_precision of fold {fold!r}")
    return [np.asarray(of_fold[fold], np.float64) for fold in design.folds]


def _fold_patterns(x: NDArray[np.floating], members: list[list[list[int]]]) -> NDArray[np.floating]:
    """(folds, stimuli, p) mean patterns."""
    if all(len(rows) == 1 for fold in members for rows in fold):
        return x[np.array([[rows[0] for rows in fold] for fold in members])]
    means = [[x[rows].mean(axis=0, dtype=np.float64) for rows in fold] for fold in members]
    return np.array(means, dtype=x.dtype)


def _one_precision(
    noise_precision: Precision | None, metric: str, layers: _Layers
) -> ArrayLike | None:
    """Check the one precision of all rows, and return it."""
    if noise_precision is None:
        if metric == "mahalanobis":
            raise InvalidInputError(
                "metric 'mahalanobis' needs noise_precision, the inverse of the noise covariance; "
                "without one use 'euclidean'"
            )
        return None
    if metric not in ("mahalanobis", "crossnobis"):
        raise InvalidInputError(
            f"noise_precision is of no use to metric {metric!r}; use 'mahalanobis' or 'crossnobis'"
        )
    if isinstance(noise_precision, NoisePrecision | Mapping):
        raise InvalidInputError(
            "a noise_precision of each fold is for metric 'crossnobis'; 'mahalanobis' takes one "
            "(p, p): noise_precision(...) without runs="
        )
    for p in {x.shape[-1] for _, x in layers}:
        cholesky_factor(noise_precision, p, "noise_precision")
    return noise_precision


def _in_layer(name: str, function: Any, *arguments: Any) -> Any:
    """Call it; its errors say `x`, the caller's say which layer."""
    try:
        return function(*arguments)
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}") from None
