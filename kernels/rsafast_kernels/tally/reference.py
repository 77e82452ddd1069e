"""Plain counting of permuted statistics: the oracle of every backend."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Count = NDArray[np.int64]


def scores(values: Float, alternative: str) -> Float:
    """Statistic turned so that larger is more extreme."""
    return {"greater": values, "less": -values, "two-sided": np.abs(values)}[alternative]


def tally(
    values: Float,
    thresholds: Float,
    alternative: str,
    centres: Float | float = 0.0,
    scales: Float | float = 1.0,
) -> tuple[Count, Count, Count]:
    """Exceedances per block, single-step and step-down joint exceedances; see `tally`.

    Shapes: values (I, M, J, N, S), thresholds (M, N); returns (I * J, M * N), (M * N,), (M * N,).
    """
    _, m, _, n, s = values.shape
    flat = scores(values, alternative).transpose(0, 2, 1, 3, 4).reshape(-1, m * n, s)
    each = (flat >= thresholds.reshape(1, -1, 1)).sum(axis=2)
    flat = (flat - np.reshape(centres, (-1, 1))) * np.reshape(scales, (-1, 1))
    limits = ((thresholds - centres) * scales).ravel()
    single = (flat.max(axis=1)[:, None] >= limits[None, :, None]).sum(axis=(0, 2))
    order = np.argsort(limits, kind="stable")
    down = np.empty(m * n, np.int64)
    for k, q in enumerate(order):
        down[q] = (flat[:, order[: k + 1]].max(axis=1) >= limits[q]).sum()
    return each, single, down
