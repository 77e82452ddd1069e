"""The faithful profile: what was published, in numbers, and each quirk put right on its own."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rsafast_training.rules.published.stdp as stdp
import torch
from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError
from rsafast_training import batchnorm
from rsafast_training.checkpoints import Checkpoint, find_checkpoints, metrics_table
from rsafast_training.config import TrainConfig
from rsafast_training.data import Augment, Batches, ImageData, load_dataset
from rsafast_training.features import extract_features
from rsafast_training.loop import accuracy, start_epoch
from rsafast_training.models import StackedModel, build_model
from rsafast_training.models.cnn3_predictive import PredictiveCnn3
from rsafast_training.rules import RULES, Rule, build_rule, rule_settings
from rsafast_training.stimuli import CIFAR_MEAN, CIFAR_STD, Preprocess, read_stimuli
from rsafast_training.trainer import train
from torch import Tensor, nn
from torch.nn import functional as F

import rsafast as rf

pytestmark = pytest.mark.slow

SIZE, CLASSES = 8, 5
# Every switch, with what else must be set for it to matter.
SWITCHES: list[tuple[str, str, dict[str, Any]]] = [
    ("bp", "second_forward", {}),
    ("fa", "true_fc_gradients", {}),
    ("fa", "conv_bias", {}),
    ("fa", "kaiming_init", {}),
    ("pc", "dc_updates", {}),
    ("pc", "clamp_updates", {}),
    ("pc", "freeze_conv3", {}),
    ("pc", "untrained_feedback", {}),
    ("pc", "unsupervised_inference", {}),
    ("pc", "second_forward", {}),
    ("stdp", "reversed_window", {}),
    ("stdp", "gap_rates", {}),
    ("stdp", "silent_as_late", {}),
    ("stdp", "clamp_updates", {"gap_rates": False}),
    ("stdp", "train_batch_norm", {}),
    ("stdp", "second_forward", {}),
    ("stdp", "kaiming_init", {}),
]
AT_EVALUATION = ("published_normalisation", "batch_statistics_at_evaluation")


def made(
    rule: str, seeds: tuple[int, ...] = (0,), size: int = SIZE, **changes: Any
) -> tuple[Any, Any]:
    """Return a model as the settings of a rule describe it, and the rule."""
    settings = rule_settings(rule, changes, "faithful")
    model = build_model(
        "cnn3", seeds, CLASSES, image_size=size, init=getattr(settings, "init", "torch"),
        **getattr(settings, "model_options", {}),
    )  # fmt: skip
    built = build_rule(rule, model, seeds, settings, 2, "faithful")
    start_epoch(model, built, 1)
    return model, built


def batch(step: int, seeds: int = 1, n: int = 12, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Images of blurred noise, which have the spatial correlations of natural ones, and labels."""
    draws = torch.Generator().manual_seed(100 + step)
    images = torch.randn(seeds * n, 3, size, size, generator=draws)
    images = 3 * F.avg_pool2d(images, 5, stride=1, padding=2)
    return images.view(seeds, n, 3, size, size), torch.randint(
        CLASSES, (seeds, n), generator=draws
    )


def trained(rule: str, steps: int = 2, **changes: Any) -> dict[str, Tensor]:
    model, built = made(rule, **changes)
    for step in range(steps):
        built.step(*batch(step))
    return dict(model.state_dict())


def moves(rule: str, steps: int, **changes: Any) -> dict[str, Tensor]:
    """Change of every convolution, (S, out, in, 3, 3)."""
    model, built = made(rule, **changes)
    before = {n: w.detach().clone() for n, w in model.weights().items()}
    for step in range(steps):
        built.step(*batch(step))
    return {n: w.detach() - before[n] for n, w in model.weights().items() if w.ndim == 5}


def test_untrained_has_the_weights_of_plain_pytorch_bit_for_bit() -> None:
    torch.manual_seed(42)
    convolutions = [
        nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in ((3, 32), (32, 64), (64, 128))
    ]
    linear = [nn.Linear(128 * 4 * 4, 512), nn.Linear(512, 10)]
    norms = [nn.BatchNorm2d(c).eval() for c in (32, 64, 128)]
    settings = rule_settings("untrained", {}, "faithful")
    model = build_model("cnn3", [42], 10, init=getattr(settings, "init", "torch")).eval()
    x = torch.randn(7, 3, 32, 32)
    ours = model.features(x, model.layer_names)
    for index, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True), start=1):
        name = f"conv{index}"
        assert torch.equal(model.weights()[name][0], convolution.weight)
        x = F.max_pool2d(F.relu(norm(convolution(x))), 2)
        torch.testing.assert_close(ours[name][0], x, rtol=1e-5, atol=1e-5)
    for name, layer in zip(("fc1", "fc2"), linear, strict=True):
        assert torch.equal(model.weights()[name][0], layer.weight)
        assert torch.equal(model.get_parameter(f"{name}.bias")[0], layer.bias)
    x = linear[1](F.relu(linear[0](x.flatten(1))))
    torch.testing.assert_close(ours["fc2"][0], x)


def test_untrained_is_evaluated_with_the_identity() -> None:
    assert TrainConfig("untrained", profile="faithful").batch_norm == "identity"
    assert TrainConfig("pc", profile="faithful").batch_norm == "loader"


def test_first_layers_have_the_published_spread() -> None:
    """.111 for the rules that keep PyTorch's weights, .272 for the two that draw their own."""
    for rule, expected in {"bp": 0.111, "pc": 0.111, "fa": 0.272, "stdp": 0.272}.items():
        weights = made(rule, seeds=tuple(range(5)), size=8)[0].state_dict()
        assert float(weights["conv1.weight"].std()) == pytest.approx(expected, rel=0.05)
        # He's draw, if at all, is of the convolutions.
        assert float(weights["fc2.weight"].std()) == pytest.approx((3 * 512) ** -0.5, rel=0.02)


def test_every_switch_is_tested() -> None:
    tested = {(rule, name) for rule, name, _ in SWITCHES}
    known = {
        (rule, f.name)
        for rule, of in RULES["faithful"].items()
        for f in fields(of.Settings)
        if f.type == "bool" and f.name not in AT_EVALUATION
    }
    assert tested == known


@pytest.mark.parametrize(("rule", "switch", "others"), SWITCHES)
def test_each_switch_changes_the_network(rule: str, switch: str, others: dict[str, Any]) -> None:
    published, corrected = trained(rule, **others), trained(rule, **others, **{switch: False})
    different = published.keys() != corrected.keys() or any(
        not torch.equal(published[name], corrected[name]) for name in published
    )
    assert different
    again = trained(rule, **others)
    assert all(torch.equal(published[name], again[name]) for name in published)


@pytest.mark.parametrize(("rule", "passes"), [("bp", 2), ("fa", 1), ("pc", 2), ("stdp", 2)])
def test_batch_norm_sees_every_batch_twice(rule: str, passes: int) -> None:
    assert trained(rule, steps=3)["bn1.num_batches_tracked"].item() == 3 * passes
    if passes == 2:
        once = trained(rule, steps=3, second_forward=False)
        assert once["bn1.num_batches_tracked"].item() == 3


def test_second_forward_leaves_the_weights_of_predictive_coding() -> None:
    twice, once = trained("pc"), trained("pc", second_forward=False)
    assert all(torch.equal(twice[n], once[n]) for n in twice if "weight" in n)
    assert not torch.equal(twice["bn1.running_mean"], once["bn1.running_mean"])


# ---- predictive coding ----


def settled_by_hand(model: PredictiveCnn3, maps: list[Tensor], seed: int) -> list[Tensor]:
    """Run the inference of one network, an image at a time, with ordinary layers."""
    state = model.seed_state(seed)
    finished = []
    for r1, r2, r3 in zip(*maps, strict=True):
        r1, r2, r3 = r1[None], r2[None], r3[None]
        for _ in range(10):
            first, second = nn.ConvTranspose2d(64, 32, 3, padding=1, bias=False), None
            first.weight.data = state["predict1.weight"]
            second = nn.ConvTranspose2d(128, 64, 3, padding=1, bias=False)
            second.weight.data = state["predict2.weight"]
            e1 = r1 - torch.tanh(nn.Upsample(r1.shape[-2:], mode="nearest")(first(r2)))
            e2 = r2 - torch.tanh(nn.Upsample(r2.shape[-2:], mode="nearest")(second(r3)))
            bottom_up = F.avg_pool2d(F.conv2d(e1, state["conv2.weight"], padding=1), 2)
            top = F.avg_pool2d(F.conv2d(e2, state["conv3.weight"], padding=1), 2)
            r1 = F.relu(r1 - 0.02 * e1)
            r2 = F.relu(r2 + 0.02 * (-e2 + bottom_up))
            r3 = F.relu(r3 + 0.02 * top)
        finished.append((r1, r2, r3))
    return [torch.cat(maps) for maps in zip(*finished, strict=True)]


@pytest.mark.parametrize("size", [32, 37])
@torch.no_grad()
def test_inference_is_that_of_the_published_equations(size: int) -> None:
    model, _ = made("pc", seeds=(3, 4))
    images = batch(0, seeds=2, n=3)[0]
    maps = model.first_maps(F.pad(images, (0, size - 32, 0, size - 32)))
    ours = [model.unstack_maps(x) for x in model.settle(maps)]
    for seed in range(2):
        alone = [model.unstack_maps(x)[seed] for x in maps]
        expected = settled_by_hand(model, alone, seed)
        for got, wanted, start in zip(ours, expected, alone, strict=True):
            torch.testing.assert_close(got[seed], wanted, rtol=1e-5, atol=1e-6)
            assert not torch.allclose(got[seed], start, rtol=1e-3)


@torch.no_grad()
def test_features_are_the_settled_maps() -> None:
    model, _ = made("pc")
    model.eval()
    images = batch(0)[0][0]
    settled = model.settle(model.first_maps(images))
    found = model.features(images, ["fc1", "conv3", "conv1"])
    assert list(found) == ["fc1", "conv3", "conv1"]
    assert torch.equal(found["conv1"][0], settled[0])
    assert torch.equal(found["conv3"][0], settled[2])
    assert torch.equal(model.features(images, ["fc2"])["fc2"], model(images))


def test_predictive_coding_drifts_by_a_constant_and_no_further_than_its_clamp() -> None:
    steps = 12
    moved = moves("pc", steps)
    for name in ("conv1", "conv2"):
        change = moved[name]
        assert change.abs().max() > 0
        assert change.abs().max() <= 1e-6 * steps * 1.01  # rounding of weights near .1
        # One number a kernel, but for the rounding of its nine weights.
        spread = (change - change.mean((-2, -1), keepdim=True)).abs().max()
        assert spread < 2e-8 * steps
    assert moved["conv3"].abs().max() == 0
    assert moved["predict1"].abs().max() == moved["predict2"].abs().max() == 0


def test_predictive_coding_learns_every_spatial_weight_once_the_quirks_are_off() -> None:
    off = {"dc_updates": False, "clamp_updates": False, "freeze_conv3": False}
    for name, change in moves("pc", 2, untrained_feedback=False, **off).items():
        within = change.std((-2, -1)).mean()
        assert within > 0.1 * change.std(), name


@torch.no_grad()
def test_spatial_update_is_the_sum_over_positions_of_error_times_input() -> None:
    _, rule = made("pc", dc_updates=False, clamp_updates=False)
    inputs, error = torch.randn(2, 3, 6, 6), torch.randn(2, 32, 3, 3)
    padded = F.pad(inputs, (1, 1, 1, 1))
    expected = torch.zeros(32, 3, 3, 3)
    for image in range(2):
        for row in range(6):
            for column in range(6):
                seen = padded[image, :, row : row + 3, column : column + 3]
                share = error[image, :, row // 2, column // 2] / 4
                expected += share[:, None, None, None] * seen / 2
    torch.testing.assert_close(rule._change(error, inputs)[0], expected, rtol=1e-4, atol=1e-5)


def test_feedback_that_learns_predicts_better() -> None:
    def error(**changes: Any) -> float:
        model, rule = made("pc", **changes)
        for _ in range(5):
            rule.step(*batch(0))
        with torch.no_grad():
            maps = model.settle(model.first_maps(batch(0)[0]))
            guessed = model.predictions(maps)
            return float(sum((r - p).square().sum() for r, p in zip(maps, guessed, strict=False)))

    assert error(untrained_feedback=False) < 0.999 * error()


@torch.no_grad()
def test_inference_that_sees_labels_lowers_their_loss() -> None:
    model, rule = made("pc", unsupervised_inference=False)
    images, labels = batch(0)
    first = model.first_maps(images)
    guided = model.settle(first, lambda r3: -rule._label_gradient(r3, labels))

    def loss(top: Tensor) -> float:
        return float(F.cross_entropy(model.read_out(top)[0], labels[0]))

    assert loss(guided[-1]) < loss(model.settle(first)[-1]) - 1e-4


# ---- STDP ----


def test_window_is_reversed() -> None:
    dt = torch.tensor([5.0, -5.0, 0.0])
    published = stdp.window(dt)
    assert published.tolist() == pytest.approx([-6.636e-4, 6.636e-4, 0.0], rel=1e-3)
    right = stdp.window(dt, reversed_window=False)
    assert right.tolist() == pytest.approx([0.003 * np.exp(-0.25), -0.003 * np.exp(-0.25), 0.0])


def test_spikes_are_those_of_ten_draws() -> None:
    """Frequencies of the first spike: p (1-p)^t, and no spike (1-p)^10, at p = sigmoid / 10."""
    drive = torch.tensor([-2.0, 0.0, 3.0]).view(1, 3, 1).expand(1, 3, 40_000)
    times = stdp.first_spikes(drive, [torch.Generator().manual_seed(0)])[0]
    p = torch.sigmoid(drive[0, :, 0]) / 10
    for time in range(10):
        seen = (times == time).double().mean(1)
        assert seen.tolist() == pytest.approx((p * (1 - p) ** time).tolist(), abs=0.007)
    silent = (times == stdp.SILENT).double().mean(1)
    assert silent.tolist() == pytest.approx(((1 - p) ** 10).tolist(), abs=0.01)
    assert silent[1] == pytest.approx(0.599, abs=0.01)


def test_stdp_drifts_by_a_constant_and_far_less_than_its_weights() -> None:
    steps = 12
    bound = 5e-4 * 0.003 * (1 - np.exp(-11 / 20))
    model, _ = made("stdp")
    before = {n: w for n, w in model.weights().items() if w.ndim == 5}
    moved = moves("stdp", steps)
    for name, change in moved.items():
        inside = before[name].detach().abs() < 0.99  # the others are cut to ±1 at the first step
        assert inside.float().mean() > 0.99
        change = change * inside
        assert 0 < change.abs().max() < bound * steps + 1e-7
        assert change.norm() / before[name].norm() < 2e-4


def test_large_initial_weights_are_cut() -> None:
    """Of He's weights for conv1, 2 in 10,000 exceed 1: in one network of five."""
    models = made("stdp", seeds=tuple(range(30)), size=8)
    large = (models[0].weights()["conv1"].abs() > 1).flatten(1).any(1)
    assert 2 <= large.sum() <= 12
    seed = int(large.nonzero()[0, 0])
    model, rule = made("stdp", seeds=(seed,))
    assert model.weights()["conv1"].abs().max() > 1
    rule.step(*batch(0))
    assert model.weights()["conv1"].abs().max() == 1


def pairs_by_hand(pre: Tensor, post: Tensor, late: bool) -> Tensor:
    """Sum over images, positions and pairs, (out, in, 3, 3), of maps (N, C, H, W) of times."""
    n, channels, height, width = post.shape
    change = torch.zeros(channels, pre.shape[1], 3, 3)
    for b, o, i, y, x, ky, kx in np.ndindex(n, channels, pre.shape[1], height, width, 3, 3):
        row, column = y + ky - 1, x + kx - 1
        if not (0 <= row < height and 0 <= column < width):
            continue
        times = post[b, o, y, x], pre[b, i, row, column]
        if late or max(times) < stdp.STEPS:
            change[o, i, ky, kx] += stdp.window(times[0] - times[1]) / n
    return change


@pytest.mark.parametrize("late", [True, False])
def test_spatial_stdp_is_the_sum_over_connected_pairs(late: bool) -> None:
    _, rule = made("stdp", gap_rates=False, silent_as_late=late)
    draws = torch.Generator().manual_seed(1)
    pre, post = (
        stdp.first_spikes(torch.full((1, 2, c, 3, 4), 2.0), [draws]) for c in (2, 3)
    )
    ours = rule._between_positions(pre, post)[0]
    torch.testing.assert_close(ours, pairs_by_hand(pre[0], post[0], late), rtol=1e-4, atol=1e-7)


def test_means_pair_channels_over_the_batch() -> None:
    _, rule = made("stdp")
    pre, post = torch.tensor([[[0.0], [11.0]]]), torch.tensor([[[5.0, 0.0], [11.0, 6.0]]])
    per_image = stdp.window(torch.tensor([[5.0, 0.0], [0.0, -5.0]]))  # (image, output)
    torch.testing.assert_close(rule._between_means(pre, post).view(2), per_image.mean(0))
    _, rule = made("stdp", silent_as_late=False)
    per_image[1] = 0  # the input of the second image is silent
    torch.testing.assert_close(rule._between_means(pre, post).view(2), per_image.mean(0))


def test_only_batch_norm_and_head_follow_the_labels_of_stdp() -> None:
    model, rule = made("stdp")
    rule.step(*batch(0))
    given = {n for n, p in model.named_parameters() if p.grad is not None}
    assert given == {n for n, _ in model.named_parameters() if n.startswith(("bn", "fc"))}
    assert not torch.equal(model.state_dict()["bn3.weight"], torch.ones(1, 128))


# ---- feedback alignment ----


def test_only_convolutions_use_feedback_weights() -> None:
    model, _ = made("fa")
    assert [model.get_submodule(n).feedback is not None for n in ("conv1", "conv2", "conv3")] == [
        False, True, True,
    ]  # fmt: skip
    assert model.fc1.feedback is None
    assert model.fc2.feedback is None
    assert model.conv1.bias is not None
    model, _ = made("fa", true_fc_gradients=False, conv_bias=False)
    assert model.fc1.feedback is not None
    assert model.fc2.feedback is not None
    assert model.conv1.bias is None


# ---- seeds, resumption, evaluation ----


@pytest.mark.parametrize("rule", ["bp", "fa", "pc", "stdp"])
def test_stacked_seeds_equal_each_alone(rule: str) -> None:
    seeds = (5, 9)
    model, built = made(rule, seeds=seeds)
    images, labels = batch(0, seeds=2)
    for _ in range(2):
        built.step(images, labels)
    for index, seed in enumerate(seeds):
        alone, single = made(rule, seeds=(seed,))
        for _ in range(2):
            single.step(images[index, None], labels[index, None])
        expected = alone.seed_state(0)
        for name, value in model.seed_state(index).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=3e-5, msg=name)


@pytest.mark.parametrize("rule", ["bp", "pc", "stdp"])
def test_a_rule_goes_on_from_its_state(rule: str) -> None:
    def second_epoch(model: StackedModel, built: Rule) -> dict[str, Tensor]:
        start_epoch(model, built, 2)
        built.step(*batch(1))
        return dict(model.state_dict())

    model, built = made(rule)
    built.step(*batch(0))
    weights = {n: t.clone() for n, t in model.state_dict().items()}
    state = {n: t.clone() for n, t in built.state_tensors().items()}
    expected = second_epoch(model, built)
    resumed, other = made(rule)
    resumed.load_state_dict(weights)
    other.load_state_tensors(state)
    found = second_epoch(resumed, other)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def run(tmp_path: Path, rule: str, **settings: Any) -> Path:
    config = TrainConfig(
        rule, profile="faithful", seeds=(1,), epochs=1, n_train=128, settings=settings,
        checkpoints=(0, 1), stack="together",
    )  # fmt: skip
    return train(config, tmp_path)


def last(folder: Path) -> Checkpoint:
    return find_checkpoints(folder)[-1]


@pytest.mark.parametrize("rule", ["pc", "stdp"])
def test_evaluation_depends_on_the_other_images_of_the_batch(tmp_path: Path, rule: str) -> None:
    folder = run(tmp_path, rule)
    batches = Batches(replace(load_dataset("digits"), mean=CIFAR_MEAN, std=CIFAR_STD))
    images = next(batches.clean("test"))[0]
    with torch.no_grad():
        model = last(folder).load()
        few, many = (model.features(images[:n], ["conv1"])["conv1"][0, :20] for n in (20, 200))
        assert not torch.allclose(few, many, rtol=1e-2, atol=1e-2)
        steady = last(folder).load("loader")
        few, many = (steady.features(images[:n], ["conv1"])["conv1"][0, :20] for n in (20, 200))
    torch.testing.assert_close(few, many)
    # The accuracy that the run reports is that of such an evaluation.
    reported = metrics_table(folder)["test_accuracy"].iloc[-1]
    assert reported == float(accuracy(last(folder).load(), batches.clean("test")))
    assert reported != float(accuracy(last(folder).load("loader"), batches.clean("test")))


def test_what_is_evaluated_by_its_stimuli_is_its_own_control(tmp_path: Path) -> None:
    """A control with other statistics would measure the mode of batch norm and not learning."""
    for right in (False, True):
        switched = {} if not right else {"batch_statistics_at_evaluation": False}
        folder = run(tmp_path / str(right), "stdp", **switched)
        assert last(folder).has_control == right
        controls = [c for c in find_checkpoints(folder, controls=True) if c.control]
        assert bool(controls) == right


def test_evaluation_put_right_uses_running_statistics(tmp_path: Path) -> None:
    folder = run(tmp_path, "stdp", batch_statistics_at_evaluation=False)
    assert not last(folder).info.batch_statistics
    batches = Batches(replace(load_dataset("digits"), mean=CIFAR_MEAN, std=CIFAR_STD))
    reported = metrics_table(folder)["test_accuracy"].iloc[-1]
    assert reported == float(accuracy(last(folder).load("loader"), batches.clean("test")))


@pytest.mark.parametrize("rule", ["untrained", "bp", "fa", "pc", "stdp"])
def test_normalisation_is_a_switch_of_every_rule(tmp_path: Path, rule: str) -> None:
    data = load_dataset("digits")
    config = TrainConfig(rule, profile="faithful", seeds=(0,), epochs=0)
    assert last(train(config, tmp_path / "published")).info.mean == CIFAR_MEAN
    config = replace(config, settings={"published_normalisation": False})
    assert last(train(config, tmp_path / "own")).info.mean == pytest.approx(data.mean)


def test_other_models_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"whose model is cnn3, got 'vgg5'"):
        TrainConfig("pc", profile="faithful", model="vgg5")
    for rule, model in (("pc", "cnn3"), ("stdp", "vgg5")):
        settings = rule_settings(rule, {}, "faithful")
        with pytest.raises(UnsupportedCaseError, match="published"):
            build_rule(rule, build_model(model, [0], 10), [0], settings, 1, "faithful")


# ---- batch norm ----


def natural(rng: np.random.Generator, n: int, size: int = 32) -> np.ndarray:
    """Images with the 1/f amplitude spectrum of natural ones, (n, size, size, 3) uint8."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    spectrum = np.fft.rfft2(rng.standard_normal((n, 3, size, size)))
    images = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / size), s=(size, size))
    images += images.mean(1, keepdims=True) * 2  # the colours of natural images are correlated
    images /= images.std()
    return np.clip(120 + 63 * images, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def statistics(data: ImageData, model: StackedModel, pad: int | None) -> batchnorm.Statistics:
    augment = None if pad is None else Augment(pad=pad)
    batches = Batches(data, batch_size=64, augment=augment)
    images = (x for x, _ in batches.epoch([0], 1))
    return batchnorm.measured_statistics(model, images, momentum=None)


def test_black_borders_and_not_flips_move_the_statistics(rng: np.random.Generator) -> None:
    images, labels = natural(rng, 256), np.arange(256) % 4
    data = ImageData.from_arrays(images, labels, images[:4], labels[:4])
    model = build_model("cnn3", [0], 4)
    clean, flipped, cropped = (
        statistics(data, model, pad)["bn1.running_mean"] for pad in (None, 0, 4)
    )
    assert float((flipped - clean).abs().mean()) < 0.2 * float((cropped - clean).abs().mean())
    assert float(cropped.std()) > 5 * float(clean.std())


@pytest.mark.data
@pytest.mark.slow
def test_statistics_of_the_loader_take_alignment_from_untrained_networks(data_dir: Path) -> None:
    """On 78 natural images: RDMs of conv1 change, and lose most of their correlation with EVC."""
    seeds = (42, 123, 456)
    data = load_dataset(f"npz:{data_dir}/cifar10/cifar10_jpeg_origorder.npz")
    data = replace(data, mean=CIFAR_MEAN, std=CIFAR_STD)
    batches = Batches(data, {s: data.subset(8000, s) for s in seeds}, augment=Augment())
    model = build_model("cnn3", seeds, 10).eval()
    clean = (x for x, _ in batches.clean_subsets(seeds, 128) if x.shape[1] == 128)
    regimes = {
        "identity": batchnorm.identity_statistics(model),
        "clean": batchnorm.measured_statistics(model, clean, momentum=None),
        "loader": batchnorm.measured_statistics(
            model, (x for x, _ in batches.epoch(seeds, 1)), momentum=0.1
        ),
    }
    stimuli = read_stimuli(data_dir / "fmri78" / "images78.zip")
    brain = rf.read_rdms(data_dir / "fmri78" / "fmri_EVC_RDMs.npz")
    rdms, alignment = {}, {}
    for regime, found in regimes.items():
        batchnorm.set_statistics(model, found)
        features = extract_features(model, stimuli, ["conv1"], preprocess=Preprocess(32))
        rdms[regime] = rf.compute_rdms(features["conv1"])
        alignment[regime] = float(rf.compare(rdms[regime], brain).mean())
    same = {r: np.diag(rf.compare(rdms["identity"], rdms[r])).mean() for r in regimes}
    assert same["loader"] < same["clean"] < 0.9
    assert alignment["loader"] < 0.6 * alignment["identity"]
    assert alignment["loader"] < alignment["clean"] < alignment["identity"]
