"""One pass of images through a network, batch by batch: what `features` writes down.

Networks are evaluated in ``eval()`` mode without gradients, in the dtype of their parameters; modes
and devices are put back afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from rsafast_kernels.device import Device, resolve
from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rsafast_training.models.base import StackedModel
from rsafast_training.stimuli import Decoding, Pixels, Preprocess

Pooling: TypeAlias = Literal["mean", "none"]
# Of each layer: features (S, rows, p), and the shape before flattening.
Batch: TypeAlias = dict[str, tuple[NDArray[np.float32], tuple[int, ...]]]


class Extraction(NamedTuple):
    """A network and what is wanted of it; arguments as of `extract_features`."""

    network: nn.Module
    layers: tuple[str, ...]
    pooling: Pooling
    batch_size: int
    device: Device

    @property
    def batch_statistics(self) -> bool:
        """Whether results depend on the batches: our batch norm set to it, or torch's own."""
        return any(
            getattr(module, "batch_statistics", False)
            or (isinstance(module, _BatchNorm) and module.running_mean is None)
            for module in self.network.modules()
        )

    def batches(
        self, decoding: Decoding, resolution: int, preprocess: Preprocess, labels: Sequence[str]
    ) -> Iterator[tuple[slice, Batch]]:
        """Rows, and for each layer the features (S, rows, p) and the shape before flattening."""
        start, size = 0, self.batch_size
        with (
            _placed(self.network, self.device) as like,
            _evaluating(self.network),
            _activations_of(self.network, self.layers) as activations,
        ):
            while start < len(decoding):
                rows = slice(start, min(start + size, len(decoding)))
                pixels = decoding.read(resolution, rows)
                try:
                    found = activations(self._inputs(pixels, preprocess, like))
                    batch = {n: self._pooled(n, found[n], labels[rows]) for n in self.layers}
                except torch.OutOfMemoryError:
                    size = self._smaller(len(pixels))
                    continue
                yield rows, batch
                start = rows.stop

    def _inputs(self, pixels: Pixels, preprocess: Preprocess, like: Tensor) -> Tensor:
        """What the network sees of pixels, (n, 3, size, size) of the dtype and device of `like`."""
        # A copy, since torch takes no read-only memory.
        images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
        if like.is_cuda:
            images = images.pin_memory().to(like.device, non_blocking=True)
        if not isinstance(self.network, StackedModel):
            # Ours run faster with the channels last, as pixels are stored (1.5 times for one seed
            # of cnn3 at 224 pixels); others may view their maps as vectors.
            images = images.contiguous()
        mean, std = (
            torch.tensor(v, device=images.device).view(3, 1, 1)
            for v in (preprocess.mean, preprocess.std)
        )
        return ((images.float() / 255 - mean) / std).to(like)

    def _smaller(self, n: int) -> int:
        """Half of `n` images, which the memory of the GPU did not hold."""
        if self.batch_statistics:
            raise BackendUnavailableError(
                f"{n} images do not fit in the memory of the GPU, and batch norm takes the "
                "statistics of every batch, so that smaller ones would give other features; use "
                "device='cpu', or a smaller batch_size if they may"
            )
        if n == 1:
            raise BackendUnavailableError(
                "a single image does not fit in the memory of the GPU; use device='cpu', a smaller "
                "size, or fewer seeds at once"
            )
        torch.cuda.empty_cache()
        warnings.warn(
            f"{n} images at once do not fit in the memory of the GPU; going on with {n // 2}",
            stacklevel=2,
        )
        return n // 2

    def _pooled(
        self, name: str, x: Tensor, labels: Sequence[str]
    ) -> tuple[NDArray[np.float32], tuple[int, ...]]:
        shape = tuple(x.shape[2:])
        if self.pooling == "mean" and len(shape) > 1:
            if len(shape) != 3:
                raise InvalidInputError(
                    f"layer {name!r} gives {shape} a stimulus, no maps (C, H, W) to average over "
                    "space; take pooling='none'"
                )
            x = x.mean((-2, -1))
        x = x.flatten(2).float()
        finite = x.isfinite().all(-1)
        if not finite.all():
            seed, row = (~finite).nonzero()[0].tolist()
            raise InvalidInputError(
                f"layer {name!r} is not finite for stimulus {labels[row]!r} (network {seed} of "
                f"{len(x)}); the training of this network diverged, leave it out"
            )
        # A copy where the tensor could be memory that the next layer changes in place.
        return x.cpu().numpy().copy(), shape


@contextmanager
def _placed(network: nn.Module, device: Device) -> Iterator[Tensor]:
    """Have the network where it is to compute, and back afterwards; yield a tensor like its own."""
    before = next(network.parameters(), torch.empty(0))
    home = before.device
    there = home.type if device == "auto" and home.type != "cpu" else resolve(device, "torch")
    if there == home.type:
        yield before
        return
    network.to(there)
    try:
        yield torch.empty(0, dtype=before.dtype, device=there)
    finally:
        network.to(home)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """No gradients, no TF32, and every module in eval() mode until the end."""
    modes = [(module, module.training) for module in network.modules()]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        network.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


@contextmanager
def _activations_of(
    network: nn.Module, layers: Sequence[str]
) -> Iterator[Callable[[Tensor], dict[str, Tensor]]]:
    """Yield a function from images (N, 3, H, W) to {layer: (S, N, ...)}."""
    if isinstance(network, StackedModel):
        yield lambda images: network.features(images, layers)
        return
    found: dict[str, Tensor] = {}

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if name in found:
                raise InvalidInputError(
                    f"layer {name!r} runs several times in one pass, so that its name says no "
                    "single place; choose the module around it or after it"
                )
            # In-place activations, common after convolutions, would change what was recorded.
            found[name] = _one_tensor(name, output).clone().unsqueeze(0)

        return hook

    def activations(images: Tensor) -> dict[str, Tensor]:
        found.clear()
        network(images)
        for name in layers:
            if name not in found:
                raise InvalidInputError(f"layer {name!r} was not reached by the forward pass")
            if found[name].shape[1] != len(images):
                raise InvalidInputError(
                    f"layer {name!r} gives {tuple(found[name].shape[1:])} for {len(images)} "
                    "images, whose first axis is not that of the images; choose another layer"
                )
        return found

    with ExitStack() as stack:
        modules = dict(network.named_modules())
        for name in layers:
            handle = modules[name].register_forward_hook(hook_of(name))
            stack.callback(handle.remove)
        yield activations


def _one_tensor(name: str, output: Any) -> Tensor:
    while isinstance(output, tuple | list) and len(output) == 1:
        output = output[0]
    if isinstance(output, Tensor) and output.ndim >= 2:
        return output
    said = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    if isinstance(output, tuple | list | dict):
        said += f" of {len(output)}"
    raise InvalidInputError(
        f"layer {name!r} gives no tensor (images, ...) but {said}; choose a module inside it"
    )


def chosen_layers(network: nn.Module, layers: Sequence[str] | None) -> tuple[str, ...]:
    """The layers wanted, all of a stacked model by default; raises for unknown ones."""
    if isinstance(layers, str):
        raise InvalidInputError(f"layers must be a sequence of names, got {layers!r}; use a list")
    if isinstance(network, StackedModel):
        known = network.layer_names
        layers = known if layers is None else layers
    else:
        known = tuple(name for name, _ in network.named_modules() if name)
    unknown = sorted(set(layers or ()) - set(known))
    if not layers or unknown or len(set(layers)) < len(layers):
        problem = (
            f"unknown: {', '.join(map(repr, unknown))}" if unknown
            else f"layers must name different layers, got {layers}"
        )  # fmt: skip
        raise InvalidInputError(f"{problem}; {type(network).__name__} has {', '.join(known)}")
    return tuple(layers)
