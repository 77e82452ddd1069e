"""RDMs on disk: the numbers of those in memory, whatever kills the run that writes them."""

import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from killing import Killed, kill_at_random
from peaks import needs_peaks, peak_of

import rsafast as rf
from rsafast.errors import InvalidInputError
from rsafast.ondisk import compute, survey, work

METRICS = ("correlation", "cosine", "euclidean", "sqeuclidean", "cityblock", "poisson")


@pytest.fixture
def features():
    return np.random.default_rng(5).gamma(2.0, size=(301, 60)).astype(np.float32)


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("normalize", [None, "channels"])
@pytest.mark.parametrize("metric", METRICS)
def test_values_are_those_of_compute_rdms(tmp_path, features, metric, normalize):
    labels = [f"image {i}" for i in range(301)]
    stored = rf.compute_rdm_file(
        {"conv1": features}, tmp_path / "a.h5", metric, labels=labels, normalize=normalize
    )
    expected = rf.compute_rdms({"conv1": features}, metric, labels=labels, normalize=normalize)
    np.testing.assert_array_equal(stored.values, expected.vectors[0].astype(np.float32))
    assert stored.labels == expected.labels
    assert (stored.name, stored.measure) == ("conv1", expected.measure)
    loaded = rf.RDMs.load(tmp_path / "a.h5")
    assert loaded.labels == expected.labels
    np.testing.assert_array_equal(loaded.vectors, stored.values[None])
    assert leftovers(tmp_path) == []


def test_crossnobis_and_mahalanobis_take_what_compute_rdms_takes(tmp_path):
    rng = np.random.default_rng(0)
    x, ids, folds = rng.standard_normal((300, 8)), [*range(100)] * 3, np.repeat([0, 1, 2], 100)
    given = {"metric": "crossnobis", "labels": ids, "folds": folds}
    stored = rf.compute_rdm_file(x, tmp_path / "c.h5", dtype="float64", **given)
    np.testing.assert_array_equal(stored.values, rf.compute_rdms(x, **given).vectors[0])
    given = {"metric": "mahalanobis", "noise_precision": np.diag(np.arange(1.0, 9.0))}
    stored = rf.compute_rdm_file(x, tmp_path / "m.h5", dtype="float64", **given)
    np.testing.assert_array_equal(stored.values, rf.compute_rdms(x, **given).vectors[0])


@pytest.mark.parametrize(("dtype", "error"), [("float32", 6e-8), ("float16", 4.9e-4)])
def test_stored_values_are_as_near_as_the_documentation_says(tmp_path, features, dtype, error):
    exact = rf.compute_rdms(features.astype(np.float64)).vectors[0]
    stored = rf.compute_rdm_file(features.astype(np.float64), tmp_path / "a.h5", dtype=dtype)
    assert stored.values.dtype == dtype
    assert (np.abs(stored.values - exact) <= error * exact).all()


def test_rows_and_the_budget_change_no_bit(tmp_path, features):
    whole = rf.compute_rdm_file(features, tmp_path / "a.h5").values
    small = rf.compute_rdm_file(features, tmp_path / "b.h5", memory_budget="80MB")
    np.testing.assert_array_equal(small.values, whole)
    square = np.zeros((301, 301), np.float32)
    for first, last in ((0, 100), (100, 300), (300, 301)):
        rows = small.rows(first, last)
        wanted = np.triu_indices(301, 1)
        inside = (wanted[0] >= first) & (wanted[0] < last)
        square[wanted[0][inside], wanted[1][inside]] = rows
    np.testing.assert_array_equal(square[np.triu_indices(301, 1)], whole)


def test_features_stay_a_memory_map(tmp_path, features):
    np.save(tmp_path / "x.npy", features)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    stored = rf.compute_rdm_file(mapped, tmp_path / "a.h5")
    np.testing.assert_array_equal(stored.values, rf.compute_rdms(features).vectors[0])


@contextmanager
def dies_after(records):
    """Make runs die after so many records, with the next part written and not noted."""
    original, seen = work.Work.record, []

    def record(self, parts):
        seen.append(parts)
        if len(seen) > records:
            raise Killed
        original(self, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work.Work, "record", record)
        yield seen


@pytest.fixture
def small_panels(monkeypatch):
    monkeypatch.setattr(compute, "_WRITE_BYTES", 1)
    monkeypatch.setattr(compute, "_LEAST_ROWS", 64)


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("records", [0, 1, 3])
def test_a_run_that_died_goes_on_to_the_same_bits(tmp_path, features, records):
    whole = rf.compute_rdm_file(features, tmp_path / "whole.h5").values
    with dies_after(records), pytest.raises(Killed):
        rf.compute_rdm_file(features, tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
    assert leftovers(tmp_path) == [".a.h5.partial"] * (records > 0)
    if records:
        with (tmp_path / ".a.h5.partial" / "journal").open("a") as journal:
            journal.write("9")  # a line that was not finished
    with dies_after(100) as seen:
        stored = rf.compute_rdm_file(features, tmp_path / "a.h5")
    assert len(seen) == 5 - records
    np.testing.assert_array_equal(stored.values, whole)
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("small_panels")
def test_other_arguments_start_anew_and_so_does_resume_false(tmp_path, features):
    for change in ({"metric": "cosine"}, {"dtype": "float16"}, {"resume": False}, {"name": "b"}):
        with dies_after(1), pytest.raises(Killed):
            rf.compute_rdm_file(features, tmp_path / "a.h5")
        folder = tmp_path / ".a.h5.partial"
        (folder / "file").write_bytes(b"nothing that could be opened")
        rf.compute_rdm_file(features, tmp_path / "a.h5", **change)
    fresh = rf.compute_rdm_file(features + 1, tmp_path / "a.h5").values
    np.testing.assert_array_equal(fresh, rf.compute_rdms(features + 1).vectors[0])


RUN = """
import sys, numpy as np, rsafast as rf
from rsafast.ondisk import compute, ranks
compute._WRITE_BYTES, compute._LEAST_ROWS, ranks._BLOCK = 1, 256, 1 << 16
x = np.random.default_rng(1).standard_normal((2000, 64)).astype(np.float32)
rf.compute_rdm_file(x, sys.argv[1] + "/rdm.h5")
rf.rank_rdm_file(sys.argv[1] + "/rdm.h5", sys.argv[1] + "/ranks.h5")
"""


@pytest.mark.slow
def test_killed_at_random_moments_the_files_are_the_same(tmp_path):
    kills = int(os.environ.get("RSAFAST_KILLS", "6"))
    kill_at_random(RUN, tmp_path, kills, window=(0.4, 1.0), seed=0)
    for name in ("rdm.h5", "ranks.h5"):
        whole, killed = (rf.open_rdm(tmp_path / where / name) for where in ("whole", "killed"))
        np.testing.assert_array_equal(whole.values, killed.values)
    assert leftovers(tmp_path / "killed") == []


def test_a_number_that_was_half_written_does_not_become_another(tmp_path):
    for part, unfinished in ((0, "1"), (2, "")):
        with (
            suppress(Killed),
            work.resumable(tmp_path / "a.h5", ("key",), resume=True) as unfinished_work,
        ):
            unfinished_work.file.touch()
            unfinished_work.record(range(part, part + 1))
            with unfinished_work.journal.open("a") as journal:
                journal.write(unfinished)
            raise Killed
    with work.resumable(tmp_path / "a.h5", ("key",), resume=True) as again:
        assert again.done == {0, 2}


@pytest.mark.parametrize("call", ["write_text", "fsync"])
def test_a_disk_that_fills_up_is_said_and_the_run_goes_on(tmp_path, features, monkeypatch, call):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    whole = rf.compute_rdm_file(features, tmp_path / "whole.h5").values
    with monkeypatch.context() as patch:
        patch.setattr(*{"write_text": (Path, "write_text"), "fsync": (os, "fsync")}[call], full)
        with pytest.raises(InvalidInputError, match=r"a\.h5: could not be .*No space.*make room"):
            rf.compute_rdm_file(features, tmp_path / "a.h5")
    np.testing.assert_array_equal(rf.compute_rdm_file(features, tmp_path / "a.h5").values, whole)
    assert leftovers(tmp_path) == []


def test_two_processes_on_one_file_are_refused(tmp_path, features):
    with work.resumable(tmp_path / "a.h5", ("other",), resume=True) as busy:
        busy.file.touch()
        with pytest.raises(InvalidInputError, match="another process is writing"):
            rf.compute_rdm_file(features, tmp_path / "a.h5")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no such call on this system")
def test_a_disk_that_is_too_small_is_said_before_the_work(tmp_path, features, monkeypatch):
    rf.compute_rdm_file(features, tmp_path / "a.h5", "cosine")
    before = (tmp_path / "a.h5").read_bytes()

    def full(handle, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InvalidInputError, match=r"a\.h5: needs 181 KB of disk.*No space left"):
        rf.compute_rdm_file(features, tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == before


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_said(tmp_path):
    code = (
        "import resource, sys, signal, numpy as np, rsafast as rf\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "x = np.random.default_rng(5).standard_normal((301, 60)).astype(np.float32)\n"
        "rf.compute_rdm_file(x, sys.argv[1])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.h5")], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "InvalidInputError" in ended.stderr
    assert "needs 181 KB of disk" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "a.npy"}, "choose a name ending in .h5"),
        ({"path": "nowhere/a.h5"}, "does not exist"),
        ({"dtype": "int8"}, "float32, float16, float64"),
        ({"metric": "chebyshev"}, "choose one of"),
        ({"memory_budget": "1MB"}, "too small: 301 stimuli of 60 channels need"),
        ({"labels": ["a", "b"]}, "301 rows, 2 labels"),
        ({"features": np.zeros((5, 3))}, "constant"),
        ({"features": {"a": np.eye(5), "b": np.eye(5)}}, "one file a layer"),
        ({"features": np.full((5, 3), np.nan)}, "finite"),
        ({"folds": [0] * 301}, "crossnobis"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path, features, change, message):
    given = {"features": features, "path": "a.h5"} | change
    path = tmp_path / given.pop("path")
    with pytest.raises(InvalidInputError, match=message):
        rf.compute_rdm_file(given.pop("features"), path, **given)
    assert list(tmp_path.iterdir()) == []


def test_what_float16_cannot_hold_is_refused(tmp_path):
    far = np.eye(8) * 1e5
    with pytest.raises(InvalidInputError, match="does not fit float16"):
        rf.compute_rdm_file(far, tmp_path / "a.h5", "euclidean", dtype="float16")


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_ranks_on_disk_are_ranks_in_memory(tmp_path, features, stored):
    from rsafast_kernels.rank import average_ranks

    rdm = rf.compute_rdm_file(features, tmp_path / "a.h5", dtype=stored, name="IT")
    ranked = rf.rank_rdm_file(rdm, tmp_path / "r.h5")
    expected = average_ranks(np.asarray(rdm.values, np.float64))
    np.testing.assert_array_equal(ranked.values, expected.astype(np.float32))
    assert (ranked.name, ranked.measure) == ("IT", "correlation, ranked")
    quantised = rf.rank_rdm_file(tmp_path / "a.h5", tmp_path / "q.h5", dtype="uint16")
    pairs = len(expected)
    back = 1 + quantised.values / 65535 * (pairs - 1)
    assert np.abs(back - expected).max() <= pairs / 131_070
    assert np.corrcoef(expected, back)[0, 1] > 1 - 1e-8
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_spearman_of_quantised_ranks_is_that_of_exact_ones(tmp_path):
    rng = np.random.default_rng(2)
    common = rng.standard_normal((400, 6))
    a, b = (common + rng.standard_normal((400, 6)) for _ in range(2))
    exact, rounded = [], []
    for name, x in (("a", a), ("b", b)):
        rdm = rf.compute_rdm_file(x, tmp_path / f"{name}.h5")
        exact.append(rf.rank_rdm_file(rdm, tmp_path / f"{name}r.h5").values)
        rounded.append(rf.rank_rdm_file(rdm, tmp_path / f"{name}q.h5", dtype="uint16").values)
    first, second = (np.corrcoef(*pair)[0, 1] for pair in (exact, rounded))
    assert abs(first - second) < 1e-7
    in_memory = rf.compare(rf.compute_rdms(a), rf.compute_rdms(b), "spearman")
    assert first == pytest.approx(in_memory[0, 0], abs=1e-6)


def test_ranking_refuses_what_it_cannot_count(tmp_path, features):
    rf.compute_rdms(features).save(tmp_path / "double.h5")
    with pytest.raises(InvalidInputError, match="holds float64 values"):
        rf.rank_rdm_file(tmp_path / "double.h5", tmp_path / "r.h5")
    rdm = rf.compute_rdm_file(features, tmp_path / "a.h5")
    with pytest.raises(InvalidInputError, match="counters of"):
        rf.rank_rdm_file(rdm, tmp_path / "r.h5", memory_budget="1MB")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["dissimilarities"][0, 7] = np.nan
    with pytest.raises(InvalidInputError, match=r"a\.h5: values must be finite"):
        rf.rank_rdm_file(tmp_path / "a.h5", tmp_path / "r.h5")
    with pytest.raises(InvalidInputError, match="uint16"):
        rf.rank_rdm_file(rdm, tmp_path / "r.h5", dtype="int8")


def test_open_rdm_opens_one_of_several(tmp_path, features):
    rdms = rf.compute_rdms({"a": features, "b": features**2})
    rdms.save(tmp_path / "two.h5")
    second = rf.open_rdm(tmp_path / "two.h5", 1)
    np.testing.assert_array_equal(second.values, rdms.vectors[1])
    assert second.name == "b"
    assert second.labels is None
    with pytest.raises(InvalidInputError, match="holds 2 RDMs, numbered from 0; got 2"):
        rf.open_rdm(tmp_path / "two.h5", 2)
    with pytest.raises(InvalidInputError, match="no such file"):
        rf.open_rdm(tmp_path / "none.h5")


PEAK = """
import tempfile, numpy as np, rsafast as rf
n, p, budget, seed = map(int, sys.argv[1:5])
with tempfile.TemporaryDirectory() as folder:
    warm = np.random.default_rng(0).random((300, 40), "f4")
    rf.rank_rdm_file(rf.compute_rdm_file(warm, folder + "/a.h5"), folder + "/b.h5")
    x = np.random.default_rng(seed).standard_normal((n, p), sys.argv[5])
    with measured():
        rdm = rf.compute_rdm_file(x, folder + "/a.h5", sys.argv[6], memory_budget=budget)
        rf.rank_rdm_file(rdm, folder + "/b.h5", memory_budget=budget)
"""


@pytest.mark.slow
@needs_peaks
@pytest.mark.parametrize("seed", range(int(os.environ.get("RSAFAST_PLANS", "4"))))
def test_peak_memory_keeps_to_the_budget(seed):
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(300, 5_000)), int(rng.integers(2, 800))
    budget = int(10 ** rng.uniform(7.9, 9))
    dtype, metric = rng.choice(["f4", "f8"]), rng.choice(["correlation", "euclidean", "cosine"])
    given = [n, p, budget, seed, dtype, metric]
    share = (peak_of(PEAK, *given) or 0) / budget
    print(f"{share:.2f} of the budget: {given}")
    assert share < 1.1, given


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("method", ["spearman", "pearson", "cosine"])
def test_files_compare_as_in_memory(tmp_path, method, dtype, monkeypatch):
    monkeypatch.setattr(survey, "_PANEL", 5_000)
    rng = np.random.default_rng(1)
    layers = [rng.standard_normal((150, 8)) for _ in range(5)]
    stored = [
        rf.compute_rdm_file(x, tmp_path / f"{k}.h5", dtype=dtype) for k, x in enumerate(layers)
    ]
    loaded = rf.RDMs.concat([rf.RDMs.load(rdm.path) for rdm in stored])
    got = rf.compare_files([stored[0].path, *stored[1:3]], stored[3:], method)
    expected = rf.compare(loaded[[0, 1, 2]], loaded[[3, 4]], method)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    assert rf.compare_files(stored[0], str(stored[3].path), method).shape == (1, 1)


def test_comparing_files_refuses_what_cannot_be_compared(tmp_path, features):
    def stored(name, x, **options):
        return rf.compute_rdm_file(x, tmp_path / f"{name}.h5", **options)

    whole = stored("a", features)
    labels = [f"image {i}" for i in range(301)]
    first = stored("b", features, labels=labels)
    other = stored("c", features, labels=labels[::-1])
    flat = stored("flat", np.eye(301, dtype="f4"), metric="euclidean")
    for pair, given, message in (
        ((whole, stored("small", features[:20])), {}, "has 20 stimuli and"),
        ((first, other), {}, "other stimuli, or the same in another order"),
        ((whole, whole), {"method": "kendall"}, "compared by spearman, pearson, cosine"),
        ((whole, []), {}, "one RDM at least"),
        ((whole, stored("double", features, dtype="float64")), {}, "holds float64"),
        ((whole, first), {"memory_budget": "100MB"}, "too small"),
        ((whole, flat), {}, r"flat\.h5: has no spread"),
        ((whole, flat), {"method": "pearson"}, r"flat\.h5: has no spread"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            rf.compare_files(*pair, **given)
    assert rf.compare_files(whole, first)[0, 0] == pytest.approx(1)
