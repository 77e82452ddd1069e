"""Cohen's d in its named forms: published formulas, unbiased, with intervals that cover."""

import numpy as np
import pytest
from scipy import integrate, stats

import rsafast as rf
from rsafast.errors import InvalidInputError
from rsafast.inference.exact.effects import hedges_j


def test_one_sample_and_pairs_are_t_over_root_n(rng):
    a, b = rng.normal(1, 1, (8, 3)), rng.normal(0, 1, (8, 3))
    one = rf.cohens_d(a, hedges=False)
    np.testing.assert_allclose(
        one.estimate[0], stats.ttest_1samp(a, 0).statistic / np.sqrt(8), rtol=1e-12
    )
    pairs = rf.cohens_d(a, b, paired=True, hedges=False)
    assert pairs.kinds == ("d_z", "d_av")
    np.testing.assert_allclose(pairs.estimate[0], stats.ttest_rel(a, b).statistic / np.sqrt(8))
    average = np.sqrt((a.var(axis=0, ddof=1) + b.var(axis=0, ddof=1)) / 2)
    np.testing.assert_allclose(pairs.estimate[1], (a - b).mean(axis=0) / average)


def test_two_groups_are_scaled_t_of_student(rng):
    a, b = rng.normal(1, 1, (6, 2)), rng.normal(0, 1, (9, 2))
    got = rf.cohens_d(a, b, paired=False, hedges=False)
    t = stats.ttest_ind(a, b).statistic
    np.testing.assert_allclose(got.estimate[0], t * np.sqrt(1 / 6 + 1 / 9), rtol=1e-12)


def test_correction_is_hedges_table_and_near_his_approximation():
    """Hedges (1981), table 1 gives J(m) to four places; J is near 1 - 3 / (4m - 1)."""
    published = {2: 0.5642, 3: 0.7236, 4: 0.7979, 5: 0.8407, 10: 0.9228, 20: 0.9619, 50: 0.9849}
    for df, value in published.items():
        assert hedges_j(df) == pytest.approx(value, abs=1e-4)
    df = np.arange(10, 200)
    np.testing.assert_allclose(hedges_j(df), 1 - 3 / (4 * df - 1), atol=4e-4)
    assert hedges_j(1e7) == pytest.approx(1, abs=1e-6)


def noncentral_cdf(t, df, noncentrality):
    """P(T <= t) by integrating over the standard deviation: independent of SciPy's nct."""

    def density(s):
        return stats.norm.cdf(t * s - noncentrality) * stats.chi.pdf(s * np.sqrt(df), df)

    return integrate.quad(density, 0, np.inf, limit=500)[0] * np.sqrt(df)


@pytest.mark.parametrize("mean", [0.0, 0.3, -1.0, 4.0, -59.0])
@pytest.mark.parametrize("n", [3, 5, 20])
def test_interval_ends_where_the_noncentral_t_puts_its_tails(rng, mean, n):
    values = rng.normal(size=n)
    values = (values - values.mean()) / values.std(ddof=1) + mean
    low, high = rf.cohens_d(values, level=0.9).ci[0, 0]
    t = mean * np.sqrt(n)
    if abs(mean) < 10:  # beyond, the integrand is a needle that quad misses
        assert noncentral_cdf(t, n - 1, low * np.sqrt(n)) == pytest.approx(0.95, abs=1e-6)
        assert noncentral_cdf(t, n - 1, high * np.sqrt(n)) == pytest.approx(0.05, abs=1e-6)
    # P(T <= t | nc) is a normal law of sd far above it: chi of the standard deviation is left.
    else:
        assert low / mean == pytest.approx(np.sqrt(stats.chi2.ppf(0.95, n - 1) / (n - 1)), rel=0.02)
    assert low < mean < high


def test_interval_of_a_published_example():
    """Cumming & Finch (2001): one sample, n = 10, mean 112.5, d = 0.841, 95 % CI 0.102 to 1.548."""
    values = np.array([1.0, -1, 2, -2, 0.5, -0.5, 1.5, -1.5, 0.2, -0.2])
    values = values / values.std(ddof=1) + 0.841
    got = rf.cohens_d(values)
    np.testing.assert_allclose(got.ci[0, 0], stats_ci(0.841 * np.sqrt(10), 9) / np.sqrt(10), 1e-6)


def stats_ci(t, df):
    from scipy.special import nctdtrinc

    return np.array([nctdtrinc(df, 0.975, t), nctdtrinc(df, 0.025, t)])


def test_correction_touches_the_estimate_and_not_the_interval(rng):
    values = rng.normal(1, 1, 5)
    plain, corrected = rf.cohens_d(values, hedges=False), rf.cohens_d(values)
    assert np.array_equal(plain.ci, corrected.ci)
    np.testing.assert_allclose(corrected.estimate, plain.estimate * hedges_j(4))


def test_text_and_table_name_the_kind(rng):
    a, b = rng.normal(60, 1, 5), rng.normal(0, 1, 5)
    result = rf.cohens_d(a, b, paired=True, names=["V1"])
    assert result.to_dataframe()["kind"].tolist() == ["d_z", "d_av"]
    assert "compare studies by d_av" in result.summary()


@pytest.mark.parametrize(
    ("args", "keywords", "said"),
    [
        (([1.0, 2.0],), {}, "at least 3 units"),
        (([1.0, 1.0, 1.0],), {}, "do not vary"),
        (([1.0, 2, 3], [2.0, 3, 4]), {"paired": True}, "do not vary"),
        (([1.0, 2, 3], [2.0, 3, 4]), {}, "paired must be"),
        (([1.0, 2, 3],), {"paired": True}, "needs b"),
        (([1.0, 2, 3], [2.0, 3]), {"paired": True}, "equal numbers"),
        (([1.0], [2.0, 3]), {"paired": False}, "at least 4 units"),
        (([1.0, 2, np.nan],), {}, "nan at unit 2"),
        (([1.0, 2, 3],), {"level": 1.0}, "level must lie"),
    ],
)
def test_bad_input_is_named(args, keywords, said):
    with pytest.raises(InvalidInputError, match=said):
        rf.cohens_d(*args, **keywords)


@pytest.mark.calibration
@pytest.mark.slow
@pytest.mark.parametrize("true", [0.0, 0.8, 3.0])
def test_estimates_are_unbiased_and_intervals_cover(rng, true):
    n, repeats = 6, 500
    a = rng.normal(true, 1, (n, repeats))
    b = rng.normal(0, 1, (n, repeats))
    shared = rng.normal(0, 1, (n, repeats))
    cases = {
        "d": (rf.cohens_d(a), 0, true, 0.03),
        "d_s": (rf.cohens_d(a, b, paired=False), 0, true, 0.03),
        "d_z": (rf.cohens_d(a + shared, b + shared, paired=True), 0, true / np.sqrt(2), 0.03),
        # Spreads sqrt(2); the interval is approximate.
        "d_av": (rf.cohens_d(a + shared, b + shared, paired=True), 1, true / np.sqrt(2), 0.05),
    }
    for kind, (result, row, population, slack) in cases.items():
        estimates, ci = result.estimate[row], result.ci[row]
        error = estimates.std() / np.sqrt(repeats)
        cover = np.mean((ci[:, 0] <= population) & (population <= ci[:, 1]))
        assert abs(estimates.mean() - population) < 4 * error + 0.01 * population, kind
        assert abs(cover - 0.95) < slack, kind


@pytest.mark.parametrize("n", [3, 4, 5, 10, 31])
def test_large_effects_of_few_units_have_an_interval(n):
    # SciPy's noncentral t has no value on the way to the lower limit of some of these.
    unit = np.linspace(-1, 1, n) / np.linspace(-1, 1, n).std(ddof=1)
    for t_value in np.linspace(3.5, 12, 35):
        result = rf.cohens_d(unit + t_value / np.sqrt(n))
        low, high = result.ci[0, 0] * np.sqrt(n)
        assert low < t_value < high
        assert stats.nct.cdf(t_value, n - 1, high) == pytest.approx(0.025, abs=1e-8)
        assert stats.nct.sf(t_value, n - 1, low) == pytest.approx(0.025, abs=1e-8)
