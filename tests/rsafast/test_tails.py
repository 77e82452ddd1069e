"""Tail approximations against brute force."""

import numpy as np
import pytest

import rsafast as rf
from rsafast.permutation import tails


def gpd_sample(rng, shape, size):
    u = rng.random(size)
    return -np.log(u) if shape == 0 else (u**-shape - 1) / shape


@pytest.mark.parametrize("shape", [-0.4, -0.2, 0.0, 0.2, 0.5])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_fit_recovers_shape_and_scale(rng, shape, scale):
    fit = tails.fit_gpd(scale * gpd_sample(rng, shape, 20_000))
    assert fit.shape == pytest.approx(shape, abs=0.04)
    assert fit.scale == pytest.approx(scale, rel=0.04)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
@pytest.mark.parametrize("size", [60, 250])
def test_limits_reject_one_good_fit_in_twenty(rng, shape, size):
    rejected = 0
    for _ in range(400):
        sample = gpd_sample(rng, shape, size)
        fit = tails.fit_gpd(sample)
        rejected += tails.anderson_darling(sample, fit) > np.interp(
            fit.shape, tails._SHAPES, tails._LIMITS
        )
    assert 0.01 < rejected / 400 < 0.10


def test_the_fitted_law_reaches_past_the_observed_value(rng):
    """A bounded sample: an unconstrained fit would give probability 0."""
    sample = gpd_sample(rng, -0.45, 250)
    for beyond in (3.0, 10.0, 30.0):
        assert tails.fit_gpd(sample, beyond=beyond).sf(beyond) > 0


@pytest.mark.parametrize("observed", [2.0, 5.0, 50.0, 1e6])
def test_p_is_never_zero(rng, observed):
    null = np.sort(rng.standard_normal(20_000))[::-1][: tails.KEPT]
    p = tails.gpd_p(np.append(null, observed), observed, 1, 20_001)
    assert np.isnan(p) or p > 0


def test_ten_exceedances_are_enough(rng):
    assert tails.gpd_p(rng.random(100), 0.5, 10, 5000) == 10 / 5000


def test_top_scores_keep_the_largest(rng):
    top = tails.TopScores((2, 3), kept=7)
    blocks = [rng.standard_normal((2, 2, 3, 3, s)) for s in (1, 2, 40)]
    for block in blocks:
        top.add(block)
    every = np.concatenate(
        [np.moveaxis(b, (1, 3), (0, 1)).reshape(2, 3, -1) for b in blocks], axis=-1
    )
    assert np.array_equal(np.sort(top.scores, axis=-1), np.sort(every, axis=-1)[..., -7:])


def related(random_rdm, kind, alternative, shares):
    """A model and brain RDMs that share ever more with it."""
    model, noise = random_rdm(30, kind), random_rdm(30)
    sign = -1 if alternative == "less" else 1
    brain = np.stack([noise / noise.std() + sign * s * model / model.std() for s in shares])
    brain -= brain.min()
    brain[:, np.arange(30), np.arange(30)] = 0
    return model, brain


@pytest.mark.slow
@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("kind", ["gaussian", "line"])
def test_tails_match_brute_force_at_small_p(random_rdm, kind, alternative):
    """True p near 1e-4 by four million relabellings. A single fit is noisy: the median of nine.

    The Pearson III law is too wide in the far tail (several times too large a p near 1e-5).
    """
    model, brain = related(random_rdm, kind, alternative, np.linspace(0.05, 1.2, 24))

    def run(brain, count, tail, seed):
        return rf.permutation_test(
            model, brain, method="pearson", alternative=alternative, n_permutations=count,
            tail=tail,
            seed=seed, progress=False,
        )  # fmt: skip

    truth = run(brain, 4_000_000, "pearson3", 1)
    pick = int(np.argmin(np.abs(np.log(truth.p_value[0] / 5e-5))))
    true_p = truth.p_value[0, pick]
    assert 1e-5 < true_p < 2.5e-4
    fits = [run(brain[pick], 200_000, "gpd", seed).p_tail[0, 0] for seed in range(2, 11)]
    assert 0.5 < np.nanmedian(fits) / true_p < 2
    assert 0.7 < truth.p_tail[0, pick] / true_p < 8


def test_pearson3_agrees_with_counting_where_counting_works(random_rdm):
    model = random_rdm(30)
    brain = np.stack([random_rdm(30) + share * model for share in (0.0, 0.1, 0.2)])
    for alternative in ("greater", "less", "two-sided"):
        result = rf.permutation_test(
            model, brain, method="pearson", alternative=alternative, n_permutations=200_000,
            tail="pearson3", progress=False,
        )  # fmt: skip
        usable = result.p_value > 0.001
        assert np.allclose(result.p_tail[usable], result.p_value[usable], rtol=0.2, atol=0.005)
