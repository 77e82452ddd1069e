"""STDP of a convolution beside SpikingJelly's learner; the answers are compared first.

Run: ``pytest benchmarks/bench_stdp.py --benchmark-group-by=param:layer,param:rate``. The peer is
``stdp_conv2d_step`` of SpikingJelly 2.0, called once a time step as its own STDPLearner does, on
inputs that are padded outside the timing (``pip install --no-deps spikingjelly loguru tqdm``). The
provider "one gradient" is the floor of a dense method: the weight gradient of torch alone, traces
not counted; its ``gflop_per_s`` is to be compared with that of "matrix product".
"""

from __future__ import annotations

import pytest
import torch
from rsafast_kernels import num_threads
from rsafast_kernels.stdp import STDP, stdp_conv2d
from rsafast_kernels.stdp.folded import _weight_gradient
from rsafast_kernels.stdp.geometry import Geometry

STEPS, BATCH = 10, 16
LAYERS = {"3-32, 32x32": (3, 32, 32), "32-64, 16x16": (32, 64, 16), "64-128, 8x8": (64, 128, 8)}
RATES = [0.05, 0.1, 0.2]
# SpikingJelly's rule: both traces are updated before use, decay 1 - 1/tau.
RULE = STDP(1.0, 1.0, 2.0, 2.0, decay="euler", ties="both")


def trains(layer: str, rate: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    c_in, c_out, size = LAYERS[layer]
    generator = torch.Generator().manual_seed(0)
    pre, post = (
        (torch.rand(STEPS, BATCH, c, size, size, generator=generator) < rate).float()
        for c in (c_in, c_out)
    )
    return pre, post, torch.zeros(c_out, c_in, 3, 3)


def spikingjelly(pre, post, weight):
    from spikingjelly.activation_based.functional.learning import stdp_conv2d_step

    trace = torch.zeros_like(pre[0]), torch.zeros_like(post[0])
    change = torch.zeros_like(weight)
    for x, y in zip(pre, post, strict=True):
        step, trace = stdp_conv2d_step(
            x, y, trace, weight, stride=(1, 1), tau_pre=2.0, tau_post=2.0,
            f_pre=torch.ones_like, f_post=torch.ones_like,
        )  # fmt: skip
        change += step
    return change


def rsafast(pre, post, weight, backend="auto"):
    return stdp_conv2d(pre, post, weight, RULE, padding=1, reduction="sum", backend=backend)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads())
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("provider", ["auto", "folded", "sparse", "spikingjelly"])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("layer", LAYERS)
def test_stdp_conv2d(benchmark, layer, rate, provider):
    pre, post, weight = trains(layer, rate)
    if provider == "spikingjelly":
        pytest.importorskip("spikingjelly.activation_based.functional.learning")
        pre = torch.nn.functional.pad(pre, (1, 1, 1, 1))
        benchmark.pedantic(spikingjelly, (pre, post, weight), rounds=2, warmup_rounds=0)
        return
    exact = rsafast(pre, post, weight.double(), "folded")
    error = (rsafast(pre, post, weight, provider) - exact).abs().max() / exact.abs().max()
    assert error < 1e-3
    benchmark.extra_info["relative_error"] = error.item()
    benchmark.pedantic(rsafast, (pre, post, weight, provider), rounds=20, warmup_rounds=3)


def test_answers_equal_spikingjelly():
    pytest.importorskip("spikingjelly.activation_based.functional.learning")
    for layer in LAYERS:
        pre, post, weight = trains(layer, 0.1)
        pre, post = pre[:, :2], post[:, :2]
        padded = torch.nn.functional.pad(pre, (1, 1, 1, 1))
        expected = spikingjelly(padded.double(), post.double(), weight.double())
        for backend in ("folded", "sparse"):
            got = rsafast(pre, post, weight, backend).double()
            assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("provider", ["one gradient", "matrix product"])
@pytest.mark.parametrize("layer", LAYERS)
def test_floor(benchmark, layer, provider):
    pre, post, weight = trains(layer, 0.1)
    if provider == "one gradient":
        geometry = Geometry(tuple(weight.shape), pre.shape[3:], post.shape[3:], padding=(1, 1))
        flop = 2 * post.numel() * weight[0].numel()
        arguments = _weight_gradient, (pre.flatten(0, 1), post.flatten(0, 1), geometry)
    else:
        square = torch.rand(768, 768)
        flop = 2 * 768**3
        arguments = torch.matmul, (square, square)
    benchmark.pedantic(*arguments, rounds=20, warmup_rounds=3)
    if benchmark.stats:
        benchmark.extra_info["gflop_per_s"] = flop / 1e9 / benchmark.stats.stats.min
