"""Bootstraps of RDMs that are read in rows: what those in memory find, at any budget."""

import os

import numpy as np
import pytest
from killing import Killed, kill_at_random
from peaks import needs_peaks, peak_of
from test_streaming import arrays, assert_same, related

import rsafast as rf
from rsafast.cli import main
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.ondisk import bootstrap as module
from rsafast.ondisk.work import Work

METHODS = ("spearman", "pearson", "cosine")
FACTORS = ("stimuli", "subjects", "seeds")
GROUPS = {
    "rules": ["bp", "bp", "fa", "fa"],
    "regions": ["V1"] * 3 + ["IT"] * 3,
    "subjects": [1, 2, 3] * 2,
}
OPTIONS = {"n_resamples": 300, "seed": 3}


def features(n, models=4, brains=6, seed=0):
    x = np.concatenate(related(n, max(models, brains), seed))
    return x[:models], x[-brains:]


def lazy(x, **options):
    return [rf.lazy_rdm(one, name=f"rdm {i}", **options) for i, one in enumerate(x)]


def stored(folder, x, name, **options):
    return [
        rf.compute_rdm_file(one, folder / f"{name}{i}.h5", name=f"rdm {i}", **options)
        for i, one in enumerate(x)
    ]


def in_memory(rdms):
    """The RDMs of files, or of features as they are needed, all at once."""
    values = [
        rdm.read_rows(0, rdm.n_stimuli) if isinstance(rdm, rf.LazyRDM) else np.array(rdm.values)
        for rdm in rdms
    ]
    return rf.RDMs.from_vectors(np.array(values, np.float64), names=[rdm.name for rdm in rdms])


def assert_close(found, whole, atol):
    """Scores differ by rounding, and what is made of them by little more."""
    compared = arrays(whole)
    assert arrays(found).keys() == compared.keys()
    for name, value in compared.items():
        # p-values and degrees of freedom grow with small differences of small variances.
        loose = 100 if name.startswith("p_") else 1
        rtol = 1e-3 if "dof" in name else 1e-5
        np.testing.assert_allclose(
            arrays(found)[name], value, rtol=rtol, atol=loose * atol, err_msg=name
        )


@pytest.fixture
def small_panels(monkeypatch):
    monkeypatch.setattr(module, "_PANEL", 100)


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("resample", [("stimuli",), ("subjects",), ("stimuli", "seeds"), FACTORS])
@pytest.mark.parametrize("method", METHODS)
def test_results_are_those_in_memory(method, resample):
    models, brain = map(lazy, features(61))
    given = {"method": method, "resample": resample, **OPTIONS, **GROUPS}
    if method != "spearman":
        given |= {"ceiling": True, "interval": "bca"}
    found = rf.bootstrap_files(models, brain, **given)
    whole = rf.bootstrap(in_memory(models), in_memory(brain), **given)
    assert found.notes == whole.notes
    assert (found.rules, found.subsets, found.n_excluded) == (
        whole.rules, whole.subsets, whole.n_excluded,
    )  # fmt: skip
    assert_close(found, whole, 1e-7 if method == "spearman" else 1e-12)


@pytest.mark.parametrize(
    ("method", "dtype"),
    # float64 values are not ranked by counting
    [(m, d) for m in METHODS for d in ("float32", "float16", "float64")
     if (m, d) != ("spearman", "float64")],
)
def test_files_of_any_type_and_ties(tmp_path, method, dtype):
    x, y = features(50, 2, 2)
    models = stored(tmp_path, np.round(x), "model", metric="cityblock", dtype=dtype)
    brain = stored(tmp_path, np.round(y), "brain", metric="cityblock", dtype=dtype)
    assert len(np.unique(models[0].values)) < models[0].values.size / 2
    found = rf.bootstrap_files(models, brain, method=method, **OPTIONS)
    whole = rf.bootstrap(in_memory(models), in_memory(brain), method=method, **OPTIONS)
    assert_close(found, whole, 1e-7 if method == "spearman" else 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_files_of_ranks_are_taken_as_they_are(tmp_path, dtype):
    files = stored(tmp_path, features(50, 2, 2)[0], "rdm")
    ranks = [
        rf.rank_rdm_file(file, tmp_path / f"ranks{i}.h5", dtype=dtype)
        for i, file in enumerate(files)
    ]
    found = rf.bootstrap_files(ranks[0], ranks[1], **OPTIONS)
    assert_close(found, rf.bootstrap_files(files[0], files[1], **OPTIONS), 1e-12)


@pytest.mark.slow
def test_classes_of_many_ranks_move_replicates_by_little():
    models, brain = (lazy(x, metric="euclidean") for x in features(500, 2, 2))
    found = rf.bootstrap_files(models, brain, n_resamples=100)
    whole = rf.bootstrap(in_memory(models), in_memory(brain), n_resamples=100)
    assert models[0].n_stimuli * 499 / 2 > 65_536
    np.testing.assert_allclose(found.replicates, whole.replicates, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_neither_budget_nor_panels_change_a_bit(tmp_path, method, monkeypatch):
    x, y = features(300, 2, 2)
    whole = rf.bootstrap_files(lazy(x), lazy(y), method=method, **OPTIONS)
    monkeypatch.setattr(module, "_PANEL", 1_000)
    monkeypatch.setattr(module, "_at_once", lambda *_: 16)
    files = stored(tmp_path, x, "model"), stored(tmp_path, y, "brain")
    found = rf.bootstrap_files(*files, method=method, **OPTIONS)
    assert_same(found, whole)


def dying(patch, after):
    """Die once so many blocks of resamples are kept."""
    keep, kept = Work.keep, []

    def keep_and_die(work, name, write):
        keep(work, name, write)
        kept.append(name)
        if len(kept) == after:
            raise Killed

    patch.setattr(Work, "keep", keep_and_die)
    return kept


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_run_that_died_goes_on(tmp_path, monkeypatch, after):
    monkeypatch.setattr(module, "BLOCK", 100)  # 3 blocks of resamples and one of the jackknife
    models, brain = map(lazy, features(64, 2, 2))
    whole = rf.bootstrap_files(models, brain, **OPTIONS)
    out = tmp_path / "result.h5"
    with monkeypatch.context() as patch:
        dying(patch, after)
        with pytest.raises(Killed):
            rf.bootstrap_files(models, brain, out=out, **OPTIONS)
    with monkeypatch.context() as patch:
        kept = dying(patch, 100)
        found = rf.bootstrap_files(models, brain, out=out, **OPTIONS)
    assert len(kept) == 4 - after
    assert_same(found, whole)
    assert_same(rf.BootstrapResult.load(out), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["result.h5"]


@pytest.mark.slow
def test_other_data_or_no_resume_start_anew_and_more_resamples_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 100)
    models, brain = map(lazy, features(64, 2, 2))
    out = tmp_path / "result.h5"

    def kept_after_death(models, **given):
        with monkeypatch.context() as patch:
            dying(patch, 3)
            with pytest.raises(Killed):
                rf.bootstrap_files(lazy(features(64, 2, 2)[0]), brain, out=out, n_resamples=300)
        with monkeypatch.context() as patch:
            kept = dying(patch, 100)
            rf.bootstrap_files(models, brain, out=out, **{"n_resamples": 300, **given})
        return len(kept)

    assert kept_after_death(models) == 1
    assert kept_after_death(models, n_resamples=500) == 3
    assert kept_after_death(models, interval="bca") == 1
    assert kept_after_death(models, seed=1) == 4
    assert kept_after_death(models, method="pearson") == 4
    assert kept_after_death(lazy(features(64, 2, 2, seed=5)[0])) == 4
    assert kept_after_death(models, resume=False) == 4


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_cluster_gives_the_same_bits(tmp_path, monkeypatch, inline, method):
    monkeypatch.setattr(module, "BLOCK", 48)
    models, brain = map(lazy, features(64, 2, 3))
    given = {"method": method, "ceiling": method != "spearman", **OPTIONS}
    whole = rf.bootstrap_files(models, brain, **given)
    assert_same(rf.bootstrap_files(models, brain, cluster=inline, **given), whole)
    out = tmp_path / "result.h5"
    for cluster in (inline, None):
        with monkeypatch.context() as patch:
            dying(patch, 2)
            with pytest.raises(Killed):
                rf.bootstrap_files(models, brain, cluster=cluster, out=out, **given)
    address = inline.scheduler.address
    assert_same(rf.bootstrap_files(models, brain, cluster=address, out=out, **given), whole)


def test_models_of_one_name_are_called_after_their_files(tmp_path):
    x, y = features(30, 2, 2)
    files = [rf.compute_rdm_file(one, tmp_path / f"{k}.h5") for k, one in zip("ab", x, strict=True)]
    brain = rf.compute_rdms(list(y))
    brain = rf.RDMs.from_vectors(
        brain.vectors, descriptors={"subject": [4, 5], "region": ["V1", "IT"]}
    )
    brain.save(tmp_path / "brain.h5")
    found = rf.bootstrap_files(
        files, tmp_path / "brain.h5", regions="region", subjects="subject", method="pearson",
        n_resamples=100,
    )  # fmt: skip
    assert found.rules == ("a: rdm 0", "b: rdm 0")
    assert found.regions == ("V1", "IT")
    assert found.subject_names == ("4", "5")


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"n_resamples": 99}, InvalidInputError, "n_resamples must be an integer of at least 100"),
        ({"resample": ("voxels",)}, InvalidInputError, "resample must name"),
        ({"resample": "seeds"}, InvalidInputError, "at least 2 seeds in every rule"),
        ({"interval": "wald"}, InvalidInputError, "interval must be one of"),
        ({"method": "kendall"}, InvalidInputError, "method is 'kendall'"),
        ({"ceiling": True}, UnsupportedCaseError, "noise_ceiling_files gives the ceiling"),
        ({"memory_budget": "20MB"}, InvalidInputError, "a bootstrap of 3 RDMs|a pass over 3 RDMs"),
        ({"regions": ["V1"]}, InvalidInputError, "2 labels, one an RDM"),
        ({"subjects": "subject"}, InvalidInputError, "no descriptor 'subject'"),
        (
            {"method": "pearson", "ceiling": True, "regions": ["V1", "IT"]},
            InvalidInputError,
            "at least 2 subjects in every region",
        ),
        ({"out": "result.txt"}, InvalidInputError, "result.txt"),
    ],
)
def test_bad_arguments_are_told_before_any_reading(tmp_path, monkeypatch, changed, error, told):
    models, brain = map(lazy, features(40, 1, 2))

    def read(*_):
        raise AssertionError("work has begun")

    monkeypatch.setattr(type(models[0]), "read_rows", read)
    if "out" in changed:
        changed = {"out": tmp_path / changed["out"]}
    with pytest.raises(error, match=told):
        rf.bootstrap_files(models, brain, **changed)
    assert not list(tmp_path.iterdir())


def test_rdms_of_other_stimuli_and_without_spread_are_refused(tmp_path):
    models, brain = map(lazy, features(40, 1, 2))
    with pytest.raises(InvalidInputError, match="has 41 stimuli and"):
        rf.bootstrap_files(models, lazy(features(41)[1]))
    flat = rf.RDMs.from_vectors(np.ones((1, 780), np.float32))
    flat.save(tmp_path / "flat.h5")
    with pytest.raises(InvalidInputError, match=r"flat.h5: has no spread"):
        rf.bootstrap_files(tmp_path / "flat.h5", brain, method="pearson")


def test_command_line(tmp_path, capsys):
    x, y = features(40, 2, 2)
    a, b = stored(tmp_path, x, "model"), stored(tmp_path, y, "brain")
    out, table = tmp_path / "result.h5", tmp_path / "table.csv"
    command = ["bootstrap", a[0].path, b[0].path, b[1].path, "--more-models", a[1].path,
               "--stream", "-n", 200, "-m", "pearson", "--ceiling", "--rules", "bp,fa",
               "--regions", "V1,V1", "--subjects", "s1,s2", "--out", out,
               "--csv", table]  # fmt: skip
    assert main([str(word) for word in command]) == 0
    assert "Generalises to new stimuli" in capsys.readouterr().out
    given = {"rules": ["bp", "fa"], "regions": ["V1", "V1"], "subjects": ["s1", "s2"]}
    whole = rf.bootstrap_files(
        a, b, method="pearson", n_resamples=200, ceiling=True, **given
    )
    assert_same(rf.BootstrapResult.load(out), whole)
    assert table.read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--more-models", "b.h5"], "--stream is needed by several files"),
        (["brain2.h5"], "--stream is needed by several files"),
        (["--cluster", "local"], "--stream is needed by --cluster"),
        (["--stream", "--mask", "m.npy"], "--stream does not take --mask"),
        (["--stream"], "models.h5"),
    ],
)
def test_command_line_refuses_what_does_not_go_together(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert main(["bootstrap", "models.h5", "brain.h5", *words]) != 0
    assert told in " ".join(capsys.readouterr().err.split())


RUN = """
import sys
import numpy as np, rsafast as rf
x = np.random.default_rng(0).standard_normal((3, 600, 64)).astype(np.float32)
a, *b = map(rf.lazy_rdm, x)
rf.bootstrap_files(a, b, n_resamples=2_000, resample=("stimuli", "subjects"),
                   out=sys.argv[1] + "/result.h5")
"""


@pytest.mark.slow
def test_killed_at_random_moments_the_result_is_the_same(tmp_path):
    kills = int(os.environ.get("RSAFAST_KILLS", "2"))
    kill_at_random(RUN, tmp_path, kills, window=(0.3, 0.9), seed=4)
    whole, found = (
        rf.BootstrapResult.load(tmp_path / name / "result.h5") for name in ("whole", "killed")
    )
    assert_same(found, whole)
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["result.h5"]


PEAK = """
import numpy as np, rsafast as rf
n, rdms, budget, method = [*map(int, sys.argv[1:4]), sys.argv[4]]
rng = np.random.default_rng(0)
x = rng.standard_normal((2 * rdms, n, 16)).astype(np.float32)
small = rng.standard_normal((2, 60, 16)).astype(np.float32)
rf.bootstrap_files(*map(rf.lazy_rdm, small), method=method, n_resamples=100)
sources = [rf.lazy_rdm(features, name=str(i)) for i, features in enumerate(x)]
with measured():
    rf.bootstrap_files(sources[:rdms], sources[rdms:], method=method, n_resamples=260,
                       memory_budget=budget)
"""


@pytest.mark.slow
@needs_peaks
def test_memory_keeps_to_the_budget_over_random_plans():
    rng = np.random.default_rng(5)
    ran = 0
    for _ in range(int(os.environ.get("RSAFAST_PLANS", "3"))):
        n, rdms = int(rng.integers(300, 2500)), int(rng.integers(1, 4))
        budget, method = int(rng.uniform(1e8, 8e8)), str(rng.choice(METHODS))
        peak = peak_of(PEAK, n, rdms, budget, method)
        if peak is None:
            continue
        ran += 1
        share = peak / budget
        print(f"{method} of {2 * rdms} RDMs, n = {n}: {share:.2f} of {budget / 1e6:.0f} MB")
        assert share <= 1.1, (n, rdms, budget, method)
    assert ran
