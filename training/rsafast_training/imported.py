"""A run that was trained elsewhere becomes a run of ours, checkpoint by checkpoint.

Torch files, one a seed and epoch, are found by a pattern such as
"data/resnet50/{rule}/seed-{seed}/epoch-{epoch}.pth". What is written is what `train` writes
(:mod:`rsafast_training.checkpoints`), with the running statistics of the files as the regime
"loader". How accurate the networks are is not known here.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from rsafast_kernels.atomic import PathInput, alone
from rsafast_kernels.errors import InvalidInputError
from torch import Tensor

from rsafast_training import batchnorm
from rsafast_training.checkpoints import (
    RunInfo,
    checkpoint_path,
    read_run,
    write_metrics,
    write_run,
    write_tensors,
)
from rsafast_training.data.augment import normalise
from rsafast_training.loop import weight_drift
from rsafast_training.models import MODELS, StackedModel
from rsafast_training.published import read_seed_state, read_state_dict
from rsafast_training.rules.base import prefixed
from rsafast_training.stimuli import IMAGENET_MEAN, IMAGENET_STD, Pixels, Preprocess, read_stimuli
from rsafast_training.trainer import versions

PROFILE = "elsewhere"
_SHOWN = 3  # names of missing files in a message
_BATCH = 64  # control images at once
_SIZES = {"resnet50": 224}  # of control images by default, in pixels
_SIZE = 32  # of other models
Three: TypeAlias = tuple[float, float, float]
Files: TypeAlias = Mapping[tuple[int, int], Path]  # by seed and epoch


def import_run(
    pattern: PathInput,
    out: PathInput,
    *,
    rule: str,
    model: str,
    seeds: Sequence[int],
    checkpoints: Sequence[int],
    named: str | None = None,
    image_size: int | None = None,
    options: Mapping[str, Any] | None = None,
    mean: Three = IMAGENET_MEAN,
    std: Three = IMAGENET_STD,
    control_images: PathInput | None = None,
    advance: Callable[[int], object] = lambda done: None,
) -> Path:
    """Write the checkpoints of one rule that was trained elsewhere as a run of ours.

    Parameters
    ----------
    pattern : path with the fields {rule}, {seed} and {epoch}
        As ``str.format`` takes them: {epoch:03d} is 007. Epochs count what was trained: 0 is before
        training. (``model_0.pth`` of torchvision's references was trained for 1.)
        Files hold a state dict, bare or under "model" or "state_dict", with the names of our
        `model`, which for "resnet50" are torchvision's; a prefix "module." is taken off. They are
        read with ``weights_only=True``.
    out : folder that holds the runs; this one is ``out/rule``
    rule : what the run is called; any name, not only those of rules that are trained here
    model : "cnn3", "vgg5" or "resnet50"; the number of classes is that of the weights
    seeds, checkpoints : the networks wanted
    named : what stands for {rule} in the names of the files; by default `rule`
    image_size : side of the images that it was trained on, in pixels; by default 224 for resnet50
        and 32 for the others
    options : of the model's class, such as `width` of a narrower ResNet
    mean, std : by which images on the scale 0 to 1 were normalised; ImageNet's by default
    control_images : what :func:`rsafast_training.stimuli.read_stimuli` reads: training images, or a
        sample of them. The untrained network of each seed (epoch 0, which must be among
        `checkpoints`) gets batch-norm statistics from them, the means over batches of 64, and is
        the control of every later checkpoint. Without, the run has no controls.
    advance : called with the number of checkpoints done since its last call

    Returns
    -------
    Path
        Folder of the run. ``metrics.h5`` of a seed holds weight drift where epoch 0 is there, and
        NaN for accuracy. A run that is complete is left as it is, another one goes on.

    Raises
    ------
    InvalidInputError
        Files that are missing (all are counted, before anything is written), damaged or of another
        network, with the parameter; an epoch 0 that is trained; a folder that holds another run.
    """
    files = find_weights(
        pattern, rule=rule if named is None else named, seeds=seeds, checkpoints=checkpoints
    )
    if control_images is not None and 0 not in checkpoints:
        raise InvalidInputError("controls need the networks before training: add 0 to checkpoints")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", rule) or rule.endswith("-control"):
        raise InvalidInputError(
            f"rule is {rule!r}, the name of a folder; use letters, digits, '.', '_' and '-', and "
            "not the ending '-control'"
        )
    step = Preprocess(image_size or _SIZES.get(model, _SIZE), mean=mean, std=std)
    images = None if control_images is None else read_stimuli(control_images)
    info = _describe(rule, model, files, step, options or {}, images is not None)
    folder = Path(out) / rule
    with alone(folder, "imports this run"):
        control = None if images is None else {"images": images.source, "n": len(images)}
        _begin(folder, info, weights=str(pattern), control=control)
        pixels = None if images is None else images.pixels([step], folder=folder)[0]
        for seed in seeds:
            _import_seed(folder, info, files, seed, pixels, advance)
    return folder


def find_weights(
    pattern: PathInput, *, rule: str, seeds: Sequence[int], checkpoints: Sequence[int]
) -> Files:
    """Files of every seed and epoch, which must all be there.

    Raises
    ------
    InvalidInputError
        Files that are missing (counted, some are named); otherwise as :func:`weights_paths`.
    """
    files = weights_paths(pattern, rule=rule, seeds=seeds, checkpoints=checkpoints)
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise InvalidInputError(
            f"{len(missing)} of {len(files)} files of weights are missing: "
            f"{', '.join(missing[:_SHOWN])}{more}; correct the pattern {pattern}, the seeds or the "
            "checkpoints"
        )
    return files


def weights_paths(
    pattern: PathInput, *, rule: str, seeds: Sequence[int], checkpoints: Sequence[int]
) -> Files:
    """Where the files of every seed and epoch would be.

    Raises
    ------
    InvalidInputError
        A pattern with other fields, or without one that is needed to tell the files apart.
    """
    wanted = [(seed, epoch) for seed in seeds for epoch in sorted(checkpoints)]
    if not wanted or len(set(wanted)) < len(wanted) or min(map(min, wanted)) < 0:
        raise InvalidInputError(
            f"seeds and checkpoints must hold numbers from 0 on, each once, got {list(seeds)} and "
            f"{list(checkpoints)}"
        )
    try:
        files = {
            (seed, epoch): Path(str(pattern).format(rule=rule, seed=seed, epoch=epoch)).expanduser()
            for seed, epoch in wanted
        }
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"{pattern}: has the fields {{rule}}, {{seed}} and {{epoch}} of a path, as in "
            f"seed-{{seed}}/epoch-{{epoch:03d}}.pth ({type(error).__name__}: {error})"
        ) from None
    if len(set(files.values())) < len(files):
        raise InvalidInputError(
            f"{pattern}: names one file for several networks; it needs {{seed}} where there are "
            "several seeds, and {epoch} where there are several checkpoints"
        )
    return files


def weights_hash(files: Files) -> str:
    """Hash of the content of files of weights and of which networks they are, not of their names.

    A file of ``torch.save`` is a .zip, whose directory has a checksum of every tensor: gigabytes
    need not be read.
    """
    digest = hashlib.sha256()
    for (seed, epoch), path in sorted(files.items()):
        digest.update(f"{seed}/{epoch}/{_content(path)};".encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                # The first folder of each name is the name that the file was saved under.
                held = [(i.filename.partition("/")[2], i.file_size, i.CRC)
                        for i in zipfile.ZipFile(file).infolist()]  # fmt: skip
                if any(checksum for *_, checksum in held):  # torch can be told to leave them out
                    return repr(sorted(held))
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"{path}: cannot be read ({error})") from None


def _describe(
    rule: str,
    model: str,
    files: Files,
    step: Preprocess,
    options: Mapping[str, Any],
    controls: bool,
) -> RunInfo:
    """What rebuilds the networks, as far as the first file tells."""
    if model not in MODELS:
        raise InvalidInputError(f"model is {model!r}; choose one of {', '.join(MODELS)}")
    state = read_state_dict(next(iter(files.values())))
    kept = json.loads(json.dumps(dict(options)))  # as it will be read
    normed = any(name.endswith(".running_mean") for name in state) or model == "resnet50"
    with torch.device("meta"):
        shape = MODELS[model](1, 1, image_size=step.size, batch_norm=normed, **kept)
    last = state.get(f"{list(shape.weights())[-1]}.weight")
    return RunInfo(
        name=rule, rule=rule, profile=PROFILE, model=model,
        # Another network shows once all its names are compared.
        classes=1 if last is None or not last.ndim else len(last),
        image_size=step.size, batch_norm="loader" if normed else "none", init="",
        mean=step.mean, std=step.std, data=PROFILE, fingerprint=weights_hash(files),
        model_options=kept, controls=controls,
    )  # fmt: skip


def _begin(folder: Path, info: RunInfo, **more: Any) -> None:
    """Describe the run, unless the folder holds it already."""
    if not (folder / "run.json").exists():
        write_run(folder, info, versions=versions(), **more)
        return
    stored, described = read_run(folder)
    changed = [name for name, value in asdict(info).items() if asdict(stored)[name] != value]
    changed += ["control images"] * (described.get("control") != more["control"])
    if changed:
        raise InvalidInputError(
            f"{folder}: holds another run, or one of other files (it differs in "
            f"{', '.join(changed)}); choose another folder"
        )


def _import_seed(
    folder: Path,
    info: RunInfo,
    files: Files,
    seed: int,
    pixels: Pixels | None,
    advance: Callable[[int], object],
) -> None:
    """Write the checkpoints of a seed that are not there yet, and its metrics."""
    own = {epoch: path for (of, epoch), path in files.items() if of == seed}
    metrics = folder / f"seed-{seed}" / "metrics.h5"
    metrics.parent.mkdir(exist_ok=True)
    if metrics.is_file():  # written last
        advance(len(own))
        return
    model, rows = info.build([seed]), []
    initial: dict[str, Tensor] = {}
    control: dict[str, Tensor] = {}
    for epoch, source in sorted(own.items()):
        model.load_seed_state(0, read_seed_state(model, source), str(source))
        if not epoch:
            _check_untrained(model, source)
            initial = {name: weight.detach().clone() for name, weight in model.weights().items()}
            if pixels is not None:
                control = _control_statistics(model, pixels, info)
        path = checkpoint_path(folder, seed, epoch)
        if not path.is_file():
            _write_checkpoint(path, model, info, seed, epoch, control if epoch else {})
        drift = weight_drift(model.weights(), initial) if initial else {}
        moved = {name: float(value) for name, value in drift.items()}
        rows.append({"epoch": float(epoch), "test_accuracy": float("nan"), **moved})
        advance(1)
    write_metrics(metrics, rows)


def _check_untrained(model: StackedModel, source: Path) -> None:
    """Raise where batch norm has seen images, which it has not before training."""
    seen = max((int(norm.num_batches_tracked) for norm in model.batch_norms().values()), default=0)
    if seen:
        raise InvalidInputError(
            f"{source}: is no network before training, its batch norm has seen {seen} batches. "
            "Epoch 0 is the network as it was initialised; some programs count from 0 what was "
            "trained for one epoch: shift the numbers, and leave out epoch 0 where it was not saved"
        )


def _control_statistics(model: StackedModel, pixels: Pixels, info: RunInfo) -> dict[str, Tensor]:
    """Statistics of an untrained network over the control images, named as in a checkpoint."""

    def batches() -> Iterator[Tensor]:
        # Batches count alike, so that a smaller last one would count too much.
        for start in range(0, max(len(pixels) - _BATCH, 0) + 1, _BATCH):
            images = torch.from_numpy(np.array(pixels[start : start + _BATCH]))
            yield normalise(images.permute(0, 3, 1, 2).contiguous(), info.mean, info.std)

    measured = batchnorm.measured_statistics(model, batches(), momentum=None)
    return prefixed("control/loader", {name: value[0] for name, value in measured.items()})


def _write_checkpoint(
    path: Path,
    model: StackedModel,
    info: RunInfo,
    seed: int,
    epoch: int,
    control: Mapping[str, Tensor],
) -> None:
    running = {name: value[0] for name, value in batchnorm.statistics_of(model).items()}
    tensors = model.seed_state(0) | prefixed("statistics/loader", running) | dict(control)
    write_tensors(
        path, tensors, rule=info.rule, profile=info.profile, seed=seed, epoch=epoch,
        model=info.model, batch_norm=info.batch_norm,
    )  # fmt: skip
