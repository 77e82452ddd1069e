"""Subject-level and mean-RDM scores: by hand, unbalanced, on real subjects, refusals."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

import rsafast as rf
from rsafast.errors import InvalidInputError


@pytest.fixture
def models(rng):
    return rf.compute_rdms(rng.normal(size=(3, 14, 5)), "euclidean", names=["a", "b", "c"])


@pytest.fixture
def brain(rng):
    """Three subjects, two regions, subject 2 without region IT; in scrambled order."""
    rdms = rf.compute_rdms(rng.normal(size=(5, 14, 5)), "euclidean")
    return rf.RDMs.from_vectors(
        rdms.vectors,
        descriptors={"subject": [2, 1, 3, 3, 1], "region": ["V1", "IT", "IT", "V1", "V1"]},
    )


@pytest.mark.parametrize("method", ["spearman", "pearson", "cosine", "kendall"])
@pytest.mark.parametrize("masked", [False, True])
def test_scores_are_those_of_compare(rng, models, brain, method, masked):
    mask = rf.run_mask(rng.integers(0, 3, 14)) if masked and method != "kendall" else None
    keep = np.ones(91, bool) if mask is None else mask.mask
    got = rf.subject_scores(
        models, brain, method=method, regions="region", subjects="subject", mask=mask
    )
    assert (got.regions, got.subjects) == (("V1", "IT"), ("2", "1", "3"))
    assert got.n_subjects.tolist() == [3, 2]
    assert got.lacking == (("IT", "2"),)
    every = rf.compare(models, brain, method, mask=mask)
    np.testing.assert_array_equal(got.scores[:, 0], every[:, [0, 4, 3]])
    np.testing.assert_array_equal(got.scores[:, 1, 1:], every[:, [1, 2]])
    assert np.isnan(got.scores[:, 1, 0]).all()
    np.testing.assert_allclose(got.mean[:, 1], every[:, [1, 2]].mean(axis=1))
    np.testing.assert_allclose(
        got.standard_error[:, 0], every[:, [0, 4, 3]].std(axis=1, ddof=1) / np.sqrt(3)
    )
    for r, members in enumerate(([0, 4, 3], [1, 2])):
        raw = np.full((1, 91), 1.0)
        raw[0, keep] = brain.vectors[members][:, keep].mean(axis=0)
        ranks = np.full((1, 91), 1.0)
        ranks[0, keep] = rankdata(brain.vectors[members][:, keep], axis=1).mean(axis=0)
        for got_mean, pooled in ((got.mean_rdm, raw), (got.rank_mean_rdm, ranks)):
            expected = rf.compare(models, rf.RDMs.from_vectors(pooled), method, mask=mask)[:, 0]
            np.testing.assert_allclose(got_mean[:, r], expected, atol=1e-12)
    assert got.n_pairs == keep.sum()


def test_table_and_summary_name_what_is_lacking(models, brain):
    got = rf.subject_scores(models, brain, regions="region", subjects="subject")
    table = got.to_dataframe()
    assert len(table) == 3 * 5
    assert not table.isna().any().any()
    row = table.query("model == 'b' and region == 'IT' and subject == '3'").iloc[0]
    assert row.n_subjects == 2
    assert row.similarity == got.scores[1, 1, 2]
    assert row.mean_rdm == got.mean_rdm[1, 1]
    assert "Unbalanced: no RDM of 2 in IT" in got.summary()
    assert "never to be mixed" in got.summary()


def test_by_default_every_rdm_is_a_subject_of_one_region(models, brain):
    got = rf.subject_scores(models, brain.vectors)
    assert got.scores.shape == (3, 1, 5)
    assert got.subjects == tuple(f"subject {i}" for i in range(5))
    by_label = rf.subject_scores(models, brain.vectors, subjects=list("pqrst"))
    np.testing.assert_array_equal(by_label.scores, got.scores)


def test_one_subject_has_no_standard_error_and_no_two_conventions(models, brain):
    got = rf.subject_scores(models, brain[:1])
    assert np.isnan(got.standard_error).all()
    np.testing.assert_allclose(got.mean, got.mean_rdm, atol=1e-12)
    assert "conventions" not in got.summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": "roi"}, "no descriptor 'roi'.*'subject', 'region'"),
        ({"regions": "region"}, "subjects= is needed with several regions"),
        ({"regions": [1, 2], "subjects": "subject"}, r"5 labels, one an RDM, got shape \(2,\)"),
        ({"subjects": "subject"}, "region 'all' holds subject '3' more than once"),
        ({"method": "euclid"}, "method must be"),
    ],
)
def test_refuses(models, brain, change, message):
    with pytest.raises(InvalidInputError, match=message):
        rf.subject_scores(models, brain, **change)


@pytest.mark.data
def test_mean_rdm_of_fifteen_real_subjects_scores_far_higher(data_dir):
    it = rf.read_rdms(data_dir / "fmri92" / "target_fmri.mat", key="IT_RDMs")
    models = rf.read_rdms(data_dir / "fmri92" / "92_modelRDMs.mat")
    got = rf.subject_scores(models, it)
    k = list(got.model_names).index("animacy")
    by_hand = [spearmanr(models.vectors[k], row).statistic for row in it.vectors]
    assert got.mean[k, 0] == pytest.approx(np.mean(by_hand), abs=1e-10)
    pooled = spearmanr(models.vectors[k], it.vectors.mean(axis=0)).statistic
    assert got.mean_rdm[k, 0] == pytest.approx(pooled, abs=1e-10)
    assert got.ratio[k, 0] > 1.3
