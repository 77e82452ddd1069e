"""Training and features on a GPU: graphs against steps that run, and both against the CPU."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rsafast_training.checkpoints import checkpoint_path, read_tensors
from rsafast_training.config import TrainConfig
from rsafast_training.features import extract_features
from rsafast_training.graphs import CudaRecorder, Stepper
from rsafast_training.loop import start_epoch
from rsafast_training.models import build_model
from rsafast_training.rules import Rule, build_rule, default_regime, rule_settings
from rsafast_training.stimuli import Preprocess, read_stimuli
from rsafast_training.trainer import train
from torch import Tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SEEDS = (3, 8)
RULES = [
    ("bp", "corrected", {}), ("bp", "corrected", {"optimiser": "sgd"}), ("fa", "corrected", {}),
    ("fa", "corrected", {"variant": "dfa"}), ("fa", "corrected", {"variant": "sign"}),
    ("pc", "corrected", {}), ("pc", "corrected", {"schedule": "incremental"}),
    ("stdp", "corrected", {}), ("bp", "faithful", {}), ("fa", "faithful", {}),
    ("pc", "faithful", {}), ("stdp", "faithful", {}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _exact_convolutions() -> Any:
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def make(rule: str, profile: str, settings: dict[str, Any], device: str) -> Rule:
    chosen = rule_settings(rule, settings, profile)
    model = build_model(
        "cnn3", SEEDS, 10, image_size=32, batch_norm=default_regime(rule, profile) != "none",
        **getattr(chosen, "model_options", {}),
    ).to(device)  # fmt: skip
    return build_rule(rule, model, SEEDS, chosen, 3, profile)


def trained(rule: Rule, recorder: Any, device: str, steps: int) -> dict[str, Tensor]:
    draws, step, losses = torch.Generator().manual_seed(2), Stepper(rule, recorder), []
    for epoch in (1, 2):
        start_epoch(rule.model, rule, epoch)
        for number in range(steps):
            n = 20 if number == steps - 1 else 64
            images = torch.randn(2, n, 3, 32, 32, generator=draws).to(device)
            labels = torch.randint(10, (2, n), generator=draws).to(device)
            losses.append(step(images, labels).loss.clone())
        step.end_epoch()
    return {k: v.cpu() for k, v in rule.model.state_dict().items()} | {
        "losses": torch.stack(losses).cpu()
    }


@pytest.mark.parametrize(("rule", "profile", "settings"), RULES, ids=str)
def test_graphs_have_the_bits_of_steps_that_run(
    rule: str, profile: str, settings: dict[str, Any]
) -> None:
    expected = trained(make(rule, profile, settings, "cuda"), None, "cuda", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = trained(make(rule, profile, settings, "cuda"), CudaRecorder(), "cuda", 10)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(("rule", "profile", "settings"), RULES, ids=str)
def test_a_few_steps_equal_those_of_the_cpu(
    rule: str, profile: str, settings: dict[str, Any]
) -> None:
    """Two steps an epoch: rounding grows with every step, and a spike that flips is no rounding."""
    expected = trained(make(rule, profile, settings, "cpu"), None, "cpu", 2)
    found = trained(make(rule, profile, settings, "cuda"), None, "cuda", 2)
    for name, value in expected.items():
        if value.is_floating_point():
            error = (found[name] - value).norm() / value.norm().clamp(min=1e-3)
            assert error < (0.05 if rule == "stdp" else 5e-3), (name, float(error))


@pytest.mark.parametrize("rule", ["bp", "fa", "pc", "stdp"])
def test_a_run_on_the_gpu_learns_and_resumes_as_on_the_cpu(rule: str, tmp_path: Path) -> None:
    config = TrainConfig(
        rule, seeds=(0,), epochs=3, checkpoints=(0, 3), n_train=512, device="cuda"
    )  # fmt: skip
    folder = train(config, tmp_path / "gpu")
    again = train(config, tmp_path / "again")
    cpu = train(replace(config, device="cpu"), tmp_path / "cpu")
    first, second, there = (read_tensors(checkpoint_path(f, 0, 3)) for f in (folder, again, cpu))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert value.shape == there[name].shape
    assert train(replace(config, device="auto"), tmp_path / "gpu", resume=True) == folder


def test_features_at_224_pixels_equal_those_of_the_cpu(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 64, 80, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    stimuli, step = read_stimuli(tmp_path / "images.npy"), Preprocess(224)
    model = build_model("cnn3", SEEDS, 10, image_size=32)
    cpu, gpu = (
        extract_features(model, stimuli, preprocess=step, device=where) for where in ("cpu", "cuda")
    )
    assert next(model.parameters()).device.type == "cpu"  # put back
    for name, x in cpu.items():
        np.testing.assert_allclose(gpu[name], x, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_batch_that_is_too_large_is_halved(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    stimuli, model = read_stimuli(tmp_path / "images.npy"), build_model("cnn3", (0,), 10)
    step = Preprocess(512)
    expected = extract_features(model, stimuli, preprocess=step, batch_size=4, device="cuda")
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 3 * 2**30 / total))
    try:
        with pytest.warns(UserWarning, match="do not fit in the memory of the GPU"):
            found = extract_features(model, stimuli, preprocess=step, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-4, atol=1e-5, err_msg=name)
