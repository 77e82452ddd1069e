"""Products on resamples equal those of the resample written out: any ISA, threads, ties, masks."""

import importlib

import numpy as np
import pytest
from rsafast_kernels import resample, threads
from rsafast_kernels._native import available
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.resample import Resampler, weighted_ranks
from rsafast_kernels.resample.reference import resampled_products
from scipy.stats import rankdata

# Sums of up to 10^5 terms that may cancel by a factor of a thousand.
TOLERANCE = 1e-11
OPTIONS = {
    "spearman": {"ranks": True, "centred": True},
    "ranks as they are": {"ranks": True},
    "pearson": {"centred": True},
    "cosine": {},
    "whitened pearson": {"centred": True, "whitened": True},
    "whitened cosine": {"whitened": True},
    "whitened spearman": {"ranks": True, "centred": True, "whitened": True},
}
WHITENED = [name for name in OPTIONS if "whitened" in name]
VALUES = {
    "continuous": lambda rng, shape: rng.standard_normal(shape),
    "few values": lambda rng, shape: rng.integers(0, 3, shape).astype(float),
    "some ties": lambda rng, shape: rng.integers(0, 400, shape).astype(float),
    "categories and more": lambda rng, shape: np.where(
        rng.random((shape[0], 1)) < 0.5, rng.integers(0, 2, shape), rng.random(shape)
    ),
    "constant": lambda rng, shape: np.full(shape, 0.3),
    "one far value": lambda rng, shape: np.where(
        np.arange(shape[1]) == 0, 1e9, rng.random(shape)
    ),
}


@pytest.fixture(params=available())
def any_isa(request, monkeypatch):
    module = importlib.import_module(f"rsafast_kernels._native.{request.param}")
    monkeypatch.setattr(resample, "native", module)
    return request.param


def bootstrap(rng, n, count):
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(count)])


def hostile(rng, n):
    """Resamples that a bootstrap draws once in a lifetime, and weights of other kinds."""
    one = np.eye(n, dtype=int)
    filling = (n // 2 + 1) * one[0] + (n - n // 2 - 1) * one[n - 1]  # its c is infinite
    few = np.zeros(n, int)
    few[:3] = 1, n - 2, 1
    return np.stack([n * one[0], filling, few, 1 - one[n // 2], 0 * one[0], np.ones(n, int),
                     rng.integers(0, 2, n), rng.integers(0, 9, n)])  # fmt: skip


def assert_equal_products(got, expected, tolerance=TOLERANCE):
    products, squares_a, squares_b, pairs = expected
    np.testing.assert_array_equal(got.pairs, pairs)
    for ours, theirs in ((got.squares_a, squares_a), (got.squares_b, squares_b)):
        noise = 1e-9 * np.maximum(theirs.max(initial=0), 1)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=1e-7 * noise)
    scale = np.sqrt(squares_a[:, :, None] * squares_b[:, None, :])
    scale[scale < 1e-12] = 1
    assert np.max(np.abs(got.products - products) / scale, initial=0) < tolerance


def written_out(a, b, weights, keep, ranks):
    """The centred products of long RDMs: every copy of a pair, ranked by SciPy."""
    n = weights.shape[1]
    x, y = np.triu_indices(n, 1)
    out = []
    for w in weights:
        copies = w[x] * w[y] * keep
        left, right = (
            np.stack([rankdata(np.repeat(v, copies)) if ranks else np.repeat(v, copies) for v in s])
            for s in (a, b)
        )
        left, right = (v - v.mean(axis=1, keepdims=True) for v in (left, right))
        out.append((left @ right.T, (left**2).sum(1), (right**2).sum(1), copies.sum()))
    return tuple(np.array(part) for part in zip(*out, strict=True))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("n", [4, 5, 9, 16, 17])
def test_equals_the_resample_written_out(n, option, rng, any_isa):
    pairs = n * (n - 1) // 2
    a, b = rng.standard_normal((3, pairs)), rng.integers(0, 6, (4, pairs)).astype(float)
    draws = bootstrap(rng, n, 5 if n > 9 else 18)
    weights = np.concatenate([draws, hostile(rng, n)[:4]])
    # The reference solves the whitened system of every copy: singular where a stimulus fills it.
    got = Resampler(a, b, n, **OPTIONS[option])(weights)
    flags = {"ranks": False, "centred": False, "whitened": False} | OPTIONS[option]
    assert_equal_products(
        got, resampled_products(a, b, weights, np.ones(pairs, bool), **flags), 1e-9
    )


@pytest.mark.parametrize("option", [name for name in OPTIONS if name not in WHITENED])
@pytest.mark.parametrize("n", [4, 17, 33])
def test_a_mask_leaves_out_pairs_whatever_they_hold(n, option, rng, any_isa):
    pairs = n * (n - 1) // 2
    keep = rng.random(pairs) < 0.6
    a, b = rng.random((2, pairs)), rng.random((5, pairs))
    weights = np.concatenate([bootstrap(rng, n, 4), hostile(rng, n)[4:6]])
    flags = {"ranks": False, "centred": False, "whitened": False} | OPTIONS[option]
    expected = resampled_products(a, b, weights, keep, **flags)
    for junk in (np.nan, np.inf, 1e300):
        got = Resampler(
            np.where(keep, a, junk), np.where(keep, b, junk), n, keep=keep, **OPTIONS[option]
        )(weights)
        assert_equal_products(got, expected)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("ranks", [True, False], ids=["ranks", "values"])
@pytest.mark.parametrize("n", [33, 127, pytest.param(200, marks=pytest.mark.slow)])
def test_long_rdms(n, values, ranks, rng, any_isa):
    pairs = n * (n - 1) // 2
    a, b = (VALUES[values](rng, (k, pairs)) for k in (5, 3))
    keep = np.ones(pairs, bool) if n != 127 else rng.random(pairs) < 0.9
    weights = np.concatenate([bootstrap(rng, n, 17), hostile(rng, n)[[3, 5, 6, 7]]])
    got = Resampler(a, b, n, ranks=ranks, centred=True, keep=keep)(weights)
    expected = list(written_out(a, b, weights, keep, ranks))
    if values == "constant":
        assert not got.squares_a.any()
        assert not got.squares_b.any()
        return
    assert_equal_products(got, expected, TOLERANCE if ranks or values != "one far value" else 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("n", [720, 760])  # 64 chunks of the order, and more
def test_ranks_of_a_whole_study(n, rng, any_isa):
    pairs = n * (n - 1) // 2
    a, b = rng.standard_normal((4, pairs)), rng.standard_normal((2, pairs))
    a[1] = np.round(a[1], 3)
    # A stimulus far from all others, drawn often: the weights of neighbours in order add up.
    x, y = np.triu_indices(n, 1)
    a[2] += 10.0 * ((x < 6) | (y < 6))
    weights = bootstrap(rng, n, 5)
    weights[3, :6] = 11
    weights[4, :6] = 40
    got = Resampler(a, b, n, ranks=True, centred=True)(weights)
    assert_equal_products(got, written_out(a, b, weights, np.ones(pairs, bool), True), 1e-12)


def test_large_counts_keep_ranks_exact(rng, any_isa):
    n = 21
    a, b = rng.random((2, 210)), rng.random((2, 210))
    weights = np.concatenate([bootstrap(rng, n, 3) * 700, bootstrap(rng, n, 3) * 30])
    got = Resampler(a, b, n, ranks=True, centred=True)(weights)
    for r, w in enumerate(weights):
        x, y = np.triu_indices(n, 1)
        copies = (w[x] * w[y]).astype(float)
        left, right = (
            v - (v @ copies / copies.sum())[:, None]
            for v in (weighted_ranks(a, copies), weighted_ranks(b, copies))
        )
        expected = np.einsum("mp,np,p->mn", left, right, copies)
        scale = np.sqrt(np.outer(*(np.einsum("mp,mp,p->m", v, v, copies) for v in (left, right))))
        assert np.max(np.abs(got.products[r] - expected) / scale) < 1e-12


@pytest.mark.parametrize("option", WHITENED)
def test_whitening_where_one_stimulus_fills_the_resample(option, rng, any_isa):
    n = 12
    a, b = rng.random((2, 66)), rng.random((3, 66))
    weights = hostile(rng, n)[1:3]
    got = Resampler(a, b, n, **OPTIONS[option])(weights)
    flags = {"ranks": False, "centred": False, "whitened": False} | OPTIONS[option]
    expected = resampled_products(a, b, weights, np.ones(66, bool), **flags)
    np.testing.assert_allclose(got.products, expected[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("option", ["spearman", "ranks as they are", "pearson", "whitened pearson"])
def test_invariant_to_threads_and_to_how_resamples_are_cut(option, rng, any_isa):
    n, pairs = 61, 61 * 30
    a, b = rng.standard_normal((37, pairs)), rng.standard_normal((3, pairs))
    weights = np.concatenate([bootstrap(rng, n, 34), hostile(rng, n)])
    resampler = Resampler(a, b, n, **OPTIONS[option])
    whole = resampler(weights)
    for count in (1, 2, 3):
        with threads(count):
            again = resampler(weights)
            parts = [resampler(weights[k : k + 13]) for k in range(0, len(weights), 13)]
        for name in ("products", "squares_a", "squares_b", "pairs"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(again, name))
            joined = np.concatenate([getattr(p, name) for p in parts])
            np.testing.assert_array_equal(getattr(whole, name), joined)


@pytest.mark.parametrize("option", OPTIONS)
def test_sides_may_be_exchanged(option, rng):
    a, b = rng.random((2, 136)), rng.random((30, 136))
    weights = bootstrap(rng, 17, 3)
    one = Resampler(a, b, 17, **OPTIONS[option])(weights)
    other = Resampler(b, a, 17, **OPTIONS[option])(weights)
    np.testing.assert_array_equal(one.products, other.products.transpose(0, 2, 1))
    np.testing.assert_array_equal(one.squares_a, other.squares_b)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("sizes", [[1, 1, 1], [4], [3, 1, 28, 2]], ids=str)
def test_groups_are_sums_of_rdms_of_one_length(option, sizes, rng, any_isa):
    n, pairs, groups = 41, 41 * 20, np.repeat(np.arange(len(sizes)), sizes)
    a, b = rng.standard_normal((5, pairs)), rng.integers(0, 90, (sum(sizes), pairs)).astype(float)
    b[-1] = 2.5  # without spread: adds nothing where values are centred
    draws = bootstrap(rng, n, 3 if "whitened spearman" in option else 19)
    weights = np.concatenate([draws, hostile(rng, n)[[3, 5, 6, 7]]])
    each = Resampler(a, b, n, **OPTIONS[option])(weights)
    grouped = Resampler(a, b, n, groups=groups, **OPTIONS[option])
    for count in (1, 3):
        with threads(count):
            got = grouped(weights)
        for name in ("squares_a", "squares_b", "pairs"):
            np.testing.assert_array_equal(getattr(got, name), getattr(each, name))
        scale = np.sqrt(each.squares_b)[:, None]
        unit = np.divide(each.products, scale, where=scale > 0, out=np.zeros(each.products.shape))
        expected = np.stack([unit[..., groups == g].sum(axis=2) for g in range(len(sizes))], 2)
        length = np.sqrt(each.squares_a)[..., None] * np.asarray(sizes)
        assert np.max(np.abs(got.products - expected) / length) < 1e-13


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("count", [0, 1])
def test_no_resample_or_one(option, count, rng, any_isa):
    got = Resampler(rng.random((2, 21)), rng.random((3, 21)), 7, **OPTIONS[option])(
        np.ones((count, 7), int)
    )
    assert got.products.shape == (count, 2, 3)
    assert got.squares_a.shape == (count, 2)
    assert got.squares_b.shape == (count, 3)
    np.testing.assert_array_equal(got.pairs, np.full(count, 21))


def test_no_rdms_on_a_side(rng, any_isa):
    for ranks in (True, False):
        got = Resampler(np.empty((0, 10)), rng.random((2, 10)), 5, ranks=ranks, centred=True)(
            np.ones((3, 5), int)
        )
        assert got.products.shape == (3, 0, 2)
        assert (got.squares_b > 0).all()


def test_a_resample_of_one_stimulus_has_no_products(rng, any_isa):
    for flags in OPTIONS.values():
        got = Resampler(rng.random((2, 10)), rng.random((2, 10)), 5, **flags)([[5, 0, 0, 0, 0]])
        assert not got.products.any()
        assert not got.squares_a.any()
        assert got.pairs == 0


@pytest.mark.parametrize("values", VALUES)
def test_ranks_of_one_resample_are_exact(values, rng, any_isa):
    n, pairs = 40, 780
    a = VALUES[values](rng, (3, pairs))
    keep = rng.random(pairs) < 0.8
    x, y = np.triu_indices(n, 1)
    for w in (*bootstrap(rng, n, 3), *hostile(rng, n)):
        copies = w[x] * w[y] * keep
        got, _ = Resampler(a, a[:1], n, ranks=True, keep=keep).ranks(w)
        for row, v in zip(got, a, strict=True):
            expected = np.zeros(pairs)
            expected[np.repeat(np.arange(pairs), copies)] = rankdata(np.repeat(v, copies))
            np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("size", [1, 2, 127, 20_001])
def test_weighted_ranks_are_those_of_the_copies(size, values, rng):
    rows = VALUES[values](rng, (2, size))
    weights = rng.integers(0, 4, size)
    rows[:, weights == 0] = np.nan
    for row, got in zip(rows, weighted_ranks(rows, weights), strict=True):
        expected = np.zeros(size)
        expected[np.repeat(np.arange(size), weights)] = rankdata(np.repeat(row, weights))
        np.testing.assert_array_equal(got, expected)


def test_names_what_is_wrong(rng):
    a = rng.random((2, 10))
    for arguments, message in (
        ((a, a, 4), r"a must be \(RDMs, 6\)"),
        ((a, a[0], 5), r"b must be \(RDMs, 10\)"),
        ((a, a, 1), "from 2 to 16383"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            Resampler(*arguments)
    with pytest.raises(InvalidInputError, match=r"keep must be \(10,\)"):
        Resampler(a, a, 5, keep=np.ones(9, bool))
    with pytest.raises(InvalidInputError, match="under a mask"):
        Resampler(a, a, 5, whitened=True, keep=np.arange(10) > 0)
    for groups in ([0], [[0, 1]], [1, 0], [0, 2], [1, 1], [0.0, 0.5]):
        with pytest.raises(InvalidInputError, match="groups must number"):
            Resampler(a, a, 5, groups=groups)
    holed = np.where(np.arange(10) == 3, np.nan, a)
    for ranks in (True, False):
        with pytest.raises(InvalidInputError, match="finite"):
            Resampler(holed, a, 5, ranks=ranks)
    resampler = Resampler(a, a, 5, ranks=True)
    for weights, message in (
        (np.ones(5, int), r"\(resamples, 5\)"),
        (np.ones((2, 4), int), r"\(resamples, 5\)"),
        (np.full((1, 5), 0.5), "counts"),
        (np.full((1, 5), -1), "counts"),
        (np.full((1, 5), np.nan), "counts"),
        (np.full((1, 5), 10_000), "46340"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            resampler(weights)
    with pytest.raises(InvalidInputError, match="ranks=True"):
        Resampler(a, a, 5).ranks(np.ones(5, int))
