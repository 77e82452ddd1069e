"""Activations of networks for a set of stimuli, ready for RDMs.

Two kinds of networks: our stacked models, whose seeds are extracted together, and any
``torch.nn.Module``, whose layers are the names of ``named_modules()``. Images are decoded once for
all checkpoints and resolutions, while the first network computes; batches are written as they come,
so that memory does not grow with the number of stimuli, and the file (docs/training/features.md)
appears once it is whole.

Features are float32. `activations` runs a network, `feature_file` writes the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput
from rsafast_kernels.device import Device
from rsafast_kernels.errors import InvalidInputError
from torch import nn

from rsafast_training.activations import Batch, Extraction, Pooling, chosen_layers
from rsafast_training.checkpoints import Checkpoint
from rsafast_training.feature_file import feature_file, network_hash, provenance
from rsafast_training.models.base import StackedModel
from rsafast_training.stimuli import Preprocess, Stimuli

Progress: TypeAlias = Callable[[int], None] | None


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
    run = Extraction(network, chosen_layers(network, layers), pooling, batch_size, device)
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
    resume: bool = True,
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
    resume : bool
        Networks that a call of the same arguments had finished before it was killed or failed are
        taken from the folder `.<out>.partial`. False computes all anew.

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
        feature_file(out, resume) as file,
        stimuli.decoding(steps, folder=Path(out).expanduser().resolve().parent) as decoding,
    ):
        advance, count = progress or (lambda _: None), 0
        for checkpoint in checkpoints:
            chosen = chosen_layers(checkpoint.model, layers)
            run = Extraction(checkpoint.model, chosen, pooling, batch_size, device)
            network = network_hash(checkpoint.model)  # before its batch norm sees any image
            for resolution, step in enumerate(steps):
                folder = f"size-{step.size:03d}" if len(steps) > 1 else ""
                own = checkpoint.preprocess(step)
                wanted = _Wanted(checkpoint, run, own, folder)
                part = file.part(wanted.names(), wanted.depends(network, stimuli.labels))
                pixels = partial(decoding.digest, resolution)
                if (before := part.made_from()) is not None and before == pixels():
                    advance(len(stimuli))
                    continue
                with file.writing(part, pixels) as h5:
                    for rows, batch in run.batches(decoding, resolution, own, stimuli.labels):
                        wanted.write(h5, rows, batch, len(stimuli))
                        advance(rows.stop - rows.start)
            count += 1
        if not count:
            raise InvalidInputError("checkpoints holds no network; nothing was written")
        digests = [decoding.digest(resolution) for resolution in range(len(steps))]
        file.finish(stimuli.labels, provenance(
            stimuli.source, len(stimuli.unused), steps, digests, pooling=pooling,
            batch_size=batch_size, **dict(record or {}),
        ))  # fmt: skip
    return Path(out).expanduser().resolve()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Features of a network at one resolution; `folder` names it where there are several."""

    checkpoint: Checkpointed
    run: Extraction
    step: Preprocess
    folder: str

    def names(self) -> list[str]:
        return [self._name(s, layer) for s in self.checkpoint.seeds for layer in self.run.layers]

    def _name(self, seed: int, layer: str) -> str:
        return "/".join(filter(None, (self.checkpoint.group(seed), self.folder, layer)))

    def depends(self, network: str, labels: Sequence[str]) -> dict[str, Any]:
        """What values and attributes depend on, beside the images."""
        return {
            "network": network,
            "attributes": [self.checkpoint.attributes(seed) for seed in self.checkpoint.seeds],
            "preprocess": asdict(self.step),
            "labels": list(labels),
            **{name: getattr(self.run, name) for name in ("pooling", "batch_size", "device")},
        }

    def write(self, file: h5py.File, rows: slice, batch: Batch, n: int) -> None:
        """Write a batch, into new datasets at first."""
        for layer, (values, map_shape) in batch.items():
            for s, seed in enumerate(self.checkpoint.seeds):
                name = self._name(seed, layer)
                if name not in file:
                    file.create_dataset(name, (n, values.shape[-1]), np.float32).attrs.update(
                        self.checkpoint.attributes(seed)
                        | {"layer": layer, "size": self.step.size}
                        | {"mean": self.step.mean, "std": self.step.std}
                        | {"pooling": self.run.pooling, "map_shape": map_shape}
                        | {"batch_statistics": self.run.batch_statistics}
                    )
                file[name][rows] = values[s]


def _check_choices(pooling: str, batch_size: int) -> None:
    if pooling not in ("mean", "none"):
        raise InvalidInputError(f"pooling must be 'mean' or 'none', got {pooling!r}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidInputError(f"batch_size must be a positive integer, got {batch_size!r}")
