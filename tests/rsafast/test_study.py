"""Studies from one file: clear errors with lines, nothing done twice, the same after any death."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from itertools import product

import numpy as np
import pandas as pd
import pytest
from blank_figures import leave_figures_blank
from scipy.stats import rankdata, spearmanr

import rsafast as rf
from rsafast.cli import main
from rsafast.errors import InvalidInputError
from rsafast.study.embedded import digit_images, simulated_brain
from rsafast.study.published import published_table
from rsafast.study.recipe import RECIPES, parse_recipe, read_recipe
from rsafast.study.stage import Stage, file_hash, run_stages

TINY = """\
name = "tiny"

[networks]
data = "digits"
rules = ["untrained", "bp", "stdp"]
seeds = [0, 1]
epochs = 2
checkpoints = [0, 1, 2]
n_train = 128

[stimuli]
images = "digits"
sizes = [8]
layers = ["conv1", "fc1"]

[brain]
source = "simulated"

[comparison]
pairs = { early = "conv1", late = "fc1" }

[inference]
permutations = 1000
resamples = 200
"""
ANALYSES = ("alignment", "permutation", "trajectory", "differences", "partial")


# ---------------------------------------------------------------- the file


def test_every_recipe_of_the_package_is_read():
    names = [item.name.removesuffix(".toml") for item in RECIPES.iterdir()]
    assert "quick" in names
    for name in names:
        assert read_recipe(name)[0].name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("epochs = 2", "epoch = 2"), r"line 7: networks\.epoch: extra inputs are not permitted"),
        (("epochs = 2", 'epochs = "two"'), r"line 7: networks\.epochs: .*valid integer"),
        (("seeds = [0, 1]", "seeds = [0, 1.5]"), r"line 6: networks\.seeds: .*integer"),
        (("checkpoints = [0, 1, 2]", "checkpoints = [1, 2]"), "line 3: networks: .*add 0 to"),
        (('source = "simulated"', 'source = "nowhere"'), "line 16: brain: .*simulated"),
        (('source = "simulated"', 'source = "nsd"'), r"line 16: brain\.path: field required"),
        (('source = "simulated"\n', 'source = "simulated"\nseed = "x"\n'), r"line 18: brain\.seed"),
        (('images = "digits"', 'images = "a.zip"'), "line 1: the study: .*go together"),
        (('early = "conv1"', 'early = "conv7"'), "names the layer 'conv7', not in layers"),
        (("[inference]", '[comparison.extra]\nx = 1\n[inference]'), r"line 22: comparison\.extra"),
        (("resamples = 200", "resamples = 2"), r"line 24: inference\.resamples: .*100"),
        (("pairs =", 'method = "cosinus"\npairs ='), "line 20: .*cosinus"),
        (("pairs =", 'mask = "cross-run"\npairs ='), "needs runs, which source 'simulated'"),
        (("[networks]", "[networks"), "is no TOML: .*line 3"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_the_line_and_the_key(change, said):
    assert change[0] in TINY
    with pytest.raises(InvalidInputError, match=f"^my.toml: .*{said}"):
        parse_recipe(TINY.replace(*change), "my.toml")


def test_a_recipe_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(InvalidInputError, match=r"no such recipe.*quick"):
        read_recipe("quickly")
    with pytest.raises(InvalidInputError, match=r"absent\.toml: cannot be read"):
        read_recipe(tmp_path / "absent.toml")


# ---------------------------------------------------------------- stages


def counting(name, settings, needs=(), calls=None):
    def work(folder, needed):
        calls.append(name)
        total = sum(int((path / "n").read_text()) for path in needed.values())
        (folder / "n").write_text(str(total + settings))

    return Stage(name, work, {"n": settings}, tuple(needs))


def chain(numbers, calls):
    a = counting("a", numbers[0], calls=calls)
    b = counting("b", numbers[1], [a], calls)
    c = counting("c", numbers[2], calls=calls)
    return [a, b, c, counting("d", numbers[3], [b, c], calls)]


def test_what_has_not_changed_is_kept_and_what_depends_on_a_change_is_not(tmp_path):
    calls, said = [], []
    folders = run_stages(chain([1, 2, 3, 4], calls), tmp_path, said.append)
    assert calls == ["a", "b", "c", "d"]
    assert (folders["d"] / "n").read_text() == "10"
    run_stages(chain([1, 2, 3, 4], calls), tmp_path, said.append)
    assert len(calls) == 4
    assert said[-1] == "[4/4] d: kept, nothing it depends on has changed"
    folders = run_stages(chain([1, 2, 30, 4], calls), tmp_path, said.append)
    assert calls[4:] == ["c", "d"]
    assert (folders["d"] / "n").read_text() == "37"
    run_stages(chain([1, 2, 3, 4], calls), tmp_path, said.append)  # and back
    assert len(calls) == 6
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert sum("made in" in line for line in log) == 6


def test_a_stage_that_failed_is_run_again(tmp_path):
    calls = []

    def fail_once(folder, needs):
        calls.append(folder)
        if len(calls) == 1:
            raise InvalidInputError("once")

    stage = [Stage("x", fail_once)]
    with pytest.raises(InvalidInputError):
        run_stages(stage, tmp_path, str)
    assert not stage[0].is_done(tmp_path)
    run_stages(stage, tmp_path, str)
    assert stage[0].is_done(tmp_path)
    done = json.loads((stage[0].folder(tmp_path) / "done.json").read_text())
    assert done["stage"] == "x"
    assert "rsafast" in str(done["provenance"])


def test_a_key_depends_on_name_version_settings_and_needs():
    a, b = Stage("a", print, {"x": 1}), Stage("a", print, {"x": 2})
    keys = {
        s.key for s in (a, b, Stage("b", print, {"x": 1}), Stage("a", print, {"x": 1}, (b,)),
                        Stage("a", print, {"x": 1}, version=2))
    }  # fmt: skip
    assert len(keys) == 5
    assert Stage("a", str, {"x": 1}).key == a.key


def test_the_hash_of_a_folder_is_that_of_names_and_contents(tmp_path):
    (tmp_path / "f" / "sub").mkdir(parents=True)
    (tmp_path / "f" / "a").write_text("1")
    (tmp_path / "f" / "sub" / "b").write_text("2")
    first = file_hash(tmp_path / "f")
    (tmp_path / "f").rename(tmp_path / "g")
    assert file_hash(tmp_path / "g") == first
    (tmp_path / "g" / "a").write_text("2")
    assert file_hash(tmp_path / "g") != first
    with pytest.raises(InvalidInputError, match="cannot be read"):
        file_hash(tmp_path / "nothing")


@pytest.mark.slow
def test_embedded_images_and_brains_are_of_the_same_stimuli():
    images, labels = digit_images()
    brain = simulated_brain(0)
    assert images.shape == (100, 8, 8, 3)
    assert images.dtype == np.uint8
    assert list(brain.labels) == labels
    assert len(set(brain.descriptors["region"].tolist())) == 4
    assert not np.array_equal(brain.vectors, simulated_brain(1).vectors)


# ---------------------------------------------------------------- a study, whole


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        leave_figures_blank(patch)
        assert main(["study", str(folder / "tiny.toml"), "--out", str(folder / "out"), "-q"]) == 0
    return folder


def tables(root):
    return {path.name: path.read_bytes() for path in sorted((root / "tables").glob("*.csv"))}


@pytest.mark.slow
def test_tables_agree_with_the_library_on_what_the_stages_left(finished):
    root = finished / "out"
    stages = {path.name.rsplit("-", 1)[0]: path for path in (root / "stages").iterdir()}
    brain = rf.RDMs.load(stages["brain"] / "brain.h5")
    models = rf.RDMs.load(stages["rdms-bp-8"] / "models.h5")
    table = pd.read_csv(root / "tables" / "alignment-8.csv")
    own = table[table["rule"].isin(["bp", "bp-control"])]
    scores = rf.compare(models, brain, "spearman")
    np.testing.assert_allclose(own["similarity"], scores.ravel(), rtol=1e-14)
    assert len(own) == 2 * 2 * 3 * 2 * 24  # variants, seeds, epochs, layers, brain RDMs
    assert set(table["rule"]) == {"untrained", "bp", "bp-control", "stdp", "stdp-control"}
    one = own.query("rule == 'bp' and seed == 1 and epoch == 2 and layer == 'fc1'")
    network = models[{"rule": "bp", "seed": 1, "epoch": 2, "layer": "fc1"}]
    np.testing.assert_allclose(one["similarity"], rf.compare(network, brain)[0], rtol=1e-14)
    curves = pd.read_csv(root / "tables" / "trajectory-8.csv")
    mean = own.groupby(["rule", "epoch", "layer", "region"])["similarity"].mean()
    for row in curves[curves["rule"] == "bp"].itertuples():
        assert row.estimate == pytest.approx(mean[row.rule, row.epoch, row.layer, row.region])
    differences = pd.read_csv(root / "tables" / "differences-8.csv")
    pairs = set(zip(differences["rule_a"], differences["rule_b"], strict=True))
    assert pairs == {("bp", "bp-control"), ("bp", "untrained"), ("stdp", "stdp-control"),
                     ("stdp", "untrained"), ("bp", "stdp")}  # fmt: skip
    chosen = differences.query("rule_a == 'bp' and rule_b == 'untrained' and region == 'late'")
    last = table.query("layer == 'fc1' and region == 'late'")
    expected = (last.query("rule == 'bp' and epoch == 2")["similarity"].mean()
                - last.query("rule == 'untrained'")["similarity"].mean())  # fmt: skip
    np.testing.assert_allclose(chosen["estimate"], expected, atol=1e-12)
    labels = differences[differences["rung"] == "labels"]
    np.testing.assert_allclose(labels["p_adjusted"], rf.adjust_p(labels["p_value"], "holm"))
    partial = pd.read_csv(root / "tables" / "partial-8.csv")
    pixels = rf.RDMs.load(stages["pixels-8"] / "models.h5")
    mean = models[{"rule": "bp", "epoch": 2, "layer": "conv1"}].mean()
    early = brain[{"region": "early"}].mean()
    row = partial.query("rule == 'bp' and layer == 'conv1' and region == 'early'").iloc[0]
    assert row["partial"] == pytest.approx(rf.compare(mean, early, covariates=pixels)[0, 0])
    assert row["similarity"] == pytest.approx(rf.compare(mean, early)[0, 0])
    assert {"seconds", "cpu_seconds"}.isdisjoint(pd.read_csv(root / "tables" / "drift.csv"))


@pytest.mark.slow
def test_a_changed_line_runs_what_depends_on_it_and_nothing_else(
    finished, tmp_path, capsys, monkeypatch
):
    leave_figures_blank(monkeypatch)
    changed = tmp_path / "changed.toml"
    out = ["--out", str(finished / "out")]
    before = tables(finished / "out")
    for old, new, again in (
        ("resamples = 200", "resamples = 220", {"trajectory 8", "differences 8"}),
        ('method = "spearman"', 'method = "pearson"',
         {"ceilings", *(f"{name} 8" for name in ANALYSES)}),
    ):  # fmt: skip
        text = TINY.replace("[comparison]\n", '[comparison]\nmethod = "spearman"\n')
        changed.write_text(text.replace(old, new))
        capsys.readouterr()
        assert main(["study", str(changed), *out, "--resume"]) == 0
        lines = capsys.readouterr().err.splitlines()
        made = {line.split("] ")[1].split(": made")[0] for line in lines if ": made in" in line}
        assert made == again
        kept = [line for line in lines if "kept, nothing it depends on" in line]
        assert len(kept) == 19 - len(again)
    assert main(["study", str(finished / "tiny.toml"), *out, "--resume", "-q"]) == 0
    assert tables(finished / "out") == before


@pytest.mark.slow
def test_a_folder_that_holds_a_study_is_not_taken_by_accident(finished, capsys):
    command = ["study", str(finished / "tiny.toml"), "--out", str(finished / "out")]
    assert main(command) == 2
    assert "holds a study already; go on with it with resume (--resume)" in capsys.readouterr().err
    assert main([*command, "--dry-run"]) == 0
    assert "0 of 19 stages to run" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_study_killed_at_any_moment_resumes_to_the_same_tables(finished, tmp_path):
    rng = np.random.default_rng(int(os.environ.get("RSAFAST_KILLS_SEED", "0")))
    root = tmp_path / "out"
    call = "import sys; from rsafast.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", call, "study", str(finished / "tiny.toml"),
               "--out", str(root), "--resume", "-q"]  # fmt: skip
    kills = 0
    for _ in range(int(os.environ.get("RSAFAST_KILLS", "3"))):
        process = subprocess.Popen(command)
        try:
            process.wait(rng.uniform(2.0, 12.0))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills
    started = time.monotonic()
    subprocess.run(command, check=True)
    assert time.monotonic() - started < 600
    assert tables(root) == tables(finished / "out")


# ---------------------------------------------------------------- brains of other kinds


def test_what_does_not_fit_is_said_before_anything_is_trained(tmp_path, capsys):
    rdms = rf.compute_rdms(np.random.default_rng(0).normal(size=(3, 12, 5)))
    rdms.save(tmp_path / "v1.h5")
    for number in (12, 13):
        np.save(tmp_path / f"{number}.npy", np.zeros((number, 8, 8, 3), np.uint8))
    text = TINY.replace('images = "digits"', 'images = "12.npy"').replace(
        'source = "simulated"', 'source = "rdms"\nfiles = { early = "v1.h5", late = "v1.h5" }'
    )
    cases = [
        (text.replace("12.npy", "13.npy"), "12 stimuli and no labels, the images are 13"),
        (text.replace("late = ", "lately = ", 1), "names the region 'late'; the brain has early"),
        (text.replace('early = "v1.h5"', 'early = "v2.h5"'), "v2.h5"),
        (text.replace("layers = ", "# "), None),
    ]
    for number, (content, said) in enumerate(cases[:3]):
        (tmp_path / "s.toml").write_text(content)
        out = tmp_path / f"out{number}"
        assert main(["study", str(tmp_path / "s.toml"), "--out", str(out), "-q"]) == 2
        assert said in capsys.readouterr().err
        assert not list(out.glob("stages/train*"))
    (tmp_path / "s.toml").write_text(
        cases[3][0].replace('early = "conv1"', 'early = "conv9"', 1)
    )
    assert main(["study", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o"), "-q"]) == 2
    assert "cnn3 has no layer 'conv9'; it has conv1, conv2" in capsys.readouterr().err


# ---------------------------------------------------------------- as published


@pytest.fixture(scope="module")
def networks():
    """Rules a and b, 4 seeds, 3 epochs, 2 layers, of 20 stimuli; 3 subjects in one region."""
    rng = np.random.default_rng(3)
    brain_points = rng.normal(size=(20, 6))
    cells = list(product("ab", range(4), (0, 1, 5), "xy"))
    points = [
        rng.normal(size=(20, 6)) + (e / 5) * (k == "y") * brain_points for _, _, e, k in cells
    ]
    names = ("rule", "seed", "epoch", "layer")
    models = rf.compute_rdms(np.stack(points)).with_descriptors(
        {name: [cell[i] for cell in cells] for i, name in enumerate(names)}
    )
    brain = rf.compute_rdms(brain_points + rng.normal(size=(3, 20, 6)))
    return models, brain.with_descriptors({"region": ["V1"] * 3, "subject": [1, 2, 3]})


def test_published_practices_are_what_they_say(networks):
    models, brain = networks
    table = published_table(models, brain, {"V1": "y"}, [("a", "b")], seed=0).set_index(
        ["practice", "rule_a"]
    )
    mean_brain = brain.mean()
    last = {r: models[{"rule": r, "epoch": 5, "layer": "y"}].mean() for r in "ab"}
    score = {r: rf.compare(last[r], mean_brain)[0, 0] for r in "ab"}
    for r in "ab":
        assert table.loc[("score with the mean RDM", r), "estimate"] == pytest.approx(score[r])
    shuffled = table.loc[("entries shuffled", "a")]
    assert shuffled["estimate"] == pytest.approx(score["a"] - score["b"])
    ranks = [rankdata(m.vectors[0]) for m in (last["a"], last["b"], mean_brain)]
    rng = np.random.default_rng(9)
    null = [spearman_difference(ranks[0], ranks[1], rng.permutation(ranks[2])) for _ in range(4000)]
    expected = np.mean(np.abs(null) >= abs(score["a"] - score["b"]))
    assert shuffled["p_value"] == pytest.approx(expected, abs=0.06)
    low, high = table.loc[("entries bootstrapped", "a"), ["low", "high"]]
    # As if 190 entries were independent: Fisher's interval.
    z, half = np.arctanh(score["a"]), 1.96 / np.sqrt(187)
    np.testing.assert_allclose([low, high], np.tanh([z - half, z + half]), atol=0.05)


def spearman_difference(a, b, brain):
    return np.corrcoef(a, brain)[0, 1] - np.corrcoef(b, brain)[0, 1]


def test_best_layers_are_chosen_on_the_data_that_test_them(networks):
    models, brain = networks
    table = published_table(models, brain, {"V1": "y"}, [], seed=0)
    row = table.query("practice == 'best layer, sign flips' and rule_a == 'a'").iloc[0]
    scores = rf.compare(models[{"rule": "a"}], brain).mean(axis=1).reshape(4, 3, 2)
    means = scores.mean(axis=0)
    first, last = means[0].argmax(), means[2].argmax()
    assert row["layer"] == f"{'xy'[first]} to {'xy'[last]}"
    change = scores[:, 2, last] - scores[:, 0, first]
    assert row["estimate"] == pytest.approx(change.mean())
    patterns = np.array(np.meshgrid(*[[1, -1]] * 4)).reshape(4, -1).T
    p = np.mean(np.abs(patterns @ change) >= abs(change.sum()) - 1e-12)
    assert row["p_value"] == pytest.approx(p)
    assert row["p_value"] >= 2 / 16
    trend = table.query("practice == 'best layer, asymptotic trend' and rule_a == 'a'").iloc[0]
    curve = means.max(axis=1)
    assert trend["p_value"] == pytest.approx(spearmanr([0, 1, 5], curve).pvalue)
    assert table["wrong"].str.len().min() > 20


def test_a_control_that_never_changes_has_no_trend(networks):
    models, brain = networks
    before = models[{"rule": "a", "epoch": 0}]
    same = [before.with_descriptors({"epoch": [e] * before.n_rdms}) for e in (0, 1, 5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = published_table(rf.RDMs.concat(same), brain, {"V1": "y"}, [], seed=0)
    trend = table.query("practice == 'best layer, asymptotic trend'").iloc[0]
    assert trend["estimate"] == 0
    assert np.isnan(trend["p_value"])
