"""Ranks and bootstraps on a real GPU: equal to the CPU's, at sizes that its memory is made for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rsafast_kernels.device import cuda_missing
from rsafast_kernels.rank import average_ranks
from rsafast_kernels.resample import Resampler

import rsafast as rf

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_missing("cupy") is not None, reason=str(cuda_missing("cupy"))),
]


def to_gpu(x: Any) -> Any:
    import cupy

    return cupy.asarray(x)


def drawn(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(count)])


@pytest.mark.parametrize("values", [10, 5000, 10**12])
def test_average_ranks(values: int, rng: np.random.Generator) -> None:
    rows = rng.integers(-values, values, (5, 1_000_003)).astype(float)
    assert np.array_equal(average_ranks(to_gpu(rows)).get(), average_ranks(rows))
    assert np.array_equal(average_ranks(to_gpu(rows[0])).get(), average_ranks(rows[0]))


@pytest.mark.parametrize("ranks", [True, False], ids=["ranks", "values"])
@pytest.mark.parametrize("kind", ["continuous", "some ties", "two values"])
@pytest.mark.parametrize(("n", "models", "brains"), [(92, 30, 12), (720, 7, 3), (4500, 2, 1)])
def test_products_on_resamples(
    n: int, models: int, brains: int, kind: str, ranks: bool, rng: np.random.Generator
) -> None:
    pairs = n * (n - 1) // 2
    a, b = (
        rng.standard_normal((k, pairs)) if kind == "continuous"
        else rng.integers(0, 2 if kind == "two values" else pairs // 3, (k, pairs)).astype(float)
        for k in (models, brains)
    )  # fmt: skip
    keep = rng.random(pairs) < 0.9 if n == 92 else np.ones(pairs, bool)
    weights = np.concatenate([drawn(rng, n, 3 if n > 1000 else 20), np.ones((1, n), int)])
    options = {"ranks": ranks, "centred": True, "keep": keep}
    got = Resampler(to_gpu(a), to_gpu(b), n, **options)(weights)
    wanted = Resampler(a, b, n, **options)(weights)
    if ranks and n <= 720:
        for name in ("products", "squares_a", "squares_b", "pairs"):
            assert np.array_equal(getattr(got, name), getattr(wanted, name)), name
        return
    length = np.sqrt(wanted.squares_a[:, :, None] * wanted.squares_b[:, None, :])
    assert np.max(np.abs(got.products - wanted.products) / length) < 1e-11
    np.testing.assert_allclose(got.squares_a, wanted.squares_a, rtol=1e-11)
    np.testing.assert_allclose(got.squares_b, wanted.squares_b, rtol=1e-11)


@pytest.mark.parametrize("method", ["spearman", "pearson", "rho-a", "cosine"])
def test_replicates_of_a_bootstrap(method: str, rng: np.random.Generator) -> None:
    points = rng.standard_normal((200, 8))
    models, brain = (
        rf.compute_rdms(points + rng.standard_normal((k, 200, 8)), "euclidean", device="cpu")
        for k in (6, 8)
    )
    given: dict[str, Any] = {
        "method": method, "resample": ("stimuli", "subjects"), "n_resamples": 500,
        "progress": False,
    }  # fmt: skip
    there, here = (rf.bootstrap(models, brain, **given, device=d) for d in ("cuda", "cpu"))
    assert (there.parameters["device"], here.parameters["device"]) == ("cuda", "cpu")
    np.testing.assert_allclose(there.replicates, here.replicates, rtol=0, atol=1e-10)
    cut = rf.bootstrap(models, brain, **given, device="cuda", memory_budget="30MB")
    np.testing.assert_allclose(cut.replicates, there.replicates, rtol=0, atol=1e-12)
