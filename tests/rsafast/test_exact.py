"""Exact tests of a few units: every pattern counted once, families joint, floors stated."""

from itertools import combinations, permutations, product
from math import comb

import numpy as np
import pytest
from mne.stats import permutation_t_test
from scipy import stats

import rsafast as rf
from rsafast.errors import InvalidInputError
from rsafast.inference.exact import orbits

ALTERNATIVES = ["two-sided", "greater", "less"]


def brute(values, alternative):
    """p, single-step and step-down p from all statistics (P, k), the observed one first."""
    score = {"greater": values, "less": -values, "two-sided": np.abs(values)}[alternative]
    limit = score[0] - 1e-9
    order = np.argsort(score[0])
    down = np.empty(len(limit))
    for place, column in enumerate(order):
        rest = score[:, order[: place + 1]].max(axis=1)
        down[column] = (rest >= limit[column]).mean()
    falling = order[::-1]
    down[falling] = np.maximum.accumulate(down[falling])
    single = (score.max(axis=1)[:, None] >= limit).mean(axis=0)
    return (score >= limit).mean(axis=0), single, down


def assert_matches(result, values, alternative):
    for name, expected in zip(
        ("p_value", "p_value_fwer", "p_value_stepdown"), brute(values, alternative), strict=True
    ):
        np.testing.assert_allclose(getattr(result, name), expected, rtol=1e-12, err_msg=name)


def random_values(rng, n, k, kind):
    values = rng.normal(size=(n, k)) * 10.0 ** rng.integers(-3, 3, k)
    if kind == "tied":
        return np.round(rng.normal(size=(n, k)))
    if kind == "shifted":
        return values + 1e6
    return values


# ---------------------------------------------------------------- sign flips


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("kind", ["plain", "tied", "shifted"])
@pytest.mark.parametrize(("n", "k"), [(2, 1), (3, 2), (5, 7), (9, 3)])
def test_sign_flips_count_every_pattern(rng, n, k, kind, alternative):
    values = random_values(rng, n, k, kind)
    signs = np.array(list(product([1, -1], repeat=n)))
    sums = signs @ values
    lengths = np.sqrt((values**2).sum(axis=0))
    standardised = sums / np.where(lengths > 0, lengths, 1.0)
    result = rf.sign_flip_test(values, alternative=alternative)
    assert_matches(result, standardised, alternative)
    assert (result.n_patterns, result.exact) == (2**n, True)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_sign_flips_agree_with_scipy(rng, alternative):
    values = rng.normal(0.4, 1, 11)
    peer = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf
    )
    result = rf.sign_flip_test(values, alternative=alternative)
    assert result.p_value[0] == pytest.approx(peer.pvalue, abs=1e-12)
    assert result.statistic[0] == pytest.approx(peer.statistic)


def test_sign_flips_and_max_t_agree_with_mne(rng):
    values = rng.normal(0.5, 1, (8, 6)) * np.array([1, 10, 0.1, 3, 2, 5])
    _, peer, _ = permutation_t_test(values, n_permutations="all", verbose=False)
    result = rf.sign_flip_test(values, statistic="t")
    # MNE compares t strictly where it counts its own observed pattern; both enumerate 2**8.
    np.testing.assert_allclose(result.p_value_fwer, peer, atol=2 / 2**8)
    np.testing.assert_allclose(result.statistic, stats.ttest_1samp(values, 0).statistic)


def test_mean_and_t_give_the_same_p_values(rng):
    """Both rise with the standardised sum, by one function for all columns."""
    values = rng.normal(size=(9, 4)) * np.array([1, 100, 0.01, 1])
    signs = np.array(list(product([1, -1], repeat=9)))
    flipped = signs[:, :, None] * values
    t = flipped.mean(axis=1) / (flipped.std(axis=1, ddof=1) / 3)
    for alternative in ALTERNATIVES:
        for statistic in ("mean", "t"):
            result = rf.sign_flip_test(values, statistic=statistic, alternative=alternative)
            assert_matches(result, t, alternative)


@pytest.mark.parametrize("n", [12, 19])
def test_blocks_do_not_change_the_count(rng, monkeypatch, n):
    values = rng.normal(0.2, 1, (n, 3))
    whole = rf.sign_flip_test(values)
    monkeypatch.setattr(orbits, "_BLOCK", 50)
    parts = rf.sign_flip_test(values[:, :3])
    assert np.array_equal(whole.p_value, parts.p_value)
    assert np.array_equal(whole.p_value_stepdown, parts.p_value_stepdown)


def test_patterns_are_sampled_beyond_the_limit_and_the_observed_one_counts(rng):
    values = rng.normal(0.3, 1, (15, 3))
    exact = rf.sign_flip_test(values)
    sampled = rf.sign_flip_test(values, max_exact=2**14, n_samples=40_000, seed=3)
    assert (sampled.exact, sampled.n_patterns, sampled.possible) == (False, 40_000, 2**15)
    error = np.sqrt(exact.p_value * (1 - exact.p_value) / 40_000)
    assert (np.abs(sampled.p_value - exact.p_value) < 4 * error).all()
    np.testing.assert_allclose(sampled.p_standard_error, error, rtol=0.1)
    again = rf.sign_flip_test(values, max_exact=2**14, n_samples=40_000, seed=3)
    assert np.array_equal(sampled.p_value, again.p_value)
    huge = rf.sign_flip_test(np.ones((60, 1)) + rng.normal(0, 0.01, (60, 1)), n_samples=1000)
    assert huge.p_value[0] == huge.floor == 1 / 1000


@pytest.mark.parametrize("n", [2, 5, 8])
@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_floor_is_reached_by_the_clearest_values(n, alternative):
    values = np.linspace(1, 2, n) * (-1 if alternative == "less" else 1)
    result = rf.sign_flip_test(values, alternative=alternative)
    assert result.p_value[0] == result.floor == 2.0 ** (1 - n if alternative == "two-sided" else -n)


def test_summary_states_the_floor_and_what_would_lift_it():
    text = rf.sign_flip_test([0.03, 0.02, 0.04, 0.05, 0.01], unit="seed").summary()
    assert "5 seeds: p cannot be below 0.0625 two-sided" in text
    assert "6 seeds would allow 0.031, 8 seeds 0.0078" in text
    assert "label permutation" in text
    assert "resample stimuli" in text


def test_values_of_extreme_size_are_no_trouble(rng):
    values = rng.normal(0.5, 1, (8, 2))
    expected = rf.sign_flip_test(values).p_value_fwer
    for scale in (1e-300, 1e300):
        assert np.array_equal(rf.sign_flip_test(values * scale).p_value_fwer, expected)


def test_zeros_are_ties_and_are_noted():
    result = rf.sign_flip_test(np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), names=["u", "v"])
    assert result.p_value.tolist() == [1.0, 0.5]
    assert result.p_value_fwer[0] == 1
    assert "u: 3 of 3 values are exactly 0" in result.summary()


def test_units_axis_moves(rng):
    values = rng.normal(size=(6, 3))
    assert np.array_equal(
        rf.sign_flip_test(values).p_value, rf.sign_flip_test(values.T, units_axis=1).p_value
    )


# ---------------------------------------------------------------- interval


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [3, 6, 9])
def test_interval_holds_the_centres_that_are_not_rejected(rng, n, level):
    values = rng.normal(size=n)
    low, high = rf.sign_flip_test(values, level=level).interval[0]
    inside = [low + 1e-9, (low + high) / 2, high - 1e-9] if np.isfinite(low) else [-1e6, 0, 1e6]
    for centre in inside:
        assert rf.sign_flip_test(values - centre).p_value[0] > 1 - level - 1e-12
    for centre in (low - 1e-9, high + 1e-9):
        if np.isfinite(centre):
            assert rf.sign_flip_test(values - centre).p_value[0] <= 1 - level + 1e-12


def test_five_units_have_no_95_percent_interval_but_one_of_93_75():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.5])
    assert np.isinf(rf.sign_flip_test(values, level=0.95).interval).all()
    assert rf.sign_flip_test(values, level=0.9375).interval[0].tolist() == [1.0, 5.5]


def test_sampled_interval_is_near_the_exact_one(rng):
    values = rng.normal(1, 1, 14)
    exact = rf.sign_flip_test(values, level=0.95).interval[0]
    sampled = rf.sign_flip_test(values, level=0.95, max_exact=100).interval[0]
    np.testing.assert_allclose(sampled, exact, atol=0.03)


# ---------------------------------------------------------------- swaps


def all_swaps(pooled, n_a):
    """Differences of means (P, k) over all relabellings, over their standard deviation."""
    total = len(pooled)
    out = []
    for chosen in combinations(range(total), n_a):
        member = np.isin(np.arange(total), chosen)
        out.append(pooled[member].mean(axis=0) - pooled[~member].mean(axis=0))
    out = np.array(out)
    spread = out.std(axis=0)
    return out / np.where(spread > 1e-9 * np.abs(pooled).max(axis=0), spread, np.inf)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("kind", ["plain", "tied", "shifted"])
@pytest.mark.parametrize(("n_a", "n_b", "k"), [(1, 2, 1), (2, 5, 3), (5, 5, 4), (6, 3, 2)])
def test_swaps_count_every_relabelling(rng, n_a, n_b, k, kind, alternative):
    a, b = random_values(rng, n_a, k, kind), random_values(rng, n_b, k, kind)
    result = rf.swap_test(a, b, paired=False, alternative=alternative)
    assert_matches(result, all_swaps(np.concatenate([a, b]), n_a), alternative)
    assert result.n_patterns == comb(n_a + n_b, n_a)
    np.testing.assert_allclose(result.statistic, a.mean(axis=0) - b.mean(axis=0))


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_swaps_agree_with_scipy(rng, alternative):
    a, b = rng.normal(0.5, 1, 6), rng.normal(0, 1, 6)
    peer = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), alternative=alternative,
        n_resamples=np.inf, vectorized=True,
    )  # fmt: skip
    result = rf.swap_test(a, b, paired=False, alternative=alternative, statistic="t")
    assert result.p_value[0] == pytest.approx(peer.pvalue, abs=1e-12)
    assert result.statistic[0] == pytest.approx(stats.ttest_ind(a, b).statistic)


@pytest.mark.parametrize(("n", "chosen"), [(9, 4), (11, 2), (30, 1), (12, 9), (7, 6), (14, 3)])
def test_subset_sums_come_once_each_whatever_the_blocks(rng, monkeypatch, n, chosen):
    monkeypatch.setattr(orbits, "_BLOCK", 128)
    x = rng.normal(size=(2, n))
    orbit = orbits.subset_orbit(x, chosen, 10, 0, 10**6)
    got = np.sort(np.concatenate(list(orbit.blocks), axis=1), axis=1)
    expected = np.array([x[:, list(c)].sum(axis=1) for c in combinations(range(n), chosen)]).T
    np.testing.assert_allclose(got, np.sort(expected, axis=1), atol=1e-12)
    assert orbit.size == got.shape[1]


def test_random_relabellings_estimate_the_exact_p(rng):
    a, b = rng.normal(0.5, 1, (9, 2)), rng.normal(0, 1, (8, 2))
    exact = rf.swap_test(a, b, paired=False)
    sampled = rf.swap_test(a, b, paired=False, max_exact=10, n_samples=40_000)
    error = np.sqrt(exact.p_value * (1 - exact.p_value) / 40_000)
    assert (np.abs(sampled.p_value - exact.p_value) < 4 * error).all()
    assert sampled.exact is False


def test_pairs_are_matched_by_id():
    a, b = [1.0, 2.0, 4.0], [0.5, 0.1, 0.9]
    matched = rf.swap_test(a, b, paired=True, units_a=[42, 7, 9], units_b=[9, 42, 7])
    expected = rf.sign_flip_test(np.array(a) - np.array([0.1, 0.9, 0.5]))
    assert matched.p_value == expected.p_value
    assert matched.estimate == pytest.approx(expected.estimate)


def test_unmatched_pairs_raise_or_are_listed():
    a, b = np.arange(4.0), np.arange(3.0) + 0.5
    ids = {"units_a": ["s1", "s2", "s3", "s4"], "units_b": ["s2", "s4", "s9"]}
    with pytest.raises(InvalidInputError, match="'s1', 's3' only in a; 's9' only in b"):
        rf.swap_test(a, b, paired=True, **ids)
    result = rf.swap_test(a, b, paired=True, unmatched="drop", **ids)
    assert result.n_units == (2,)
    assert result.excluded == ("s1 (only in a)", "s3 (only in a)", "s9 (only in b)")
    assert "Left out: s1 (only in a)" in result.summary()


def test_five_and_five_seeds_unpaired_lie_below_five_pairs():
    a, b = np.arange(5.0) + 10, np.arange(5.0)
    assert rf.swap_test(a, b, paired=True).floor == 2 / 2**5
    unpaired = rf.swap_test(a, b, paired=False)
    assert unpaired.p_value[0] == unpaired.floor == 2 / 252
    assert rf.swap_test(a[:4], b, paired=False).floor == 1 / 126


# ---------------------------------------------------------------- trends


def all_orders(curves, times):
    """Mean over units of each unit's correlation with time (P, k) under joint reordering."""
    out = []
    for order in permutations(range(len(times))):
        moved = curves[:, list(order)]
        r = [
            [np.corrcoef(moved[u, :, j], times)[0, 1] for j in range(curves.shape[2])]
            for u in range(len(curves))
        ]
        out.append(np.mean(r, axis=0))
    return np.array(out)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
def test_trend_goes_through_every_order_of_the_checkpoints(rng, statistic, alternative):
    curves = rng.normal(size=(3, 5, 2)) + np.arange(5)[None, :, None] * 0.3
    times = np.array([0.0, 1, 2, 5, 10])
    x, t = curves, times
    if statistic == "spearman":
        x, t = stats.rankdata(curves, axis=1), stats.rankdata(times)
    values = all_orders(x, t)
    result = rf.trend_test(
        curves, times, null="checkpoints", statistic=statistic, alternative=alternative
    )
    np.testing.assert_allclose(result.statistic, values[0])
    assert_matches(result, values / values.std(axis=0), alternative)


def test_rho_of_one_over_seven_epochs_has_p_2_in_5040_not_0():
    for sign in (1, -1):
        result = rf.trend_test(sign * np.arange(7.0) ** 2, np.arange(7), null="checkpoints")
        assert result.statistic[0] == pytest.approx(sign)
        assert result.p_value[0] == result.floor == 2 / 5040


@pytest.mark.slow
def test_spearman_trend_agrees_with_scipy_exact(rng):
    curve, times = rng.normal(size=7), np.arange(7.0)
    peer = stats.permutation_test(
        (curve,), lambda x: stats.spearmanr(x, times).statistic, permutation_type="pairings",
        n_resamples=np.inf,
    )  # fmt: skip
    # scipy doubles the smaller tail; the statistic is symmetric, so that is the same.
    result = rf.trend_test(curve, times, null="checkpoints")
    assert result.p_value[0] == pytest.approx(peer.pvalue, abs=1e-12)


@pytest.mark.parametrize("block", [50, 2**18])
def test_all_orders_come_once_each(rng, monkeypatch, block):
    monkeypatch.setattr(orbits, "_BLOCK", block)
    weights, x = rng.normal(size=6), rng.normal(size=(2, 6))
    orbit = orbits.order_orbit(weights, x, 1, 0, 10**6)
    got = np.sort(np.concatenate(list(orbit.blocks), axis=1), axis=1)
    expected = np.array([x[:, list(o)] @ weights for o in permutations(range(6))]).T
    np.testing.assert_allclose(got, np.sort(expected, axis=1), atol=1e-12)


def test_orders_are_sampled_beyond_the_limit(rng):
    curves, times = rng.normal(size=(4, 8)) + 0.2 * np.arange(8), np.arange(8)
    exact = rf.trend_test(curves, times, null="checkpoints")
    sampled = rf.trend_test(curves, times, null="checkpoints", max_exact=100, n_samples=40_000)
    assert abs(sampled.p_value - exact.p_value) < 4 * sampled.p_standard_error + 1e-4


def test_trend_over_units_is_a_sign_flip_test_of_their_slopes(rng):
    curves, times = rng.normal(size=(6, 9)), np.sort(rng.normal(size=9))
    slopes = np.polyfit(times, curves.T, 1)[0]
    result = rf.trend_test(curves, times, null="units", statistic="slope")
    np.testing.assert_allclose(result.per_unit[:, 0], slopes)
    assert result.p_value == rf.sign_flip_test(slopes).p_value


def test_uneven_times_have_no_mirror_image_and_a_lower_floor():
    curve, times = np.exp([0.0, 1, 2, 4]), [0, 1, 2, 10]
    result = rf.trend_test(curve, times, null="checkpoints", statistic="pearson")
    assert result.p_value[0] == result.floor == 1 / 24


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rf.sign_flip_test([1.0]), "at least 2 units, got 1"),
        (lambda: rf.sign_flip_test([1.0, np.nan]), "nan at unit 1, column 0"),
        (lambda: rf.sign_flip_test(["a", "b"]), "real numbers"),
        (lambda: rf.sign_flip_test(np.ones((2, 2, 2))), "got shape"),
        (lambda: rf.sign_flip_test(np.ones((3, 0))), "at least one column"),
        (lambda: rf.sign_flip_test([1, 2], alternative="both"), "alternative must be one of"),
        (lambda: rf.sign_flip_test([1, 2], statistic="median"), "statistic must be one of"),
        (lambda: rf.sign_flip_test([1, 2], names=["a", "b"]), "names must name 1"),
        (lambda: rf.sign_flip_test([1, 2], n_samples=0), "n_samples must be"),
        (lambda: rf.sign_flip_test([1, 2], seed=-1), "seed must be"),
        (lambda: rf.sign_flip_test([1, 2], level=95), "level must lie between"),
        (lambda: rf.sign_flip_test([1, 2], units_axis=1), "units_axis"),
        (lambda: rf.swap_test([1, 2], [1, 2, 3], paired=True), "equal numbers"),
        (lambda: rf.swap_test([1, 2], [[1, 2], [3, 4]], paired=True), "holds 1 columns, b 2"),
        (lambda: rf.swap_test([1.0], [2.0], paired=False), "at least 3 units"),
        (
            lambda: rf.swap_test([1, 2], [3, 4], paired=False, units_a=[1, 2], units_b=[2, 3]),
            "in both groups: use paired=True",
        ),
        (
            lambda: rf.swap_test([1, 2], [3, 4], paired=True, units_a=[1, 1], units_b=[2, 3]),
            "more than once",
        ),
        (lambda: rf.swap_test([1, 2], [3, 4], paired=True, units_a=[1, 2]), "go together"),
        (lambda: rf.swap_test([1, 2], [3, 4], paired=False, level=0.9), "is for pairs"),
        (lambda: rf.trend_test([1, 2, 3], [0, 1], null="checkpoints"), "3 checkpoints, times 2"),
        (lambda: rf.trend_test([1, 2, 3], [0, 2, 1], null="checkpoints"), "increasing"),
        (lambda: rf.trend_test([1, 2], [0, 1], null="checkpoints"), "at least 3 checkpoints"),
        (lambda: rf.trend_test([1, np.nan, 2], [0, 1, 2], null="checkpoints"), "checkpoint 1"),
        (lambda: rf.trend_test([1, 1, 1], [0, 1, 2], null="checkpoints"), "curve is constant"),
        (lambda: rf.trend_test([1, 2, 3], [0, 1, 2], null="units"), "at least 2 units"),
        (lambda: rf.trend_test([1, 2, 3], [0, 1, 2], null="time"), "null must be one of"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(InvalidInputError, match=said):
        call()


def test_results_are_tables_text_and_figures(rng):
    import matplotlib

    matplotlib.use("Agg")
    result = rf.sign_flip_test(rng.normal(size=(7, 3)), names=["V1", "V2", "IT"], level=0.9)
    table = result.to_dataframe()
    assert table["name"].tolist() == ["V1", "V2", "IT"]
    assert {"p_value_stepdown", "floor", "ci_low"} <= set(table.columns)
    assert result.plot().get_xlabel() == "sign flips: estimate"


# ---------------------------------------------------------------- calibration


def size(p_values, alpha=0.05):
    return float(np.mean(np.asarray(p_values) <= alpha + 1e-12))


@pytest.mark.calibration
@pytest.mark.slow
def test_size_of_sign_flips_and_families_holds_for_skewed_differences_of_equal_laws(rng):
    """Differences of two draws from any law are symmetric; columns depend on one another."""
    p, family = [], []
    for _ in range(1500):
        pair = rng.exponential(size=(2, 7, 5)) + rng.exponential(size=(2, 7, 1))
        result = rf.sign_flip_test(pair[0] - pair[1])
        p.append(result.p_value[0])
        family.append(result.p_value_stepdown.min())
    limit = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)
    assert size(p) <= limit
    assert size(family) <= limit


@pytest.mark.calibration
@pytest.mark.slow
def test_size_of_swaps_holds_for_skewed_groups_of_unequal_size(rng):
    p = [
        rf.swap_test(rng.exponential(size=(4, 3)), rng.exponential(size=(7, 3)), paired=False)
        .p_value_fwer.min()
        for _ in range(1500)
    ]  # fmt: skip
    assert size(p) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.calibration
@pytest.mark.slow
def test_swaps_of_unequal_groups_react_to_spread_alone(rng):
    """A known limit, documented: the null is one distribution, not one mean."""

    def rate(n_a, n_b):
        return size([
            rf.swap_test(rng.normal(0, 3, n_a), rng.normal(0, 1, n_b), paired=False).p_value[0]
            for _ in range(400)
        ])  # fmt: skip

    assert 0.15 < rate(4, 12) < 0.31
    assert rate(12, 4) < 0.04
    assert rate(8, 8) < 0.1


@pytest.mark.calibration
@pytest.mark.slow
def test_checkpoint_orders_reject_random_walks_and_units_do_not(rng):
    """Why `trend_test` asks for the null by name: drift without direction is no trend."""
    orders, units = [], []
    for _ in range(600):
        walks = rng.normal(size=(8, 7)).cumsum(axis=1)
        orders.append(rf.trend_test(walks[0], np.arange(7), null="checkpoints").p_value[0])
        units.append(rf.trend_test(walks, np.arange(7), null="units").p_value[0])
    assert 0.31 < size(orders) < 0.44
    assert size(units) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)


@pytest.mark.calibration
@pytest.mark.slow
def test_checkpoint_orders_hold_where_checkpoints_share_effects_over_units(rng):
    p = []
    for _ in range(1500):
        curves = rng.normal(size=(5, 6)) + 3 * rng.normal(size=6)
        p.append(rf.trend_test(curves, np.arange(6), null="checkpoints").p_value[0])
    assert size(p) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.calibration
@pytest.mark.slow
def test_interval_covers_the_centre(rng):
    hit = []
    for _ in range(2000):
        low, high = rf.sign_flip_test(rng.laplace(2, 1, 8), level=0.95).interval[0]
        hit.append(low <= 2 <= high)
    assert abs(np.mean(hit) - (1 - 2 * 6 / 2**8)) < 3 * np.sqrt(0.05 * 0.95 / 2000)
