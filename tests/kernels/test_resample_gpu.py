"""Resamples and ranks on a GPU, without one: CUDA kernels on the CPU, CuPy on NumPy."""

import numpy as np
import pytest
from rsafast_kernels.cuda import source_of
from rsafast_kernels.errors import InvalidInputError, RsafastError, UnsupportedCaseError
from rsafast_kernels.rank import average_ranks
from rsafast_kernels.rank import gpu as rank_gpu
from rsafast_kernels.resample import Resampler
from rsafast_kernels.resample import gpu as resample_gpu
from rsafast_kernels.resample.gpu import ValueProducts
from rsafast_kernels.resample.reference import resampled_products
from scipy.stats import rankdata

OPTIONS = {
    "spearman": {"ranks": True, "centred": True},
    "ranks as they are": {"ranks": True},
    "pearson": {"centred": True},
    "cosine": {},
}
VALUES = {
    "continuous": lambda rng, shape: rng.standard_normal(shape),
    "some ties": lambda rng, shape: rng.integers(0, 40, shape).astype(float),
    "two values": lambda rng, shape: rng.integers(0, 2, shape).astype(float),
    "one far value": lambda rng, shape: np.where(np.arange(shape[1]) == 0, 1e9, rng.random(shape)),
}


def bootstrap(rng, n, count):
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(count)])


def hostile(rng, n):
    """None, one, two and three stimuli left; all; all but one; many copies."""
    one = np.eye(n, dtype=int)
    few = np.zeros(n, int)
    few[[0, n // 2, n - 1]] = 1, n, 2
    return np.stack([0 * one[0], n * one[1], one[0] + 3 * one[n - 1], few, np.ones(n, int),
                     1 - one[n // 2], rng.integers(0, 9, n)])  # fmt: skip


def assert_equal_products(got, expected, tolerance):
    products, squares_a, squares_b, pairs = expected
    np.testing.assert_array_equal(got.pairs, pairs)
    for ours, theirs in ((got.squares_a, squares_a), (got.squares_b, squares_b)):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=1e-15)
    scale = np.sqrt(squares_a[:, :, None] * squares_b[:, None, :])
    scale[scale < 1e-12] = 1
    assert np.max(np.abs(got.products - products) / scale, initial=0) < tolerance


def fields(products):
    return products.products, products.squares_a, products.squares_b, products.pairs


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("masked", [False, True], ids=["all pairs", "masked"])
@pytest.mark.parametrize("n", [4, 9, 17])
def test_equals_the_resample_written_out(simulated_gpu, n, masked, option, rng):
    pairs = n * (n - 1) // 2
    keep = rng.random(pairs) < 0.6 if masked else np.ones(pairs, bool)
    a, b = rng.standard_normal((3, pairs)), rng.integers(0, 6, (2, pairs)).astype(float)
    weights = np.concatenate([bootstrap(rng, n, 4), hostile(rng, n)[:6]])
    flags = {"ranks": False, "centred": False, "whitened": False} | OPTIONS[option]
    expected = resampled_products(a, b, weights, keep, **flags)
    junk = [np.where(keep, v, np.nan) for v in (a, b)]
    sides = [simulated_gpu.asarray(v) for v in junk]
    got = Resampler(*sides, n, keep=keep, **OPTIONS[option])(weights)
    assert_equal_products(got, expected, 1e-12)


@pytest.mark.parametrize("option", ["spearman", "pearson"])
@pytest.mark.parametrize("values", VALUES)
def test_equals_the_cpu(simulated_gpu, values, option, rng):
    """Several chunks and parts; runs of ties that fit a chunk, and that do not."""
    n = 93  # 4,278 pairs
    a, b = (VALUES[values](rng, (k, n * (n - 1) // 2)) for k in (2, 1))
    weights = np.concatenate([bootstrap(rng, n, 3), hostile(rng, n)])
    sides = [simulated_gpu.asarray(v) for v in (a, b)]
    got = Resampler(*sides, n, **OPTIONS[option])(weights)
    wanted = Resampler(a, b, n, **OPTIONS[option])(weights)
    if option == "spearman":
        for ours, theirs in zip(fields(got), fields(wanted), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    else:
        assert_equal_products(got, fields(wanted), 1e-11 if values != "one far value" else 1e-9)


def test_many_copies_keep_ranks_whole(simulated_gpu, rng):
    n = 41
    a, b = rng.random((2, 820)), rng.integers(0, 30, (2, 820)).astype(float)
    weights = np.concatenate([bootstrap(rng, n, 2) * 1000, bootstrap(rng, n, 2) * 30])
    sides = [simulated_gpu.asarray(v) for v in (a, b)]
    got = Resampler(*sides, n, ranks=True, centred=True)(weights)
    wanted = Resampler(a, b, n, ranks=True, centred=True)(weights)
    assert_equal_products(got, fields(wanted), 1e-14)


def test_without_spread_the_square_is_exactly_zero(simulated_gpu, rng):
    n = 40
    a = np.tile([[0.1], [0.3], [1 / 3]], (1, n * (n - 1) // 2))  # their means round otherwise
    a[2, 0] = 5.0  # that of stimuli 0 and 1
    weights = np.concatenate([bootstrap(rng, n, 3), np.ones((1, n), int)])
    weights[:3, 1] = 0
    for ranks in (True, False):
        there = simulated_gpu.asarray(a)
        got = Resampler(there, there, n, ranks=ranks, centred=True)(weights)
        assert (got.squares_a > 0).tolist() == [[False] * 3] * 3 + [[False, False, True]]
        assert np.array_equal(got.squares_a, got.squares_b)


@pytest.mark.parametrize("option", ["spearman", "cosine"])
@pytest.mark.parametrize("sizes", [[4], [1, 2, 1]], ids=str)
def test_groups_are_sums_of_rdms_of_one_length(simulated_gpu, sizes, option, rng):
    n, groups = 21, np.repeat(np.arange(len(sizes)), sizes)
    a, b = rng.standard_normal((2, 210)), rng.integers(0, 90, (4, 210)).astype(float)
    b[-1] = 0.0  # has no length, and adds nothing
    weights = np.concatenate([bootstrap(rng, n, 3), hostile(rng, n)])
    sides = [simulated_gpu.asarray(v) for v in (a, b)]
    got = Resampler(*sides, n, groups=groups, **OPTIONS[option])(weights)
    wanted = Resampler(a, b, n, groups=groups, **OPTIONS[option])(weights)
    assert got.products.shape == (10, 2, len(sizes))
    length = np.where(wanted.squares_a > 0, wanted.squares_a, 1)[:, :, None]
    assert np.max(np.abs(got.products - wanted.products) / np.sqrt(length)) < 1e-13
    np.testing.assert_allclose(got.squares_b, wanted.squares_b, rtol=1e-14)


@pytest.mark.parametrize("ranks", [True, False], ids=["ranks", "values"])
@pytest.mark.parametrize("sizes", [(0, 2, 3), (2, 0, 3), (1, 1, 0), (1, 1, 1)], ids=str)
def test_few_rdms_and_few_resamples(simulated_gpu, ranks, sizes, rng):
    models, brains, count = sizes
    a, b = rng.random((models, 10)), rng.random((brains, 10))
    weights = np.ones((count, 5), int)
    sides = [simulated_gpu.asarray(v) for v in (a, b)]
    got = Resampler(*sides, 5, ranks=ranks, centred=True)(weights)
    wanted = Resampler(a, b, 5, ranks=ranks, centred=True)(weights)
    for ours, theirs in zip(fields(got), fields(wanted), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def test_more_stimuli_than_shared_memory_holds(simulated_gpu, rng, monkeypatch):
    a = rng.integers(0, 200, (2, 45 * 22)).astype(float)
    weights = bootstrap(rng, 45, 3)
    there = simulated_gpu.asarray(a)
    staged = Resampler(there, there, 45, ranks=True, centred=True)(weights)
    monkeypatch.setattr(resample_gpu, "_STAGED", 44)
    for ours, theirs in zip(
        fields(Resampler(there, there, 45, ranks=True, centred=True)(weights)), fields(staged),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("ranks", [True, False], ids=["ranks", "values"])
def test_out_of_memory_halves_the_resamples_and_goes_on(simulated_gpu, ranks, rng):
    n = 30
    there = simulated_gpu.asarray(rng.random((3, 435)))
    weights = bootstrap(rng, n, 11)
    resampler = Resampler(there, there, n, ranks=ranks, centred=True)
    whole = resampler(weights)
    one = 3 * 2048 * 8  # bytes of one side in a resample
    simulated_gpu.limit = 5 * one
    with pytest.warns(UserWarning, match="less room than planned"):
        cut = resampler(weights)
    for ours, theirs in zip(fields(cut), fields(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    simulated_gpu.limit = one - 1
    no_room = "no room for a single one of the resamples"
    with pytest.raises(RsafastError, match=no_room), pytest.warns():
        resampler(weights)


def test_a_budget_bounds_the_resamples_at_a_time(simulated_gpu, rng):
    there = simulated_gpu.asarray(rng.random((3, 435)))
    weights = bootstrap(rng, 30, 11)
    one = 3 * 2048 * 8
    resampler = Resampler(there, there, 30, ranks=True, budget=5 * one)
    simulated_gpu.largest = 0
    resampler(weights)
    assert simulated_gpu.largest == 2 * one
    with pytest.raises(InvalidInputError, match=r"raise memory_budget, or use device='cpu'"):
        Resampler(there, there, 30, ranks=True, budget=2 * one)(weights)


def test_sums_of_values_and_products_are_those_of_all_pairs(simulated_gpu, rng):
    n, pairs = 12, [(0, 2), (1, 2), (0, 3)]
    values = rng.standard_normal((4, 66))
    weights = np.concatenate([bootstrap(rng, n, 5), hostile(rng, n)])
    x, y = np.triu_indices(n, 1)
    copies = (weights[:, x] * weights[:, y]).astype(float)
    both = [*pairs, *((k, k) for k in range(4))]
    wanted = np.concatenate([np.stack([values[a] * values[b] for a, b in both]), values])
    sums = ValueProducts(simulated_gpu.asarray(values), n, pairs, None)
    np.testing.assert_allclose(sums(weights), copies @ wanted.T, rtol=0, atol=1e-10)
    simulated_gpu.limit = 5 * 8 * n * n
    with pytest.warns(UserWarning, match="products go in smaller blocks"):
        np.testing.assert_allclose(sums(weights), copies @ wanted.T, rtol=0, atol=1e-10)
    with pytest.raises(InvalidInputError, match="raise memory_budget, or use device='cpu'"):
        ValueProducts(simulated_gpu.asarray(values), n, pairs, 5000)(weights)


def test_names_what_is_wrong(simulated_gpu, rng):
    host = rng.random((2, 10))
    there = simulated_gpu.asarray(host)
    with pytest.raises(InvalidInputError, match="move them to one side"):
        Resampler(there, host, 5)
    with pytest.raises(InvalidInputError, match=r"b must be \(RDMs, 10\), got \(2, 9\)"):
        Resampler(there, there[:, 1:], 5)
    with pytest.raises(UnsupportedCaseError, match="NumPy arrays"):
        Resampler(there, there, 5, whitened=True)
    holed = simulated_gpu.asarray(np.where(np.arange(10) == 3, np.nan, host))
    for ranks in (True, False):
        with pytest.raises(InvalidInputError, match="finite"):
            Resampler(there, holed, 5, ranks=ranks)
        Resampler(there, holed, 5, ranks=ranks, keep=np.arange(10) != 3)
    with pytest.raises(InvalidInputError, match="of NumPy arrays"):
        Resampler(there, there, 5, ranks=True).ranks(np.ones(5, int))


def test_sizes_are_those_of_the_kernels():
    source = source_of("resample").read_text()
    for name, value in (
        ("threads", resample_gpu._THREADS), ("part", resample_gpu._PART),
        ("most_staged", resample_gpu._STAGED),
    ):  # fmt: skip
        assert f" {name} = {value}" in source


# ---------------------------------------------------------------- average ranks


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1,), (7,), (1, 6), (40, 6), (3, 5001)])
def test_ranks_equal_scipy(simulated_gpu, shape, dtype, rng, monkeypatch):
    monkeypatch.setattr(rank_gpu, "_VALUES", 100)
    for spread in (3, 10**6):
        values = rng.integers(-spread, spread, shape).astype(dtype)
        if dtype != np.int64:
            values[rng.random(shape) < 0.1] = -0.0
        got = average_ranks(simulated_gpu.asarray(values))
        assert isinstance(got, simulated_gpu.ndarray)
        np.testing.assert_array_equal(got.get(), rankdata(values, axis=-1))


def test_ranks_need_finite_values(simulated_gpu):
    values = np.zeros((3, 4))
    values[1, 2] = np.inf
    with pytest.raises(InvalidInputError, match=r"values\[1, 2\] is inf"):
        average_ranks(simulated_gpu.asarray(values))
