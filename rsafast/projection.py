"""Parts of RDM vectors that are linear functions of other vectors, and what is left of them."""

import numpy as np

from rsafast.comparators import FloatArray
from rsafast.errors import InvalidInputError

_WEAK = 1e-9  # of its length: what is left of a vector that rounding alone accounts for


def orthonormal(rows: FloatArray, names: tuple[str, ...], role: str = "covariate") -> FloatArray:
    """Orthonormal rows of the same span, the first along the first.

    Parameters
    ----------
    rows : (q, pairs) vectors; the last ``len(names)`` of them are RDMs of those names.
    names, role : what to call a row in the error message.

    Raises
    ------
    InvalidInputError
        A row is a linear function of the others.
    """
    if not len(rows):
        return rows
    if len(rows) > rows.shape[1]:
        raise InvalidInputError(
            f"{len(rows)} RDMs are too many to hold constant over {rows.shape[1]} pairs of stimuli"
        )
    q, r = np.linalg.qr(rows.T)
    weak = np.abs(np.diagonal(r)) < _WEAK * np.linalg.norm(rows, axis=1)
    if weak.any():
        index = int(np.flatnonzero(weak)[0]) - (len(rows) - len(names))
        raise InvalidInputError(
            f"{role} {names[index]!r} is a linear function of the others; leave it out"
        )
    return q.T


def residuals(vectors: FloatArray, basis: FloatArray, names: tuple[str, ...]) -> FloatArray:
    """Unit residuals of unit vectors given an orthonormal basis."""
    rest = vectors - (vectors @ basis.T) @ basis
    norms = np.linalg.norm(rest, axis=1)
    if (norms < _WEAK).any():
        name = names[int(np.argmin(norms))]
        raise InvalidInputError(
            f"RDM {name!r} is a linear function of the covariates: nothing is left of it"
        )
    return rest / norms[:, None]
