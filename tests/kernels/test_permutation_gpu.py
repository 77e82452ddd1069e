"""What permutation tests run on a GPU, without one: CUDA kernels on the CPU, CuPy on NumPy."""

import numpy as np
import pytest
from rsafast_kernels import orbit
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.gather import gather_products
from rsafast_kernels.gather import reference as gather_reference
from rsafast_kernels.orbit import gpu as orbit_gpu
from rsafast_kernels.orbit.reference import orbit_products
from rsafast_kernels.relabel import relabelings, relabelings_on_gpu
from rsafast_kernels.tally import Recheck, Tally


def symmetric(rng, count, n):
    values = rng.standard_normal((count, n, n))
    values += values.transpose(0, 2, 1)
    values[:, np.arange(n), np.arange(n)] = 0
    return values


@pytest.mark.parametrize("n", [2, 3, 5, 12, 33, 130])
@pytest.mark.parametrize(("dtype", "tolerance"), [("f4", 2e-6), ("f8", 1e-14)])
def test_orbits_equal_direct_products(simulated_gpu, rng, n, dtype, tolerance):
    a, b = symmetric(rng, 2, n), symmetric(rng, 3, n)
    g, r = (np.array([rng.permutation(n) for _ in range(k)], np.int32) for k in (3, 2))
    if n > 40:
        a, b, g = a[:1], b[:1], g[:1]
    panels = [
        orbit.spectra(simulated_gpu.asarray(x, dtype), simulated_gpu.asarray(p), side=side)
        for x, p, side in ((a, g, "permuted"), (b, r, "fixed"))
    ]
    got = orbit.correlate(*panels, n).get().reshape(len(g), len(a), len(r), len(b), n)
    wanted = orbit_products(a, b, g, r)
    assert np.abs(got - wanted).max() <= tolerance * np.linalg.norm(a) * np.linalg.norm(b)


def test_spectra_in_parts_are_the_same(simulated_gpu, rng, monkeypatch):
    stack = simulated_gpu.asarray(symmetric(rng, 2, 11))
    drawn = simulated_gpu.asarray(np.array([rng.permutation(11) for _ in range(5)], np.int32))
    whole = orbit.spectra(stack, drawn, side="fixed").get()
    monkeypatch.setattr(orbit_gpu, "_TRANSFORM_BYTES", 1)
    assert np.array_equal(orbit.spectra(stack, drawn, side="fixed").get(), whole)


@pytest.mark.parametrize(("n", "brains"), [(2, 1), (7, 5), (200, 4), (1500, 1), (5761, 1)])
def test_products_under_given_permutations(simulated_gpu, rng, n, brains):
    a, b = symmetric(rng, 2 if n < 1000 else 1, n), symmetric(rng, brains, n)
    pi = np.array([rng.permutation(n) for _ in range(5 if n < 1000 else 1)], np.int32)
    got = gather_products(*(simulated_gpu.asarray(x) for x in (a, b, pi))).get()
    wanted = (gather_reference.gather_products if n < 1000 else gather_products)(a, b, pi)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12 * n * np.sqrt(n))


def test_arrays_of_both_sides_are_refused(simulated_gpu, rng):
    a = symmetric(rng, 1, 4)
    with pytest.raises(InvalidInputError, match="move them to one side"):
        gather_products(simulated_gpu.asarray(a), a, np.arange(4, dtype=np.int32)[None])


@pytest.mark.parametrize("groups", [None, [0, 1, 0, 2, 1, 0, 2, 2, 0]])
@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_relabellings_are_those_of_the_cpu(simulated_gpu, groups, seed):
    for n in (9,) if groups else (1, 2, 7, 92):
        got = relabelings_on_gpu(seed, 3, 2**40, 50, n, groups).get()
        assert got.dtype == np.int32
        assert np.array_equal(got, relabelings(seed, 3, 2**40, 50, n, groups))


def tallied(values, thresholds, alternative, stds=None, recheck=None, bins=129):
    shape = thresholds.shape
    edges = np.stack([np.full(shape, -2.0), np.full(shape, 2.0)], axis=-1)
    tally = Tally.start(thresholds, alternative, np.full(shape, 0.1), edges, bins=bins, stds=stds)
    tally.add(values, recheck)
    return tally


def assert_equal_counts(got, wanted):
    for name in ("exceedances", "squared_exceedances", "single_step", "step_down", "histogram"):
        assert np.array_equal(getattr(got, name), getattr(wanted, name)), name
    for name in ("sums", "squares"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(wanted, name), rtol=1e-12, atol=1e-12
        )
    assert (got.blocks, got.permutations) == (wanted.blocks, wanted.permutations)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 2, 2, 3, 97), (2, 1, 3, 1, 300)])
@pytest.mark.parametrize("standardised", [False, True])
def test_counts_are_those_of_the_cpu(simulated_gpu, rng, alternative, shape, standardised):
    values = np.round(rng.standard_normal(shape), 1)  # ties, and values on thresholds and edges
    pairs = (shape[1], shape[3])
    thresholds = np.round(np.abs(rng.standard_normal(pairs)), 1)
    stds = np.round(rng.uniform(0.5, 2, pairs), 1) if standardised else None
    got = tallied(simulated_gpu.asarray(values), thresholds, alternative, stds)
    assert_equal_counts(got, tallied(values, thresholds, alternative, stds))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("pairs", [(1, 1), (3, 2)])
def test_float32_is_made_sure_of(simulated_gpu, rng, alternative, pairs):
    band = 1e-4
    thresholds = np.abs(rng.standard_normal(pairs)) + 0.2
    exact = rng.standard_normal((3, pairs[0], 2, pairs[1], 80))
    # Many close to their threshold, on either side of it.
    near = rng.random(exact.shape) < 0.2
    sign = {"greater": 1, "less": -1, "two-sided": rng.choice([-1, 1], exact.shape)}[alternative]
    at = sign * (thresholds[:, None, :, None] + band * rng.uniform(-1, 1, exact.shape))
    exact = np.where(near, at, exact)
    off = (exact + band * rng.uniform(-0.9, 0.9, exact.shape)).astype(np.float32)
    asked = []

    def evaluate(places):
        asked.append(len(places))
        i, j, s = np.unravel_index(places, (3, 2, 80))
        return np.moveaxis(exact[i, :, j, :, s], 0, -1)

    stds = rng.uniform(0.5, 2, pairs)
    got = tallied(
        simulated_gpu.asarray(off), thresholds, alternative, stds, Recheck(band, evaluate)
    )
    wanted = tallied(exact, thresholds, alternative, stds)
    for name in ("exceedances", "squared_exceedances", "single_step", "step_down"):
        assert np.array_equal(getattr(got, name), getattr(wanted, name)), name
    assert got.histogram.sum() == wanted.histogram.sum()
    assert 0 < sum(asked) < 480
    unsure = tallied(off.astype(float), thresholds, alternative, stds)
    assert not np.array_equal(unsure.exceedances, wanted.exceedances), "nothing to make sure of"


def test_a_histogram_too_large_for_shared_memory_is_refused(simulated_gpu, rng):
    values = simulated_gpu.asarray(rng.standard_normal((1, 1, 1, 1, 5)))
    with pytest.raises(InvalidInputError, match="at most 256 bins"):
        tallied(values, np.zeros((1, 1)), "greater", bins=257)
