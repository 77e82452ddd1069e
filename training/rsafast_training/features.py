"""Activations of networks for a set of stimuli, ready for RDMs.

Two kinds of networks: our stacked models, whose seeds are extracted together, and any
``torch.nn.Module``, whose layers are the names of ``named_modules()``. Images are decoded once for
all checkpoints and resolutions, while the first network computes; batches are written as they come,
so that memory does not grow with the number of stimuli, and the file (docs/training/features.md)
appears once it is whole.

Networks are evaluated in ``eval()`` mode without gradients, in the dtype of their parameters; modes
and devices are put back afterwards. Features are float32.
"""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput, replacing
from rsafast_kernels.device import Device, resolve
from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rsafast_training.checkpoints import Checkpoint
from rsafast_training.models.base import StackedModel
from rsafast_training.stimuli import Decoding, Pixels, Preprocess, Stimuli

Pooling: TypeAlias = Literal["mean", "none"]
Progress: TypeAlias = Callable[[int], None] | None
# Of each layer: features (S, rows, p), and the shape before flattening.
Batch: TypeAlias = dict[str, tuple[NDArray[np.float32], tuple[int, ...]]]

_FORMAT = 1  # of docs/format.md
_RESERVED = ("labels", "stimuli", "names")  # what a reader takes for descriptions at the root
_TEXT = h5py.string_dtype("utf-8")


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A network as it was at one moment of its training.

    Attributes
    ----------
    model : a stacked model, or any module (one seed).
    rule : learning rule, such as "bp"; None where the network was not trained here.
    seeds : one number a network of the stack.
    epoch : epochs trained.
    variant : "trained", or "control" for the untrained network beside it.
    regime : batch-norm statistics, where they are not those of the run.
    run : what groups its datasets; `rule` by default.
    mean, std : of the images it was trained on; those of the preprocessing by default.
    record : more attributes of its datasets.
    """

    model: nn.Module
    rule: str | None = None
    seeds: tuple[int, ...] = (0,)
    epoch: int | None = None
    variant: str = "trained"
    regime: str | None = None
    run: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    record: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = self.model.seeds if isinstance(self.model, StackedModel) else 1
        if len(self.seeds) != expected or len(set(self.seeds)) != expected:
            raise InvalidInputError(
                f"seeds must hold {expected} different numbers, one a network, got {self.seeds}"
            )

    @classmethod
    def load(cls, checkpoint: Checkpoint, regime: str | None = None) -> Checkpointed:
        """Load a checkpoint of a run of ours, as :meth:`Checkpoint.load` does."""
        info = checkpoint.info
        return cls(
            checkpoint.load(regime),
            info.rule,
            (checkpoint.seed,),
            checkpoint.epoch,
            "control" if checkpoint.control else "trained",
            regime,
            info.name,
            _three(info.mean),
            _three(info.std),
            {
                "profile": info.profile,
                "model": info.model,
                "batch_norm": regime or info.batch_norm,
                "trained_on": info.data,
                "sha256_checkpoint": checkpoint.sha256,
            },
        )

    def group(self, seed: int) -> str:
        """Path of the group of one seed: "bp/seed-0/epoch-040", "bp-control/seed-0/epoch-040"."""
        below = (f"seed-{seed}", _epoch_name(self.epoch)) if self.run or self.rule else ()
        return "/".join(filter(None, (self._root, *below)))

    @property
    def _root(self) -> str:
        variant = None if self.variant == "trained" else self.variant
        return "-".join(filter(None, (self.run or self.rule, variant, self.regime)))

    def attributes(self, seed: int) -> dict[str, Any]:
        """What the datasets of one seed say about their network.

        "rule" is the run, a control's or a regime's by a name of its own, so that analyses which
        group networks by "rule" keep them apart.
        """
        said = {
            "rule": self._root, "seed": seed, "epoch": self.epoch,
            "learning_rule": self.rule, "variant": self.variant,
        }  # fmt: skip
        known = {} if self.rule is None else {k: v for k, v in said.items() if v is not None}
        return known | dict(self.record)

    def preprocess(self, step: Preprocess) -> Preprocess:
        """`step` with the mean and standard deviation of this network."""
        mean = step.mean if self.mean is None else self.mean
        return replace(step, mean=mean, std=step.std if self.std is None else self.std)


def _epoch_name(epoch: int | None) -> str:
    return "" if epoch is None else f"epoch-{epoch:03d}"


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def extract_features(
    network: nn.Module,
    stimuli: Stimuli,
    layers: Sequence[str] | None = None,
    *,
    preprocess: Preprocess,
    pooling: Pooling = "mean",
    batch_size: int = 64,
    device: Device = "auto",
    progress: Progress = None,
) -> dict[str, NDArray[np.float32]]:
    """Activations of one network in memory; :func:`features_of_checkpoints` writes a file.

    Parameters
    ----------
    network : stacked model or torch.nn.Module
    stimuli : Stimuli
    layers : sequence of str, optional
        Names of modules; all of ``layer_names`` for a stacked model by default.
    preprocess : Preprocess
    pooling : {"mean", "none"}
        "mean" averages maps (C, H, W) over space, "none" keeps them, flattened.
    batch_size : int
        Images at once. It changes results only where batch norm takes batch statistics. Where the
        memory of a GPU is too small it is halved, with a warning, as often as it takes.
    device : {"auto", "cpu", "cuda"}
        Where to compute. "auto" is the GPU that holds the network, else any that is usable, else
        the CPU.
    progress : function, optional
        Called with the number of images done since its last call.

    Returns
    -------
    {layer: (n, p)} or, for S > 1 seeds, {layer: (S, n, p)}, float32

    Raises
    ------
    InvalidInputError
        For an unknown layer (the known ones are listed), one that gives no single tensor or runs
        several times in a pass, activations that are not finite, and images that cannot be read.
    BackendUnavailableError
        For device="cuda" where there is none; where a single image, or a batch that takes
        statistics of its own, does not fit in the memory of the GPU.
    """
    _check_choices(pooling, batch_size)
    run = _Run(network, _chosen_layers(network, layers), pooling, batch_size, device)
    features: dict[str, NDArray[np.float32]] = {}
    with stimuli.decoding([preprocess]) as decoding:
        for rows, batch in run.batches(decoding, 0, preprocess, stimuli.labels):
            for name, (values, _) in batch.items():
                if name not in features:
                    shape = (len(values), len(stimuli), values.shape[-1])
                    features[name] = np.empty(shape, np.float32)
                features[name][:, rows] = values
            if progress is not None:
                progress(rows.stop - rows.start)
    return {name: x[0] if len(x) == 1 else x for name, x in features.items()}


def features_of_checkpoints(
    checkpoints: Iterable[Checkpointed],
    stimuli: Stimuli,
    preprocess: Preprocess | Sequence[Preprocess],
    layers: Sequence[str] | None = None,
    *,
    out: PathInput,
    pooling: Pooling = "mean",
    batch_size: int = 64,
    device: Device = "auto",
    record: Mapping[str, Any] | None = None,
    progress: Progress = None,
) -> Path:
    """Write the features of every checkpoint at every resolution to one HDF5 file.

    Parameters
    ----------
    checkpoints : iterable of Checkpointed
        Taken one at a time, so that they may be loaded as they are asked for.
    stimuli, layers, pooling, batch_size, device, progress
        As in :func:`extract_features`; `progress` counts images times checkpoints times
        resolutions.
    preprocess : Preprocess or a sequence of them
        The resolutions, which must differ in size.
    out : path
        File to write, .h5 or .hdf5. One that exists is replaced at the end, and kept on failure.
    record : mapping, optional
        More for the provenance of the file; JSON.

    Returns
    -------
    Path of the file. ``rsafast.io.read_features`` reads it: one float32 dataset (n, p) a layer, as
    "bp/seed-0/epoch-040/conv1" ("…/size-032/conv1" with several resolutions; the layer alone where
    there is no rule), and `labels`.

    Raises
    ------
    InvalidInputError
        As :func:`extract_features`; also for no checkpoint, or two of one name, and where the file
        cannot be written.
    """
    _check_choices(pooling, batch_size)
    steps = [preprocess] if isinstance(preprocess, Preprocess) else list(preprocess)
    if not steps or len({p.size for p in steps}) < len(steps):
        raise InvalidInputError(
            f"preprocess must hold sizes that differ, got {[p.size for p in steps]}"
        )
    if Path(out).suffix.lower() not in (".h5", ".hdf5"):
        raise InvalidInputError(f"{out}: features are saved as HDF5; choose a name ending in .h5")
    with (
        replacing(out) as temporary,
        h5py.File(temporary, "x") as file,
        stimuli.decoding(steps, folder=temporary.parent) as decoding,
    ):
        file.create_dataset("labels", data=np.array(stimuli.labels, object), dtype=_TEXT)
        file.attrs.update({"rsafast_format": _FORMAT, "rsafast_kind": "features"})
        count = 0
        for checkpoint in checkpoints:
            chosen = _chosen_layers(checkpoint.model, layers)
            run = _Run(checkpoint.model, chosen, pooling, batch_size, device)
            for resolution, step in enumerate(steps):
                folder = f"size-{step.size:03d}" if len(steps) > 1 else ""
                own = checkpoint.preprocess(step)
                batches = run.batches(decoding, resolution, own, stimuli.labels)
                _write(file, checkpoint, run, own, batches, len(stimuli), folder, progress)
            count += 1
        if not count:
            raise InvalidInputError("checkpoints holds no network; nothing was written")
        file.attrs["provenance"] = json.dumps(
            _provenance(stimuli, steps, decoding.digests(), pooling, batch_size)
            | dict(record or {}),
            ensure_ascii=False,
        )
    return Path(out).expanduser().resolve()


def _write(
    file: h5py.File,
    checkpoint: Checkpointed,
    run: _Run,
    step: Preprocess,
    batches: Iterator[tuple[slice, Batch]],
    n: int,
    folder: str,
    progress: Progress,
) -> None:
    datasets: dict[tuple[str, int], h5py.Dataset] = {}
    for rows, batch in batches:
        for layer, (values, map_shape) in batch.items():
            for s, seed in enumerate(checkpoint.seeds):
                if (layer, s) not in datasets:
                    name = "/".join(filter(None, (checkpoint.group(seed), folder, layer)))
                    datasets[layer, s] = _new_dataset(file, name, n, values.shape[-1])
                    datasets[layer, s].attrs.update(
                        checkpoint.attributes(seed)
                        | {"layer": layer, "size": step.size, "mean": step.mean, "std": step.std}
                        | {"pooling": run.pooling, "map_shape": map_shape}
                        | {"batch_statistics": run.batch_statistics}
                    )
                datasets[layer, s][rows] = values[s]
        if progress is not None:
            progress(rows.stop - rows.start)


def _new_dataset(file: h5py.File, name: str, n: int, p: int) -> h5py.Dataset:
    if name in file or name in _RESERVED:
        raise InvalidInputError(
            f"{name!r} would be written twice: a layer, or a checkpoint of the same rule, seed, "
            "epoch and variant, has that name; set `rule` or `variant`"
        )
    return file.create_dataset(name, (n, p), np.float32)


class _Run(NamedTuple):
    """A network and what is wanted of it."""

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


def _chosen_layers(network: nn.Module, layers: Sequence[str] | None) -> tuple[str, ...]:
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


def _check_choices(pooling: str, batch_size: int) -> None:
    if pooling not in ("mean", "none"):
        raise InvalidInputError(f"pooling must be 'mean' or 'none', got {pooling!r}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidInputError(f"batch_size must be a positive integer, got {batch_size!r}")


def _provenance(
    stimuli: Stimuli,
    steps: Sequence[Preprocess],
    digests: Sequence[str],
    pooling: Pooling,
    batch_size: int,
) -> dict[str, Any]:
    return {
        **{name: _version(name) for name in ("rsafast", "torch", "numpy", "h5py", "pillow")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "stimuli": stimuli.source,
        "unused_images": len(stimuli.unused),
        "preprocess": [
            asdict(step) | {"sha256_pixels": digest[:16]}
            for step, digest in zip(steps, digests, strict=True)
        ],
        "pooling": pooling,
        "batch_size": batch_size,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
