"""Models with something to fit: selections, weighted sums and interpolations of RDMs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast.comparators import FloatArray, get_comparator, require_plain
from rsafast.comparison import noise_covariance
from rsafast.errors import InvalidInputError
from rsafast.inference.models.fitting import (
    Criterion,
    StimulusProducts,
    best_segment,
    best_single,
    best_weights,
    criterion_of,
)
from rsafast.mask import as_pair_mask, check_complete
from rsafast.rdms import RDMs, Selection, align, as_rdms, stimulus_positions


class Model:
    """RDMs and a rule to make one prediction of them; see the classes below.

    Parameters
    ----------
    rdms : RDMs, array or rsatoolbox RDMs
        The K components, over the same stimuli, without missing pairs.
    name : str, optional
    """

    __slots__ = ("_name", "_rdms")

    _least, _default_name = 1, "model"

    def __init__(self, rdms: Any, name: str | None = None) -> None:
        self._rdms = as_rdms(rdms, "rdms")
        if self._rdms.has_missing:
            raise InvalidInputError(
                "rdms: the components of a model must be complete; give every pair a value"
            )
        if self._rdms.n_rdms < self._least:
            raise InvalidInputError(
                f"{type(self).__name__} needs at least {self._least} RDMs, got 1; use FixedModel"
            )
        if name is not None and not isinstance(name, str):
            raise InvalidInputError(f"name must be a str, got {name!r}")
        self._name = self._default_name if name is None else name

    @property
    def name(self) -> str:
        """Name of the model in results."""
        return self._name

    @property
    def rdms(self) -> RDMs:
        """The K components."""
        return self._rdms

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r}, {self._rdms!r})"

    def fit(
        self,
        brain: Any,
        method: str = "pearson",
        *,
        stimuli: Selection | None = None,
        mask: ArrayLike | None = None,
        sigma_k: ArrayLike | None = None,
    ) -> FloatArray:
        """Weights of the components that maximise the mean similarity to the brain RDMs.

        For pearson, cosine, corr_cov and cosine_cov this is the exact maximum (in closed form, or
        by non-negative least squares on the inner products of the components), with subjects
        normalised before they are pooled. For spearman, rho-a, kendall and tau-a the ranks of a
        weighted sum are no linear function of the weights: there the Pearson correlation with the
        mean of the subjects' ranks is maximised, except by `SelectModel`, whose choice is exact for
        every method.

        Similarity on the data that a model was fitted to favours the model with more to fit:
        score by `cross_validate`.

        Parameters
        ----------
        brain : RDMs, array or rsatoolbox RDMs
            Training subjects, one RDM each, all of one region.
        method : comparator, see `compare`
            "pearson" by default, since ranks are not what a weighted sum predicts.
        stimuli : labels, positions or n booleans, optional
            Training stimuli, in terms of the model's; at least 4.
        mask : (pairs,) or (n, n) bool, optional
            True where a pair counts, in the stimulus order of the model.
        sigma_k : (n,) or (n, n), optional
            Noise of the conditions, see `compare`.

        Returns
        -------
        (K,) float64, as `predict` takes it.

        Raises
        ------
        InvalidInputError
            What `compare` refuses, components without any spread on the training stimuli, too few
            stimuli.
        """
        comparator = get_comparator(method)
        a, b = align(self._rdms, as_rdms(brain, "brain"))
        keep = as_pair_mask(mask, a, b)
        if comparator.whitened and not keep.all():
            require_plain(comparator, "a mask")
        check_complete(b, keep, "brain")
        noise = noise_covariance(comparator, sigma_k, a.n_stimuli)
        products = StimulusProducts(comparator, a, b, keep, noise)
        counts = _chosen(a, stimuli)
        sums = next(iter(products.each(counts[None])))
        flat = np.isnan(sums.targets).any(axis=0)
        if flat.any():
            name = b.names[int(np.flatnonzero(flat)[0])]
            raise InvalidInputError(
                f"brain: RDM {name!r} has no spread on the training stimuli, so that"
                f" {comparator.name} is undefined; leave it out"
            )
        theta = self.maximise(criterion_of(sums, np.ones(b.n_rdms)))
        if np.isnan(theta).any():
            raise InvalidInputError(
                f"{self._name}: no component has any spread on the training stimuli; choose"
                " other stimuli"
            )
        return theta

    def maximise(self, criterion: Criterion) -> FloatArray:
        """Weights (K,) that maximise the criterion; NaN where nothing can be fitted."""
        raise NotImplementedError

    def predict(self, theta: ArrayLike) -> RDMs:
        """The RDM that the weights `theta` (K,) predict, as one RDM with the model's name.

        Raises
        ------
        InvalidInputError
            `theta` is not K finite numbers.
        """
        weights = np.asarray(theta)
        k = self._rdms.n_rdms
        real = weights.dtype.kind in "iuf"
        if weights.shape != (k,) or not real or not np.isfinite(weights).all():
            raise InvalidInputError(
                f"theta must hold {k} finite weights, one a component, got {theta!r}"
            )
        return RDMs.from_vectors(
            weights[None] @ self._rdms.vectors, self._rdms.labels, [self._name], self._rdms.measure
        )


class FixedModel(Model):
    """One RDM with nothing to fit; passes through every cross-validation unchanged.

    Examples
    --------
    >>> import rsafast as rf
    >>> model = rf.FixedModel([1.0, 2, 3, 4, 5, 6], name="ordered")
    >>> model.fit([1.0, 2, 3, 4, 6, 5])
    array([1.])
    """

    __slots__ = ()

    def __init__(self, rdms: Any, name: str | None = None) -> None:
        super().__init__(rdms, name)
        if self._rdms.n_rdms != 1:
            raise InvalidInputError(
                f"FixedModel holds one RDM, got {self._rdms.n_rdms}; pass rdms.mean(), or one"
                " FixedModel an RDM"
            )
        if name is None:
            self._name = self._rdms.names[0]

    def maximise(self, criterion: Criterion) -> FloatArray:
        """Weight 1."""
        return np.ones(1)


class SelectModel(Model):
    """The best single one of several RDMs: a layer, a checkpoint, a parameter of a model.

    Its weights are a 1 for the chosen RDM (the first of equals) and 0 for the others.

    Examples
    --------
    >>> import rsafast as rf
    >>> layers = rf.RDMs.from_vectors([[6.0, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]])
    >>> rf.SelectModel(layers).fit([1.0, 2, 3, 4, 6, 5])
    array([0., 1.])
    """

    __slots__ = ()
    _least, _default_name = 2, "select"

    def maximise(self, criterion: Criterion) -> FloatArray:
        """The component of the highest mean similarity."""
        return best_single(criterion.single)


class WeightedModel(Model):
    """A weighted sum of RDMs (feature-reweighted RSA), with weights of unit norm.

    Parameters
    ----------
    rdms : the K components
    name : str, optional
    nonnegative : bool
        Weights of at least 0 (default): a sum of squared distances in scaled features. Without,
        any sign is allowed, and what is predicted need not be a distance.

    Examples
    --------
    >>> import rsafast as rf
    >>> parts = rf.RDMs.from_vectors([[1.0, 0, 0, 1, 0, 1], [0.0, 1, 1, 0, 1, 0]])
    >>> rf.WeightedModel(parts).fit([3.0, 4, 4, 3, 4, 3], method="cosine").round(3)
    array([0.6, 0.8])
    """

    __slots__ = ("_nonnegative",)
    _least, _default_name = 2, "weighted"

    def __init__(self, rdms: Any, name: str | None = None, *, nonnegative: bool = True) -> None:
        super().__init__(rdms, name)
        self._nonnegative = bool(nonnegative)

    @property
    def nonnegative(self) -> bool:
        """Whether weights below 0 are ruled out."""
        return self._nonnegative

    def maximise(self, criterion: Criterion) -> FloatArray:
        """(Non-negative) least squares on the inner products."""
        return best_weights(criterion, self._nonnegative)


class InterpolatedModel(Model):
    """A point between two consecutive RDMs: between layers, checkpoints, values of a parameter.

    Its weights are at least 0, sum to 1, and only two neighbours have any.

    Examples
    --------
    >>> import rsafast as rf
    >>> layers = rf.RDMs.from_vectors([[1.0, 0, 0, 1, 0, 1], [0.0, 1, 1, 0, 1, 0]])
    >>> rf.InterpolatedModel(layers).fit([1.0, 3, 3, 1, 3, 1], method="cosine")
    array([0.25, 0.75])
    """

    __slots__ = ()
    _least, _default_name = 2, "interpolated"

    def maximise(self, criterion: Criterion) -> FloatArray:
        """The best point of every segment in closed form, and the best of them."""
        return best_segment(criterion)


def _chosen(rdms: RDMs, stimuli: Selection | None) -> NDArray[np.int64]:
    """Counts (n,), 1 for every stimulus chosen."""
    if stimuli is None:
        return np.ones(rdms.n_stimuli, np.int64)
    counts = np.zeros(rdms.n_stimuli, np.int64)
    counts[stimulus_positions(rdms, stimuli)] = 1
    return counts
