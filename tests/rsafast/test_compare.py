"""Every comparator against rsatoolbox and SciPy."""

import numpy as np
import pytest
import rsatoolbox
from scipy import stats

import rsafast as rf
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.io import read_rdms

# Our names and rsatoolbox's.
PEERS = {
    "pearson": "corr",
    "spearman": "spearman",
    "rho-a": "rho-a",
    "cosine": "cosine",
    "corr_cov": "corr_cov",
    "cosine_cov": "cosine_cov",
    "kendall": "kendall",
    "tau-a": "tau-a",
}
SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}
KINDS = ["gaussian", "clustered", "line", "categories"]


def peer(a, b, method):
    return rsatoolbox.rdm.compare(
        rsatoolbox.rdm.RDMs(a), rsatoolbox.rdm.RDMs(b), method=PEERS[method]
    )


def pairs(rdm):
    return rdm[np.triu_indices(len(rdm), 1)]


def rdms_of(random_rdm, rng, n):
    """One RDM of every kind, and heavily tied ones; categories start at n = 5."""
    stack = [random_rdm(n, kind) for kind in KINDS if kind != "categories" or n > 4]
    return np.stack([*stack, np.round(stack[0]), np.round(stack[1] / 4)])


@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize("n", [4, 5, 7, 31, 33])
def test_matches_rsatoolbox(random_rdm, rng, method, n):
    a = rdms_of(random_rdm, rng, n)[:, ::-1, ::-1].copy()
    b = rdms_of(random_rdm, rng, n)[:3]
    varied = [np.ptp(pairs(r)) > 0 for r in a]
    a = a[varied]
    assert np.abs(rf.compare(a, b, method) - peer(a, b, method)).max() < 1e-10


@pytest.mark.parametrize("method", SCIPY)
@pytest.mark.parametrize("n", [4, 7, 31])
def test_matches_scipy(random_rdm, rng, method, n):
    a, b = random_rdm(n), np.round(random_rdm(n))
    expected = SCIPY[method](pairs(a), pairs(b))[0]
    assert abs(rf.compare(a, b, method)[0, 0] - expected) < 1e-10


@pytest.mark.data
@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize("images", [92, 78])
def test_matches_rsatoolbox_on_real_rdms(data_dir, images, method):
    if images == 92:
        path = data_dir / "fmri92/target_fmri.mat"
        evc, it = (read_rdms(path, key=k).matrices() for k in ("EVC_RDMs", "IT_RDMs"))
    else:
        evc, it = (
            read_rdms(data_dir / f"fmri78/fmri_{k}_RDMs.npz").matrices() for k in ("EVC", "IT")
        )
    few = slice(None) if "kendall" not in method else slice(3)
    expected = peer(evc[few], it[few], method)
    assert np.abs(rf.compare(evc[few], it[few], method) - expected).max() < 1e-10


@pytest.mark.parametrize("method", SCIPY)
@pytest.mark.parametrize("share", [0.9, 0.4])
def test_a_mask_compares_the_pairs_that_count(random_rdm, rng, method, share):
    n = 21
    a, b = random_rdm(n), np.round(random_rdm(n, "clustered"))
    keep = np.triu(rng.random((n, n)) < share, 1)
    keep |= keep.T
    inside = pairs(keep)
    expected = SCIPY[method](pairs(a)[inside], pairs(b)[inside])[0]
    for mask in (keep, inside, keep.astype(int)):
        assert abs(rf.compare(a, b, method, mask=mask)[0, 0] - expected) < 1e-10


def test_missing_pairs_may_lie_outside_the_mask(random_rdm):
    a, b = random_rdm(9), random_rdm(9)
    keep = np.ones((9, 9), bool)
    keep[2, 5] = keep[5, 2] = False
    expected = rf.compare(a, b, "spearman", mask=keep)
    a[2, 5] = a[5, 2] = np.nan
    holed = rf.RDMs(a, missing="allow")
    assert np.array_equal(rf.compare(holed, b, "spearman", mask=keep), expected)
    with pytest.raises(InvalidInputError, match="lacks 1 dissimilarities"):
        rf.compare(holed, b, "spearman")


@pytest.mark.parametrize("method", PEERS)
def test_labels_are_matched(random_rdm, rng, method):
    a, b, order = random_rdm(10), random_rdm(10), rng.permutation(10)
    labels = np.array([f"s{i}" for i in range(10)])
    shuffled = rf.RDMs(b[np.ix_(order, order)], labels=list(labels[order]))
    found = rf.compare(rf.RDMs(a, labels=list(labels)), shuffled, method)
    assert np.allclose(found, rf.compare(a, b, method), atol=1e-12)


@pytest.mark.parametrize("method", PEERS)
def test_an_rdm_equals_itself(random_rdm, method):
    a = random_rdm(12)
    assert rf.compare(a, a, method)[0, 0] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("method", sorted(set(PEERS) - {"cosine", "cosine_cov"}))
def test_rejects_a_constant_rdm(random_rdm, method):
    flat = np.ones((8, 8)) - np.eye(8)
    if method == "tau-a":
        # Never corrected for ties: defined, and 0.
        assert rf.compare(flat, random_rdm(8), method)[0, 0] == 0
        return
    with pytest.raises(InvalidInputError, match="undefined for RDM"):
        rf.compare(flat, random_rdm(8), method)


@pytest.mark.parametrize("method", ["cosine", "cosine_cov", "pearson"])
def test_rejects_a_zero_rdm(random_rdm, method):
    with pytest.raises(InvalidInputError, match="undefined for RDM"):
        rf.compare(random_rdm(8), np.zeros((8, 8)), method)


def test_rejects_bad_requests(random_rdm):
    a, b = random_rdm(8), random_rdm(8)
    holed = a.copy()
    holed[0, 1] = holed[1, 0] = np.nan
    with pytest.raises(InvalidInputError, match="nan at pair"):
        rf.compare(holed, b)
    with pytest.raises(InvalidInputError, match="method must be one of"):
        rf.compare(a, b, "kendal")
    with pytest.raises(InvalidInputError, match="stimuli"):
        rf.compare(a, random_rdm(9))
    mask = np.ones((8, 8), bool)
    mask[0, 1] = mask[1, 0] = False
    with pytest.raises(UnsupportedCaseError, match="mask is not defined"):
        rf.compare(a, b, "corr_cov", mask=mask)


@pytest.mark.parametrize("method", ["pearson", "cosine", "spearman"])
def test_scale_and_offset_do_not_matter(random_rdm, method):
    a, b = random_rdm(20), random_rdm(20)
    expected = rf.compare(a, b, method)
    assert np.allclose(rf.compare(a * 1e-30, b * 1e30, method), expected, atol=1e-12)
    if method == "pearson":
        offset = 1e6 * (1 - np.eye(20))
        assert np.allclose(rf.compare(a + offset, b, method), expected, atol=1e-8)
