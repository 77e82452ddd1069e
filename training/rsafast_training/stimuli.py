"""Stimuli: images with labels, from a folder, .zip, list of paths, NumPy files or NSD's HDF5.

A :class:`Stimuli` knows the labels and the order of its images and decodes them on demand.
:meth:`Stimuli.decoding` decodes each image once, for every resolution that is asked for, into
temporary files, while what is there is already read: many checkpoints read the same pixels, and
memory stays bounded whatever the number of images. :meth:`Stimuli.pixels` waits for all of them.

Nothing is dropped or replaced in silence: an image that an explicit order names must be there.
"""

from __future__ import annotations

import hashlib
import math
import os
import posixpath
import tempfile
import threading
import zipfile
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias, cast

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rsafast_kernels import num_threads
from rsafast_kernels.errors import InvalidInputError

from rsafast_training.data.folder import SUFFIXES
from rsafast_training.images import decode_rgb, fit_square

PathInput: TypeAlias = str | os.PathLike[str]
Pixels: TypeAlias = NDArray[np.uint8]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)

_LIST_SUFFIXES = frozenset((".txt", ".lst"))
_HDF5_SUFFIXES = frozenset((".hdf5", ".h5"))
_AT_ONCE = 64  # images decoded ahead of the writer, which bounds memory
_SHOWN = 10  # names printed in a message
_NSD_SHAPE = (73_000, 425, 425, 3)  # of nsd_stimuli.hdf5; the row of an image is its nsdId


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What is done to an image before a network sees it.

    Resizing is bilinear and antialiased, on uint8, as torchvision's ``Resize`` and ``CenterCrop``
    of PIL images; then x / 255, minus `mean`, over `std`, in float32.

    Attributes
    ----------
    size : height and width of the input, in pixels.
    crop : "center" resizes the shorter edge to `resize`, keeping proportions, and cuts the middle;
        "none" squeezes the whole image into the square.
    resize : shorter edge before the cut, at least `size`; by default `size`. ImageNet networks are
        commonly tested with size 224 and resize 256, which trims 12.5 % of a square image.
    mean, std : of R, G and B on the scale 0 to 1; CIFAR-10's by default.

    Raises
    ------
    InvalidInputError
        For values out of range.
    """

    size: int
    crop: Literal["center", "none"] = "center"
    resize: int | None = None
    mean: tuple[float, float, float] = CIFAR_MEAN
    std: tuple[float, float, float] = CIFAR_STD

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise InvalidInputError(f"size must be a positive number of pixels, got {self.size!r}")
        if self.crop not in ("center", "none"):
            raise InvalidInputError(f"crop must be 'center' or 'none', got {self.crop!r}")
        if self.resize is not None and (self.crop == "none" or self.resize < self.size):
            raise InvalidInputError(
                f"resize must be at least size ({self.size}) and needs crop='center', got "
                f"{self.resize!r} with crop={self.crop!r}; leave it out"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InvalidInputError(
                f"mean and std must hold three numbers, std above 0, got {self.mean}, {self.std}"
            )

    def resized(self, image: Pixels) -> Pixels:
        """Resize and crop a uint8 (H, W, 3) image to (size, size, 3)."""
        if self.crop == "center":
            return fit_square(image, self.size, self.resize)
        whole = Image.fromarray(image).resize((self.size,) * 2, Image.Resampling.BILINEAR)
        return np.asarray(whole)


@dataclass(frozen=True, slots=True)
class Stimuli:
    """Labelled images in a fixed order, decoded on demand.

    Attributes
    ----------
    labels : one unique str an image.
    source : where they come from, for messages and records.
    unused : names of images that are there and that the order leaves out.
    """

    labels: tuple[str, ...]
    source: str
    _read: Callable[[int], Pixels] = field(repr=False)
    _indices: tuple[int, ...] = field(repr=False)
    unused: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> Pixels:
        """Decode image `i`: uint8 (H, W, 3), RGB.

        Raises
        ------
        InvalidInputError
            For a file that is no image, or is truncated; the message names it.
        """
        return self._read(self._indices[i])

    def pixels(
        self,
        preprocess: Sequence[Preprocess],
        *,
        folder: PathInput | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Pixels]:
        """Decode every image once and resize it for each of `preprocess`.

        Parameters
        ----------
        preprocess : sequence of Preprocess
        folder : path, optional
            Where the temporary files lie, which have no name and vanish with the process;
            n · size² · 3 bytes a resolution. The system's temporary folder by default.
        progress : function, optional
            Called with the number of images done since its last call, by the thread that writes.

        Returns
        -------
        list of (n, size, size, 3) uint8 arrays, memory-mapped, read-only

        Raises
        ------
        InvalidInputError
            For an image that cannot be decoded, and for a full disk.
        """
        with self.decoding(preprocess, folder=folder, progress=progress) as decoding:
            return decoding.mapped()

    @contextmanager
    def decoding(
        self,
        preprocess: Sequence[Preprocess],
        *,
        folder: PathInput | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Decoding]:
        """Begin to decode, in threads, what :meth:`pixels` gives; leaving the context ends it.

        Parameters and errors are those of :meth:`pixels`; errors are raised by the reader whose
        rows they concern.
        """
        decoding = Decoding(self, preprocess, folder, progress)
        try:
            yield decoding
        finally:
            decoding.close()


class Decoding:
    """Images on their way from threads that decode them to files that are read meanwhile.

    Rows appear in order. One thread writes them; those that decode are at most `_AT_ONCE` images
    ahead of it, which bounds memory.
    """

    def __init__(
        self,
        stimuli: Stimuli,
        preprocess: Sequence[Preprocess],
        folder: PathInput | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._stimuli, self._preprocess, self._progress = stimuli, tuple(preprocess), progress
        self._place = folder or tempfile.gettempdir()
        self._ready, self._error, self._stopped = 0, cast("BaseException | None", None), False
        self._changed = threading.Condition()
        self._digests = [hashlib.sha256() for _ in preprocess]
        self._files: list[Any] = []
        with self._disk_errors():
            for _ in preprocess:
                self._files.append(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
        # A daemon, so that a process that ends without closing is not kept.
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def __len__(self) -> int:
        return len(self._stimuli)

    def read(self, resolution: int, rows: slice) -> Pixels:
        """Map rows at one of the resolutions, (n, size, size, 3) uint8, when they are there."""
        self._wait_for(rows.stop)
        shape = (self._preprocess[resolution].size,) * 2 + (3,)
        return np.memmap(
            self._files[resolution], np.uint8, "r", offset=rows.start * math.prod(shape),
            shape=(rows.stop - rows.start, *shape),
        )  # fmt: skip

    def mapped(self) -> list[Pixels]:
        """Wait for all images, and map the files, read-only; mappings outlive this object."""
        return [self.read(i, slice(0, len(self))) for i in range(len(self._files))]

    def digest(self, resolution: int) -> str:
        """SHA-256 of the pixels of a resolution, once all are there."""
        self._wait_for(len(self))
        return self._digests[resolution].hexdigest()

    def close(self) -> None:
        """End the threads, after the images in hand, and free the files."""
        with self._changed:
            self._stopped = True
        self._writer.join()
        for file in self._files:
            with suppress(OSError):  # of what a full disk did not take, which was said
                file.close()

    def _wait_for(self, rows: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ready >= rows or self._error)
            if self._ready < rows and self._error is not None:
                raise self._error

    def _write(self) -> None:
        try:
            with self._disk_errors(), ThreadPoolExecutor(num_threads()) as pool:
                self._write_all(pool)
        except BaseException as error:  # raised again where the rows are waited for
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _write_all(self, pool: ThreadPoolExecutor) -> None:
        """Write images in order; Pillow frees the interpreter's lock while it decodes."""
        coming = (pool.submit(self._prepared, i) for i in range(len(self)))
        ahead = deque(islice(coming, _AT_ONCE))
        try:
            for written in range(1, len(self) + 1):
                if self._stopped:
                    return
                images = ahead.popleft().result()
                ahead.extend(islice(coming, 1))
                for file, digest, image in zip(self._files, self._digests, images, strict=True):
                    file.write(image.data)
                    digest.update(image.data)
                if written % _AT_ONCE == 0 or written == len(self):
                    self._announce(written)
        finally:
            pool.shutdown(cancel_futures=True)

    def _announce(self, written: int) -> None:
        for file in self._files:
            file.flush()
        if self._progress is not None:
            self._progress(written - self._ready)
        with self._changed:
            self._ready = written
            self._changed.notify_all()

    def _prepared(self, i: int) -> list[Pixels]:
        image = self._stimuli.image(i)
        return [np.ascontiguousarray(p.resized(image)) for p in self._preprocess]

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidInputError(
                f"the resized images do not fit in {self._place} ({error.strerror}); free some "
                "space or choose another folder"
            ) from None


def read_stimuli(
    path: PathInput,
    *,
    order: PathInput | Sequence[str] | None = None,
    key: str | None = None,
    stimulus_id: Callable[[str], str] | None = None,
) -> Stimuli:
    """Find the images of `path` and give them labels and an order; nothing is decoded yet.

    Parameters
    ----------
    path : str or Path
        A folder (searched whole) or a .zip of images; a .txt with one path a line, relative to it;
        a .npz with JPEG bytes end to end (``jpeg`` uint8, ``offsets`` n + 1 integers; several such
        sets as ``<key>_jpeg``, ``<key>_offsets``); a .npy or .npz with a uint8 array (n, H, W, 3);
        nsd_stimuli.hdf5 of the Natural Scenes Dataset, whose images are read one by one as they
        are needed and labelled by their nsdId, which counts from 0: "nsd00000" to "nsd72999".
    order : path or sequence of str, optional
        The stimuli wanted, in the order wanted: a text file with one a line, or the labels. Each
        is the stem of a file name ("cat_01b"), the file name, or the path inside `path`; they
        become the labels, as written.
        By default all images, sorted by path (a list and an array keep their own order).
    key : str, optional
        Which set or array of a .npz that holds several.
    stimulus_id : function, optional
        Gives the label of an image from its path inside `path`, such as "dog/dog_01b.jpg". `order`
        then names these labels.

    Returns
    -------
    Stimuli
        The labels are those of `stimulus_id`, else the stems where they are unique, else the paths
        inside `path`. Images of an array are labelled by its ``labels`` or ``stimuli`` where those
        are unique str, else by their position, from "00000".

    Raises
    ------
    InvalidInputError
        For a path that is missing, damaged, of another kind or without images; for labels of
        `order` that are missing (all of them are counted), repeated or ambiguous.
    """
    place = Path(path).expanduser()
    names, read = _open(place, key)
    if stimulus_id is not None:
        names = [stimulus_id(name) for name in names]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise InvalidInputError(f"{path}: {_some(repeated, 'image')} named more than once")
    if order is None:
        labels = tuple(names) if stimulus_id else _labels(names)
        return Stimuli(labels, str(path), read, tuple(range(len(names))))
    wanted, said = _wanted(order)
    indices = _find(wanted, names, said, path)
    unused = set(range(len(names))) - set(indices)
    return Stimuli(wanted, str(path), read, indices, tuple(names[i] for i in sorted(unused)))


def _labels(names: Sequence[str]) -> tuple[str, ...]:
    stems = tuple(_stem(name) for name in names)
    return stems if len(set(stems)) == len(stems) else tuple(names)


def _stem(name: str) -> str:
    """The file name without a suffix of images: "v1.5 cat" has none."""
    last = posixpath.basename(name)
    stem, suffix = posixpath.splitext(last)
    return stem if suffix.lower() in SUFFIXES else last


def _wanted(order: PathInput | Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The labels of an order, and what to call it."""
    if isinstance(order, str | os.PathLike):
        said = str(order)
        wanted = tuple(_lines(Path(order).expanduser(), "order"))
    else:
        said, wanted = "order", tuple(map(str, order))
    if not wanted:
        raise InvalidInputError(f"{said}: names no stimulus; write one a line")
    repeated = [label for label, times in Counter(wanted).items() if times > 1]
    if repeated:
        raise InvalidInputError(f"{said}: {_some(repeated, 'label')} named more than once")
    return wanted, said


def _find(
    wanted: Iterable[str], names: Sequence[str], said: str, path: PathInput
) -> tuple[int, ...]:
    """Where each wanted label is, looked up as a path, then a file name, then a stem."""

    @cache  # NSD has 73,000 names, all of which match as they are
    def table_of(key_of: Callable[[str], str]) -> dict[str, list[int]]:
        table = defaultdict(list)
        for i, name in enumerate(names):
            table[key_of(name)].append(i)
        return table

    keys = (str, posixpath.basename, _stem)
    found: list[int] = []
    missing: list[str] = []
    for label in wanted:
        hits = next((table_of(key)[label] for key in keys if label in table_of(key)), [])
        if len(hits) > 1:
            raise InvalidInputError(
                f"{said}: {label!r} could be {_some([names[i] for i in hits], 'image')} of {path}; "
                "write the path inside it"
            )
        found += hits
        if not hits:
            missing.append(label)
    if missing:
        raise InvalidInputError(
            f"{said}: {_some(missing, 'stimulus')} of {len(found) + len(missing)} not in {path}, "
            f"which holds {len(names)} images such as {names[0]!r}; nothing is left out or "
            "replaced: add the images or correct the order"
        )
    twice = [names[i] for i, times in Counter(found).items() if times > 1]
    if twice:
        raise InvalidInputError(f"{said}: {_some(twice, 'image')} named by two labels")
    return tuple(found)


def _some(names: Sequence[str], noun: str) -> str:
    """"3 images ('a', 'b', 'c')", at most ten of them spelled out."""
    shown = ", ".join(map(repr, names[:_SHOWN]))
    rest = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    plural = "stimuli" if noun == "stimulus" else f"{noun}s"
    return f"{len(names)} {noun if len(names) == 1 else plural} ({shown}{rest})"


def _lines(path: Path, argument: str) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"{path}: {argument} cannot be read as UTF-8 text ({error}); write one name a line"
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


# ---- the kinds of sources: each gives the names and a function that decodes number i ----

_Opened: TypeAlias = tuple[list[str], Callable[[int], Pixels]]


def _open(path: Path, key: str | None) -> _Opened:
    suffix = path.suffix.lower()
    if not path.exists():
        raise InvalidInputError(f"{path}: no such file or folder; check the path of the stimuli")
    if key is not None and suffix != ".npz":
        raise InvalidInputError(f"{path}: key= is for a .npz that holds several sets; leave it out")
    if path.is_dir():
        return _open_folder(path)
    if suffix == ".zip":
        return _open_zip(path)
    if suffix in _LIST_SUFFIXES:
        return _open_list(path)
    if suffix == ".npy":
        return _open_array(path, _load_numpy(path), None)
    if suffix == ".npz":
        return _open_npz(path, key)
    if suffix in _HDF5_SUFFIXES:
        return _open_nsd(path)
    raise InvalidInputError(
        f"{path}: holds no stimuli by its name; expected a folder, .zip, .txt, .npy, .npz or .hdf5"
    )


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _sorted_images(names: Iterable[str], path: Path) -> list[str]:
    # Folder by folder: as text, "ice-cream_cone/" would come before "ice/".
    images = sorted(filter(_is_image, names), key=lambda name: name.split("/"))
    if not images:
        raise InvalidInputError(
            f"{path}: holds no image; looked for {', '.join(sorted(SUFFIXES))}"
        )
    return images


def _open_folder(path: Path) -> _Opened:
    names = _sorted_images(
        (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()), path
    )
    return names, lambda i: decode_rgb(path / names[i], str(path / names[i]))


def _open_list(path: Path) -> _Opened:
    names = _lines(path, "list of images")
    if not names:
        raise InvalidInputError(f"{path}: names no image; write one path a line")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise InvalidInputError(
            f"{path}: {_some(missing, 'image')} of {len(names)} not found; paths are relative to "
            f"{path.parent}"
        )
    return names, lambda i: decode_rgb(path.parent / names[i], str(path.parent / names[i]))


def _open_zip(path: Path) -> _Opened:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InvalidInputError(f"{path}: is no readable .zip ({error}); fetch it again") from None
    names = _sorted_images(archive.namelist(), path)

    def read(i: int) -> Pixels:
        try:
            content = archive.read(names[i])
        except (zipfile.BadZipFile, RuntimeError, OSError, EOFError, zlib.error) as error:
            raise InvalidInputError(
                f"{path}: {names[i]!r} cannot be unpacked ({error}); fetch the archive again, or "
                "unpack it (with its password, if it has one) and name the folder"
            ) from None
        return decode_rgb(content, f"{path}: {names[i]}")

    return names, read


def _load_numpy(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"{path}: is no readable NumPy file ({error})") from None


def _open_npz(path: Path, key: str | None) -> _Opened:
    with _load_numpy(path) as archive:
        try:
            blobs = {
                name.removesuffix("jpeg").rstrip("_"): name
                for name in archive.files
                if name.endswith("jpeg") and name.removesuffix("jpeg") + "offsets" in archive.files
            }
            stacks = {name: name for name in archive.files if archive[name].ndim == 4}
            choices = blobs | stacks
            if key is None and len(choices) == 1:
                key = next(iter(choices))
            if key not in choices:
                raise InvalidInputError(
                    f"{path}: "
                    + (f"no key {key!r}" if key else "choose a set of images with key=")
                    + f"; it holds {', '.join(map(repr, choices)) or 'no images'}"
                )
            prefix = "" if key in stacks else blobs[key].removesuffix("jpeg")
            ids = next(
                (archive[n] for n in (f"{prefix}labels", f"{prefix}stimuli") if n in archive.files),
                None,
            )
            if key in stacks:
                return _open_array(path, archive[key], ids)
            return _open_blob(path, archive[blobs[key]], archive[f"{prefix}offsets"], ids)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(f"{path}: is damaged ({error}); fetch it again") from None


def _open_array(path: Path, images: NDArray[Any], ids: NDArray[Any] | None) -> _Opened:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not images.size:
        raise InvalidInputError(
            f"{path}: images must be uint8 (n, H, W, 3), got {images.dtype} {images.shape}"
        )
    return _array_names(path, len(images), ids), lambda i: np.asarray(images[i])


def _open_nsd(path: Path) -> _Opened:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InvalidInputError(
            f"{path}: is no readable HDF5 file ({error}); fetch it again"
        ) from None
    images = file.get("imgBrick")
    found = f"{images.dtype} {images.shape}" if isinstance(images, h5py.Dataset) else "none"
    if found != f"uint8 {_NSD_SHAPE}":
        file.close()
        raise InvalidInputError(
            f"{path}: expected 'imgBrick' of nsd_stimuli.hdf5, uint8 {_NSD_SHAPE}, whose row is "
            f"the nsdId, got {found}; save other images as a .npz with labels"
        )

    def read(i: int) -> Pixels:
        # One row at a time needs no increasing indices, as h5py demands of several.
        try:
            return np.asarray(images[i])
        except OSError as error:
            raise InvalidInputError(
                f"{path}: row {i} of 'imgBrick' cannot be read ({error}); fetch the file again"
            ) from None

    return [f"nsd{i:05d}" for i in range(len(images))], read


def _open_blob(
    path: Path, blob: Pixels, offsets: NDArray[Any], ids: NDArray[Any] | None
) -> _Opened:
    n = len(offsets) - 1
    rising = n > 0 and offsets[0] == 0 and bool((np.diff(offsets) > 0).all())
    if not rising or offsets[-1] != len(blob):
        raise InvalidInputError(
            f"{path}: offsets must rise from 0 to the {len(blob)} bytes of the images"
        )

    def read(i: int) -> Pixels:
        return decode_rgb(blob[offsets[i] : offsets[i + 1]].tobytes(), f"{path}: image {i}")

    return _array_names(path, n, ids), read


def _array_names(path: Path, n: int, ids: NDArray[Any] | None) -> list[str]:
    if ids is not None and ids.shape != (n,):
        raise InvalidInputError(f"{path}: {n} images and labels of shape {ids.shape}")
    if ids is not None and ids.dtype.kind == "U" and len(set(ids.tolist())) == n:
        return [str(label) for label in ids]
    return [f"{i:05d}" for i in range(n)]
