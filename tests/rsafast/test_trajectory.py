"""`trajectory` and `best_layer`: against `compare`, brute force and simulated truth."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.optimize import curve_fit
from scipy.stats import norm, t

import rsafast as rf
from rsafast.errors import InvalidInputError
from rsafast.inference.bootstrap.draws import SEEDS, STIMULI, SUBJECTS, draw_counts
from rsafast.inference.trajectory.curves import (
    area_weights,
    axis_values,
    fit_approach,
    slope_weights,
)
from rsafast.inference.trajectory.resample import cell_means, resample, weighted_means
from rsafast.inference.trajectory.result import Trajectory
from rsafast.inference.trajectory.simultaneous import (
    Basis,
    Contrasts,
    corrected_replicates,
    shrinkage,
    standard_errors,
    total_variance,
)

EPOCHS = (0, 1, 2, 5, 10, 20, 40)
ALL = ("stimuli", "subjects", "seeds")


def study(rules=2, seeds=3, epochs=4, layers=2, regions=2, subjects=3, n=24, noise=0.7, seed=0):
    """Networks of rule 0 drift from region 0 to the last one, those of rule 1 the other way."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(regions, n, 12))
    brain = [truth[q] + noise * rng.normal(size=(n, 12)) for q in range(regions)
             for _ in range(subjects)]  # fmt: skip
    points, cells = [], []
    for g in range(rules):
        for s in range(seeds):
            own = rng.normal(size=(layers, n, 12))
            for epoch in EPOCHS[:epochs]:
                early = np.exp(-epoch / 4) if g == 0 else 1 - np.exp(-epoch / 4)
                for layer in range(layers):
                    mixed = 0.7 * early * truth[0] + 0.7 * (1 - early) * truth[-1]
                    points.append(mixed + own[layer] + 0.5 * rng.normal(size=(n, 12)))
                    cells.append((f"rule {g}", s, epoch, f"layer {layer}"))
    names = ("rule", "seed", "epoch", "layer")
    models = rf.RDMs(
        rf.compute_rdms(np.stack(points)).vectors,
        descriptors={name: [c[i] for c in cells] for i, name in enumerate(names)},
    )
    places = [(f"region {q}", p) for q in range(regions) for p in range(subjects)]
    return models, rf.RDMs(
        rf.compute_rdms(np.stack(brain)).vectors,
        descriptors={"region": [q for q, _ in places], "subject": [p for _, p in places]},
    )


def run(models, brain, **keywords):
    keywords = {"method": "pearson", "n_resamples": 60, "progress": False} | keywords
    return rf.trajectory(models, brain, **keywords)


def from_scores(scores, factors, n_resamples=200, seed=0):
    """A trajectory of given scores (G, S, E, L, Q, P) where stimuli are not resampled."""
    g, s, e, layers, q, p = scores.shape
    rules = tuple(f"rule {i}" for i in range(g))
    design = SimpleNamespace(
        rules=rules, models=SimpleNamespace(n_rdms=g * s * e * layers, n_stimuli=50),
        brain=SimpleNamespace(n_rdms=q * p),
    )  # fmt: skip
    drawn = resample(
        design, None, scores, factors=factors, n_resamples=n_resamples, seed=seed, budget=10**9,
        advance=lambda _: None,
    )  # fmt: skip
    return Trajectory(
        scores=scores, deviations=drawn.deviations, covariances=drawn.covariances,
        jackknife=drawn.jackknife, rules=rules, seeds=(tuple(range(s)),) * g,
        epochs=tuple(map(float, range(e))), layers=tuple(range(layers)), regions=tuple(range(q)),
        subjects=tuple(range(p)), baseline=0.0, method="pearson", resample=factors, n_stimuli=50,
        n_resamples=n_resamples, lost=0, level=0.95, seed=seed,
    )  # fmt: skip


# ---------------------------------------------------------------- the core pass


@pytest.mark.parametrize("method", ["pearson", "spearman", "cosine_cov", "tau-a"])
def test_alignment_is_the_mean_of_compare_over_seeds_and_subjects(method):
    models, brain = study(n=10, epochs=2)
    result = run(models, brain, method=method, n_resamples=20)
    scores = rf.compare(models, brain, method)
    for g, rule in enumerate(result.rules):
        for e, epoch in enumerate(result.epochs):
            for k, layer in enumerate(result.layers):
                for q, region in enumerate(result.regions):
                    rows = [
                        i for i in range(models.n_rdms)
                        if (models.descriptors["rule"][i], models.descriptors["epoch"][i],
                            models.descriptors["layer"][i]) == (rule, epoch, layer)
                    ]  # fmt: skip
                    columns = np.flatnonzero(brain.descriptors["region"] == region)
                    expected = scores[np.ix_(rows, columns)].mean()
                    assert result.alignment[g, e, k, q] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("factors", [ALL, ("stimuli", "seeds")])
def test_replicates_are_those_of_the_resample_written_out(factors):
    models, brain = study(n=9, rules=2, seeds=2, epochs=2, layers=1, regions=1, subjects=2)
    result = run(models, brain, n_resamples=30, resample=factors, seed=5)
    stimuli = draw_counts(5, STIMULI, 9, 0, 30)
    subjects = draw_counts(5, SUBJECTS, 2, 0, 30) if "subjects" in factors else np.ones((30, 2))
    by_rule = [draw_counts(5, SEEDS + 1000 + g, 2, 0, 30) for g in range(2)]
    curves = []
    for r in range(30):
        drawn = np.repeat(np.arange(9), stimuli[r])
        x, y = np.triu_indices(9, 1)
        apart = drawn[x] != drawn[y]
        a, b = (m.matrices()[:, drawn[x], drawn[y]][:, apart] for m in (models, brain))
        scores = np.corrcoef(a, b)[: len(a), len(a) :].reshape(2, 2, 2, 2)  # rule seed epoch subj
        row = [
            np.average(
                np.average(scores[g], axis=-1, weights=subjects[r]), axis=0, weights=by_rule[g][r]
            )
            for g in range(2)
        ]
        curves.append(np.concatenate(row))
    expected = np.array(curves).T
    expected -= expected.mean(axis=1, keepdims=True)
    assert np.allclose(result.deviations, expected, atol=1e-12)


def test_contraction_agrees_with_numpy_averages(rng):
    scores = rng.normal(size=(5, 2, 3, 2, 2, 2, 4))
    seeds, subjects = rng.dirichlet(np.ones(3), (5, 2)), rng.dirichlet(np.ones(4), 5)
    expected = np.einsum("rgselqp,rgs,rp->rgelq", scores, seeds, subjects)
    assert np.allclose(weighted_means(scores, seeds, subjects), expected)
    assert np.allclose(weighted_means(scores[:1], None, None)[0], cell_means(scores[0]))
    fixed = np.repeat(scores[:1], 5, axis=0)
    assert np.allclose(
        weighted_means(scores[:1], seeds, subjects), weighted_means(fixed, seeds, subjects)
    )


def test_the_order_of_rdms_changes_nothing(rng):
    models, brain = study()
    result = run(models, brain, resample=ALL)
    shuffled = run(
        models[rng.permutation(models.n_rdms)], brain[rng.permutation(brain.n_rdms)], resample=ALL
    )
    keys = ["rule", "epoch", "layer", "region"]
    one, two = (
        r.to_dataframe().sort_values(keys).reset_index(drop=True)[keys + list(names)]
        for r, names in ((result, NAMES), (shuffled, NAMES))
    )
    assert one[keys].equals(two[keys])
    assert np.allclose(one[list(NAMES)], two[list(NAMES)], equal_nan=True, atol=1e-10)


NAMES = ("alignment", "standard_error", "dof", "low", "high", "p_value", "change")


def test_same_seed_same_result_whatever_the_memory_budget():
    models, brain = study(n=12)
    one, two = run(models, brain, memory_budget="8MB"), run(models, brain, memory_budget="1GB")
    assert np.array_equal(one.deviations, two.deviations)
    assert not np.array_equal(one.deviations, run(models, brain, seed=1).deviations)


def test_labels_may_be_given_as_sequences_or_descriptor_names():
    models, brain = study()
    renamed = rf.RDMs(models.vectors, descriptors={"who": models.descriptors["rule"]})
    given = run(
        renamed, rf.RDMs(brain.vectors), rules="who", seeds=models.descriptors["seed"],
        epochs=list(models.descriptors["epoch"]), layers=models.descriptors["layer"].tolist(),
        regions=brain.descriptors["region"], subjects=brain.descriptors["subject"],
    )  # fmt: skip
    assert np.array_equal(given.deviations, run(models, brain).deviations)


# ---------------------------------------------------------------- estimates


def test_standard_error_over_seeds_alone_is_that_of_their_mean(rng):
    scores = rng.normal(size=(2, 6, 3, 1, 1, 1))
    found = from_scores(scores, ("seeds",), 20_000).estimates()
    expected = scores.std(axis=1, ddof=1)[..., 0, 0, 0] / np.sqrt(6)
    assert np.allclose(found.standard_error[..., 0, 0], expected, rtol=0.03)
    assert np.allclose(found.dof, 5)
    # The t interval of five degrees of freedom, as SciPy has it.
    low, high = t.interval(0.95, 5, scores[0, :, 0, 0, 0, 0].mean(), expected[0, 0])
    assert found.low[0, 0, 0, 0] == pytest.approx(low, abs=0.05)
    assert found.high[0, 0, 0, 0] == pytest.approx(high, abs=0.05)


def test_seeds_of_two_rules_have_twice_the_degrees_of_freedom(rng):
    own = rng.normal(size=(1, 6, 1, 1, 1, 1))
    scores = np.concatenate([own, -own]) + np.zeros((1, 1, 2, 1, 1, 1))
    found = from_scores(scores, ("seeds",), 20_000).compare_rules()
    assert np.allclose(found.dof, 10, rtol=0.05)


def test_variance_of_crossed_factors_is_unbiased_where_a_joint_bootstrap_is_too_wide(rng):
    subjects, seeds, found, naive, means = 6, 5, [], [], []
    for i in range(150):
        x = rng.normal(size=(1, seeds, 1, 1, 1, subjects))  # an interaction and nothing else
        result = from_scores(np.repeat(x, 2, axis=2), ("subjects", "seeds"), 200, seed=i)
        parts = result.covariances[:, 0, 0]
        n = {"subjects": subjects, "seeds": seeds}
        found.append(total_variance(parts[:, None], n)[0])
        naive.append(parts[-1])
        means.append(x.mean())
    truth = 1 / (subjects * seeds)
    assert np.mean(naive) > 2 * truth
    # Bounded below by single factors, the estimate of a pure interaction leans upwards.
    assert truth * 0.9 < np.mean(found) < truth * 1.6


def test_band_is_wider_than_the_interval_and_holds_its_p_values():
    result = run(*study(), resample=ALL)
    for table in (result.estimates(), result.change(), result.compare_rules()):
        assert (table.band_low <= table.low + 1e-12).all()
        assert (table.band_high >= table.high - 1e-12).all()
        assert (table.p_value_fwer >= table.p_value).all()
        assert (table.p_value > 0).all()
    wide, narrow = result.estimates("all"), result.estimates("curve")
    assert (wide.band_high >= narrow.band_high - 1e-9).all()
    assert "all" not in narrow.family


def test_a_family_of_one_has_the_interval_as_its_band():
    areas = run(*study()).area()
    assert np.allclose(areas.band_high, areas.high, rtol=0.25, atol=0.02)
    assert shrinkage(1, 4.0) == 0


def test_changes_of_an_untrained_rule_are_exactly_zero_and_never_significant():
    models, brain = study(rules=1, epochs=3)
    still = models.vectors.reshape(3, 3, 2, -1)
    frozen = np.broadcast_to(still[:, :1], still.shape).reshape(models.vectors.shape)
    result = run(rf.RDMs(frozen.copy(), descriptors=models.descriptors), brain)
    change = result.change()
    assert np.allclose(change.estimate, 0)
    assert np.allclose(change.standard_error, 0)
    assert (change.p_value_fwer == 1).all()
    assert np.isinf(result.onset().epoch).all()


def test_relative_change_is_the_ratio_and_nan_with_a_reason_on_a_weak_baseline():
    result = run(*study(n=40, seeds=4), n_resamples=200)
    found, absolute = result.change(relative=True), result.change()
    fine = np.isfinite(found.estimate)
    assert fine.any()
    assert not fine.all()
    ratio = result.alignment[:, 1:] / result.alignment[:, :1] - 1
    assert np.allclose(found.estimate[fine], ratio[fine])
    reasons = np.array(found.reason).reshape(fine.shape)
    assert (reasons[fine] == "").all()
    assert all("baseline" in reason for reason in reasons[~fine])
    # Zero change lies in one interval where it lies in the other, as Fieller's interval has it.
    inside = (absolute.low <= 0) & (absolute.high >= 0)
    relative = (found.low <= 0) & (found.high >= 0)
    assert (inside[fine] == relative[fine]).all()


def test_area_and_slope_are_linear_functions_of_the_curve():
    result = run(*study(epochs=5))
    x = np.log1p(result.epochs)
    curve = result.alignment[1, :, 0, 1]
    assert result.area().estimate[1, 0, 1] == pytest.approx(trapezoid(curve, x) / np.ptp(x))
    assert result.slopes().estimate[1, 0, 1] == pytest.approx(np.polyfit(x, curve, 1)[0])
    linear = np.array(result.epochs)
    assert result.area("linear").estimate[1, 0, 1] == pytest.approx(
        trapezoid(curve, linear) / np.ptp(linear)
    )
    assert area_weights(x).sum() == pytest.approx(1)
    assert slope_weights(x) @ x == pytest.approx(1)
    both = result.compare_rules("area")
    assert both.estimate[0, 0, 1] == pytest.approx(-np.diff(result.area().estimate[:, 0, 1])[0])


def test_opposite_trends_show_in_the_interaction_and_in_no_single_slope_alone():
    result = run(*study(n=60, seeds=5, epochs=6, noise=0.4), n_resamples=300, resample=ALL)
    found = result.interaction(("region 0", "region 1"), "layer 0")
    slopes = result.slopes().estimate[:, 0]
    assert np.allclose(found.difference.estimate, slopes[:, 0] - slopes[:, 1])
    assert found.between is not None
    assert found.between.estimate[0] == pytest.approx(-np.diff(found.difference.estimate)[0])
    assert (found.difference.p_value < 0.01).all()
    assert (found.p_opposite < 0.05).all()
    assert found.p_seeds_floor == 2 / 32
    assert (found.p_seeds >= found.p_seeds_floor).all()
    assert len(found.to_dataframe()) == 3
    # The same slope twice is no opposite trend, however significant.
    same = result.interaction(("region 0", "region 0"), ("layer 0", "layer 1"))
    assert (same.p_opposite == 1).all()


def test_trends_over_five_seeds_cannot_go_below_their_floor():
    trends = run(*study(seeds=5, n=40)).trends()
    assert set(trends) == {"rule 0", "rule 1"}
    for result in trends.values():
        assert result.floor == 2 / 32
        assert (result.p_value >= 2 / 32).all()


# ---------------------------------------------------------------- onsets and rates


def test_onset_is_the_first_epoch_of_a_clear_step():
    rng = np.random.default_rng(3)
    curve = np.array([0.1, 0.1, 0.1, 0.3, 0.3, 0.3])
    scores = curve[:, None] + 0.01 * rng.normal(size=(12, 6, 1))
    result = from_scores(np.stack([scores] * 2)[:, :, :, None, None, :], ("seeds",), 1_000)
    onset = result.onset()
    assert (onset.epoch == 3).all()
    assert onset.low[0, 0, 0] <= 3 <= onset.high[0, 0, 0]
    assert onset.change[0, 0, 0] == pytest.approx(0.2, abs=0.03)
    assert onset.p_value[0, 0, 0] < 0.01


@pytest.mark.parametrize("tau", [1.5, 6.0, 25.0])
def test_rate_of_a_known_approach_is_found(tau):
    x = np.array(EPOCHS, float)
    curve = 0.02 + 0.1 * np.exp(-x / tau)
    fit = fit_approach(x, curve[None])
    assert fit.tau[0] == pytest.approx(tau, rel=0.002)
    assert (fit.start[0], fit.end[0]) == pytest.approx((0.12, 0.02), abs=1e-4)
    assert fit.r2[0] == pytest.approx(1)


def test_grid_fits_agree_with_scipy_on_noisy_curves(rng):
    x = np.array(EPOCHS, float)
    curves = 0.02 + 0.1 * np.exp(-x / 5) + 0.004 * rng.normal(size=(20, len(x)))
    ours = fit_approach(x, curves)
    for curve, tau in zip(curves, ours.tau, strict=True):
        (_, _, theirs), _ = curve_fit(
            lambda v, a, b, tau: a + (b - a) * np.exp(-v / tau), x, curve, (0.0, 0.1, 5.0)
        )
        assert tau == pytest.approx(theirs, rel=0.005)


def test_rates_that_a_curve_does_not_identify_have_a_reason_and_no_number(rng):
    e = np.arange(7.0)
    shapes = {
        "no plateau": 0.1 + 0.05 * e,
        "no epoch differs": np.full(7, 0.1),
        "an exponential explains": np.array([0.1, 0.2, 0.5, 0.2, 0.1, 0.2, 0.4]),
        "": 0.1 + 0.4 * np.exp(-e / 1.5),
    }
    scores = np.stack([c[:, None] + 0.005 * rng.normal(size=(10, 7, 1)) for c in shapes.values()])
    rates = from_scores(scores[:, :, :, None, None, :], ("seeds",), 300).rates()
    for tau, reason, expected in zip(rates.tau.ravel(), rates.reason, shapes, strict=True):
        assert expected in reason
        assert np.isnan(tau) == bool(expected)
    assert rates.low[3, 0, 0] < 1.5 < rates.high[3, 0, 0]


def test_corrected_replicates_have_the_corrected_variance_along_every_direction(rng):
    x = rng.normal(size=(1, 6, 1, 1, 1, 1)) + rng.normal(size=(1, 1, 1, 1, 1, 8))
    scores = x + rng.normal(size=(1, 6, 4, 1, 1, 8))
    result = from_scores(scores, ("subjects", "seeds"), 3_000)
    basis = result._basis()
    drawn = corrected_replicates(basis, np.arange(4))
    errors, _ = standard_errors(basis, Contrasts(np.arange(4)[None], np.ones((1, 4))))
    assert np.allclose(drawn.std(axis=0), errors, rtol=0.15)
    assert np.allclose(drawn.mean(axis=0), result.alignment.ravel())
    slope = slope_weights(np.arange(4.0))
    errors, _ = standard_errors(basis, Contrasts(np.arange(4)[:, None], slope[:, None]))
    assert (drawn @ slope).std() == pytest.approx(errors[0], rel=0.15)


def test_corrected_replicates_of_one_factor_are_its_own_scaled(rng):
    result = from_scores(rng.normal(size=(1, 9, 4, 1, 1, 1)), ("seeds",), 500)
    basis: Basis = result._basis()
    drawn = corrected_replicates(basis, np.arange(4)) - basis.values
    assert np.allclose(drawn, basis.deviations.T * np.sqrt(9 / 8))


# ---------------------------------------------------------------- best layer


def test_test_of_the_best_layer_agrees_with_brute_force(rng):
    """Max over layers of standardised mean correlations, relabelled by hand."""
    models, brain = study(rules=1, epochs=1, layers=3, regions=1, n=16, seeds=2)
    found = rf.best_layer(
        models, brain, method="pearson", n_permutations=20_000, n_resamples=0, n_splits=2,
        progress=False,
    )  # fmt: skip
    a = models.matrices().reshape(2, 3, 16, 16)
    x, y = np.triu_indices(16, 1)

    def means(order):
        moved = a[:, :, order[:, None], order][:, :, x, y].reshape(6, -1)
        r = np.corrcoef(moved, brain.vectors)[:6, 6:]
        return r.reshape(2, 3, -1).mean(axis=(0, 2))

    null = np.stack([means(rng.permutation(16)) for _ in range(2_000)])
    z = (null - null.mean(axis=0)) / null.std(axis=0)
    observed = ((means(np.arange(16)) - null.mean(axis=0)) / null.std(axis=0)).max()
    p = (z.max(axis=1) >= observed).mean()
    assert found.p_value[0, 0, 0] == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 2000) + 0.002)
    assert found.null_maximum[0, 0, 0] == pytest.approx(null.max(axis=1).mean(), abs=0.005)


def test_masked_test_counts_the_data_among_the_relabellings():
    models, brain = study(n=20, noise=0.1)
    mask = np.ones((20, 20), bool)
    mask[:4, :4] = False
    found = rf.best_layer(
        models, brain, mask=mask, n_permutations=500, n_resamples=0, n_splits=2, progress=False
    )
    assert found.p_value.min() >= 1 / found.n_permutations
    assert (found.p_value_fwer >= found.p_value).all()


@pytest.mark.parametrize("select", ["stimuli", "subjects"])
def test_cross_validated_choice_has_no_optimism_on_unrelated_layers(select):
    post_hoc, fair = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        models = rf.RDMs(
            rf.compute_rdms(rng.normal(size=(8, 16, 6))).vectors,
            descriptors={"layer": list(range(8))},
        )
        brain = rf.compute_rdms(rng.normal(size=(6, 16, 6)))
        found = rf.best_layer(
            models, brain, method="pearson", select=select, n_permutations=0, n_resamples=0,
            n_splits=5, progress=False,
        )  # fmt: skip
        post_hoc.append(found.chosen_alignment.item())
        fair.append(found.crossvalidated.item())
    error = np.std(fair) / np.sqrt(len(fair))
    assert np.mean(post_hoc) > 5 * error
    assert abs(np.mean(fair)) < 3 * error


def test_choice_on_other_subjects_is_that_of_a_loop():
    models, brain = study(rules=1, epochs=1, layers=3, regions=1, subjects=4)
    found = rf.best_layer(
        models, brain, method="pearson", select="subjects", n_permutations=0, n_resamples=0,
        progress=False,
    )  # fmt: skip
    scores = rf.compare(models, brain, "pearson").reshape(3, 3, 4).mean(axis=0)  # layer, subject
    own = [scores[np.delete(scores, p, axis=1).mean(axis=1).argmax(), p] for p in range(4)]
    assert found.crossvalidated.item() == pytest.approx(np.mean(own))


def test_trajectory_carries_the_best_layer_test():
    models, brain = study()
    result = run(models, brain, n_permutations=300)
    alone = rf.best_layer(
        models, brain, method="pearson", n_permutations=300, n_resamples=0, progress=False
    )
    assert np.array_equal(result.best_layer.p_value, alone.p_value)
    assert "relabellings" in result.summary()


# ---------------------------------------------------------------- files, tables, figures


@pytest.mark.parametrize("n_permutations", [0, 200])
def test_saved_results_come_back_bit_for_bit(tmp_path, n_permutations):
    result = run(*study(), n_permutations=n_permutations, resample=ALL)
    result.save(tmp_path / "curves.h5")
    again = Trajectory.load(tmp_path / "curves.h5")
    for name in ("scores", "deviations", "covariances", "jackknife"):
        assert np.array_equal(getattr(again, name), getattr(result, name))
    for name in ("rules", "seeds", "epochs", "layers", "regions", "subjects", "resample"):
        assert getattr(again, name) == getattr(result, name)
    assert again.to_dataframe().equals(result.to_dataframe())
    assert again.summary() == result.summary()
    result.save(tmp_path / "curves.csv")
    with pytest.raises(InvalidInputError, match="saved as"):
        result.save(tmp_path / "curves.txt")


def test_figure_has_a_panel_a_region_and_a_band_a_rule():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    result = run(*study())
    for quantity in ("alignment", "change"):
        figure = result.plot({"region 0": "layer 1", "region 1": "layer 0"}, quantity)
        assert len(figure.axes) == 2
        assert all(len(ax.collections) == 2 for ax in figure.axes)
        assert figure.axes[0].get_title() == "region 0 (layer 1)"
        plt.close(figure)
    with pytest.raises(InvalidInputError, match="layers"):
        result.plot()


def test_summary_says_to_whom_it_generalises_and_what_lifts_the_floor():
    text = run(*study(seeds=5)).summary()
    assert "generalise to other stimuli and seeds, and speak for these subjects only" in text
    assert "0.0625" in text
    assert "more seeds" in text


# ---------------------------------------------------------------- bad input


def without(models, **cells):
    keep = np.ones(models.n_rdms, bool)
    gone = np.ones(models.n_rdms, bool)
    for name, value in cells.items():
        gone &= models.descriptors[name] == value
    return models[keep & ~gone]


def test_a_checkpoint_missing_from_one_rule_is_named_or_dropped_and_listed():
    models, brain = study()
    lacking = without(models, rule="rule 1", epoch=2)
    with pytest.raises(InvalidInputError, match=r"rule 1, 0, 2, layer 0.*incomplete='drop'"):
        run(lacking, brain)
    result = run(lacking, brain, incomplete="drop")
    assert result.epochs == (0, 1, 5)
    assert result.excluded == ("epoch 2 is left out of every rule: missing from rule 1",)
    assert result.excluded[0] in result.summary()
    whole = run(without(models, epoch=2), brain)
    assert np.array_equal(result.deviations, whole.deviations)


def test_unequal_seeds_are_named_or_dropped_and_listed():
    models, brain = study()
    lacking = without(models, rule="rule 0", seed=1)
    with pytest.raises(InvalidInputError, match=r"unequal .*rule 0: 2, rule 1: 3"):
        run(lacking, brain)
    result = run(lacking, brain, incomplete="drop")
    assert result.seeds == ((0, 2), (0, 2))
    assert result.excluded == ("seed 1 of rule rule 1 is left out: another rule lacks it",)


def test_a_seed_that_lacks_one_cell_is_dropped_whole_and_listed():
    models, brain = study()
    lacking = without(models, rule="rule 0", seed=1, epoch=5, layer="layer 1")
    with pytest.raises(InvalidInputError, match=r"1 of the cells.*\(rule 0, 1, 5, layer 1\)"):
        run(lacking, brain)
    result = run(lacking, brain, incomplete="drop")
    assert result.seeds == ((0, 2), (0, 2))
    assert len(result.excluded) == 2


def test_a_missing_layer_and_a_missing_subject_are_errors_or_listed():
    models, brain = study()
    lacking = without(models, rule="rule 1", layer="layer 1")
    with pytest.raises(InvalidInputError, match="are missing"):
        run(lacking, brain)
    assert run(lacking, brain, incomplete="drop").layers == ("layer 0",)
    some = without(brain, region="region 1", subject=2)
    with pytest.raises(InvalidInputError, match="subject 2 has no RDM for region 1"):
        run(models, some)
    result = run(models, some, incomplete="drop")
    assert result.subjects == (0, 1)
    assert "subject 2" in result.excluded[0]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"resample": ()}, "one or more of"),
        ({"resample": "pairs"}, "one or more of"),
        ({"n_resamples": 5}, "at least 20"),
        ({"level": 95}, "level"),
        ({"baseline": 3}, "none of the epochs"),
        ({"epochs": "age"}, "no descriptor"),
        ({"epochs": [1, 2]}, "one label"),
        ({"epochs": ["early"] * 48}, "must be numbers"),
        ({"rules": ["all"] * 48}, "more than one RDM"),
        ({"incomplete": "ignore"}, "incomplete"),
        ({"memory_budget": "10KB"}, "too small"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_refused(keywords, message):
    with pytest.raises(InvalidInputError, match=message):
        run(*study(), **keywords)


def test_a_factor_with_a_single_item_is_refused():
    models, brain = study()
    with pytest.raises(InvalidInputError, match="'seeds'"):
        run(models.subset({"seed": 0}), brain)
    with pytest.raises(InvalidInputError, match="'subjects'"):
        run(models, brain.subset({"subject": 0}), resample=("subjects",))
    with pytest.raises(InvalidInputError, match="2 checkpoints"):
        run(models.subset({"epoch": 0}), brain)


def test_questions_that_make_no_sense_are_refused():
    result = run(*study(epochs=3))
    with pytest.raises(InvalidInputError, match="at least 4 checkpoints"):
        result.rates()
    with pytest.raises(InvalidInputError, match="two different"):
        result.interaction(("region 0", "region 0"), "layer 0")
    with pytest.raises(InvalidInputError, match="layers"):
        result.interaction(("region 0", "region 1"))
    with pytest.raises(InvalidInputError, match="family"):
        result.area(family="rule")
    with pytest.raises(InvalidInputError, match="axis"):
        result.slopes("cubic")
    with pytest.raises(InvalidInputError, match="over"):
        result.compare_rules("median")
    one = run(study()[0].subset({"rule": "rule 0"}), study()[1])
    with pytest.raises(InvalidInputError, match="2 rules"):
        one.compare_rules()


def test_degenerate_resamples_are_counted_and_reported():
    rng = np.random.default_rng(0)
    square = np.ones((3, 6, 6)) - np.eye(6)
    square[:, 0, 1] = square[:, 1, 0] = [2, 3, 4]  # one pair tells; without it all are equal
    brain = rf.RDMs(rf.compute_rdms(rng.normal(size=(2, 6, 4))).vectors)
    with pytest.raises(InvalidInputError, match="without spread"):
        run(rf.RDMs(square, descriptors={"epoch": [0, 1, 2]}), brain, resample="stimuli")
    square[:, 2, 3] = square[:, 3, 2] = [4, 2, 3]
    square[:, 4, 5] = square[:, 5, 4] = [3, 4, 2]
    models = rf.RDMs(square, descriptors={"epoch": [0, 1, 2]})
    few = run(models, brain, resample="stimuli", n_resamples=200)
    assert few.lost > 0
    assert f"{few.lost} resamples are left out" in few.summary()
    assert np.isfinite(few.estimates().band_high).all()


# ---------------------------------------------------------------- calibration


@pytest.mark.slow
def test_grouped_jackknife_of_many_stimuli_agrees_with_that_of_each():
    models, brain = study(n=150, rules=1, seeds=2, epochs=2, layers=1, regions=1, subjects=2)
    result = run(models, brain, resample="stimuli", n_resamples=50)
    assert result.jackknife.shape[1] == 128
    each = np.stack([
        rf.compare(models.subset(stimuli=keep), brain.subset(stimuli=keep), "pearson")
        for keep in ~np.eye(150, dtype=bool)
    ]).reshape(150, 2, 2, 2).mean(axis=(1, 3))  # fmt: skip
    expected = np.sqrt(149 / 150 * ((each - each.mean(axis=0)) ** 2).sum(axis=0))
    assert np.allclose(result.estimates().standard_error[0, :, 0, 0], expected, rtol=0.2)


def test_standard_error_over_stimuli_is_the_jackknifes():
    models, brain = study(n=20, rules=1, seeds=2, epochs=2, layers=1, regions=1, subjects=2)
    result = run(models, brain, resample="stimuli", n_resamples=50)
    each = np.stack([
        rf.compare(models.subset(stimuli=keep), brain.subset(stimuli=keep), "pearson")
        for keep in ~np.eye(20, dtype=bool)
    ]).reshape(20, 2, 2, 2).mean(axis=(1, 3))  # fmt: skip
    expected = np.sqrt(19 / 20 * ((each - each.mean(axis=0)) ** 2).sum(axis=0))
    assert np.allclose(result.estimates().standard_error[0, :, 0, 0], expected)


@pytest.mark.calibration
@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "subjects", "spread"),
    [(5, 15, (1, 0.3, 0.3)), (5, 3, (1, 1, 0.5)), (20, 20, (1, 1, 1))],
)
def test_bands_hold_whole_curves_and_onsets_of_flat_curves_are_rare(seeds, subjects, spread):
    """Random effects of seeds, subjects and both, half of them constant over 8 epochs."""
    sims, epochs, rules = 200, 8, 2
    rng = np.random.default_rng(1)
    inside, onsets, between = [], [], []

    def effects(*shape):
        return 0.7 * (rng.normal(size=(*shape, 1)) + rng.normal(size=(*shape, epochs)))

    for i in range(sims):
        x = spread[0] * effects(rules, seeds, 1) + spread[1] * effects(1, 1, subjects)
        x = x + spread[2] * effects(rules, seeds, subjects)
        scores = np.moveaxis(x, 3, 2)[:, :, :, None, None, :]
        result = from_scores(scores, ("subjects", "seeds"), 400, seed=i)
        found = result.estimates()
        inside.append(((found.band_low <= 0) & (found.band_high >= 0)).all(axis=1).mean())
        found = result.change()
        onsets.append((found.p_value_fwer <= 0.05).any(axis=1).mean())
        found = result.compare_rules()
        between.append(((found.band_low <= 0) & (found.band_high >= 0)).all(axis=1).mean())
    error = np.sqrt(0.05 * 0.95 / sims)
    assert np.mean(inside) > 0.93 - 2 * error
    assert np.mean(onsets) < 0.07 + 2 * error
    assert np.mean(between) > 0.93 - 2 * error


@pytest.mark.calibration
@pytest.mark.slow
def test_onsets_of_flat_curves_are_rare_where_stimuli_subjects_and_seeds_vary():
    """Networks that change from epoch to epoch, but not in how well they fit."""
    sims, found = 80, []
    for i in range(sims):
        rng = np.random.default_rng(i)
        z = rng.normal(size=(30, 5))
        weights = np.eye(5, 8) + 0.4 * rng.normal(size=(5, 1, 5, 8))  # of 5 seeds
        networks = z @ weights + rng.normal(size=(5, 4, 30, 8))
        brains = z @ (np.eye(5) + 0.4 * rng.normal(size=(8, 5, 5))) + rng.normal(size=(8, 30, 5))
        models = rf.RDMs(
            rf.compute_rdms(networks.reshape(20, 30, 8), "euclidean").vectors,
            descriptors={"seed": np.repeat(range(5), 4), "epoch": np.tile([0, 1, 4, 16], 5)},
        )
        result = run(
            models, rf.compute_rdms(brains, "euclidean"), resample=ALL, n_resamples=200, seed=i
        )
        found.append(np.isfinite(result.onset().epoch.item()))
    assert np.mean(found) < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / sims)


@pytest.mark.calibration
@pytest.mark.slow
def test_best_layer_p_is_uniform_where_nothing_is_related():
    p = []
    for i in range(200):
        rng = np.random.default_rng(i)
        models = rf.RDMs(
            rf.compute_rdms(rng.normal(size=(8, 14, 5))).vectors,
            descriptors={"layer": [0, 1, 2, 3] * 2, "seed": [0] * 4 + [1] * 4},
        )
        found = rf.best_layer(
            models, rf.compute_rdms(rng.normal(size=(2, 14, 5))), n_permutations=400,
            n_resamples=0, n_splits=1, seed=i, progress=False,
        )  # fmt: skip
        p.append(found.p_value.item())
    rejected = (np.array(p) <= 0.05).mean()
    assert rejected < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 200)
    assert norm.cdf((np.mean(p) - 0.5) * np.sqrt(12 * 200)) > 0.005


def test_axis_values_are_log_or_linear():
    assert np.allclose(axis_values(np.array([0.0, 1.0]), "log"), [0, np.log(2)])
