"""Stages of a study, each in a folder named after all that its result depends on.

The key of a stage is a hash of its settings and of the keys of the stages it needs. A stage whose
folder is complete is never run again, so that a changed line of the recipe runs what depends on it
and nothing else, and a study that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from rsafast_kernels.atomic import write_text

from rsafast.errors import InvalidInputError
from rsafast.io.provenance import provenance

_DONE = "done.json"
_READ_WHOLE = 2_000_000_000  # bytes; reading more at every start would take longer than is borne
Say = Callable[[str], object]


@dataclass(frozen=True)
class Cost:
    """What a stage takes, roughly: seconds on two cores, bytes of memory and of disk."""

    seconds: float = 0.0
    memory: float = 0.0
    disk: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One step of a study.

    Attributes
    ----------
    name : unique in a study, such as "train bp"; a folder's name begins with it.
    work : writes the results into the folder it is given; may find there what an interrupted run
        left, and must come to the same result from it.
    settings : everything but `needs` that the result depends on; JSON.
    needs : stages whose folders `work` reads.
    version : raised when the code of a stage changes its results.
    cost : an estimate.
    """

    name: str
    work: Callable[[Path, Mapping[str, Path]], None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Stage, ...] = ()
    version: int = 1
    cost: Cost = Cost()

    @cached_property
    def key(self) -> str:
        """Hash of all that the result depends on."""
        content = [self.name, self.version, self.settings, [stage.key for stage in self.needs]]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def folder(self, root: Path) -> Path:
        """Where its results lie below the folder of the study."""
        return root / "stages" / f"{self.name.replace(' ', '-')}-{self.key}"

    def is_done(self, root: Path) -> bool:
        """Whether its results are complete."""
        return (self.folder(root) / _DONE).is_file()


def run_stages(
    stages: Sequence[Stage], root: Path, say: Say, *, cache: Path | None = None, form: str = ""
) -> dict[str, Path]:
    """Run what is not done yet, in order; return the folder of every stage by its name.

    A line a stage goes to `say` and to ``log.txt`` in `root`, with the `form` of the study they
    belong to. Results lie below `cache`, by default `root`.
    """
    folders: dict[str, Path] = {}
    cache = cache or root
    for number, stage in enumerate(stages, 1):
        folder = folders[stage.name] = stage.folder(cache)
        where = f"[{number}/{len(stages)}] {stage.name}{form and f', {form}'}"
        if stage.is_done(cache):
            _log(root, say, f"{where}: kept, nothing it depends on has changed")
            continue
        say(f"{where} ...")
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        stage.work(folder, {needed.name: folders[needed.name] for needed in stage.needs})
        seconds = time.perf_counter() - started
        done = {
            "stage": stage.name, "settings": stage.settings, "seconds": seconds,
            "needs": {needed.name: needed.key for needed in stage.needs},
            "provenance": provenance(),
        }  # fmt: skip
        write_text(folder / _DONE, json.dumps(done, indent=1, ensure_ascii=False) + "\n")
        _log(root, say, f"{where}: made in {seconds:.1f} s ({folder.name})")
    return folders


def _log(root: Path, say: Say, line: str) -> None:
    say(line)
    with (root / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")


def located(base: Path, path: str) -> Path:
    """A path of the study's file, which starts from the folder `base` if it is relative."""
    return base / Path(path).expanduser()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder.

    Above 2 GB in all, it is of names and sizes alone: image sets and recordings of hundreds of
    gigabytes cannot be read at every start. Another content of the same size then goes unseen.

    Raises
    ------
    InvalidInputError
        For a path that is missing or cannot be read.
    """
    try:
        whole, root = [path], path.parent
        if path.is_dir():
            whole, root = sorted(p for p in path.rglob("*") if p.is_file()), path
        sizes = {file: file.stat().st_size for file in whole}
        large = sum(sizes.values()) > _READ_WHOLE
        if not large and not path.is_dir():
            return _content_hash(path)
        digest = hashlib.sha256()
        for file, size in sizes.items():
            said = size if large else _content_hash(file)
            digest.update(f"{file.relative_to(root).as_posix()}/{said}".encode())
        return digest.hexdigest()
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror})") from None


def _content_hash(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
