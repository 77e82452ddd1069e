"""Variance partitioning: against formulas by hand, regressions written out, and known truths."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import rankdata

import rsafast as rf
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.inference.bootstrap.draws import STIMULI, SUBJECTS, draw_counts
from rsafast.inference.decomposition.partition import commonality, subsets


def rdms(vectors, **keywords):
    return rf.RDMs.from_vectors(vectors, **keywords)


def data(rng, k, n, count=3, decimals=None):
    pairs = n * (n - 1) // 2
    x = rng.random((k, pairs)) + 0.6 * rng.random(pairs)
    y = x[:2].sum(axis=0) + 2 * rng.random((count, pairs))
    return (x, y) if decimals is None else (x.round(decimals), y.round(decimals))


def r2(x, y, rows):
    design = np.column_stack([np.ones(x.shape[1]), x[list(rows)].T])
    left = y - design @ np.linalg.lstsq(design, y)[0]
    return 1 - left @ left / ((y - y.mean()) ** 2).sum()


# ---- the parts -----------------------------------------------------------------------------------


def test_two_models_by_hand(rng):
    x, y = data(rng, 2, 12)
    got = rf.variance_partition(rdms(x), rdms(y), method="pearson").components_by_rdm
    for row, brain in zip(got, y, strict=True):
        a, b, ab = (r2(x, brain, s) for s in ((0,), (1,), (0, 1)))
        np.testing.assert_allclose(row, [ab - b, ab - a, a + b - ab], atol=1e-12)


def test_three_models_by_hand(rng):
    x, y = data(rng, 3, 12)
    got = rf.variance_partition(rdms(x), rdms(y), method="pearson").components_by_rdm
    for row, brain in zip(got, y, strict=True):
        a, b, c, ab, ac, bc, abc = (r2(x, brain, s) for s in subsets(3))
        by_hand = [
            abc - bc, abc - ac, abc - ab,
            ac + bc - c - abc, ab + bc - b - abc, ab + ac - a - abc,
            a + b + c - ab - ac - bc + abc,
        ]  # fmt: skip
        np.testing.assert_allclose(row, by_hand, atol=1e-12)


def test_four_models_by_hand(rng):
    """The formulas of four-way commonality analysis, as Net2Brain's VPA writes them."""
    x, y = data(rng, 4, 12, 1)
    got = rf.variance_partition(rdms(x), rdms(y), method="pearson")
    part = dict(zip(got.parts, got.components_by_rdm[0], strict=True))
    r = {s: r2(x, y[0], s) for s in subsets(4)}
    total = r[0, 1, 2, 3]
    assert part[0,] == pytest.approx(total - r[1, 2, 3], abs=1e-12)
    assert part[0, 1] == pytest.approx(r[0, 2, 3] + r[1, 2, 3] - r[2, 3] - total, abs=1e-12)
    three = r[0, 3] + r[1, 3] + r[2, 3] - r[3,] - r[0, 1, 3] - r[0, 2, 3] - r[1, 2, 3] + total
    assert part[0, 1, 2] == pytest.approx(three, abs=1e-12)
    ones, twos = sum(r[i,] for i in range(4)), sum(r[s] for s in subsets(4) if len(s) == 2)
    threes = sum(r[s] for s in subsets(4) if len(s) == 3)
    assert part[0, 1, 2, 3] == pytest.approx(ones - twos + threes - total, abs=1e-12)
    assert sum(part.values()) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("n", [6, 31])
def test_r_squared_of_every_subset_is_that_of_a_regression(rng, method, k, n):
    x, y = data(rng, k, n, 2, decimals=1)
    keep = rng.random(x.shape[1]) < 0.8
    got = rf.variance_partition(rdms(x), rdms(y), method=method, mask=keep)
    ranked = [rankdata(v[:, keep], axis=1) if method == "spearman" else v[:, keep] for v in (x, y)]
    for i, brain in enumerate(ranked[1]):
        for p, part in enumerate(got.parts):
            expected = r2(ranked[0], brain, part)
            assert got.r_squared_by_rdm[i, p] == pytest.approx(expected, abs=1e-11)
            adjusted = 1 - (1 - expected) * (keep.sum() - 1) / (keep.sum() - len(part) - 1)
            assert got.adjusted_r_squared_by_rdm[i, p] == pytest.approx(adjusted, abs=1e-11)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_parts_of_known_sets_are_their_regions(rng, k):
    """R² of a union of disjoint pieces: every part is the piece that exactly its models hold."""
    parts = subsets(k)
    pieces = rng.random(len(parts))
    r_squared = [
        sum(v for v, s in zip(pieces, parts, strict=True) if set(s) & set(used)) for used in parts
    ]
    got = commonality(np.array(r_squared)[:, None], parts)[:, 0]
    np.testing.assert_allclose(got, pieces, atol=1e-12)


def test_suppression_gives_a_negative_shared_part_and_says_so(rng):
    noise, signal = rng.standard_normal((2, 300))
    x = np.stack([signal + noise, noise])
    result = rf.variance_partition(rdms(x), rdms(signal[None]), method="pearson")
    assert result.components[0, 2] < -0.1
    assert result.negative.tolist() == [1]
    assert "suppress" in result.summary()
    assert result.components.sum() == pytest.approx(result.r_squared[0, -1])


def test_regions_average_subjects_not_rdms(rng):
    x, y = data(rng, 2, 10, 5)
    region, subject = list("aabbb"), ["s1", "s2", "s1", "s1", "s2"]
    stack = rdms(y, descriptors={"region": region, "subject": subject})
    got = rf.variance_partition(rdms(x), stack, regions="region", subjects="subject")
    each = got.components_by_rdm
    np.testing.assert_allclose(got.components[0], each[:2].mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(
        got.components[1], (each[2:4].mean(axis=0) + each[4]) / 2, atol=1e-14
    )
    assert got.n_subjects.tolist() == [2, 2]
    with pytest.raises(InvalidInputError, match="several RDMs of subject 's1'"):
        rf.variance_partition(rdms(x), stack, regions="region")


# ---- bootstrap -----------------------------------------------------------------------------------


def written_out(x, y, counts, method):
    """R² of all subsets on one resample, its copies as stimuli and pairs of copies left out."""
    drawn = np.repeat(np.arange(len(counts)), counts)
    first, second = (drawn[i] for i in np.triu_indices(len(drawn), 1))
    apart = first != second
    a, b = (rf.RDMs.from_vectors(v).matrices()[:, first[apart], second[apart]] for v in (x, y))
    if method == "spearman":
        a, b = rankdata(a, axis=1), rankdata(b, axis=1)
    return np.array([[r2(a, brain, part) for brain in b] for part in subsets(len(x))])


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("k", [2, 3])
def test_standard_errors_equal_regressions_on_resamples_written_out(rng, method, k):
    n, count, resamples = 11, 4, 25
    x, y = data(rng, k, n, count, decimals=2)
    parts = subsets(k)
    stimuli = draw_counts(7, STIMULI, n, 0, resamples)
    subjects = draw_counts(7, SUBJECTS, count, 0, resamples) / count
    r_stimuli = np.array([written_out(x, y, w, method) for w in stimuli])
    observed = written_out(x, y, np.ones(n, int), method)
    left = np.array([written_out(x, y, 1 - row, method) for row in np.eye(n, dtype=int)])
    replicates = {
        ("stimuli",): r_stimuli.mean(axis=2),
        ("subjects",): np.einsum("pi,ri->rp", observed, subjects),
        ("stimuli", "subjects"): np.einsum("rpi,ri->rp", r_stimuli, subjects),
    }
    raw = {
        key: commonality(values[..., None], parts)[..., 0].var(axis=0, ddof=1)
        for key, values in replicates.items()
    }
    kept = (1 - 1 / n, 1 - 1 / count)
    a, b = raw["stimuli",] / kept[0], raw["subjects",] / kept[1]
    both = raw["stimuli", "subjects"]
    crossed = (both - raw["stimuli",] - raw["subjects",]) / (kept[0] * kept[1])
    expected = {
        ("stimuli",): a,
        ("subjects",): b,
        ("stimuli", "subjects"): np.maximum(np.minimum(a + b - crossed, both), np.maximum(a, b)),
    }
    jackknife = commonality(left.mean(axis=(0, 2))[:, None], parts)[:, 0]
    bias = (n - 1) * (jackknife - commonality(observed.mean(axis=1)[:, None], parts)[:, 0])
    for factors, variance in expected.items():
        got = rf.variance_partition(
            rdms(x), rdms(y), method=method, resample=factors, n_resamples=resamples, seed=7,
            progress=False,
        )  # fmt: skip
        np.testing.assert_allclose(got.component_standard_error[0], np.sqrt(variance), atol=1e-11)
        known = bias if "stimuli" in factors else 0 * bias
        np.testing.assert_allclose(got.component_bias[0], known, atol=1e-11)
        centre = got.component_interval[0].mean(axis=1)
        np.testing.assert_allclose(centre, got.components[0] - known, atol=1e-11)
        assert got.resample == factors
        assert f"other {' and '.join(factors)} alone" in got.summary()


def test_resamples_do_not_depend_on_their_number_or_on_other_regions(rng):
    x, y = data(rng, 2, 9, 6)
    stack = rdms(y, descriptors={"region": list("aaabbb"), "subject": [1, 2, 3] * 2})
    keywords = {"n_resamples": 300, "resample": ("stimuli",), "seed": 2, "progress": False}
    both = rf.variance_partition(
        rdms(x), stack, regions="region", subjects="subject", **keywords
    )
    alone = rf.variance_partition(rdms(x), stack.subset({"region": "b"}), **keywords)
    np.testing.assert_allclose(both.component_interval[1], alone.component_interval[0], atol=1e-12)


def test_resamples_without_spread_are_counted(rng):
    x, y = data(rng, 2, 5, 2)
    same = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1.0])  # one stimulus apart from four
    x[0] = same + 1e-3 * (np.arange(10) == 5)
    result = rf.variance_partition(
        rdms(x), rdms(y), method="pearson", n_resamples=400, progress=False
    )
    counts = draw_counts(0, STIMULI, 5, 0, 400)
    assert result.excluded[0] >= ((counts > 0).sum(axis=1) < 3).sum() > 0
    assert np.isfinite(result.component_interval).all()
    assert f"{result.excluded[0]} resamples" in result.summary()


def test_bad_bootstraps_are_refused(rng):
    x, y = data(rng, 2, 8, 3)
    for keywords, message in (
        ({"resample": ("seeds",)}, "resample must hold"),
        ({"n_resamples": -1}, "n_resamples"),
        ({"level": 1.0}, "level"),
        ({"resample": "subjects", "regions": ["a", "a", "b"]}, "subjects= is needed"),
        (
            {"resample": "subjects", "regions": ["a", "a", "b"], "subjects": [1, 2, 1]},
            "region 'b' holds one subject",
        ),
    ):
        with pytest.raises(InvalidInputError, match=message):
            rf.variance_partition(rdms(x), rdms(y), **({"n_resamples": 10} | keywords))


# ---- input, tables, figure -----------------------------------------------------------------------


def test_bad_models_are_refused(rng):
    x, y = data(rng, 5, 8)
    with pytest.raises(InvalidInputError, match="5 given"):
        rf.variance_partition(rdms(x), rdms(y))
    with pytest.raises(InvalidInputError, match="1 given"):
        rf.variance_partition(rdms(x[:1]), rdms(y))
    twice = rdms([x[0], x[1], 4 - x[0]], names=["a", "b", "c"])
    with pytest.raises(InvalidInputError, match="'a' and 'c' are collinear"):
        rf.variance_partition(twice, rdms(y), method="pearson")
    summed = rdms([x[0], x[1], x[0] + x[1]])
    with pytest.raises(InvalidInputError, match="linear function of the others"):
        rf.variance_partition(summed, rdms(y), method="pearson")
    with pytest.raises(UnsupportedCaseError):
        rf.variance_partition(rdms(x[:2]), rdms(y), method="cosine")
    with pytest.raises(InvalidInputError, match="all its dissimilarities are equal"):
        rf.variance_partition(rdms(x[:2]), rdms(np.ones_like(y)))


def test_table_and_figure_show_every_part(rng):
    x, y = data(rng, 3, 9, 4)
    result = rf.variance_partition(
        rdms(x, names=["p", "q", "r"]), rdms(y), regions=list("aabb"), n_resamples=50,
        progress=False,
    )  # fmt: skip
    table = result.to_dataframe()
    assert table.part.tolist()[:7] == ["p", "q", "r", "p & q", "p & r", "q & r", "p & q & r"]
    assert table.kind.tolist()[:7] == ["unique"] * 3 + ["shared"] * 4
    assert table.component.tolist() == result.components.ravel().tolist()
    assert (table.component_low < table.component_high).all()
    assert table[table.region == "b"].share_of_total.sum() == pytest.approx(1)
    ax = result.plot(region="b")
    assert len(ax.patches) == 7
    assert [t.get_text() for t in ax.child_axes[0].get_yticklabels()] == ["p", "q", "r"]
    with pytest.raises(InvalidInputError, match="region must be one of"):
        result.plot(region="c")


@pytest.mark.data
def test_parts_of_human_it_add_up(data_dir):
    models = rf.read_rdms(data_dir / "fmri92" / "92_modelRDMs.mat")
    brain = rf.read_rdms(data_dir / "fmri92" / "target_fmri.mat", key="IT_RDMs")
    chosen = models.subset(["animacy", "monkeyIT", "V1", "HMAX"])
    result = rf.variance_partition(chosen, brain)
    np.testing.assert_allclose(
        result.components_by_rdm.sum(axis=1), result.r_squared_by_rdm[:, -1], atol=1e-12
    )
    x, y = (rankdata(r.vectors, axis=1) for r in (chosen, brain))
    assert result.r_squared_by_rdm[3, -1] == pytest.approx(r2(x, y[3], range(4)), abs=1e-11)


# ---- calibration ---------------------------------------------------------------------------------


@pytest.mark.calibration
@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "factors"), [(1.0, ("stimuli",)), (2.0, ("stimuli", "subjects"))]
)
def test_intervals_cover_the_parts_of_all_stimuli(noise, factors):
    """92 stimuli, 10 subjects; the truth is R² with far more stimuli than any study has."""
    rng = np.random.default_rng(5)

    def simulated(n, subjects):
        a, b, c = rng.standard_normal((3, n, 6))
        models = [pdist(np.hstack(m), "sqeuclidean") for m in ((a, c), (b, c))]
        brain = [
            pdist(np.hstack([a, 0.7 * b, 0.5 * c, noise * rng.standard_normal((n, 10))]),
                  "sqeuclidean")
            for _ in range(subjects)
        ]  # fmt: skip
        return rdms(np.array(models)), rdms(np.array(brain))

    def values(result):
        return np.append(result.components[0], result.r_squared[0, -1])

    truth = np.mean(
        [values(rf.variance_partition(*simulated(1200, 3), method="pearson")) for _ in range(6)], 0
    )
    covered = []
    for seed in range(150):
        got = rf.variance_partition(
            *simulated(92, 10), method="pearson", resample=factors, n_resamples=150, seed=seed,
            progress=False,
        )  # fmt: skip
        low, high = np.vstack([got.component_interval[0], got.r_squared_interval[0, -1:]]).T
        covered.append((low <= truth) & (truth <= high))
    assert (np.mean(covered, axis=0) >= 0.88).all(), np.mean(covered, axis=0)
