"""Whitened comparators with the noise covariance of the conditions."""

import time

import numpy as np
import pytest
import rsatoolbox
import scipy.linalg
import scipy.sparse.linalg
from rsatoolbox.util.matrix import get_v

import rsafast as rf
from rsafast.errors import InvalidInputError

METHODS = ["corr_cov", "cosine_cov"]


def covariance(rng, n):
    a = rng.standard_normal((n, 2 * n))
    return a @ a.T / (2 * n) * np.outer(s := rng.uniform(0.3, 3, n), s)


def dense(a, b, sigma, method):
    """The definition, with V written out."""
    n = len(sigma)
    v = get_v(n, sigma).toarray()
    if method == "corr_cov":
        a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    ia, ib = np.linalg.solve(v, a.T).T, np.linalg.solve(v, b.T).T
    scale = np.sqrt(np.outer((a * ia).sum(1), (b * ib).sum(1)))
    return a @ ib.T / scale


def peer(monkeypatch, a, b, method, sigma):
    """rsatoolbox with a direct solver; its own stops at a relative residual of 1e-5."""
    factors = {}

    def solve(v, x, **_):
        if id(v) not in factors:
            factors[id(v)] = scipy.linalg.cho_factor(v.toarray())
        return scipy.linalg.cho_solve(factors[id(v)], x), 0

    monkeypatch.setattr(scipy.sparse.linalg, "cg", solve)
    theirs = rsatoolbox.rdm.RDMs
    return rsatoolbox.rdm.compare(theirs(a), theirs(b), method=method, sigma_k=sigma)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [4, 5, 7, 24, 40])
def test_equals_the_definition_with_v_written_out(rng, method, n):
    pairs = n * (n - 1) // 2
    a, b, sigma = rng.random((3, pairs)), rng.standard_normal((2, pairs)), covariance(rng, n)
    got = rf.compare(rf.RDMs.from_vectors(a), rf.RDMs.from_vectors(b), method, sigma_k=sigma)
    assert np.abs(got - dense(a, b, sigma, method)).max() < 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_variances_are_a_diagonal_covariance(rng, method):
    a, b, s = rng.random((2, 66)), rng.random((2, 66)), rng.uniform(0.2, 4, 12)
    a, b = rf.RDMs.from_vectors(a), rf.RDMs.from_vectors(b)
    got = rf.compare(a, b, method, sigma_k=s)
    assert np.abs(got - dense(a.vectors, b.vectors, np.diag(s), method)).max() < 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_equal_noise_is_the_default_and_a_factor_does_not_count(rng, method):
    a, b = (rf.RDMs.from_vectors(rng.random((2, 190))) for _ in range(2))
    plain = rf.compare(a, b, method)
    for factor in (1.0, 1e-30, 1e30):
        assert np.abs(rf.compare(a, b, method, sigma_k=np.full(20, factor)) - plain).max() < 1e-12


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [6, 17])
def test_matches_rsatoolbox_on_random_rdms(monkeypatch, rng, method, n):
    pairs = n * (n - 1) // 2
    a, b, sigma = rng.random((3, pairs)), rng.random((4, pairs)), covariance(rng, n)
    got = rf.compare(rf.RDMs.from_vectors(a), rf.RDMs.from_vectors(b), method, sigma_k=sigma)
    assert np.abs(got - peer(monkeypatch, a, b, method, sigma)).max() < 1e-8


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("n", "method"), [(78, "corr_cov"), (92, "cosine_cov")])
def test_matches_rsatoolbox_on_fmri(monkeypatch, data_dir, rng, n, method):
    if n == 92:
        file = data_dir / "fmri92" / "target_fmri.mat"
        evc, it = (rf.read_rdms(file, key=f"{r}_RDMs") for r in ("EVC", "IT"))
    else:
        evc, it = (rf.read_rdms(data_dir / "fmri78" / f"fmri_{r}_RDMs.npz") for r in ("EVC", "IT"))
    a, b, sigma = evc.subset(range(2)), it.subset(range(3)), covariance(rng, n)
    expected = peer(monkeypatch, a.vectors, b.vectors, method, sigma)
    assert np.abs(rf.compare(a, b, method, sigma_k=sigma) - expected).max() < 1e-8


def test_noise_that_all_conditions_share_does_not_count(rng):
    a, b = (rf.RDMs.from_vectors(rng.random((1, 66))) for _ in range(2))
    sigma = covariance(rng, 12)
    shared = np.outer(rng.random(12), np.ones(12))
    got = rf.compare(a, b, "cosine_cov", sigma_k=sigma + shared + shared.T)
    assert abs(got - rf.compare(a, b, "cosine_cov", sigma_k=sigma))[0, 0] < 1e-11


def test_a_covariance_of_centred_patterns_is_no_obstacle(rng):
    a, b = (rf.RDMs.from_vectors(rng.random((1, 66))) for _ in range(2))
    sigma, centre = covariance(rng, 12), np.eye(12) - 1 / 12
    got = rf.compare(a, b, "corr_cov", sigma_k=centre @ sigma @ centre)
    assert abs(got - rf.compare(a, b, "corr_cov", sigma_k=sigma))[0, 0] < 1e-10


def test_whitens_patterns_of_unequal_noise(rng):
    """Distances of patterns in that noise have, once whitened, equal variances."""
    from rsafast.comparators import whiten_with, whitener_of

    sigma = covariance(rng, 6)
    noise = np.linalg.cholesky(sigma) @ rng.standard_normal((20_000, 6, 1))
    moment = noise @ noise.transpose(0, 2, 1)
    x, y = np.triu_indices(6, 1)
    squared = moment[:, x, x] + moment[:, y, y] - 2 * moment[:, x, y]
    white = whiten_with(squared, whitener_of(sigma))
    spread = np.cov(white.T)
    assert np.abs(spread / spread.trace() * 15 - np.eye(15)).max() < 0.12


def test_follows_the_order_of_a(rng):
    labels = list("abcdefg")
    a = rf.RDMs(rng.random(21), labels)
    b = rf.RDMs(rng.random(21), labels).reorder(labels[::-1])
    sigma = covariance(rng, 7)
    got = rf.compare(a, b, "cosine_cov", sigma_k=sigma)
    flipped = rf.compare(b, a, "cosine_cov", sigma_k=sigma[::-1, ::-1])
    assert abs(got - flipped)[0, 0] < 1e-12


@pytest.mark.slow
def test_700_conditions_take_seconds(rng):
    n = 700
    a, b = (rf.RDMs.from_vectors(rng.random((2, n * (n - 1) // 2))) for _ in range(2))
    sigma = covariance(rng, n)
    started = time.process_time()
    got = rf.compare(a, b, "corr_cov", sigma_k=sigma)
    assert time.process_time() - started < 10
    # By scaling and relabelling, where V cannot be written out.
    order = rng.permutation(n)
    again = rf.compare(
        a.subset(stimuli=order), b.subset(stimuli=order), "corr_cov",
        sigma_k=3 * sigma[np.ix_(order, order)],
    )  # fmt: skip
    assert np.abs(got - again).max() < 1e-10


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (np.zeros(6), "above 0"),
        (np.array([1, 1, 1, -1, 1, 1.0]), "stimulus 3 is -1"),
        (np.ones(5), "shape"),
        (np.ones((6, 5)), "shape"),
        (np.array([1, 1, np.nan, 1, 1, 1]), "NaN"),
        (np.triu(np.ones((6, 6))), "symmetric"),
        (np.ones((6, 6)), "positive definite"),
        (np.diag([1, 1, 1, 1, 1, -1.0]), "positive definite"),
        (np.diag([1, 1, 1, 1, 0, 0.0]), "positive definite"),
        (np.array(list("abcdef")), "real numbers"),
    ],
)
def test_bad_covariances_are_refused(rng, sigma, message):
    a = rng.random(15)
    with pytest.raises(InvalidInputError, match=message):
        rf.compare(rf.RDMs(a), rf.RDMs(a), "cosine_cov", sigma_k=sigma)


def test_other_methods_have_no_use_for_it(rng):
    a = rf.RDMs(rng.random(15))
    with pytest.raises(InvalidInputError, match="corr_cov and cosine_cov only"):
        rf.compare(a, a, "pearson", sigma_k=np.ones(6))
