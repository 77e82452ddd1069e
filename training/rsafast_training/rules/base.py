"""What every learning rule does: turn a batch into a change of the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from rsafast_training.models.base import StackedModel


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one batch showed, for each seed.

    Attributes
    ----------
    loss : (S,) mean cross-entropy.
    correct : (S,) number of images classified correctly, as seen while training.
    """

    loss: Tensor
    correct: Tensor

    @classmethod
    def of_logits(cls, logits: Tensor, labels: Tensor) -> StepResult:
        """Score logits (S, N, K) against labels (S, N)."""
        logits = logits.detach()
        loss = cross_entropy(logits, labels)
        return cls(loss, (logits.argmax(-1) == labels).sum(-1))


class Rule(ABC):
    """A learning rule that trains the S networks of a model together.

    Parameters
    ----------
    model : changed in place
    seeds : one a network, for whatever the rule draws
    settings : of the class named by `Settings`
    epochs : planned number of epochs
    """

    name: ClassVar[str]
    Settings: ClassVar[type]
    regime: ClassVar[str] = "loader"  # of batch norm, where none is asked for
    batch_statistics = False  # whether networks are evaluated with those of the batch, a defect

    def __init__(
        self, model: StackedModel, seeds: Sequence[int], settings: Any, epochs: int
    ) -> None:
        self.model, self.seeds, self.settings, self.epochs = model, tuple(seeds), settings, epochs

    def start_epoch(self, epoch: int) -> None:  # noqa: B027
        """Prepare for an epoch, counted from 1. Everything drawn depends on (seed, epoch) only."""

    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Learn from images (S, N, C, H, W) and labels (S, N)."""
        self.prepare(labels.shape[-1])
        return self.learn(images, labels)

    def prepare(self, samples: int) -> None:  # noqa: B027
        """Count, on the host, what the coming step of `samples` images will have done."""

    @property
    def decides(self) -> bool:
        """Whether the coming step, prepared, reads or branches on values: it cannot be replayed."""
        return False

    @abstractmethod
    def learn(self, images: Tensor, labels: Tensor) -> StepResult:
        """Do the work of a step that is prepared.

        It may be recorded once an epoch and replayed (`rsafast_training.graphs`): tensors that
        outlive it change in place, and values come from the host through `from_host` alone.
        """

    def diagnostics(self) -> dict[str, Tensor]:
        """Figures of the rule after an epoch, (S,) each, by name."""
        return {}

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything beside the model that the next step depends on, by name."""
        return {}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take up where :meth:`state_tensors` was called."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each seed, (S,), of logits (S, N, K) and labels (S, N)."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(
        labels.shape
    ).mean(-1)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put `prefix` and a slash before every name."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries under `prefix`, without it."""
    start = f"{prefix}/"
    return {n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)}


def angle_and_ratio(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Angle in degrees between a and b, (S, ...), for each seed, and norm(a) / norm(b)."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    norm_a, norm_b = a.norm(dim=1), b.norm(dim=1)
    cosine = (a * b).sum(1) / (norm_a * norm_b)
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))), norm_a / norm_b
