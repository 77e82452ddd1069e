"""Noise ceilings: every definition against its own formula, the published values and rsatoolbox."""

import json
import warnings
from itertools import combinations

import numpy as np
import pytest
import rsatoolbox
from rsatoolbox.inference.noise_ceiling import boot_noise_ceiling, cv_noise_ceiling
from scipy.stats import pearsonr, spearmanr

import rsafast as rf
from rsafast.cli import main
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.inference.ceilings.api import DEFINITIONS, reliability_of_mean

METHODS = ("pearson", "spearman", "rho-a", "cosine", "corr_cov", "cosine_cov", "kendall", "tau-a")


def peer_rdms(vectors, **descriptors):
    return rsatoolbox.rdm.RDMs(np.asarray(vectors), rdm_descriptors=descriptors)


def peer_ceiling(rdms, method, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rsatoolbox warns of its heuristic for tau
        return boot_noise_ceiling(rdms, {"pearson": "corr"}.get(method, method), **keywords)


def rdms(vectors, **keywords):
    return rf.RDMs.from_vectors(vectors, **keywords)


def subjects_of(rng, count=6, n=13, noise=1.0, decimals=None):
    pairs = n * (n - 1) // 2
    vectors = rng.random(pairs) + noise * rng.random((count, pairs)) + 0.1
    vectors *= rng.uniform(0.5, 2.0, (count, 1))
    return vectors if decimals is None else vectors.round(decimals)


def rho(x, y):
    return spearmanr(x, y).statistic


def by_hand(vectors, similarity, pool):
    upper = [similarity(v, pool(vectors)) for v in vectors]
    lower = [similarity(v, pool(np.delete(vectors, i, 0))) for i, v in enumerate(vectors)]
    return np.array(lower), np.array(upper)


# ---- rsatoolbox ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decimals", [None, 1], ids=["untied", "tied"])
@pytest.mark.parametrize(("count", "n"), [(2, 5), (3, 31), (7, 13)])
def test_rank_average_is_the_ceiling_of_rsatoolbox(rng, method, decimals, count, n):
    vectors = subjects_of(rng, count, n, decimals=decimals)
    ceiling = rf.noise_ceiling(rdms(vectors), method)
    lower, upper = peer_ceiling(peer_rdms(vectors), method)
    assert ceiling.lower[0] == pytest.approx(lower, abs=1e-12)
    assert ceiling.upper[0] == pytest.approx(upper, abs=1e-12)


@pytest.mark.parametrize("method", ["cosine", "spearman", "corr_cov"])
def test_all_rdms_of_a_subject_are_left_out_together_as_in_rsatoolbox(rng, method):
    vectors = subjects_of(rng, 7)
    who = ["a", "b", "a", "c", "d", "c", "c"]
    lower, upper = peer_ceiling(peer_rdms(vectors, who=who), method, rdm_descriptor="who")
    for given in (who, np.array(who)):
        ceiling = rf.noise_ceiling(rdms(vectors), method, subjects=given)
        assert ceiling.lower[0] == pytest.approx(lower, abs=1e-12)
        assert ceiling.upper[0] == pytest.approx(upper, abs=1e-12)
        assert (ceiling.n_subjects[0], ceiling.n_rdms[0]) == (4, 7)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("roi", ["EVC", "IT"])
def test_real_ceilings_equal_rsatoolbox(data_dir, roi):
    stacks = [rf.read_rdms(data_dir / "fmri92" / "target_fmri.mat", key=f"{roi}_RDMs")]
    square = np.load(data_dir / "fmri78" / f"fmri_{roi}_RDMs.npz")["arr_0"]
    stacks.append(rf.RDMs((square + square.transpose(0, 2, 1)) / 2))
    for stack in stacks:
        peer = peer_rdms(stack.vectors)
        for method in METHODS:
            if method in ("kendall", "tau-a") and stack.n_stimuli == 92:
                continue  # slow in rsatoolbox; the 78-image set covers them
            ceiling = rf.noise_ceiling(stack, method)
            lower, upper = peer_ceiling(peer, method)
            assert ceiling.lower[0] == pytest.approx(lower, abs=1e-10), method
            assert ceiling.upper[0] == pytest.approx(upper, abs=1e-10), method
    sets = rsatoolbox.inference.sets_leave_one_out_rdm(peer)
    lower, upper = cv_noise_ceiling(peer, sets[2], sets[1], "spearman")
    ceiling = rf.noise_ceiling(stack)
    assert (ceiling.lower[0], ceiling.upper[0]) == pytest.approx((lower, upper), abs=1e-10)


# ---- published values ----------------------------------------------------------------------------


@pytest.mark.data
def test_squared_ceilings_of_algonauts_are_the_published_ones(data_dir):
    logged = json.loads((data_dir / "fmri78" / "noise_ceiling_log.json").read_text())
    official = {("EVC", 92): 0.1589, ("IT", 92): 0.3075, ("EVC", 78): 0.0640, ("IT", 78): 0.0647}
    for roi in ("EVC", "IT"):
        stack = rf.read_rdms(data_dir / "fmri92" / "target_fmri.mat", key=f"{roi}_RDMs")
        ceiling = rf.noise_ceiling(stack, "spearman", "squared")
        assert round(ceiling.upper[0], 4) == official[roi, 92]
        file = f"fmri_{roi}_RDMs.npz"
        stack = rf.RDMs(np.load(data_dir / "fmri78" / file)["arr_0"])
        ceiling = rf.noise_ceiling(stack, "spearman", "squared")
        assert round(ceiling.upper[0], 4) == official[roi, 78]
        assert ceiling.upper[0] == pytest.approx(logged[file]["spearman"]["unc"], abs=1e-10)
        assert ceiling.lower[0] == pytest.approx(logged[file]["spearman"]["lnc"], abs=1e-10)


@pytest.mark.data
def test_the_two_ways_of_averaging_differ_as_known_on_human_it(data_dir):
    stack = rf.read_rdms(data_dir / "fmri92" / "target_fmri.mat", key="IT_RDMs")
    ranked, raw = (rf.noise_ceiling(stack, definition=d) for d in ("rank-average", "average"))
    assert (round(ranked.lower[0], 4), round(ranked.upper[0], 4)) == (0.4525, 0.5422)
    assert (round(raw.lower[0], 4), round(raw.upper[0], 4)) == (0.4486, 0.5346)


# ---- formulas ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "similarity"), [("spearman", rho), ("pearson", np.corrcoef)])
def test_averages_of_raw_rdms_and_their_squares_by_hand(rng, method, similarity):
    vectors = subjects_of(rng)
    scalar = similarity if method == "spearman" else lambda x, y: similarity(x, y)[0, 1]
    lower, upper = by_hand(vectors, scalar, lambda v: v.mean(axis=0))
    got = {d: rf.noise_ceiling(rdms(vectors), method, d) for d in DEFINITIONS}
    assert got["average"].lower_by_subject[0] == pytest.approx(lower, abs=1e-12)
    assert got["average"].upper_by_subject[0] == pytest.approx(upper, abs=1e-12)
    assert got["squared"].lower[0] == pytest.approx((lower**2).mean(), abs=1e-12)
    assert got["squared"].upper[0] == pytest.approx((upper**2).mean(), abs=1e-12)
    assert got["leave-one-out"].lower[0] == pytest.approx(lower.mean(), abs=1e-12)
    assert np.isnan(got["leave-one-out"].upper[0])


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_split_half_uses_each_split_once(rng, count):
    vectors = subjects_of(rng, count)
    rows = range(count)
    found = {}
    for half in combinations(rows, count // 2):
        other = tuple(i for i in rows if i not in half)
        pair = frozenset([half, other])
        found[pair] = pearsonr(vectors[list(half)].mean(0), vectors[list(other)].mean(0))[0]
    r = np.mean(list(found.values()))
    ceiling = rf.noise_ceiling(rdms(vectors), "pearson", "split-half")
    assert ceiling.split_correlation[0] == pytest.approx(r, abs=1e-12)
    assert (ceiling.n_splits[0], ceiling.all_splits[0]) == (len(found), True)
    # Horst (1951), as printed: p and q are the shares of the two parts.
    p, q = (count // 2) / count, 1 - (count // 2) / count
    horst = r * (np.sqrt(r**2 + 4 * p * q * (1 - r**2)) - r) / (2 * p * q * (1 - r**2))
    assert ceiling.lower[0] == pytest.approx(horst, abs=1e-12)
    assert ceiling.upper[0] == pytest.approx(np.sqrt(horst), abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 2), (2, 3), (7, 8), (1, 9)])
@pytest.mark.parametrize("noise", [0.0, 0.3, 4.0])
def test_stepping_up_inverts_the_correlation_of_parallel_measures(first, second, noise):
    """Means of k subjects with noise variance q/k around a signal of variance 1."""
    r = 1 / np.sqrt((1 + noise / first) * (1 + noise / second))
    reliability = 1 / (1 + noise / (first + second))
    assert reliability_of_mean(r, first, second) == pytest.approx(reliability, abs=1e-12)


def test_split_half_reliability_is_that_of_the_mean_rdm(rng):
    """Against the truth: the signal is known, and another group of as many subjects is drawn."""
    pairs, count = 200 * 199 // 2, 5
    signal = rng.standard_normal(pairs)
    first, second = (
        (signal + 1.5 * rng.standard_normal((count, pairs))) for _ in range(2)
    )
    ceiling = rf.noise_ceiling(rdms(first), "pearson", "split-half")
    mean = first.mean(axis=0)
    assert ceiling.upper[0] == pytest.approx(pearsonr(signal, mean)[0], abs=0.01)
    assert ceiling.lower[0] == pytest.approx(pearsonr(second.mean(axis=0), mean)[0], abs=0.01)


def test_random_splits_are_seeded_and_estimate_all_of_them(rng):
    vectors = subjects_of(rng, 9, 20)
    whole = rf.noise_ceiling(rdms(vectors), definition="split-half")
    some = [
        rf.noise_ceiling(rdms(vectors), definition="split-half", n_splits=60, seed=s)
        for s in (1, 1, 2)
    ]
    assert whole.all_splits[0]
    assert whole.n_splits[0] == 126
    assert not some[0].all_splits[0]
    assert some[0].split_correlation == some[1].split_correlation != some[2].split_correlation
    assert some[0].split_correlation == pytest.approx(whole.split_correlation, abs=0.03)


@pytest.mark.parametrize("method", ["pearson", "cosine"])
def test_no_rdm_scores_above_the_upper_bound(rng, method):
    vectors = subjects_of(rng, 5)
    upper = rf.noise_ceiling(rdms(vectors), method).upper[0]
    tries = np.concatenate([vectors, vectors.mean(0) + 0.1 * rng.standard_normal((200, 78))])
    assert rf.compare(rdms(tries), rdms(vectors), method).mean(axis=1).max() <= upper + 1e-12


@pytest.mark.parametrize("method", ["pearson", "spearman", "corr_cov"])
@pytest.mark.parametrize("count", [3, 15])
def test_unrelated_rdms_have_the_upper_bound_that_is_said(rng, method, count):
    stack = rdms(rng.standard_normal((count, 60 * 59 // 2)) + 5)
    for definition in ("rank-average", "average", "squared"):
        ceiling = rf.noise_ceiling(stack, method, definition)
        assert ceiling.upper[0] == pytest.approx(ceiling.upper_unrelated[0], rel=0.1)
        assert "says little" in ceiling.summary()


# ---- regions, subjects, masks --------------------------------------------------------------------


def test_regions_are_independent_of_each_other_and_of_the_order(rng):
    vectors = subjects_of(rng, 9)
    region = ["V1", "IT", "V1", "V1", "IT", "IT", "IT", "V1", "IT"]
    stack = rdms(vectors, descriptors={"region": region})
    for definition in DEFINITIONS:
        ceiling = rf.noise_ceiling(stack, definition=definition, regions="region")
        assert ceiling.regions == ("V1", "IT")
        assert ceiling.n_subjects.tolist() == [4, 5]
        for r, name in enumerate(ceiling.regions):
            alone = rf.noise_ceiling(stack.subset({"region": name}), definition=definition)
            assert ceiling.lower[r] == alone.lower[0]
            np.testing.assert_array_equal(ceiling.upper[r], alone.upper[0])
        frame = ceiling.to_dataframe()
        assert frame.region.tolist() == ["V1", "IT"]
        assert set(frame.definition) == {definition}


def test_regions_taken_as_one_are_mentioned(rng):
    stack = rdms(subjects_of(rng, 4), descriptors={"region": ["a", "a", "b", "b"]})
    assert "regions='region'" in rf.noise_ceiling(stack).summary()


@pytest.mark.parametrize("method", ["pearson", "spearman", "cosine", "kendall"])
def test_a_mask_is_the_same_as_not_having_the_pairs(rng, method):
    vectors = subjects_of(rng, 4, 9)
    keep = rng.random(36) < 0.7
    missing = np.where(keep, vectors, np.nan)
    got = rf.noise_ceiling(rdms(missing, missing="allow"), method, mask=keep)
    peer = peer_ceiling(peer_rdms(missing), method)
    assert (got.lower[0], got.upper[0]) == pytest.approx(peer, abs=1e-12)
    assert (got.pairs, got.pairs_of) == (keep.sum(), 36)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_every_output_names_the_definition(rng, definition):
    ceiling = rf.noise_ceiling(rdms(subjects_of(rng, 3)), "spearman", definition)
    assert ceiling.definition == definition
    assert definition in ceiling.summary()
    assert definition in ceiling.to_dataframe().definition.tolist()
    assert any(definition in t.get_text() for t in ceiling.plot().get_xticklabels())


def test_three_subjects_are_told_what_their_splits_are_worth(rng):
    summary = rf.noise_ceiling(rdms(subjects_of(rng, 3)), definition="split-half").summary()
    assert "3 splits, all" in summary
    assert "no confidence interval" in summary
    assert "Horst" in summary


def test_halves_that_disagree_bound_nothing(rng):
    signal = rng.random(45)
    vectors = np.stack([signal, 1.1 - signal + 1e-3 * rng.random(45)])
    ceiling = rf.noise_ceiling(rdms(vectors), "pearson", "split-half")
    assert ceiling.lower[0] < 0
    assert ceiling.upper[0] == 0
    assert "bound nothing" in ceiling.summary()


# ---- bad input -----------------------------------------------------------------------------------


def test_one_subject_is_an_error_that_names_the_region(rng):
    vectors = subjects_of(rng, 3)
    for definition in DEFINITIONS:
        with pytest.raises(InvalidInputError, match="region 'b' holds 1 subject"):
            rf.noise_ceiling(rdms(vectors), definition=definition, regions=["a", "a", "b"])
    with pytest.raises(InvalidInputError, match="at least 2"):
        rf.noise_ceiling(rdms(vectors), subjects=["x", "x", "x"])


def test_sessions_are_not_silently_taken_for_subjects(rng):
    stack = rdms(subjects_of(rng, 4), descriptors={"subject": [1, 1, 2, 2]})
    with pytest.raises(InvalidInputError, match="several RDMs of subject 1"):
        rf.noise_ceiling(stack)
    assert rf.noise_ceiling(stack, subjects="subject").n_subjects[0] == 2


def test_bad_input_is_refused(rng):
    vectors = subjects_of(rng, 3)
    constant = vectors.copy()
    constant[1] = 2.0
    missing = vectors.copy()
    missing[0, 3] = np.nan
    with pytest.raises(InvalidInputError, match="all its dissimilarities are equal"):
        rf.noise_ceiling(rdms(constant))
    with pytest.raises(InvalidInputError, match="mask="):
        rf.noise_ceiling(rdms(missing, missing="allow"))
    with pytest.raises(InvalidInputError, match="definition must be one of"):
        rf.noise_ceiling(rdms(vectors), definition="nili")
    with pytest.raises(UnsupportedCaseError, match="split-half"):
        rf.noise_ceiling(rdms(vectors), "cosine", "split-half")
    with pytest.raises(InvalidInputError, match="n_splits"):
        rf.noise_ceiling(rdms(vectors), definition="split-half", n_splits=0)
    with pytest.raises(InvalidInputError, match="descriptor 'roi'"):
        rf.noise_ceiling(rdms(vectors), regions="roi")
    with pytest.raises(InvalidInputError, match="3 labels"):
        rf.noise_ceiling(rdms(vectors), subjects=[1, 2])
    with pytest.raises(UnsupportedCaseError, match="mask"):
        rf.noise_ceiling(rdms(vectors), "cosine_cov", mask=np.arange(78) > 3)


# ---- command line --------------------------------------------------------------------------------


@pytest.fixture
def brain_file(tmp_path, rng):
    stack = rdms(subjects_of(rng, 6), descriptors={"region": list("aaabbb")})
    stack.save(tmp_path / "brain.h5")
    return tmp_path / "brain.h5"


def test_command_prints_every_definition(brain_file, capsys):
    assert main(["ceiling", str(brain_file), "--definition", "all", "--regions", "region"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in DEFINITIONS)


def test_command_writes_what_the_function_returns(brain_file, capsys):
    import pandas as pd

    csv, figure = brain_file.with_name("c.csv"), brain_file.with_name("c.svg")
    words = ["--regions", "region", "-m", "pearson", "--csv", str(csv), "--figure", str(figure)]
    assert main(["ceiling", str(brain_file), *words, "--json"]) == 0
    read = json.loads(capsys.readouterr().out)["ceilings"]
    expected = rf.noise_ceiling(rf.read_rdms(brain_file), "pearson", regions="region")
    assert [row["lower"] for row in read] == expected.lower.tolist()
    assert pd.read_csv(csv).upper.tolist() == pytest.approx(expected.upper.tolist(), abs=1e-12)
    assert figure.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    "words", [["--definition", "none"], ["--regions", "roi"], ["--csv", "x.txt"], ["-m", "x"]]
)
def test_command_refuses_bad_options(brain_file, capsys, words):
    assert main(["ceiling", str(brain_file), *words]) == 2
    assert capsys.readouterr().err.startswith("error: ")
