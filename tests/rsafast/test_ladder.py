"""The ladder: every rung judges one estimate, holds its own null, and says to whom it speaks."""

import numpy as np
import pytest
from rsafast_kernels import threads

import rsafast as rf
from rsafast.errors import InvalidInputError
from rsafast.inference.ladder.api import RUNGS

FAST = {"n_resamples": 150, "n_permutations": 500, "progress": False}


def study(rng, n=16, seeds=4, subjects=5, regions=2):
    """Models of rules a and b (b noisier) and brains of several regions, with descriptors."""
    world = rng.normal(size=(n, 6))
    spread = np.repeat([0.8, 2.0], seeds)[:, None, None]
    models = rf.RDMs(
        rf.compute_rdms(world + spread * rng.normal(size=(2 * seeds, n, 6))).vectors,
        descriptors={"rule": ["a"] * seeds + ["b"] * seeds, "seed": list(range(seeds)) * 2},
    )
    brain = rf.RDMs(
        rf.compute_rdms(world + 1.5 * rng.normal(size=(subjects * regions, n, 6))).vectors,
        descriptors={
            "region": np.repeat([f"R{i}" for i in range(regions)], subjects),
            "subject": list(range(subjects)) * regions,
        },
    )
    return models, brain


GROUPS = {"rules": "rule", "seeds": "seed", "regions": "region", "subjects": "subject"}


def climb(models, brain, **keywords):
    keywords = {"rule_a": "a", "rule_b": "b"} | GROUPS | FAST | keywords
    return rf.compare_rules(models, brain, **keywords)


def by_hand(models, brain, method="spearman", mask=None):
    """Scores as (rule, seed, region, subject)."""
    return rf.compare(models, brain, method, mask=mask).reshape(2, -1, brain.n_rdms).reshape(
        2, models.n_rdms // 2, len(set(brain.descriptors["region"].tolist())), -1
    )


@pytest.mark.parametrize("method", ["spearman", "pearson", "cosine", "rho-a", "corr_cov"])
def test_every_rung_is_the_test_it_says(rng, method):
    models, brain = study(rng)
    scores = by_hand(models, brain, method)
    difference = scores[0] - scores[1]
    result = climb(models, brain, method=method)
    np.testing.assert_allclose(result.estimate, difference.mean(axis=(0, 2)))
    np.testing.assert_allclose(result.alignment_a, scores[0].mean(axis=(0, 2)))
    paired = rf.sign_flip_test(difference.mean(axis=2))
    assert np.array_equal(result.rung("seeds-paired").p_value_fwer, paired.p_value_stepdown)
    free = rf.swap_test(scores[0].mean(axis=2), scores[1].mean(axis=2), paired=False)
    assert np.array_equal(result.rung("seeds").p_value, free.p_value)
    subjects = rf.sign_flip_test(difference.mean(axis=0).T)
    assert np.array_equal(result.rung("subjects").p_value, subjects.p_value)
    assert [rung.key for rung in result.rungs] == list(RUNGS)
    assert all(rung.reason is None for rung in result.rungs)


@pytest.mark.parametrize("factors", [
    ("stimuli",), ("subjects", "seeds"), ("stimuli", "subjects", "seeds")
])  # fmt: skip
def test_bootstrap_rungs_are_those_of_bootstrap(rng, factors):
    models, brain = study(rng)
    result = climb(models, brain, seed=3)
    plain = rf.bootstrap(
        models, brain, resample=factors, n_resamples=150, seed=3, interval="t", progress=False,
        **GROUPS,
    )  # fmt: skip
    rung = result.rung("+".join(factors))
    np.testing.assert_allclose(rung.p_value, plain.p_pairwise[:, 0, 1], rtol=1e-9)
    np.testing.assert_allclose(rung.ci, plain.difference_ci[:, 0, 1], atol=1e-12)
    np.testing.assert_allclose(result.estimate, plain.difference[:, 0, 1])


@pytest.mark.parametrize("method", ["spearman", "pearson", "cosine", "cosine_cov"])
def test_label_rung_relabels_the_difference(rng, method):
    """All 6! relabellings of the models by hand: the difference of alignments each time."""
    from itertools import permutations

    models, brain = study(rng, n=6, seeds=2, subjects=3, regions=1)
    values = np.array([
        np.subtract(*by_hand(
            rf.RDMs(models.matrices()[:, order][:, :, order]), brain, method
        ).mean(axis=(1, 3)))
        for order in map(list, permutations(range(6)))
    ])  # fmt: skip
    centred = np.abs(values - values.mean(axis=0))
    expected = (centred >= centred[0] - 1e-9).mean(axis=0)
    rung = climb(models, brain, method=method, n_permutations=720, rungs=["labels"]).rung("labels")
    np.testing.assert_allclose(rung.p_value, expected)
    np.testing.assert_allclose(
        rung.statistic, (values[0] - values.mean(axis=0)) / values.std(axis=0), rtol=1e-9
    )
    assert rung.floor == 1 / 720


def test_rules_swapped_change_the_sign_and_nothing_else(rng):
    models, brain = study(rng)
    one, two = climb(models, brain), climb(models, brain, rule_a="b", rule_b="a")
    np.testing.assert_allclose(one.estimate, -two.estimate)
    for first, second in zip(one.rungs, two.rungs, strict=True):
        np.testing.assert_allclose(first.p_value, second.p_value, rtol=1e-9)


def test_order_of_the_rdms_changes_nothing(rng):
    models, brain = study(rng)
    exact = ["labels", "seeds-paired", "seeds", "subjects"]
    result = climb(models, brain, rungs=exact)
    shuffled = climb(
        models.subset(rng.permutation(models.n_rdms)), brain.subset(rng.permutation(brain.n_rdms)),
        rungs=exact,
    )  # fmt: skip
    places = [shuffled.regions.index(region) for region in result.regions]
    np.testing.assert_allclose(result.estimate, shuffled.estimate[places])
    for first, second in zip(result.rungs, shuffled.rungs, strict=True):
        np.testing.assert_allclose(first.p_value, second.p_value[places], atol=1e-12)


def test_other_rules_do_not_matter(rng):
    models, brain = study(rng)
    third = rf.RDMs(
        models.vectors[:1] ** 2, descriptors={"rule": ["c"], "seed": [99]}, names=["c"]
    )
    with_third = rf.RDMs.concat([models, third])
    exact = ["labels", "seeds", "stimuli"]
    first, second = climb(models, brain, rungs=exact), climb(with_third, brain, rungs=exact)
    for one, two in zip(first.rungs, second.rungs, strict=True):
        np.testing.assert_allclose(one.p_value, two.p_value, rtol=1e-9)


def test_mask_counts_pairs_of_the_brain_side(rng):
    models, brain = study(rng)
    keep = rng.random(120) < 0.7
    result = climb(models, brain, mask=keep)
    scores = by_hand(models, brain, mask=keep)
    np.testing.assert_allclose(result.estimate, (scores[0] - scores[1]).mean(axis=(0, 2)))
    assert all(rung.reason is None for rung in result.rungs)
    assert result.parameters["pairs"] == keep.sum()


def test_what_cannot_run_is_listed_with_its_reason(rng):
    models, brain = study(rng, seeds=1, subjects=1)
    result = climb(models, brain)
    ran = [rung.key for rung in result.rungs if rung.reason is None]
    assert ran == ["labels", "stimuli"]
    assert "one subject" in result.rung("stimuli+subjects").reason
    assert "one seed" in result.rung("seeds").reason
    assert np.isnan(result.rung("subjects").p_value).all()
    assert "not run: region 'R0' has one subject" in result.summary()
    assert set(result.to_dataframe()["rung"]) == set(RUNGS)
    tau = climb(models, brain, method="kendall", rungs=["labels"])
    assert "Kendall" in tau.rung("labels").reason


def test_unmatched_seeds_are_said_and_free_seeds_still_run(rng):
    models, brain = study(rng)
    seeds = [1, 2, 3, 4, 1, 2, 3, 7]
    result = climb(models, brain, seeds=seeds, rungs=["seeds-paired", "seeds"])
    assert result.rung("seeds-paired").reason == "seeds do not match (4 only in a; 7 only in b)"
    assert result.rung("seeds").reason is None
    untold = climb(models, brain, seeds=None, rungs=["seeds-paired"])
    assert "seeds= is not given" in untold.rung("seeds-paired").reason


def test_regions_with_other_subjects_have_no_family_wise_p(rng):
    models, brain = study(rng)
    fewer = brain.subset(list(range(9)))
    rung = climb(models, fewer, rungs=["subjects"]).rung("subjects")
    assert np.isnan(rung.p_value_fwer).all()
    assert rung.floor == 2 / 2**4
    alone = climb(models, brain.subset(list(range(5))), rungs=["subjects"]).rung("subjects")
    assert rung.p_value[0] == alone.p_value[0]


def test_identical_rules_are_said_to_be_so(rng):
    models, brain = study(rng)
    same = rf.RDMs(
        np.concatenate([models.vectors[:4]] * 2), descriptors=dict(models.descriptors)
    )
    result = climb(same, brain)
    assert "are the same" in result.rung("labels").reason
    for key in ("seeds-paired", "seeds", "subjects", "stimuli", "stimuli+subjects+seeds"):
        assert (result.rung(key).p_value == 1).all(), key


def test_summary_table_and_figure_say_to_whom_each_rung_speaks(rng):
    import matplotlib

    matplotlib.use("Agg")
    models, brain = study(rng, seeds=5)
    result = climb(models, brain)
    text = result.summary()
    assert "these networks, stimuli and subjects" in text
    assert "floor 0.062" in text
    assert "6 seeds would allow 0.031" in text
    table = result.to_dataframe()
    assert len(table) == 2 * len(RUNGS)
    ax = result.plot(region="R1")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(RUNGS)
    with pytest.raises(InvalidInputError, match="region must be one of R0, R1"):
        result.plot(region="R7")
    with pytest.raises(InvalidInputError, match="no rung 'both'"):
        result.rung("both")


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"rule_a": "z"}, "rule_a must be one of the rules 'a', 'b', got 'z'"),
        ({"rule_b": "a"}, "must differ"),
        ({"subjects": None}, "subjects"),
        ({"rules": "layer"}, "no descriptor 'layer'"),
        ({"seeds": [1, 1, 2, 3, 1, 2, 3, 4]}, "more than once"),
        ({"rungs": ["both"]}, "rungs must be among labels"),
        ({"n_resamples": 10}, "n_resamples must be an integer of at least 100"),
        ({"n_permutations": 0}, "n_permutations must be"),
        ({"level": 95}, "level must lie"),
        ({"interval": "normal"}, "interval must be one of"),
    ],
)
def test_bad_input_is_named(rng, keywords, said):
    models, brain = study(rng)
    with pytest.raises(InvalidInputError, match=said):
        climb(models, brain, **keywords)


@pytest.mark.data
def test_real_brains_and_models(data_dir):
    models = rf.read_rdms(data_dir / "fmri92" / "92_modelRDMs.mat")
    brain = rf.read_rdms(data_dir / "fmri92" / "target_fmri.mat", key="IT_RDMs")
    a, b = models.names[0], models.names[-1]
    result = rf.compare_rules(
        models, brain, rule_a=a, rule_b=b, n_resamples=200, n_permutations=2000, progress=False
    )
    scores = rf.compare(models, brain)
    assert result.estimate[0] == pytest.approx((scores[0] - scores[-1]).mean())
    assert result.rung("subjects").floor == 2 / 2**15
    assert "one seed" in result.rung("stimuli+seeds").reason


# ---------------------------------------------------------------- calibration

N, SUBJECTS, SEEDS, DIMS = 20, 6, 5, 3


def equal_rules(rng, factors):
    """Two rules that align equally well in the population of `factors`; the rest is fixed.

    Rule a sees features u, rule b features w; brains hold both, on equal terms. Where stimuli are
    not resampled, w is u with the two halves of the stimuli swapped, so that nothing about the
    stimuli favours a rule. Seeds and subjects that are resampled weigh the features as they like.
    """
    fixed = np.random.default_rng(7)
    if "stimuli" in factors:
        u, w = rng.normal(size=(2, N, DIMS))
    else:
        halves = fixed.normal(size=(2, N // 2, DIMS))
        u, w = np.concatenate(halves), np.concatenate(halves[::-1])

    def gains(factor, k):
        return np.exp(0.5 * rng.normal(size=(k, 1, 1)) * (factor in factors))

    seen = np.concatenate([u * gains("subjects", SUBJECTS), w * gains("subjects", SUBJECTS)], 2)
    brain = seen + rng.normal(size=seen.shape) * ("subjects" in factors or "stimuli" in factors)
    rules = [f * gains("seeds", SEEDS) for f in (u, w)]
    if "seeds" in factors or "stimuli" in factors:
        rules = [f + rng.normal(size=f.shape) for f in rules]
    return rdms(np.concatenate(rules)), rdms(brain)


def rdms(points):
    return rf.compute_rdms(points, "sqeuclidean")


def same_law(rng):
    """Networks of both rules from one law, stimuli and subjects fixed: the null of the seeds."""
    fixed = np.random.default_rng(8)
    u = fixed.normal(size=(N, DIMS))
    networks = u * np.exp(0.5 * rng.normal(size=(2 * SEEDS, 1, 1)))
    models = rdms(networks + rng.normal(size=networks.shape))
    return models, rdms(u + fixed.normal(size=(SUBJECTS, N, DIMS)))


def unrelated(rng):
    models = rdms(rng.normal(size=(2 * SEEDS, N, DIMS)))
    return models, rdms(rng.normal(size=(SUBJECTS, N, DIMS)) + rng.normal(size=(N, DIMS)))


def rates(rng, draw, keys, repeats):
    p = []
    for _ in range(repeats):
        models, brain = draw(rng)
        result = rf.compare_rules(
            models, brain, rule_a="a", rule_b="b", rules=["a"] * SEEDS + ["b"] * SEEDS,
            seeds=[*range(SEEDS)] * 2, method="pearson", n_resamples=100, n_permutations=500,
            seed=int(rng.integers(2**31)), rungs=keys, progress=False,
        )  # fmt: skip
        p.append([rung.p_value[0] for rung in result.rungs])
    return dict(zip(keys, (np.array(p) <= 0.05 + 1e-12).mean(axis=0), strict=True))


CASES = {
    "labels": unrelated,
    "seeds": same_law,
    "seeds-paired": same_law,
    "subjects": lambda rng: equal_rules(rng, ("subjects",)),
} | {
    key: lambda rng, key=key: equal_rules(rng, tuple(key.split("+")))
    for key in RUNGS[4:]
}  # fmt: skip


@pytest.mark.calibration
@pytest.mark.slow
@pytest.mark.parametrize("key", RUNGS)
def test_size_holds_under_the_null_of_the_rung(rng, key):
    repeats = 200
    with threads(1):
        rate = rates(rng, CASES[key], (key,), repeats)[key]
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)


@pytest.mark.calibration
@pytest.mark.slow
def test_tests_over_seeds_do_not_generalise_to_stimuli(rng):
    """Rules equal in the population of stimuli: what seeds and subjects find is this sample."""

    def draw(rng):
        u, w = rng.normal(size=(2, N, DIMS))
        points = np.concatenate([u, w], axis=1)
        networks = np.concatenate([f + 0.3 * rng.normal(size=(SEEDS, N, DIMS)) for f in (u, w)])
        brain = points + 0.7 * rng.normal(size=(8, N, 2 * DIMS))
        return rdms(networks), rdms(brain)

    with threads(1):
        rate = rates(rng, draw, ("seeds", "subjects", "stimuli", "stimuli+subjects+seeds"), 120)
    assert rate["seeds"] > 0.6
    assert rate["subjects"] > 0.25
    limit = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)
    assert rate["stimuli"] <= limit
    assert rate["stimuli+subjects+seeds"] <= limit
