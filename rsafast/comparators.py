"""Comparators: how two RDMs are compared, written as a product of prepared vectors.

Every comparator but Kendall's tau is ⟨a', b'⟩ of vectors prepared one RDM at a time, and each
preparation commutes with relabelling the stimuli. So a permutation test prepares once and permutes
the result (design of the engine: `rsafast_kernels.orbit`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.rank import average_ranks
from scipy.linalg import helmert

from rsafast.errors import InvalidInputError, UnsupportedCaseError

FloatArray = NDArray[np.float64]

# Smallest over largest variance of a contrast, below which sigma_k counts as singular.
_SINGULAR = 1e-12


@dataclass(frozen=True, slots=True)
class Comparator:
    """A comparator as the steps that prepare a vector of dissimilarities.

    Attributes
    ----------
    ranks : replace values by average ranks.
    centred : subtract the mean.
    whitened : divide by the covariance of dissimilarity estimates (Diedrichsen et al. 2021).
    normalised : scale to unit norm; if False, the product is scaled as rho-a asks instead.
    concordance : Kendall's tau, which counts pairs of pairs and is no product of vectors.
    """

    name: str
    ranks: bool = False
    centred: bool = False
    whitened: bool = False
    normalised: bool = True
    concordance: bool = False


COMPARATORS: dict[str, Comparator] = {
    c.name: c
    for c in (
        Comparator("pearson", centred=True),
        Comparator("spearman", ranks=True, centred=True),
        Comparator("rho-a", ranks=True, centred=True, normalised=False),
        Comparator("cosine"),
        Comparator("corr_cov", centred=True, whitened=True),
        Comparator("cosine_cov", whitened=True),
        Comparator("kendall", concordance=True),
        Comparator("tau-a", concordance=True, normalised=False),
    )
}
_ALIASES = {"corr": "pearson", "tau-b": "kendall"}


def get_comparator(method: str) -> Comparator:
    """Comparator of that name; rsatoolbox's "corr" and "tau-b" are understood too."""
    name = _ALIASES.get(method, method) if isinstance(method, str) else None
    if name not in COMPARATORS:
        raise InvalidInputError(f"method must be one of {', '.join(COMPARATORS)}, got {method!r}")
    return COMPARATORS[name]


def prepare(
    comparator: Comparator,
    vectors: FloatArray,
    n: int,
    names: tuple[str, ...],
    whitener: FloatArray | None = None,
) -> FloatArray:
    """Vectors whose products are the comparator's values.

    Parameters
    ----------
    vectors : (k, pairs) dissimilarities in squareform order, finite.
    n : number of stimuli; used by the whitened comparators only.
    names : of the k RDMs, for error messages.
    whitener : (n - 1, n) from `whitener_of`, where the conditions' noise is not equal.

    Raises
    ------
    InvalidInputError
        An RDM without the variance (or, for cosines, the length) that the comparator divides by.
    """
    if comparator.ranks:
        prepared = average_ranks(vectors)
    else:
        # By the largest value first: squares of 1e160 or 1e-170 have no float64.
        largest = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))[:, None]
        prepared = vectors / np.where(largest > 0, largest, 1.0)
    length = _norms(prepared)
    if comparator.centred:
        prepared -= prepared.mean(axis=1, keepdims=True)
    if comparator.whitened:
        prepared = whiten(prepared, n) if whitener is None else whiten_with(prepared, whitener)
    norms = _norms(prepared)
    flat = norms <= 1e-12 * length
    if flat.any():
        index = int(np.flatnonzero(flat)[0])
        what = "all its dissimilarities are equal" if comparator.centred else "it is all zero"
        raise InvalidInputError(
            f"{comparator.name} is undefined for RDM {names[index]!r}: {what}; leave it out"
        )
    if comparator.normalised:
        prepared /= norms[:, None]
    else:
        pairs = vectors.shape[1]
        prepared *= np.sqrt(12.0 / (float(pairs) ** 3 - pairs))
    return prepared


def _norms(vectors: FloatArray) -> FloatArray:
    return np.sqrt(np.einsum("kp,kp->k", vectors, vectors))


def whiten(vectors: FloatArray, n: int) -> FloatArray:
    """Multiply by V^(-1/2), V the covariance of squared distances of n patterns in white noise.

    V is 4 on the diagonal and 1 where two pairs share a stimulus (Diedrichsen et al. 2021, with
    equal noise for all conditions), so its eigenspaces are those of the triangular graph: the
    constant (2n), sums of one value a stimulus (n), and the rest (2).
    """
    x, y = np.triu_indices(n, 1)
    mean = vectors.mean(axis=1, keepdims=True)
    sums = np.zeros((len(vectors), n))
    for row, vector in zip(sums, vectors - mean, strict=True):
        row += np.bincount(x, vector, n) + np.bincount(y, vector, n)
    effects = sums / (n - 2)
    additive = effects[:, x] + effects[:, y]
    rest = vectors - mean - additive
    return mean / np.sqrt(2 * n) + additive / np.sqrt(n) + rest / np.sqrt(2)


def whiten_with(vectors: FloatArray, whitener: FloatArray) -> FloatArray:
    """Multiply by V^(-1/2) for the noise covariance that `whitener` (n - 1, n) was made of.

    V = (C Σ Cᵀ)∘² acts on pairs as f ↦ diag of C Σ (Σ_p f_p c_p c_pᵀ) Σ Cᵀ, so its inverse is the
    smallest second moment, in the metric of Σ, that has these dissimilarities: with F the matrix
    of f and W the whitener, fᵀ V⁻¹ g = ¼ tr(W F Wᵀ W G Wᵀ). Returned are the n(n-1)/2 entries of
    ½ W F Wᵀ on and above the diagonal, those above it times √2.
    """
    n = whitener.shape[1]
    x, y = np.triu_indices(n, 1)
    rows, columns = np.triu_indices(n - 1)
    scale = np.where(rows == columns, 0.5, np.sqrt(0.5))
    square = np.zeros((n, n))
    out = np.empty_like(vectors)
    for row, vector in zip(out, vectors, strict=True):
        square[x, y] = square[y, x] = vector
        row[:] = (whitener @ square @ whitener.T)[rows, columns] * scale
    return out


def as_noise_covariance(sigma_k: ArrayLike, n: int) -> FloatArray:
    """Return `sigma_k`, variances (n,) or covariance (n, n), as a covariance (n, n)."""
    array = np.asarray(sigma_k)
    if array.dtype.kind not in "iuf" or array.shape not in ((n,), (n, n)):
        raise InvalidInputError(
            f"sigma_k must hold real numbers, ({n},) variances or a ({n}, {n}) covariance for {n}"
            f" stimuli, got {array.dtype} of shape {array.shape}"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise InvalidInputError("sigma_k holds NaN or infinity; give every condition a variance")
    if array.ndim == 1:
        if (array <= 0).any():
            index = int(np.flatnonzero(array <= 0)[0])
            raise InvalidInputError(
                f"sigma_k: the variance of stimulus {index} is {array[index]:g}; variances must be"
                " above 0"
            )
        return np.diag(array)
    if np.abs(array - array.T).max() > 1e-8 * np.abs(array).max():
        raise InvalidInputError("sigma_k is not symmetric; pass a covariance matrix")
    return (array + array.T) / 2


def whitener_of(covariance: FloatArray) -> FloatArray:
    """Whitener W (n - 1, n) of contrasts between conditions whose estimates have this covariance.

    W Σ Wᵀ = I and W 1 = 0; Σ counts up to a factor, and what all conditions share does not count.

    Raises
    ------
    InvalidInputError
        Where a contrast of conditions has no variance, or a negative one.
    """
    contrasts = helmert(len(covariance))
    values, vectors = np.linalg.eigh(contrasts @ covariance @ contrasts.T)
    if values[0] <= _SINGULAR * values[-1]:
        raise InvalidInputError(
            "sigma_k must be positive definite on the differences between conditions, got variances"
            f" of contrasts from {values[0]:.3g} to {values[-1]:.3g}; shrink it towards its"
            " diagonal (fewer observations than conditions give a singular estimate)"
        )
    # The factor is free; without it whitened RDMs could leave the range of float64.
    return (vectors / np.sqrt(values / values.mean())).T @ contrasts


def require_plain(comparator: Comparator, what: str) -> None:
    """Refuse what is not defined for this comparator (`what` names the request)."""
    if comparator.whitened or not comparator.normalised:
        raise UnsupportedCaseError(
            f"{what} is not defined for method {comparator.name!r}; use pearson, spearman, cosine"
            " or kendall"
        )
