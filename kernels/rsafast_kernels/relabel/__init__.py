"""Random relabellings of n stimuli, each a function of (seed, stream, index) alone.

Relabelling `index` sorts the stimuli by n random words of Philox4x64-10 (Salmon et al. 2011) with
key (seed, stream) and counter (word block, index). So any part of a long test can be drawn
anywhere, in any order, on any device, and is the same.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast_kernels._native import native
from rsafast_kernels._threads import threads_for
from rsafast_kernels.cuda import launch
from rsafast_kernels.errors import InvalidInputError

__all__ = ["relabelings", "relabelings_on_gpu"]


def relabelings(
    seed: int, stream: int, start: int, count: int, n: int, groups: ArrayLike | None = None
) -> NDArray[np.int32]:
    """Draw relabellings `start` to ``start + count``.

    Parameters
    ----------
    seed : 0 <= seed < 2**64.
    stream : which independent sequence of this seed (0 <= stream < 2**64).
    start, count : the indices to draw.
    n : number of stimuli.
    groups : (n,) integers; stimuli trade places only within their group. None: all are one group.

    Returns
    -------
    (count, n) int32, each row a uniform permutation of 0..n-1 that keeps every group in place.
    """
    _check(seed)
    members, slots = _members(groups, n)
    out = np.empty((count, n), np.int32)
    native.relabelings(seed, stream, start, members, slots, out, threads_for(30.0 * out.size))
    return out


def relabelings_on_gpu(
    seed: int, stream: int, start: int, count: int, n: int, groups: ArrayLike | None = None
) -> Any:
    """As `relabelings`, drawn on the current GPU: the same numbers in a CuPy array."""
    import cupy

    _check(seed)
    words = cupy.empty((count, n), np.uint64)
    quads = count * -(-n // 4)
    launch(
        "relabel", "relabel_words", (-(-quads // _THREADS),), (_THREADS,),
        np.uint64(seed), np.uint64(stream), np.uint64(start), words, np.int64(count), np.int32(n),
    )  # fmt: skip
    order = cupy.argsort(words, axis=1)  # CuPy's is stable
    if groups is None:
        return order.astype(np.int32)
    members, slots = (cupy.asarray(v) for v in _members(groups, n))
    by_group = cupy.argsort(members[order], axis=1, kind="stable")
    out = cupy.empty((count, n), np.int32)
    out[:, slots] = cupy.take_along_axis(order, by_group, axis=1)
    return out


_THREADS = 256


def _check(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise InvalidInputError(f"seed must be between 0 and 2**64 - 1, got {seed}")


def _members(
    groups: ArrayLike | None, n: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Group of every stimulus as a small number, and the stimuli group by group."""
    members = np.zeros(n, np.int32)
    if groups is not None:
        members[:] = np.unique(np.asarray(groups), return_inverse=True)[1]
    return members, np.argsort(members, kind="stable").astype(np.int32)
