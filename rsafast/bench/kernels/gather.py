"""Direct permutation: products of gathered RDMs, for statistics that are no bilinear form."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.gather import gather_products, reference
from rsafast_kernels.relabel import relabelings

from rsafast.bench.row import Case, Peer, Row, Scale, Work, close

_CHECKED = 8  # relabellings that the reference does too


def _symmetric(count: int, n: int, seed: int) -> NDArray[np.float64]:
    a = np.random.default_rng(seed).standard_normal((count, n, n))
    return a + a.transpose(0, 2, 1)


def _case(n: int, models: int, brains: int, count: int) -> Case:
    a, b = _symmetric(models, n, 0), _symmetric(brains, n, 1)
    drawn = relabelings(0, 0, 0, count, n)
    some = np.linspace(0, count - 1, _CHECKED).astype(int)

    def check(answer: NDArray[np.float64]) -> float:
        expected = reference.gather_products(a, b, drawn[some])
        return close(answer[..., some], expected, 1e-10, "products")

    return Case(lambda: gather_products(a, b, drawn), check)


def _numpy(n: int, models: int, brains: int, count: int) -> Case:
    a, b = _symmetric(models, n, 0), _symmetric(brains, n, 1)
    drawn = relabelings(0, 0, 0, count, n)
    return Case(
        lambda: reference.gather_products(a, b, drawn),
        lambda got: close(got, gather_products(a, b, drawn), 1e-10, "products"),
    )


def _row(n: int, models: int, brains: int, count: int, scale: Scale) -> Row:
    products, few = count * models * brains, max(4, count // 20)
    bytes_moved = 8.0 * n * n * (models + brains) + 4.0 * count * n + 8.0 * products
    return Row(
        kernel="gather",
        name=f"{n} stimuli, {models} × {brains} RDMs, {count:,} relabellings",
        device="cpu",
        size=n,
        items=products,
        unit="relabellings",
        work=Work(1.0 * n * (n - 1) * products, bytes_moved, "float64"),
        prepare=partial(_case, n, models, brains, count),
        scale=scale,
        peers=(
            Peer("NumPy, one by one", ("numpy",), "numpy",
                 partial(_numpy, n, models, brains, few), few * models * brains),
        ),
    )  # fmt: skip


ROWS = (
    _row(92, 1, 1, 10_000, "quick"),
    _row(720, 1, 1, 500, "default"),
    _row(720, 4, 4, 200, "default"),
    _row(1854, 1, 1, 100, "default"),
)
