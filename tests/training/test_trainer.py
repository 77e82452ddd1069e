"""The training loop: checkpoints, controls, resuming, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rsafast_kernels import device
from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError
from rsafast_training import batchnorm
from rsafast_training.checkpoints import (
    Checkpoint,
    checkpoint_path,
    find_checkpoints,
    metrics_table,
    read_run,
    read_tensors,
)
from rsafast_training.config import TrainConfig
from rsafast_training.data import load_dataset
from rsafast_training.loop import Progress, accuracy
from rsafast_training.rules.backprop import Backprop
from rsafast_training.rules.base import StepResult
from rsafast_training.trainer import train
from safetensors.torch import save

SMALL = TrainConfig(
    "bp", seeds=(3, 8), epochs=2, checkpoints=(0, 1, 2), n_train=256, stack="together",
    device="cpu",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(SMALL, tmp_path_factory.mktemp("runs"))


def files(run: Path) -> dict[str, bytes]:
    """Every tensor file of a run, by name."""
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*.safetensors"))}


def test_a_run_holds_what_its_configuration_asks_for(run: Path) -> None:
    assert sorted(files(run)) == [
        f"seed-{s}/epoch-{e:03d}.safetensors" for s in (3, 8) for e in (0, 1, 2)
    ]
    info, stored = read_run(run)
    assert TrainConfig.from_json(stored["config"]) == SMALL
    assert stored["stacking"] == "asked for: together"
    assert info.fingerprint == load_dataset("digits").fingerprint
    table = metrics_table(run.parent)
    assert table[["seed", "epoch"]].values.tolist() == [[s, e] for s in (3, 8) for e in (0, 1, 2)]
    assert table["test_accuracy"].notna().all()
    assert (table.loc[table["epoch"] == 0, "drift/conv1"] == 0).all()
    assert (table.loc[table["epoch"] > 0, "drift/conv1"] > 0).all()


@pytest.mark.slow
def test_seeds_together_and_one_by_one_are_the_same_networks(run: Path, tmp_path: Path) -> None:
    alone = train(replace(SMALL, stack="one-by-one"), tmp_path)
    for s in SMALL.seeds:
        ours, theirs = (read_tensors(checkpoint_path(r, s, 1)) for r in (run, alone))
        for name, value in ours.items():
            scale = max(1e-3, float(value.abs().max()))
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=2e-3 * scale, msg=name)


@pytest.mark.slow
def test_automatic_stacking_says_what_it_measured(tmp_path: Path) -> None:
    folder = train(replace(SMALL, stack="auto", epochs=1), tmp_path)
    _, stored = read_run(folder)
    assert "2 seeds take" in stored["stacking"]
    assert stored["groups"] in ([[3, 8]], [[3], [8]])


def test_stored_test_accuracy_is_that_of_the_stored_network(run: Path) -> None:
    data = load_dataset("digits")
    table = metrics_table(run).set_index(["seed", "epoch"])["test_accuracy"]
    images = torch.from_numpy(np.array(data.test_images)).permute(0, 3, 1, 2).float() / 255
    x = (images - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(3, 1, 1)
    for checkpoint in find_checkpoints(run):
        model = checkpoint.load()
        (share,) = accuracy(model, iter([(x, torch.from_numpy(data.test_labels))])).tolist()
        assert share == pytest.approx(table[checkpoint.seed, checkpoint.epoch], abs=1 / 297 + 1e-9)


# ---- regimes and controls ----------------------------------------------------------------------


def test_the_control_is_the_untrained_network_with_statistics_of_the_same_source(run: Path) -> None:
    found = find_checkpoints(run, controls=True, epochs=[2])
    assert [(c.seed, c.control) for c in found] == [(3, False), (3, True), (8, False), (8, True)]
    initial = Checkpoint(checkpoint_path(run, 3, 0), found[0].info, 3, 0).load()
    control, trained = found[1].load(), found[0].load()
    for name, weight in control.weights().items():
        assert torch.equal(weight, initial.weights()[name])
        assert not torch.equal(weight, trained.weights()[name])
    for name, value in batchnorm.statistics_of(control).items():
        assert not torch.equal(value, batchnorm.statistics_of(initial)[name])
        assert not torch.equal(value, batchnorm.statistics_of(trained)[name])


def test_statistics_of_the_first_layer_are_those_of_the_images(run: Path) -> None:
    """Conv1 sees images alone, so that its clean statistics follow from weights and images."""
    data = load_dataset("digits")
    rows = data.subset(256, 3)
    images = torch.from_numpy(np.array(data.train_images[rows])).permute(0, 3, 1, 2).float() / 255
    x = (images - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(3, 1, 1)
    (trained, control) = find_checkpoints(run, controls=True, epochs=[2])[:2]
    for checkpoint in (trained, control):
        model = checkpoint.load("clean")
        maps = model.conv1(x)
        mean = torch.stack([part.mean((0, 2, 3)) for part in maps.split(128)]).mean(0)
        found = batchnorm.statistics_of(model)["bn1.running_mean"][0]
        torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-5)


def test_identity_statistics_normalise_nothing(run: Path) -> None:
    model = find_checkpoints(run, epochs=[1])[0].load("identity")
    for name, value in batchnorm.statistics_of(model).items():
        assert (value == (1 if name.endswith("var") else 0)).all()


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["frozen", "none", "identity", "clean"])
def test_every_regime_trains_and_is_what_its_test_accuracy_was_measured_with(
    regime: str, tmp_path: Path
) -> None:
    config = replace(SMALL, seeds=(3,), batch_norm=regime, settings={"lr": 3e-3})
    folder = train(config, tmp_path)
    table = metrics_table(folder)
    if regime != "identity":  # trained on batch statistics and evaluated without: no promise
        assert table["test_accuracy"].iloc[-1] > 0.2  # twice chance, after four steps
    first, last = find_checkpoints(folder, epochs=[0, 2])
    if regime == "frozen":
        kept = batchnorm.statistics_of(first.load())
        assert any((value != 0).any() for name, value in kept.items() if name.endswith("mean"))
        for name, value in batchnorm.statistics_of(last.load()).items():
            assert torch.equal(value, kept[name])
    if regime in ("frozen", "none"):
        assert not last.has_control
        with pytest.raises(InvalidInputError, match=f"with batch norm '{regime}'"):
            last.load("clean")
    if regime == "none":
        assert not last.load().batch_norms()
    if regime in ("identity", "clean"):
        own, named = (batchnorm.statistics_of(last.load(word)) for word in (None, regime))
        assert all(torch.equal(value, named[name]) for name, value in own.items())


# ---- resuming ----------------------------------------------------------------------------------


def interrupted(at: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.done >= at and not progress.checkpoint:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_interrupted_run_goes_on_to_the_same_bits(run: Path, tmp_path: Path, at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, tmp_path, report=interrupted(at))
    resumed = train(SMALL, tmp_path, resume=True)
    assert files(resumed) == files(run)
    kept = [c for c in metrics_table(run).columns if "seconds" not in c]
    assert metrics_table(resumed)[kept].equals(metrics_table(run)[kept])


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["fa", "pc", "stdp"])
def test_every_rule_resumes_to_the_same_bits(rule: str, tmp_path: Path) -> None:
    config = replace(SMALL, rule=rule, seeds=(3,), name="", batch_norm="")
    whole = train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", report=interrupted(3))
    assert files(train(config, tmp_path / "cut", resume=True)) == files(whole)


def test_a_run_of_no_epochs_that_died_before_its_metrics_is_done_again(tmp_path: Path) -> None:
    config = replace(SMALL, rule="untrained", seeds=(3,), epochs=0, checkpoints=(0,), name="",
                     batch_norm="", settings={})  # fmt: skip
    folder = train(config, tmp_path)
    whole = metrics_table(folder)
    (folder / "seed-3" / "metrics.h5").unlink()
    resumed = metrics_table(train(config, tmp_path, resume=True))
    kept = [column for column in whole.columns if "seconds" not in column]
    assert resumed[kept].equals(whole[kept])


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at random moments, writing included."""
    code = textwrap.dedent(
        """
        import sys
        from rsafast_training.config import TrainConfig
        from rsafast_training.trainer import train
        print("ready", flush=True)
        train(TrainConfig("bp", seeds=(1,), epochs=6, checkpoints=(0, 3, 6), n_train=256),
              sys.argv[1], resume=True)
        """
    )
    config = TrainConfig("bp", seeds=(1,), epochs=6, checkpoints=(0, 3, 6), n_train=256)
    whole = train(config, tmp_path / "whole")
    draws, kills = np.random.default_rng(4), 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "cut")], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(timeout=draws.uniform(0.05, 0.6))
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills >= 1
    resumed = train(config, tmp_path / "cut", resume=True)
    assert files(resumed) == files(whole)


def test_a_complete_run_is_left_as_it_is(run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    train(SMALL, run.parent, resume=True)
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}


# ---- what is refused ---------------------------------------------------------------------------


def test_a_run_is_not_overwritten(run: Path) -> None:
    before = files(run)
    with pytest.raises(InvalidInputError, match="holds a run already; go on with it with resume"):
        train(SMALL, run.parent)
    with pytest.raises(InvalidInputError, match=r"other settings \(batch_size: 64, not 128\)"):
        train(replace(SMALL, batch_size=64), run.parent, resume=True)
    assert files(run) == before


@pytest.mark.slow
def test_a_run_that_another_process_trains_is_refused(tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        if progress.done == 1:
            code = (
                "import sys; from rsafast_training import TrainConfig, train\n"
                f"train(TrainConfig.from_json({SMALL.to_json()!r}), sys.argv[1], resume=True)"
            )
            done = subprocess.run(
                [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            assert "another process trains this run" in done.stderr

    train(SMALL, tmp_path, report=second)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rule": "bpp"}, "choose one of untrained, bp, fa, pc, stdp"),
        ({"profile": "exact"}, "choose one of corrected, faithful"),
        ({"model": "alexnet"}, "choose one of cnn3, vgg5, resnet50"),
        ({"batch_norm": "batch"}, "choose one of loader, clean, identity, frozen, none"),
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (1, 1)}, "seeds repeat: 1, 1"),
        ({"seeds": (-1,)}, "must not be negative"),
        ({"epochs": -1}, "epochs must be at least 0"),
        ({"checkpoints": (-2,)}, "epochs from 0 on"),
        ({"subset": "same"}, "choose per-seed or shared"),
        ({"stack": "both"}, "choose auto, together or one-by-one"),
        ({"settings": {"lrr": 1}}, "no setting 'lrr'"),
    ],
    ids=str,
)
def test_a_wrong_configuration_names_the_way_out(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        replace(SMALL, name="", **changes)  # type: ignore[arg-type]


def test_too_many_images_and_absent_devices_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(InvalidInputError, match="n_train must be from 1 to the 1500"):
        train(replace(SMALL, n_train=2000), tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError, match=r"use device='cpu'"):
            train(replace(SMALL, device="cuda"), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_diverging_training_says_so_and_keeps_what_there_was(tmp_path: Path) -> None:
    config = replace(
        SMALL, seeds=(3,), settings={"lr": 1e30, "clip_norm": None, "optimiser": "sgd"}
    )
    with pytest.raises(InvalidInputError, match="loss of seed 3 is not finite at epoch 1"):
        train(config, tmp_path)
    assert checkpoint_path(tmp_path / "bp", 3, 0).is_file()


@pytest.mark.parametrize("damage", ["truncated", "text", "absent"])
def test_damaged_checkpoints_are_named(run: Path, tmp_path: Path, damage: str) -> None:
    checkpoint = find_checkpoints(run)[0]
    path = tmp_path / "epoch-000.safetensors"
    if damage == "truncated":
        path.write_bytes(checkpoint.path.read_bytes()[:5000])
    elif damage == "text":
        path.write_text("no tensors here")
    with pytest.raises(InvalidInputError, match=r"epoch-000\.safetensors: (is no|there is no)"):
        replace(checkpoint, path=path).load()


def test_a_checkpoint_of_another_model_is_refused(run: Path, tmp_path: Path) -> None:
    other = train(replace(SMALL, seeds=(3,), epochs=0, model="vgg5", image_size=16), tmp_path)
    stolen = checkpoint_path(other, 3, 0)
    with pytest.raises(InvalidInputError, match=r"epoch-000\.safetensors: does not fit cnn3"):
        replace(find_checkpoints(run)[0], path=stolen).load()


def test_files_of_a_newer_version_and_of_others_are_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "epoch-000.safetensors"
    for metadata, said in (
        ({"rsafast": '{"rsafast_format": 99}'}, "has format 99, this rsafast reads up to 1"),
        ({"format": "pt"}, "was not written by rsafast"),
    ):
        path.write_bytes(save({"conv1.weight": torch.zeros(1)}, metadata=metadata))
        with pytest.raises(InvalidInputError, match=said):
            replace(find_checkpoints(run)[0], path=path).load()


def test_folders_without_runs_and_epochs_without_checkpoints_say_so(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=r"holds no training run \(run.json\)"):
        find_checkpoints(tmp_path)
    with pytest.raises(InvalidInputError, match="no checkpoint of epoch 7; it has those of epochs"):
        find_checkpoints(run, epochs=[7])


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_the_run_to_be_resumed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0
    original = Path.write_bytes

    def filling(self: Path, data: bytes) -> int:
        nonlocal writes
        writes += 1
        if writes == 5:
            original(self, data[:100])
            raise OSError(28, "No space left on device")
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", filling)
    with pytest.raises(InvalidInputError, match="No space left on device"):
        train(SMALL, tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.tmp"))
    assert files(train(SMALL, tmp_path, resume=True)) == files(run)


# ---- a GPU that is full ------------------------------------------------------------------------


def full_gpu(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a")


def test_a_full_gpu_is_said_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backprop, "learn", full_gpu)
    with pytest.raises(
        BackendUnavailableError,
        match=r"batch_size=128 on 2 seeds \(CUDA out of memory\).*resume=True.*smaller batch_size",
    ):
        train(SMALL, tmp_path)


def test_seeds_that_do_not_fit_together_train_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Backprop.learn

    def one_fits(rule: Backprop, images: torch.Tensor, labels: torch.Tensor) -> StepResult:
        return full_gpu() if len(rule.seeds) > 1 else learn(rule, images, labels)

    monkeypatch.setattr(Backprop, "learn", one_fits)
    stored = read_run(train(replace(SMALL, stack="auto", epochs=1), tmp_path))[1]
    assert stored["groups"] == [[3], [8]]
    assert "2 seeds together do not fit" in stored["stacking"]


def test_auto_is_the_cpu_where_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cuda_missing", lambda *_: "no driver")
    config = TrainConfig("untrained", seeds=(3,), n_train=128)
    assert config.device == "auto"
    folder = train(config, tmp_path)
    stored = TrainConfig.from_json(read_run(folder)[1]["config"])
    assert stored.device == "cpu"  # where it ran
    assert stored.differences(config) == []
    assert train(config, tmp_path, resume=True) == folder


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="device must be one of auto, cpu, cuda, got 'gpu'"):
        replace(SMALL, device="gpu")  # type: ignore[arg-type]
