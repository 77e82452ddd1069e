"""Compare RDMs with RDMs."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.kendall import concordance_of_vectors, tied_pairs

from rsafast.comparators import (
    Comparator,
    FloatArray,
    as_noise_covariance,
    get_comparator,
    prepare,
    require_plain,
    whitener_of,
)
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.mask import as_pair_mask, check_complete
from rsafast.projection import orthonormal, residuals
from rsafast.rdms import RDMs, align, as_rdms


def compare(
    a: Any,
    b: Any,
    method: str = "spearman",
    *,
    covariates: Any | None = None,
    mask: ArrayLike | None = None,
    sigma_k: ArrayLike | None = None,
) -> FloatArray:
    """Similarity of every RDM of `a` with every RDM of `b`.

    Parameters
    ----------
    a, b : RDMs, arrays ((k, pairs), (k, n, n) or (pairs,)) or rsatoolbox RDMs
        Where both carry stimulus labels, they are matched by label.
    method : comparator
        pearson, spearman, rho-a (Spearman without tie correction, Schütt et al. 2023), cosine,
        corr_cov and cosine_cov (whitened, Diedrichsen et al. 2021), kendall (tau-b), tau-a.
    covariates : RDMs or arrays, optional
        RDMs to hold constant, all of them at once (partial RSA; pearson and spearman). The result
        is the correlation of what is left of `a` and of `b` given the covariates and a constant;
        for Spearman, of what is left of their ranks. `permutation_test` tests it.
    mask : (pairs,) or (n, n) bool, optional
        True where a pair counts. Ranks are taken inside the mask. Missing (NaN) dissimilarities
        must lie outside it.
    sigma_k : (n,) variances or (n, n) covariance, optional
        Noise of the condition estimates that the RDMs were made of, for corr_cov and cosine_cov,
        in the stimulus order of `a` and up to a factor; equal and independent by default. The
        covariance of the dissimilarities is then V = (C Σ Cᵀ)∘² (Diedrichsen et al. 2021), C the
        contrasts of all pairs. V is never formed: each RDM costs two n x n products.

    Returns
    -------
    (n_a, n_b) float64; within 1e-10 of rsatoolbox 0.3.2's ``compare``, and with covariates of
    mne-rsa 1.0's "partial" and "partial-spearman". With `sigma_k` rsatoolbox's iterative solver
    stops at 1e-5, and its one-dimensional `sigma_k` is an approximation.

    Notes
    -----
    `permutation_test` takes no sigma_k: conditions of unequal noise are not exchangeable, so
    relabelling them is no valid null for a statistic that weights them differently.

    Raises
    ------
    InvalidInputError
        Unmatched labels, a constant RDM, missing pairs inside the mask, an unknown method; a
        covariate that is a linear function of the others, an RDM that is one of the covariates; a
        sigma_k that is singular, indefinite or given to a method that is not whitened.
    UnsupportedCaseError
        Covariates with another method than pearson or spearman.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> model = rf.RDMs(np.array([1.0, 2, 3, 4, 5, 6]))
    >>> rf.compare(model, rf.RDMs(np.array([1.0, 2, 3, 4, 6, 5])))
    array([[0.94285714]])
    """
    comparator = get_comparator(method)
    left, right = align(as_rdms(a, "a"), as_rdms(b, "b"))
    keep = as_pair_mask(mask, left, right)
    check_complete(left, keep, "a")
    check_complete(right, keep, "b")
    noise = noise_covariance(comparator, sigma_k, left.n_stimuli)
    if covariates is not None:
        return _partial(comparator, left, right, align_covariates(left, right, covariates), keep)
    whitener = None if noise is None else whitener_of(noise)
    if comparator.concordance:
        counts = concordance_of_vectors(left.vectors[:, keep], right.vectors[:, keep])
        return counts / tau_scale(comparator, left, right, keep)
    if not keep.all() and comparator.whitened:
        require_plain(comparator, "a mask")
    n = left.n_stimuli
    x = prepare(comparator, left.vectors[:, keep], n, left.names, whitener)
    y = prepare(comparator, right.vectors[:, keep], n, right.names, whitener)
    return x @ y.T


def align_covariates(a: RDMs, b: RDMs, covariates: Any) -> RDMs:
    """Bring covariates into the stimulus order of `a` and `b`, which are aligned."""
    return align(a if a.labels is not None else b, as_rdms(covariates, "covariates"))[1]


def _partial(
    comparator: Comparator, a: RDMs, b: RDMs, covariates: RDMs, keep: NDArray[np.bool_]
) -> FloatArray:
    """Correlation of the residuals of `a` and `b` given the covariates, on the pairs kept."""
    require_correlation(comparator, "covariates")
    check_complete(covariates, keep, "covariates")
    x, y, z = (
        prepare(comparator, rdms.vectors[:, keep], rdms.n_stimuli, rdms.names)
        for rdms in (a, b, covariates)
    )
    basis = orthonormal(z, covariates.names)
    return residuals(x, basis, a.names) @ residuals(y, basis, b.names).T


def require_correlation(comparator: Comparator, what: str) -> None:
    """Refuse all comparators but Pearson's and Spearman's (`what` names the request)."""
    if comparator.name not in ("pearson", "spearman"):
        raise UnsupportedCaseError(
            f"{what} need method pearson or spearman, got {comparator.name!r}"
        )


def noise_covariance(
    comparator: Comparator, sigma_k: ArrayLike | None, n: int
) -> FloatArray | None:
    """`sigma_k` as a covariance (n, n); an error where the comparator has no use for it."""
    if sigma_k is None:
        return None
    if not comparator.whitened:
        raise InvalidInputError(
            f"sigma_k is of use to corr_cov and cosine_cov only, got method {comparator.name!r};"
            " leave it out or choose one of these"
        )
    return as_noise_covariance(sigma_k, n)


def tau_scale(comparator: Comparator, a: RDMs, b: RDMs, keep: NDArray[np.bool_]) -> FloatArray:
    """What concordant minus discordant pairs are divided by: (n_a, n_b)."""
    m = int(keep.sum())
    total = m * (m - 1) // 2
    if not comparator.normalised:
        return np.full((a.n_rdms, b.n_rdms), float(total))
    free = [
        np.array([float(total - tied_pairs(v)) for v in rdms.vectors[:, keep]]) for rdms in (a, b)
    ]
    for values, rdms in zip(free, (a, b), strict=True):
        if (values == 0).any():
            name = rdms.names[int(np.flatnonzero(values == 0)[0])]
            raise InvalidInputError(
                f"kendall is undefined for RDM {name!r}: all its dissimilarities are equal;"
                " leave it out"
            )
    return np.sqrt(np.outer(*free))
