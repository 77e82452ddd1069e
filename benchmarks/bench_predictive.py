"""A step of predictive coding beside one of backpropagation, on cnn3 without batch norm.

Run: ``pytest benchmarks/bench_predictive.py``; ``python benchmarks/bench_predictive.py`` takes the
times in turns, which a busy machine disturbs less, and prints their ratios. T = 7, rate .05, batch
128, 32x32 images, float32. Providers:

- bp: forward, cross-entropy and backward in plain torch, as one writes it;
- bp_channels_last: the same with weights and images channels last, the faster layout of the two;
- autograd: predictive coding as one writes it in torch, the energy's gradient in all values by
  autograd in every step;
- rsafast: `relax` and `gradients`.

With Adam, its step is part of the time. Before any time is taken, gradients are compared: rsafast's
with the prototype's in float64, and with backpropagation's under fixed prediction. Multiplications
of the linear maps, and their ratio to backpropagation's, are stored; it is a floor where these maps
are all of the time.
"""

import sys
import time

import numpy as np
import pytest
import torch
from rsafast_kernels import num_threads, threads
from rsafast_kernels.predictive import Layer, relax
from torch.nn import functional as F

STEPS, RATE, SAMPLES = 7, 0.05, 128
# Multiplications of a sample in each layer.
LAYERS = {"conv1": 32 * 32 * 27 * 32, "conv2": 16 * 16 * 288 * 64, "conv3": 8 * 8 * 576 * 128,
          "fc1": 2048 * 512, "fc2": 512 * 10}  # fmt: skip
SHAPES = [(32, 3, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (512, 2048), (10, 512)]


def parameters():
    draws = torch.Generator().manual_seed(0)
    found = []
    for shape in SHAPES:
        bound = np.prod(shape[1:]) ** -0.5
        found.append((torch.rand(shape, generator=draws) * 2 - 1) * bound)
        found.append((torch.rand(shape[0], generator=draws) * 2 - 1) * bound)
    return [p.requires_grad_() for p in found]


def batch():
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(SAMPLES, 3, 32, 32, generator=draws)
    return images, torch.randint(10, (SAMPLES,), generator=draws)


def predictions(p):
    """The five layers, as functions of the value below."""

    def convolution(i):
        return lambda h: F.max_pool2d(F.relu(F.conv2d(h, p[2 * i], p[2 * i + 1], padding=1)), 2)

    return [
        *(convolution(i) for i in range(3)),
        lambda h: F.relu(F.linear(h.flatten(1), p[6], p[7])),
        lambda h: F.linear(h, p[8], p[9]),
    ]


def backpropagation(p, x, labels):
    h = x
    for predict in predictions(p):
        h = predict(h)
    return torch.autograd.grad(F.cross_entropy(h, labels), p)


def autograd_prototype(p, x, labels):
    layers = predictions(p)

    def energy(values):
        below, total = x, 0.0
        for predict, value in zip(layers, values, strict=False):
            total = total + 0.5 * (value - predict(below)).square().sum()
            below = value
        return total + F.cross_entropy(layers[-1](below), labels, reduction="sum")

    with torch.no_grad():
        values, h = [], x
        for predict in layers[:-1]:
            h = predict(h)
            values.append(h)
    for _ in range(STEPS):
        values = [v.detach().requires_grad_() for v in values]
        slopes = torch.autograd.grad(energy(values), values)
        with torch.no_grad():
            values = [v - RATE * s for v, s in zip(values, slopes, strict=True)]
    return torch.autograd.grad(energy(values) / len(x), p)


def rsafast(p, x, labels, **options):
    acts = ["relu"] * 4 + ["identity"]
    layers = [
        Layer(w[None], b[None], act, 2 if w.ndim == 4 else None, padding=1)
        for w, b, act in zip(p[::2], p[1::2], acts, strict=True)
    ]
    options = {"steps": STEPS, "rate": RATE} | options
    gradients = relax(layers, x, labels[None], **options).gradients()
    return [part[0] for g in gradients for part in (g.weight, g.bias)]


PROVIDERS = {
    "bp": backpropagation,
    "bp_channels_last": backpropagation,
    "autograd": autograd_prototype,
    "rsafast": rsafast,
}


def operations(provider):
    """Multiplications of a step; see `standard` for what is skipped."""
    names, top = list(LAYERS), len(LAYERS) - 1
    total = 0
    for level, name in enumerate(names):
        if provider.startswith("bp"):
            passes = 2 if level == 0 else 3
        elif provider == "autograd":
            passes = 1 + (STEPS + 1) + (0 if level == 0 else STEPS) + 1
        else:
            passes = 2 if level == 0 else 2 + 2 * (STEPS - (top - level))
        total += passes * LAYERS[name] * SAMPLES
    return total


def check_answers():
    """Gradients of a few images, against the prototype in float64: of float32 it keeps too little.

    The first layer's errors are smaller than the rounding of its values, which costs the prototype
    in float32 some 30 % of that layer's gradient.
    """
    p, (x, labels) = parameters(), [part[:16] for part in batch()]
    wide = [q.detach().double().requires_grad_() for q in p]
    ours, theirs = rsafast(p, x, labels), autograd_prototype(wide, x.double(), labels)
    fixed = rsafast(p, x, labels, schedule="fixed-pred", rate=1.0)
    for a, b, c, d in zip(ours, theirs, fixed, backpropagation(p, x, labels), strict=True):
        assert (a - b).norm() < 0.05 * b.norm()
        # Rounding decides which of two nearly equal values of a pooling window wins.
        assert (c - d).norm() < 5e-3 * d.norm()


def made(provider, adam):
    """A step of a provider: gradients, and Adam's update of the parameters."""
    p, (x, labels) = parameters(), batch()
    if provider == "bp_channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
        p = [w.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
             if w.ndim == 4 else w for w in p]  # fmt: skip
    optimiser = torch.optim.Adam(p, lr=1e-3)

    def step():
        gradients = PROVIDERS[provider](p, x, labels)
        if adam:
            for parameter, gradient in zip(p, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()

    return step


@pytest.mark.parametrize("adam", [False, True], ids=["gradients", "adam"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_predictive_step(benchmark, provider, adam):
    check_answers()
    benchmark.extra_info.update(
        multiplications=operations(provider), floor=operations(provider) / operations("bp"),
        threads=num_threads(),
    )  # fmt: skip
    with threads(torch.get_num_threads()):
        benchmark.pedantic(made(provider, adam), rounds=10, warmup_rounds=2)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    check_answers()
    for adam in (False, True):
        steps = {name: made(name, adam) for name in PROVIDERS}
        times = np.empty((rounds + 2, len(steps)))
        with threads(torch.get_num_threads()):
            for row in times:
                for column, step in enumerate(steps.values()):
                    started = time.perf_counter()
                    step()
                    row[column] = time.perf_counter() - started
        times = times[2:]
        print(f"{'with Adam' if adam else 'gradients'}, {torch.get_num_threads()} threads")
        for column, name in enumerate(steps):
            own = times[:, column]
            plain, last = (np.median(own / times[:, other]) for other in (0, 1))
            print(
                f"  {name:17} median {1e3 * np.median(own):7.1f} ms, least {1e3 * own.min():7.1f}; "
                f"over bp {plain:.2f}, over bp_channels_last {last:.2f}; "
                f"multiplications {operations(name) / operations('bp'):.2f}"
            )


if __name__ == "__main__":
    main()
