"""Average ranks of the entries of RDMs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.rank import average_ranks, reference

from rsafast.bench.row import Case, Peer, Row, Scale, Work, close

Float = NDArray[np.float64]


def _values(shape: tuple[int, ...], ties: bool) -> Float:
    rng = np.random.default_rng(0)
    return rng.integers(0, shape[-1] // 3, shape).astype(float) if ties else rng.random(shape)


def _case(shape: tuple[int, ...], ties: bool, rank: Callable[[Float], Float]) -> Case:
    x = _values(shape, ties)
    return Case(lambda: rank(x), lambda got: close(got, reference.average_ranks(x), 0.0, "ranks"))


def _scipy(shape: tuple[int, ...], ties: bool) -> Case:
    from scipy.stats import rankdata

    return _case(shape, ties, partial(rankdata, axis=-1))


def _row(shape: tuple[int, ...], scale: Scale, ties: bool = False) -> Row:
    length, count = shape[-1], float(np.prod(shape))
    rows = f"{shape[0]} × " if len(shape) > 1 else ""
    return Row(
        kernel="rank",
        name=f"{rows}{length:,} values{', ties' if ties else ''}",
        device="cpu",
        size=int(count),
        items=count,
        unit="values",
        # No sort of N values takes fewer than N log2(N / e) comparisons.
        work=Work(count * np.log2(length / np.e), 16.0 * count, "float64"),
        prepare=partial(_case, shape, ties, average_ranks),
        scale=scale,
        peers=(
            Peer("SciPy rankdata", ("scipy",), "scipy", partial(_scipy, shape, ties), count),
        ),
    )


ROWS = (
    _row((4_186,), "quick"),
    _row((258_840,), "quick"),
    _row((500, 4_186), "default"),
    _row((1_717_731,), "default"),
    _row((1_717_731,), "default", ties=True),
    _row((49_995_000,), "large"),
)
