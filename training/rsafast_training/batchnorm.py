"""Batch-normalisation regimes: which statistics a network is evaluated with.

Statistics are most of what "training degrades early visual alignment" rests on in the published
study: a random network evaluated with those of its augmented training batches falls to a fraction
of its alignment under the identity. So the regime is an explicit choice, and every checkpoint has
an untrained control whose statistics come from the same place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from rsafast_kernels.errors import InvalidInputError
from torch import Tensor

from rsafast_training.models.base import StackedModel

Regime = Literal["loader", "clean", "identity", "frozen", "none"]
REGIMES: dict[str, str] = {
    "loader": "trained with batch statistics, evaluated with running averages over the augmented"
    " training batches (PyTorch's usual way)",
    "clean": "trained with batch statistics, evaluated with averages over the training images"
    " without augmentation",
    "identity": "trained with batch statistics, evaluated with mean 0 and variance 1",
    "frozen": "statistics of the untrained network over the training images without augmentation,"
    " fixed from the start, in training too",
    "none": "no batch normalisation; the convolutions have biases",
}
# What a checkpoint of a network trained with batch statistics can be evaluated with.
EVALUATED = ("loader", "clean", "identity")

Statistics = dict[str, Tensor]
_STATISTICS = ("running_mean", "running_var")


def check_regime(regime: str) -> None:
    """Raise for a word that names no regime."""
    if regime not in REGIMES:
        raise InvalidInputError(f"batch_norm is {regime!r}; choose one of {', '.join(REGIMES)}")


def statistics_of(model: StackedModel) -> Statistics:
    """Copy the running statistics, (S, C) by buffer name."""
    return {
        f"{name}.{part}": getattr(norm, part).clone()
        for name, norm in model.batch_norms().items()
        for part in _STATISTICS
    }


def set_statistics(model: StackedModel, statistics: Mapping[str, Tensor]) -> None:
    """Replace the running statistics by those of :func:`statistics_of`."""
    for name, norm in model.batch_norms().items():
        for part in _STATISTICS:
            getattr(norm, part).copy_(statistics[f"{name}.{part}"])


def identity_statistics(model: StackedModel) -> Statistics:
    """Mean 0, variance 1."""
    return {
        name: torch.ones_like(value) if name.endswith("var") else torch.zeros_like(value)
        for name, value in statistics_of(model).items()
    }


@torch.no_grad()
def measured_statistics(
    model: StackedModel, batches: Iterable[Tensor], *, momentum: float | None
) -> Statistics:
    """Statistics that `batches` of images leave behind, from the identity on; the model is kept.

    Parameters
    ----------
    batches : of images, (S, N, C, H, W) or (N, C, H, W)
    momentum : 0.1 for the running averages of training, None for the mean of all batches

    Notes
    -----
    As in training, each layer is normalised by the batch while the statistics of the next are
    taken. Variances are the unbiased ones of the batches.
    """
    with _measuring(model, momentum):
        for images in batches:
            model.run_batch_norms(images)
        return statistics_of(model)


@contextmanager
def _measuring(model: StackedModel, momentum: float | None) -> Iterator[None]:
    """Normalise by the batch, from fresh statistics; give everything back afterwards."""
    norms = list(model.batch_norms().values())
    kept = [(m.momentum, m.batch_statistics, m.num_batches_tracked.clone()) for m in norms]
    before, training = statistics_of(model), model.training
    model.eval()  # dropout off
    for norm in norms:
        norm.reset_statistics()
        norm.momentum, norm.batch_statistics = momentum, True
    try:
        yield
    finally:
        model.train(training)
        set_statistics(model, before)
        for norm, (old_momentum, by_batch, tracked) in zip(norms, kept, strict=True):
            norm.momentum, norm.batch_statistics = old_momentum, by_batch
            norm.num_batches_tracked.copy_(tracked)


@contextmanager
def evaluated_with(
    model: StackedModel, statistics: Mapping[str, Tensor], *, by_batch: bool = False
) -> Iterator[None]:
    """Evaluation mode with the statistics given, or `by_batch` those of every batch.

    Mode and statistics are restored afterwards.
    """
    norms = list(model.batch_norms().values())
    before, training = statistics_of(model), model.training
    tracked = [norm.num_batches_tracked.clone() for norm in norms]
    set_statistics(model, statistics)
    model.eval()
    for norm in norms:
        norm.batch_statistics = by_batch
    try:
        yield
    finally:
        set_statistics(model, before)
        model.train(training)
        for norm, count in zip(norms, tracked, strict=True):
            norm.batch_statistics = False
            norm.num_batches_tracked.copy_(count)
