"""STDP, LIF and predictive coding on a GPU, at the shapes that networks of this project have."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from rsafast_kernels.lif import LIF, LIFState, lif
from rsafast_kernels.predictive import Layer, relax
from rsafast_kernels.predictive.graph import GraphedRelaxation
from rsafast_kernels.stdp import STDP, stdp_conv2d, stdp_linear
from torch import Tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RULE = STDP(0.02, 0.03, 3.0, 2.0)
# Of the sums of LTP and of LTD, before they cancel; half the bits of a product for "tf32".
TOLERANCE = {"exact": 2e-5, "tf32x3": 2e-5, "bf16x3": 5e-5, "ieee": 2e-5, "tf32": 2e-3}
CONVOLUTIONS = [(3, 32, 32), (32, 64, 16), (64, 128, 8)]  # of cnn3 on 32 pixels
LARGE = [(3, 32, 224), (32, 64, 112), (64, 128, 56)]  # on 224


def spikes(*shape: int, rate: float = 0.1, seed: int = 5) -> Tensor:
    draws = torch.Generator("cuda").manual_seed(seed)
    return torch.rand(*shape, generator=draws, device="cuda") < rate


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator("cuda").manual_seed(1), device="cuda")


def assert_change(found: Tensor, pre: Tensor, post: Tensor, w: Tensor, precision: str) -> None:
    """Against float64, relative to LTP and LTD apart."""
    options = {"padding": 1, "backend": "folded"}
    expected = stdp_conv2d(pre, post, w.double(), RULE, **options)
    ltp = stdp_conv2d(pre, post, w.double(), replace(RULE, a_minus=0.0), **options)
    error = (found - expected).abs().max() / ltp.abs().max()
    assert error <= TOLERANCE[precision], float(error)


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
def test_stdp_of_the_studys_convolutions(layer: tuple[int, int, int], precision: str) -> None:
    c_in, c_out, side = layer
    pre, post = spikes(10, 128, c_in, side, side), spikes(10, 128, c_out, side, side, seed=6)
    w = uniform(c_out, c_in, 3, 3)
    found = stdp_conv2d(pre, post, w, RULE, padding=1, backend="triton", precision=precision)
    assert_change(found, pre, post, w, precision)


@pytest.mark.parametrize("layer", LARGE, ids=str)
def test_stdp_at_224_pixels(layer: tuple[int, int, int]) -> None:
    c_in, c_out, side = layer
    pre, post = spikes(4, 8, c_in, side, side), spikes(4, 8, c_out, side, side, seed=6)
    w = uniform(c_out, c_in, 3, 3)
    found = stdp_conv2d(pre, post, w, RULE, padding=1)
    assert_change(found, pre, post, w, "exact")


@pytest.mark.parametrize(("inputs", "outputs"), [(27, 32), (288, 64), (576, 128)])
def test_stdp_of_five_stacked_dense_layers(inputs: int, outputs: int) -> None:
    pre = spikes(8, 5, 512, inputs) * uniform(8, 5, 512, inputs).sub(0.5).sign()
    post, w = spikes(8, 5, 512, outputs, rate=0.01).float(), uniform(5, outputs, inputs)
    found = stdp_linear(pre, post, w, RULE, reduction="sum")
    expected = stdp_linear(pre, post, w.double(), RULE, reduction="sum", backend="folded")
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [
    {"bounds": "soft", "mu": 0.6}, {"bounds": "hard"}, {"pairing": "nearest", "ties": "both"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("precision", ["exact", "tf32x3"])
def test_stdp_rules(options: dict[str, str], precision: str) -> None:
    rule = replace(RULE, **options)
    pre, post, w = spikes(6, 5, 7, 13, 9), spikes(6, 5, 33, 13, 9, seed=6), uniform(33, 7, 3, 3)
    given = {"padding": 1, "backend": "triton", "precision": precision}
    found = stdp_conv2d(pre, post, w, rule, **given)
    expected = stdp_conv2d(pre, post, w.double(), rule, padding=1, backend="folded")
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(found, stdp_conv2d(pre, post, w, rule, **given))


@pytest.mark.parametrize("precision", ["exact", "tf32x3", "ieee"])
def test_a_tuned_stdp_has_the_same_bits(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rsafast_kernels.stdp import triton_

    pre, post = spikes(10, 16, 32, 16, 16), spikes(10, 16, 64, 16, 16, seed=6)
    w = uniform(64, 32, 3, 3)
    given = {"padding": 1, "backend": "triton", "precision": precision}
    usual = stdp_conv2d(pre, post, w, RULE, **given)
    monkeypatch.setenv("RSAFAST_TUNE", "1")
    monkeypatch.setattr(triton_, "_fastest", {})
    for variant in range(6):  # whichever is found fastest
        monkeypatch.setattr(triton_, "fastest", lambda _, all_, run, v=variant: all_[v])
        assert torch.equal(stdp_conv2d(pre, post, w, RULE, **given), usual)


@pytest.mark.parametrize("neuron", [
    LIF(tau=3.3), LIF(tau=8.0, refractory=8, winner_take_all="channels"),
    LIF(theta_plus=0.1, tau_theta=10.0, reset="subtract"),
], ids=["plain", "the STDP rule's", "homeostasis"])  # fmt: skip
@pytest.mark.parametrize("shape", [(10, 128, 64, 16, 16), (8, 5, 512, 128)], ids=str)
def test_lif_gives_the_spikes_of_the_cpu(neuron: LIF, shape: tuple[int, ...]) -> None:
    current = uniform(*shape) * 1.2 - 0.1
    found, state = lif(current, neuron)
    expected, after = lif(current.cpu(), neuron, state=LIFState.rest(current.cpu()))
    assert torch.equal(found.cpu(), expected)
    # Adaptive thresholds add up whole batches, in another order.
    torch.testing.assert_close(state.theta.cpu(), after.theta, rtol=1e-6, atol=1e-6)


def chain(dtype: torch.dtype) -> tuple[list[Layer], Tensor, Tensor]:
    """cnn3 on 32 pixels, two networks."""
    def drawn(*shape: int) -> Tensor:
        return (uniform(*shape) - 0.5).mul(2 * math.prod(shape[2:]) ** -0.5).to(dtype)

    layers = [
        Layer(drawn(2, c_out, c_in, 3, 3), drawn(2, c_out), "relu", pool=2, padding=1)
        for c_in, c_out, _ in CONVOLUTIONS
    ]
    layers += [Layer(drawn(2, 512, 2048), drawn(2, 512), "relu"),
               Layer(drawn(2, 10, 512), drawn(2, 10))]  # fmt: skip
    labels = torch.arange(256, device="cuda").view(2, 128) % 10
    return layers, uniform(128, 6, 32, 32).to(dtype), labels


@pytest.mark.parametrize("options", [
    {"rate": 0.05, "momentum": 0.3}, {"schedule": "fixed-pred", "rate": 1.0}, {"solver": "error"},
], ids=str)  # fmt: skip
def test_relaxations_of_cnn3_match_float64(options: dict[str, object]) -> None:
    found = relax(*chain(torch.float32), steps=7, backend="triton", **options).gradients()
    expected = relax(*chain(torch.float64), steps=7, backend="torch", **options).gradients()
    for ours, theirs in zip(found, expected, strict=True):
        error = (ours.weight - theirs.weight).norm() / theirs.weight.norm()
        assert error < 1e-3, float(error)


def test_a_graphed_relaxation_of_cnn3_replays_the_bits_of_relax() -> None:
    layers, x, labels = chain(torch.float32)
    graph = GraphedRelaxation(layers, x, labels, steps=7)
    other = x.flip(0)
    found = [g.weight.clone() for g in graph(other, labels)[1]]
    for ours, theirs in zip(found, relax(layers, other, labels, steps=7).gradients(), strict=True):
        torch.testing.assert_close(ours, theirs.weight, rtol=1e-4, atol=1e-6)
