"""Runs that were trained elsewhere: the same networks as in their files, whatever wrote them."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rsafast_kernels.errors import InvalidInputError
from rsafast_training import published
from rsafast_training.batchnorm import measured_statistics
from rsafast_training.checkpoints import find_checkpoints, metrics_table, read_run
from rsafast_training.config import TrainConfig
from rsafast_training.features import Checkpointed, extract_features
from rsafast_training.imported import find_weights, import_run, weights_hash
from rsafast_training.models import build_model
from rsafast_training.models.resnet50 import ResNet50
from rsafast_training.stimuli import IMAGENET_MEAN, IMAGENET_STD, Preprocess, read_stimuli
from rsafast_training.trainer import train
from torch import Tensor

from rsafast.cli import main
from rsafast.study.pipeline import study_stages
from rsafast.study.recipe import parse_recipe
from rsafast.study.report.methods import recipe_text
from rsafast.study.report.sections.learning import parts_of

SMALL = {"blocks": (1, 1, 1, 1), "width": 2}
STEP = Preprocess(32, mean=IMAGENET_MEAN, std=IMAGENET_STD)
PATTERN = "{rule}/seed-{seed}/epoch-{epoch:02d}.pth"
SEEDS, EPOCHS = (0, 3), (0, 1, 5)
State = dict[str, Tensor]


def state_of(seed: int, epoch: int, model: str = "resnet50", **options: Any) -> State:
    """A network of 7 classes with what `epoch` epochs could have made of it."""
    state = build_model(model, [seed], 7, **options).seed_state(0)
    draws = torch.Generator().manual_seed(100 * seed + epoch)
    for name, tensor in state.items() if epoch else ():
        if tensor.is_floating_point():
            moved = 0.1 * torch.rand(tensor.shape, generator=draws)
            tensor.add_(moved if name.endswith("running_var") else moved - 0.05)
        else:
            tensor.fill_(40 * epoch)
    return state


def saved(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture
def pattern(tmp_path: Path) -> Path:
    """Checkpoints of two seeds at three epochs."""
    for seed in SEEDS:
        for epoch in EPOCHS:
            state = state_of(seed, epoch, **SMALL)
            saved(tmp_path / f"bp/seed-{seed}/epoch-{epoch:02d}.pth", {"model": state, "epoch": 1})
    return tmp_path / PATTERN


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (70, 40, 32, 3), np.uint8))
    return path


def imported_run(pattern: Path, out: Path, **changes: Any) -> Path:
    asked: dict[str, Any] = {
        "rule": "bp", "model": "resnet50", "seeds": SEEDS, "checkpoints": EPOCHS,
        "image_size": 32, "options": SMALL,
    }  # fmt: skip
    return import_run(pattern, out, **asked | changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.*"))}


# ---- the same networks -------------------------------------------------------------------------


@pytest.mark.slow
def test_features_are_those_of_the_published_loader(
    pattern: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stimuli = read_stimuli(images, order=["00000", "00001", "00002"])
    found = find_checkpoints(imported_run(pattern, tmp_path / "runs"))
    assert [(c.seed, c.epoch) for c in found] == [(s, e) for s in SEEDS for e in EPOCHS]
    monkeypatch.setattr(
        "rsafast_training.models.resnet50.ResNet50", lambda: ResNet50(1, 7, **SMALL)
    )
    for checkpoint in found:
        loaded = Checkpointed.load(checkpoint)
        weights = str(pattern).format(rule="bp", seed=checkpoint.seed, epoch=checkpoint.epoch)
        network = published.load_network("resnet50", weights)
        step = loaded.preprocess(Preprocess(32))
        assert step == STEP
        ours = extract_features(loaded.model, stimuli, preprocess=step)
        theirs = extract_features(network.model, stimuli, preprocess=STEP)
        assert list(ours) == list(network.layers)
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def _bare(state: State) -> Any:
    return state


def _of_examples(state: State) -> Any:
    return {"epoch": 5, "arch": "resnet50", "best_acc1": torch.tensor(1.0),
            "state_dict": {f"module.{name}": value for name, value in state.items()}}  # fmt: skip


def _of_references(state: State) -> Any:
    options = argparse.Namespace(lr=0.1, model="resnet50", lr_milestones=[30, 60])
    optimizer = {
        "state": {0: {"momentum_buffer": torch.ones(2)}},
        "param_groups": [{"lr": 0.1, "momentum": 0.9, "nesterov": False, "params": [0]}],
    }
    schedule = {"milestones": Counter([30, 60]), "gamma": 0.1, "last_epoch": 4, "_last_lr": [0.1]}
    return {"model": state, "optimizer": optimizer, "lr_scheduler": schedule, "epoch": 4,
            "args": options, "model_ema": state}  # fmt: skip


def _old(state: State) -> Any:
    return {name: value for name, value in state.items() if "num_batches" not in name}


@pytest.mark.parametrize("form", [_bare, _of_examples, _of_references, _old])
def test_reads_what_training_scripts_write(form: Callable[[State], Any], tmp_path: Path) -> None:
    state = state_of(1, 5, **SMALL)
    saved(tmp_path / "5.pth", form(state))
    run = imported_run(tmp_path / "{epoch}.pth", tmp_path / "runs", seeds=[1], checkpoints=[5])
    ours = find_checkpoints(run)[0].load().seed_state(0)
    assert all(torch.equal(ours[n], state[n]) for n in state if "num_batches" not in n)


@pytest.mark.parametrize(("model", "options"), [
    ("cnn3", {}), ("cnn3", {"batch_norm": False}), ("vgg5", {}),
])  # fmt: skip
def test_other_models_are_read_with_and_without_batch_norm(
    model: str, options: dict[str, Any], tmp_path: Path
) -> None:
    state = state_of(0, 5, model, image_size=16, **options)
    saved(tmp_path / "5.pth", state)
    run = import_run(tmp_path / "{epoch}.pth", tmp_path / "runs", rule="own-rule", model=model,
                     seeds=[0], checkpoints=[5], image_size=16)  # fmt: skip
    (checkpoint,) = find_checkpoints(run, controls=True)
    ours = checkpoint.load().seed_state(0)
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[name], state[name]) for name in state)
    normed = any("running_mean" in name for name in state)
    assert checkpoint.info.batch_norm == ("loader" if normed else "none")
    assert checkpoint.info.classes == 7


# ---- controls and drift ------------------------------------------------------------------------


@pytest.mark.slow
def test_controls_have_statistics_of_the_untrained_network(
    pattern: Path, images: Path, tmp_path: Path
) -> None:
    run = imported_run(pattern, tmp_path / "runs", control_images=images)
    found = find_checkpoints(run, controls=True)
    assert [c.control for c in found] == [False, True] * 6
    control = next(c for c in found if c.control and (c.seed, c.epoch) == (3, 5)).load()
    untrained = ResNet50(1, 7, **SMALL)
    untrained.load_published(state_of(3, 0, **SMALL))
    (pixels,) = read_stimuli(images).pixels([STEP])
    x = torch.from_numpy(np.array(pixels[:64])).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    expected = measured_statistics(untrained, [x], momentum=None)
    state = control.state_dict()
    for name, weight in untrained.weights().items():
        assert torch.equal(state[f"{name}.weight"], weight)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
    # Of whole batches alone; at epoch 0 the control is the network as it was.
    first = next(c for c in found if c.control and (c.seed, c.epoch) == (3, 0)).load()
    assert float(first.state_dict()["bn1.running_var"].min()) == 1


def test_without_images_there_are_no_controls(pattern: Path, tmp_path: Path) -> None:
    run = imported_run(pattern, tmp_path / "runs")
    assert not any(c.control for c in find_checkpoints(run, controls=True))
    with pytest.raises(InvalidInputError, match="holds no statistics of the regime 'clean'"):
        find_checkpoints(run)[0].load("clean")


def test_drift_is_that_of_the_weights_and_accuracy_is_not_known(
    pattern: Path, tmp_path: Path
) -> None:
    table = metrics_table(imported_run(pattern, tmp_path / "runs"))
    assert len(table) == 6
    assert table["test_accuracy"].isna().all()
    assert (table.loc[table["epoch"] == 0].filter(like="drift/") == 0).all(axis=None)
    before, after = (state_of(3, e, **SMALL)["layer2.0.conv1.weight"] for e in (0, 5))
    row = table[(table["seed"] == 3) & (table["epoch"] == 5)].iloc[0]
    expected = float((after - before).norm() / before.norm())
    assert row["drift/layer2.0.conv1"] == pytest.approx(expected, rel=1e-5)
    later = metrics_table(imported_run(pattern, tmp_path / "later", checkpoints=[1, 5]))
    assert not later.columns.str.startswith("drift/").any()


# ---- again, and where it stopped ---------------------------------------------------------------


@pytest.mark.slow
def test_the_same_files_make_the_same_run(pattern: Path, images: Path, tmp_path: Path) -> None:
    runs = [imported_run(pattern, tmp_path / n, control_images=images) for n in ("a", "b")]
    assert contents(runs[0]) == contents(runs[1])
    times = {p: p.stat().st_mtime_ns for p in runs[0].rglob("*.*")}
    imported_run(pattern, tmp_path / "a", control_images=images)
    assert {p: p.stat().st_mtime_ns for p in runs[0].rglob("*.*")} == times


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_an_import_that_was_killed_goes_on(
    pattern: Path, images: Path, tmp_path: Path, stop: int
) -> None:
    whole = imported_run(pattern, tmp_path / "whole", control_images=images)
    left = [stop]

    def advance(done: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported_run(pattern, tmp_path / "killed", control_images=images, advance=advance)
    again = imported_run(pattern, tmp_path / "killed", control_images=images)
    assert contents(again) == contents(whole)


def test_a_folder_keeps_its_run(pattern: Path, images: Path, tmp_path: Path) -> None:
    folder = imported_run(pattern, tmp_path / "runs")
    with pytest.raises(InvalidInputError, match=r"holds another run.*differs in fingerprint"):
        imported_run(pattern, tmp_path / "runs", checkpoints=[0, 1])
    with pytest.raises(InvalidInputError, match=r"differs in controls, control images"):
        imported_run(pattern, tmp_path / "runs", control_images=images)
    with pytest.raises(InvalidInputError, match="was trained elsewhere"):
        train(TrainConfig("bp", epochs=0), tmp_path / "runs", resume=True)
    assert read_run(folder)[0].profile == "elsewhere"


# ---- what identifies files ---------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_the_hash_is_of_contents_and_not_of_names(tmp_path: Path, zipped: bool) -> None:
    state = {"a": torch.arange(5.0), "b": torch.ones(2)}

    def hash_of(name: str, content: State, network: tuple[int, int] = (0, 1)) -> str:
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        return weights_hash({network: path})

    first = hash_of("one.pth", state)
    assert hash_of("other.pth", state) == first
    assert hash_of("one.pth", {"a": torch.arange(5.0) + 1, "b": torch.ones(2)}) != first
    assert hash_of("one.pth", state, (0, 2)) != first


# ---- errors ------------------------------------------------------------------------------------


def test_all_missing_files_are_counted_before_anything_is_written(
    pattern: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=r"^4 of 10 files .*epoch-07\.pth.* and 1 more"):
        imported_run(pattern, tmp_path / "runs", checkpoints=[0, 1, 5, 7, 9])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pattern": "bp/seed-{sed}.pth"}, r"fields \{rule\}, \{seed\} and \{epoch\}"),
        ({"pattern": "bp/seed-0/epoch-{epoch:02d}.pth"}, "one file for several networks"),
        ({"rule": "bp-control", "named": "bp"}, "not the ending '-control'"),
        ({"rule": "a/b", "named": "bp"}, "the name of a folder"),
        ({"model": "resnet5"}, "choose one of cnn3, vgg5, resnet50"),
        ({"seeds": [0, 0]}, "each once"),
        ({"checkpoints": []}, "each once"),
        ({"checkpoints": [1, 5], "control_images": "x"}, "add 0 to checkpoints"),
        ({"options": {**SMALL, "width": 4}}, r"epoch-00\.pth: conv1\.weight has shape .*needs \(4"),
        ({"model": "cnn3", "options": {}}, r"epoch-00\.pth: does not fit cnn3: it lacks bn2"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(
    pattern: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    where = tmp_path / change.pop("pattern", PATTERN)
    with pytest.raises(InvalidInputError, match=said):
        imported_run(where, tmp_path / "runs", **change)


def test_a_trained_network_is_no_epoch_0(tmp_path: Path) -> None:
    saved(tmp_path / "0.pth", state_of(0, 1, **SMALL))
    with pytest.raises(InvalidInputError, match=r"0\.pth: .* has seen 40 batches.*count from 0"):
        imported_run(tmp_path / "{epoch}.pth", tmp_path / "runs", seeds=[0], checkpoints=[0])


def test_a_file_of_another_network_is_named(pattern: Path, tmp_path: Path) -> None:
    state = state_of(3, 5, **SMALL)
    wrong = saved(tmp_path / "bp/seed-3/epoch-05.pth", {**state, "fc.bias": torch.zeros(8)})
    with pytest.raises(InvalidInputError, match=rf"{wrong}: fc\.bias has shape \(8,\)"):
        imported_run(pattern, tmp_path / "runs")


def test_braces_may_stand_in_the_names_of_folders(tmp_path: Path) -> None:
    saved(tmp_path / "{x}/1.pth", state_of(0, 1, **SMALL))
    found = find_weights(tmp_path / "{{x}}/{epoch}.pth", rule="bp", seeds=[0], checkpoints=[1])
    assert found[0, 1].is_file()


# ---- a study -----------------------------------------------------------------------------------

STUDY = """\
name = "elsewhere"

[networks]
rules = ["untrained", "bp"]
weights = "weights/{rule}/seed-{seed}/epoch-{epoch}.pth"
model = "cnn3"
image_size = 16
seeds = [0, 1]
checkpoints = [0, 1, 5]
control_images = "images.npy"

[stimuli]
images = "digits"
sizes = [16]
layers = ["conv1", "fc1"]

[brain]
source = "simulated"

[comparison]
pairs = { early = "conv1", late = "fc1" }

[inference]
permutations = 200
resamples = 200
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for seed in (0, 1):
        for epoch in EPOCHS:
            state = state_of(seed, epoch, "cnn3", image_size=16)
            saved(tmp_path / f"weights/bp/seed-{seed}/epoch-{epoch}.pth", state)
    pixels = np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


@pytest.mark.slow
def test_a_study_reads_networks_instead_of_training_them(study: Path) -> None:
    assert main(["study", str(study / "study.toml"), "--out", str(study / "out"), "-q"]) == 0
    table = pd.read_csv(study / "out/tables/alignment-16.csv")
    kept = {rule: sorted(set(own)) for rule, own in table.groupby("rule")["epoch"]}
    assert kept == {"bp": [0, 1, 5], "bp-control": [0, 1, 5], "untrained": [0]}
    start = table[table["epoch"] == 0].groupby("rule")["similarity"].apply(list)
    assert start["untrained"] == start["bp"]
    drift = pd.read_csv(study / "out/tables/drift.csv")
    assert drift["test_accuracy"].isna().all()
    page = (study / "out/report.html").read_text(encoding="utf-8")
    for said in (
        "were trained elsewhere with back-propagation (bp); weights were read from",
        "The untrained networks are those of back-propagation (bp) at epoch 0.",
        "their accuracy is not known",
        "batch-norm statistics of that network, the means over batches of the images in",
    ):
        assert said in page
    assert not re.search(r"\bnan\b", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))


def keys(folder: Path, text: str = STUDY) -> dict[str, str]:
    stages = study_stages(parse_recipe(text, "study.toml"), folder, quiet=True)
    return {stage.name: stage.key for stage in stages if stage.name.startswith("train ")}


def test_a_study_knows_new_weights_and_not_new_names(study: Path) -> None:
    first = keys(study)
    (study / "weights").rename(study / "moved")
    text = STUDY.replace('"weights/', '"moved/')
    assert keys(study, text) == first
    for seed in (0, 1):  # untrained networks with files of their own
        state = state_of(seed + 5, 0, "cnn3", image_size=16)
        saved(study / f"moved/untrained/seed-{seed}/epoch-0.pth", state)
    second = keys(study, text)
    assert second["train bp"] == first["train bp"]
    assert second["train untrained"] != first["train untrained"]
    saved(study / "moved/bp/seed-1/epoch-5.pth", state)
    assert keys(study, text)["train bp"] != first["train bp"]


def test_missing_weights_are_counted_before_anything_runs(study: Path) -> None:
    (study / "weights/bp/seed-1/epoch-5.pth").unlink()
    with pytest.raises(InvalidInputError, match="1 of 6 files of weights are missing"):
        keys(study)
    saved(study / "weights/untrained/seed-1/epoch-0.pth", state_of(1, 0))
    with pytest.raises(InvalidInputError, match=r"1 of 2 .* missing: .*untrained/seed-0"):
        keys(study)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("seeds =", 'profile = "faithful"\nseeds ='), r"line 8: networks\.profile: says how"),
        (("seeds =", 'data = "npz:a.npz"\nseeds ='), r"line 8: networks\.data: says how"),
        (("{epoch}", "{epok}"), r"line 5: networks\.weights: a path with the fields"),
        (("seeds =", "epochs = 9\nseeds ="), "of which the last is 5; epochs is 9"),
        (('control_images = "images.npy"', "controls = true"), "need control_images"),
        (('weights = "weights/{rule}/seed-{seed}/epoch-{epoch}.pth"', ""),
         r"networks\.control_images: .*it needs weights"),
        (('"untrained", "bp"', '"untrained"'), "a rule that was trained"),
    ],
)  # fmt: skip
def test_errors_of_the_file_have_a_line(change: tuple[str, str], said: str) -> None:
    assert change[0] in STUDY
    with pytest.raises(InvalidInputError, match=said):
        parse_recipe(STUDY.replace(*change), "study.toml")


def test_drift_of_many_layers_is_shown_by_stage() -> None:
    names = ["conv1", "layer1.0.conv1", "layer1.2.conv3", "layer2.0.downsample.0", "fc"]
    parts = parts_of([f"drift/{name}" for name in names])
    assert list(parts) == ["conv1", "layer1", "layer2", "fc"]
    assert parts["layer1"] == ["drift/layer1.0.conv1", "drift/layer1.2.conv3"]


def test_without_control_images_a_study_has_no_controls() -> None:
    recipe = parse_recipe(STUDY.replace('control_images = "images.npy"', ""), "study.toml")
    assert not recipe.networks.controls
    assert recipe.networks.epochs == 5
    assert parse_recipe(recipe_text(recipe), "again.toml") == recipe
