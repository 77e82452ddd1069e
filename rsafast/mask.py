"""Masks of stimulus pairs: which dissimilarities of the brain side count."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast.errors import InvalidInputError
from rsafast.rdms import RDMs

MIN_PAIRS = 6  # those of 4 stimuli, the smallest RDM


def as_pair_mask(mask: ArrayLike | None, n: int) -> NDArray[np.bool_]:
    """Return `mask` as (pairs,) bool in squareform order; all True for None.

    Raises
    ------
    InvalidInputError
        Not boolean, a wrong shape, not symmetric, or fewer than 6 pairs left.
    """
    pairs = n * (n - 1) // 2
    if mask is None:
        return np.ones(pairs, bool)
    array = np.asarray(mask)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise InvalidInputError(
            f"mask must be boolean (True where a pair counts), got dtype {array.dtype} with"
            " values other than 0 and 1"
        )
    array = array.astype(bool)
    if array.shape == (n, n):
        if not np.array_equal(array, array.T):
            x, y = (int(i) for i in np.argwhere(array != array.T)[0])
            raise InvalidInputError(
                f"mask is not symmetric: entries ({x}, {y}) and ({y}, {x}) differ"
            )
        array = array[np.triu_indices(n, 1)]
    if array.shape != (pairs,):
        raise InvalidInputError(
            f"mask must be ({n}, {n}) or ({pairs},) for {n} stimuli, got {np.shape(mask)}"
        )
    if array.sum() < MIN_PAIRS:
        raise InvalidInputError(
            f"the mask leaves {int(array.sum())} of {pairs} pairs; at least {MIN_PAIRS} are needed"
            " (True means that a pair counts)"
        )
    return array


def check_complete(rdms: RDMs, keep: NDArray[np.bool_], role: str) -> None:
    """Raise where an RDM lacks a dissimilarity of a pair that counts."""
    if not rdms.has_missing:
        return
    lacking = np.isnan(rdms.vectors[:, keep])
    if lacking.any():
        index = int(np.flatnonzero(lacking.any(axis=1))[0])
        raise InvalidInputError(
            f"{role}: RDM {rdms.names[index]!r} lacks {int(lacking[index].sum())} dissimilarities"
            " of pairs that count; leave those pairs out with mask= (True where a pair counts)"
        )
