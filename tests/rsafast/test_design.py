"""Run masks, block de-meaning, repeats: brute force, a known design, refusals, validity."""

import itertools

import numpy as np
import pytest

import rsafast as rf
from rsafast.errors import InvalidInputError


def apart(runs_a, runs_b):
    def as_set(run):
        return run if isinstance(run, set) else {run}

    return not as_set(runs_a) & as_set(runs_b)


@pytest.mark.parametrize("n", [5, 12, 33])
@pytest.mark.parametrize("subjects", [1, 3])
def test_mask_is_that_of_a_double_loop(rng, n, subjects):
    runs = rng.integers(0, 4, (subjects, n))
    sessions = rng.integers(0, 2, (subjects, n))
    for across in ("runs", "sessions"):
        expected = []
        for i, j in itertools.combinations(range(n), 2):
            same = sessions[:, i] == sessions[:, j]
            if across == "runs":
                same = same & (runs[:, i] == runs[:, j])
            expected.append(not same.any())
        if sum(expected) < 6:
            continue
        got = rf.run_mask(runs, sessions=sessions, across=across)
        np.testing.assert_array_equal(got.mask, expected)
        np.testing.assert_array_equal(got.matrix()[np.triu_indices(n, 1)], expected)
        np.testing.assert_array_equal(got.matrix(), got.matrix().T)
        assert (got.n_pairs, got.n_pairs_of) == (sum(expected), len(expected))
    if subjects == 1:
        one = rf.run_mask(runs[0])
        np.testing.assert_array_equal(one.mask, rf.run_mask(runs).mask)


def test_sets_of_runs_must_be_disjoint():
    runs = [{1, 2}, {2}, {3}, 3, {1, 4}, {5}]
    expected = [apart(a, b) for a, b in itertools.combinations(runs, 2)]
    np.testing.assert_array_equal(rf.run_mask(runs).mask, expected)
    both = rf.run_mask([runs, [1, 2, 3, 4, 5, 5]])
    np.testing.assert_array_equal(both.per_subject[0], expected)
    # The pair (4, 5) was apart for the first subject only.
    assert both.n_pairs == sum(expected) - 1
    assert both.n_pairs == int((both.per_subject[0] & both.per_subject[1]).sum())


def test_a_design_like_that_of_the_things_study_keeps_its_number_of_pairs(rng):
    """720 stimuli in 10 runs of 72; two subjects share an order, the third has its own.

    Published for the real order: 210,205 of 258,840 pairs.
    """
    first, third = (rng.permutation(np.repeat(np.arange(10), 72)) for _ in range(2))
    mask = rf.run_mask([first, first, third])
    assert mask.n_pairs_of == 258_840
    assert [int(row.sum()) for row in mask.per_subject] == [233_280] * 3
    assert abs(mask.n_pairs - 210_205) < 400
    assert "different runs by each of 3 subjects" in mask.summary()
    assert "233,280, 233,280, 233,280" in mask.summary()


def test_a_mask_that_knows_its_stimuli_follows_them_into_another_order(rng):
    labels = list("abcdefghi")
    brain = rf.RDMs(rng.random((3, 36)), labels=labels).with_descriptors(
        {"region": ["V1"] * 3, "subject": [1, 2, 3]}
    )
    models = rf.RDMs(rng.random((2, 36)), labels=labels)
    turned = models.reorder([labels[i] for i in rng.permutation(9)])
    mask = rf.run_mask([1, 1, 1, 2, 2, 2, 3, 3, 3], labels=labels)
    for run in (
        lambda m: rf.compare(m, brain, mask=mask),
        lambda m: rf.permutation_test(m, brain, mask=mask, n_permutations=99).statistic,
        lambda m: rf.bootstrap(m, brain, mask=mask, n_resamples=100, progress=False).estimates,
    ):
        np.testing.assert_allclose(run(turned), run(models), atol=1e-14)
    expected = rf.compare(models, brain, mask=mask)
    assert not np.allclose(rf.compare(turned, brain, mask=mask.mask), expected)
    other = rf.run_mask([1, 1, 1, 2, 2, 2, 3, 3, 3], labels=list("abcdefghz"))
    with pytest.raises(InvalidInputError, match=r"of other stimuli.*it lacks \['i'\]"):
        rf.compare(models, brain, mask=other)


def test_the_result_is_taken_as_a_mask(rng):
    a, b = (rf.compute_rdms(rng.normal(size=(9, 4)), "euclidean") for _ in range(2))
    mask = rf.run_mask([1, 1, 1, 2, 2, 2, 3, 3, 3])
    np.testing.assert_array_equal(
        rf.compare(a, b, mask=mask), rf.compare(a, b, mask=np.asarray(mask))
    )
    tested = rf.permutation_test(a, b, mask=mask, n_permutations=99, progress=False)
    assert tested.parameters["pairs"] == 27


def test_a_stimulus_without_partners_is_named():
    runs = [{1, 2, 3}, 1, 1, 2, 2, 3, 3]
    mask = rf.run_mask(runs, labels=list("abcdefg"))
    assert mask.alone == ("a",)
    assert "1 stimuli share a run with every other one and so take no part: 'a'" in mask.summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": [1] * 6}, r"all stimuli are in one run \(1\)"),
        ({"runs": [1, 1, 2, None, 2, 2]}, "stimulus 3 has no run"),
        ({"runs": [1, 1, 2, np.nan, 2, 2], "labels": list("abcdef")}, "stimulus 'd' has no run"),
        ({"runs": ["1", "1", "", "2", "2", "2"]}, "stimulus 2 has no run"),
        ({"runs": [1, 1, set(), 2, 2, 2]}, "stimulus 2 has no run"),
        ({"runs": [1, 1, 1, 1, 1, 2]}, "leave 5 of 15 pairs"),
        ({"runs": [[1, 1, 1, 2, 2, 2], [1, 2, 2, 2, 1, 1]]}, "for every subject"),
        ({"runs": [[1, 2, 3, 4], [1, 2, 3]]}, "rows of 3, 4 entries"),
        ({"runs": [1, [2, 3], 1, 2]}, "as a set"),
        ({"runs": []}, r"\(n,\) or \(subjects, n\)"),
        ({"runs": "abcdef"}, r"\(n,\) or \(subjects, n\)"),
        ({"runs": [[[1]]]}, "too many dimensions"),
        ({"labels": list("abc")}, "each of 6 stimuli once, got 3"),
        ({"labels": list("abcdea")}, "got 6 .5 different"),
        ({"across": "days"}, "across must be"),
        ({"across": "sessions"}, "needs sessions="),
        ({"sessions": [1, 2]}, "of the shape of runs"),
        ({"sessions": [1, 1, 1, 1, None, 1]}, "stimulus 4 has no session"),
        ({"runs": [{1, 2}, 1, 2, 3, 4, 5], "sessions": [1] * 6}, r"sets of \(session, run\)"),
    ],
)
def test_run_mask_refuses(change, message):
    with pytest.raises(InvalidInputError, match=message):
        rf.run_mask(**{"runs": [1, 1, 2, 2, 3, 3]} | change)


# ---------------------------------------------------------------- de-meaning


def test_demeaning_is_that_of_a_double_loop_and_removes_offsets(rng):
    n, runs = 15, np.repeat([7, 3, 9], 5)
    runs = rng.permutation(runs)
    offset = rng.normal(size=(10, 10))
    offset = offset + offset.T
    clean = rf.compute_rdms(rng.normal(size=(2, n, 6)), "euclidean")
    square = clean.matrices() + offset[np.ix_(runs, runs)] * (1 - np.eye(n))
    for rdms in (clean, rf.RDMs(square)):
        got = rf.demean_blocks(rdms, runs)
        expected = clean.matrices()
        for r, s in itertools.combinations_with_replacement([3, 7, 9], 2):
            everything = itertools.combinations(range(n), 2)
            pairs = [(i, j) for i, j in everything if {runs[i], runs[j]} == {r, s}]
            for matrix in expected:
                mean = np.mean([matrix[p] for p in pairs])
                for i, j in pairs:
                    matrix[i, j] -= mean
        np.testing.assert_allclose(
            got.rdms.vectors, expected[:, *np.triu_indices(n, 1)], atol=1e-12
        )
        assert got.n_blocks.tolist() == [6, 6]
        assert got.degrees_of_freedom.tolist() == [105 - 6] * 2
        assert not got.excluded.any()
        assert got.mask().all()


def test_each_rdm_may_have_its_own_runs(rng):
    rdms = rf.compute_rdms(rng.normal(size=(2, 12, 4)), "euclidean", names=["s1", "s2"])
    runs = rng.integers(0, 3, (2, 12))
    both = rf.demean_blocks(rdms, runs)
    for k in range(2):
        alone = rf.demean_blocks(rdms[k], runs[k])
        np.testing.assert_array_equal(both.rdms.vectors[k], alone.rdms.vectors[0])
    assert both.rdms.names == ("s1", "s2")


def test_small_blocks_become_missing_and_are_counted(rng):
    runs = [1] * 5 + [2] * 2 + [3]
    rdm = rf.compute_rdms(rng.normal(size=(8, 4)), "euclidean")
    got = rf.demean_blocks(rdm, runs)
    # (2, 2) holds one pair; (2, 3) two, (1, 3) five, (1, 2) ten, (1, 1) ten.
    assert got.excluded.tolist() == [1]
    assert got.smallest_block.tolist() == [2]
    assert got.degrees_of_freedom.tolist() == [27 - 4]
    assert np.isnan(got.rdms.matrices()[0, 5, 6])
    assert got.mask().sum() == 27
    assert "1 pairs in blocks of fewer than 2 are missing now" in got.summary()
    kept = rf.demean_blocks(rdm, runs, min_pairs=1)
    assert kept.rdms.matrices()[0, 5, 6] == 0
    again = rf.demean_blocks(got.rdms, runs)  # missing pairs stay so, and count in no mean
    np.testing.assert_allclose(again.rdms.vectors, got.rdms.vectors, atol=1e-14)


def test_demeaning_commutes_with_relabelling_within_runs_only(rng):
    runs = np.repeat([0, 1, 2], 5)
    rdm = rf.compute_rdms(rng.normal(size=(15, 4)), "euclidean").matrices()[0]
    within = np.concatenate([rng.permutation(np.flatnonzero(runs == r)) for r in range(3)])
    across = rng.permutation(15)

    def demeaned(matrix):
        return rf.demean_blocks(matrix[None], runs).rdms.matrices()[0]

    for order, same in ((within, True), (across, False)):
        moved = np.ix_(order, order)
        assert np.allclose(demeaned(rdm[moved]), demeaned(rdm)[moved]) is same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": [1, 2, 3]}, r"runs must be \(8,\) or \(1, 8\), got \(1, 3\)"),
        ({"runs": [1, 1, 1, 1, 2, 2, {1, 2}, 2]}, "stimulus 6 was in several runs"),
        ({"runs": [1, 1, 1, 1, 2, 2, None, 2]}, "stimulus 6 has no run"),
        ({"runs": list(range(8))}, "keeps 0 pairs in blocks of at least 2"),
        ({"min_pairs": 0}, "min_pairs must be a positive integer"),
    ],
)
def test_demean_refuses(rng, change, message):
    rdm = rf.compute_rdms(rng.normal(size=(8, 4)), "euclidean")
    with pytest.raises(InvalidInputError, match=message):
        rf.demean_blocks(**{"rdms": rdm, "runs": [1, 1, 1, 1, 2, 2, 2, 2]} | change)


# ---------------------------------------------------------------- repeats


def test_repeats_are_averaged_and_counted(rng):
    labels = np.array(list("bacab" * 3 + "d"))
    x = rng.normal(size=(16, 3, 2))
    got = rf.average_repeats(x, labels)
    assert got.labels == ("b", "a", "c", "d")
    assert got.counts.tolist() == [6, 6, 3, 1]
    for label, mean in zip(got.labels, got.features, strict=True):
        np.testing.assert_allclose(mean, x[labels == label].mean(axis=0))
    fewer = rf.average_repeats(x, labels, min_repeats=4)
    assert fewer.labels == ("b", "a")
    assert fewer.excluded == ("c", "d")
    assert "Left out, with fewer than 4 presentations: 'c', 'd'" in fewer.summary()
    assert rf.average_repeats(x.astype(np.float32), labels).features.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [1, 2]}, "each of 4 presentations, got 2"),
        ({"min_repeats": 5}, "no stimulus has min_repeats=5 presentations; the most is 2"),
        ({"min_repeats": 0}, "positive integer"),
        ({"features": np.full((4, 2), np.nan)}, "NaN or infinity"),
        ({"features": np.ones(4)}, "real array"),
    ],
)
def test_average_repeats_refuses(change, message):
    with pytest.raises(InvalidInputError, match=message):
        rf.average_repeats(**{"features": np.ones((4, 2)), "labels": [1, 2, 1, 2]} | change)


# ---------------------------------------------------------------- which permutation is valid


def run_effect(rng, runs):
    """Brain RDM of noise whose runs have patterns of their own."""
    noise = rng.normal(size=(len(runs), 8)) + 1.5 * rng.normal(size=(runs.max() + 1, 8))[runs]
    return rf.compute_rdms(noise, "euclidean")


@pytest.mark.calibration
@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["all pairs", "mask", "demeaned", "mask, blocks", "demeaned, blocks"]
)
@pytest.mark.parametrize("order", ["random", "with the model"])
def test_free_relabelling_needs_an_order_drawn_at_random(rng, way, order):
    """Categories shown run by run break free relabelling; relabelling within runs holds."""
    n, runs = 24, np.repeat(np.arange(4), 6)
    p_values = []
    for _ in range(250):
        category = runs if order == "with the model" else rng.permutation(runs)
        points = rng.normal(size=(n, 5)) + 2 * rng.normal(size=(4, 5))[category]
        model, brain = rf.compute_rdms(points, "euclidean"), run_effect(rng, runs)
        keywords = {"n_permutations": 99, "method": "pearson", "progress": False}
        if "mask" in way:
            keywords["mask"] = rf.run_mask(runs)
        if "blocks" in way:
            keywords["blocks"] = runs
        if "demeaned" in way:
            brain = rf.demean_blocks(brain, runs).rdms
        tested = rf.permutation_test(model, brain, seed=int(rng.integers(2**32)), **keywords)
        p_values.append(tested.p_value[0, 0])
    rate = np.mean(np.array(p_values) <= 0.05)
    valid = order == "random" or "blocks" in way
    if valid:
        assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(p_values))
    elif way != "demeaned":  # which happens to be conservative here
        assert rate > {"all pairs": 0.5, "mask": 0.1}[way]
