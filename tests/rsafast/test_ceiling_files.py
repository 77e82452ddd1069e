"""Noise ceilings of RDMs that are read in rows: those of RDMs in memory, within a budget."""

import json
import pickle

import numpy as np
import pytest
from peaks import needs_peaks, peak_of

import rsafast as rf
from rsafast.cli import main
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.ondisk import ceiling, survey

METHODS = ("pearson", "spearman", "cosine")
DEFINITIONS = ("rank-average", "average", "squared", "leave-one-out")
NAMES = ("lower", "upper", "upper_unrelated", "n_subjects", "n_rdms", "n_splits", "all_splits")


@pytest.fixture(autouse=True)
def small_panels(monkeypatch):
    """Several panels an RDM, and several chunks a panel."""
    monkeypatch.setattr(survey, "_PANEL", 3_000)
    monkeypatch.setattr(ceiling, "_PANEL", 3_000)
    monkeypatch.setattr(ceiling, "_CHUNK", 700)


@pytest.fixture
def batches(monkeypatch):
    """How many pools were ranked at a time."""
    seen, original = [], ceiling._Sums.similarity

    def similarity(self, rankers, *rest):
        seen.append(len(rankers))
        return original(self, rankers, *rest)

    monkeypatch.setattr(ceiling._Sums, "similarity", similarity)
    return seen


def patterns(count=5, n=127, channels=200, seed=0):
    """Patterns whose correlation distances lie in two binades: a ranker's table is small."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, channels))
    return [(shared + rng.standard_normal((n, channels))).astype("f4") for _ in range(count)]


def written(path, values, n):
    """A file of exactly these values."""
    rdm = rf.compute_rdm_file(np.eye(n, dtype="f4"), path, "cosine", name=path.stem)
    mapped = np.memmap(path, "f4", "r+", rdm.values.offset, rdm.values.shape)
    mapped[:] = values
    mapped.flush()
    return path


def tied(folder, count, n):
    """Files of small whole numbers: many ties, and all sums exact."""
    vectors = rf.RDMs.concat([rf.compute_rdms({"x": x}) for x in patterns(count, n)]).vectors
    return [written(folder / f"s{i}.h5", np.round(12 * v), n) for i, v in enumerate(vectors)]


def assert_same(got, expected, atol):
    for name in NAMES:
        found, wanted = getattr(got, name), getattr(expected, name)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=atol, err_msg=name)
    for name in ("lower_by_subject", "upper_by_subject"):
        for found, wanted in zip(getattr(got, name), getattr(expected, name), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=atol, err_msg=name)
    for name in ("definition", "method", "regions", "subjects", "n_stimuli", "pairs", "pairs_of"):
        assert getattr(got, name) == getattr(expected, name)


def in_memory(files):
    return rf.RDMs.concat([rf.RDMs.load(path) for path in files])


def stored(folder, features, **options):
    paths = [folder / f"s{i}.h5" for i in range(len(features))]
    for path, x in zip(paths, features, strict=True):
        rf.compute_rdm_file(x, path, name=path.stem, **options)
    return paths


# ---- the numbers of RDMs in memory ---------------------------------------------------------------


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("count", "n"), [(2, 31), (7, 90)])
def test_ties_in_files_are_ties_in_memory(tmp_path, method, definition, count, n):
    files = tied(tmp_path, count, n)
    got = rf.noise_ceiling_files(files, method, definition)
    assert_same(got, rf.noise_ceiling(in_memory(files), method, definition), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_several_rdms_a_subject_in_several_regions(tmp_path, method, definition, dtype):
    files = stored(tmp_path, patterns(8), dtype=dtype)
    how = {"regions": list("vviivvii"), "subjects": [1, 1, 1, 2, 2, 3, 2, 1]}
    got = rf.noise_ceiling_files(files, method, definition, **how)
    # float16 and ranks have exact sums; those of other values are rounded before they are ranked.
    exact = method != "spearman" or definition == "rank-average" or dtype == "float16"
    expected = rf.noise_ceiling(in_memory(files), method, definition, **how)
    assert_same(got, expected, 1e-12 if exact else 1e-6)
    assert got.n_subjects.tolist() == [3, 2]
    assert got.notes == expected.notes


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("method", METHODS)
def test_lazy_rdms_of_two_types_of_features(method, definition):
    features = patterns(4, 301)
    lazy = [rf.lazy_rdm(x) for x in features]
    rdms = rf.RDMs.concat([rf.compute_rdms({str(i): x}) for i, x in enumerate(features)])
    got = rf.noise_ceiling_files(lazy, method, definition)
    exact = method != "spearman" or definition == "rank-average"
    assert_same(got, rf.noise_ceiling(rdms, method, definition), 1e-12 if exact else 1e-6)
    if method != "spearman":
        doubles = [rf.lazy_rdm(x.astype("f8")) for x in features]
        assert_same(rf.noise_ceiling_files(doubles, method, definition), got, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_files_of_ranks_are_taken_as_they_are(tmp_path, definition):
    files = stored(tmp_path, patterns(4))
    ranked = [tmp_path / f"r{i}.h5" for i in range(4)]
    for file, to in zip(files, ranked, strict=True):
        rf.rank_rdm_file(file, to)
    got = rf.noise_ceiling_files(ranked, "spearman", definition)
    assert_same(got, rf.noise_ceiling(in_memory(ranked), "spearman", definition), 1e-12)
    assert any("ranks already" in note for note in got.notes) == (definition != "rank-average")
    if definition == "rank-average":
        assert_same(got, rf.noise_ceiling_files(files), 1e-12)


@pytest.mark.slow
def test_ranks_of_both_kinds_and_values_make_one_pool(tmp_path):
    """More pairs than steps, so that ranks in steps are on another scale than the others."""
    files = stored(tmp_path, patterns(4, 420))
    mixed = [files[0], *(tmp_path / f"r{i}.h5" for i in (1, 2, 3))]
    for file, to, dtype in zip(files[1:], mixed[1:], ("float32", "uint16", "uint16"), strict=True):
        rf.rank_rdm_file(file, to, dtype=dtype)
    expected = rf.noise_ceiling(in_memory(files))
    assert_same(rf.noise_ceiling_files(mixed), expected, 2e-6)
    backwards = rf.noise_ceiling(in_memory(files[::-1]))
    assert_same(rf.noise_ceiling_files(mixed[::-1]), backwards, 2e-6)
    steps = rf.noise_ceiling(in_memory(files[2:]))
    assert_same(rf.noise_ceiling_files(mixed[2:]), steps, 2e-6)
    with pytest.raises(InvalidInputError, match=r"s0\.h5 holds dissimilarities and .*r1\.h5 ranks"):
        rf.noise_ceiling_files(mixed, "pearson", "average")
    with pytest.raises(InvalidInputError, match=r"holds ranks and .* ranks in 65,536 steps"):
        rf.noise_ceiling_files(mixed[1:], definition="squared")


def test_one_file_of_several_rdms_with_descriptors(tmp_path):
    rdms = rf.compute_rdms({f"s{i}": x for i, x in enumerate(patterns(6, 40))})
    rdms = rdms.with_descriptors({"subject": [1, 1, 2, 2, 3, 3], "region": list("ababab")})
    rdms.save(tmp_path / "all.h5")
    how = {"regions": "region", "subjects": "subject"}
    got = rf.noise_ceiling_files(tmp_path / "all.h5", "pearson", **how)
    assert_same(got, rf.noise_ceiling(rdms, "pearson", **how), 1e-12)
    first = rf.open_rdm(tmp_path / "all.h5", 3)
    assert pickle.loads(pickle.dumps(first)).descriptors == {"subject": 2, "region": "b"}
    with pytest.raises(InvalidInputError, match="several RDMs of subject 1"):
        rf.noise_ceiling_files(tmp_path / "all.h5", "pearson")
    # Of RDMs that do not all have it, a descriptor says nothing.
    lazy = rf.lazy_rdm(patterns(1, 40)[0])
    with pytest.raises(InvalidInputError, match=r"no descriptor 'region'.*one label an RDM"):
        rf.noise_ceiling_files([tmp_path / "all.h5", lazy], "pearson", regions="region")


@pytest.mark.parametrize("together", [2, 10, 78])
def test_sums_that_rounding_ties_move_a_ceiling_no_more_than_is_said(tmp_path, together):
    """Of one RDM `together` values are equal, and the other tells them apart below float32."""
    pairs = 780
    coarse = 1.0 + np.arange(pairs) // together
    anyhow = np.random.default_rng(1).permutation(pairs)
    for fine in (anyhow, np.arange(pairs) % together):
        both = enumerate((coarse, fine * 2.0**-40))
        files = [written(tmp_path / f"{i}.h5", values, 40) for i, values in both]
        got = rf.noise_ceiling_files(files, "spearman", "average")
        expected = rf.noise_ceiling(in_memory(files), "spearman", "average")
        moved = np.abs(got.upper_by_subject[0] - expected.upper_by_subject[0])
        assert 0 < moved.max() <= 1.01 * together / pairs


# ---- budget --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("definition", ["rank-average", "average"])
def test_pools_in_turns_are_pools_at_once(tmp_path, batches, monkeypatch, definition):
    files = stored(tmp_path, patterns(5, channels=9))  # in many binades, whose tables are large
    whole = rf.noise_ceiling_files(files, "spearman", definition)
    assert batches == [6]
    monkeypatch.setattr(ceiling._Region, "_pooling_bytes", lambda self: 0)
    batches.clear()
    some = rf.noise_ceiling_files(files, "spearman", definition, memory_budget="320MB")
    assert len(batches) > 1
    assert sum(batches) == 6
    np.testing.assert_array_equal(some.lower, whole.lower)
    np.testing.assert_array_equal(some.upper, whole.upper)


def test_a_budget_that_is_too_small_is_said(tmp_path, monkeypatch):
    files = stored(tmp_path, patterns(4))
    for method in METHODS:
        with pytest.raises(InvalidInputError, match="a pass over the 4 RDMs of region 'all' needs"):
            rf.noise_ceiling_files(files, method, memory_budget="200KB")
    with pytest.raises(InvalidInputError, match="counters of"):
        rf.noise_ceiling_files(files, memory_budget="50MB")
    ranked = [rf.rank_rdm_file(f, f.with_name(f"r{f.name}")) for f in files]
    with pytest.raises(InvalidInputError, match=r"ranking a pool of the RDMs .* needs .* raise it"):
        rf.noise_ceiling_files(ranked, memory_budget="50MB")


PEAK = """
import numpy as np, rsafast as rf
n, count, budget, kind, definition, folder = *map(int, sys.argv[1:4]), *sys.argv[4:]
rng = np.random.default_rng(0)
shared = rng.standard_normal((n, 16))
rdms = []
for i in range(count):
    x = (shared + rng.standard_normal((n, 16))).astype(np.float32)
    rdms.append(rf.lazy_rdm(x) if kind == "lazy" else
                rf.compute_rdm_file(x, f"{folder}/{i}.h5", dtype=kind))
rf.noise_ceiling_files([rf.lazy_rdm(rng.random((60, 5), "f4")) for _ in range(2)])
with measured():
    rf.noise_ceiling_files(rdms, "spearman", definition, memory_budget=budget)
"""


@pytest.mark.slow
@needs_peaks
@pytest.mark.parametrize(
    ("n", "count", "budget", "kind", "definition"),
    [
        (3000, 4, 700, "float32", "rank-average"),
        (2000, 8, 900, "lazy", "rank-average"),
        (2500, 3, 700, "float16", "average"),
        (3000, 3, 900, "lazy", "leave-one-out"),
    ],
)
def test_peak_memory_keeps_to_the_budget(tmp_path, n, count, budget, kind, definition):
    peak = peak_of(PEAK, n, count, budget * 10**6, kind, definition, tmp_path)
    assert peak is not None
    assert peak <= 1.1 * budget * 10**6


# ---- what has no ceiling -------------------------------------------------------------------------


def test_bad_input_is_refused(tmp_path):
    features = patterns(3, 40)
    files = stored(tmp_path, features)
    flat = written(tmp_path / "flat.h5", 1.5, 40)
    other = rf.compute_rdm_file(features[0][:20], tmp_path / "other.h5")
    for brain, how, message in (
        ([*files, flat], {}, r"flat\.h5: has no spread"),
        ([*files, flat], {"method": "pearson"}, r"flat\.h5: has no spread"),
        ([*files, other], {}, "has 20 stimuli and"),
        (files[:1], {}, "region 'all' holds 1 subject"),
        (files, {"regions": list("aab")}, "region 'b' holds 1 subject"),
        (files, {"subjects": list("aaa")}, "at least 2"),
        (files, {"subjects": [1, 2]}, "subjects must be a descriptor's name or 3 labels"),
        (files, {"regions": "roi"}, "regions: the RDMs have no descriptor 'roi'"),
        (files, {"method": "kendall"}, "compared by spearman, pearson, cosine"),
        (files, {"definition": "nili"}, "definition must be one of"),
        (files, {"memory_budget": "much"}, "is not a size"),
        ([], {}, "one RDM at least"),
        ([tmp_path / "none.h5"], {}, "no such file"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            rf.noise_ceiling_files(brain, **how)
    with pytest.raises(UnsupportedCaseError, match="split-half"):
        rf.noise_ceiling_files(files, definition="split-half")


@pytest.mark.parametrize("method", METHODS)
def test_rdms_that_cancel_have_no_ceiling(tmp_path, method):
    rng = np.random.default_rng(3)
    up = rng.permutation(780) / 1024 + 0.5  # exact, as are their sums
    down = -up if method == "cosine" else 2 - up
    third = rng.permutation(780) / 1024 + 0.5
    both = rf.RDMs.from_vectors(np.stack([up, down]))
    three = rf.RDMs.from_vectors(np.stack([up, down, third]))
    for rdms, message in ((both, "mean of all"), (three, "mean of the others")):
        files = [written(tmp_path / f"{i}.h5", v, 40) for i, v in enumerate(rdms.vectors)]
        with pytest.raises(InvalidInputError, match=message):
            rf.noise_ceiling(rdms, method, "average")
        with pytest.raises(InvalidInputError, match=f"{message}.* in region 'all' has no spread"):
            rf.noise_ceiling_files(files, method, "average")


# ---- command line --------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_streams_what_the_function_returns(tmp_path, capsys):
    files = stored(tmp_path, patterns(4, 60))
    words = ["ceiling", *map(str, files), "--stream", "--memory", "1GB", "--subjects", "a,a,b,c"]
    assert main([*words, "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    expected = rf.noise_ceiling_files(files, subjects=list("aabc"))
    assert read["n_stimuli"] == 60
    assert [row["lower"] for row in read["ceilings"]] == expected.lower.tolist()
    assert main([*words, "--definition", "all", "--csv", str(tmp_path / "c.csv")]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in DEFINITIONS)
    assert "split-half" not in printed
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 1 + len(DEFINITIONS)


def test_command_refuses_what_does_not_go_with_streaming(tmp_path, capsys):
    files = [str(path) for path in stored(tmp_path, patterns(2, 30))]
    for words, message in (
        (files, "several files"),
        ([files[0], "--memory", "1GB"], "--stream"),
        ([*files, "--stream", "--mask", "m.npy", "--brain-key", "x"], "--mask and --brain-key"),
        ([*files, "--stream", "-d", "split-half"], "split-half"),
        ([*files, "--stream", "-m", "kendall"], "kendall"),
    ):
        assert main(["ceiling", *words]) == 2
        assert message in capsys.readouterr().err
