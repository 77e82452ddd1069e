"""Responses, voxels and their places, from the forms in which people have them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.pairwise import Metric

from rsafast._condensed import MIN_STIMULI
from rsafast.datasets.responses import Responses
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.inference.searchlight.neighbourhoods import FloatArray, IntArray

_VOXEL = re.compile(r"(\d+)-(\d+)-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Responses of the voxels that vary.

    Attributes
    ----------
    values : (voxels, rows) of float32 or float64; rows are stimuli, or stimuli within folds.
    folds : number of folds, 0 where rows are stimuli.
    coordinates : (voxels, 3) indices in the volume.
    shape : (3,) of the volume, or the smallest that holds the voxels.
    n_flat : voxels left out that did not vary.
    """

    values: NDArray[np.floating]
    folds: int
    coordinates: IntArray
    shape: IntArray
    n_flat: int
    labels: tuple[Any, ...] | None
    subject: str | None

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return self.values.shape[1] // max(1, self.folds)


def measured(
    responses: Any,
    coordinates: ArrayLike | None,
    mask: ArrayLike | None,
    labels: Sequence[Any] | None,
    metric: Metric,
) -> Measured:
    """Check responses and bring them into one form: see `rsafast.searchlight`."""
    if coordinates is not None and mask is not None:
        raise InvalidInputError("coordinates and mask both say where the voxels are; give one")
    subject = None
    if isinstance(responses, Responses):
        if mask is not None or labels is not None or metric == "crossnobis":
            raise UnsupportedCaseError(
                "Responses know their voxels and stimuli and hold no folds: leave mask= and labels="
                " out, and for crossnobis pass an array (folds, stimuli, voxels)"
            )
        subject, labels = responses.subject, _stimuli(responses)
        coordinates = _places(responses) if coordinates is None else coordinates
        responses = responses.values
    array = _numbers(responses)
    lead = 2 if metric == "crossnobis" else 1
    if array.ndim == lead + 3:
        array, places, shape = _of_volume(array, lead, coordinates, mask)
    elif array.ndim == lead + 1:
        places, shape = _of_columns(array.shape[-1], coordinates, mask)
    else:
        rows = "folds, stimuli" if lead == 2 else "stimuli"
        raise InvalidInputError(
            f"responses must be ({rows}, voxels) or ({rows}, X, Y, Z) for metric {metric!r}, got"
            f" shape {array.shape}"
        )
    n, folds = array.shape[lead - 1], array.shape[0] if lead == 2 else 0
    _check_rows(n, folds, lead, labels)
    flat = array.reshape(-1, array.shape[-1])
    _check_finite(flat, places, n)
    if metric == "poisson" and flat.min() < 0:
        raise InvalidInputError("metric 'poisson' takes counts or rates; responses are negative")
    varies = flat.min(axis=0) < flat.max(axis=0)
    return Measured(
        values=np.ascontiguousarray(flat[:, varies].T), folds=folds,
        coordinates=places[varies], shape=shape, n_flat=int((~varies).sum()),
        labels=None if labels is None else tuple(labels), subject=subject,
    )  # fmt: skip


def spacing_of(voxel_size: ArrayLike | None) -> tuple[FloatArray, FloatArray | None]:
    """Matrix (3, 3) from indices to millimetres, and the affine (4, 4) if it was one.

    Raises
    ------
    InvalidInputError
        Neither three sizes above 0 nor an affine that can be inverted.
    """
    if voxel_size is None:
        return np.eye(3), None
    given = np.asarray(voxel_size, np.float64)
    if given.shape == (3,) and np.isfinite(given).all() and (given > 0).all():
        return np.diag(given), None
    if given.shape == (4, 4) and np.isfinite(given).all() and np.linalg.det(given[:3, :3]) != 0:
        return given[:3, :3], given
    raise InvalidInputError(
        f"voxel_size must be three sizes in mm or an affine (4, 4), got {np.asarray(voxel_size)!r}"
    )


def _numbers(responses: Any) -> NDArray[np.floating]:
    array = np.asarray(responses)
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(f"responses must hold real numbers, got dtype {array.dtype}")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _stimuli(responses: Responses) -> tuple[str, ...]:
    if responses.times is not None:
        raise InvalidInputError(
            f"{responses.subject}: these responses have {len(responses.times)} time points; a"
            " searchlight takes one response a voxel"
        )
    if len(set(responses.stimuli)) < len(responses.stimuli):
        raise InvalidInputError(
            f"{responses.subject}: stimuli repeat; average them first: responses.averaged()"
        )
    return responses.stimuli


def _places(responses: Responses) -> IntArray:
    """Indices of the voxels, read from channel ids such as "12-30-7"."""
    found = [_VOXEL.fullmatch(str(channel)) for channel in responses.channels]
    if None in found:
        channel = str(responses.channels[found.index(None)])
        raise InvalidInputError(
            f"{responses.subject}: channel {channel!r} is no voxel such as '12-30-7'; give"
            " coordinates="
        )
    return np.array([match.groups() for match in found if match], np.int64).reshape(-1, 3)


def _of_volume(
    array: NDArray[np.floating], lead: int, coordinates: ArrayLike | None, mask: ArrayLike | None
) -> tuple[NDArray[np.floating], IntArray, IntArray]:
    """Columns, places and shape of responses given as volumes."""
    shape = array.shape[lead:]
    if coordinates is not None:
        raise InvalidInputError("responses are volumes, which need no coordinates; use mask=")
    keep = np.ones(shape, bool) if mask is None else _as_mask(mask)
    if keep.shape != shape:
        raise InvalidInputError(
            f"mask is of shape {keep.shape}, the volumes of responses are {shape}"
        )
    return array[..., keep], np.argwhere(keep).astype(np.int64), np.array(shape, np.int64)


def _of_columns(
    voxels: int, coordinates: ArrayLike | None, mask: ArrayLike | None
) -> tuple[IntArray, IntArray]:
    """Places and shape of responses given as one column a voxel."""
    if mask is not None:
        keep = _as_mask(mask)
        if keep.sum() != voxels:
            raise InvalidInputError(
                f"mask holds {int(keep.sum())} voxels, responses have {voxels} columns: one a voxel"
                " of the mask, in the order of volume[mask]"
            )
        return np.argwhere(keep).astype(np.int64), np.array(keep.shape, np.int64)
    if coordinates is None:
        raise InvalidInputError(
            "responses hold one column a voxel: give coordinates= (voxels, 3) or mask= (X, Y, Z)"
        )
    given = np.asarray(coordinates)
    if given.shape != (voxels, 3) or given.dtype.kind not in "iuf":
        raise InvalidInputError(
            f"coordinates must be ({voxels}, 3) indices, one row a voxel, got {given.dtype} of"
            f" shape {given.shape}"
        )
    with np.errstate(invalid="ignore"):
        places = given.astype(np.int64)
    if voxels == 0 or not np.array_equal(places, given) or places.min() < 0:
        raise InvalidInputError(
            "coordinates must be indices of voxels, whole numbers from 0; millimetres become"
            " indices by the inverse of the affine"
        )
    unique, counts = np.unique(places, axis=0, return_counts=True)
    if len(unique) < voxels:
        twice = tuple(unique[np.argmax(counts > 1)].tolist())
        raise InvalidInputError(f"coordinates hold voxel {twice} more than once")
    return places, places.max(axis=0) + 1


def _as_mask(mask: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.ndim != 3 or (array.dtype != bool and not np.isin(array, (0, 1)).all()):
        raise InvalidInputError(
            f"mask must be a boolean volume (X, Y, Z), got {array.dtype} of shape {array.shape}"
        )
    keep = array.astype(bool)
    if not keep.any():
        raise InvalidInputError("mask holds no voxel")
    return keep


def _check_rows(n: int, folds: int, lead: int, labels: Sequence[Any] | None) -> None:
    if n < MIN_STIMULI:
        raise InvalidInputError(f"responses hold {n} stimuli; at least {MIN_STIMULI} are needed")
    if lead == 2 and folds < 2:
        raise InvalidInputError(f"metric 'crossnobis' needs at least 2 folds, got {folds}")
    if labels is not None and len(labels) != n:
        raise InvalidInputError(f"labels must name {n} stimuli, got {len(labels)}")


def _check_finite(flat: NDArray[np.floating], places: IntArray, n: int) -> None:
    finite = np.isfinite(flat).all(axis=0)
    if finite.all():
        return
    voxel = int(np.argmin(finite))
    row = int(np.argmin(np.isfinite(flat[:, voxel])))
    raise InvalidInputError(
        f"voxel {tuple(places[voxel].tolist())} holds {flat[row, voxel]} for stimulus {row % n}"
        f" ({int((~finite).sum())} such voxels); leave them out with mask=, or of coordinates="
    )
