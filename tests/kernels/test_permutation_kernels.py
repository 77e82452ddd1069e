"""The kernels of the permutation engine against their references."""

import numpy as np
import pytest
from rsafast_kernels import gather, kendall, orbit, relabel, threads
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.gather.reference import gather_products as gather_reference
from rsafast_kernels.kendall.reference import concordance as kendall_reference
from rsafast_kernels.orbit.reference import orbit_products, permutation
from rsafast_kernels.relabel.reference import relabelings as relabel_reference
from rsafast_kernels.tally import Tally
from rsafast_kernels.tally.reference import tally as tally_reference
from scipy.stats import kendalltau

# Primes, powers, products with a large prime (Bluestein: 2 * 103, 3 * 67, 199) and the smallest n.
SIZES = [
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    11,
    12,
    13,
    16,
    23,
    25,
    30,
    31,
    33,
    47,
    59,
    64,
    92,
    101,
    103,
    127,
    199,
    201,
    206,
]


def symmetric(rng, count, n):
    stack = rng.standard_normal((count, n, n))
    stack += stack.transpose(0, 2, 1)
    stack[:, np.arange(n), np.arange(n)] = 0
    return stack


def draw(seed, count, n):
    return relabel.relabelings(seed, 0, 0, count, n)


@pytest.mark.parametrize("n", SIZES)
def test_orbit_products_match_direct_evaluation(rng, n):
    a, b, g, r = symmetric(rng, 2, n), symmetric(rng, 3, n), draw(1, 2, n), draw(2, 3, n)
    found = orbit.correlate(
        orbit.spectra(a, g, side="permuted"), orbit.spectra(b, r, side="fixed"), n
    ).reshape(2, 2, 3, 3, n)
    expected = orbit_products(a, b, g, r)
    scale = np.linalg.norm(a[0]) * np.linalg.norm(b[0])
    assert np.abs(found - expected).max() < 1e-14 * scale


@pytest.mark.parametrize("n", [5, 92, 103])
def test_orbit_products_do_not_depend_on_threads_nor_beyond_rounding_on_grouping(rng, n):
    a, b, g, r = symmetric(rng, 2, n), symmetric(rng, 1, n), draw(1, 5, n), draw(2, 7, n)
    with threads(1):
        whole = orbit.correlate(
            orbit.spectra(a, g, side="permuted"), orbit.spectra(b, r, side="fixed"), n
        )
    with threads(2):
        pa, pb = orbit.spectra(a, g, side="permuted"), orbit.spectra(b, r, side="fixed")
        assert np.array_equal(orbit.correlate(pa, pb, n), whole)
    workspace = orbit.Workspace.empty(3, 2, n)
    for i in range(0, 10, 3):
        for j in range(0, 7, 2):
            rows_a, rows_b = range(i, min(i + 3, 10)), range(j, min(j + 2, 7))
            part = orbit.correlate(pa, pb, n, rows_a=rows_a, rows_b=rows_b, workspace=workspace)
            assert np.abs(part - whole[i : rows_a.stop, j : rows_b.stop]).max() < 1e-14 * n * n


def test_orbit_holds_the_identity_and_permutations_only():
    g = draw(3, 2, 7)
    assert np.array_equal(permutation(g[0], g[0], 0), np.arange(7))
    assert all(sorted(permutation(g[0], g[1], s)) == list(range(7)) for s in range(7))


@pytest.mark.parametrize("shape", [(7, 7), (1, 7, 6), (1, 1, 1)])
def test_orbit_rejects_what_is_no_stack(shape):
    with pytest.raises(InvalidInputError, match="stack must be"):
        orbit.spectra(np.zeros(shape), draw(0, 1, 7), side="fixed")


@pytest.mark.parametrize("n", [2, 3, 4, 9, 31, 33, 92])
def test_gather_matches_reference(rng, n):
    a, b, pi = symmetric(rng, 3, n), symmetric(rng, 2, n), draw(5, 11, n)
    expected = gather_reference(a, b, pi)
    assert np.allclose(gather.gather_products(a, b, pi), expected, rtol=1e-12, atol=1e-12 * n * n)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 31, 720])
@pytest.mark.parametrize("grouped", [False, True])
def test_relabelings_match_numpys_philox(rng, n, grouped):
    groups = rng.integers(0, 3, n) if grouped else np.zeros(n, int)
    found = relabel.relabelings(2**63 + 5, 7, 12, 4, n, groups)
    dense = np.unique(groups, return_inverse=True)[1].astype(np.int32)
    assert np.array_equal(found, relabel_reference(2**63 + 5, 7, 12, 4, dense))
    assert np.array_equal(found[2:], relabel.relabelings(2**63 + 5, 7, 14, 2, n, groups))
    assert (groups[found] == groups).all()


def test_relabelings_are_uniform():
    counts = np.unique(draw(9, 24_000, 4) @ [1, 10, 100, 1000], return_counts=True)[1]
    assert len(counts) == 24
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_relabelings_reject_bad_seeds(seed):
    with pytest.raises(InvalidInputError, match="seed"):
        relabel.relabelings(seed, 0, 0, 1, 5)


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 5), (2, 3, 3, 2, 1), (3, 2, 1, 4, 257), (1, 1, 2, 9, 128)]
)
def test_tally_matches_reference(rng, alternative, shape, standardised):
    values = np.round(rng.standard_normal(shape), 1)  # ties between statistics and thresholds
    thresholds = np.round(rng.standard_normal((shape[1], shape[3])), 1)
    spread = np.stack([np.full_like(thresholds, -3), np.full_like(thresholds, 3)], axis=-1)
    centres, stds = np.zeros_like(thresholds), None
    if standardised:
        centres, stds = rng.standard_normal((2, *thresholds.shape)) ** 2
    tally = Tally.start(thresholds, alternative, centres, spread, bins=10, stds=stds)
    for part in (values, values[:1]):
        tally.add(part)
    every = np.concatenate([values, values[:1]])
    each, single, down = tally_reference(
        every, thresholds, alternative, tally.joint_centres, tally.joint_scales
    )
    assert np.array_equal(tally.exceedances.ravel(), each.sum(axis=0))
    assert np.array_equal(tally.squared_exceedances.ravel(), (each**2).sum(axis=0))
    if thresholds.size > 1:
        assert np.array_equal(tally.single_step.ravel(), single)
        assert np.array_equal(tally.step_down.ravel(), down)
    moved = every - centres[None, :, None, :, None]
    assert np.allclose(tally.sums, moved.sum(axis=(0, 2, 4)))
    assert np.allclose(tally.squares, (moved**2).sum(axis=(0, 2, 4)))
    assert (tally.histogram.sum(axis=-1) == tally.permutations).all()
    edges = np.linspace(-3, 3, 11)
    clipped = np.clip(every[:, 0, :, 0], -3, 3 - 1e-9)
    assert np.abs(np.histogram(clipped + 1e-12, edges)[0] - tally.histogram[0, 0]).sum() <= 2


@pytest.mark.parametrize("n", [3, 4, 6, 9, 13])
@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_kendall_matches_reference(rng, n, levels):
    a, b = symmetric(rng, 2, n), symmetric(rng, 3, n)
    a, b = (np.floor(x * levels / 6) for x in (a, b))
    a, b = (a + a.transpose(0, 2, 1), b + b.transpose(0, 2, 1))
    pi = draw(4, 5, n)
    assert np.array_equal(kendall.concordance(a, b, pi), kendall_reference(a, b, pi))


def test_kendall_agrees_with_scipy_on_a_long_tied_vector(rng):
    n = 60
    a, b = np.round(symmetric(rng, 1, n), 1), np.round(symmetric(rng, 1, n))
    upper = np.triu_indices(n, 1)
    x, y = a[0][upper], b[0][upper]
    pairs = len(x)
    total = pairs * (pairs - 1) // 2
    c = kendall.concordance(a, b, np.arange(n, dtype=np.int32)[None])[0, 0, 0]
    tau_b = c / np.sqrt(float(total - kendall.tied_pairs(x)) * float(total - kendall.tied_pairs(y)))
    assert tau_b == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)
