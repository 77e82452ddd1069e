"""Permutation tests of RDMs that are read in rows: what those in memory find, at any budget."""

import dataclasses
import os
from contextlib import suppress

import numpy as np
import pytest
from killing import Killed, kill_at_random
from peaks import needs_peaks, peak_of
from rsafast_kernels.gather import gather_products
from scipy.stats import kstest

import rsafast as rf
from rsafast._condensed import expand
from rsafast.cli import main
from rsafast.comparators import get_comparator, prepare
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.ondisk import engine, plan, rows
from rsafast.ondisk.plan import choose_orbits

METHODS = ("spearman", "pearson", "cosine")


def related(n, rdms=1, seed=0, noise=3.0):
    """Features (rdms, n, 100) of models and of brains that share some of theirs.

    So many that correlation distances lie in two binades, and a ranker's table is small.
    """
    rng = np.random.default_rng(seed)
    shared = rng.gamma(2.0, size=(n, 100)).astype(np.float32)
    return [
        shared + noise * rng.standard_normal((rdms, n, 100)).astype(np.float32) for _ in range(2)
    ]


def lazy(features, **options):
    return [rf.lazy_rdm(x, name=f"rdm {i}", **options) for i, x in enumerate(features)]


def arrays(result):
    return {
        f.name: value
        for f in dataclasses.fields(result)
        if isinstance(value := getattr(result, f.name), np.ndarray)
    }


def assert_same(found, whole, but=()):
    for name, value in arrays(whole).items():
        if name not in but:
            np.testing.assert_array_equal(arrays(found)[name], value, err_msg=name)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("method", METHODS)
def test_counts_are_those_of_all_relabellings_written_out(method, alternative):
    n, (a, b) = 60, related(60, 2)
    result = rf.permutation_test_files(
        lazy(a), lazy(b), method=method, n_permutations=2_000, alternative=alternative, seed=7
    )
    orbits = choose_orbits(n, 2_000, 2, 2)
    assert len(orbits.units) == 2
    assert result.n_permutations == orbits.n_permutations
    places = range(orbits.n_permutations)
    drawn = np.array([engine.permutation_at(orbits, 7, place) for place in places])
    comparator = get_comparator(method)
    left, right = (
        expand(prepare(comparator, rdms.vectors, n, rdms.names), n)
        for rdms in (rf.compute_rdms(list(a)), rf.compute_rdms(list(b)))
    )
    values = gather_products(left, right, drawn)
    identity = gather_products(left, right, np.arange(n, dtype=np.int32)[None])
    np.testing.assert_allclose(result.statistic, identity[:, :, 0], atol=1e-12)
    turned = {"greater": 1, "less": -1}.get(alternative)
    score, limit = (np.abs(x) if turned is None else turned * x for x in (values, identity))
    np.testing.assert_array_equal(result.exceedances, (score >= limit - 1e-11).sum(axis=2))
    np.testing.assert_allclose(values.mean(axis=2), result.null_mean, atol=0.02)


@pytest.mark.parametrize("n", [60, 92, 103])
def test_without_units_it_is_the_test_in_memory(n, monkeypatch):
    monkeypatch.setattr(plan, "unit_group", lambda n, least: np.ones(1, int) if least < 2 else None)
    a, b = related(n, 2)
    found = rf.permutation_test_files(lazy(a), lazy(b), n_permutations=5 * n, tail="gpd")
    orbits = choose_orbits(n, 5 * n, 2, 2)
    monkeypatch.setattr("rsafast.permutation.engines.split_relabelings", lambda *_: orbits.counts)
    whole = rf.permutation_test(
        rf.compute_rdms(list(a)), rf.compute_rdms(list(b)), n_permutations=5 * n, tail="gpd"
    )
    assert (found.engine, whole.engine) == ("orbit-streamed", "orbit")
    exact = ("exceedances", "p_value_fwer", "p_value_stepdown", "histogram", "p_standard_error")
    assert_same(found, whole, but=set(arrays(whole)) - set(exact))
    for name, value in arrays(whole).items():
        np.testing.assert_allclose(arrays(found)[name], value, atol=1e-9, err_msg=name)


def test_files_and_features_give_one_result(tmp_path):
    a, b = related(150)
    stored = [
        rf.compute_rdm_file(x[0], tmp_path / f"{name}.h5", name="rdm 0")
        for name, x in zip("ab", (a, b), strict=True)
    ]
    ranked = [rf.rank_rdm_file(r, tmp_path / f"{r.path.stem}-ranks.h5") for r in stored]
    options = {"n_permutations": 3_000}
    whole = rf.permutation_test_files(lazy(a), lazy(b), **options)
    for sources in (stored, ranked, [r.path for r in stored], [lazy(a)[0], ranked[1]]):
        assert_same(rf.permutation_test_files(*sources, **options), whole)
    steps = rf.permutation_test_files(*stored, ranks="uint16", **options)
    np.testing.assert_allclose(steps.statistic, whole.statistic, atol=1e-5)
    np.testing.assert_allclose(steps.p_value, whole.p_value, atol=3e-3)
    small = [rf.rank_rdm_file(r, tmp_path / f"{r.path.stem}-16.h5", dtype="uint16") for r in stored]
    assert_same(rf.permutation_test_files(*small, **options), steps)
    halves = [
        rf.compute_rdm_file(x[0], tmp_path / f"{name}-half.h5", dtype="float16", name="rdm 0")
        for name, x in zip("ab", (a, b), strict=True)
    ]
    found = rf.permutation_test_files(*halves, method="pearson", **options)
    exact = rf.permutation_test_files(lazy(a), lazy(b), method="pearson", **options)
    np.testing.assert_allclose(found.statistic, exact.statistic, atol=1e-3)


@pytest.fixture
def small_parts(monkeypatch):
    """Chunks of few diagonals and panels of few rows, so that little data makes many parts."""
    monkeypatch.setattr("rsafast_kernels.orbit.streaming._SLOTS", 16)
    monkeypatch.setattr(rows.panels, "__defaults__", (2_000,))


def plans(orbits, sizes):
    """Plans of every number of parts and tiles, as budgets would make them."""
    for tile in list(plan._tiles(orbits.counts, sizes.rdms))[::2]:
        for at_once in (3, len(orbits.parts)):
            yield plan.StreamPlan(orbits, tile, at_once, 0, 0, 0, {})


@pytest.mark.usefixtures("small_parts")
def test_what_is_found_does_not_depend_on_the_plan(monkeypatch):
    a, b = related(120, 2)
    whole = rf.permutation_test_files(lazy(a), lazy(b), n_permutations=4_000)
    orbits = choose_orbits(120, 4_000, 2, 2)
    assert len(orbits.parts) > 3
    assert min(orbits.counts) > 1
    for made in plans(orbits, plan.Sizes((2, 2), (4, 4), 0, 0)):
        monkeypatch.setattr("rsafast.ondisk.test.make_plan", lambda *_, made=made: made)
        found = rf.permutation_test_files(lazy(a), lazy(b), n_permutations=4_000)
        assert_same(found, whole)


def dying(monkeypatch, saves):
    """Make runs die after so many checkpoints."""
    original, seen = engine.Checkpoint.save, []

    def save(self, *state):
        seen.append(state)
        if len(seen) > saves:
            raise Killed
        original(self, *state)

    monkeypatch.setattr(engine.Checkpoint, "save", save)
    return seen


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("tail", [None, "gpd"])
@pytest.mark.parametrize("saves", [0, 1, 4])
def test_a_test_that_died_goes_on_to_the_same_result(tmp_path, monkeypatch, saves, tail):
    a, b = related(120, 2)
    options = {"n_permutations": 4_000, "tail": tail}
    whole = rf.permutation_test_files(lazy(a), lazy(b), **options)
    orbits = choose_orbits(120, 4_000, 2, 2)
    tile = (orbits.counts[0], 1)
    made = plan.StreamPlan(orbits, tile, len(orbits.parts) // 2, 0, 0, 0, {})
    monkeypatch.setattr("rsafast.ondisk.test.make_plan", lambda *_: made)
    out = tmp_path / "result.h5"
    with monkeypatch.context() as patch:
        dying(patch, saves)
        with pytest.raises(Killed):
            rf.permutation_test_files(lazy(a), lazy(b), out=out, **options)
    assert not out.exists()
    with monkeypatch.context() as patch:
        seen = dying(patch, 1000)
        found = rf.permutation_test_files(lazy(a), lazy(b), out=out, **options)
    assert_same(found, whole)
    assert_same(rf.PermutationResult.load(out), whole)
    with monkeypatch.context() as patch:
        every = dying(patch, 1000)
        rf.permutation_test_files(lazy(a), lazy(b), out=out, resume=False, **options)
    assert len(seen) == len(every) - saves
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.h5"]


@pytest.mark.usefixtures("small_parts")
def test_another_plan_or_other_rdms_start_anew(tmp_path, monkeypatch):
    a, b = related(120, 2)
    orbits = choose_orbits(120, 4_000, 2, 2)
    out, options = tmp_path / "result.h5", {"n_permutations": 4_000}
    made = plan.StreamPlan(orbits, (1, 1), 2, 0, 0, 0, {})
    with monkeypatch.context() as patch:
        patch.setattr("rsafast.ondisk.test.make_plan", lambda *_: made)
        dying(patch, 5)
        with pytest.raises(Killed):
            rf.permutation_test_files(lazy(a), lazy(b), out=out, **options)
    found = rf.permutation_test_files(lazy(a), lazy(b), out=out, **options)
    assert_same(found, rf.permutation_test_files(lazy(a), lazy(b), **options))
    with monkeypatch.context() as patch:
        patch.setattr("rsafast.ondisk.test.make_plan", lambda *_: made)
        dying(patch, 5)
        with pytest.raises(Killed):
            rf.permutation_test_files(lazy(a), lazy(b), out=out, seed=1, **options)
    found = rf.permutation_test_files(lazy(b), lazy(a), out=out, seed=1, **options)
    assert_same(found, rf.permutation_test_files(lazy(b), lazy(a), seed=1, **options))


def filling(monkeypatch, saves, fill):
    """Fill the disk for the save after so many."""
    original, seen = engine.Checkpoint.save, []

    def save(self, *state):
        seen.append(state)
        if len(seen) == saves + 1:
            fill()
        original(self, *state)

    monkeypatch.setattr(engine.Checkpoint, "save", save)


def goes_on_after_a_full_disk(monkeypatch, out, fill, empty):
    """A run into `out`, whose third save finds a full disk, and again after room is made."""
    a, b = related(120, 2)
    options = {"n_permutations": 4_000, "out": out}
    orbits = choose_orbits(120, 4_000, 2, 2)
    made = plan.StreamPlan(orbits, orbits.counts, 1, 0, 0, 0, {})
    monkeypatch.setattr("rsafast.ondisk.test.make_plan", lambda *_: made)
    kept = out.with_name(f".{out.name}.partial")
    before = []
    with monkeypatch.context() as patch:
        filling(patch, 2, lambda: (before.append((kept / "state.npz").read_bytes()), fill()))
        message = r"result\.h5: could not be written .*No space left.*make room on its disk"
        with pytest.raises(InvalidInputError, match=message):
            rf.permutation_test_files(lazy(a), lazy(b), **options)
    assert [(kept / "state.npz").read_bytes()] == before
    assert sorted(path.name for path in kept.iterdir()) == [".lock", "file", "journal", "state.npz"]
    empty()
    with monkeypatch.context() as patch:
        seen = dying(patch, 1000)
        found = rf.permutation_test_files(lazy(a), lazy(b), **options)
    assert seen[0][1] == 3, "it did not go on from the second save"
    assert_same(found, rf.permutation_test_files(lazy(a), lazy(b), n_permutations=4_000))


@pytest.mark.usefixtures("small_parts")
def test_a_disk_that_fills_up_is_said_and_the_test_goes_on(tmp_path, monkeypatch):
    original, full = np.savez, []

    def savez(file, **state):
        if full:
            file.write(b"a part of it")
            raise OSError(28, "No space left on device")
        original(file, **state)

    monkeypatch.setattr(np, "savez", savez)
    goes_on_after_a_full_disk(
        monkeypatch, tmp_path / "result.h5", lambda: full.append(True), full.clear
    )


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_a_real_disk_that_fills_up_is_said_and_the_test_goes_on(small_disk, monkeypatch):
    filler = small_disk / "filler"

    def fill():
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    goes_on_after_a_full_disk(monkeypatch, small_disk / "result.h5", fill, filler.unlink)


RUN = """
import sys
import numpy as np, rsafast as rf
x = np.random.default_rng(0).standard_normal((2, 3000, 64)).astype(np.float32)
a, b = rf.lazy_rdm(x[0]), rf.lazy_rdm(x[1])
rf.permutation_test_files(
    a, b, method="pearson", n_permutations=1_000_000, memory_budget="300MB",
    out=sys.argv[1] + "/result.h5",
)
"""


@pytest.mark.slow
def test_killed_at_random_moments_the_result_is_the_same(tmp_path):
    kills = int(os.environ.get("RSAFAST_KILLS", "2"))
    kill_at_random(RUN, tmp_path, kills, window=(0.3, 0.9), seed=1)
    whole, found = (
        rf.PermutationResult.load(tmp_path / name / "result.h5") for name in ("whole", "killed")
    )
    assert_same(found, whole)
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["result.h5"]


PEAK = """
import numpy as np, rsafast as rf
n, rdms, wanted, budget = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
x = rng.standard_normal((2 * rdms, n, 16)).astype(np.float32)
small = rng.standard_normal((2, 60, 16)).astype(np.float32)
rf.permutation_test_files(*map(rf.lazy_rdm, small), n_permutations=500)
sources = [rf.lazy_rdm(features) for features in x]
with measured():
    rf.permutation_test_files(sources[:rdms], sources[rdms:], n_permutations=wanted,
                              memory_budget=budget)
"""


@pytest.mark.slow
@needs_peaks
def test_memory_keeps_to_the_budget_over_random_plans():
    rng = np.random.default_rng(2)
    ran = 0
    for _ in range(int(os.environ.get("RSAFAST_PLANS", "3"))):
        n, rdms = int(rng.integers(500, 3000)), int(rng.integers(1, 4))
        wanted, budget = int(10 ** rng.uniform(3, 5.5)), int(rng.uniform(2e8, 1e9))
        peak = peak_of(PEAK, n, rdms, wanted, budget)
        if peak is None:
            continue
        ran += 1
        print(f"{peak / budget:.2f} of the budget: {(n, rdms, wanted, budget)}")
        assert peak <= 1.1 * budget, (n, rdms, wanted, budget)
    assert ran


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian", "line", "clusters"])
def test_p_is_uniform_under_the_null_with_units(kind):
    n = 101
    rng = np.random.default_rng(3)

    def features():
        if kind == "line":
            return rng.permutation(n)[:, None] + 0.3 * rng.standard_normal((n, 1))
        if kind == "clusters":
            return 5 * np.eye(4)[rng.permutation(n) % 4] + rng.standard_normal((n, 4))
        return rng.standard_normal((n, 5))

    p, squares, errors = [], [], []
    for seed in range(150):
        x, y = (rf.lazy_rdm(features(), "euclidean") for _ in range(2))
        first, second = (
            rf.permutation_test_files(x, y, method="pearson", n_permutations=4_000, seed=s)
            for s in (2 * seed, 2 * seed + 1)
        )
        p.append(first.p_value[0, 0])
        squares.append((first.p_value[0, 0] - second.p_value[0, 0]) ** 2)
        errors.append(first.p_standard_error[0, 0] ** 2 + second.p_standard_error[0, 0] ** 2)
    assert len(first.provenance["units"]) > 1
    assert kstest(p, "uniform").pvalue > 1e-3
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 150)
    # The stated Monte Carlo error is never below that of independent relabellings, and orbits vary
    # less than these: it may be too large between seeds, and should not be too small.
    assert 0.1 < np.mean(squares) / np.mean(errors) < 1.6


def test_the_plan_says_what_will_be_done():
    a, b = related(300)
    made = rf.plan_permutation_test_files(lazy(a), lazy(b), n_permutations=10_000)
    text = str(made)
    assert f"{made.orbits.n_permutations:,} relabellings of 300 stimuli" in text
    assert "about" in text
    assert set(made.seconds) == {"survey", "reading", "filling", "transforms and products"}
    assert made.memory <= made.memory_budget


@pytest.mark.parametrize("n", [12, 92, 720, 1854, 10_000, 10_007, 73_000])
def test_plans_give_what_was_asked_for(n):
    for wanted in (1, n, n + 1, 10 * n, 10**6):
        orbits = choose_orbits(n, wanted, 2, 5)
        assert orbits.n_permutations >= wanted
        assert orbits.n_permutations <= 8 * max(wanted, n)
        assert (min(orbits.counts) > 1) == (wanted > 3 * n) or len(orbits.units) > 1
        assert sum(len(part) for part in orbits.parts) >= len(orbits.parts) <= 64


def test_bad_input_is_refused_before_work_begins(tmp_path):
    (a,), (b,) = map(lazy, related(100))
    (other,) = lazy(related(101)[0])
    flat = rf.lazy_rdm(np.repeat(np.eye(100)[:1], 100, axis=0) + 1.0, "euclidean")
    for models, options, message in (
        (a, {"method": "kendall"}, "spearman, pearson, cosine"),
        (a, {"n_permutations": 0}, "positive integer"),
        (a, {"seed": -1}, "seed"),
        (a, {"alternative": "more"}, "alternative"),
        (a, {"tail": "pearson3"}, "gpd"),
        (a, {"ranks": "int8"}, "ranks is 'int8'"),
        (a, {"memory_budget": "1MB"}, "too small"),
        (a, {"out": tmp_path / "result.csv"}, "result.csv"),
        (a, {"out": tmp_path / "none" / "result.h5"}, "does not exist"),
        (other, {}, "100 stimuli and .* has 101"),
        ([], {}, "models must name"),
        (flat, {"method": "pearson"}, "no spread"),
        (tmp_path / "none.h5", {}, "none.h5"),
    ):
        with pytest.raises((InvalidInputError, UnsupportedCaseError), match=message):
            rf.permutation_test_files(models, b, **options)
    assert list(tmp_path.iterdir()) == []
    double = rf.lazy_rdm(np.random.default_rng(0).standard_normal((100, 4)))
    with pytest.raises(InvalidInputError, match="holds float64"):
        rf.permutation_test_files(double, b)


def test_a_second_run_of_the_same_result_is_refused(tmp_path):
    from rsafast.ondisk.work import resumable

    (a,), (b,) = map(lazy, related(100))
    with resumable(tmp_path / "result.h5", ("another",), resume=True) as other:
        with pytest.raises(InvalidInputError, match="is writing"):
            rf.permutation_test_files(a, b, out=tmp_path / "result.h5")
        other.file.touch()


def test_the_command_streams_files_and_features(tmp_path, capsys):
    (a,), (b,) = related(150)
    for name, x in (("a", a), ("b", b)):
        np.save(tmp_path / f"{name}.npy", x)
        rf.compute_rdm_file(x, tmp_path / f"{name}.h5", name="rdm 0")
    whole = rf.permutation_test_files(lazy([a]), lazy([b]), n_permutations=3_000)
    out = str(tmp_path / "result.h5")
    options = ["--stream", "-n", "3000", "-o", out]
    for suffix, more in ((".h5", []), (".npy", ["--features", "correlation"])):
        sources = [str(tmp_path / f"{name}{suffix}") for name in "ab"]
        assert main(["test", *sources, *options, *more]) == 0
        assert_same(rf.PermutationResult.load(out), whole)
        assert f"{whole.n_permutations:,} relabellings" in capsys.readouterr().out
    assert main(["test", *sources, *options, *more, "--dry-run"]) == 0
    assert f"{whole.n_permutations:,} relabellings of 150 stimuli" in capsys.readouterr().out
    for wrong, message in (
        (["--stream", "--keep-null", "--mask", "m.npy"], "does not take --mask and --keep-null"),
        (["--features", "cosine"], "needed by --features"),
        (["--dry-run"], "needed by --dry-run"),
    ):
        assert main(["test", *sources, *wrong]) == 2
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
