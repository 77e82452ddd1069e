"""Masks of stimulus pairs: which dissimilarities of the brain side count."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast.errors import InvalidInputError
from rsafast.rdms import RDMs

MIN_PAIRS = 6  # those of 4 stimuli, the smallest RDM


def as_pair_mask(mask: ArrayLike | None, *rdms: RDMs) -> NDArray[np.bool_]:
    """Return `mask` as (pairs,) bool in squareform order; all True for None.

    Parameters
    ----------
    mask : (pairs,) or (n, n), in the order of the RDMs. One that knows its stimuli, as that of
        `run_mask` given labels does, is brought into their order by label.
    rdms : aligned RDMs that it is for.

    Raises
    ------
    InvalidInputError
        Not boolean, a wrong shape, not symmetric, of other stimuli, or fewer than 6 pairs left.
    """
    n = rdms[0].n_stimuli
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
    array = _in_order(array, getattr(mask, "labels", None), rdms)
    if array.sum() < MIN_PAIRS:
        raise InvalidInputError(
            f"the mask leaves {int(array.sum())} of {pairs} pairs; at least {MIN_PAIRS} are needed"
            " (True means that a pair counts)"
        )
    return array


def _in_order(
    array: NDArray[np.bool_], labels: Sequence[Any] | None, rdms: Sequence[RDMs]
) -> NDArray[np.bool_]:
    """A mask of stimuli `labels`, in the order of the RDMs; as it is where a side has no labels."""
    wanted = next((own.labels for own in rdms if own.labels is not None), None)
    if labels is None or wanted is None or tuple(labels) == tuple(wanted):
        return array
    if set(labels) != set(wanted):
        lacking = [label for label in wanted if label not in set(labels)]
        raise InvalidInputError(
            f"the mask is of other stimuli than the RDMs: it lacks {lacking[:3]!r}; make it again"
            " with their labels"
        )
    place = {label: i for i, label in enumerate(labels)}
    order = [place[label] for label in wanted]
    square = np.zeros((len(order), len(order)), bool)
    upper = np.triu_indices(len(order), 1)
    square[upper] = array
    return np.asarray((square | square.T)[np.ix_(order, order)][upper])


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
