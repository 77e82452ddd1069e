"""compute_rdms against scipy and rsatoolbox, and every refusal."""

import numpy as np
import pytest
from rsafast_kernels import device
from rsafast_kernels.pairwise import pairwise_distances
from scipy.spatial.distance import pdist

from rsafast import features
from rsafast.errors import BackendUnavailableError, InvalidInputError
from rsafast.features import compute_rdms


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def x(rng):
    return rng.gamma(2.0, size=(9, 17))


@pytest.fixture
def precision(rng):
    noise = rng.normal(size=(60, 17))
    return np.linalg.inv(noise.T @ noise / 60)


@pytest.mark.parametrize(
    "metric", ["correlation", "cosine", "euclidean", "sqeuclidean", "cityblock"]
)
def test_default_scale_is_scipys(x, metric):
    rdms = compute_rdms(x, metric)
    np.testing.assert_allclose(rdms.vectors[0], pdist(x, metric), rtol=0, atol=1e-10)
    assert rdms.measure == metric


def test_mahalanobis_is_scipys(x, precision):
    expected = pdist(x, "mahalanobis", VI=precision)
    got = compute_rdms(x, "mahalanobis", noise_precision=precision).vectors[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("metric", ["correlation", "euclidean", "mahalanobis", "poisson"])
def test_channels_scale_is_rsatoolboxs(x, precision, metric):
    rsatoolbox = pytest.importorskip("rsatoolbox")
    noise = precision if metric == "mahalanobis" else None
    peer = rsatoolbox.rdm.calc_rdm(
        rsatoolbox.data.Dataset(x), method=metric, noise=noise
    ).get_vectors()
    got = compute_rdms(x, metric, noise_precision=noise, normalize="channels")
    np.testing.assert_allclose(got.vectors, peer, rtol=0, atol=1e-10)
    assert got.measure == f"{metric} / channels"


@pytest.mark.parametrize("n_folds", [2, 3, 5])
@pytest.mark.parametrize("whiten", [False, True])
def test_crossnobis_is_rsatoolboxs(rng, precision, n_folds, whiten):
    rsatoolbox = pytest.importorskip("rsatoolbox")
    stimuli = np.tile(np.arange(7), n_folds)
    folds = np.repeat(np.arange(n_folds), 7)
    order = rng.permutation(len(stimuli))
    patterns = rng.normal(size=(len(stimuli), 17))
    noise = precision if whiten else None
    data = rsatoolbox.data.Dataset(
        patterns, obs_descriptors={"conds": stimuli.tolist(), "runs": folds.tolist()}
    )
    peer = rsatoolbox.rdm.calc_rdm(
        data, method="crossnobis", descriptor="conds", cv_descriptor="runs", noise=noise
    )
    got = compute_rdms(
        patterns[order],
        "crossnobis",
        labels=stimuli[order],
        folds=folds[order],
        noise_precision=noise,
        normalize="channels",
    ).reorder(list(range(7)))
    np.testing.assert_allclose(got.vectors, peer.get_vectors(), rtol=0, atol=1e-10)


def test_crossnobis_averages_repeats_in_a_fold(rng):
    once = rng.normal(size=(2, 5, 3))
    noise = rng.normal(size=once.shape)
    rows = np.concatenate([once + noise, once - noise]).reshape(-1, 3)
    labels, folds = np.tile(list("abcde"), 4), np.tile(np.repeat([1, 2], 5), 2)
    repeated = compute_rdms(rows, "crossnobis", labels=labels, folds=folds)
    plain = compute_rdms(once.reshape(-1, 3), "crossnobis", labels=labels[:10], folds=folds[:10])
    np.testing.assert_allclose(repeated.vectors, plain.vectors, atol=1e-12)
    assert repeated.labels == ("a", "b", "c", "d", "e")


def test_layers_of_different_width_keep_their_names(x):
    layers = {"conv1": x, "fc": x[:, :4].astype(np.float32)}
    rdms = compute_rdms(layers, "euclidean", labels=list("abcdefghi"))
    assert rdms.names == ("conv1", "fc")
    assert rdms.labels == tuple("abcdefghi")
    np.testing.assert_allclose(rdms.vectors[1], pdist(x[:, :4]), rtol=1e-5)
    as_list = compute_rdms(list(layers.values()), "euclidean", names=["p", "q"])
    np.testing.assert_array_equal(as_list.vectors, rdms.vectors)
    assert as_list.names == ("p", "q")


def test_stack_equals_its_layers(rng):
    stack = rng.normal(size=(3, 6, 5))
    rdms = compute_rdms(stack)
    for layer, vector in zip(stack, rdms.vectors, strict=True):
        np.testing.assert_array_equal(compute_rdms(layer).vectors[0], vector)


def test_input_is_left_alone(x):
    before = x.copy()
    x.flags.writeable = False
    compute_rdms(x, "poisson", normalize="channels")
    np.testing.assert_array_equal(x, before)


def _with(x, row, value):
    changed = x.copy()
    changed[row] = value
    return changed


def test_bad_rows_are_named_with_their_layer(x):
    bad = x.copy()
    bad[3, 2] = np.nan
    with pytest.raises(InvalidInputError, match=r"layer 'v1': .*row 3"):
        compute_rdms({"v0": x, "v1": bad})
    with pytest.raises(InvalidInputError, match=r"row 4 .*constant"):
        compute_rdms(_with(x, 4, 0.1))
    with pytest.raises(InvalidInputError, match=r"row 5 .*zero"):
        compute_rdms(_with(x, 5, 0.0), "cosine")
    with pytest.raises(InvalidInputError, match=r"features\[1\]: .*row 6"):
        compute_rdms(np.stack([x, _with(x, 6, -1.0)]), "poisson")


def test_refuses_what_it_cannot_mean(x, precision):
    cases = [
        (dict(features=x[:3]), "at least 4 stimuli, got 3"),
        (dict(features=x, metric="manhattan"), "choose one of correlation, cosine"),
        (dict(features=x, labels=list("aabcdefgh")), "'a' repeats; average"),
        (dict(features=x, labels=[1, 2]), "9 rows, 2 labels"),
        (dict(features=x, normalize="voxels"), "choose 'channels'"),
        (dict(features=x, device="tpu"), "auto, cpu, cuda"),
        (dict(features=x, folds=np.ones(9)), "'crossnobis' only"),
        (dict(features=x, metric="mahalanobis"), "needs noise_precision"),
        (dict(features=x, noise_precision=precision), "of no use"),
        (dict(features={}), "empty"),
        (dict(features={"a": x, "b": x[1:]}), "layer 'b' has 8 rows"),
        (dict(features={"a": x[None]}), "layer 'a' must be"),
        (dict(features=x.astype(complex)), "real numbers"),
        (dict(features=x[0]), r"got shape \(17,\)"),
        (dict(features=x[:, :0]), "no channels"),
        (dict(features=x, metric="crossnobis", labels=np.arange(9)), "needs folds"),
    ]
    for arguments, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            compute_rdms(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:5, :5], r"must be \(17, 17\)"),
        (lambda p: -p, "not positive definite"),
        (lambda p: p + np.triu(np.ones_like(p), 1), "not symmetric"),
        (lambda p: p * np.nan, "NaN"),
    ],
)
def test_checks_the_noise_precision(x, precision, change, message):
    with pytest.raises(InvalidInputError, match="noise_precision.*" + message):
        compute_rdms(x, "mahalanobis", noise_precision=change(precision))


def test_crossnobis_names_the_missing_cell(x):
    labels, folds = list("abcdabcda"), [1, 1, 1, 1, 2, 2, 2, 3, 3]
    with pytest.raises(InvalidInputError, match="stimulus 'd' is missing from fold 2"):
        compute_rdms(x, "crossnobis", labels=labels, folds=folds)


def test_cuda_never_falls_back(x, monkeypatch):
    reason = "no NVIDIA driver here"
    monkeypatch.setattr(device, "cuda_missing", lambda *_: reason)
    with pytest.raises(BackendUnavailableError, match=reason):
        compute_rdms(x, device="cuda")
    with pytest.raises(InvalidInputError, match="device must be one of"):
        compute_rdms(x, device="gpu")


@pytest.mark.parametrize("normalize", [None, "channels"])
def test_layers_of_one_shape_are_batched_for_a_gpu(x, monkeypatch, normalize):
    seen = []

    def on_cpu(stack, metric, *, device, **options):
        assert device == "cuda"
        seen.append(stack.shape)
        return pairwise_distances(stack, metric, **options)

    layers = {"a": x, "b": x[:, :3], "c": -2 * x[:, :3], "d": x[:, 1:4].astype(np.float32)}
    expected = compute_rdms(layers, "euclidean", normalize=normalize, device="cpu")
    monkeypatch.setattr(features, "resolve", lambda *_: "cuda")
    monkeypatch.setattr(features, "pairwise_distances", on_cpu)
    got = compute_rdms(layers, "euclidean", normalize=normalize)
    n, p = x.shape
    assert seen == [(1, n, p), (2, n, 3), (1, n, 3)]
    np.testing.assert_array_equal(got.vectors, expected.vectors)
    assert got.names == expected.names
