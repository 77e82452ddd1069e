"""`train`: a run from its configuration to its checkpoints.

Everything that can be wrong is looked for before anything is written. Seeds train together as one
stacked model or one by one, whichever a measurement of a few steps finds faster here; both give the
same networks but for rounding.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rsafast_kernels.atomic import PathInput, alone, check_writable
from rsafast_kernels.device import resolve
from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError

from rsafast_training.checkpoints import (
    RunInfo,
    read_run,
    write_run,
)
from rsafast_training.config import TrainConfig
from rsafast_training.data import ImageData, load_dataset
from rsafast_training.graphs import WARM_UP, stepper_of
from rsafast_training.loop import Group, Report, make_batches, make_networks, start_epoch

_TRIAL_STEPS = 3  # of each way of training, after one that warms up


def train(
    config: TrainConfig,
    out: PathInput,
    *,
    resume: bool = False,
    cache_dir: PathInput | None = None,
    report: Report | None = None,
) -> Path:
    """Train every seed of a configuration, keep its checkpoints, and return the run's folder.

    Parameters
    ----------
    config : what to train, on what
    out : folder that holds the runs; this one is ``out/config.name``
    resume : bool
        Go on with a run that was interrupted. One that is complete is left as it is.
    cache_dir : of decoded images, see :func:`rsafast_training.data.load_dataset`
    report : called after every batch and every checkpoint

    Returns
    -------
    Path
        Folder of the run, as :mod:`rsafast_training.checkpoints` describes it.

    Raises
    ------
    InvalidInputError
        For data that cannot be read, a run of that name that exists (without `resume`) or differs
        (with it) or that another process is training, and a folder that cannot be written. Nothing
        is overwritten.
    BackendUnavailableError
        For a device that is not here; for a GPU whose memory is too small.

    Notes
    -----
    On a GPU, steps are replayed as CUDA graphs (:mod:`rsafast_training.graphs`). Products are never
    rounded to TF32, and cuDNN's algorithms are those that give the same bits every time.
    """
    config = replace(config, device=resolve(config.device, "torch", "triton"))
    folder = Path(out) / config.name
    _check_folder(folder, config, resume)
    data = load_dataset(config.data, cache_dir=cache_dir, image_size=config.image_size)
    data = _normalised(config, data)
    info = _describe(config, data)
    with alone(folder, "trains this run"), _exact_convolutions(), _said_if_full(config):
        groups = _groups(folder, config, info, data)
        for index, seeds in enumerate(groups):
            Group(config, info, data, folder, seeds, report, share=(index, len(groups))).run()
    return folder


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@contextmanager
def _said_if_full(config: TrainConfig) -> Iterator[None]:
    """Turn torch's report of a full GPU into the ways out."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        stacked = " and stack='one-by-one'" if len(config.seeds) > 1 else ""
        raise BackendUnavailableError(
            f"the memory of the GPU is too small for batch_size={config.batch_size} on "
            f"{len(config.seeds)} seeds ({str(error).split('.')[0]}); go on with this run on the "
            f"CPU (device='cpu', resume=True), or begin another with a smaller batch_size{stacked}"
        ) from None


def _check_folder(folder: Path, config: TrainConfig, resume: bool) -> None:
    described = folder / "run.json"
    if not described.exists():
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(described)
        return
    if not resume:
        raise InvalidInputError(
            f"{folder}: holds a run already; go on with it with resume (--resume), or choose "
            "another name or folder"
        )
    described_as = read_run(folder)[1]
    if "config" not in described_as:
        raise InvalidInputError(
            f"{folder}: holds a run that was trained elsewhere; choose another name or folder"
        )
    stored = TrainConfig.from_json(described_as["config"])
    changed = config.differences(stored)
    if changed:
        raise InvalidInputError(
            f"{folder}: was begun with other settings ({'; '.join(changed)}); a run is resumed as "
            "it began, another one needs another name"
        )


def _normalised(config: TrainConfig, data: ImageData) -> ImageData:
    """With the mean and standard deviation that the rule's settings prescribe, if they do."""
    rule = config.of_rule
    mean, std = getattr(rule, "mean", None), getattr(rule, "std", None)
    return data if mean is None or std is None else replace(data, mean=mean, std=std)


def _describe(config: TrainConfig, data: ImageData) -> RunInfo:
    height, width = data.image_shape
    if height != width:
        raise InvalidInputError(
            f"images are {height} × {width}; give image_size to make them square"
        )
    rule = config.of_rule
    return RunInfo(
        name=config.name, rule=config.rule, profile=config.profile, model=config.model,
        classes=len(data.classes), image_size=height, batch_norm=config.batch_norm,
        init=config.init, mean=tuple(data.mean), std=tuple(data.std), data=data.name,
        fingerprint=data.fingerprint, model_options=dict(getattr(rule, "model_options", {})),
        batch_statistics=bool(getattr(rule, "batch_statistics_at_evaluation", False)),
    )  # fmt: skip


def _groups(
    folder: Path, config: TrainConfig, info: RunInfo, data: ImageData
) -> list[tuple[int, ...]]:
    """Which seeds train together: as stored, or decided now and stored."""
    if (folder / "run.json").exists():
        stored_info, stored = read_run(folder)
        if stored_info != info:
            raise InvalidInputError(
                f"{folder}: was begun on other data ({stored_info.data}, "
                f"{stored_info.fingerprint}) or a version that describes runs otherwise; "
                "choose another name"
            )
        return [tuple(group) for group in stored["groups"]]
    make_networks(config, info, config.seeds[:1])  # raises where rule and model do not fit
    together, reason = _stacking(config, info, data)
    groups: list[tuple[int, ...]] = [config.seeds]
    if not together:
        groups = [(seed,) for seed in config.seeds]
    write_run(
        folder, info, config=config.to_json(), groups=groups, stacking=reason,
        classes=list(data.classes), versions=versions(),
    )  # fmt: skip
    return groups


def versions() -> dict[str, Any]:
    """Software and machine that make a run."""
    return {
        "rsafast": version("rsafast"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def _stacking(config: TrainConfig, info: RunInfo, data: ImageData) -> tuple[bool, str]:
    """Whether the seeds train together, and why."""
    if len(config.seeds) == 1 or not config.epochs:
        return True, "one seed, or nothing to train"
    if config.stack != "auto":
        return config.stack == "together", f"asked for: {config.stack}"
    try:
        together = _seconds_a_step(config, info, data, config.seeds)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False, f"{len(config.seeds)} seeds together do not fit in the memory of the GPU"
    alone = _seconds_a_step(config, info, data, config.seeds[:1]) * len(config.seeds)
    said = (
        f"{len(config.seeds)} seeds take {1e3 * together:.1f} ms a step together, "
        f"{1e3 * alone:.1f} ms one by one"
    )
    return together < alone, said


def _seconds_a_step(
    config: TrainConfig, info: RunInfo, data: ImageData, seeds: Sequence[int]
) -> float:
    """Quickest of a few steps of a model that is thrown away."""
    model, rule = make_networks(config, info, seeds)
    batches = make_batches(config, data, seeds).epoch(seeds, 1)
    start_epoch(model, rule, 1)
    step = stepper_of(rule, config.device)
    warm_up = WARM_UP if config.device == "cuda" else 0
    best = float("inf")
    for _, (images, labels) in zip(range(warm_up + 1 + _TRIAL_STEPS), batches, strict=False):
        started = time.perf_counter()
        step(images, labels)
        _finish(config.device)
        best = min(best, time.perf_counter() - started)
    return best


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
