"""Files that take long to write: a killed run goes on where it stopped, two at once are refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rsafast_kernels.atomic import PathInput, alone, check_writable

from rsafast.errors import InvalidInputError
from rsafast.memory import format_bytes


@dataclass(frozen=True, slots=True)
class Work:
    """A file in the making, in a folder of its own beside its final place.

    Attributes
    ----------
    file : the unfinished file.
    done : numbers of the parts that are safely in it.
    journal : text file of `key`, then one line a part.
    """

    file: Path
    done: set[int]
    journal: Path

    def record(self, parts: range) -> None:
        """Note that these parts have reached the disk."""
        with self.journal.open("a", encoding="ascii") as journal:
            journal.writelines(f"{part}\n" for part in parts)
            journal.flush()
            os.fsync(journal.fileno())
        self.done.update(parts)


@contextmanager
def resumable(path: PathInput, key: str, *, resume: bool) -> Iterator[Work]:
    """Yield a file in the making; it becomes `path` if the block succeeds.

    Parts that are done when the block fails, or when the process is killed, are taken up by the
    next call of the same `key`.

    Parameters
    ----------
    path : file to be written; one that exists is replaced at the end, and kept on any failure
    key : says what is computed, of what, into which layout
    resume : False starts anew

    Raises
    ------
    InvalidInputError
        Where the folder cannot be written, and while another process writes the same file.
    """
    target = check_writable(path)
    folder = target.with_name(f".{target.name}.partial")
    with alone(folder, f"is writing {target}"):
        if not (folder / ".lock").exists():
            raise InvalidInputError(f"{path}: another process has just written it; read that one")
        work = _taken_up(folder, key, resume)
        try:
            yield work
        except BaseException:
            if not work.done:
                shutil.rmtree(folder)
            raise
        os.replace(work.file, target)
        shutil.rmtree(folder)


def _taken_up(folder: Path, key: str, resume: bool) -> Work:
    file, journal = folder / "file", folder / "journal"
    lines = journal.read_text("ascii").split("\n") if journal.exists() else []
    if resume and lines[:1] == [key] and file.exists():
        # What follows the last line end is a line that was not finished.
        return Work(file, {int(line) for line in lines[1:-1]}, journal)
    file.unlink(missing_ok=True)
    journal.write_text(f"{key}\n", "ascii")
    return Work(file, set(), journal)


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


def no_room(file: Path, size: int, target: PathInput, error: Exception) -> InvalidInputError:
    """What is wrong where the disk did not take `size` bytes."""
    free = shutil.disk_usage(file.parent).free
    return InvalidInputError(
        f"{target}: needs {format_bytes(size)} of disk, and {format_bytes(free)} are free"
        f" ({error}); choose another place, or a smaller dtype"
    )
