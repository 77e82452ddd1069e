"""Exact moments of the null against complete enumeration and against large samples."""

import itertools

import numpy as np
import pytest
from rsafast_kernels.gather import gather_products

import rsafast as rf
from rsafast.permutation import moments


def symmetric(rng, count, n, kind):
    stack = rng.standard_normal((count, n, n))
    if kind == "positive":
        stack = stack**2
    elif kind == "skewed":
        stack = np.exp(2 * stack)
    elif kind == "binary":
        stack = (stack > 0.5).astype(float)
    stack = np.triu(stack, 1)
    return stack + stack.transpose(0, 2, 1)


@pytest.mark.parametrize("n", [4, 5, 6, 7])
@pytest.mark.parametrize("kind", ["gaussian", "positive", "skewed", "binary"])
def test_moments_are_those_of_every_relabelling(rng, n, kind):
    a, b = symmetric(rng, 3, n, kind), symmetric(rng, 2, n, "gaussian")
    every = np.array(list(itertools.permutations(range(n))), np.int32)
    null = gather_products(a, b, every)
    mean, std = moments.mean_and_std(a, b)
    scale = null.std(axis=2)
    assert np.allclose(mean, null.mean(axis=2), rtol=1e-10, atol=1e-10)
    assert np.allclose(std, scale, rtol=1e-9)
    varies = scale > 0
    third = ((null - null.mean(axis=2, keepdims=True)) ** 3).mean(axis=2)
    found = moments.skewness(a, b)
    assert np.allclose(found[varies], third[varies] / scale[varies] ** 3, rtol=1e-7, atol=1e-8)
    assert np.isnan(found[~varies]).all()


@pytest.mark.parametrize(
    "method", ["pearson", "spearman", "rho-a", "cosine", "corr_cov", "cosine_cov"]
)
def test_moments_of_comparators_match_a_large_sample(random_rdm, method):
    models = np.stack([random_rdm(30, k) for k in ("gaussian", "clustered", "line", "categories")])
    brain = np.stack([random_rdm(30, k) for k in ("clustered", "gaussian")])
    result = rf.permutation_test(
        models,
        brain,
        method=method,
        n_permutations=400_000,
        tail="pearson3",
        keep_null=True,
        progress=False,
    )
    null, size = result.null, result.n_permutations
    assert result.moments == "exact"
    # Orbits are dependent inside, by a factor of a few at most; six such errors are allowed.
    assert np.abs((null.mean(axis=2) - result.null_mean) / result.null_std).max() < 12 / np.sqrt(
        size
    )
    assert np.abs(null.std(axis=2) / result.null_std - 1).max() < 12 / np.sqrt(size)
    skew = (
        ((null - null.mean(axis=2, keepdims=True)) / null.std(axis=2, keepdims=True)) ** 3
    ).mean(axis=2)
    assert np.abs(skew - result.null_skewness).max() < 0.05


def test_moments_do_not_depend_on_the_engine_or_seed(random_rdm):
    a, b = random_rdm(13), random_rdm(13)
    results = [
        rf.permutation_test(a, b, engine=e, seed=s, n_permutations=200, progress=False)
        for e, s in (("orbit", 0), ("orbit", 1), ("direct", 0))
    ]
    assert len({(r.null_mean[0, 0], r.null_std[0, 0]) for r in results}) == 1


def test_skewness_of_a_null_without_spread_is_nan():
    flat = (np.ones((6, 6)) - np.eye(6))[None]
    mean, std = moments.mean_and_std(flat, flat)
    assert mean[0, 0] == pytest.approx(15)
    assert std[0, 0] < 1e-6
    assert not np.isfinite(moments.skewness(flat, flat))[std == 0].any()
