"""Stacked models: each seed is an ordinary network, and does not notice the others."""

from __future__ import annotations

import pytest
import torch
from rsafast_kernels.errors import InvalidInputError
from rsafast_training import batchnorm
from rsafast_training.models import Chain, build_model
from rsafast_training.optimisers import Optimiser, OptimiserSettings, clip_each_seed
from torch import nn


def plain_cnn3(seed: int) -> nn.Sequential:
    """The study's network in plain PyTorch, initialised as ``torch.manual_seed`` does."""
    torch.manual_seed(seed)
    blocks: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        blocks += [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *blocks, nn.Flatten(), nn.Linear(2048, 512), nn.ReLU(), nn.Linear(512, 10)
    )


@pytest.mark.parametrize("training", [True, False])
def test_each_seed_equals_the_plain_network_of_that_seed(training: bool) -> None:
    seeds = (42, 7, 123)
    model = build_model("cnn3", seeds, 10, dropout=0.0).train(training)
    x = torch.randn(3, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = model(x)
    for index, seed in enumerate(seeds):
        plain = plain_cnn3(seed).train(training)
        weights = [p for p in plain.parameters() if p.ndim > 1]
        own = [w for n, w in model.seed_state(index).items() if n.endswith("weight") and w.ndim > 1]
        assert all(torch.equal(a, b) for a, b in zip(own, weights, strict=True))
        torch.testing.assert_close(logits[index], plain(x[index]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cnn3", "vgg5"])
def test_shared_images_equal_copies_for_every_seed(name: str) -> None:
    model = build_model(name, (1, 2), 5, image_size=16).eval()
    x = torch.randn(4, 3, 16, 16)
    layers = model.layer_names
    shared, copied = model.features(x, layers), model.features(torch.stack([x, x]), layers)
    for layer in layers:
        assert shared[layer].shape[:2] == (2, 4)
        torch.testing.assert_close(shared[layer], copied[layer])


def test_larger_images_are_averaged_to_the_grid_that_the_linear_layer_reads() -> None:
    model = build_model("cnn3", (0,), 10).eval()
    assert isinstance(model, Chain)
    features = model.features(torch.randn(2, 3, 224, 224), ["conv3", "fc1"])
    assert features["conv3"].shape == (1, 2, 128, 28, 28)
    pooled = nn.functional.adaptive_avg_pool2d(features["conv3"][0], 4).flatten(1)
    block = model.blocks[3]
    torch.testing.assert_close(features["fc1"], block(pooled[None]))


def test_unknown_layers_and_models_name_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match="no layer 'conv9'; it has conv1, conv2, conv3"):
        build_model("cnn3", (0,), 10).features(torch.zeros(1, 3, 32, 32), ["conv9"])
    with pytest.raises(InvalidInputError, match="'cnn4'; choose one of cnn3, vgg5, resnet50"):
        build_model("cnn4", (0,), 10)
    with pytest.raises(InvalidInputError, match="at least 8 pixels, got 4"):
        build_model("cnn3", (0,), 10, image_size=4)


def test_state_of_another_model_is_refused() -> None:
    cnn, vgg = build_model("cnn3", (0,), 10), build_model("vgg5", (0,), 10)
    with pytest.raises(InvalidInputError, match=r"w\.safetensors: does not fit cnn3: it lacks"):
        cnn.load_seed_state(0, vgg.seed_state(0), "w.safetensors")
    more = build_model("cnn3", (0,), 20)
    with pytest.raises(InvalidInputError, match=r"fc2\.weight has shape \(20, 512\)"):
        cnn.load_seed_state(0, more.seed_state(0), "w.safetensors")


# ---- batch-norm statistics ---------------------------------------------------------------------


def test_measured_statistics_are_those_training_leaves_and_the_model_is_kept() -> None:
    model = build_model("cnn3", (0, 1), 10, image_size=16, dropout=0.0)
    batches = [torch.randn(2, 8, 3, 16, 16) + i for i in range(3)]
    before = {n: t.clone() for n, t in model.state_dict().items()}
    measured = batchnorm.measured_statistics(model, batches, momentum=0.1)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    for batch in batches:
        model.train()(batch)
    trained = batchnorm.statistics_of(model)
    for name, value in measured.items():
        torch.testing.assert_close(value, trained[name])


def test_cumulative_statistics_are_the_mean_over_batches() -> None:
    model = build_model("cnn3", (0,), 10, image_size=16)
    batches = [torch.randn(6, 3, 16, 16) * (i + 1) for i in range(4)]
    measured = batchnorm.measured_statistics(model, batches, momentum=None)
    first = [model.blocks[0].linear(b) for b in batches]  # type: ignore[attr-defined]
    mean = torch.stack([a.mean((0, 2, 3)) for a in first]).mean(0)
    variance = torch.stack([a.var((0, 2, 3)) for a in first]).mean(0)
    torch.testing.assert_close(measured["bn1.running_mean"][0], mean)
    torch.testing.assert_close(measured["bn1.running_var"][0], variance)


def test_statistics_are_restored_after_an_error() -> None:
    model = build_model("cnn3", (0,), 10)
    before = batchnorm.statistics_of(model)
    other = {n: v + 1 for n, v in before.items()}
    with pytest.raises(KeyboardInterrupt), batchnorm.evaluated_with(model, other):  # noqa: PT012
        assert not model.training
        raise KeyboardInterrupt
    assert model.training
    assert all(torch.equal(v, before[n]) for n, v in batchnorm.statistics_of(model).items())


# ---- optimisers --------------------------------------------------------------------------------


def test_gradients_are_clipped_for_each_seed() -> None:
    p = nn.Parameter(torch.zeros(3, 4))
    q = nn.Parameter(torch.zeros(3, 2, 2))
    p.grad = torch.tensor([3.0, 0.1, 0.0])[:, None] * torch.ones(3, 4)
    q.grad = torch.zeros(3, 2, 2)
    expected = [p.grad[s].clone() for s in range(3)]
    for s in range(3):
        torch.nn.utils.clip_grad_norm_([alone := nn.Parameter(torch.zeros(4))], 1.0)
        alone.grad = expected[s]
        torch.nn.utils.clip_grad_norm_([alone], 1.0)
    clip_each_seed([p, q], 1.0)
    torch.testing.assert_close(p.grad, torch.stack(expected))


def test_schedules_are_those_of_torch() -> None:
    p = nn.Parameter(torch.zeros(1, 2))
    ours = Optimiser([p], OptimiserSettings(lr=0.1), epochs=40)
    theirs = torch.optim.Adam([p], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=40)
    for epoch in range(1, 41):
        ours.start_epoch(epoch)
        assert ours._torch.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
