"""Batched RDMs on a device, at sizes that people have. Needs a GPU: pytest -m gpu."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from rsafast_kernels.device import cuda_missing  # noqa: E402
from rsafast_kernels.pairwise import METRICS, pairwise_distances  # noqa: E402

REASON = cuda_missing("torch", "triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None, reason=f"needs a GPU: {REASON}"),
]

PRODUCTS = ["bf16x3", "bf16x6", "tf32x3", "ieee"]
# Largest relative error of any pair (see docs/methods.md), and of the median pair.
WORST, TYPICAL = 1e-4, 1e-6


def make(metric, n, p, dtype=np.float32, seed=0):
    """Input and precision that suit the metric."""
    rng = np.random.default_rng(seed)
    shape = (3, n, p) if metric == "crossnobis" else (n, p)
    x = rng.poisson(4, shape) if metric == "poisson" else rng.normal(size=shape)
    if metric not in ("mahalanobis", "crossnobis"):
        return x.astype(dtype), None
    root = rng.normal(size=(p, p)) / np.sqrt(p) + np.eye(p)
    return x.astype(dtype), root @ root.T + 0.1 * np.eye(p)


def on_cpu(x, metric, precision=None):
    """float64 on the CPU, which tests/kernels/test_pairwise.py holds against the reference."""
    return pairwise_distances(x.astype(np.float64), metric, precision=precision, device="cpu")


def assert_within(got, want, metric):
    # crossnobis has either sign: its error is one of the largest value.
    error = np.abs(got - want) / (np.abs(want).max() if metric == "crossnobis" else np.abs(want))
    assert np.isfinite(got).all()
    assert error.max() < WORST
    assert np.median(error) < TYPICAL


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "p"), [(2, 7), (92, 1001), (720, 512), (1854, 64)])
def test_metrics_match_float64(metric, n, p):
    x, precision = make(metric, n, p)
    got = pairwise_distances(x, metric, precision=precision, device="cuda")
    assert got.dtype == np.float32
    assert_within(got, on_cpu(x, metric, precision), metric)


@pytest.mark.parametrize("metric", METRICS)
def test_float64_stays_float64(metric):
    x, precision = make(metric, 200, 130, np.float64)
    got = pairwise_distances(x, metric, precision=precision, device="cuda")
    want = on_cpu(x, metric, precision)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("kind", ["Gaussian", "rectified", "near-duplicates"])
@pytest.mark.parametrize("p", [64, 4096])
def test_errors_of_products_are_what_is_documented(products, kind, p):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1000, p))
    if kind == "rectified":
        x = np.maximum(x + rng.normal(size=p), 0)
    if kind == "near-duplicates":
        x[1::2] = x[::2] + np.logspace(-6, 0.3, 500)[:, None] * x[1::2]
    x = x.astype(np.float32)
    got = pairwise_distances(x, "correlation", device="cuda", products=products)
    error = np.abs(got - on_cpu(x, "correlation")) / on_cpu(x, "correlation")
    assert error.max() < WORST
    assert np.median(error) < TYPICAL


@pytest.mark.parametrize("products", PRODUCTS)
def test_duplicates_are_exactly_zero(products):
    x, _ = make("euclidean", 300, 777)
    x[150:] = x[:150]
    i, j = np.triu_indices(300, 1)
    for metric in ("euclidean", "correlation", "cosine", "cityblock"):
        got = pairwise_distances(x, metric, device="cuda", products=products)
        assert (got[j == i + 150] == 0).all()
        assert (got >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["correlation", "euclidean", "cityblock"])
def test_ten_thousand_rows(metric):
    x, _ = make(metric, 10_000, 512)
    got = pairwise_distances(x, metric, device="cuda")
    assert_within(got, pairwise_distances(x.astype(np.float64), metric, device="cpu"), metric)


# More than 2**31 pairs: positions in memory need 64 bits.
@pytest.mark.slow
def test_more_pairs_than_32_bits_count():
    n = 66_000
    x = torch.randn(n, 32, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    try:
        got = pairwise_distances(x, "sqeuclidean")
    except torch.OutOfMemoryError:
        pytest.skip("the GPU has less than the 9 GB that the distances take")
    for i in (0, 40_000, n - 3, n - 2):
        start = i * n - i * (i + 1) // 2
        row = got[start : start + n - 1 - i]
        want = (x[i + 1 :].double() - x[i].double()).square().sum(dim=1)
        assert ((row - want).abs() / want).max() < WORST


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("shape", [(30, 5000), (500, 300), (3, 720, 4096)])
def test_two_calls_are_the_same_bit_for_bit(products, shape):
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    first, second = (
        pairwise_distances(x, "correlation", device="cuda", products=products) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_tensors_are_shared_and_stay_on_the_device():
    x = torch.randn(4, 300, 65, device="cuda")
    before, address = x.clone(), x.data_ptr()
    got = pairwise_distances(x, "cosine")
    assert got.is_cuda
    assert (x.data_ptr(), torch.equal(x, before)) == (address, True)
    for one_set, distances in zip(x.cpu().numpy(), got.cpu().numpy(), strict=True):
        assert_within(distances, on_cpu(one_set, "cosine"), "cosine")


def test_cupy_arrays_come_back_as_cupy_arrays():
    cupy = pytest.importorskip("cupy")
    x, _ = make("correlation", 100, 65)
    got = pairwise_distances(cupy.asarray(x), "correlation")
    assert isinstance(got, cupy.ndarray)
    assert_within(got.get(), on_cpu(x, "correlation"), "correlation")
