"""Files of a training run: weights of a seed at an epoch, the state to resume from, metrics.

A run is a folder: ``run.json`` (what was asked for, on what data, with which versions) and, for
each seed, ``seed-<s>/epoch-<e>.safetensors`` and ``seed-<s>/metrics.h5``. A checkpoint holds
parameters and buffers under the names of an ordinary network, and beside them the statistics of
every batch-norm regime, of the network itself ("statistics/<regime>/...") and of its untrained
control ("control/<regime>/..."). Every file appears whole or not at all; none can hold code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from rsafast_kernels.atomic import PathInput, replacing, write_text
from rsafast_kernels.errors import InvalidInputError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rsafast_training.batchnorm import EVALUATED, identity_statistics, set_statistics
from rsafast_training.models import StackedModel, build_model

FORMAT = 1
_EXTRA = ("statistics/", "control/")
_METADATA = "rsafast"  # entry of the metadata of our safetensors


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is needed to rebuild the networks of a run.

    Attributes
    ----------
    name, rule, profile : of the run.
    model, classes, image_size, batch_norm, init : the network; `batch_norm` is the regime.
    mean, std : (3,) by which images in [0, 1] are normalised.
    data, fingerprint : name of the data set and hash of its content.
    batch_statistics : whether evaluation uses the statistics of the batch, a published defect.
    controls : whether checkpoints hold batch-norm statistics of their untrained controls.
    """

    name: str
    rule: str
    profile: str
    model: str
    classes: int
    image_size: int
    batch_norm: str
    init: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str
    fingerprint: str
    model_options: dict[str, Any]
    batch_statistics: bool = False
    controls: bool = True

    def build(self, seeds: Sequence[int]) -> StackedModel:
        """Make the untrained networks of these seeds."""
        return build_model(
            self.model, seeds, self.classes, image_size=self.image_size,
            batch_norm=self.batch_norm != "none",
            init=self.init or None,  # type: ignore[arg-type]
            **self.model_options,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network of a run at one epoch, on disk.

    Attributes
    ----------
    path : the file.
    info : of its run.
    seed, epoch : which network.
    control : bool
        The untrained network of the same seed instead, with batch-norm statistics from the same
        source as the trained network's.
    """

    path: Path
    info: RunInfo
    seed: int
    epoch: int
    control: bool = False

    @property
    def has_control(self) -> bool:
        """Whether its control changes with the epoch, as batch-norm statistics do.

        Those of the stimuli themselves are the same before training and after it.
        """
        changes = self.info.rule != "untrained" and self.info.batch_norm in ("loader", "clean")
        return changes and self.info.controls and not self.info.batch_statistics

    @property
    def sha256(self) -> str:
        """First 16 hex digits of the hash of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]

    def load(self, regime: str | None = None) -> StackedModel:
        """Build the network, in evaluation mode.

        Parameters
        ----------
        regime : "loader", "clean" or "identity"
            Batch-norm statistics to evaluate with; by default those of the run's own regime.

        Raises
        ------
        InvalidInputError
            For a damaged file, a file of another model or version, and a regime it does not hold.
        """
        tensors = read_tensors(self.path)
        weights = read_tensors(self._initial()) if self.control else tensors
        model = self.info.build([self.seed])
        state = {n: t for n, t in weights.items() if not n.startswith(_EXTRA)}
        model.load_seed_state(0, state, str(self.path))
        self._set_regime(model, tensors, regime)
        model.eval()
        for norm in model.batch_norms().values():
            norm.batch_statistics = self.info.batch_statistics and not regime
        return model

    def _initial(self) -> Path:
        """Return the checkpoint of the same seed before training."""
        path = self.path.with_name(_checkpoint_name(0))
        if not path.is_file():
            raise InvalidInputError(
                f"{path}: the untrained control needs the checkpoint of epoch 0; train with 0 "
                "among the checkpoints"
            )
        return path

    def _set_regime(
        self, model: StackedModel, tensors: Mapping[str, Tensor], regime: str | None
    ) -> None:
        """Set the statistics of a regime; the stored running ones serve where it has no choice."""
        fixed = self.info.batch_norm in ("frozen", "none")
        if fixed and regime not in (None, self.info.batch_norm):
            raise InvalidInputError(
                f"{self.path}: was trained with batch norm {self.info.batch_norm!r}, which has no "
                f"other statistics; leave out {regime!r}"
            )
        if fixed or not model.batch_norms():
            return
        wanted = regime or self.info.batch_norm
        if wanted not in EVALUATED:
            raise InvalidInputError(
                f"batch-norm regime is {wanted!r}; choose one of {', '.join(EVALUATED)}"
            )
        if wanted == "identity":
            set_statistics(model, identity_statistics(model))
            return
        start = f"{'control' if self.control and self.epoch else 'statistics'}/{wanted}/"
        held = {n.removeprefix(start): t[None] for n, t in tensors.items() if n.startswith(start)}
        if not held:
            raise InvalidInputError(f"{self.path}: holds no statistics of the regime {wanted!r}")
        set_statistics(model, held)


def _checkpoint_name(epoch: int) -> str:
    return f"epoch-{epoch:03d}.safetensors"


def checkpoint_path(folder: Path, seed: int, epoch: int) -> Path:
    """Name of the checkpoint of a seed at an epoch in the folder of a run."""
    return folder / f"seed-{seed}" / _checkpoint_name(epoch)


def write_tensors(path: PathInput, tensors: Mapping[str, Tensor], **metadata: Any) -> None:
    """Write tensors as safetensors, whole or not at all; metadata as JSON."""
    content = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    # One entry: the format keeps several in no order, and equal networks are to be equal files.
    described = json.dumps({"rsafast_format": FORMAT, **metadata}, sort_keys=True)
    with replacing(path) as temporary:
        temporary.write_bytes(save(content, metadata={_METADATA: described}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what :func:`write_tensors` wrote."""
    return _read(path)[0]


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata that :func:`write_tensors` stored."""
    return _read(path, tensors=False)[1]


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise InvalidInputError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            described = file.metadata() or {}
            content = {n: file.get_tensor(n) for n in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(
            f"{path}: is no readable safetensors file (truncated, damaged or another format): "
            f"{error}"
        ) from None
    if _METADATA not in described:
        raise InvalidInputError(f"{path}: was not written by rsafast")
    metadata = json.loads(described[_METADATA])
    version = metadata.pop("rsafast_format")
    if version > FORMAT:
        raise InvalidInputError(
            f"{path}: has format {version}, this rsafast reads up to {FORMAT}; upgrade it"
        )
    return content, metadata


def write_metrics(path: PathInput, rows: Sequence[Mapping[str, float]]) -> None:
    """Write one dataset a column, one value an epoch; what was not measured is NaN."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, h5py.File(temporary, "x") as file:
        file.attrs["rsafast_format"] = FORMAT
        file.attrs["rsafast_kind"] = "training_metrics"
        for name in columns:
            file[name] = np.array([row.get(name, np.nan) for row in rows], np.float64)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the rows that :func:`write_metrics` wrote."""
    columns: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            columns[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise InvalidInputError(f"{path}: is no readable HDF5 file: {error}") from None
    length = len(next(iter(columns.values()), ()))
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(length)]


def metrics_table(folder: PathInput) -> pd.DataFrame:
    """Metrics of every run below a folder: one row a (run, seed, epoch).

    Columns: run, rule, seed, epoch, train_loss, train_accuracy (as seen while training, augmented),
    test_accuracy (at checkpoints), seconds and cpu_seconds (of all seeds that trained together),
    drift/<layer> (norm of the change since initialisation over the norm of the initial weights),
    and what the rule reports.
    """
    rows = [
        {"run": info.name, "rule": info.rule, "seed": seed, **row}
        for run, info in find_runs(folder)
        for seed in run_seeds(run)
        for row in read_metrics(run / f"seed-{seed}" / "metrics.h5")
    ]
    table = pd.DataFrame(rows)
    return table.astype({"epoch": int}) if len(table) else table


def write_run(folder: Path, info: RunInfo, **more: Any) -> None:
    """Describe a run in ``run.json``."""
    content = {"rsafast_format": FORMAT, "info": asdict(info), **more}
    write_text(folder / "run.json", json.dumps(content, indent=1) + "\n")


def read_run(folder: Path) -> tuple[RunInfo, dict[str, Any]]:
    """Read ``run.json``: the network, and everything else that was stored."""
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["rsafast_format"] > FORMAT:
            raise InvalidInputError(
                f"{path}: has format {content['rsafast_format']}, this rsafast reads up to "
                f"{FORMAT}; upgrade it"
            )
        held = content.pop("info")
        info = RunInfo(**held | {"mean": tuple(held["mean"]), "std": tuple(held["std"])})
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{path}: does not describe a training run ({error!r})") from None
    return info, content


def find_runs(folder: PathInput) -> list[tuple[Path, RunInfo]]:
    """Runs in a folder or in the folders directly below it, by name.

    Raises
    ------
    InvalidInputError
        Where there is none.
    """
    root = Path(folder)
    found = [p.parent for p in sorted([*root.glob("run.json"), *root.glob("*/run.json")])]
    if not found:
        raise InvalidInputError(
            f"{folder}: holds no training run (run.json); train one with rsafast train --out"
        )
    return [(run, read_run(run)[0]) for run in found]


def run_seeds(run: Path) -> list[int]:
    """Seeds of a run that have files."""
    names = [re.fullmatch(r"seed-(\d+)", p.name) for p in run.iterdir()]
    return sorted(int(match[1]) for match in names if match)


def find_checkpoints(
    folder: PathInput, *, controls: bool = False, epochs: Sequence[int] | None = None
) -> list[Checkpoint]:
    """Checkpoints of the runs below a folder: by run, seed and epoch.

    Parameters
    ----------
    folder : of one run, or of several
    controls : bool
        Also, after every checkpoint, its untrained control. Networks without statistics of their
        training images have one control, the checkpoint before training, and get no other.
    epochs : those wanted; all by default

    Raises
    ------
    InvalidInputError
        For a folder without checkpoints, and an epoch that no run has.
    """
    found = [
        Checkpoint(path, info, seed, int(path.stem.removeprefix("epoch-")))
        for run, info in find_runs(folder)
        for seed in run_seeds(run)
        for path in sorted((run / f"seed-{seed}").glob("epoch-*.safetensors"))
    ]
    known = sorted({c.epoch for c in found})
    missing = sorted(set(epochs or ()) - set(known))
    if not found or missing:
        raise InvalidInputError(
            f"{folder}: has no checkpoint{f' of epoch {missing[0]}' if missing else ''}; "
            f"it has those of epochs {', '.join(map(str, known)) or '(none)'}"
        )
    wanted = [c for c in found if epochs is None or c.epoch in epochs]
    if not controls:
        return wanted
    pairs = ((c, replace(c, control=True)) if c.has_control else (c,) for c in wanted)
    return [checkpoint for pair in pairs for checkpoint in pair]
