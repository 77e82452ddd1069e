"""Files that take long to write: a killed run goes on where it stopped, two at once are refused."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rsafast_kernels.atomic import PathInput, in_the_making, replacing

from rsafast.errors import InvalidInputError
from rsafast.io.store import check_suffix
from rsafast.memory import format_bytes


@dataclass(frozen=True, slots=True)
class Work:
    """A file in the making, in a folder of its own beside its final place.

    Attributes
    ----------
    target : where it will be.
    file : the unfinished file.
    done : numbers of the parts that are safely in it.
    journal : text file of a key that says what is computed, then one line a part.
    """

    target: Path
    file: Path
    done: set[int]
    journal: Path

    def record(self, parts: range) -> None:
        """Note that these parts have reached the disk.

        Raises
        ------
        InvalidInputError
            Where the disk does not take the note.
        """
        try:
            with self.journal.open("a", encoding="ascii") as journal:
                journal.writelines(f"{part}\n" for part in parts)
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise not_kept(self.target, error) from None
        self.done.update(parts)

    def keep(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file of that name beside the unfinished one, whole or not at all, and note it.

        Raises
        ------
        InvalidInputError
            Where the disk does not take it; what was kept before is untouched.
        """
        try:
            self.file.touch()  # without it the work would start anew
            with replacing(self.beside(name)) as temporary, temporary.open("wb") as file:
                write(file)
        except (OSError, InvalidInputError) as error:
            raise not_kept(self.target, error) from None
        self.record(range(len(self.done), len(self.done) + 1))

    def beside(self, name: str) -> Path:
        """Where `keep` puts a file."""
        return self.file.with_name(name)

    def finish(self, save: Callable[[Path], object]) -> None:
        """Have the whole file saved."""
        finished = self.beside(f"result{self.target.suffix}")
        save(finished)
        os.replace(finished, self.file)


@contextmanager
def resumable_if_named(
    path: PathInput | None, what: tuple[Any, ...], *, resume: bool
) -> Iterator[Work | None]:
    """:func:`resumable` for a result that is a function of `what`; None where no file is named."""
    if path is None:
        yield None
        return
    check_suffix(path)
    with resumable(path, what, resume=resume) as work:
        yield work


@contextmanager
def resumable(path: PathInput, what: tuple[Any, ...], *, resume: bool) -> Iterator[Work]:
    """Yield a file in the making; it becomes `path` if the block succeeds.

    Parts that are done when the block fails, or when the process is killed, are taken up by the
    next call of the same `what`.

    Parameters
    ----------
    path : file to be written; one that exists is replaced at the end, and kept on any failure
    what : what is computed, of what, into which layout; its ``repr`` tells it from others
    resume : False starts anew

    Raises
    ------
    InvalidInputError
        Where the folder cannot be written, and while another process writes the same file.
    """
    key = hashlib.sha256(repr(what).encode()).hexdigest()
    with in_the_making(path) as (target, folder):
        try:
            work = _taken_up(target, folder, key, resume)
        except OSError as error:
            raise not_kept(target, error) from None
        try:
            yield work
        except BaseException:
            if not work.done:
                shutil.rmtree(folder)
            raise
        os.replace(work.file, target)


def _taken_up(target: Path, folder: Path, key: str, resume: bool) -> Work:
    file, journal = folder / "file", folder / "journal"
    *lines, unfinished = journal.read_text("ascii").split("\n") if journal.exists() else [""]
    if resume and lines[:1] == [key] and file.exists():
        # Cut off, or it would become one with the next line, and that another part's number.
        os.truncate(journal, journal.stat().st_size - len(unfinished))
        return Work(target, file, {int(line) for line in lines[1:]}, journal)
    for left in folder.iterdir():
        if left.name != ".lock":  # what belongs to another key must never be read
            left.unlink()
    journal.write_text(f"{key}\n", "ascii")
    return Work(target, file, set(), journal)


def reserve(file: Path, start: int, size: int, target: PathInput) -> None:
    """Have the disk promise the bytes start..start + size of `file`, before work begins.

    Raises
    ------
    InvalidInputError
        Where they are not there.
    """
    try:
        with file.open("r+b") as handle:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle.fileno(), start, size)
            elif shutil.disk_usage(file.parent).free < size:
                raise OSError("no space left on the device")
    except OSError as error:
        raise no_room(file, size, target, error) from None


def not_kept(target: PathInput, error: Exception) -> InvalidInputError:
    """What is wrong where the disk did not take a part of the work."""
    return InvalidInputError(
        f"{target}: could not be written ({error}); what was done before is kept: make room on its"
        " disk, and the same call goes on from there"
    )


def no_room(file: Path, size: int, target: PathInput, error: Exception) -> InvalidInputError:
    """What is wrong where the disk did not take `size` bytes."""
    free = shutil.disk_usage(file.parent).free
    return InvalidInputError(
        f"{target}: needs {format_bytes(size)} of disk, and {format_bytes(free)} are free"
        f" ({error}); choose another place, or a smaller dtype"
    )
