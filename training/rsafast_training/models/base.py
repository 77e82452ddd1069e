"""What every model offers: S networks side by side, named layers, the weights of one seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from rsafast_kernels.errors import InvalidInputError
from torch import Tensor, nn

from rsafast_training.layers import BatchNorm2d


class StackedModel(nn.Module, ABC):
    """S networks of one shape that differ in their weights.

    Attributes
    ----------
    name : str
    seeds : int
        S, the number of networks.
    init : str
        How its weights are drawn; see :func:`rsafast_training.initialisation.initialise`.
    layer_names : tuple of str
        Layers whose activations :meth:`features` gives.
    """

    name: ClassVar[str]
    init: ClassVar[Literal["torch", "kaiming-normal", "resnet"]] = "torch"
    layer_names: tuple[str, ...]

    def __init__(self, seeds: int) -> None:
        super().__init__()
        self.seeds = seeds

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Map images, (S, N, C, H, W) or (N, C, H, W) for all seeds, to logits (S, N, K)."""

    @abstractmethod
    def features(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Activations of the layers named, (S, N, C, H, W) or (S, N, F), of one forward pass.

        Raises
        ------
        InvalidInputError
            For a layer the model does not have; the message lists those it has.
        """

    def stack_images(self, images: Tensor) -> Tensor:
        """(S, N, C, H, W), or (N, C, H, W) shared by all seeds, as (N, S·C, H, W)."""
        if images.ndim == 4:
            return images if self.seeds == 1 else images.repeat(1, self.seeds, 1, 1)
        return images.transpose(0, 1).flatten(1, 2)

    def unstack_maps(self, maps: Tensor) -> Tensor:
        """(N, S·C, H, W) as (S, N, C, H, W)."""
        n, _, height, width = maps.shape
        return maps.view(n, self.seeds, -1, height, width).transpose(0, 1)

    def check_layers(self, names: Iterable[str]) -> None:
        """Raise for a layer the model does not have."""
        unknown = [name for name in names if name not in self.layer_names]
        if unknown:
            raise InvalidInputError(
                f"{self.name} has no layer {unknown[0]!r}; it has {', '.join(self.layer_names)}"
            )

    def run_batch_norms(self, images: Tensor) -> None:
        """Forward pass for the sake of the statistics that batch norm takes of it."""
        self(images)

    def batch_norms(self) -> dict[str, BatchNorm2d]:
        """Batch-normalisation layers by name."""
        return {name: m for name, m in self.named_modules() if isinstance(m, BatchNorm2d)}

    def weights(self) -> dict[str, nn.Parameter]:
        """Weights of the convolutions and linear layers, by the name of their layer."""
        return {
            name.removesuffix(".weight"): p
            for name, p in self.named_parameters()
            if name.endswith(".weight") and p.ndim > 2
        }

    def seed_state(self, index: int) -> dict[str, Tensor]:
        """Parameters and buffers of one seed, named and shaped as in an ordinary network."""
        return {name: tensor[index].clone() for name, tensor in self.state_dict().items()}

    def load_seed_state(self, index: int, state: Mapping[str, Tensor], source: str) -> None:
        """Set parameters and buffers of one seed.

        Raises
        ------
        InvalidInputError
            For a missing or an unexpected name and for a wrong shape; `source` names the file.
        """
        own = self.state_dict()
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or extra:
            said = [f"lacks {_some(missing)}"] * bool(missing)
            said += [f"holds {_some(extra)}, which the model does not have"] * bool(extra)
            raise InvalidInputError(
                f"{source}: does not fit {self.name}: it {' and '.join(said)}; was it made by "
                "another model or version?"
            )
        for name, tensor in own.items():
            if state[name].shape != tensor.shape[1:]:
                raise InvalidInputError(
                    f"{source}: {name} has shape {tuple(state[name].shape)}, this {self.name} "
                    f"needs {tuple(tensor.shape[1:])}; set the image size and the number of classes"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor[index].copy_(state[name])


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
