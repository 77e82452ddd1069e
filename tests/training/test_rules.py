"""Backpropagation and feedback alignment, stacked and alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError
from rsafast_training.layers import Conv2d, Linear
from rsafast_training.loop import start_epoch
from rsafast_training.models import StackedModel, build_model
from rsafast_training.rules import Rule, build_rule, rule_settings
from torch import Tensor

SEEDS = (5, 11)
SIZE = 8  # of the images: convolutions in float64 are slow


def batch(steps: int = 3) -> list[tuple[Tensor, Tensor]]:
    draws, seeds, n, size = torch.Generator().manual_seed(1), 2, 6, SIZE
    return [
        (
            torch.randn(seeds, n, 3, size, size, generator=draws, dtype=torch.float64),
            torch.randint(0, 4, (seeds, n), generator=draws),
        )
        for _ in range(steps)
    ]


def trained(rule: str, seeds: tuple[int, ...], which: list[int], **settings: Any) -> StackedModel:
    """A small network in float64 after three steps; row s of the batches goes to seed s."""
    model = build_model("cnn3", seeds, 4, image_size=SIZE).double()
    made = build_rule(rule, model, seeds, rule_settings(rule, settings), epochs=2)
    start_epoch(model, made, 1)
    for images, labels in batch():
        made.step(images[which], labels[which])
    return model


RULES = [
    ("bp", {}),
    ("bp", {"optimiser": "sgd", "lr": 0.05}),
    ("fa", {}),
    ("fa", {"layers": "conv"}),
    ("fa", {"variant": "dfa"}),
    ("fa", {"variant": "sign"}),
]


@pytest.mark.parametrize(("rule", "settings"), RULES, ids=str)
def test_stacked_seeds_equal_seeds_trained_alone(rule: str, settings: dict[str, Any]) -> None:
    together = trained(rule, SEEDS, [0, 1], **settings)
    for index, seed in enumerate(SEEDS):
        alone = trained(rule, (seed,), [index], **settings)
        for name, value in alone.seed_state(0).items():
            torch.testing.assert_close(
                together.seed_state(index)[name], value, rtol=1e-9, atol=1e-11, msg=name
            )


def gradients(rule: Rule) -> dict[str, Tensor]:
    (images, labels), *_ = batch(1)
    rule.model.zero_grad()
    start_epoch(rule.model, rule, 1)
    rule.accumulate_gradients(images, labels)  # type: ignore[attr-defined]
    return {n: p.grad.clone() for n, p in rule.model.named_parameters() if p.grad is not None}


def make(rule: str, **settings: Any) -> Rule:
    model = build_model("cnn3", SEEDS, 4, image_size=SIZE).double()
    return build_rule(rule, model, SEEDS, rule_settings(rule, settings), epochs=2)


def test_feedback_alignment_equals_backpropagation_where_b_is_w() -> None:
    fa = make("fa")
    for module in fa.model.modules():
        if isinstance(module, Conv2d | Linear) and module.feedback is not None:
            module.feedback = module.weight.detach().clone()
    ours, theirs = gradients(fa), gradients(make("bp"))
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-10, atol=1e-14)


def test_feedback_alignment_differs_from_backpropagation_below_the_last_layer_only() -> None:
    ours, theirs = gradients(make("fa")), gradients(make("bp"))
    for name in ("fc2.weight", "fc2.bias"):
        torch.testing.assert_close(ours[name], theirs[name])
    for name in ("fc1.weight", "conv3.weight", "conv1.weight"):
        assert (ours[name] - theirs[name]).norm() > 0.3 * theirs[name].norm()


def test_feedback_on_convolutions_alone_leaves_linear_gradients_exact() -> None:
    ours, theirs = gradients(make("fa", layers="conv")), gradients(make("bp"))
    for name in ("fc2.weight", "fc1.weight", "conv3.weight"):
        torch.testing.assert_close(ours[name], theirs[name])
    assert not torch.allclose(ours["conv2.weight"], theirs["conv2.weight"])


def test_sign_feedback_keeps_signs_and_size() -> None:
    rule = make("fa", variant="sign")
    sizes = {n: m.feedback.flatten(1).norm(dim=1) for n, m in rule._layers.items()}  # type: ignore[attr-defined]
    for images, labels in batch():
        before = {n: m.weight.detach().clone() for n, m in rule._layers.items()}  # type: ignore[attr-defined]
        start_epoch(rule.model, rule, 1)
        rule.step(images, labels)
        for name, layer in rule._layers.items():  # type: ignore[attr-defined]
            assert torch.equal(layer.feedback.sign(), before[name].sign())
            torch.testing.assert_close(layer.feedback.flatten(1).norm(dim=1), sizes[name])


def test_direct_feedback_is_local_to_each_block() -> None:
    """The gradient of a block is that of its output times the projected error."""
    rule = make("fa", variant="dfa")
    found = gradients(rule)
    rule_model = rule.model
    (images, labels), *_ = batch(1)
    start_epoch(rule_model, rule, 1)
    x, outputs = rule_model.stack_images(images), []
    for block in rule_model.blocks:  # type: ignore[attr-defined]
        x = block(rule_model.block_input(block, x.detach()))  # type: ignore[operator]
        outputs.append(x)
    error = (outputs[-1].softmax(-1) - torch.nn.functional.one_hot(labels, 4)) / labels.shape[1]
    taught = rule._projected(error.detach(), "conv2", outputs[1])  # type: ignore[attr-defined]
    (wanted,) = torch.autograd.grad((outputs[1] * taught).sum(), rule_model.conv2.weight)
    torch.testing.assert_close(found["conv2.weight"], wanted)


def test_alignment_is_reported_for_every_layer_with_feedback() -> None:
    rule = make("fa")
    reported = rule.diagnostics()
    assert sorted(reported) == sorted(
        f"{what}/{layer}" for what in ("angle", "norm_ratio")
        for layer in ("conv2", "conv3", "fc1", "fc2")
    )  # fmt: skip
    layer = rule.model.fc2
    layer.feedback = layer.weight.detach() * 2
    assert rule.diagnostics()["angle/fc2"].tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    assert rule.diagnostics()["norm_ratio/fc2"].tolist() == pytest.approx([0.5, 0.5])


def test_untrained_networks_stay_as_drawn() -> None:
    model = trained("untrained", SEEDS, [0, 1])
    fresh = build_model("cnn3", SEEDS, 4, image_size=SIZE).double()
    for name, weight in model.weights().items():
        assert torch.equal(weight, fresh.weights()[name])


# ---- settings ----------------------------------------------------------------------------------


def test_settings_are_reached_by_name_and_read_from_text() -> None:
    settings = rule_settings("fa", {"lr": "0.01", "variant": "dfa", "clip_norm": "none"})
    assert settings.optimiser.lr == 0.01
    assert settings.optimiser.clip_norm is None
    assert settings.variant == "dfa"


@pytest.mark.parametrize(
    ("rule", "changes", "said"),
    [
        ("bq", {}, "rule is 'bq'; choose one of untrained, bp, fa"),
        ("bp", {"gamma": 1}, "no setting 'gamma'; it has optimiser, lr, momentum"),
        ("bp", {"lr": "fast"}, "lr='fast' is no number"),
        ("bp", {"lr": "-1"}, "lr must be positive, got -1"),
        ("bp", {"optimiser": "lion"}, "choose one of adam, adamw, sgd"),
        ("fa", {"variant": "fb"}, "choose fa, dfa or sign"),
        ("untrained", {"lr": "1"}, "no setting 'lr'; it has none"),
    ],
)
def test_wrong_settings_name_the_way_out(rule: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        rule_settings(rule, changes)


def test_direct_feedback_needs_a_chain() -> None:
    model = build_model("resnet50", (0,), 4, image_size=32)
    with pytest.raises(UnsupportedCaseError, match="use variant='fa'"):
        build_rule("fa", model, (0,), rule_settings("fa", {"variant": "dfa"}), 1)
