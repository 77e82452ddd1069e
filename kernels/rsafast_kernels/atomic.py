"""Files that appear under their name only once they are complete, and folders for one at a time."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None  # type: ignore[assignment]

from rsafast_kernels.errors import InvalidInputError

PathInput: TypeAlias = str | os.PathLike[str]


def check_writable(path: PathInput) -> Path:
    """Check that `path` can be written, before the work whose result it will hold.

    Returns
    -------
    Path
        The absolute path, symbolic links followed.

    Raises
    ------
    InvalidInputError
        For a folder that is missing or read-only, and for a `path` that is a folder.
    """
    target = Path(path).expanduser().resolve()
    if target.is_dir():
        raise InvalidInputError(f"{path}: is a folder; name a file in it")
    if not target.parent.is_dir():
        raise InvalidInputError(f"{path}: the folder {target.parent} does not exist; make it first")
    probe = _temporary(target)
    try:
        # Trying is the only reliable question: permission bits say nothing of read-only mounts.
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise InvalidInputError(
            f"{path}: cannot write to the folder {target.parent} ({error.strerror}); "
            "choose another place"
        ) from None
    return target


@contextmanager
def replacing(path: PathInput) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path`; it becomes `path` if the block succeeds.

    A file that exists is replaced at the end, and kept on any failure.

    Raises
    ------
    InvalidInputError
        Where the folder cannot be written, or the disk fills up.
    """
    target = check_writable(path)
    temporary = _temporary(target)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except OSError as error:
        raise InvalidInputError(
            f"{path}: could not be written ({error}); what was there before is untouched"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes off a folder; the lock ends with this process, however it ends.

    Parameters
    ----------
    folder : made if it is missing.
    what : what this process does there, for the message to the other one.

    Raises
    ------
    InvalidInputError
        Where another process holds the lock, and for a folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a")
    except OSError as error:
        raise InvalidInputError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    with handle:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InvalidInputError(
                    f"{folder}: another process {what}; wait for it, or choose another name or "
                    "folder"
                ) from None
        yield


@contextmanager
def in_the_making(path: PathInput) -> Iterator[tuple[Path, Path]]:
    """Yield the absolute `path` and a folder beside it, for what becomes it; one process at a time.

    The folder is gone after a block that succeeds; after any other it stays, so that the next call
    may go on with what is in it.

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
        yield target, folder
        shutil.rmtree(folder)


def write_text(path: PathInput, text: str) -> Path:
    """Write UTF-8 text, whole or not at all, and return the absolute path."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path).expanduser().resolve()


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")


def _sync(path: Path) -> None:
    """Ask for `path` to reach the disk; Windows cannot open folders for that."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
