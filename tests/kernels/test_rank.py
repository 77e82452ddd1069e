"""Ranks equal scipy's to the last bit: ties, skew, extremes, any number of threads, any ISA."""

import importlib

import numpy as np
import pytest
from rsafast_kernels import threads
from rsafast_kernels._native import available
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.rank import average_ranks, reference
from scipy.stats import rankdata

LONG = 40_011  # beyond one bucket, and odd
SIZES = [0, 1, 2, 3, 31, 33, 127, 1000, 16_384, 16_385, LONG]

DISTRIBUTIONS = {
    "uniform": lambda r, n: r.random(n),
    "normal": lambda r, n: r.normal(size=n),
    "cauchy": lambda r, n: r.standard_cauchy(n),
    "all exponents": lambda r, n: 10.0 ** r.uniform(-300, 300, n) * r.choice([-1, 1], n),
    "two values": lambda r, n: r.integers(0, 2, n).astype(float),
    "twenty values": lambda r, n: r.integers(0, 20, n).astype(float),
    "many ties": lambda r, n: r.integers(0, n // 3 + 1, n).astype(float),
    "constant": lambda r, n: np.full(n, 0.1),
    "sorted": lambda r, n: np.arange(n, dtype=float),
    "reversed": lambda r, n: -np.arange(n, dtype=float),
    "mostly zero": lambda r, n: np.where(r.random(n) < 0.9, 0.0, r.normal(size=n)),
    "signed zeros": lambda r, n: r.choice([-0.0, 0.0, 1.0, -1.0], n),
    "largest": lambda r, n: r.choice([-1.7e308, 1.7e308, 0.0], n) * r.random(n),
    "denormal": lambda r, n: r.integers(0, 99, n) * 5e-324,
    "one far value": lambda r, n: np.append(r.random(max(n - 1, 0)), 1e300)[:n],
    # Every other ulp above 1: the linear map of a bucket has a range of a few dozen ulps.
    "neighbouring": lambda r, n: 1.0 + r.integers(0, 64, n) * 2.0**-52,
    "clusters in clusters": lambda r, n: np.cumprod(r.choice([0.5, 1e-3], (n, 8)), 1).sum(1),
}


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_equals_scipy(rng, name, dtype):
    for n in SIZES:
        with np.errstate(over="ignore"):
            x = DISTRIBUTIONS[name](rng, n).astype(dtype)
        x = np.nan_to_num(x)
        np.testing.assert_array_equal(average_ranks(x), rankdata(x), err_msg=f"n={n}")


def test_matches_reference(rng):
    for n in (1, 6, 500, LONG):
        x = rng.integers(0, n, (2, n)) / 7
        np.testing.assert_array_equal(average_ranks(x), reference.average_ranks(x))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 6), (2000, 6), (37, 4186), (2, LONG)])
def test_rows_are_ranked_separately(rng, shape):
    x = rng.integers(0, 50, shape) / 3
    ranks = average_ranks(x)
    assert ranks.shape == shape
    assert ranks.dtype == np.float64
    np.testing.assert_array_equal(ranks, rankdata(x, axis=-1).reshape(shape))


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
def test_same_on_every_isa_and_thread_count(rng, isa, n_threads):
    kernel = importlib.import_module(f"rsafast_kernels._native.{isa}")
    x = np.round(rng.normal(size=(3, LONG)), 4)
    ranks = np.full(x.shape, np.nan)
    kernel.rank_average_ranks(x, ranks, n_threads)
    np.testing.assert_array_equal(ranks, rankdata(x, axis=-1))
    with threads(n_threads):
        np.testing.assert_array_equal(average_ranks(x), ranks)


def test_a_sample_that_misses_the_crowd_stays_correct(rng):
    # Values tied in blocks, so that samples and values disagree most.
    x = np.repeat(rng.normal(size=5), LONG // 5)
    x[::97] = rng.normal(size=len(x[::97])) * 1e-9
    np.testing.assert_array_equal(average_ranks(x), rankdata(x))


def test_leaves_input_alone_and_takes_any_layout(rng):
    base = rng.normal(size=(50, 64))
    base.flags.writeable = False
    before = base.copy()
    for view in (
        base,
        base[:, ::3],
        base.T,
        np.asfortranarray(base),
        base[::-1],
        base.astype(">f8"),
    ):
        np.testing.assert_array_equal(average_ranks(view), rankdata(view, axis=-1))
    np.testing.assert_array_equal(base, before)
    np.testing.assert_array_equal(average_ranks([3, 1, 1]), [3, 1.5, 1.5])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rejects_non_finite(rng, value):
    x = rng.normal(size=LONG)
    x[[777, 30_000]] = value
    with pytest.raises(InvalidInputError, match=r"values\[777\] is"):
        average_ranks(x)
    with pytest.raises(InvalidInputError, match=r"values\[1, 777\] is"):
        average_ranks(np.stack([np.arange(float(LONG)), x]).astype(np.float32))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 2, 2)), "shape"),
        (np.array(1.0), "shape"),
        (["a", "b"], "real numbers"),
        (np.zeros(3, complex), "real numbers"),
        (np.array([2**60, 2**60 + 1]), "2\\*\\*53"),
    ],
)
def test_rejects_what_it_cannot_rank(values, message):
    with pytest.raises(InvalidInputError, match=message):
        average_ranks(values)
