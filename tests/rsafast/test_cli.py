import json
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.stats import rankdata
from synthetic_results import make_result

from rsafast.cli import main
from rsafast.cli._common import parse_memory
from rsafast.errors import InvalidInputError
from rsafast.permutation.result import PermutationResult
from rsafast.rdms import RDMs

COMMANDS = ["demo", "rdm", "rank", "compare", "test", "ceiling", "doctor"]


@pytest.fixture
def files(tmp_path):
    """Two models and two brain RDMs of 12 stimuli; the first of each side are alike."""
    generator = np.random.default_rng(0)
    models = generator.random((2, 66))
    brain = np.stack([models[0] + 0.1 * generator.random(66), generator.random(66)])
    RDMs(models, names=["V1", "late layer"]).save(tmp_path / "models.h5")
    RDMs(brain, names=["EVC", "IT"]).save(tmp_path / "brain.h5")
    return tmp_path


def run_test(files, *options: str) -> int:
    return main(["test", str(files / "models.h5"), str(files / "brain.h5"), "-n", "3000", *options])


def left_in(folder) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"models.h5", "brain.h5"}


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    assert main([]) == 0
    assert capsys.readouterr().out == text


def test_help_does_not_import_the_heavy_libraries():
    code = (
        "import sys; from rsafast.cli import main; main(['--help']); "
        "print([m for m in ('scipy', 'pandas', 'matplotlib', 'h5py') if m in sys.modules])"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    # About 0.4 s on an idle machine; the bound leaves room for a busy one.
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "argv",
    [
        ["tset"],
        ["test"],
        ["test", "only-one.h5"],
        ["test", "a.h5", "b.h5", "--permutations", "none"],
        ["test", "a.h5", "b.h5", "-n", "0"],
        ["test", "a.h5", "b.h5", "--colour"],
        ["test", "absent.h5", "absent.h5"],
        ["test", "a.h5", "b.h5", "--memory", "lots"],
        ["test", "a.h5", "b.h5", "--out", "result.pkl"],
        ["rdm", "absent.npy", "-o", "out.h5"],
        ["compare", "absent.h5", "absent.h5"],
    ],
    ids=" ".join,
)
def test_misuse_is_one_line_and_code_2(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "name"), [("--out", "r.h5"), ("--csv", "r.csv")])
def test_an_unwritable_output_is_found_before_the_work(option, name, files, capsys, monkeypatch):
    def never(*_args, **_options):
        raise AssertionError("worked before the outputs were checked")

    monkeypatch.setattr("rsafast.permutation.api.permutation_test", never)
    assert run_test(files, option, str(files / "absent" / name)) == 2
    assert "absent" in capsys.readouterr().err


def test_test_writes_what_it_prints(files, capsys):
    out, csv, report = files / "r.h5", files / "r.csv", files / "r.html"
    assert run_test(files, "--out", str(out), "--csv", str(csv), "--report", str(report)) == 0
    captured = capsys.readouterr()
    result = PermutationResult.load(out)
    assert result.model_names == ("V1", "late layer")
    assert result.brain_names == ("EVC", "IT")
    assert f"{result.statistic[0, 0]:.4f}" in captured.out
    assert f"{result.p_value[0, 0]:.3g}" in captured.out
    for phrase in ("max-T", "BH", "MC error", "unrelated", f"{result.n_permutations:,}"):
        assert phrase in captured.out
    assert "wrote" in captured.err
    assert "wrote" not in captured.out
    assert csv.read_text().count("\n") == 5
    assert "late layer" in report.read_text(encoding="utf-8")
    assert left_in(files) == {"r.h5", "r.csv", "r.html"}


def test_json_is_all_of_stdout_and_equals_the_result(files, capsys):
    assert run_test(files, "--json", "--out", str(files / "r.h5")) == 0
    printed = json.loads(capsys.readouterr().out)
    result = PermutationResult.load(files / "r.h5")
    assert printed["n_permutations"] == result.n_permutations
    assert [pair["p_value"] for pair in printed["pairs"]] == result.p_value.ravel().tolist()
    assert [pair["statistic"] for pair in printed["pairs"]] == result.statistic.ravel().tolist()


def test_same_seed_same_p(files, capsys):
    printed = []
    for _ in range(2):
        assert run_test(files, "--json", "--seed", "7") == 0
        printed.append(json.loads(capsys.readouterr().out)["pairs"])
    assert printed[0] == printed[1]


def test_interrupt_in_the_work_writes_nothing(files, capsys, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("rsafast.permutation.api.permutation_test", interrupt)
    assert run_test(files, "--out", str(files / "r.h5"), "--csv", str(files / "r.csv")) == 130
    assert capsys.readouterr().err.strip() == "interrupted; nothing was written"
    assert left_in(files) == set()


def test_interrupt_in_the_writing_leaves_whole_files_only(files, capsys, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("rsafast.report.html._content", interrupt)
    out, report = files / "r.h5", files / "r.html"
    assert run_test(files, "--out", str(out), "--report", str(report)) == 130
    assert capsys.readouterr().err.strip().endswith(f"interrupted; only {out} was written")
    assert left_in(files) == {"r.h5"}
    PermutationResult.load(out)


def test_interrupt_in_the_middle_of_a_file_leaves_none(files, capsys, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("rsafast.io.hdf5.write_fields", interrupt)
    assert run_test(files, "--out", str(files / "r.h5")) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert left_in(files) == set()


def test_a_bug_shows_its_traceback(files, monkeypatch):
    def bug(*_args, **_options):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("rsafast.permutation.api.permutation_test", bug)
    with pytest.raises(ZeroDivisionError):
        run_test(files)


def test_options_reach_the_library(files, monkeypatch, capsys):
    seen = {}

    def record(models, brain, **options):
        seen.update(options)
        return make_result()

    monkeypatch.setattr("rsafast.permutation.api.permutation_test", record)
    (files / "blocks.txt").write_text("\n".join("aabbccddeeff"))
    np.save(files / "mask.npy", np.ones(66, dtype=bool))
    options = ["--alternative", "two-sided", "--memory", "500MB", "--tail", "gpd", "--keep-null"]
    options += ["--blocks", str(files / "blocks.txt"), "--mask", str(files / "mask.npy"), "-q"]
    options += ["--covariates", str(files / "models.h5"), "--engine", "direct", "--seed", "5"]
    assert run_test(files, *options, "--method", "kendall", "--device", "cpu") == 0
    assert seen.pop("blocks").tolist() == list("aabbccddeeff")
    assert seen.pop("mask").all()
    assert seen.pop("covariates").n_rdms == 2
    assert seen == {
        "method": "kendall",
        "n_permutations": 3000,
        "alternative": "two-sided",
        "tail": "gpd",
        "engine": "direct",
        "seed": 5,
        "device": "cpu",
        "cluster": None,
        "keep_null": True,
        "memory_budget": 500_000_000,
        "progress": False,
    }


@pytest.mark.parametrize("content", ["2\n" * 66, "x\n" * 66, ""], ids=["twos", "words", "empty"])
def test_rejects_a_mask_that_is_none(files, content, capsys):
    (files / "mask.csv").write_text(content)
    assert run_test(files, "--mask", str(files / "mask.csv")) == 2
    assert "mask" in capsys.readouterr().err


def test_compare_prints_and_writes_the_library_numbers(files, capsys):
    from rsafast.comparison import compare

    argv = ["compare", str(files / "models.h5"), str(files / "brain.h5")]
    assert main([*argv, "--json", "--csv", str(files / "c.csv")]) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = compare(RDMs.load(files / "models.h5"), RDMs.load(files / "brain.h5"))
    assert printed["similarity"] == expected.tolist()
    assert (files / "c.csv").read_text().splitlines()[0] == "model,EVC,IT"
    assert main(argv) == 0
    assert f"{expected[0, 0]:.4f}" in capsys.readouterr().out


def test_rdm_computes_and_saves(tmp_path, capsys):
    features = np.random.default_rng(0).normal(size=(6, 9))
    np.save(tmp_path / "features.npy", features)
    (tmp_path / "labels.txt").write_text("\n".join("abcdef"))
    argv = ["rdm", str(tmp_path / "features.npy"), "-o", str(tmp_path / "out.h5")]
    assert main([*argv, "--labels", str(tmp_path / "labels.txt")]) == 0
    rdms = RDMs.load(tmp_path / "out.h5")
    assert list(rdms.labels) == list("abcdef")
    expected = 1 - np.corrcoef(features)[np.triu_indices(6, 1)]
    np.testing.assert_allclose(rdms.vectors[0], expected, rtol=1e-5, atol=1e-6)
    assert "wrote" in capsys.readouterr().err


def test_rdm_and_rank_on_disk_are_those_in_memory(tmp_path, capsys):
    features = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32)
    np.save(tmp_path / "it.npy", features)
    npy, rdm, ranks, whole = (
        str(tmp_path / name) for name in ("it.npy", "it.h5", "ranks.h5", "whole.h5")
    )
    assert main(["rdm", npy, "-o", rdm, "--store", "float32", "--memory", "200MB"]) == 0
    assert "1 RDM of 60 stimuli, correlation, float32" in capsys.readouterr().err
    assert main(["rdm", npy, "-o", whole]) == 0
    values = RDMs.load(whole).vectors
    np.testing.assert_array_equal(RDMs.load(rdm).vectors, values)
    capsys.readouterr()
    assert main(["rank", rdm, "-o", ranks, "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(RDMs.load(ranks).vectors[0], rankdata(values[0]))
    assert main(["rank", rdm, "-o", ranks, "--store", "uint16"]) == 0
    assert "ranks of 1,770 pairs, uint16" in capsys.readouterr().err
    assert main(["rdm", npy, "-o", rdm, "--memory", "200MB"]) == 2
    assert "--store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2GB", 2_000_000_000),
        ("500MB", 500_000_000),
        ("1.5 GiB", 1_610_612_736),
        ("2g", 2_000_000_000),
        ("3000000", 3_000_000),
        (None, None),
    ],
)
def test_parse_memory(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "two", "-1GB", "1 XB", "1e9", "5KB", "nan"])
def test_parse_memory_rejects(text):
    with pytest.raises(InvalidInputError, match="--memory"):
        parse_memory(text)


def test_doctor_reports_versions_and_backends(capsys):
    assert main(["doctor", "--json", "--no-speed"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["required"]["numpy"] == np.__version__
    assert facts["backends"]["instruction_set_in_use"] in facts["backends"]["instruction_sets"]
    assert isinstance(facts["backends"]["cuda"], bool)
    assert facts["backends"]["cuda_reason"]
    assert main(["doctor", "--no-speed"]) == 0
    assert "CUDA" in capsys.readouterr().out


@pytest.mark.slow
def test_doctor_measures(capsys):
    assert main(["doctor", "--json"]) == 0
    speed = json.loads(capsys.readouterr().out)["speed"]
    assert all(value > 0 for value in speed.values())
    assert len(speed) == 4


def test_demo_passes_its_options_on(tmp_path, monkeypatch):
    seen = []

    def record(out, n_permutations, *, seed, measure_peer, **_):
        seen.append((out, n_permutations, seed, measure_peer))

    monkeypatch.setattr("rsafast.demo.run_demo", record)
    monkeypatch.setattr("rsafast.cli.demo.print_demo", lambda *_: None)
    options = ["--out", str(tmp_path / "d"), "-n", "500", "--seed", "3", "--no-peer"]
    assert main(["demo", *options]) == 0
    assert seen == [(tmp_path / "d", 500, 3, False)]


def test_compare_takes_a_mask_and_needs_it_for_missing_pairs(files, capsys):
    from rsafast.comparison import compare

    models = RDMs.load(files / "models.h5")
    values = np.random.default_rng(1).random((1, 66))
    keep = np.ones(66, dtype=bool)
    keep[[3, 40]] = False
    values[0, ~keep] = np.nan
    np.save(files / "brain.npy", values)
    np.save(files / "mask.npy", keep)
    argv = ["compare", str(files / "models.h5"), str(files / "brain.npy"), "--json"]
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*argv, "--mask", str(files / "mask.npy")]) == 0
    expected = compare(models, RDMs.from_vectors(values, missing="allow"), mask=keep)
    assert json.loads(capsys.readouterr().out)["similarity"] == expected.tolist()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rsafast ")


def test_missing_pairs_need_a_mask(files, capsys, monkeypatch):
    seen = []

    def record(models, brain, **options):
        seen.append(models)
        return make_result()

    monkeypatch.setattr("rsafast.permutation.api.permutation_test", record)
    values = np.random.default_rng(1).random((2, 66))
    values[0, 5] = np.nan
    np.save(files / "mask.npy", ~np.isnan(values[0]))
    np.savez(files / "models.npz", a=values)
    argv = ["test", str(files / "models.npz"), str(files / "brain.h5"), "-q"]
    assert main(argv) == 2
    assert "models.npz" in capsys.readouterr().err
    assert main([*argv, "--mask", str(files / "mask.npy")]) == 0
    assert np.isnan(seen[0].vectors[0, 5])
