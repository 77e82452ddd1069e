"""Decoded images on disk, memory-mapped, under a name made of the content they come from.

One file a data set: an uncompressed .npz (``numpy.load`` reads it) with the images, the labels and
``meta.json``. It is written under a temporary name and renamed, so that processes that build the
same file at once each end with a whole one. Its checksums (CRC-32) are verified at every load; a
damaged file is rebuilt with a warning.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import time
import warnings
import zipfile
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from rsafast_kernels.atomic import replacing
from rsafast_kernels.errors import InvalidInputError

from rsafast_training.data.decode import Decoded, Decoder, Progress
from rsafast_training.data.folder import is_image
from rsafast_training.data.source import Pictures, Source

BYTES_UP_TO = 200_000  # files whose every byte is read, to tell one content from another
FORMAT = 1  # raise it when decoding, or the layout of the file, changes
_ABANDONED = 86_400.0  # seconds after which a temporary file belongs to a killed process
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError),
    *(KeyError, ValueError, TypeError),
)


def load_cached(
    source: Source,
    image_size: int | None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Decoded:
    """Return the decoded data set from the cache, after building it if need be."""
    folder = _folder(cache_dir)
    path = folder / f"{source.name[:60]}-{content_key(source, image_size)[:32]}.npz"
    if path.exists():
        try:
            return _read(path)
        except _DAMAGE as error:
            warnings.warn(
                f"{path}: the cached images are damaged ({error}) and are decoded again",
                stacklevel=3,
            )
    _build(path, source.read().check(source.where), image_size, progress)
    return _read(path)


def content_key(source: Source, image_size: int | None) -> str:
    """Return the SHA-256, in hexadecimal digits, of all that decides the decoded images.

    Of more than `BYTES_UP_TO` files, the sizes of the images count instead of their bytes:
    ImageNet's would be read for minutes to hours at every load.
    """
    by_size = len(source.files) > BYTES_UP_TO
    digest = hashlib.sha256(f"{FORMAT}/{image_size}/{source.options}".encode())
    for name, path in source.files.items():
        try:
            if by_size and is_image(name):
                content = f"{os.stat(path).st_size} bytes"
            else:
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InvalidInputError(
                f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
            ) from None
        digest.update(f"/{name}/{content}".encode())
    return digest.hexdigest()


def _folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    chosen = cache_dir or os.environ.get("RSAFAST_CACHE") or "~/.cache/rsafast"
    folder = Path(chosen).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"{folder}: the cache folder cannot be made ({error.strerror}); set RSAFAST_CACHE or "
            "cache_dir to a folder that can be written"
        ) from None
    return folder


def _build(
    path: Path, pictures: Pictures, image_size: int | None, progress: Progress | None
) -> None:
    _sweep(path.parent)
    decoder = Decoder(pictures, image_size)
    total = len(pictures.train) + len(pictures.test)
    _check_space(path.parent, total * int(np.prod(decoder.shape)))
    done = 0
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for part, split in (("train", pictures.train), ("test", pictures.test)):
            with archive.open(f"{part}_images.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False}
                npy.write_array_header_1_0(
                    member, header | {"shape": (len(split), *decoder.shape)}
                )
                for block in decoder.blocks(split):
                    member.write(block.data)
                    done += len(block)
                    if progress is not None:
                        progress(done, total)
            with archive.open(f"{part}_labels.npy", "w") as member:
                npy.write_array(member, split.labels, allow_pickle=False)
        mean, std = decoder.statistics()
        meta = {
            "format": FORMAT,
            "classes": pictures.classes,
            "mean": mean,
            "std": std,
            "fingerprint": decoder.fingerprint(),
            "split": pictures.split,
        }
        archive.writestr("meta.json", json.dumps(meta))


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InvalidInputError(
            f"{folder}: the decoded images need {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB "
            "are free; free some space, pass a smaller image_size, or set RSAFAST_CACHE or "
            "cache_dir to another disk"
        )


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed while writing have left."""
    for leftover in folder.glob(".*.npz.*.tmp"):
        with suppress(FileNotFoundError):  # another process has finished meanwhile
            if time.time() - leftover.stat().st_mtime > _ABANDONED:
                leftover.unlink()


def _read(path: Path) -> Decoded:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        meta: dict[str, Any] = json.loads(archive.read("meta.json"))
        images = [_map(path, archive.getinfo(f"{part}_images.npy")) for part in ("train", "test")]
        labels = []
        for part in ("train", "test"):
            with archive.open(f"{part}_labels.npy") as member:
                labels.append(npy.read_array(member, allow_pickle=False))
    return Decoded(
        images[0],
        labels[0],
        images[1],
        labels[1],
        tuple(meta["classes"]),
        tuple(meta["mean"]),
        tuple(meta["std"]),
        meta["fingerprint"],
        meta["split"],
    )


def _map(path: Path, member: zipfile.ZipInfo) -> NDArray[np.uint8]:
    """Memory-map an uncompressed array of the archive."""
    with path.open("rb") as file:
        # A local header: 30 bytes, the last four of which are the lengths of two fields after it.
        file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(member.header_offset + 30 + name + extra)
        npy.read_magic(file)
        shape, _, dtype = npy.read_array_header_1_0(file)
        mapped = partial(np.memmap, path, dtype, offset=file.tell(), shape=shape)
    try:
        # Copy on write: torch takes the pages without copying them, and the file stays as it is.
        return mapped(mode="c")
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        # Linux promises no copies of more than memory and swap together; to read needs no promise.
        return mapped(mode="r")
