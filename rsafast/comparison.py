"""Compare RDMs with RDMs."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.kendall import concordance_of_vectors, tied_pairs

from rsafast.comparators import Comparator, FloatArray, get_comparator, prepare, require_plain
from rsafast.errors import InvalidInputError
from rsafast.mask import as_pair_mask, check_complete
from rsafast.rdms import RDMs, align, as_rdms


def compare(
    a: Any, b: Any, method: str = "spearman", *, mask: ArrayLike | None = None
) -> FloatArray:
    """Similarity of every RDM of `a` with every RDM of `b`.

    Parameters
    ----------
    a, b : RDMs, arrays ((k, pairs), (k, n, n) or (pairs,)) or rsatoolbox RDMs
        Where both carry stimulus labels, they are matched by label.
    method : comparator
        pearson, spearman, rho-a (Spearman without tie correction, Schütt et al. 2023), cosine,
        corr_cov and cosine_cov (whitened, Diedrichsen et al. 2021), kendall (tau-b), tau-a.
    mask : (pairs,) or (n, n) bool, optional
        True where a pair counts. Ranks are taken inside the mask. Missing (NaN) dissimilarities
        must lie outside it.

    Returns
    -------
    (n_a, n_b) float64; within 1e-10 of rsatoolbox 0.3.2's ``compare``.

    Raises
    ------
    InvalidInputError
        Unmatched labels, a constant RDM, missing pairs inside the mask, an unknown method.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> model = rf.RDMs(np.array([1.0, 2, 3, 4, 5, 6]))
    >>> rf.compare(model, rf.RDMs(np.array([1.0, 2, 3, 4, 6, 5])))
    array([[0.94285714]])
    """
    comparator = get_comparator(method)
    left, right = align(as_rdms(a, "a"), as_rdms(b, "b"))
    keep = as_pair_mask(mask, left.n_stimuli)
    check_complete(left, keep, "a")
    check_complete(right, keep, "b")
    if comparator.concordance:
        counts = concordance_of_vectors(left.vectors[:, keep], right.vectors[:, keep])
        return counts / tau_scale(comparator, left, right, keep)
    if not keep.all() and comparator.whitened:
        require_plain(comparator, "a mask")
    n = left.n_stimuli
    x = prepare(comparator, left.vectors[:, keep], n, left.names)
    y = prepare(comparator, right.vectors[:, keep], n, right.names)
    return x @ y.T


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
