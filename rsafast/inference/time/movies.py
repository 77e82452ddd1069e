"""Time-resolved RDMs: one RDM a time window of EEG, MEG or other signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.pairwise import Metric

from rsafast.comparators import get_comparator
from rsafast.comparison import compare
from rsafast.errors import InvalidInputError
from rsafast.features import Precision, compute_rdms
from rsafast.inference.layout import labels_of
from rsafast.mask import as_pair_mask
from rsafast.rdms import Missing, RDMs, align, as_rdms

FloatArray = NDArray[np.float64]
Grouping = str | Sequence[Any]
WindowAs = Literal["mean", "concatenate"]

_BLOCK_BYTES = 2**26  # of windows that are laid out and compared at a time


def rdm_movie(
    data: ArrayLike,
    metric: Metric = "correlation",
    *,
    times: Sequence[float] | NDArray[Any] | None = None,
    labels: Sequence[Any] | NDArray[Any] | None = None,
    window: int = 1,
    step: int = 1,
    window_as: WindowAs = "mean",
    folds: Sequence[Any] | NDArray[Any] | None = None,
    noise_precision: Precision | None = None,
    normalize: Literal["channels"] | None = None,
    missing: Missing = "error",
    descriptors: Mapping[str, str | int | float] | None = None,
) -> RDMs:
    """RDMs over time: one for each window of samples.

    Parameters
    ----------
    data : (n, channels, times) array
        Responses of n stimuli. For "crossnobis" the rows are trials; for other metrics average the
        trials of a stimulus first (:func:`rsafast.average_repeats`).
    metric, labels, folds, noise_precision, normalize, missing : see :func:`rsafast.compute_rdms`
        One `noise_precision` serves all times.
    times : sequence of times, increasing, optional
        When each sample was taken; by default 0, 1, 2, ...
    window : int, default 1
        Samples of a window.
    step : int, default 1
        Samples from the start of a window to that of the next.
    window_as : {"mean", "concatenate"}
        Average the samples of a window (rsatoolbox's bins), or take them as further channels
        (mne-rsa's temporal radius r is ``window=2 * r + 1``). A `noise_precision` must then be of
        channels times samples.
    descriptors : mapping, optional
        What else holds for all of these RDMs, such as ``{"subject": 3}``.

    Returns
    -------
    RDMs
        One RDM a window, its descriptor "time" the mean time of the window. Neighbouring RDMs of
        overlapping windows share samples.

    Raises
    ------
    InvalidInputError
        A shape other than three dimensions, times that do not increase, a window longer than the
        data, and what :func:`rsafast.compute_rdms` refuses, with the time at which it happened.

    Examples
    --------
    >>> import numpy as np
    >>> data = np.random.default_rng(0).normal(size=(6, 8, 5))
    >>> movie = rdm_movie(data, times=[0, 10, 20, 30, 40])
    >>> movie
    RDMs(5 RDMs 'time 0.0' ... 'time 40.0', 6 stimuli, measure 'correlation', descriptors time)
    """
    array = np.asarray(data)
    if array.ndim != 3 or array.dtype.kind not in "biuf" or 0 in array.shape:
        raise InvalidInputError(
            f"data must be a real array (n, channels, times), got shape {array.shape}, dtype "
            f"{array.dtype}"
        )
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    length = array.shape[2]
    _check_window(window, step, window_as, length)
    when = _times(times, length)
    starts = range(0, length - window + 1, step)
    centres = [float(when[s : s + window].mean()) for s in starts]
    per_block = max(1, _BLOCK_BYTES // (8 * array.shape[0] * array.shape[1] * window))
    parts = []
    for first in range(0, len(starts), per_block):
        some = starts[first : first + per_block]
        frames = _frames(array, some, window, window_as)
        parts.append(
            compute_rdms(
                {f"time {t}": x for t, x in zip(centres[first:], frames, strict=False)},
                metric,
                labels=labels,
                folds=folds,
                noise_precision=noise_precision,
                normalize=normalize,
                missing=missing,
            )
        )
    stack = parts[0] if len(parts) == 1 else RDMs.concat(parts)
    constant = {key: [value] * len(centres) for key, value in (descriptors or {}).items()}
    return RDMs.from_vectors(
        stack.vectors,
        stack.labels,
        stack.names,
        stack.measure,
        dict(stack.descriptors) | constant | {"time": centres},
        missing=stack.missing,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeCourses:
    """Similarity of models with subjects over time: see :func:`time_courses`.

    Attributes
    ----------
    values : (subjects, models, times).
    times : (times,) increasing.
    subjects, model_names, method : what the axes are.
    """

    values: FloatArray
    times: FloatArray
    subjects: tuple[str, ...]
    model_names: tuple[str, ...]
    method: str

    def difference(self, first: str, second: str) -> TimeCourses:
        """Courses of one model less those of another, as one model ``"first - second"``."""
        lacking = [name for name in (first, second) if name not in self.model_names]
        if lacking:
            raise InvalidInputError(
                f"there is no model {lacking[0]!r}; there are: {', '.join(self.model_names)}"
            )
        i, j = self.model_names.index(first), self.model_names.index(second)
        return TimeCourses(
            values=self.values[:, i : i + 1] - self.values[:, j : j + 1],
            times=self.times,
            subjects=self.subjects,
            model_names=(f"{first} - {second}",),
            method=self.method,
        )


def time_courses(
    models: Any,
    movie: Any,
    *,
    method: str = "spearman",
    times: Grouping = "time",
    subjects: Grouping = "subject",
    mask: ArrayLike | None = None,
) -> TimeCourses:
    """Similarity of every model with every subject at every time.

    Parameters
    ----------
    models : RDMs or array
    movie : RDMs
        One RDM a subject and time, in any order: ``RDMs.concat`` of one :func:`rdm_movie` each.
    method : comparator, see :func:`rsafast.compare`
    times, subjects : descriptor of `movie`, or one label an RDM
    mask : (n, n) or (pairs,) bool, optional

    Raises
    ------
    InvalidInputError
        A subject who lacks a time, two RDMs of one subject and time, and what
        :func:`rsafast.compare` refuses.
    """
    comparator = get_comparator(method)
    a, b = align(as_rdms(models, "models"), as_rdms(movie, "movie"))
    who, when, place = courses_of(b, times, labels_of(b, subjects, "subjects"), "subject")
    every = compare(a, b, method, mask=as_pair_mask(mask, a, b))
    return TimeCourses(
        values=np.ascontiguousarray(every[:, place].transpose(1, 0, 2)),
        times=when,
        subjects=who,
        model_names=a.names,
        method=comparator.name,
    )


def courses_of(
    movie: RDMs, times: Grouping, course_of: list[str], what: str
) -> tuple[tuple[str, ...], FloatArray, NDArray[np.int64]]:
    """Courses, increasing times, and which RDM (courses, times) is of both.

    Raises
    ------
    InvalidInputError
        Two RDMs of one course and time, a course that lacks a time, times that are no numbers.
    """
    when = _time_of_each(movie, times)
    moments, time_at = np.unique(when, return_inverse=True)
    courses = tuple(dict.fromkeys(course_of))
    place = np.full((len(courses), len(moments)), -1, np.int64)
    for i, (course, t) in enumerate(zip(course_of, time_at, strict=True)):
        at = courses.index(course), t
        if place[at] >= 0:
            raise InvalidInputError(
                f"movie holds two RDMs of {what} {course!r} at time {when[i]} (numbers "
                f"{place[at]} and {i}); average them first, or say with {what}s= what tells them "
                "apart"
            )
        place[at] = i
    gaps = np.argwhere(place < 0)
    if len(gaps):
        c, t = gaps[0]
        raise InvalidInputError(
            f"{what} {courses[c]!r} has no RDM at time {moments[t]} ({len(gaps)} such gaps); keep "
            f"the times that every {what} has, with .subset(rdms={{'time': ...}})"
        )
    return courses, moments, place


def _time_of_each(movie: RDMs, times: Grouping) -> FloatArray:
    if isinstance(times, str):
        labels_of(movie, times, "times")  # for its message
    values = np.asarray(movie.descriptors[times] if isinstance(times, str) else times)
    if (
        values.shape != (movie.n_rdms,)
        or values.dtype.kind not in "iuf"
        or not np.isfinite(values).all()
    ):
        raise InvalidInputError(
            f"times must be a descriptor's name or {movie.n_rdms} finite numbers, one an RDM, got "
            f"shape {values.shape}, dtype {values.dtype}"
        )
    return values.astype(np.float64)


def _check_window(window: int, step: int, window_as: str, length: int) -> None:
    for name, value, most in (("window", window, length), ("step", step, None)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < 1 or (most is not None and value > most):
            limit = "" if most is None else f" of at most {most} samples"
            raise InvalidInputError(f"{name} must be a positive integer{limit}, got {value!r}")
    if window_as not in ("mean", "concatenate"):
        raise InvalidInputError(f"window_as must be 'mean' or 'concatenate', got {window_as!r}")


def _times(times: Any, length: int) -> FloatArray:
    if times is None:
        return np.arange(length, dtype=np.float64)
    when = np.asarray(times, dtype=np.float64)
    if when.shape != (length,) or not np.isfinite(when).all() or (np.diff(when) <= 0).any():
        raise InvalidInputError(
            f"times must be {length} increasing numbers, one a sample, got shape {when.shape}"
            + (" that do not increase" if when.shape == (length,) else "")
        )
    return when


def _frames(
    data: NDArray[np.floating], starts: range, window: int, window_as: str
) -> NDArray[np.floating]:
    """(windows, n, features) of the windows that start at these samples."""
    n, channels, _ = data.shape
    if window == 1:
        return np.ascontiguousarray(np.moveaxis(data[:, :, starts], 2, 0))
    if window_as == "mean":
        return np.stack([data[:, :, s : s + window].mean(axis=2) for s in starts])
    return np.stack([data[:, :, s : s + window].reshape(n, channels * window) for s in starts])
