"""Cluster tests: brute force, MNE, exactness, ties, invariances, refusals, size under the null."""

import itertools

import numpy as np
import pytest
from scipy.stats import t as student_t

import rsafast as rf
from rsafast.errors import InvalidInputError
from rsafast.inference.time import clusters
from rsafast.inference.time.clusters import _largest, _runs


def smooth_noise(rng, shape, width=4):
    """Noise with autocorrelation along the last axis."""
    x = rng.normal(size=(*shape[:-1], shape[-1] + width - 1))
    return np.lib.stride_tricks.sliding_window_view(x, width, axis=-1).mean(axis=-1) * width**0.5


def movie_of(rng, n=12, times=20, model=None, when=slice(6, 12), strength=1.0, **descriptors):
    data = smooth_noise(rng, (n, 5, times))
    if model is not None:
        data[:, :, when] += strength * model[:, :, None]
    return rf.rdm_movie(data, "euclidean", descriptors=descriptors)


def brute_largest(scores, upper, lower, statistic):
    """Largest cluster of one labelling, by itertools."""
    best = 0.0
    for m, c in np.ndindex(scores.shape[:2]):
        for sign, cut in ((1, upper), (-1, -lower)):
            course = sign * scores[m, c]
            for inside, run in itertools.groupby(
                range(len(course)), lambda t: bool(course[t] >= cut[m, c, t])  # noqa: B023
            ):
                members = list(run)
                if inside:
                    size = course[members].sum() if statistic == "mass" else len(members)
                    best = max(best, size)
    return best


@pytest.mark.parametrize("statistic", ["mass", "size"])
@pytest.mark.parametrize("times", [1, 2, 17])
def test_largest_cluster_is_that_of_a_loop(rng, statistic, times):
    scores = rng.normal(size=(2, 3, times, 40))
    upper = rng.uniform(0.2, 1.2, (2, 3, times))
    for high, low in ((upper, -upper[::-1]), (upper, np.full_like(upper, -np.inf))):
        got = _largest(scores, high, low, statistic)
        expected = [brute_largest(scores[..., p], high, low, statistic) for p in range(40)]
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_runs():
    assert _runs(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == [(0, 1), (3, 3), (6, 6)]
    assert _runs(np.zeros(4, bool)) == []
    assert _runs(np.ones(4, bool)) == [(0, 3)]


# ---------------------------------------------------------------- label permutation


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("statistic", ["mass", "size"])
@pytest.mark.parametrize("way", ["plain", "masked", "blocks", "kendall", "partial"])
def test_p_values_are_those_of_the_kept_null(rng, alternative, statistic, way):
    """From permutation_test(keep_null=True) with the same seed: another path to the numbers."""
    n = 12
    points = rng.normal(size=(2, n, 5))
    models = rf.compute_rdms(points, "euclidean", names=["a", "b"])
    parts = [movie_of(rng, n, 9, points[0], slice(2, 5), region=r) for r in ("V1", "IT")]
    movie = rf.RDMs.concat(parts)
    order = rng.permutation(18)
    keywords = {
        "plain": {},
        "masked": {"mask": rf.run_mask(np.arange(n) % 4)},
        "blocks": {"blocks": np.arange(n) % 2},
        "kendall": {"method": "kendall"},
        "partial": {"covariates": rf.compute_rdms(rng.normal(size=(n, 3))), "method": "pearson"},
    }[way] | {"n_permutations": 700, "alternative": alternative, "seed": 3, "progress": False}
    got = rf.cluster_test(
        models, movie.subset(rdms=order), courses="region", threshold=0.2, statistic=statistic,
        **keywords,
    )  # fmt: skip
    kept = rf.permutation_test(models, movie, keep_null=True, **keywords)
    sides = [("V1", "IT").index(course) for course in got.courses]
    null = kept.null.reshape(2, 2, 9, -1)[:, sides]
    mean, std = (x.reshape(2, 2, 9, 1)[:, sides] for x in (kept.null_mean, kept.null_std))
    if way == "plain":  # elsewhere the moments are those of a pilot sample
        scores = (null - mean) / std
        np.testing.assert_allclose(got.scores, scores[..., 0], atol=1e-9)
    else:
        scores = (null - got.null_mean[..., None]) / got.null_std[..., None]
    maxima = [
        brute_largest(scores[..., p], got.upper, got.lower, statistic)
        for p in range(null.shape[-1])
    ]
    np.testing.assert_allclose(np.sort(maxima), np.sort(got.null_maxima), atol=1e-7)
    assert got.n_permutations == null.shape[-1]
    for cluster in got.clusters:
        share = np.mean(got.null_maxima >= cluster.statistic * (1 - 1e-9))
        assert cluster.p_value == share >= 1 / got.n_permutations
    assert got.null_maxima[0] == max((c.statistic for c in got.clusters), default=0)
    assert {c.course for c in got.clusters} <= {"V1", "IT"}


def test_enumeration_is_exact(rng):
    """All 120 relabellings of 5 stimuli, against a loop over itertools.permutations."""
    points = rng.normal(size=(5, 3))
    model = rf.compute_rdms(points, "euclidean")
    movie = movie_of(rng, 5, 6, rng.normal(size=(5, 5)))
    got = rf.cluster_test(model, movie, method="pearson", threshold=0.3, progress=False)
    assert got.exact
    assert got.n_permutations == 120
    square = model.matrices()[0]
    every = []
    for p in itertools.permutations(range(5)):
        moved = rf.RDMs(square[np.ix_(p, p)][None])
        every.append(rf.compare(moved, movie, "pearson")[0])
    every = np.array(every)
    scores = (every - every.mean(axis=0)) / every.std(axis=0)
    maxima = [brute_largest(s[None, None], got.upper, got.lower, "mass") for s in scores]
    np.testing.assert_allclose(np.sort(maxima), np.sort(got.null_maxima), atol=1e-9)


def test_same_seed_same_result_whatever_the_memory(rng):
    points = rng.normal(size=(20, 5))
    model, movie = rf.compute_rdms(points, "euclidean"), movie_of(rng, 20, 30, points)
    results = [
        rf.cluster_test(model, movie, n_permutations=3000, memory_budget=b, progress=False)
        for b in ("2GB", "3MB")
    ]
    np.testing.assert_allclose(*(r.null_maxima for r in results), atol=1e-9)
    assert results[0].clusters[0].p_value == results[1].clusters[0].p_value < 0.01


def test_thresholds_have_the_pointwise_p_asked_for(rng):
    model = rf.compute_rdms(rng.normal(size=(20, 5)), "euclidean")
    movie = movie_of(rng, 20, 6)
    kept = rf.permutation_test(model, movie, n_permutations=100_000, keep_null=True, progress=False)
    for alternative, p in (("greater", 0.01), ("less", 0.05), ("two-sided", 0.1)):
        got = rf.cluster_test(
            model, movie, alternative=alternative, threshold=p, n_permutations=20, progress=False
        )
        z = (kept.null - kept.null_mean[..., None]) / kept.null_std[..., None]
        beyond = (z >= got.upper[:, 0, :, None]) | (z <= got.lower[:, 0, :, None])
        assert np.abs(beyond.mean(axis=-1) / p - 1).max() < 0.25


def test_more_models_and_courses_raise_p(rng):
    points = rng.normal(size=(14, 5))
    model = rf.compute_rdms(points, "euclidean")
    movie = movie_of(rng, 14, 20, points, strength=0.7, region="V1")
    other = movie_of(rng, 14, 20, region="IT")
    alone = rf.cluster_test(model, movie, n_permutations=4000, progress=False)
    family = rf.cluster_test(
        rf.RDMs.concat([model, rf.compute_rdms(rng.normal(size=(3, 14, 5)), "euclidean")]),
        rf.RDMs.concat([movie, other]), courses="region", n_permutations=4000, progress=False,
    )  # fmt: skip
    same = next(c for c in family.clusters if c.course == "V1" and c.model == "rdm 0")
    first = alone.clusters[0]
    assert (same.start, same.stop) == (first.start, first.stop)
    assert same.statistic == pytest.approx(first.statistic)
    assert same.p_value > first.p_value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0}, "above 0 and at most 0.5"),
        ({"threshold": "tfce"}, "must be a pointwise p"),
        ({"statistic": "tfce"}, "'mass' or 'size'"),
        ({"alternative": "up"}, "alternative must be"),
        ({"times": None}, "4 finite numbers"),
        ({"times": [0.0, 1, 2, 2]}, "two RDMs of course 'all' at time 2.0"),
        ({"times": [0.0, 1, 2, np.nan]}, "finite numbers, one an RDM"),
        ({"courses": list("aaab")}, "course 'a' has no RDM at time 3.0"),
        ({"courses": "region"}, "no descriptor 'region'"),
    ],
)
def test_cluster_test_refuses(rng, change, message):
    model, movie = rf.compute_rdms(rng.normal(size=(8, 4)), "euclidean"), movie_of(rng, 8, 4)
    with pytest.raises(InvalidInputError, match=message):
        rf.cluster_test(**{"models": model, "movie": movie, "progress": False} | change)


def test_a_null_without_spread_is_named_and_finds_nothing(rng):
    """Relabelling within categories leaves a model of categories as it is."""
    groups = np.repeat([0, 1, 2], 4)
    model = rf.RDMs((groups[:, None] != groups).astype(float)[None], names=["categories"])
    got = rf.cluster_test(
        model, movie_of(rng), blocks=groups, n_permutations=99, threshold=0.4, progress=False
    )
    assert got.clusters == ()
    assert "20 model × time cells have a null without spread" in got.summary()
    assert got.to_dataframe().empty


def test_one_time_is_no_course(rng):
    model, movie = rf.compute_rdms(rng.normal(size=(8, 4)), "euclidean"), movie_of(rng, 8, 4)
    with pytest.raises(InvalidInputError, match="a single time; use permutation_test"):
        rf.cluster_test(model, movie[:1])


# ---------------------------------------------------------------- sign flips


def mne_result(x, threshold, alternative, statistic):
    """Clusters (first, last), their p-values and the null of MNE."""
    mne = pytest.importorskip("mne")
    side = threshold / 2 if alternative == "two-sided" else threshold
    cut = student_t.isf(side, len(x) - 1)
    _, found, p_values, null = mne.stats.permutation_cluster_1samp_test(
        x, threshold=-cut if alternative == "less" else cut, n_permutations=2 ** len(x),
        tail={"greater": 1, "less": -1, "two-sided": 0}[alternative], out_type="indices",
        t_power=1 if statistic == "mass" else 0, verbose=False, seed=0,
    )  # fmt: skip
    return [(int(c[0][0]), int(c[0][-1])) for c in found], p_values, np.sort(np.abs(null))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("statistic", ["mass", "size"])
@pytest.mark.parametrize("n", [5, 8, 11])
def test_group_agrees_with_mne_when_enumerated(rng, alternative, statistic, n):
    x = smooth_noise(rng, (n, 40)) + 0.8 * np.sin(np.arange(40) / 4)
    got = rf.group_cluster_test(
        x, threshold=0.05, alternative=alternative, statistic=statistic, progress=False
    )
    assert got.exact
    assert got.n_permutations == 2**n
    theirs, p_values, null = mne_result(x, 0.05, alternative, statistic)
    assert sorted(theirs) == sorted((c.first, c.last) for c in got.clusters) != []
    ours = got.null_maxima.copy()
    if alternative == "two-sided":  # MNE enumerates one of each pair of opposite flips
        np.testing.assert_allclose(np.repeat(null, 2), np.sort(ours), atol=1e-9)
    else:
        # MNE 1.13 counts the observed flip twice and never flips all subjects, which shifts its
        # one-sided p-values by one flip at most. Ours enumerates each flip once.
        ours[-1] = ours[0]
        np.testing.assert_allclose(null, np.sort(ours), atol=1e-9)
    for cluster in got.clusters:
        p = p_values[theirs.index((cluster.first, cluster.last))]
        most = 1e-12 if alternative == "two-sided" else 1.01 / 2**n
        assert abs(cluster.p_value - p) <= most


def test_group_p_is_that_of_a_loop_over_models(rng):
    x = smooth_noise(rng, (6, 2, 15)) + 0.5
    got = rf.group_cluster_test(x, threshold=0.1, progress=False)
    maxima = []
    for signs in itertools.product([1, -1], repeat=6):
        flipped = x * np.array(signs)[:, None, None]
        t = flipped.mean(0) / (flipped.std(0, ddof=1) / np.sqrt(6))
        maxima.append(brute_largest(t[:, None], got.upper, got.lower, "mass"))
    for cluster in got.clusters:
        expected = np.mean(np.array(maxima) >= cluster.statistic - 1e-9)
        assert cluster.p_value == pytest.approx(expected)
    t = x.mean(0) / (x.std(0, ddof=1) / np.sqrt(6))
    np.testing.assert_allclose(got.scores[:, 0], t, rtol=1e-10)


def test_sampled_flips_agree_with_all_flips(rng):
    x = smooth_noise(rng, (14, 30)) + 0.35
    every = rf.group_cluster_test(x, threshold=0.05, progress=False)
    some = rf.group_cluster_test(x, threshold=0.05, n_permutations=5000, progress=False)
    assert every.exact
    assert not some.exact
    for a, b in zip(every.clusters, some.clusters, strict=True):
        error = np.sqrt(max(a.p_value, 1e-4) * (1 - a.p_value) / 5000)
        assert abs(a.p_value - b.p_value) < 5 * error + 1 / 5000
    assert min(c.p_value for c in some.clusters) >= some.smallest_p


def test_flips_do_not_depend_on_the_size_of_parts(rng, monkeypatch):
    x = smooth_noise(rng, (20, 2, 30)) + 0.3
    whole = rf.group_cluster_test(x, n_permutations=1000, progress=False)
    monkeypatch.setattr(clusters, "_BLOCK_BYTES", 8 * 60 * 7)
    parts = rf.group_cluster_test(x, n_permutations=1000, progress=False)
    np.testing.assert_allclose(whole.null_maxima, parts.null_maxima, rtol=1e-12)
    other = rf.group_cluster_test(x, n_permutations=1000, seed=1, progress=False)
    assert not np.array_equal(whole.null_maxima, other.null_maxima)


def test_the_floor_is_said(rng):
    x = np.abs(rng.normal(size=(5, 10))) + 2 + 0.01 * rng.normal(size=(5, 10))
    got = rf.group_cluster_test(x, progress=False)
    assert got.clusters[0].p_value == got.smallest_p == 1 / 32
    assert "Smallest attainable p: 0.0312. Only more subjects lower it." in got.summary()
    two = rf.group_cluster_test(x, alternative="two-sided", progress=False)
    assert two.clusters[0].p_value == two.smallest_p == 2 / 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.ones(5)}, "must be"),
        ({"values": np.ones((1, 5))}, "at least 2 subjects and 2 times, got 1 and 5"),
        ({"values": np.ones((4, 5))}, "same value for model 0 at time 0"),
        ({"values": np.full((4, 5), np.nan)}, "nan for subject 0, model 0, time 0"),
        ({"times": [0, 1]}, "5 increasing numbers"),
        ({"names": ["a", "b"]}, "must name 1 models, got 2"),
        ({"threshold": 0.6}, "at most 0.5"),
        ({"n_permutations": 2**25}, "at most 16,777,216"),
    ],
)
def test_group_refuses(rng, change, message):
    values = rng.normal(size=(30, 5))
    with pytest.raises(InvalidInputError, match=message):
        rf.group_cluster_test(**{"values": values, "progress": False} | change)


# ---------------------------------------------------------------- result


def test_result_speaks(rng):
    import matplotlib

    matplotlib.use("Agg")
    points = rng.normal(size=(16, 5))
    models = rf.compute_rdms(np.stack([points, rng.normal(size=(16, 5))]), "euclidean")
    movie = movie_of(rng, 16, 20, points, strength=1.5)
    got = rf.cluster_test(models, movie, n_permutations=2000, progress=False)
    table = got.to_dataframe()
    assert len(table) == len(got.clusters)
    assert table.p_value.is_monotonic_increasing
    assert table.n_times[0] == got.clusters[0].last - got.clusters[0].first + 1
    text = got.summary()
    assert "the 16 stimuli are exchangeable" in text
    assert "says nothing about any one time" in text
    ax = got.plot()
    assert any(line.get_linewidth() == 3 for line in ax.lines)
    courses = rf.TimeCourses(
        values=rng.normal(size=(6, 1, 8)), times=np.arange(8.0), subjects=tuple("abcdef"),
        model_names=("m",), method="spearman",
    )  # fmt: skip
    group = rf.group_cluster_test(courses, progress=False)
    assert group.model_names == ("m",)
    assert "subjects like these" in group.summary()
    group.plot()
    assert list(rf.group_cluster_test(courses, threshold=1e-9).to_dataframe().columns) == list(
        table.columns
    )


# ---------------------------------------------------------------- size under the null


@pytest.mark.calibration
@pytest.mark.slow
@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
@pytest.mark.parametrize("way", ["plain", "masked"])
def test_family_wise_size_of_the_label_test(rng, alternative, way):
    """Two models, two courses, autocorrelated noise: one rejection anywhere in 5 % of data sets."""
    n, sims, hits = 12, 300, 0
    for sim in range(sims):
        models = rf.compute_rdms(rng.normal(size=(2, n, 4)), "euclidean")
        movie = rf.RDMs.concat([movie_of(rng, n, 16, region=r) for r in "ab"])
        keywords = {"mask": rf.run_mask(np.arange(n) // 3)} if way == "masked" else {}
        got = rf.cluster_test(
            models, movie, courses="region", n_permutations=199, threshold=0.05, seed=sim,
            alternative=alternative, progress=False, **keywords,
        )  # fmt: skip
        hits += min((c.p_value for c in got.clusters), default=1) <= 0.05
    assert 0.02 < hits / sims < 0.05 + 3 * np.sqrt(0.05 * 0.95 / sims)


@pytest.mark.calibration
@pytest.mark.slow
@pytest.mark.parametrize("n", [7, 20])
def test_family_wise_size_of_the_group_test(rng, n):
    sims, hits = 500, 0
    for sim in range(sims):
        x = smooth_noise(rng, (n, 2, 40), 6)
        got = rf.group_cluster_test(
            x, n_permutations=256, threshold=0.05, seed=sim, alternative="two-sided",
            progress=False,
        )  # fmt: skip
        hits += min((c.p_value for c in got.clusters), default=1) <= 0.05
    assert 0.02 < hits / sims < 0.05 + 3 * np.sqrt(0.05 * 0.95 / sims)
