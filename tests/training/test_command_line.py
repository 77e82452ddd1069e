"""``rsafast train`` and ``rsafast features``: what a user types, reads and gets wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rsafast_training.checkpoints import find_checkpoints, metrics_table

from rsafast.cli import main
from rsafast.io import read_features
from rsafast.rdms import RDMs

QUICK = ["--epochs", "1", "--seeds", "0", "--checkpoints", "0,1", "--n-train", "128"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert main(["train", "--rule", "untrained", "--rule", "bp", "--out", str(out), *QUICK]) == 0
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("stimuli"), np.random.default_rng(0)
    for name in ("cat", "apple", "boat", "duck", "egg"):
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_training_prints_accuracy_and_drift_and_draws_the_curve(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["train", "--rule", "fa", "--out", str(tmp_path), "--name", "mine", *QUICK])
    said = capsys.readouterr()
    assert code == 0
    assert "mine" in said.out
    assert "drift/conv1" in said.out
    assert "mine, seeds 0: epoch 1/1, train" in said.err
    assert (tmp_path / "mine" / "learning-curve.svg").read_text().count("<svg") == 1
    accuracy = metrics_table(tmp_path)["test_accuracy"].iloc[-1]
    assert f"{accuracy:.1%}" in said.out


@pytest.mark.slow
def test_json_holds_every_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--rule", "bp", "--out", str(tmp_path), "--json", "--quiet", *QUICK])
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[0]["train_loss"] is None


def test_features_of_runs_become_rdms_that_know_their_networks(
    runs: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, rdms = tmp_path / "f.h5", tmp_path / "r.h5"
    words = ["features", str(runs), "--stimuli", str(images), "-o", str(features)]
    capsys.readouterr()
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    layers, labels = read_features(features)
    assert labels == ("apple", "boat", "cat", "duck", "egg")
    assert {name.split("/")[0] for name in layers} == {"untrained", "bp", "bp-control"}
    assert main(["rdm", str(features), "-o", str(rdms)]) == 0
    described = RDMs.load(rdms).descriptors
    assert sorted(set(described["rule"])) == ["bp", "bp-control", "untrained"]
    assert set(described["epoch"].tolist()) == {0, 1}
    # Before training, the network is its own control.
    for layer in ("conv1", "fc1"):
        first = f"bp/seed-0/epoch-000/{layer}", f"bp-control/seed-0/epoch-000/{layer}"
        np.testing.assert_array_equal(*(layers[name] for name in first))
        later = f"bp/seed-0/epoch-001/{layer}", f"bp-control/seed-0/epoch-001/{layer}"
        assert not np.allclose(*(layers[name] for name in later))


def test_sizes_epochs_layers_and_order_are_chosen(
    runs: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order, features = tmp_path / "order.txt", tmp_path / "f.h5"
    order.write_text("duck\ncat\napple\negg\n")
    code = main(
        ["features", str(runs / "bp"), "--stimuli", str(images), "-o", str(features), "--size", "8",
         "--size", "16", "--epochs", "1", "--layers", "conv1,fc1", "--order", str(order),
         "--no-control", "--batch-norm", "clean", "--pooling", "none"]
    )  # fmt: skip
    assert code == 0
    assert "1 images of" in capsys.readouterr().err
    layers, labels = read_features(features)
    assert labels == ("duck", "cat", "apple", "egg")
    start = "bp-clean/seed-0/epoch-001"
    assert {name: values.shape for name, values in layers.items()} == {
        f"{start}/size-008/conv1": (4, 32 * 4 * 4), f"{start}/size-008/fc1": (4, 512),
        f"{start}/size-016/conv1": (4, 32 * 8 * 8), f"{start}/size-016/fc1": (4, 512),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rule", "bpp"], "rule is 'bpp'; choose one of untrained, bp, fa, pc, stdp"),
        (["--rule", "bp", "--seeds", "0,x"], "--seeds '0,x': expected whole numbers"),
        (["--rule", "bp", "--set", "lr"], "--set lr: write it as name=value"),
        (["--rule", "bp", "--set", "lrate=1"], "has no setting 'lrate'; it has optimiser, lr"),
        (["--rule", "bp", "--data", "cifar10:/nowhere"], "/nowhere: does not exist"),
        (["--rule", "bp", "--rule", "fa", "--name", "x"], "--name names one run"),
        (["--rule", "pc", "--batch-norm", "loader"], "use batch_norm='none' or 'frozen'"),
        (["--rule", "pc", "--model", "resnet50"], "train cnn3 or vgg5 without"),
        (["--rule", "stdp", "--model", "resnet50"], "resnet50"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_said_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--out", str(tmp_path / "runs"), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_second_run_of_the_same_name_is_refused_and_resumed_on_request(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [c.sha256 for c in find_checkpoints(runs)]
    assert main(["train", "--rule", "bp", "--out", str(runs), *QUICK]) == 2
    assert "go on with it with resume (--resume)" in capsys.readouterr().err
    assert main(["train", "--rule", "bp", "--out", str(runs), "--resume", *QUICK]) == 0
    assert [c.sha256 for c in find_checkpoints(runs)] == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layers", "conv7"], "conv7"),
        (["--epochs", "9"], "no checkpoint of epoch 9; it has those of epochs 0, 1"),
        (["--batch-norm", "batch"], "choose one of loader, clean, identity"),
        (["--size", "8", "--size", "8"], "sizes that differ"),
        (["--crop", "left"], "crop must be 'center' or 'none'"),
    ],
    ids=" ".join,
)
def test_wrong_features_are_refused_and_nothing_is_written(
    words: list[str],
    said: str,
    runs: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "f.h5"
    assert main(["features", str(runs), "--stimuli", str(images), "-o", str(out), *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_without_runs_says_what_makes_one(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["features", str(tmp_path), "--stimuli", str(images), "-o", str(tmp_path / "f.h5")]
    assert main(words) == 2
    assert "train one with rsafast train --out" in capsys.readouterr().err


def test_training_without_torch_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    assert main(["train", "--rule", "bp", "--out", str(tmp_path)]) == 2
    assert "needs torch, not installed here: pip install 'rsafast[training]'" in (
        capsys.readouterr().err
    )
