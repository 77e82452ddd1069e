"""Noise precision and crossnobis: against rsatoolbox, brute force and real runs; refusals."""

import tracemalloc

import numpy as np
import pytest

import rsafast as rf
from rsafast.errors import InvalidInputError

METHODS = ["shrinkage_diag", "shrinkage_eye", "diag", "full"]


@pytest.fixture
def peer():
    return pytest.importorskip("rsatoolbox")


def mixed(rng, n, p):
    return rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) + 3


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("n", "p", "method"),
    [
        *((n, p, m) for n, p in ((40, 12), (200, 5)) for m in METHODS),
        # Where the peer inverts no singular matrix and divides by no zero.
        *((15, 31, m) for m in METHODS if m != "full"),
        (7, 1, "diag"),
        (7, 1, "full"),
    ],
)
def test_residuals_agree_with_rsatoolbox(rng, peer, method, n, p):
    x = mixed(rng, n, p)
    for dof in (None, n - 4):
        expected = peer.data.noise.prec_from_residuals(x, dof=dof, method=method)
        got = rf.noise_precision(x, method=method, dof=dof)
        np.testing.assert_allclose(got.precision, expected, rtol=1e-8, atol=1e-8)
        expected = peer.data.noise.cov_from_residuals(x, dof=dof, method=method)
        np.testing.assert_allclose(got.covariances[0], expected, rtol=1e-10, atol=1e-10)
        assert got.degrees_of_freedom[0] == (dof or n - 1)


@pytest.mark.parametrize("method", METHODS)
def test_measurements_agree_with_rsatoolbox(rng, peer, method):
    labels = np.tile(np.arange(6), 5)
    x = mixed(rng, 30, 8) + 4 * rng.normal(size=(6, 8))[labels]
    data = peer.data.Dataset(x, obs_descriptors={"c": labels.tolist()})
    got = rf.noise_precision(x, method=method, labels=labels).precision
    unbalanced = peer.data.noise.prec_from_unbalanced(data, "c", method=method)
    np.testing.assert_allclose(got, unbalanced, rtol=1e-8, atol=1e-8)
    balanced = peer.data.noise.prec_from_measurements(data, "c", dof=24, method=method)
    np.testing.assert_allclose(got, balanced, rtol=1e-8, atol=1e-8)


def test_rsatoolbox_divides_balanced_measurements_by_rows_less_repeats(rng, peer):
    """What the docstring says of the peer: 30 rows of 6 stimuli have 24 degrees of freedom."""
    labels = np.tile(np.arange(6), 5)
    x = rng.normal(size=(30, 4))
    data = peer.data.Dataset(x, obs_descriptors={"c": labels.tolist()})
    theirs = peer.data.noise.cov_from_measurements(data, "c", method="full")
    ours = rf.noise_precision(x, method="full", labels=labels).covariances[0]
    np.testing.assert_allclose(theirs * 25 / 24, ours, rtol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_unequal_repeats_agree_with_rsatoolbox(rng, peer, method):
    labels = np.array([0] * 2 + [1] * 7 + [2] * 4 + [3] * 3 + [4])
    x = mixed(rng, len(labels), 6)
    data = peer.data.Dataset(x, obs_descriptors={"c": labels.tolist()})
    expected = peer.data.noise.prec_from_unbalanced(data, "c", method=method)
    got = rf.noise_precision(x, method=method, labels=labels)
    np.testing.assert_allclose(got.precision, expected, rtol=1e-8, atol=1e-8)
    assert "1 stimuli were measured once" in got.summary()


def test_one_precision_a_run_is_that_of_its_rows(rng):
    x, runs = mixed(rng, 90, 5), np.repeat(["b", "a", "c"], 30)
    order = rng.permutation(90)
    got = rf.noise_precision(x[order], runs=runs[order])
    assert set(got.runs) == {"a", "b", "c"}
    for run, precision in got.by_run().items():
        alone = rf.noise_precision(x[runs == run]).precision
        np.testing.assert_allclose(precision, alone, rtol=1e-10)
    with pytest.raises(InvalidInputError, match="3 precisions, one a run"):
        _ = got.precision
    assert "run 'a'" in got.summary()


@pytest.mark.parametrize("method", ["shrinkage_diag", "shrinkage_eye"])
def test_shrinkage_beats_the_sample_covariance_and_vanishes_with_data(rng, method):
    truth = np.cov(mixed(rng, 500, 40).T)
    root = np.linalg.cholesky(truth)
    errors, weights = [], []
    for n in (60, 50_000):
        x = rng.normal(size=(n, 40)) @ root.T
        shrunk = rf.noise_precision(x, method=method)
        plain = rf.noise_precision(x, method="full")
        errors.append([np.sum((r.covariances[0] - truth) ** 2) for r in (shrunk, plain)])
        weights.append(shrunk.shrinkage[0])
    assert errors[0][0] < errors[0][1]
    assert 0 < weights[1] < 0.01 < weights[0] < 1


def test_memory_is_a_few_covariances(rng):
    n, p = 150, 500
    x = rng.normal(size=(n, p))
    tracemalloc.start()
    rf.noise_precision(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 14 * 8 * p * p  # an (n, p, p) array would be 150


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "shrink"}, "method must be one of shrinkage_diag"),
        ({"dof": 0}, "dof must be positive"),
        ({"labels": [1, 2]}, "20 rows, 2 labels"),
        ({"labels": list(range(20))}, "no repeats"),
        ({"runs": [0] * 19 + [1]}, "in run 1 holds one row"),
        ({"data": np.ones((20, 3))}, "channel 0 of data has no variance"),
        ({"data": np.full((20, 3), np.nan)}, "NaN or infinity, first in row 0"),
        ({"data": np.ones(20)}, r"shape \(20,\)"),
        ({"data": np.ones((20, 3), complex)}, "complex"),
        ({"method": "full", "data": np.random.default_rng(0).normal(size=(5, 9))}, "no inverse"),
    ],
)
def test_refuses(rng, change, message):
    arguments = {"data": rng.normal(size=(20, 3))} | change
    with pytest.raises(InvalidInputError, match=message):
        rf.noise_precision(**arguments)


# ---------------------------------------------------------------- crossnobis


def brute_force(x, labels, folds, precisions):
    """Mean over pairs of folds that hold both stimuli of d_i' P_ij d_j; NaN where there is none."""
    ids, fold_ids = list(dict.fromkeys(labels)), list(dict.fromkeys(folds))
    mean = {}
    for f in fold_ids:
        for s in ids:
            rows = [i for i in range(len(x)) if labels[i] == s and folds[i] == f]
            if rows:
                mean[f, s] = x[rows].mean(axis=0)
    out = []
    for a in range(len(ids)):
        for b in range(a + 1, len(ids)):
            terms = []
            for i, f in enumerate(fold_ids):
                for g in fold_ids[i + 1 :]:
                    if all((h, ids[s]) in mean for h in (f, g) for s in (a, b)):
                        between = np.linalg.inv(
                            (np.linalg.inv(precisions[f]) + np.linalg.inv(precisions[g])) / 2
                        )
                        d, e = (mean[h, ids[a]] - mean[h, ids[b]] for h in (f, g))
                        terms.append(d @ between @ e)
            out.append(np.mean(terms) if terms else np.nan)
    return np.array(out)


def unbalanced(rng, n=7, n_folds=4, p=6, lost=5):
    labels, folds = np.tile(np.arange(n), n_folds), np.repeat(list("dbca"), n)
    keep = np.ones(n * n_folds, bool)
    keep[rng.permutation(2 * n)[:lost]] = False  # the last two folds are whole
    rows = np.concatenate([np.flatnonzero(keep), [2 * n, 2 * n + 1]])  # two repeats in a fold
    rows = rng.permutation(rows)
    return rng.normal(size=(len(rows), p)) + 5, labels[rows].tolist(), folds[rows].tolist()


@pytest.mark.parametrize("kind", ["identity", "common", "by fold"])
@pytest.mark.parametrize("balanced", [True, False])
def test_crossnobis_is_the_mean_over_pairs_of_folds(rng, kind, balanced):
    x, labels, folds = unbalanced(rng, lost=0 if balanced else 6)
    p = x.shape[1]
    of_fold = {f: np.linalg.inv(np.cov(mixed(rng, 50, p).T)) for f in "abcd"}
    if kind == "identity":
        of_fold = dict.fromkeys("abcd", np.eye(p))
    elif kind == "common":
        of_fold = dict.fromkeys("abcd", of_fold["a"])
    given = {"identity": None, "common": of_fold["a"], "by fold": of_fold}[kind]
    got = rf.compute_rdms(
        x, "crossnobis", labels=labels, folds=folds, noise_precision=given, missing="allow"
    )
    np.testing.assert_allclose(got.vectors[0], brute_force(x, labels, folds, of_fold), atol=1e-9)
    if not balanced:
        assert got.descriptors["fold_pairs_max"][0] > got.descriptors["fold_pairs_min"][0] >= 1


@pytest.mark.parametrize("shuffled", [False, True])
def test_precision_of_each_fold_agrees_with_rsatoolbox(rng, peer, shuffled):
    """The peer's list is in sorted order of the folds, whatever the order of the rows."""
    n, p, folds = 6, 5, np.repeat([3, 1, 7, 2], 6)
    x, labels = rng.normal(size=(24, p)), np.tile(np.arange(n), 4)
    of_fold = {f: np.linalg.inv(np.cov(mixed(rng, 60, p).T)) for f in (1, 2, 3, 7)}
    data = peer.data.Dataset(x, obs_descriptors={"c": labels.tolist(), "r": folds.tolist()})
    expected = peer.rdm.calc_rdm(
        data, method="crossnobis", descriptor="c", cv_descriptor="r",
        noise=[of_fold[f] for f in (1, 2, 3, 7)],
    ).get_vectors()  # fmt: skip
    order = rng.permutation(24) if shuffled else np.arange(24)
    got = rf.compute_rdms(
        x[order], "crossnobis", labels=labels[order], folds=folds[order], noise_precision=of_fold,
        normalize="channels",
    ).reorder(range(n))  # fmt: skip
    np.testing.assert_allclose(got.vectors, expected, atol=1e-10)


def test_complete_data_agree_with_rsatoolbox_unbalanced(rng, peer):
    n, p = 6, 5
    x, labels, folds = rng.normal(size=(24, p)), np.tile(np.arange(n), 4), np.repeat(range(4), n)
    precision = np.linalg.inv(np.cov(mixed(rng, 60, p).T))
    data = peer.data.Dataset(x, obs_descriptors={"c": labels.tolist(), "r": folds.tolist()})
    expected = peer.rdm.calc_rdm_unbalanced(
        data, method="crossnobis", descriptor="c", cv_descriptor="r", noise=precision
    ).get_vectors()
    got = rf.compute_rdms(
        x, "crossnobis", labels=labels, folds=folds, noise_precision=precision,
        normalize="channels", missing="allow",
    )  # fmt: skip
    np.testing.assert_allclose(got.vectors, expected, atol=1e-10)
    assert not got.has_missing


def test_fold_offsets_cancel_here_and_not_in_rsatoolbox_unbalanced(rng, peer):
    """Why unbalanced values are means of products of differences, not differences of means."""
    n, p = 6, 5
    keep = np.ones(24, bool)
    keep[[1, 9, 19]] = False
    x, labels, folds = rng.normal(size=(24, p)), np.tile(np.arange(n), 4), np.repeat(range(4), n)
    offset = 3 * rng.normal(size=(4, p))[folds]

    def theirs(values):
        data = peer.data.Dataset(
            values, obs_descriptors={"c": labels[keep].tolist(), "r": folds[keep].tolist()}
        )
        return peer.rdm.calc_rdm_unbalanced(
            data, method="crossnobis", descriptor="c", cv_descriptor="r"
        ).get_vectors()

    def ours(values):
        return rf.compute_rdms(
            values, "crossnobis", labels=labels[keep], folds=folds[keep], missing="allow"
        ).vectors

    np.testing.assert_allclose(ours(x[keep]), ours((x + offset)[keep]), atol=1e-10)
    assert np.abs(theirs(x[keep]) - theirs((x + offset)[keep])).max() > 0.5


def test_pairs_without_a_common_pair_of_folds_are_missing_and_counted(rng):
    labels = list("abcde" * 2 + "abcdf" * 2)
    folds = [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5
    x = rng.normal(size=(20, 3))
    rdm = rf.compute_rdms(x, "crossnobis", labels=labels, folds=folds, missing="allow")
    assert rdm.descriptors["missing_pairs"].tolist() == [1]  # e and f never met
    assert np.isnan(rdm.matrices()[0, 4, 5])
    assert rdm.descriptors["fold_pairs_min"].tolist() == [0]
    assert "1 missing pairs" in repr(rdm)


def test_the_result_is_taken_as_a_precision(rng):
    x, labels, folds = unbalanced(rng, lost=0)
    noise = rf.noise_precision(mixed(rng, 60, 6))
    for metric, more in (("mahalanobis", {}), ("crossnobis", {"labels": labels, "folds": folds})):
        data = x[:7] if metric == "mahalanobis" else x
        given, plain = (
            rf.compute_rdms(data, metric, noise_precision=precision, **more)
            for precision in (noise, noise.precision)
        )
        np.testing.assert_array_equal(given.vectors, plain.vectors)
    by_run = rf.noise_precision(mixed(rng, 120, 6), runs=np.tile(list("abcd"), 30))
    given, plain = (
        rf.compute_rdms(x, "crossnobis", labels=labels, folds=folds, noise_precision=precision)
        for precision in (by_run, by_run.by_run())
    )
    np.testing.assert_array_equal(given.vectors, plain.vectors)


def test_layers_of_different_width_in_an_unbalanced_design(rng):
    x, labels, folds = unbalanced(rng)
    layers = {"six": x, "four": x[:, :4].astype(np.float32)}
    keywords = {"labels": labels, "folds": folds, "missing": "allow", "normalize": "channels"}
    both = rf.compute_rdms(layers, "crossnobis", **keywords)
    for name, layer in layers.items():
        alone = rf.compute_rdms(layer, "crossnobis", **keywords)
        np.testing.assert_array_equal(both.subset(name).vectors, alone.vectors)
    assert both.measure == "crossnobis / channels"
    bad = layers | {"four": np.where(np.arange(4) == 1, np.nan, x[:, :4])}
    with pytest.raises(InvalidInputError, match=r"layer 'four': x\[0, 1\] is nan"):
        rf.compute_rdms(bad, "crossnobis", **keywords)


def test_crossnobis_refuses(rng):
    x, labels, folds = unbalanced(rng)
    whole = {"features": x, "metric": "crossnobis", "labels": labels, "folds": folds}
    with pytest.raises(InvalidInputError, match="missing='allow' to average"):
        rf.compute_rdms(**whole)
    with pytest.raises(InvalidInputError, match="measured in one fold only"):
        rf.compute_rdms(
            np.vstack([x, x[:1]]), "crossnobis", labels=[*labels, 99], folds=[*folds, "a"],
            missing="allow",
        )  # fmt: skip
    with pytest.raises(InvalidInputError, match=r"lacks fold '[bcd]'; it has 'a'"):
        rf.compute_rdms(**whole, missing="allow", noise_precision={"a": np.eye(6)})
    of_fold = dict.fromkeys("abc", np.eye(6)) | {"d": -np.eye(6)}
    with pytest.raises(InvalidInputError, match=r"of fold 'd'.*positive definite"):
        rf.compute_rdms(**whole, missing="allow", noise_precision=of_fold)
    with pytest.raises(InvalidInputError, match="'crossnobis' only"):
        rf.compute_rdms(x, "euclidean", missing="allow")
    with pytest.raises(InvalidInputError, match="of each fold"):
        rf.compute_rdms(x, "mahalanobis", noise_precision={"a": np.eye(6)})
    with pytest.raises(InvalidInputError, match="missing must be"):
        rf.compute_rdms(x, missing="drop")


@pytest.mark.parametrize("lost", [0, 6])
def test_crossnobis_of_noise_averages_zero_and_euclidean_does_not(rng, lost):
    crossed, plain, p = [], [], 6
    root = np.linalg.cholesky(np.cov(mixed(rng, 60, p).T))
    for _ in range(150):
        _, labels, folds = unbalanced(rng, lost=lost)
        x = rng.normal(size=(len(labels), p)) @ root.T
        precision = rf.noise_precision(rng.normal(size=(80, p)) @ root.T)
        keywords = {"labels": labels, "folds": folds, "missing": "allow"}
        rdm = rf.compute_rdms(x, "crossnobis", noise_precision=precision, **keywords)
        crossed.append(rdm.vectors.mean())
        means = rf.average_repeats(x, labels).features
        plain.append(rf.compute_rdms(means, "sqeuclidean").vectors.mean())
    error = np.std(crossed) / np.sqrt(len(crossed))
    assert abs(np.mean(crossed)) < 4 * error
    assert np.mean(plain) > 20 * np.std(plain) / np.sqrt(len(plain))


# ---------------------------------------------------------------- real runs


@pytest.fixture(scope="module")
def haxby(data_dir):
    nibabel = pytest.importorskip("nibabel")
    folder = data_dir / "haxby_slice"
    volumes = np.asarray(nibabel.load(folder / "bold.nii.gz").dataobj, float)
    table = np.loadtxt(folder / "attributes_literal.txt", dtype=str)
    x = volumes.reshape(-1, volumes.shape[-1]).T
    x = x[:, x.std(axis=0) > 0]
    shown = table[:, 0] != "rest"
    return x[shown], table[shown, 0], table[shown, 1].astype(int)


@pytest.mark.data
def test_haxby_runs_agree_with_rsatoolbox(haxby, peer):
    x, category, run = haxby
    x = x[:, ::5]
    # Residuals of each category in each run.
    cells = np.array([f"{r} {c}" for r, c in zip(run, category, strict=True)])
    data = peer.data.Dataset(
        x, obs_descriptors={"c": category.tolist(), "r": run.tolist(), "cell": cells.tolist()}
    )
    noise = rf.noise_precision(x, labels=cells)
    expected = peer.data.noise.prec_from_unbalanced(data, "cell")
    np.testing.assert_allclose(noise.precision, expected, rtol=1e-8, atol=1e-8)
    theirs = peer.rdm.calc_rdm(
        data, method="crossnobis", descriptor="c", cv_descriptor="r", noise=expected
    )
    ours = rf.compute_rdms(
        x, "crossnobis", labels=category, folds=run, noise_precision=noise, normalize="channels"
    ).reorder([str(c) for c in theirs.pattern_descriptors["c"]])
    np.testing.assert_allclose(ours.vectors, theirs.get_vectors(), rtol=1e-8, atol=1e-8)

    by_run = rf.noise_precision(x, labels=cells, runs=run)
    theirs = peer.rdm.calc_rdm(
        data, method="crossnobis", descriptor="c", cv_descriptor="r",
        noise=[by_run.by_run()[r] for r in sorted(by_run.runs)],
    )  # fmt: skip
    ours = rf.compute_rdms(
        x, "crossnobis", labels=category, folds=run, noise_precision=by_run, normalize="channels"
    ).reorder([str(c) for c in theirs.pattern_descriptors["c"]])
    np.testing.assert_allclose(ours.vectors, theirs.get_vectors(), rtol=1e-8, atol=1e-8)
