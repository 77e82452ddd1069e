"""RDM movies and time courses: rsatoolbox, mne-rsa, one time at a time; refusals."""

import numpy as np
import pytest

import rsafast as rf
from rsafast.errors import InvalidInputError
from rsafast.inference.time import movies


@pytest.fixture
def data(rng):
    return rng.normal(size=(7, 9, 12))


@pytest.fixture
def peer():
    return pytest.importorskip("rsatoolbox")


TIMES = np.linspace(-0.2, 0.9, 12)


@pytest.mark.parametrize("metric", ["correlation", "euclidean", "sqeuclidean", "cityblock"])
@pytest.mark.parametrize(("window", "step"), [(1, 1), (1, 3), (3, 1), (4, 3), (12, 1)])
@pytest.mark.parametrize("window_as", ["mean", "concatenate"])
def test_each_frame_is_the_rdm_of_its_window(data, metric, window, step, window_as, monkeypatch):
    monkeypatch.setattr(movies, "_BLOCK_BYTES", 8 * 7 * 9 * 5)  # several blocks
    movie = rf.rdm_movie(
        data, metric, times=TIMES, window=window, step=step, window_as=window_as, labels=range(7),
        descriptors={"subject": "s1"},
    )  # fmt: skip
    starts = range(0, 12 - window + 1, step)
    assert movie.n_rdms == len(starts)
    for k, s in enumerate(starts):
        part = data[:, :, s : s + window]
        x = part.mean(axis=2) if window_as == "mean" else part.reshape(7, -1)
        np.testing.assert_allclose(
            movie.vectors[k], rf.compute_rdms(x, metric).vectors[0], atol=1e-12
        )
        assert movie.descriptors["time"][k] == pytest.approx(TIMES[s : s + window].mean())
    assert movie.labels == tuple(range(7))
    assert set(movie.descriptors["subject"]) == {"s1"}


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
def test_agrees_with_rsatoolbox(data, peer, metric):
    dataset = peer.data.TemporalDataset(
        data, obs_descriptors={"c": list(range(7))}, time_descriptors={"time": TIMES}
    )
    theirs = peer.rdm.calc_rdm_movie(dataset, method=metric, descriptor="c")
    ours = rf.rdm_movie(data, metric, times=TIMES, normalize="channels")
    np.testing.assert_allclose(ours.vectors, theirs.dissimilarities, atol=1e-10)
    np.testing.assert_allclose(ours.descriptors["time"], theirs.rdm_descriptors["time"])
    bins = [TIMES[s : s + 3] for s in range(0, 12, 3)]
    theirs = peer.rdm.calc_rdm_movie(dataset, method=metric, descriptor="c", bins=bins)
    ours = rf.rdm_movie(data, metric, times=TIMES, normalize="channels", window=3, step=3)
    np.testing.assert_allclose(ours.vectors, theirs.dissimilarities, atol=1e-10)
    np.testing.assert_allclose(ours.descriptors["time"], theirs.rdm_descriptors["time"])


def test_crossnobis_movie_agrees_with_rsatoolbox(rng, peer):
    trials = rng.normal(size=(20, 6, 4))
    labels, folds = np.tile(np.arange(5), 4), np.repeat(np.arange(4), 5)
    precision = np.linalg.inv(np.cov(rng.normal(size=(50, 6)).T))
    dataset = peer.data.TemporalDataset(
        trials, obs_descriptors={"c": labels.tolist(), "r": folds.tolist()},
        time_descriptors={"time": np.arange(4.0)},
    )  # fmt: skip
    theirs = peer.rdm.calc_rdm_movie(
        dataset, method="crossnobis", descriptor="c", cv_descriptor="r", noise=precision
    )
    keywords = {"labels": labels, "normalize": "channels", "noise_precision": precision}
    ours = rf.rdm_movie(trials, "crossnobis", folds=folds, **keywords)
    np.testing.assert_allclose(ours.vectors, theirs.dissimilarities, atol=1e-10)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_agrees_with_mne_rsa(data, radius):
    mne_rsa = pytest.importorskip("mne_rsa")
    light = mne_rsa.searchlight(data.shape, temporal_radius=radius)
    theirs = np.stack(list(mne_rsa.rdm_array(data, light, dist_metric="correlation")))
    ours = rf.rdm_movie(data, window=2 * radius + 1, window_as="concatenate")
    np.testing.assert_allclose(ours.vectors, theirs.reshape(-1, 21), atol=1e-10)


def test_unbalanced_movie_says_what_is_behind_it(rng):
    labels, folds = list("abcde" * 3)[:-1], [1] * 5 + [2] * 5 + [3] * 4
    movie = rf.rdm_movie(
        rng.normal(size=(14, 6, 3)), "crossnobis", labels=labels, folds=folds, missing="allow"
    )
    assert movie.descriptors["fold_pairs_min"].tolist() == [1] * 3
    assert movie.descriptors["time"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.ones((5, 6))}, r"\(n, channels, times\), got shape \(5, 6\)"),
        ({"times": [1, 2]}, "12 increasing numbers"),
        ({"times": TIMES[::-1]}, "do not increase"),
        ({"window": 13}, "window must be a positive integer of at most 12 samples, got 13"),
        ({"window": 0}, "window must be a positive integer"),
        ({"step": 0}, "step must be a positive integer"),
        ({"step": 1.5}, "step must be a positive integer"),
        ({"window_as": "max"}, "'mean' or 'concatenate'"),
        ({"labels": list("aabcdef")}, "average the rows"),
    ],
)
def test_refuses(data, change, message):
    with pytest.raises(InvalidInputError, match=message):
        rf.rdm_movie(**{"data": data} | change)


def test_an_error_says_at_which_time(data):
    data[3, :, 4] = 1.0
    with pytest.raises(InvalidInputError, match=r"time 0.2.*row 3 .*constant"):
        rf.rdm_movie(data, times=TIMES.round(2))


# ---------------------------------------------------------------- time courses


def group_movie(rng, subjects=3, n=8, times=5):
    parts = [
        rf.rdm_movie(rng.normal(size=(n, 6, times)), "euclidean", descriptors={"subject": f"s{k}"})
        for k in range(subjects)
    ]
    return rf.RDMs.concat(parts)


def test_courses_are_those_of_compare_in_any_order(rng):
    movie = group_movie(rng)
    models = rf.compute_rdms(rng.normal(size=(2, 8, 4)), "euclidean", names=["a", "b"])
    got = rf.time_courses(models, movie)
    expected = rf.compare(models, movie).reshape(2, 3, 5).transpose(1, 0, 2)
    np.testing.assert_array_equal(got.values, expected)
    order = rng.permutation(15)
    mixed = rf.time_courses(models, movie.subset(rdms=order))
    for k, subject in enumerate(mixed.subjects):
        np.testing.assert_allclose(
            mixed.values[k], expected[got.subjects.index(subject)], atol=1e-12
        )
    difference = got.difference("b", "a")
    np.testing.assert_array_equal(difference.values[:, 0], expected[:, 1] - expected[:, 0])
    assert difference.model_names == ("b - a",)
    with pytest.raises(InvalidInputError, match="no model 'c'; there are: a, b"):
        got.difference("a", "c")


def test_gaps_are_refused(rng):
    movie = group_movie(rng)
    model = rf.compute_rdms(rng.normal(size=(8, 4)), "euclidean")
    with pytest.raises(InvalidInputError, match=r"subject 's1' has no RDM at time 2.0 \(1 such"):
        rf.time_courses(model, movie.subset(rdms=[i for i in range(15) if i != 7]))
    with pytest.raises(InvalidInputError, match=r"two RDMs of subject 's0' at time 0\.0"):
        rf.time_courses(model, rf.RDMs.concat([movie, movie[:1]]))
    with pytest.raises(InvalidInputError, match=r"times: .*no descriptor 'time'"):
        rf.time_courses(model, rf.RDMs(movie.vectors, descriptors={"subject": range(15)}))
