"""Distances against the float64 reference, near-duplicates and extremes first of all."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from rsafast_kernels import pairwise, threads
from rsafast_kernels._native import available
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.pairwise import METRICS, Distances, pairwise_distances, reference

# Worst relative error over the largest distance: a few roundings of products of unit vectors.
ATOL = {np.float64: 1e-14, np.float32: 2e-6}
# Relative error of a single near-duplicate pair: eps / tau in the products, exact when recomputed.
RTOL_NEAR = {np.float64: 1e-10, np.float32: 2e-4}
DTYPES = [np.float64, np.float32]
SHAPES = [(2, 1), (3, 2), (31, 33), (33, 31), (127, 5), (5, 1000)]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def make(rng, metric, n, p, dtype):
    """Input and precision that suit the metric."""
    shape = (3, n, p) if metric == "crossnobis" else (n, p)
    x = rng.normal(size=shape)
    if metric == "poisson":
        x = rng.poisson(4, size=shape).astype(float)
    if metric not in ("mahalanobis", "crossnobis"):
        return x.astype(dtype), None
    root = rng.normal(size=(p, p)) / np.sqrt(p) + np.eye(p)
    return x.astype(dtype), root @ root.T + 0.1 * np.eye(p)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_matches_reference(rng, metric, dtype):
    for n, p in SHAPES:
        if p == 1 and metric == "correlation":
            continue
        x, precision = make(rng, metric, n, p, dtype)
        got = pairwise_distances(x, metric, precision=precision)
        want = reference.pairwise_distances(x, metric, precision=precision)
        assert got.dtype == dtype
        assert got.shape == want.shape
        error = np.abs(got - want).max() / max(np.abs(want).max(), 1.0)
        assert error < ATOL[dtype] * 10, (n, p)


@pytest.mark.parametrize("metric", METRICS)
def test_tiles_make_no_difference(rng, metric, monkeypatch):
    x, precision = make(rng, metric, 131, 40, np.float64)
    plain = pairwise_distances(x, metric, precision=precision)
    monkeypatch.setattr(pairwise, "_INLINE_PRODUCTS", 0)
    monkeypatch.setattr(pairwise, "_TILE_ROWS", 17)
    monkeypatch.setattr(pairwise, "_TILE_COLUMNS", 29)
    tiled = pairwise_distances(x, metric, precision=precision)
    np.testing.assert_allclose(tiled, plain, rtol=0, atol=1e-12 * np.abs(plain).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_near_duplicates_are_accurate(rng, metric, dtype):
    n, p = 12, 60
    x, precision = make(rng, metric, n, p, np.float64)
    step = 1.0 if metric == "poisson" else 1e-3
    x[..., 1::2, :] = x[..., ::2, :]
    x[..., 1::2, 0] += step
    x[..., 5, :] = x[..., 4, :]  # equal
    x = x.astype(dtype)
    got = pairwise_distances(x, metric, precision=precision)
    want = reference.pairwise_distances(x, metric, precision=precision)
    np.testing.assert_allclose(got, want, rtol=RTOL_NEAR[dtype], atol=1e-17)
    if metric != "crossnobis":
        pairs = list(zip(*np.triu_indices(n, 1), strict=True))
        assert got[pairs.index((4, 5))] == 0
        assert (got >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1e4, 1e6])
@pytest.mark.parametrize("metric", [m for m in METRICS if m != "poisson"])
def test_a_large_offset_costs_no_accuracy(rng, metric, offset, dtype):
    x, precision = make(rng, metric, 20, 50, np.float64)
    x = (x + offset).astype(dtype)
    got = pairwise_distances(x, metric, precision=precision)
    want = reference.pairwise_distances(x, metric, precision=precision)
    # mahalanobis and crossnobis whiten the offset in float64 before it goes.
    atol = 1e-8 * np.abs(want).max() if metric in ("mahalanobis", "crossnobis") else 1e-17
    np.testing.assert_allclose(got, want, rtol=max(RTOL_NEAR[dtype], 1e-5), atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["correlation", "cosine"])
def test_unit_metrics_ignore_the_scale_of_rows(rng, metric, dtype):
    x = rng.normal(size=(10, 40)).astype(dtype)
    scales = np.logspace(-30, 30, 10)[:, None].astype(dtype)
    got = pairwise_distances(x * scales, metric)
    np.testing.assert_allclose(got, pairwise_distances(x, metric), rtol=1e-5, atol=1e-6)


def test_extreme_magnitudes_neither_overflow_nor_vanish(rng):
    x = rng.normal(size=(10, 40))
    for dtype, powers in ((np.float32, (-30, 30)), (np.float64, (-250, 250))):
        for power in powers:
            scaled = x.astype(dtype) * dtype(10.0**power)
            got = pairwise_distances(scaled, "euclidean") / dtype(10.0**power)
            np.testing.assert_allclose(got, pairwise_distances(x, "euclidean"), rtol=1e-5)
    mixed = x.astype(np.float32)
    mixed[:4] *= np.float32(1e-25)
    mixed[8], mixed[9] = 1e8, -1e8
    want = reference.pairwise_distances(mixed, "euclidean")
    np.testing.assert_allclose(pairwise_distances(mixed, "euclidean"), want, rtol=1e-4)


def test_correlation_stays_in_its_range(rng):
    x = rng.normal(size=(40, 7)).astype(np.float32)
    d = pairwise_distances(np.vstack([x, -x, 3 * x]), "correlation")
    assert d.min() >= 0
    assert d.max() <= 2
    assert pairwise_distances([[1.0, 2, 3], [3.0, 2, 1]], "correlation")[0] == pytest.approx(2)


@pytest.mark.parametrize("metric", METRICS)
def test_a_stack_equals_its_sets(rng, metric):
    pairs = [make(rng, metric, 9, 6, np.float64) for _ in range(5)]
    precision = pairs[0][1]
    together = pairwise_distances(np.stack([x for x, _ in pairs]), metric, precision=precision)
    for got, (x, _) in zip(together, pairs, strict=True):
        np.testing.assert_array_equal(got, pairwise_distances(x, metric, precision=precision))


@pytest.mark.parametrize("metric", METRICS)
def test_same_for_any_number_of_threads(rng, metric):
    x, precision = make(rng, metric, 600, 70, np.float32)
    results = []
    for n_threads in (1, 2, 3):
        with threads(n_threads):
            results.append(pairwise_distances(x, metric, precision=precision))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "p", "step"), [(301, 60, 64), (2100, 3, 256), (23, 4, 23)])
def test_panels_are_the_whole_bit_for_bit(rng, metric, dtype, n, p, step):
    x, precision = make(rng, metric, n, p, dtype)
    whole = pairwise_distances(x, metric, precision=precision)
    distances = Distances(x, metric, precision=precision)
    assert (distances.n, distances.dtype, distances.step) == (n, dtype, step)
    edges = [*range(0, n, 2 * step), n]
    panels = [distances.panel(a, b) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(panels), whole)


def test_panels_start_and_end_where_tiles_do(rng):
    distances = Distances(rng.normal(size=(301, 60)), "correlation")
    for first, last in ((1, 301), (0, 70), (64, 0), (64, 64), (0, 302), (-64, 64)):
        with pytest.raises(InvalidInputError, match="multiples of 64"):
            distances.panel(first, last)
    with pytest.raises(InvalidInputError, match="single set"):
        Distances(rng.normal(size=(2, 30, 4)), "correlation")


@pytest.mark.parametrize("metric", METRICS)
def test_leaves_input_alone_and_takes_any_layout(rng, metric):
    x, precision = make(rng, metric, 14, 22, np.float64)
    x.flags.writeable = False
    before = x.copy()
    expected = pairwise_distances(x, metric, precision=precision)
    wide = np.repeat(x, 2, axis=-1)[..., ::2]
    for view in (np.asfortranarray(x), wide, x.astype(">f8")):
        np.testing.assert_array_equal(
            pairwise_distances(view, metric, precision=precision), expected
        )
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("metric", METRICS)
def test_one_row_has_no_pairs(rng, metric):
    x, precision = make(rng, metric, 1, 3, np.float64)
    assert pairwise_distances(x, metric, precision=precision).shape == (0,)


def test_integers_are_float64_and_constant_columns_add_nothing(rng):
    x = rng.integers(0, 9, (8, 5))
    got = pairwise_distances(x, "euclidean")
    assert got.dtype == np.float64
    padded = np.hstack([x, np.full((8, 3), 7)])
    np.testing.assert_allclose(pairwise_distances(padded, "euclidean"), got, rtol=1e-14)


@pytest.mark.parametrize("isa", available())
def test_every_instruction_set_passes(isa):
    # A fresh process: the instruction set is chosen when the package is imported.
    code = (
        "import numpy as np\n"
        "from rsafast_kernels.pairwise import METRICS, pairwise_distances, reference\n"
        "from rsafast_kernels import _native\n"
        f"assert _native.isa == {isa!r}\n"
        "r = np.random.default_rng(0)\n"
        "for m in METRICS:\n"
        "    for t, tol in ((np.float32, 1e-5), (np.float64, 1e-13)):\n"
        "        x = r.poisson(3, (2, 21, 37)).astype(t)\n"
        "        x = x if m == 'crossnobis' else x[0]\n"
        "        p = np.eye(37) * 2 if m in ('mahalanobis', 'crossnobis') else None\n"
        "        a = pairwise_distances(x, m, precision=p)\n"
        "        b = reference.pairwise_distances(x, m, precision=p)\n"
        "        assert np.abs(a - b).max() <= tol * np.abs(b).max(), (m, t)\n"
    )
    environment = {**os.environ, "RSAFAST_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_rejects_bad_values_and_names_the_row(rng):
    x = rng.random((6, 5))
    cases = [("correlation", 2, 0.1, "row 2 .*constant"), ("cosine", 3, 0.0, "row 3 .*zero")]
    cases += [("poisson", 4, -1.0, "row 4"), ("euclidean", 5, np.inf, "row 5")]
    for metric, row, value, message in cases:
        bad = x.copy()
        bad[row] = value
        with pytest.raises(InvalidInputError, match=message):
            pairwise_distances(bad, metric)
        with pytest.raises(InvalidInputError, match=message):
            pairwise_distances(np.stack([x, bad]), metric)


def test_rejects_bad_arguments(rng):
    x = rng.random((6, 5))
    cases = [
        (x, "manhattan", {}, "choose one of"),
        (x, "mahalanobis", {}, "needs a precision"),
        (x, "cosine", {"precision": np.eye(5)}, "of no use"),
        (x, "mahalanobis", {"precision": np.eye(4)}, r"\(5, 5\)"),
        (x, "mahalanobis", {"precision": -np.eye(5)}, "positive definite"),
        (x, "crossnobis", {}, "folds"),
        (x[None], "crossnobis", {}, "at least 2 folds"),
        (x, "poisson", {"prior_weight": 0.0}, "positive"),
        (x[0], "cosine", {}, "got shape"),
        (x[:, :0], "cosine", {}, "at least one"),
        (x.astype(str), "cosine", {}, "real numbers"),
    ]
    for values, metric, options, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            pairwise_distances(values, metric, **options)
