"""Optimisers of stacked networks: those of torch, with schedule and clipping for each seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rsafast_kernels.errors import InvalidInputError
from torch import Tensor, nn

CAPTURABLE = ("cuda",)  # devices on which torch's own adam and adamw read nothing from the host
_KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """How weights follow their gradients.

    Attributes
    ----------
    optimiser : adam, adamw or sgd.
    lr : learning rate of the first epoch.
    momentum : of sgd.
    weight_decay : L2 penalty (adam, sgd), decoupled for adamw.
    schedule : "cosine" falls to 0 over all epochs, "step" divides by 10 every third of them,
        "constant" stays. Set once an epoch.
    clip_norm : largest norm of the gradient of one network; None never clips.
    eps : added to the root mean square that adam and adamw divide gradients by; layers whose
        gradients are not far above it learn slowly.
    """

    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    clip_norm: float | None = 1.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.optimiser not in _KINDS:
            raise InvalidInputError(
                f"optimiser is {self.optimiser!r}; choose one of {', '.join(_KINDS)}"
            )
        if not self.lr > 0:
            raise InvalidInputError(f"lr must be positive, got {self.lr}")
        if self.schedule not in ("cosine", "step", "constant"):
            raise InvalidInputError(
                f"schedule is {self.schedule!r}; choose cosine, step or constant"
            )


class Optimiser:
    """An optimiser of parameters with a leading axis of seeds.

    Parameters
    ----------
    parameters : what is trained
    settings : see :class:`OptimiserSettings`
    epochs : length of the schedule
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], settings: OptimiserSettings, epochs: int
    ) -> None:
        self.parameters = list(parameters)
        self.settings, self.epochs = settings, epochs
        options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
        if settings.optimiser == "sgd":
            options["momentum"] = settings.momentum
        else:
            options["eps"] = settings.eps
            # Counts its steps where the parameters are, so that it can be recorded and replayed.
            options["capturable"] = all(p.device.type in CAPTURABLE for p in self.parameters)
        self._torch = _KINDS[settings.optimiser](self.parameters, **options)

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate of an epoch, counted from 1."""
        done = (epoch - 1) / self.epochs
        shares = {
            "constant": 1.0,
            "cosine": (1 + math.cos(math.pi * done)) / 2,
            "step": 0.1 ** int(3 * done),
        }
        for group in self._torch.param_groups:
            group["lr"] = self.settings.lr * shares[self.settings.schedule]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._torch.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Clip the gradient of each seed, and move the parameters."""
        if self.settings.clip_norm is not None:
            clip_each_seed(self.parameters, self.settings.clip_norm)
        self._torch.step()

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything the next step depends on, by name."""
        return {
            f"{index}/{name}": value
            for index, slots in self._torch.state_dict()["state"].items()
            for name, value in slots.items()
            if value is not None
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up where :meth:`state_tensors` was called."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, _, name = key.partition("/")
            state.setdefault(int(index), {})[name] = value
        self._torch.load_state_dict(self._torch.state_dict() | {"state": state})


def clip_each_seed(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale the gradients of each seed whose joint norm exceeds `largest` down to it."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    squares = [torch.linalg.vector_norm(g.flatten(1), dim=1) ** 2 for g in gradients]
    norms = torch.stack(squares).sum(0).sqrt()
    scale = (largest / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient *= scale.view(-1, *[1] * (gradient.ndim - 1))
