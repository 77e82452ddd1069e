"""All rows of the benchmarks; a kernel is a module of `rsafast.bench.kernels`."""

from __future__ import annotations

from collections.abc import Sequence

from rsafast.bench.kernels import (
    gather,
    kendall,
    lif,
    orbit,
    pairwise,
    predictive,
    rank,
    resample,
    stdp,
    tally,
)
from rsafast.bench.row import SCALES, Row, Scale
from rsafast.errors import InvalidInputError

_MODULES = (orbit, gather, kendall, tally, pairwise, rank, resample, stdp, lif, predictive)
_ROWS: dict[str, tuple[Row, ...]] = {m.__name__.rpartition(".")[2]: m.ROWS for m in _MODULES}
KERNELS: tuple[str, ...] = tuple(_ROWS)


def rows(
    kernels: Sequence[str] = (), *, scale: Scale = "large", devices: Sequence[str] = ("cpu", "cuda")
) -> list[Row]:
    """Rows of these kernels (of all, where none is named) up to a scale, on these devices.

    Raises
    ------
    InvalidInputError
        For a kernel that is not in `KERNELS`.
    """
    unknown = [name for name in kernels if name not in _ROWS]
    if unknown:
        raise InvalidInputError(
            f"no kernel is called {', '.join(map(repr, unknown))}; choose from {', '.join(KERNELS)}"
        )
    most = SCALES.index(scale)
    return [
        row
        for name in dict.fromkeys(kernels or KERNELS)
        for row in _ROWS[name]
        if row.device in devices and SCALES.index(row.scale) <= most
    ]
