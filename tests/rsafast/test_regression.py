"""Partial correlation and regression of RDMs: against mne-rsa, statsmodels, NumPy, brute force."""

import json
from itertools import permutations

import mne_rsa
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from rsafast_kernels import threads
from scipy.stats import rankdata

import rsafast as rf
from rsafast.cli import main
from rsafast.comparators import get_comparator
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.inference.decomposition.regression import explained_statistic

PEER = {"pearson": "partial", "spearman": "partial-spearman"}


def rdms(vectors, **keywords):
    return rf.RDMs.from_vectors(vectors, **keywords)


def related(rng, k, n, count=1, decimals=None):
    """k correlated predictors and `count` brain RDMs that depend on the first two."""
    pairs = n * (n - 1) // 2
    x = rng.random((k, pairs)) + 0.8 * rng.random(pairs)
    y = 0.5 * x[0] - 0.2 * x[min(1, k - 1)] + 0.5 * rng.random((count, pairs))
    return (x, y) if decimals is None else (x.round(decimals), y.round(decimals))


def least_squares(x, y):
    design = np.column_stack([np.ones(x.shape[1]), x.T])
    return sm.OLS(y, design).fit()


# ---- partial correlation: the point estimate -----------------------------------------------------


@pytest.mark.parametrize("method", PEER)
@pytest.mark.parametrize("controls", [1, 2, 5])
@pytest.mark.parametrize("decimals", [None, 1], ids=["untied", "tied"])
def test_partial_correlation_equals_mne_rsa(rng, method, controls, decimals):
    x, y = related(rng, controls + 1, 13, 2, decimals)
    peer = [mne_rsa.rsa(brain, list(x), metric=PEER[method])[0] for brain in y]
    got = rf.compare(rdms(x[:1]), rdms(y), method, covariates=rdms(x[1:]))
    np.testing.assert_allclose(got[0], peer, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", PEER)
def test_partial_correlation_under_a_mask_equals_mne_rsa_without_those_pairs(rng, method):
    x, y = related(rng, 4, 12)
    y[0, rng.random(66) < 0.3] = np.nan
    keep = ~np.isnan(y[0])
    peer = mne_rsa.rsa(y[0], list(x), metric=PEER[method], ignore_nan=True)[0]
    brain = rdms(y, missing="allow")
    got = rf.compare(rdms(x[:1]), brain, method, covariates=rdms(x[1:]), mask=keep)
    assert got[0, 0] == pytest.approx(peer, abs=1e-12)


@pytest.mark.data
@pytest.mark.parametrize("method", PEER)
def test_partial_correlation_of_real_rdms_equals_mne_rsa(data_dir, method):
    models = rf.read_rdms(data_dir / "fmri92" / "92_modelRDMs.mat").subset(slice(0, 6))
    brain = rf.read_rdms(data_dir / "fmri92" / "target_fmri.mat", key="IT_RDMs")
    peer = [mne_rsa.rsa(v, list(models.vectors), metric=PEER[method]) for v in brain.vectors]
    for k in range(models.n_rdms):
        others = models.subset([i for i in range(models.n_rdms) if i != k])
        got = rf.compare(models[k], brain, method, covariates=others)[0]
        np.testing.assert_allclose(got, np.array(peer)[:, k], rtol=0, atol=1e-10)


def test_mask_leak_of_mne_rsa_is_not_ours(rng):
    """mne-rsa 1.0 with ignore_nan: an RDM's missing pairs are left out of the RDMs after it too."""
    x, y = related(rng, 2, 8, 2)
    y[0, :5] = np.nan
    alone = mne_rsa.rsa(y[1], list(x), metric="pearson", ignore_nan=True)
    after = mne_rsa.rsa(list(y), list(x), metric="pearson", ignore_nan=True)[1]
    assert np.abs(after - alone).max() > 1e-3
    np.testing.assert_allclose(rf.compare(rdms(x), rdms(y[1:]), "pearson")[:, 0], alone, atol=1e-12)


@pytest.mark.parametrize("method", PEER)
def test_the_permutation_test_tests_what_compare_gives(rng, method):
    x, y = related(rng, 4, 10, 3)
    result = rf.permutation_test(
        x[:1], rdms(y), method=method, covariates=rdms(x[1:]), n_permutations=50, progress=False
    )
    got = rf.compare(rdms(x[:1]), rdms(y), method, covariates=rdms(x[1:]))
    np.testing.assert_allclose(result.statistic, got, rtol=0, atol=1e-12)


def test_covariates_are_matched_by_label(rng):
    x, y = related(rng, 3, 9)
    names = [f"s{i}" for i in range(9)]
    model, brain, control = (rdms(v, labels=names) for v in (x[:1], y, x[1:]))
    shuffled = control.reorder(rng.permutation(names).tolist())
    expected = rf.compare(model, brain, covariates=control)
    np.testing.assert_array_equal(rf.compare(model, brain, covariates=shuffled), expected)
    np.testing.assert_array_equal(
        rf.compare(rdms(x[:1]), brain, covariates=shuffled), expected
    )


def test_bad_covariates_are_refused(rng):
    x, y = related(rng, 3, 7)
    for method in ("cosine", "corr_cov", "kendall", "rho-a"):
        with pytest.raises(UnsupportedCaseError, match="pearson or spearman"):
            rf.compare(x[:1], y, method, covariates=x[1:])
    collinear = rdms([x[1], x[2], 2 * x[1] - x[2] + 3], names=["a", "b", "c"])
    with pytest.raises(InvalidInputError, match="'c' is a linear function of the others"):
        rf.compare(x[:1], y, "pearson", covariates=collinear)
    with pytest.raises(InvalidInputError, match="linear function of the covariates"):
        rf.compare(rdms(3 * x[:1] + 1), y, "pearson", covariates=x)
    with pytest.raises(InvalidInputError, match=r"too many|linear function"):
        rf.compare(rng.random((1, 6)), rng.random((1, 6)), covariates=rdms(rng.random((7, 6))))
    with pytest.raises(InvalidInputError, match="all its dissimilarities are equal"):
        rf.compare(x[:1], y, covariates=np.ones((1, 21)))


def test_command_compares_given_other_rdms(tmp_path, rng, capsys):
    x, y = related(rng, 3, 9)
    names = ["a", "b", "c"]
    for name, v in (("m", x[:1]), ("b", y), ("c", x[1:])):
        rdms(v, names=names[: len(v)]).save(tmp_path / f"{name}.h5")
    files = [str(tmp_path / f"{name}.h5") for name in "mbc"]
    assert main(["compare", *files[:2], "--partial", files[2], "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    expected = rf.compare(x[:1], y, covariates=x[1:])
    assert read["similarity"] == expected.tolist()
    assert read["covariates"] == ["a", "b"]
    assert main(["compare", *files[:2], "--partial", files[2]]) == 0
    assert "given a, b" in capsys.readouterr().out
    assert main(["compare", *files[:2], "--partial", files[0]]) == 2
    assert "linear function of the covariates" in capsys.readouterr().err


# ---- regression ----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("decimals", [None, 1], ids=["untied", "tied"])
def test_fit_equals_statsmodels_and_mne_rsa(rng, k, decimals):
    x, y = related(rng, k, 12, 3, decimals)
    fit = rf.rdm_regression(rdms(x), rdms(y), n_permutations=0)
    for j, brain in enumerate(y):
        peer = least_squares(x, brain)
        np.testing.assert_allclose(fit.coefficients[:, j], peer.params[1:], atol=1e-11)
        assert fit.intercept[j] == pytest.approx(peer.params[0], abs=1e-11)
        np.testing.assert_allclose(fit.t[:, j], peer.tvalues[1:], rtol=1e-9)
        assert fit.r_squared[j] == pytest.approx(peer.rsquared, abs=1e-12)
        assert fit.adjusted_r_squared[j] == pytest.approx(peer.rsquared_adj, abs=1e-12)
        theirs = np.ravel(mne_rsa.rsa(brain, list(x), metric="regression"))
        np.testing.assert_allclose(fit.coefficients[:, j], theirs, atol=1e-11)
        scored = [(v - v.mean()) / v.std() for v in (*x, brain)]
        z = np.linalg.lstsq(np.array(scored[:-1]).T, scored[-1], rcond=None)[0]
        np.testing.assert_allclose(fit.standardised[:, j], z, atol=1e-11)
    assert (fit.pairs, fit.degrees_of_freedom) == (66, 65 - k)
    assert np.isnan(fit.p_value).all()
    assert "Nothing was tested" in fit.summary()


def test_rank_regression_is_regression_of_ranks(rng):
    x, y = related(rng, 3, 10, 2, decimals=1)
    keep = rng.random(45) < 0.8
    fit = rf.rdm_regression(rdms(x), rdms(y), method="spearman", mask=keep, n_permutations=0)
    ranks = [rankdata(v[:, keep], axis=1) for v in (x, y)]
    plain = [least_squares(ranks[0], v) for v in ranks[1]]
    np.testing.assert_allclose(fit.coefficients.T, [p.params[1:] for p in plain], atol=1e-9)
    np.testing.assert_allclose(fit.r_squared, [p.rsquared for p in plain], atol=1e-12)


def test_partial_correlation_and_inflation_of_the_fit(rng):
    x, y = related(rng, 4, 10, 2)
    fit = rf.rdm_regression(rdms(x), rdms(y), n_permutations=0)
    for k in range(4):
        others = np.delete(x, k, 0)
        partial = rf.compare(x[k], rdms(y), "pearson", covariates=rdms(others))[0]
        np.testing.assert_allclose(fit.partial_correlation[k], partial, atol=1e-12)
        own = least_squares(others, x[k]).rsquared
        assert fit.variance_inflation[k] == pytest.approx(1 / (1 - own), rel=1e-9)


@pytest.mark.data
def test_regression_of_real_rdms_equals_mne_rsa(data_dir):
    models = rf.read_rdms(data_dir / "fmri92" / "92_modelRDMs.mat")
    brain = rf.read_rdms(data_dir / "fmri92" / "target_fmri.mat", key="IT_RDMs")
    fit = rf.rdm_regression(models, brain, n_permutations=0)
    peer = [mne_rsa.rsa(v, list(models.vectors), metric="regression") for v in brain.vectors]
    np.testing.assert_allclose(fit.coefficients, np.array(peer).T, rtol=1e-8, atol=1e-10)


def brute_t(x, y, k, order):
    """t of predictor k with its residual relabelled: double semi-partialling, written out."""
    others = np.delete(x, k, 0)
    residual = least_squares(others, x[k]).resid if len(others) else x[k] - x[k].mean()
    n = len(order)
    square = np.zeros((n, n))
    square[np.triu_indices(n, 1)] = residual
    square += square.T
    moved = square[np.ix_(order, order)][np.triu_indices(n, 1)]
    return least_squares(np.vstack([moved, others]), y).tvalues[1]


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("k", [1, 3])
def test_p_values_equal_double_semi_partialling_written_out(rng, alternative, k):
    x, y = related(rng, k, 5)
    x, y = x + 0.0, y + 0.3 * rng.random(y.shape)
    fit = rf.rdm_regression(
        rdms(x), rdms(y), alternative=alternative, engine="exact", progress=False
    )
    sign = {"two-sided": np.abs, "greater": np.positive, "less": np.negative}[alternative]
    orders = list(permutations(range(5)))
    for place in range(k):
        null = sign(np.array([brute_t(x, y[0], place, order) for order in orders]))
        assert fit.p_value[place, 0] == np.mean(null >= null[0] - 1e-9)
    assert fit.predictor_tests[0].n_permutations == 120


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("method", PEER)
def test_r_squared_under_relabelling_equals_refitting(rng, method, masked):
    n, pairs = 9, 36
    x, y = related(rng, 3, n, 2)
    keep = rng.random(pairs) < (0.7 if masked else 2)
    statistic = explained_statistic(get_comparator(method), rdms(x), rdms(y), keep)
    orders = np.stack([np.arange(n), *(rng.permutation(n) for _ in range(20))]).astype(np.int32)
    got = statistic.evaluate(orders)[0]
    values = rankdata(x, axis=1) if method == "spearman" else x
    for p, order in enumerate(orders):
        moved = rf.RDMs.from_vectors(values).matrices()[:, order][:, :, order]
        moved = moved[:, *np.triu_indices(n, 1)][:, keep]
        for j, brain in enumerate(y):
            target = rankdata(brain[keep]) if method == "spearman" else brain[keep]
            assert got[j, p] == pytest.approx(least_squares(moved, target).rsquared, abs=1e-11)


@pytest.mark.parametrize("masked", [False, True])
def test_engines_agree_and_the_observed_fit_is_what_is_tested(rng, masked):
    x, y = related(rng, 3, 12, 2)
    keep = rng.random(66) < (0.7 if masked else 2)
    fits = [
        rf.rdm_regression(
            rdms(x), rdms(y), mask=keep, n_permutations=20_000, engine=engine, progress=False
        )
        for engine in ("orbit", "direct")
    ]
    for fit in fits:
        np.testing.assert_allclose(fit.model_test.statistic[0], fit.r_squared, atol=1e-12)
        tested = np.concatenate([test.statistic for test in fit.predictor_tests])
        np.testing.assert_allclose(tested, fit.partial_correlation, atol=1e-12)
        assert (fit.p_value_fwer >= fit.p_value).all()
    np.testing.assert_allclose(fits[0].p_value, fits[1].p_value, atol=0.015)
    np.testing.assert_allclose(fits[0].r_squared_p, fits[1].r_squared_p, atol=0.015)


def test_regression_is_reproducible_and_blind_to_scale(rng):
    x, y = related(rng, 2, 11)
    first, again, other = (
        rf.rdm_regression(rdms(a), rdms(b), n_permutations=500, seed=s, progress=False)
        for a, b, s in ((x, y, 3), (x * 1e6 + 5, y * 1e-6, 3), (x, y, 4))
    )
    np.testing.assert_array_equal(first.p_value, again.p_value)
    np.testing.assert_allclose(first.t, again.t, rtol=1e-8)
    assert not np.array_equal(first.p_value, other.p_value)


def test_an_exact_fit_is_no_nan(rng):
    x, _ = related(rng, 2, 8)
    fit = rf.rdm_regression(rdms(x), rdms(x[:1] * 2 + x[1:]), n_permutations=99, progress=False)
    assert fit.r_squared[0] == pytest.approx(1)
    assert np.isfinite(fit.partial_correlation).all()
    np.testing.assert_allclose(fit.coefficients[:, 0], [2, 1], atol=1e-9)


def test_tables_and_summary_name_everything(rng):
    x, y = related(rng, 2, 9, 3)
    fit = rf.rdm_regression(
        rdms(x, names=["p", "q"]), rdms(y), n_permutations=200, progress=False
    )
    table = fit.to_dataframe()
    assert table.predictor.tolist() == ["p"] * 3 + ["q"] * 3
    assert table.coefficients.tolist() == fit.coefficients.ravel().tolist()
    assert fit.fit_dataframe().r_squared.tolist() == fit.r_squared.tolist()
    assert isinstance(table, pd.DataFrame)
    for word in ("p, q", "Double semi-partialling", "Smallest attainable p", "other subjects"):
        assert word in fit.summary()


def test_bad_regressions_are_refused(rng):
    x, y = related(rng, 3, 6)
    with pytest.raises(InvalidInputError, match="predictor 'rdm 2' is a linear function"):
        rf.rdm_regression(rdms([x[0], x[1], x[0] + x[1]]), rdms(y))
    with pytest.raises(UnsupportedCaseError, match="pearson or spearman"):
        rf.rdm_regression(rdms(x), rdms(y), method="cosine")
    with pytest.raises(InvalidInputError, match="too many for 6 pairs"):
        rf.rdm_regression(rdms(rng.random((5, 6))), rdms(rng.random((1, 6))))
    with pytest.raises(InvalidInputError, match="alternative"):
        rf.rdm_regression(rdms(x), rdms(y), alternative="up")
    for count in (-1, 2.5, True):
        with pytest.raises(InvalidInputError, match="n_permutations"):
            rf.rdm_regression(rdms(x), rdms(y), n_permutations=count)
    y[0, 2] = np.nan
    with pytest.raises(InvalidInputError, match="mask="):
        rf.rdm_regression(rdms(x), rdms(y, missing="allow"))


# ---- calibration ---------------------------------------------------------------------------------


@pytest.mark.calibration
@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_a_correlated_predictor_that_adds_nothing_is_rejected_at_the_level(rng, masked):
    """Predictor 1 shares features with predictor 0, which alone drives the brain RDM."""
    n, repeats = 24, 600
    p_values, r_squared_p = [], []
    with threads(1):
        for seed in range(repeats):
            shared, own, noise, other = rng.standard_normal((4, n, 4))
            x = rf.compute_rdms(
                {"drives": shared, "rides along": np.hstack([shared, own])}, "sqeuclidean"
            )
            brain = rf.compute_rdms(
                {"driven": np.hstack([shared, 2 * noise]), "unrelated": other}, "sqeuclidean"
            )
            keep = rng.random(n * (n - 1) // 2) < (0.8 if masked else 2)
            fit = rf.rdm_regression(
                x, brain, n_permutations=199, seed=seed, mask=keep, progress=False
            )
            p_values.append(fit.p_value[1])
            r_squared_p.append(fit.r_squared_p[1])
    for p in (*np.array(p_values).T, np.array(r_squared_p)):
        for alpha in (0.05, 0.2):
            limit = 3 * np.sqrt(alpha * (1 - alpha) / repeats)
            # Exact only approximately where a covariate matters: docs/methods.md, table of sizes.
            assert abs(np.mean(p <= alpha) - alpha) <= limit + 0.01, (alpha, np.mean(p <= alpha))
