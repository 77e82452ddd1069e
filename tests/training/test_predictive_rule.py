"""Predictive coding of a model: gradients, stacking, frozen batch norm, dropout, settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError
from rsafast_training.loop import start_epoch
from rsafast_training.models import StackedModel, build_model
from rsafast_training.rules import build_rule, rule_settings
from rsafast_training.rules.backprop import Backprop, BackpropSettings
from rsafast_training.rules.base import Rule
from rsafast_training.rules.predictive import PredictiveCoding, PredictiveSettings
from torch import Tensor

pytestmark = pytest.mark.slow

SEEDS = (5, 11)
SIZES = {"cnn3": 8, "vgg5": 16}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"loss": "se", "momentum": 0.3},
    {"solver": "error"},
    {"schedule": "incremental", "rate": 0.2},
]


def network(name: str = "cnn3", batch_norm: bool = False, seeds: Any = SEEDS) -> StackedModel:
    """A small network in float64; a batch norm is frozen at statistics of no special size."""
    model = build_model(name, seeds, 4, image_size=SIZES[name], batch_norm=batch_norm).double()
    for norm in model.batch_norms().values():
        norm.frozen = True
        with torch.no_grad():
            for tensor, low in ((norm.running_mean, -0.1), (norm.running_var, 0.1),
                                (norm.weight, 0.8), (norm.bias, -0.2)):  # fmt: skip
                tensor.copy_(torch.linspace(low, low + 0.3, tensor.shape[1]).expand_as(tensor))
    return model


def batch(seed: int = 1, size: int = 8) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 6, 3, size, size, generator=draws, dtype=torch.float64)
    return images, torch.randint(0, 4, (2, 6), generator=draws)


def predictive(model: StackedModel, seeds: Any = SEEDS, **options: Any) -> PredictiveCoding:
    rule = build_rule("pc", model, seeds, rule_settings("pc", options), epochs=2)
    assert isinstance(rule, PredictiveCoding)
    start_epoch(model, rule, 1)
    return rule


def gradients(rule: Rule) -> dict[str, Tensor]:
    rule.model.zero_grad()
    start_epoch(rule.model, rule, 1)
    rule.accumulate_gradients(*batch(size=SIZES[rule.model.name]))  # type: ignore[attr-defined]
    return {n: p.grad.clone() for n, p in rule.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "batch_norm"), [("cnn3", False), ("cnn3", True), ("vgg5", False)], ids=str
)
def test_fixed_prediction_with_rate_1_is_backpropagation(name: str, batch_norm: bool) -> None:
    """Of every parameter, batch norm's included, under the same dropout."""
    exact = predictive(network(name, batch_norm), schedule="fixed-pred", rate=1.0)
    ours = gradients(exact)
    theirs = gradients(Backprop(network(name, batch_norm), SEEDS, BackpropSettings(), epochs=2))
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-9, atol=1e-13, msg=key)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_parameter_moves(options: dict[str, Any]) -> None:
    model = network(batch_norm=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    predictive(model, **options).step(*batch())
    for name, parameter in model.named_parameters():
        assert (parameter - before[name]).abs().max() > 1e-5, name


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_stacked_seeds_equal_seeds_trained_alone(options: dict[str, Any]) -> None:
    together = network()
    rule = predictive(together, **options)
    rule.step(*batch())
    for index, seed in enumerate(SEEDS):
        alone = network(seeds=(seed,))
        own = predictive(alone, (seed,), **options)
        own.step(*(tensor[index, None] for tensor in batch()))
        for name, value in alone.seed_state(0).items():
            torch.testing.assert_close(
                together.seed_state(index)[name], value, rtol=1e-7, atol=1e-10, msg=name
            )


def test_incremental_takes_a_step_of_the_optimiser_in_every_step_of_inference() -> None:
    rule = predictive(network(batch_norm=True), schedule="incremental", steps=5)
    rule.step(*batch())
    taken = {v.item() for k, v in rule.state_tensors().items() if k.endswith("/step")}
    assert taken == {5.0}


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_a_batch_is_learned(options: dict[str, Any]) -> None:
    model = network().float()
    rule = predictive(model, **options)
    images, labels = batch()
    losses = [rule.step(images.float(), labels).loss for _ in range(12)]
    assert (losses[-1] < 0.9 * losses[0]).all()


def test_without_dropout_every_unit_takes_part() -> None:
    rule = predictive(network())
    assert rule.layers(6)[-1].mask is not None
    rule.model.eval()
    assert all(layer.mask is None for layer in rule.layers(6))


def test_batch_statistics_are_refused() -> None:
    model = network(batch_norm=True)
    next(iter(model.batch_norms().values())).frozen = False
    with pytest.raises(UnsupportedCaseError, match="batch_norm='none' or 'frozen'"):
        predictive(model)


def test_a_model_that_is_no_chain_is_refused() -> None:
    with pytest.raises(UnsupportedCaseError, match="a chain of blocks"):
        predictive(build_model("resnet50", (1,), 4, image_size=32), (1,))


def test_too_few_steps_for_the_depth_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="steps must be at least 4, got 3"):
        predictive(network(), steps=3)
    assert predictive(network(), steps=1, solver="error")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": -1.0}, "rate must be positive"),
        ({"loss": "hinge"}, "loss must be one of ce, se"),
        ({"solver": "error", "schedule": "incremental"}, "solver='error' goes with"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        PredictiveSettings(**options)
