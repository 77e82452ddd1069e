"""STDP of convolutions: what moves, what does not, and that it follows the timing of spikes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError
from rsafast_training.data import load_dataset, normalise
from rsafast_training.layers import Conv2d
from rsafast_training.loop import start_epoch
from rsafast_training.models import StackedModel, build_model
from rsafast_training.rules.base import Rule
from rsafast_training.rules.stdp import PlasticConvolution, SpikeTiming, STDPSettings, encode
from torch import Tensor

pytestmark = pytest.mark.slow

SEEDS = (5, 11)
CONVOLUTIONS = ("conv1", "conv2", "conv3")


def digits(steps: int, seeds: int = 2, batch: int = 24) -> list[tuple[Tensor, Tensor]]:
    """Batches of digits, (S, N, 3, 8, 8) and (S, N), other ones for every seed."""
    data = load_dataset("digits")
    draws, found = torch.Generator().manual_seed(3), []
    for _ in range(steps):
        rows = torch.randint(len(data.train_images), (seeds, batch), generator=draws).numpy()
        x = torch.from_numpy(data.train_images[rows.ravel()]).permute(0, 3, 1, 2)
        images = normalise(x, data.mean, data.std).view(seeds, batch, -1, 8, 8)
        found.append((images, torch.from_numpy(data.train_labels[rows]).long()))
    return found


def make(seeds: tuple[int, ...] = SEEDS, epochs: int = 4, **settings: Any) -> SpikeTiming:
    model = build_model("cnn3", seeds, 10, image_size=8)
    rule = SpikeTiming(model, seeds, STDPSettings(**settings), epochs)
    start_epoch(model, rule, 1)
    return rule


def weights(model: StackedModel) -> dict[str, Tensor]:
    return {name: w.detach().clone() for name, w in model.weights().items()}


def steps(rule: Rule, batches: list[tuple[Tensor, Tensor]]) -> None:
    for images, labels in batches:
        rule.step(images, labels)


def test_all_layers_move_and_convolutions_keep_the_length_of_their_filters() -> None:
    rule = make()
    before = weights(rule.model)
    steps(rule, digits(4))
    for name, after in weights(rule.model).items():
        moved = (after - before[name]).flatten(1).norm(dim=1) / before[name].flatten(1).norm(dim=1)
        assert after.isfinite().all()
        assert (moved > (0.1 if name in CONVOLUTIONS else 1e-3)).all(), name
    for name in CONVOLUTIONS:
        lengths = [w[name].flatten(2).norm(dim=2) for w in (before, weights(rule.model))]
        torch.testing.assert_close(*lengths, rtol=1e-4, atol=0)


def test_no_gradient_and_no_label_reaches_the_convolutions() -> None:
    batches, rules = digits(3), [make(), make()]
    steps(rules[0], batches)
    steps(rules[1], [(images, (labels + 1) % 10) for images, labels in batches])
    first, second = (weights(rule.model) for rule in rules)
    for name in first:
        assert torch.equal(first[name], second[name]) == (name in CONVOLUTIONS), name
    untouched = rules[0].model.named_parameters()
    for name, parameter in untouched:
        if not name.startswith("fc"):
            assert parameter.grad is None, name
        if name.startswith("bn") and name.endswith("weight"):
            assert torch.equal(parameter, torch.ones_like(parameter)), name


def test_the_same_seeds_and_images_give_the_same_bits() -> None:
    found = []
    for _ in range(2):
        rule = make()
        steps(rule, digits(3))
        found.append(rule.model.state_dict())
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_stacked_seeds_equal_seeds_trained_alone() -> None:
    batches, together = digits(3), make()
    steps(together, batches)
    for index, seed in enumerate(SEEDS):
        alone = make((seed,))
        steps(alone, [(x[index : index + 1], y[index : index + 1]) for x, y in batches])
        for name, value in alone.model.seed_state(0).items():
            found = together.model.seed_state(index)[name].double()
            scale = float(value.double().norm()) or 1.0
            assert float((found - value).norm()) < 1e-3 * scale, name


def test_a_resumed_run_goes_on_to_the_same_bits() -> None:
    batches, whole = digits(6), make()
    steps(whole, batches[:3])
    stored, model = whole.state_tensors(), whole.model.state_dict()
    stored = {name: value.clone() for name, value in stored.items()}
    resumed = make()
    resumed.model.load_state_dict({name: value.clone() for name, value in model.items()})
    resumed.load_state_tensors(stored)
    for rule in (whole, resumed):
        start_epoch(rule.model, rule, 2)
        steps(rule, batches[3:])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_larger_components_spike_earlier_with_their_sign() -> None:
    spikes = encode(torch.tensor([0.0, 0.5, -1.0, 2.0, -4.0]), 8)
    assert spikes.abs().sum(0).tolist() == [0, 1, 1, 1, 1]
    times = spikes.abs().argmax(0)[1:]
    assert (times.diff() <= 0).all()
    assert times[0] > times[-1]
    assert spikes.sum(0).sign().tolist() == [0, 1, -1, 1, -1]
    torch.testing.assert_close(spikes, encode(3 * torch.tensor([0.0, 0.5, -1.0, 2.0, -4.0]), 8))


def one_convolution(**settings: Any) -> PlasticConvolution:
    convolution = Conv2d(1, 3, 32, 3, padding=1)
    layer = PlasticConvolution(convolution, STDPSettings(**settings))
    layer.start_epoch(1.0, [torch.Generator().manual_seed(0)])
    return layer


def test_input_before_the_spike_potentiates_and_input_after_it_depresses() -> None:
    layer = one_convolution(steps=4)
    layer.state["theta"].fill_(-0.6)
    synapses = torch.zeros(1, 32, 27)
    synapses[0, 0, :2] = math.sqrt(0.5)
    synapses[0, 1:, 26] = 1.0
    pre = torch.zeros(4, 1, 1, 27)
    pre[0, 0, 0, 0] = pre[1, 0, 0, 1] = 2.0  # makes channel 0 spike at step 1
    pre[0, 0, 0, 2], pre[1, 0, 0, 3], pre[2, 0, 0, 4], pre[3, 0, 0, 5] = 1, -1, 1, -1
    after = layer._after_spikes(synapses, pre)
    change = after[0, 0, 2:6].tolist()
    assert layer.wins[0].tolist() == [1.0] + [0.0] * 31
    assert change[0] > 0 > change[1]  # up to the spike: towards the sign of the input
    assert change[2] < 0 < change[3]  # after it: away from it
    assert abs(change[1]) > abs(change[0])  # the nearer in time, the more
    assert abs(change[2]) > abs(change[3])
    torch.testing.assert_close(after[0, 1:], synapses[0, 1:])  # silenced channels keep theirs


def test_thresholds_even_out_how_often_channels_spike() -> None:
    layer, draws = one_convolution(), torch.Generator().manual_seed(4)
    layer.state["theta"].fill_(-0.6)
    synapses = torch.nn.functional.normalize(torch.randn(1, 32, 27, generator=draws) + 0.3, dim=-1)
    for part in range(2):
        layer.start_epoch(0.0, [])
        for _ in range(100):
            patches = torch.randn(1, 200, 27, generator=draws)
            layer._after_spikes(synapses, encode(patches + patches.mean(-1, keepdim=True), 8))
        shares = layer.wins / (100 * 200)
        if part == 1:
            assert shares.sum().item() == pytest.approx(0.9, abs=0.02)
            assert shares.amin().item() > 0.8 * 0.9 / 32
            assert shares.amax().item() < 1.2 * 0.9 / 32
    layer = one_convolution()
    layer.state["theta"].fill_(-0.6)  # equal thresholds: far from equal spikes
    layer._after_spikes(synapses, encode(patches + patches.mean(-1, keepdim=True), 8))
    assert (layer.wins / 200).amin().item() < 0.2 * 0.9 / 32


def test_thresholds_begin_where_most_patches_make_a_channel_spike() -> None:
    rule = make((5,))
    steps(rule, digits(1, seeds=1, batch=64))
    for name in CONVOLUTIONS:
        assert rule.diagnostics()[f"spiking/{name}"].item() == pytest.approx(0.9, abs=0.02), name


def test_the_last_epoch_is_the_readouts() -> None:
    rule = make(epochs=2)
    steps(rule, digits(2))
    start_epoch(rule.model, rule, 2)
    before = weights(rule.model)
    steps(rule, digits(1))
    for name, after in weights(rule.model).items():
        assert torch.equal(after, before[name]) == (name in CONVOLUTIONS), name
    assert rule.diagnostics() == {}


def test_the_encoder_decorrelates_and_the_decoder_undoes_it() -> None:
    layer = one_convolution(whitening=1e-3)
    mixing = torch.randn(27, 27, generator=torch.Generator().manual_seed(1))
    patches = (torch.randn(1, 4000, 27, generator=torch.Generator().manual_seed(2)) + 1) @ mixing
    layer.prepare(1000)
    layer._observe(patches)
    z = (patches - layer.state["mean"][:, None]) @ layer.state["encoder"]
    correlations = torch.corrcoef(z[0].T) - torch.eye(27)
    assert correlations.abs().max() < 0.15
    assert (torch.corrcoef(patches[0].T) - torch.eye(27)).abs().max() > 0.5
    product = layer.state["encoder"] @ layer.state["decoder"]
    torch.testing.assert_close(product[0], torch.eye(27), rtol=0, atol=1e-3)


def test_constant_images_leave_finite_weights() -> None:
    rule = make((5,))
    steps(rule, [(torch.zeros(1, 8, 3, 8, 8), torch.zeros(1, 8, dtype=torch.int64))] * 3)
    assert all(w.isfinite().all() for w in weights(rule.model).values())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"patches": 0}, "patches"),
        ({"steps": 1}, "steps"),
        ({"rate": -1.0}, "rate"),
        ({"whitening": 0.0}, "whitening"),
        ({"repulsion": 1.5}, "repulsion"),
        ({"tau_plus": 0.0}, "tau_plus"),
    ],
    ids=lambda value: str(value),
)
def test_wrong_settings_are_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        STDPSettings(**wrong)


def test_a_network_that_is_no_chain_is_refused() -> None:
    model = build_model("resnet50", (0,), 10, image_size=32)
    with pytest.raises(UnsupportedCaseError, match="resnet50"):
        SpikeTiming(model, (0,), STDPSettings(), 1)
