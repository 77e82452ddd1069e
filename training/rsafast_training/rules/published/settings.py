"""What the settings of every published rule have in common."""

from __future__ import annotations

from dataclasses import dataclass

from rsafast_training.optimisers import OptimiserSettings
from rsafast_training.stimuli import CIFAR_MEAN, CIFAR_STD

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class PublishedSettings:
    """Settings of the untrained control, and of all rules.

    Attributes
    ----------
    published_normalisation : bool
        Images are normalised by constants for CIFAR-10 (mean .4914, .4822, .4465; standard
        deviation .247, .243, .261), whatever the data. Off: by the mean and standard deviation of
        the data's own training images. On CIFAR-10 the difference is below 0.3 %.
    """

    published_normalisation: bool = True

    @property
    def mean(self) -> Triple | None:
        """Of R, G and B; None for those of the data."""
        return CIFAR_MEAN if self.published_normalisation else None

    @property
    def std(self) -> Triple | None:
        """Of R, G and B; None for those of the data."""
        return CIFAR_STD if self.published_normalisation else None


def head_optimiser() -> OptimiserSettings:
    """Adam at 1e-3, constant, of the linear layers beside a local rule."""
    return OptimiserSettings(lr=1e-3, weight_decay=0.0, schedule="constant", clip_norm=None)
