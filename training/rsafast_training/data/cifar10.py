"""CIFAR-10 as its authors publish it: the binary or the Python version, unpacked or as .tar.gz.

Binary: each of six files holds 10,000 records of 1 label byte and 3 x 1,024 pixel bytes (all red,
then green, then blue; rows from the top). Python: pickles, read by an unpickler that admits NumPy
arrays and plain containers and nothing else. https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.pickles import load_pickle

from rsafast_training.data.source import Pictures, Source, Split, as_labels

RECORDS = 10_000  # images a file
PIXELS = 3 * 32 * 32
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")

Records = tuple[NDArray[np.int64], NDArray[np.uint8]]
Read = Callable[[str], bytes]


def cifar10(path: Path) -> Source:
    """Return the source of a folder of batches, the folder that holds it, or a .tar.gz."""
    if path.is_file():
        return Source("cifar10", str(path), {"archive": path}, lambda: _read_archive(path))
    batches = find_batches(path)
    if batches is None:
        raise InvalidInputError(
            f"{path}: no CIFAR-10 here; expected data_batch_1.bin or data_batch_1 in it or in "
            f"{' or '.join(_FOLDERS)}, or the .tar.gz itself"
        )
    folder, suffix = batches
    files = {name: folder / name for name in _members(suffix)}
    for file in files.values():
        if not file.is_file():
            raise InvalidInputError(f"{file}: is missing; unpack the CIFAR-10 archive again")
    return Source("cifar10", str(folder), files, lambda: _read(str(folder), suffix, _reader(files)))


def find_batches(path: Path) -> tuple[Path, str] | None:
    """Return the folder of the batches, `path` or one in it, and the ending of their names."""
    for folder in (path, *(path / name for name in _FOLDERS)):
        for suffix in (".bin", ""):
            if (folder / f"data_batch_1{suffix}").is_file():
                return folder, suffix
    return None


def _members(suffix: str) -> tuple[str, ...]:
    batches = tuple(f"{name}{suffix}" for name in (*TRAIN, TEST))
    return (*batches, "batches.meta.txt" if suffix else "batches.meta")


def _reader(files: dict[str, Path]) -> Read:
    return lambda name: files[name].read_bytes()


def _read_archive(path: Path) -> Pictures:
    try:
        with tarfile.open(path) as archive:
            # Members are read where they are and never unpacked, so their paths can do no harm.
            members = {Path(m.name).name: m for m in archive.getmembers() if m.isfile()}
            suffix = ".bin" if "data_batch_1.bin" in members else ""
            missing = [name for name in _members(suffix) if name not in members]
            if missing:
                raise InvalidInputError(
                    f"{path}: holds no {missing[0]}; expected cifar-10-binary.tar.gz or "
                    "cifar-10-python.tar.gz"
                )

            def read(name: str) -> bytes:
                member = archive.extractfile(members[name])
                assert member is not None
                return member.read()

            return _read(str(path), suffix, read)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InvalidInputError(
            f"{path}: is truncated or no .tar.gz ({error}); download it again"
        ) from None


def _read(where: str, suffix: str, read: Read) -> Pictures:
    parse = _binary if suffix else _python
    batches = [parse(read(f"{name}{suffix}"), f"{where}/{name}{suffix}") for name in TRAIN]
    labels = np.concatenate([labels for labels, _ in batches])
    pixels = np.concatenate([pixels for _, pixels in batches])
    return Pictures(
        _class_names(read(_members(suffix)[-1]), f"{where}/{_members(suffix)[-1]}", suffix),
        _split(labels, pixels, f"{where}, training"),
        _split(*parse(read(f"{TEST}{suffix}"), f"{where}/{TEST}{suffix}"), f"{where}, test"),
    )


def _split(labels: NDArray[np.int64], pixels: NDArray[np.uint8], where: str) -> Split:
    rgb = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(labels, lambda i: rgb[i], lambda i: f"{where} image {i}")


def _binary(data: bytes, name: str) -> Records:
    if len(data) != RECORDS * (PIXELS + 1):
        raise InvalidInputError(
            f"{name}: has {len(data):,} bytes, expected {RECORDS * (PIXELS + 1):,}; "
            "it is truncated or another file; unpack the archive again"
        )
    records = np.frombuffer(data, np.uint8).reshape(RECORDS, PIXELS + 1)
    return records[:, 0].astype(np.int64), records[:, 1:]


def _python(data: bytes, name: str) -> Records:
    batch = _unpickle(data, name)
    pixels, labels = batch.get("data"), batch.get("labels")
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.shape != (RECORDS, PIXELS)
        or not isinstance(labels, list)
    ):
        raise InvalidInputError(
            f"{name}: expected 'data', uint8 of shape {(RECORDS, PIXELS)}, and a list 'labels'; "
            "this is another file; unpack the archive again"
        )
    return as_labels(labels, RECORDS, f"{name}, 'labels',"), pixels


def _class_names(data: bytes, name: str, suffix: str) -> tuple[str, ...]:
    if suffix:
        names = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    else:
        names = [str(label) for label in _unpickle(data, name).get("label_names", [])]
    names = [label for label in names if label]
    if len(names) != 10:
        raise InvalidInputError(f"{name}: lists {len(names)} class names, expected 10")
    return tuple(names)


def _unpickle(data: bytes, name: str) -> dict[str, Any]:
    content = load_pickle(io.BytesIO(data), name)
    if not isinstance(content, dict):
        raise InvalidInputError(f"{name}: holds a {type(content).__name__}, expected a dict")
    return content
