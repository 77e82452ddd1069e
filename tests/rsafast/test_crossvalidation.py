"""Cross-validation: rsatoolbox on the same sets, nothing of a test fold in a fit, calibration."""

import numpy as np
import pytest
import rsatoolbox
import scipy.sparse.linalg
from rsatoolbox.inference import boot_noise_ceiling, crossval
from rsatoolbox.model import ModelFixed, ModelSelect, ModelWeighted, fit_regress, fit_regress_nn
from rsatoolbox.model.fitter import fit_mock, fit_select
from rsatoolbox.util.inference_util import pool_rdm

import rsafast as rf
from rsafast.errors import InvalidInputError

PEERS = {"pearson": "corr", "cosine": "cosine", "spearman": "spearman", "rho-a": "rho-a",
         "kendall": "kendall", "cosine_cov": "cosine_cov", "corr_cov": "corr_cov"}  # fmt: skip


def simulated(rng, n=20, k=3, subjects=6, noise=1.0):
    pairs = n * (n - 1) // 2
    parts = rng.random((k, pairs))
    brain = parts[0] + 0.5 * parts[1] + 1 + noise * rng.standard_normal((subjects, pairs))
    return rf.RDMs.from_vectors(parts), rf.RDMs.from_vectors(brain)


def sets_of(result, brain):
    """The folds of one repeat as rsatoolbox takes them, and the places of their scores."""
    data = rsatoolbox.rdm.RDMs(brain.vectors)
    train, test, ceil, places = [], [], [], []
    stimuli, subjects = result.stimulus_fold[0], result.subject_fold[0]
    for s in range(result.stimulus_folds):
        one = result.stimulus_folds == 1
        inside = np.flatnonzero(stimuli == s)
        outside = inside if one else np.flatnonzero(stimuli != s)
        for f in range(result.subject_folds):
            tested = np.flatnonzero(subjects == f)
            trained = tested if result.subject_folds == 1 else np.flatnonzero(subjects != f)
            of = {
                key: data.subset("index", list(rows)).subset_pattern("index", list(stim))
                for key, rows, stim in (
                    ("train", trained, outside),
                    ("test", tested, inside),
                    ("ceil", trained, inside),
                )
            }
            train.append((of["train"], list(outside)))
            test.append((of["test"], list(inside)))
            ceil.append((of["ceil"], list(inside)))
            places.append((s, tested))
    return data, train, test, ceil, places


@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize("folds", [(4, 3), (4, None), (None, 3), (3, "leave-one-out")])
def test_scores_equal_rsatoolbox_on_the_same_sets(rng, method, folds):
    parts, brain = simulated(rng)
    models = [rf.FixedModel(parts[0], name="fixed"), rf.SelectModel(parts)]
    peers = [ModelFixed("fixed", parts.vectors[0]), ModelSelect("select", parts.vectors)]
    fitters = [fit_mock, fit_select]
    if method in ("pearson", "cosine", "cosine_cov", "corr_cov"):
        models += [rf.WeightedModel(parts), rf.WeightedModel(parts, "free", nonnegative=False)]
        peers += [ModelWeighted("w", parts.vectors), ModelWeighted("free", parts.vectors)]
        fitters += [fit_regress_nn, fit_regress]
    result = rf.cross_validate(
        models, brain, method=method, stimulus_folds=folds[0], subject_folds=folds[1],
        n_repeats=1, seed=3,
    )  # fmt: skip
    data, train, test, _, places = sets_of(result, brain)
    peer = crossval(
        peers, data, train, test, method=PEERS[method], fitter=fitters, calc_noise_ceil=False
    ).evaluations[0]
    ours = np.stack([result.scores[0, s][:, rows].mean(axis=1) for s, rows in places], axis=1)
    assert np.abs(ours - peer).max() < 1e-8


@pytest.mark.parametrize("method", ["pearson", "cosine", "spearman", "kendall"])
def test_ceilings_are_those_of_pooled_subjects_on_the_scored_pairs(rng, method):
    parts, brain = simulated(rng)
    result = rf.cross_validate(
        parts, brain, method=method, stimulus_folds=4, subject_folds=3, n_repeats=1
    )
    data, _, test, ceil, places = sets_of(result, brain)
    for (held, inside), (others, _), (s, rows) in zip(test, ceil, places, strict=True):
        whole = data.subset_pattern("index", inside)
        for pool, ours in ((others, result.ceiling_lower), (whole, result.ceiling_upper)):
            pooled = pool_rdm(pool, method=PEERS[method])
            expected = rsatoolbox.rdm.compare(pooled, held, PEERS[method])[0]
            assert np.abs(ours[0, s, rows] - expected).max() < 1e-8


@pytest.mark.parametrize("method", ["pearson", "cosine", "spearman"])
def test_without_subject_folds_the_ceiling_leaves_each_subject_out(rng, method):
    parts, brain = simulated(rng)
    result = rf.cross_validate(
        parts, brain, method=method, stimulus_folds=4, subject_folds=None, n_repeats=1
    )
    for s in range(4):
        inside = list(np.flatnonzero(result.stimulus_fold[0] == s))
        part = rsatoolbox.rdm.RDMs(brain.vectors).subset_pattern("index", inside)
        expected = boot_noise_ceiling(part, method=PEERS[method])
        ours = [c[0, s].mean() for c in (result.ceiling_lower, result.ceiling_upper)]
        assert np.abs(np.array(ours) - expected).max() < 1e-8


def test_no_model_can_pass_the_upper_ceiling_of_its_folds(rng):
    parts, brain = simulated(rng, noise=0.1)
    for method in ("pearson", "cosine", "corr_cov", "cosine_cov"):
        result = rf.cross_validate(
            [rf.FixedModel(brain.mean()), rf.WeightedModel(parts)], brain, method=method
        )
        upper = result.ceiling_upper.mean(axis=2)[..., None]
        assert (result.scores.mean(axis=3) <= upper + 1e-9).all()


# ---------------------------------------------------------------- nothing leaks


@pytest.mark.parametrize("method", ["pearson", "cosine_cov", "spearman"])
def test_fits_know_nothing_of_what_is_left_out(rng, method):
    """Whatever is put into the left-out stimuli or subjects, their fold's weights stay."""
    parts, brain = simulated(rng)
    options = {"method": method, "stimulus_folds": 4, "subject_folds": 3, "n_repeats": 1}
    models = [rf.WeightedModel(parts), rf.SelectModel(parts), rf.InterpolatedModel(parts)]
    before = rf.cross_validate(models, brain, **options)
    x, y = np.triu_indices(20, 1)
    s, f = 1, 2
    changed = brain.vectors.copy()
    touched = (before.stimulus_fold[0][x] == s) | (before.stimulus_fold[0][y] == s)
    changed[:, touched] += 5 * rng.random(touched.sum())
    changed[before.subject_fold[0] == f] = rng.random((2, len(x)))
    after = rf.cross_validate(models, rf.RDMs.from_vectors(changed), **options)
    for one, other in zip(before.theta, after.theta, strict=True):
        assert np.abs(one[0, s, f] - other[0, s, f]).max() < 1e-9
        assert np.abs(one - other).max() > 1e-6 or one.max() == 1


def test_every_stimulus_and_subject_is_left_out_once_a_repeat(rng):
    parts, brain = simulated(rng, 23, subjects=7)
    result = rf.cross_validate(parts, brain, subject_folds=3, n_repeats=6)
    assert {tuple(np.sort(np.bincount(row))) for row in result.stimulus_fold} == {(4, 4, 5, 5, 5)}
    assert {tuple(np.sort(np.bincount(row))) for row in result.subject_fold} == {(2, 2, 3)}
    assert len({tuple(row) for row in result.stimulus_fold}) == 6
    assert not np.isnan(result.scores).any()


def test_rdms_of_a_subject_are_left_out_together_in_every_region(rng):
    parts, brain = simulated(rng, subjects=12)
    subject, region = np.tile(["a", "b", "c"], 4), np.repeat(["V1", "IT", "IT", "V1"], 3)
    result = rf.cross_validate(
        parts, brain, subjects=subject, regions=region, n_repeats=2, subject_folds=3
    )
    for row in result.subject_fold:
        assert all(len(set(row[subject == who])) == 1 for who in "abc")
    assert result.means.shape == (3, 2)
    v1 = result.rdm_means[:, region == "V1"].mean(axis=1)
    assert np.abs(result.means[:, 0] - v1).max() < 1e-12


def test_regions_are_fitted_alone(rng):
    parts, brain = simulated(rng, subjects=5)
    other = rf.RDMs.from_vectors(brain.vectors + rng.random((5, 190)) * 3)
    both = rf.RDMs.from_vectors(
        np.concatenate([brain.vectors, other.vectors]),
        descriptors={"region": ["V1"] * 5 + ["IT"] * 5, "subject": [1, 2, 3, 4, 5] * 2},
    )
    model = rf.WeightedModel(parts)
    together = rf.cross_validate(model, both, regions="region", subjects="subject", seed=5)
    alone = rf.cross_validate(model, brain, seed=5)
    assert np.abs(together.scores[..., :5] - alone.scores).max() < 1e-12
    assert together.region_names == ("V1", "IT")


def test_same_seed_same_result_and_models_do_not_disturb_each_other(rng):
    parts, brain = simulated(rng)
    one = rf.cross_validate([rf.WeightedModel(parts)], brain, seed=9)
    two = rf.cross_validate([rf.SelectModel(parts), rf.WeightedModel(parts)], brain, seed=9)
    assert np.abs(one.scores[:, :, 0] - two.scores[:, :, 1]).max() < 1e-12
    other = rf.cross_validate([rf.WeightedModel(parts)], brain, seed=10)
    assert not np.array_equal(one.stimulus_fold, other.stimulus_fold)


def test_unequal_noise_takes_its_part_of_the_covariance(rng):
    parts, brain = simulated(rng)
    a = rng.standard_normal((20, 60))
    sigma = a @ a.T
    model = rf.WeightedModel(parts)
    result = rf.cross_validate(
        model, brain, method="corr_cov", sigma_k=sigma, stimulus_folds=2, n_repeats=1
    )
    inside, outside = (np.flatnonzero(result.stimulus_fold[0] == s) for s in (1, 0))
    theta = model.fit(brain[list(range(1, 6))], "corr_cov", stimuli=outside, sigma_k=sigma)
    assert np.abs(theta - result.theta[0][0, 1, 0, 0]).max() < 1e-10
    expected = rf.compare(
        model.predict(theta).subset(stimuli=inside), brain[0].subset(stimuli=inside), "corr_cov",
        sigma_k=sigma[np.ix_(inside, inside)],
    )  # fmt: skip
    assert abs(result.scores[0, 1, 0, 0] - expected[0, 0]) < 1e-10


def test_masked_folds_score_what_the_mask_leaves(rng):
    parts, brain = simulated(rng, 24)
    keep = rng.random(24 * 23 // 2) < 0.6
    holes = rf.RDMs.from_vectors(np.where(keep, brain.vectors, np.nan), missing="allow")
    for method in ("pearson", "spearman", "kendall"):
        result = rf.cross_validate(
            parts[0], holes, method=method, mask=keep, stimulus_folds=2, n_repeats=1
        )
        square = np.zeros((24, 24), bool)
        square[np.triu_indices(24, 1)] = keep
        square |= square.T
        inside = np.flatnonzero(result.stimulus_fold[0] == 0)
        expected = rf.compare(
            parts[0].subset(stimuli=inside), holes.subset(stimuli=inside), method,
            mask=square[np.ix_(inside, inside)],
        )  # fmt: skip
        assert np.abs(result.scores[0, 0, 0] - expected[0]).max() < 1e-10


def test_undefined_scores_are_counted_and_named(rng):
    group = np.repeat([0, 1], 10)
    x, y = np.triu_indices(20, 1)
    category = rf.RDMs.from_vectors([(group[x] != group[y]).astype(float)], names=["category"])
    _, brain = simulated(rng)
    result = rf.cross_validate(category, brain, stimulus_folds=group)
    assert result.undefined.tolist() == [12]
    assert np.isnan(result.means).all()
    assert any("category: 12 of 12 scores are undefined" in note for note in result.notes)


def test_results_can_be_read(rng):
    parts, brain = simulated(rng, 12)
    models = [rf.WeightedModel(parts), parts[2]]
    result = rf.cross_validate(models, brain, n_repeats=2, stimulus_folds=4)
    frame, weights = result.to_dataframe(), result.theta_to_dataframe()
    assert len(frame) == result.scores.size
    row = frame.iloc[37]
    i, j = result.model_names.index(row.model), result.brain_names.index(row.brain)
    assert row.score == result.scores[row["repeat"], row["stimulus_fold"], i, j]
    assert len(weights) == 2 * 4 * 6 * (3 + 1)
    text = result.summary()
    assert "stimuli and subjects that the models were not fitted to" in text
    assert "smallest fold holds 3 stimuli" in text
    assert result.plot().get_xlabel().startswith("Pearson")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stimulus_folds": 7}, "from 2 to 6"),
        ({"stimulus_folds": 1}, "from 2 to 6"),
        ({"stimulus_folds": 2.5}, "number of folds"),
        ({"stimulus_folds": [0] * 18 + [1] * 2}, r"sizes \[18, 2\]"),
        ({"stimulus_folds": None, "subject_folds": None}, "both None"),
        ({"subject_folds": 7}, "from 2 to 6"),
        ({"subject_folds": "loo"}, "leave-one-out"),
        ({"n_repeats": 0}, "positive integer"),
        ({"stimulus_folds": None, "n_repeats": 2}, "very same folds"),
        ({"seed": -1}, "seed"),
        ({"regions": "roi"}, "no descriptor"),
        ({"regions": ["a", "b"]}, "6 labels"),
        ({"regions": list("aaabbb")}, "subjects is needed"),
        ({"regions": list("aaaaab"), "subjects": list("uvwxyz")}, "at least 2 subjects"),
        ({"mask": np.arange(190) < 25}, "of one fold"),
        ({"method": "pearson", "sigma_k": np.ones(20)}, "sigma_k"),
    ],
)
def test_bad_requests_are_refused(rng, options, message):
    parts, brain = simulated(rng)
    with pytest.raises(InvalidInputError, match=message):
        rf.cross_validate(parts, brain, **options)


def test_bad_models_are_refused(rng):
    parts, brain = simulated(rng)
    with pytest.raises(InvalidInputError, match="2 are called 'weighted'"):
        rf.cross_validate([rf.WeightedModel(parts), rf.WeightedModel(parts)], brain)
    with pytest.raises(InvalidInputError, match="got none"):
        rf.cross_validate([], brain)
    with pytest.raises(InvalidInputError, match="at least 2 subjects"):
        rf.cross_validate(parts, brain[0])
    assert rf.cross_validate(parts, brain[0], subject_folds=None).undefined.sum() == 0
    constant = rf.RDMs.from_vectors(np.ones((1, 190)))
    with pytest.raises(InvalidInputError, match="undefined for RDM"):
        rf.cross_validate(constant, brain)


@pytest.mark.data
def test_a_weighted_model_of_it_predicts_left_out_images(data_dir):
    models = rf.read_rdms(data_dir / "fmri92" / "92_modelRDMs.mat")
    it = rf.read_rdms(data_dir / "fmri92" / "target_fmri.mat", key="IT_RDMs")
    result = rf.cross_validate([rf.WeightedModel(models), *models], it, n_repeats=3)
    means = dict(zip(result.model_names, result.means[:, 0], strict=True))
    assert means["weighted"] > max(v for k, v in means.items() if k != "weighted")
    assert means["weighted"] < result.ceilings[1, 0]


# ---------------------------------------------------------------- calibration


@pytest.mark.calibration
@pytest.mark.slow
def test_fitting_and_scoring_on_the_same_data_favours_the_flexible_model(rng):
    """Brains unrelated to any model: in sample ten weights win, cross-validated they do not."""
    same, held = [], []
    for _ in range(150):
        parts = rf.RDMs.from_vectors(rng.random((10, 190)))
        shared = rng.standard_normal(190)
        brain = rf.RDMs.from_vectors(shared + rng.standard_normal((6, 190)))
        model = rf.WeightedModel(parts)
        same.append(rf.compare(model.predict(model.fit(brain)), brain, "pearson").mean())
        result = rf.cross_validate([model, parts[0]], brain, n_repeats=2)
        held.append(result.means[:, 0])
    same, held = np.array(same), np.array(held)
    error = held.std(axis=0, ddof=1) / np.sqrt(len(held))
    assert same.mean() > 0.08
    assert (np.abs(held.mean(axis=0)) < 4 * error).all()


# ---------------------------------------------------------------- bootstrap around the folds


@pytest.mark.parametrize("method", ["pearson", "cosine", "spearman", "corr_cov", "kendall"])
def test_resampled_folds_equal_rsatoolbox_on_the_resample_written_out(monkeypatch, rng, method):
    from rsafast.comparators import get_comparator
    from rsafast.inference.models.bootstrap_cv import fold_jobs
    from rsafast.inference.models.folds import build_study, plan_folds, run_folds

    # Their solver stops at a relative residual of 1e-5.
    monkeypatch.setattr(
        scipy.sparse.linalg, "cg", lambda v, x, **_: (np.linalg.solve(v.toarray(), x), 0)
    )
    parts, brain = simulated(rng)
    weighted = method in ("pearson", "cosine", "corr_cov")
    models = [rf.WeightedModel(parts) if weighted else rf.SelectModel(parts), parts[1]]
    study = build_study(
        models, brain, get_comparator(method), regions=None, subjects=None, mask=None,
        sigma_k=None, subjects_matter=True,
    )  # fmt: skip
    plan = plan_folds(study, 3, 2)
    w, v = (np.bincount(rng.integers(0, k, k), minlength=k) for k in (20, 6))
    jobs = fold_jobs(study, plan, w, v, (1, 2, 3))
    done = list(run_folds(study, jobs, 2))
    assert len(jobs) == 3
    if weighted:
        peer, fitter = ModelWeighted("p", parts.vectors), fit_regress_nn
    else:
        peer, fitter = ModelSelect("p", parts.vectors), fit_select
    data = rsatoolbox.rdm.RDMs(brain.vectors)
    for (train, test, fold, counts), got in zip(jobs, done, strict=True):
        for f in range(2):
            drawn = [np.repeat(np.arange(20), part) for part in (train, test)]
            rows = [np.repeat(np.arange(6), counts * pick) for pick in (fold != f, fold == f)]
            sets = [
                (data.subsample("index", list(r)).subsample_pattern("index", list(s)), list(s))
                for r, s in zip(rows, drawn, strict=True)
            ]
            theirs = crossval(
                [peer], data, sets[:1], sets[1:], method=PEERS[method], fitter=[fitter],
                calc_noise_ceil=False,
            ).evaluations[0, 0, 0]  # fmt: skip
            assert abs(got.models[0, rows[1]].mean() - theirs) < 1e-8


def test_copies_of_a_stimulus_or_subject_are_in_one_fold(rng):
    from rsafast.inference.models.folds import FoldPlan

    plan = FoldPlan(3, 2, None, False)
    w = np.bincount(rng.integers(0, 20, 20), minlength=20)
    folds = plan.stimulus_folds(np.flatnonzero(w), 20, (0, 1))
    assert ((folds >= 0) == (w > 0)).all()
    assert np.ptp(np.bincount(folds[folds >= 0])) <= 1


def test_bootstrap_variance_is_that_of_rsatoolbox(rng):
    from rsatoolbox.util.inference_util import extract_variances

    parts, brain = simulated(rng, 24, subjects=8)
    result = rf.bootstrap_cross_validate(
        [rf.WeightedModel(parts), parts[1]], brain, n_resamples=40, stimulus_folds=2,
        subject_folds=2, progress=False,
    )  # fmt: skip
    fine = ~np.isnan(result.replicates).any(axis=(0, 2, 3, 4))
    values = result.replicates[:, fine][..., 0]
    mean = np.stack([np.cov(part.mean(1).T) for part in values])
    one = np.stack([(np.cov(p[:, 0].T) + np.cov(p[:, 1].T)) / 2 for p in values])
    corrected = 2 * mean - one
    # Never below what one factor contributes; theirs may be.
    floor = np.maximum(8 / 7 * corrected[1], 24 / 23 * corrected[2])[[0, 1], [0, 1]]
    variances = np.maximum(extract_variances(corrected, True, 8, 24)[0], floor)
    assert (variances > 0).all()
    assert np.abs(result.standard_error[:, 0] - np.sqrt(variances)).max() < 1e-10


@pytest.mark.slow
def test_bootstrap_is_reproducible_and_counts_what_fails(rng):
    parts, brain = simulated(rng, 14, subjects=5)
    options = {"n_resamples": 40, "progress": False, "seed": 4, "subject_folds": 2}
    one, two = (rf.bootstrap_cross_validate(parts, brain, **options) for _ in range(2))
    assert np.array_equal(one.replicates, two.replicates, equal_nan=True)
    failed = np.isnan(one.replicates).all(axis=(2, 3, 4)).any(axis=0).sum()
    assert one.n_failed == failed > 0
    assert f"{failed} of 40 resamples" in one.summary()
    longer = rf.bootstrap_cross_validate(parts, brain, **options | {"n_resamples": 50})
    assert np.array_equal(longer.replicates[:, :40], one.replicates, equal_nan=True)
    assert len(one.to_dataframe()) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resample": "seeds"}, "resample"),
        ({"resample": ()}, "resample"),
        ({"n_cv": 1}, "n_cv"),
        ({"n_resamples": 0}, "n_resamples"),
        ({"confidence": 95}, "confidence"),
        ({"stimulus_folds": 6}, "too few distinct"),
    ],
)
def test_bad_bootstraps_are_refused(rng, options, message):
    parts, brain = simulated(rng)
    with pytest.raises(InvalidInputError, match=message):
        rf.bootstrap_cross_validate(parts, brain, **{"n_resamples": 5, "progress": False} | options)
