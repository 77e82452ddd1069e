"""Writes the file of features (docs/training/features.md) so that a run that is killed goes on.

Each network at each resolution is a part: a small file in a folder beside the output, named after a
hash of all that its values depend on. Parts become one file at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from rsafast_kernels.atomic import PathInput, in_the_making, replacing
from rsafast_kernels.errors import InvalidInputError
from torch import nn

from rsafast_training.stimuli import Preprocess

_FORMAT = 1  # of docs/format.md
_RESERVED = ("labels", "stimuli", "names")  # what a reader takes for descriptions at the root
_TEXT = h5py.string_dtype("utf-8")
_PIXELS = "sha256_pixels"  # attribute of a part: of the images it was made from


class Part(NamedTuple):
    """What becomes a part of the file, or is one from an earlier run.

    Attributes
    ----------
    path : its file.
    names : of its datasets.
    """

    path: Path
    names: tuple[str, ...]

    def made_from(self) -> str | None:
        """Hash of the images that the part was made from; None where there is no whole part."""
        try:
            with h5py.File(self.path) as file:
                return str(file.attrs[_PIXELS])
        except OSError:
            return None


class FeatureFile:
    """A file of features in the making: `target`, and the `folder` of its parts."""

    def __init__(self, target: Path, folder: Path) -> None:
        self._target, self._folder = target, folder
        self._parts: list[Part] = []

    def part(self, names: Sequence[str], depends: Mapping[str, Any]) -> Part:
        """Next part.

        Parameters
        ----------
        names : of its datasets.
        depends : what its values depend on beside the images, JSON.

        Raises
        ------
        InvalidInputError
            For a name that another part has, or that a reader takes for something else.
        """
        taken = {*_RESERVED, *(name for part in self._parts for name in part.names)}
        for name in names:
            if name in taken:
                raise InvalidInputError(
                    f"{name!r} would be written twice: a layer, or a checkpoint of the same rule, "
                    "seed, epoch and variant, has that name; set `rule` or `variant`"
                )
        said = json.dumps([list(names), depends, _versions()], sort_keys=True, default=str)
        key = hashlib.sha256(said.encode()).hexdigest()[:32]
        self._parts.append(Part(self._folder / f"{key}.h5", tuple(names)))
        return self._parts[-1]

    @contextmanager
    def writing(self, part: Part, pixels: Callable[[], str]) -> Iterator[h5py.File]:
        """Yield the file of a part, to be filled; it is there once it is whole.

        Parameters
        ----------
        pixels : gives the hash of the images, after the block.
        """
        with replacing(part.path) as temporary:
            try:
                with _filled(temporary, "x") as file:
                    yield file
                    file.attrs[_PIXELS] = pixels()
            except OSError as error:
                raise InvalidInputError(
                    f"{self._target}: could not be written ({error.strerror or error}); networks "
                    "that are done are kept: make room on its disk, and the same call goes on"
                ) from None

    def finish(self, labels: Sequence[str], record: Mapping[str, Any]) -> None:
        """Make one file of all parts; they go one by one, so that the disk needs room for one."""
        first, *others = self._parts
        with replacing(self._target) as temporary:
            os.replace(first.path, temporary)
            with _filled(temporary, "r+") as file:
                del file.attrs[_PIXELS]
                for part in others:
                    with h5py.File(part.path) as source:
                        for name in part.names:
                            source.copy(name, file, name)
                    part.path.unlink()
                file.create_dataset("labels", data=np.array(labels, object), dtype=_TEXT)
                file.attrs.update({
                    "rsafast_format": _FORMAT, "rsafast_kind": "features",
                    "provenance": json.dumps(record, ensure_ascii=False),
                })  # fmt: skip


@contextmanager
def feature_file(out: PathInput, resume: bool) -> Iterator[FeatureFile]:
    """Yield the file in the making; parts that are there when the block fails are kept.

    Parameters
    ----------
    out : one that exists is replaced by :meth:`FeatureFile.finish`, and kept until then
    resume : False starts anew

    Raises
    ------
    InvalidInputError
        Where the folder cannot be written, and while another process writes the same file.
    """
    with in_the_making(out) as (target, folder):
        if not resume:
            for part in folder.glob("*.h5"):
                part.unlink()
        try:
            yield FeatureFile(target, folder)
        except BaseException:
            if not any(folder.glob("*.h5")):
                shutil.rmtree(folder)
            raise


def network_hash(network: nn.Module) -> str:
    """SHA-256 of what a network computes: its modules, their settings, and all numbers in them."""
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        plain = {
            key: value for key, value in vars(module).items()
            if isinstance(value, bool | int | float | str | tuple) and key != "training"
        }  # fmt: skip
        digest.update(f"{name} {type(module).__qualname__} {sorted(plain.items())}\n".encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def provenance(
    source: str, unused: int, steps: Sequence[Preprocess], digests: Sequence[str], **more: Any
) -> dict[str, Any]:
    """What a file says of where it comes from.

    Parameters
    ----------
    source, unused : of the stimuli, and how many of its images are not used
    steps, digests : the resolutions, and the SHA-256 of the pixels of each
    more : further records
    """
    return {
        **_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "stimuli": source,
        "unused_images": unused,
        "preprocess": [
            asdict(step) | {_PIXELS: digest[:16]}
            for step, digest in zip(steps, digests, strict=True)
        ],
        **more,
    }


@contextmanager
def _filled(path: Path, mode: str) -> Iterator[h5py.File]:
    """Yield an HDF5 file; a full disk that shows when it is closed is an OSError too."""
    file = h5py.File(path, mode)
    try:
        yield file
    finally:
        try:
            file.close()
        except RuntimeError as error:
            said = re.search("error message = '([^']*)'", str(error))
            raise OSError(said[1] if said else str(error)) from None


def _versions() -> dict[str, str]:
    return {name: _version(name) for name in ("rsafast", "torch", "numpy", "h5py", "pillow")}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
