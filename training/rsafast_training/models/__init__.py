"""Networks: `cnn3` and `vgg5`, chains that every rule trains, and `resnet50`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rsafast_kernels.errors import InvalidInputError

from rsafast_training.initialisation import Scheme, initialise
from rsafast_training.models.base import StackedModel
from rsafast_training.models.chain import Block, Chain
from rsafast_training.models.cnn3 import Cnn3
from rsafast_training.models.cnn3_predictive import PredictiveCnn3
from rsafast_training.models.resnet50 import ResNet50
from rsafast_training.models.vgg5 import Vgg5

__all__ = ["MODELS", "Block", "Chain", "StackedModel", "build_model"]


def _cnn3(
    seeds: int, classes: int, *, predictive: Mapping[str, Any] | None = None, **options: Any
) -> Cnn3:
    """Make a Cnn3, or one with the options of :class:`PredictiveCnn3` in `predictive`."""
    if predictive is None:
        return Cnn3(seeds, classes, **options)
    return PredictiveCnn3(seeds, classes, **predictive, **options)


MODELS: dict[str, Callable[..., StackedModel]] = {
    "cnn3": _cnn3,
    "vgg5": Vgg5,
    "resnet50": ResNet50,
}


def build_model(
    name: str,
    seeds: Sequence[int],
    classes: int,
    *,
    image_size: int = 32,
    batch_norm: bool | None = None,
    init: Scheme | None = None,
    **options: Any,
) -> StackedModel:
    """Make and initialise one network a seed.

    Parameters
    ----------
    name : "cnn3", "vgg5" or "resnet50"
    seeds : of the initial weights; one network each
    classes : number of classes K
    image_size : side of the training images in pixels
    batch_norm : with or without; by default as the model was published
    init : see :func:`rsafast_training.initialisation.initialise`; by default the model's own
    options : further parameters of the model's class

    Raises
    ------
    InvalidInputError
        For an unknown name, and images too small for the model.
    """
    if name not in MODELS:
        raise InvalidInputError(f"model is {name!r}; choose one of {', '.join(MODELS)}")
    if batch_norm is not None:
        options["batch_norm"] = batch_norm
    model = MODELS[name](len(seeds), classes, image_size=image_size, **options)
    initialise(model, seeds, init or model.init)
    return model
