"""Products of RDMs on resamples, read in rows: against resamples that are written out."""

import importlib

import numpy as np
import pytest
from rsafast_kernels import threads
from rsafast_kernels._native import available
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.resample import Resampler, reference, streaming
from rsafast_kernels.resample.streaming import CLASSES, RankSums, ValueSums, working_bytes

PAIRS = [(0, 1), (2, 0), (1, 2), (1, 1)]
SIZES = [2, 3, 4, 17, 63, 66, 131]  # a stretch of pairs, and one more
EACH = ["ranks", "pearson", "cosine"]


@pytest.fixture(params=available())
def any_isa(request, monkeypatch):
    module = importlib.import_module(f"rsafast_kernels._native.{request.param}")
    monkeypatch.setattr(streaming, "native", module)


def rows_of(values, first, last, n):
    begin, end = (row * n - row * (row + 1) // 2 for row in (first, last))
    return np.ascontiguousarray(values[:, begin:end])


def streamed(kind, values, weights, step):
    """Correlations from panels of `step` rows."""
    n = weights.shape[1]
    panels = [(first, min(first + step, n)) for first in range(0, n, step)]
    if kind != "ranks":
        sums = ValueSums(weights, len(values), PAIRS, centred=kind == "pearson")
        for first, last in panels:
            sums.multiply(rows_of(values, first, last, n), first, last)
        return sums.correlations()
    classes = np.stack([np.unique(row, return_inverse=True)[1] for row in values])
    ranked = RankSums(weights, len(values), PAIRS)
    for step_of_two in (ranked.count, ranked.multiply):
        for first, last in panels:
            step_of_two(rows_of(classes.astype(np.uint16), first, last, n), first, last)
        if step_of_two == ranked.count:
            ranked.rank()
    return ranked.correlations()


def written_out(kind, values, weights):
    a, b = (values[list(side)] for side in zip(*PAIRS, strict=True))
    keep = np.ones(values.shape[1], bool)
    how = {"ranks": kind == "ranks", "centred": kind != "cosine", "whitened": False}
    out = np.full((len(weights), len(PAIRS)), np.nan)
    for q in range(len(PAIRS)):
        products, left, right, _ = reference.resampled_products(
            a[q : q + 1], b[q : q + 1], weights, keep, **how
        )
        scale = np.sqrt(left * right)[:, 0]
        # Without spread the reference is left with rounding.
        there = scale > 1e-12 * np.abs(values).max() ** 2
        out[there, q] = products[there, 0, 0] / scale[there]
    return out


def in_memory(kind, values, weights):
    """What the kernel of whole RDMs finds, which is compared with resamples elsewhere."""
    n, how = weights.shape[1], {"ranks": kind == "ranks", "centred": kind != "cosine"}
    got = Resampler(values, values, n, **how)(weights)
    a, b = np.transpose(PAIRS)
    return got.products[:, a, b] / np.sqrt(got.squares_a[:, a] * got.squares_b[:, b])


def bootstrap_weights(rng, resamples, n):
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(resamples)])


@pytest.mark.usefixtures("any_isa")
@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("n", SIZES)
def test_correlations_are_those_of_resamples_written_out(kind, n):
    rng = np.random.default_rng(n)
    values = rng.standard_normal((3, n * (n - 1) // 2))
    values[2] = np.round(values[2])  # ties
    weights = bootstrap_weights(rng, 19, n)
    got = streamed(kind, values, weights, n)
    want = (written_out if n < 20 else in_memory)(kind, values, weights)
    np.testing.assert_allclose(got, want, atol=2e-7 if kind == "ranks" else 1e-12)


@pytest.mark.parametrize("kind", EACH)
def test_neither_threads_nor_panels_change_a_bit(kind):
    rng = np.random.default_rng(0)
    n = 301
    values = rng.standard_normal((3, n * (n - 1) // 2))
    weights = bootstrap_weights(rng, 50, n)
    with threads(1):
        want = streamed(kind, values, weights, n)
        alone = streamed(kind, values, weights[17:18], n)
    with threads(3):
        for step in (1, 7, 200):
            np.testing.assert_array_equal(streamed(kind, values, weights, step), want)
    np.testing.assert_array_equal(alone, want[17:18])


@pytest.mark.parametrize("kind", EACH)
def test_resamples_without_spread_have_no_value(kind):
    rng = np.random.default_rng(1)
    n = 12
    values = rng.standard_normal((3, n * (n - 1) // 2))
    weights = np.zeros((4, n), int)
    weights[1, 3] = 200  # one stimulus, no pairs
    weights[2, [3, 7]] = 255  # one pair
    weights[3] = 1
    values[1] = 0.1
    got = streamed(kind, values, weights, 5)
    assert np.isnan(got[:2]).all()
    if kind == "cosine":
        assert np.abs(got[2]) == pytest.approx(1)
    else:
        assert np.isnan(got[2]).all()
        assert np.isnan(got[3, [0, 2, 3]]).all()
    assert np.isfinite(got[3, 1])


def test_as_many_values_as_there_are_classes_are_told_apart():
    n = 362  # 65,341 pairs
    rng = np.random.default_rng(2)
    values = np.stack([rng.permutation(n * (n - 1) // 2).astype(float) for _ in range(3)])
    weights = bootstrap_weights(rng, 1, n)
    assert len(np.unique(values[0])) <= CLASSES
    got, want = streamed("ranks", values, weights, 100), in_memory("ranks", values, weights)
    np.testing.assert_allclose(got, want, atol=1e-7)


@pytest.mark.parametrize("kind", EACH)
def test_all_counts_255_times_as_large_change_nothing(kind):
    values = np.random.default_rng(3).standard_normal((3, 105))
    once = np.arange(15)[None] % 4 > 0
    got, want = (streamed(kind, values, k * once, 2) for k in (255, 1))
    np.testing.assert_allclose(got, want, atol=1e-7)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ([[1, 256]], "0 to 255 times, got 1 to 256"),
        ([[1, -1]], "got -1 to 1"),
        ([[0.5, 1]], "counts of every stimulus"),
        ([1, 2], "counts of every stimulus"),
        (np.full((1, 400), 250), "at most 92681 stimuli, got 100000"),
    ],
)
def test_bad_weights_are_refused(weights, told):
    with pytest.raises(InvalidInputError, match=told):
        RankSums(weights, 1, [(0, 0)])
    with pytest.raises(InvalidInputError, match=told):
        ValueSums(weights, 1, [(0, 0)], centred=True)


def test_panels_of_another_shape_are_refused():
    sums = RankSums(np.ones((1, 5), int), 2, [(0, 1)])
    with pytest.raises(InvalidInputError, match=r"rows 0 to 2 of 2 RDMs of 5 stimuli are \(2, 7\)"):
        sums.count(np.zeros((2, 6), np.uint16), 0, 2)
    with pytest.raises(InvalidInputError, match="uint16"):
        sums.multiply(np.zeros((2, 7)), 0, 2)
    with pytest.raises(InvalidInputError, match="float64"):
        ValueSums(np.ones((1, 5), int), 2, [(0, 1)], centred=True).multiply(
            np.zeros((2, 7), np.float32), 0, 2
        )


@pytest.mark.parametrize("ranks", [True, False])
def test_working_bytes_are_those_of_the_tables(ranks):
    weights = np.ones((33, 500), int)
    sums = (
        RankSums(weights, 3, PAIRS) if ranks else ValueSums(weights, 3, PAIRS, centred=True)
    )
    held = sum(v.nbytes for v in vars(sums).values() if isinstance(v, np.ndarray))
    assert held <= working_bytes(500, 33, 3, ranks=ranks) + 64 * 1024
