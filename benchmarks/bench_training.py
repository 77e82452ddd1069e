"""Steps of training side by side: feedback alignment beside backpropagation, seeds stacked or not.

Run: ``pytest benchmarks/bench_training.py``. Before any time is taken, feedback alignment with
B = W is compared with backpropagation, and stacked seeds with seeds trained alone. Pairs of times
that make a ratio are taken in turns.
"""

import time

import numpy as np
import pytest
import torch
from rsafast_training.layers import Conv2d, Linear
from rsafast_training.loop import start_epoch
from rsafast_training.models import build_model
from rsafast_training.rules import build_rule, rule_settings

ROUNDS = 15


def made(rule, seeds, size, **settings):
    """A rule on fresh cnn3 networks, ready for epoch 1."""
    model = build_model("cnn3", seeds, 10, image_size=size)
    found = build_rule(rule, model, seeds, rule_settings(rule, settings), epochs=10)
    start_epoch(model, found, 1)
    return found


def batch(seeds, n, size):
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(seeds, n, 3, size, size, generator=draws)
    return images, torch.randint(10, (seeds, n), generator=draws)


def in_turns(*functions):
    """Seconds of every function in every round, after two rounds that warm up."""
    times = np.empty((ROUNDS + 2, len(functions)))
    for row in times:
        for column, function in enumerate(functions):
            started = time.perf_counter()
            function()
            row[column] = time.perf_counter() - started
    return times[2:]


def gradients(rule, images, labels):
    start_epoch(rule.model, rule, 1)
    rule.optimiser.zero_grad()
    rule.accumulate_gradients(images, labels)
    return torch.cat([p.grad.flatten() for p in rule.model.parameters()])


def check_feedback(size):
    """With B = W the gradients are those of backpropagation."""
    fa, bp = made("fa", (0,), size), made("bp", (0,), size)
    for layer in fa.model.modules():
        if isinstance(layer, Conv2d | Linear) and layer.feedback is not None:
            layer.feedback = layer.weight.detach().clone()
    x = batch(1, 16, size)
    torch.testing.assert_close(gradients(fa, *x), gradients(bp, *x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "n"), [(32, 128), (8, 128)], ids=str)
def test_feedback_alignment_step(benchmark, size, n):
    check_feedback(size)
    fa, bp, x = made("fa", (0,), size), made("bp", (0,), size), batch(1, n, size)
    times = in_turns(lambda: bp.step(*x), lambda: fa.step(*x))
    ours, theirs = np.median(times[:, 1]), np.median(times[:, 0])
    benchmark.extra_info.update(
        fa_seconds=ours, bp_seconds=theirs, ratio=float(np.median(times[:, 1] / times[:, 0]))
    )
    benchmark.pedantic(fa.step, x, rounds=3)


def check_stacking(seeds, size):
    """One step of all seeds leaves the weights that a step of each alone does."""
    images, labels = batch(len(seeds), 16, size)
    together = made("bp", seeds, size)
    together.step(images, labels)
    for index, seed in enumerate(seeds):
        alone = made("bp", (seed,), size)
        alone.step(images[[index]], labels[[index]])
        for name, value in alone.model.weights().items():
            moved = together.model.weights()[name][index]
            # Adam's first step is lr times a sign, which rounding can flip where a gradient is 0.
            assert ((moved - value[0]).abs() > 1e-4).float().mean() < 1e-3


@pytest.mark.parametrize(("size", "n"), [(32, 128), (8, 128), (8, 32)], ids=str)
def test_five_seeds_stacked(benchmark, size, n):
    seeds = (0, 1, 2, 3, 4)
    check_stacking(seeds, size)
    together, x = made("bp", seeds, size), batch(5, n, size)
    alone = [made("bp", (seed,), size) for seed in seeds]
    rows = [(x[0][[s]], x[1][[s]]) for s in range(5)]

    def one_by_one():
        for rule, (images, labels) in zip(alone, rows, strict=True):
            rule.step(images, labels)

    times = in_turns(lambda: together.step(*x), one_by_one)
    benchmark.extra_info.update(
        stacked_seconds=np.median(times[:, 0]), alone_seconds=np.median(times[:, 1]),
        ratio=float(np.median(times[:, 1] / times[:, 0])),
    )  # fmt: skip
    benchmark.pedantic(together.step, x, rounds=3)
