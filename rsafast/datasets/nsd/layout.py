"""Where the Natural Scenes Dataset keeps its files, and which sessions of betas there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rsafast_kernels.atomic import PathInput

from rsafast.datasets.selection import check_choice, ranges, subject_name
from rsafast.errors import InvalidInputError

SUBJECTS = 8


@dataclass(frozen=True, slots=True)
class Space:
    """How the files of one space are called.

    Attributes
    ----------
    parts : prefixes of file names: a volume has one part, a surface two hemispheres.
    betas : suffixes of beta files, the preferred one first.
    rois, ncsnr : suffix of the files of regions, and of the noise ceiling.
    """

    parts: tuple[str, ...]
    betas: tuple[str, ...]
    rois: str
    ncsnr: str

    @property
    def is_volume(self) -> bool:
        """Whether there are voxels, not vertices."""
        return len(self.parts) == 1


_VOLUME = Space(("",), (".hdf5", ".nii.gz"), ".nii.gz", ".nii.gz")
SPACES = {
    "func1pt8mm": _VOLUME,
    "func1mm": _VOLUME,
    "nativesurface": Space(("lh.", "rh."), (".hdf5",), ".mgz", ".mgh"),
    "fsaverage": Space(("lh.", "rh."), (".mgh",), ".mgz", ".mgh"),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one subject in one space: see :func:`layout_of`."""

    root: Path
    subject: str
    space: str

    @property
    def kind(self) -> Space:
        """How the files of the space are called."""
        return SPACES[self.space]

    @property
    def roi_folder(self) -> Path:
        """Folder of the files of regions."""
        if self.kind.is_volume:
            return self.root / "nsddata" / "ppdata" / self.subject / self.space / "roi"
        return self.label_folders[0]

    @property
    def label_folders(self) -> tuple[Path, ...]:
        """Folders that may hold the names of labels (.ctab), the first one first."""
        people = ("fsaverage",) if self.space == "fsaverage" else (self.subject, "fsaverage")
        return tuple(self.root / "nsddata" / "freesurfer" / name / "label" for name in people)

    def betas_folder(self, betas: str) -> Path:
        """Folder of one version of the betas.

        Raises
        ------
        InvalidInputError
            A folder that is not there; the message says which there are.
        """
        space = self.root / "nsddata_betas" / "ppdata" / self.subject / self.space
        folder = space / betas
        if not folder.is_dir():
            raise InvalidInputError(f"{folder}: no such folder; {space} holds {_folders(space)}")
        return folder


def layout_of(root: PathInput, subject: str | int, space: str) -> Layout:
    """Check the folder of the data set, the subject and the space.

    Raises
    ------
    InvalidInputError
        A subject or space that does not exist, or a folder without nsddata.
    """
    check_choice("space", space, SPACES)
    return Layout(checked_root(root), subject_name(subject, "subj", SUBJECTS), space)


def checked_root(root: PathInput) -> Path:
    """`root`, if it holds the folder nsddata."""
    if not isinstance(root, str | os.PathLike):
        raise InvalidInputError(f"root must be a str or a Path, got {root!r}")
    path = Path(root).expanduser()
    if not (path / "nsddata").is_dir():
        raise InvalidInputError(
            f"{path}: holds no folder nsddata; name the folder that holds nsddata and nsddata_betas"
        )
    return path


def session_files(
    folder: Path, kind: Space, sessions: Sequence[int] | None, planned: int
) -> dict[int, tuple[Path, ...]]:
    """The beta files of every session to use, one a part of the space, sessions ascending.

    Parameters
    ----------
    folder : of one version of the betas.
    sessions : those to use; by default all there are, which must be 1, 2, 3 ... without a hole.
    planned : sessions of the design.

    Raises
    ------
    InvalidInputError
        No session at all, a hole, a session that is not there or not of the design, a session
        without one of its hemispheres.
    """
    parts = [_files_of_part(folder, prefix, kind.betas) for prefix in kind.parts]
    on_disk = sorted(set().union(*parts))
    if not on_disk:
        names = " or ".join(f"{kind.parts[0]}betas_session01{suffix}" for suffix in kind.betas)
        raise InvalidInputError(f"{folder}: holds no session of betas, expected {names}")
    chosen = _chosen(folder, on_disk, sessions)
    if chosen[-1] > planned:
        raise InvalidInputError(
            f"{folder}: session {chosen[-1]} is not of the design, which plans {planned}"
        )
    for session in chosen:
        for prefix, files in zip(kind.parts, parts, strict=True):
            if session not in files:
                raise InvalidInputError(
                    f"{folder}: session {session} has no file {prefix}betas_session{session:02d}"
                    f"{kind.betas[0]}, but one of the other hemisphere; fetch it, or leave the"
                    " session out with sessions="
                )
    return {session: tuple(files[session] for files in parts) for session in chosen}


def _files_of_part(folder: Path, prefix: str, suffixes: tuple[str, ...]) -> dict[int, Path]:
    """Session to file; the first of the suffixes wins where there are several."""
    files: dict[int, Path] = {}
    for suffix in reversed(suffixes):
        start = f"{prefix}betas_session"
        for file in sorted(folder.glob(f"{start}*{suffix}")):
            number = file.name.removeprefix(start).removesuffix(suffix)
            if number.isdecimal():
                files[int(number)] = file
    return files


def _chosen(folder: Path, on_disk: list[int], sessions: Sequence[int] | None) -> list[int]:
    if sessions is None:
        holes = [session for session in range(1, on_disk[-1]) if session not in on_disk]
        if holes:
            raise InvalidInputError(
                f"{folder}: session {ranges(holes)} is missing, of 1-{on_disk[-1]}; fetch it, or"
                " name the sessions to use with sessions="
            )
        return on_disk
    chosen = list(sessions) if np.iterable(sessions) else []
    whole = all(isinstance(s, int | np.integer) and not isinstance(s, bool) for s in chosen)
    if not whole or not chosen or len(set(chosen)) < len(chosen):
        raise InvalidInputError(
            f"sessions must be different whole numbers counted from 1, got {sessions!r}"
        )
    missing = [session for session in chosen if session not in on_disk]
    if missing:
        raise InvalidInputError(
            f"{folder}: holds no session {ranges(sorted(missing))}; it holds {ranges(on_disk)}"
        )
    return sorted(int(session) for session in chosen)


def _folders(parent: Path) -> str:
    if not parent.is_dir():
        return "nothing: it is missing itself"
    return ", ".join(sorted(child.name for child in parent.iterdir() if child.is_dir())) or "none"
