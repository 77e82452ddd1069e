"""Activations of networks for a set of stimuli, ready for RDMs.

Two kinds of networks: our stacked models, whose seeds are extracted together, and any
``torch.nn.Module``, whose layers are the names of ``named_modules()``. Images are decoded once for
all checkpoints and resolutions, batches are written as they come, so that memory does not grow with
the number of stimuli, and the file (docs/training/features.md) appears once it is whole.

Networks are evaluated in ``eval()`` mode without gradients, on the device and in the dtype of their
parameters; their modes are put back afterwards. Features are float32.
"""

from __future__ import annotations

import hashlib
import json
import platform
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
from rsafast_kernels.errors import InvalidInputError
from torch import Tensor, nn

from rsafast_training.checkpoints import Checkpoint
from rsafast_training.models.base import StackedModel
from rsafast_training.stimuli import Pixels, Preprocess, Stimuli

Pooling: TypeAlias = Literal["mean", "none"]
Progress: TypeAlias = Callable[[int], None] | None

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
    progress: Progress = None,
) -> dict[str, NDArray[np.float32]]:
    """Activations of one network in memory; :func:`features_of_checkpoints` writes a file.

    Parameters
    ----------
    network : stacked model or torch.nn.Module
        On any device. Stays where it is.
    stimuli : Stimuli
    layers : sequence of str, optional
        Names of modules; all of ``layer_names`` for a stacked model by default.
    preprocess : Preprocess
    pooling : {"mean", "none"}
        "mean" averages maps (C, H, W) over space, "none" keeps them, flattened.
    batch_size : int
        Images at once. It changes results only where batch norm takes batch statistics.
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
    """
    _check_choices(pooling, batch_size)
    run = _Run(network, _chosen_layers(network, layers), pooling, batch_size)
    (pixels,) = stimuli.pixels([preprocess])
    features: dict[str, NDArray[np.float32]] = {}
    for rows, batch in run.batches(pixels, preprocess, stimuli.labels):
        for name, (values, _) in batch.items():
            if name not in features:
                features[name] = np.empty((len(values), len(stimuli), values.shape[-1]), np.float32)
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
    record: Mapping[str, Any] | None = None,
    progress: Progress = None,
) -> Path:
    """Write the features of every checkpoint at every resolution to one HDF5 file.

    Parameters
    ----------
    checkpoints : iterable of Checkpointed
        Taken one at a time, so that they may be loaded as they are asked for.
    stimuli, layers, pooling, batch_size, progress
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
    with replacing(out) as temporary, h5py.File(temporary, "x") as file:
        pixels = stimuli.pixels(steps, folder=temporary.parent)
        file.create_dataset("labels", data=np.array(stimuli.labels, object), dtype=_TEXT)
        file.attrs.update({"rsafast_format": _FORMAT, "rsafast_kind": "features"})
        file.attrs["provenance"] = json.dumps(
            _provenance(stimuli, steps, pixels, pooling, batch_size) | dict(record or {}),
            ensure_ascii=False,
        )
        count = 0
        for checkpoint in checkpoints:
            run = _Run(
                checkpoint.model, _chosen_layers(checkpoint.model, layers), pooling, batch_size
            )
            for step, images in zip(steps, pixels, strict=True):
                folder = f"size-{step.size:03d}" if len(steps) > 1 else ""
                own = checkpoint.preprocess(step)
                _write(file, checkpoint, run, own, images, stimuli.labels, folder, progress)
            count += 1
        if not count:
            raise InvalidInputError("checkpoints holds no network; nothing was written")
    return Path(out).expanduser().resolve()


def _write(
    file: h5py.File,
    checkpoint: Checkpointed,
    run: _Run,
    step: Preprocess,
    images: Pixels,
    labels: Sequence[str],
    folder: str,
    progress: Progress,
) -> None:
    datasets: dict[tuple[str, int], h5py.Dataset] = {}
    for rows, batch in run.batches(images, step, labels):
        for layer, (values, map_shape) in batch.items():
            for s, seed in enumerate(checkpoint.seeds):
                if (layer, s) not in datasets:
                    name = "/".join(filter(None, (checkpoint.group(seed), folder, layer)))
                    datasets[layer, s] = _new_dataset(file, name, len(images), values.shape[-1])
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

    @property
    def batch_statistics(self) -> bool:
        """Whether results depend on the batches, which only our batch norm can be set to."""
        modules = self.network.modules()
        return any(getattr(module, "batch_statistics", False) for module in modules)

    def batches(
        self, pixels: Pixels, preprocess: Preprocess, labels: Sequence[str]
    ) -> Iterator[tuple[slice, dict[str, tuple[NDArray[np.float32], tuple[int, ...]]]]]:
        """Rows, and for each layer the features (S, rows, p) and the shape before flattening."""
        like = next(self.network.parameters(), torch.empty(0))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
        with _evaluating(self.network), _activations_of(self.network, self.layers) as activations:
            for start in range(0, len(pixels), self.batch_size):
                rows = slice(start, min(start + self.batch_size, len(pixels)))
                # A copy, since torch takes no read-only memory.
                images = torch.from_numpy(np.array(pixels[rows])).permute(0, 3, 1, 2)
                if not isinstance(self.network, StackedModel):
                    # Ours run faster with the channels last, as pixels are stored (1.5 times for
                    # one seed of cnn3 at 224 pixels); others may view their maps as vectors.
                    images = images.contiguous()
                found = activations(((images.float() / 255 - mean) / std).to(like))
                yield rows, {
                    name: self._pooled(name, found[name], labels[rows]) for name in self.layers
                }

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
    pixels: Sequence[Pixels],
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
            asdict(step) | {"sha256_pixels": hashlib.sha256(images.data).hexdigest()[:16]}
            for step, images in zip(steps, pixels, strict=True)
        ],
        "pooling": pooling,
        "batch_size": batch_size,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
