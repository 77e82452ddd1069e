"""Counting permuted statistics where they are: CuPy arrays in, a few numbers a pair out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels.cuda import launch
from rsafast_kernels.device import namespace, to_host
from rsafast_kernels.errors import InvalidInputError

_THREADS = 128
_MOST_BINS = 256  # of a histogram in shared memory
_ROWS = 4096  # blocks of threads for a pair: each walks many blocks of relabellings
_SUFFIX = {4: "f32", 8: "f64"}

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Joint:
    """Pairs from the smallest threshold to the largest, (pairs,) each, and how scores compare."""

    order: Int64
    thresholds: Float64
    centres: Float64
    scales: Float64
    ascending: Float64


def each(
    values: Any, skipped: Any | None, per_pair: Float64, alternative: int, bins: int
) -> tuple[Int64, Float64, Float64, Int64]:
    """Exceedances, sums and squares (blocks, pairs) and histogram (pairs, bins) of a block.

    Parameters
    ----------
    values : (I, M, J, N, S) float32 or float64 CuPy array, contiguous.
    skipped : (I * J * S,) uint8 CuPy array, 1 where a relabelling is left out; None counts all.
    per_pair : (4, M * N): threshold, centre, lowest edge, bins per unit.
    """
    if bins > _MOST_BINS:
        raise InvalidInputError(f"a histogram on a GPU has at most {_MOST_BINS} bins, got {bins}")
    xp, pairs = namespace(values), per_pair.shape[1]
    blocks = values.shape[0] * values.shape[2]
    count = xp.empty((blocks, pairs), np.int32)
    moments = xp.empty((2, blocks, pairs), np.float64)
    histogram = xp.zeros((pairs, bins), np.uint64)
    launch(
        "tally", f"tally_each_{_SUFFIX[values.dtype.itemsize]}",
        (pairs, min(blocks, _ROWS)), (_THREADS,),
        values, _shape(values), _pointer(skipped), xp.asarray(per_pair), np.int32(alternative),
        count, moments, histogram, np.int32(bins),
    )  # fmt: skip
    sums, squares = to_host(moments)
    return to_host(count).astype(np.int64), sums, squares, to_host(histogram).astype(np.int64)


def joint(
    values: Any, skipped: Any | None, pairs: Joint, alternative: int
) -> tuple[Int64, Int64]:
    """Step-down counts (pairs,), in the order of `pairs`, and maxima (pairs + 1,) by how many
    thresholds they reach; arguments as of `each`.
    """
    xp = namespace(values)
    down = xp.zeros(len(pairs.order), np.uint64)
    bins = xp.zeros(len(pairs.order) + 1, np.uint64)
    launch(
        "tally", f"tally_joint_{_SUFFIX[values.dtype.itemsize]}",
        (_per_relabeling(values),), (_THREADS,),
        values, _shape(values), _pointer(skipped), *_ordered(values, pairs), np.int32(alternative),
        down, bins,
    )  # fmt: skip
    return to_host(down).astype(np.int64), to_host(bins).astype(np.int64)


def mark(values: Any, pairs: Joint, alternative: int, band: float) -> Any:
    """Relabellings that float32 statistics, wrong by up to `band`, cannot place: (I * J * S,).

    1 where a statistic lies within the band of its threshold, or a maximum over pairs within as
    much of one, so that some count could be another in exact arithmetic.
    """
    xp = namespace(values)
    marked = xp.empty(values.size // len(pairs.order), np.uint8)
    several = len(pairs.order) > 1
    launch(
        "tally", "tally_mark_f32", (_per_relabeling(values),), (_THREADS,),
        values, _shape(values), *_ordered(values, pairs), xp.asarray(pairs.thresholds),
        np.int32(alternative), np.float64(band),
        np.float64(band * pairs.scales.max() if several else -1.0), marked,
    )  # fmt: skip
    return marked


def _ordered(values: Any, pairs: Joint) -> tuple[Any, Any]:
    """Places of the pairs, in order, behind the start of a block, and how their scores compare."""
    xp, (_, _, blocks_b, brains, shifts) = namespace(values), values.shape
    model, brain = np.divmod(pairs.order, brains)
    places = (model * blocks_b * brains + brain) * shifts
    comparison = np.stack([pairs.centres, pairs.scales, pairs.ascending])
    return xp.asarray(places), xp.asarray(comparison)


def _shape(values: Any) -> Any:
    return namespace(values).asarray(np.array(values.shape, np.int64))


def _per_relabeling(values: Any) -> int:
    i, _, j, _, s = values.shape
    return -(-i * j * s // _THREADS)


def _pointer(array: Any | None) -> Any:
    return np.uint64(0) if array is None else array
