"""Correction of p-values for how many were looked at, each method by its name."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control

from rsafast.errors import InvalidInputError

FloatArray = NDArray[np.float64]
Correction = Literal["bh", "by", "holm", "bonferroni"]
MissingP = Literal["error", "omit"]


def adjust_p(
    p: ArrayLike, method: Correction, *, axis: int | None = None, nan: MissingP = "error"
) -> FloatArray:
    """Adjust p-values for their number; reject where the adjusted p is at most alpha.

    ==========  =====================  ==================================================
    method      holds                  when
    ==========  =====================  ==================================================
    bonferroni  family-wise error      always
    holm        family-wise error      always; never above bonferroni (step-down)
    bh          false discovery rate   independent or positively dependent p-values
    by          false discovery rate   always; dearer by 1 + 1/2 + ... + 1/m
    ==========  =====================  ==================================================

    Max-T is not among them: it needs the joint null, which p-values have lost. The tests that have
    it give it themselves (``p_value_fwer``, ``p_value_stepdown``), and it is sharper than Holm
    wherever the tests depend on one another, as regions and layers do.

    A floor limits what can be reached: five seeds (p >= 0.0625) can never pass any correction.

    Parameters
    ----------
    p : array of any shape, p-values from 0 to 1.
    method : {"bh", "by", "holm", "bonferroni"}
    axis : each slice along this axis is a family of its own; by default all values are one family.
    nan : {"error", "omit"}
        What NaN (a test that could not be made) means: an error, or a value that stays NaN and is
        not counted in its family. Omit it only where whether a test can be made does not depend on
        its outcome.

    Returns
    -------
    Adjusted p-values, the shape of `p`.

    Raises
    ------
    InvalidInputError
        Values outside 0 to 1, NaN with ``nan="error"``, an unknown method or axis.

    References
    ----------
    Holm (1979); Benjamini & Hochberg (1995); Benjamini & Yekutieli (2001).

    Examples
    --------
    >>> import rsafast as rf
    >>> rf.adjust_p([0.01, 0.02, 0.03, 0.04], "holm")
    array([0.04, 0.06, 0.06, 0.06])
    """
    values = np.asarray(p)
    if values.dtype.kind not in "iuf":
        raise InvalidInputError(f"p must be real numbers, got dtype {values.dtype}")
    values = values.astype(np.float64)
    for name, value, allowed in (("method", method, Correction), ("nan", nan, MissingP)):
        if value not in get_args(allowed):
            raise InvalidInputError(
                f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}"
            )
    if axis is not None and not -values.ndim <= axis < values.ndim:
        raise InvalidInputError(f"axis {axis} is not one of p, whose shape is {values.shape}")
    lacking = np.isnan(values)
    outside = values[~lacking & ~((values >= 0) & (values <= 1))]
    if outside.size:
        raise InvalidInputError(f"p must lie between 0 and 1, got {outside[0]}")
    if lacking.any() and nan == "error":
        raise InvalidInputError(
            f"p holds {int(lacking.sum())} NaN of {values.size}; pass nan='omit' to leave them out"
            " of the count, if they do not lack because of their outcome"
        )
    if not values.size:
        return values
    moved = values.reshape(-1, 1) if axis is None else np.moveaxis(values, axis, 0)
    families = moved.reshape(len(moved), -1)
    adjusted = np.full_like(families, np.nan)
    for family, out in zip(families.T, adjusted.T, strict=True):
        there = ~np.isnan(family)
        if there.any():
            out[there] = _adjust(family[there], method)
    adjusted = adjusted.reshape(moved.shape)
    return adjusted.reshape(values.shape) if axis is None else np.moveaxis(adjusted, 0, axis)


def _adjust(p: FloatArray, method: Correction) -> FloatArray:
    if method in ("bh", "by"):
        return np.asarray(false_discovery_control(p, method=method))
    if method == "bonferroni":
        return np.minimum(p * p.size, 1.0)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(p.size)
    steps = p[order] * np.arange(p.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
