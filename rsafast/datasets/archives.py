"""Archives: unpacked whole or not at all, and never outside their folder."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from rsafast.errors import BackendUnavailableError, InvalidInputError
from rsafast.progress import Advance, track


def unpack(archive: Path, target: Path, gives: str, progress: bool) -> Path:
    """Unpack into a hidden folder and rename it, so that the result is whole or not there."""
    final = target / gives
    hidden = target / f".{gives}.unpacking"
    shutil.rmtree(hidden, ignore_errors=True)  # of a process that was killed
    hidden.mkdir()
    try:
        extract = _extract_zip if archive.suffix == ".zip" else _extract_tar
        extract(archive, hidden, progress)
        inside = [entry for entry in hidden.iterdir() if entry.name != "__MACOSX"]
        # Some archives hold the folder, some only its files.
        whole = inside[0] if [entry.name for entry in inside] == [gives] else hidden
        os.replace(whole, final)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise InvalidInputError(
            f"{archive}: is damaged or no archive ({error}); remove it, and run the command again"
        ) from None
    except OSError as error:
        raise InvalidInputError(
            f"{archive}: cannot be unpacked ({error.strerror}); the archive is kept. Make room, and"
            " run the command again"
        ) from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return final


def _extract_zip(path: Path, folder: Path, progress: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or ":" in member.filename:
                raise _outside(path, member.filename)
        _extract(
            [(member.file_size, member) for member in members],
            lambda member: archive.extract(member, folder),
            folder, path.name, progress,
        )  # fmt: skip


def _extract_tar(path: Path, folder: Path, progress: bool) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise BackendUnavailableError(
            f"{path}: unpacking safely needs Python 3.11.4 or newer; update Python, or unpack it"
            " yourself"
        )
    with tarfile.open(path) as archive:

        def extract(member: tarfile.TarInfo) -> None:
            try:
                archive.extract(member, folder, filter="data")
            except tarfile.FilterError:
                raise _outside(path, member.name) from None

        members = [(member.size, member) for member in archive.getmembers()]
        _extract(members, extract, folder, path.name, progress)


def _extract(
    members: Sequence[tuple[int, Any]],
    extract: Callable[[Any], Any],
    folder: Path,
    name: str,
    progress: bool,
) -> None:
    total = sum(size for size, _ in members)
    check_free(folder, total, f"the files in {name}")
    with track(max(1, total // 10**6), f"MB of {name} unpacked", progress) as advance:
        count = megabytes(advance)
        for size, member in members:
            extract(member)
            count(size, "")


def _outside(path: Path, member: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path}: holds {member!r}, which would be written outside its folder; it is not the"
        " published archive, and nothing was unpacked"
    )


def check_free(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk has no room for."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InvalidInputError(
            f"{folder}: {what} need {needed / 1e9:,.1f} GB, the disk has {free / 1e9:,.1f} GB free;"
            " make room, or choose another folder with --to"
        )


def megabytes(advance: Advance) -> Callable[[int, str], None]:
    """Move a bar of megabytes by bytes."""
    done = shown = 0

    def count(number: int, name: str) -> None:
        nonlocal done, shown
        done += number
        advance(done // 10**6 - shown, name)
        shown = done // 10**6

    return count
