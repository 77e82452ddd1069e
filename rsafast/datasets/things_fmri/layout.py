"""Where THINGS-fMRI keeps its files, in each of its three layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, get_args

from rsafast_kernels.atomic import PathInput

from rsafast.datasets.selection import check_choice, subject_name
from rsafast.errors import InvalidInputError

Layout = Literal["table", "ica", "volume"]
AnyLayout = Literal["auto", "table", "ica", "volume"]

SUBJECTS = 3

# The folder of each layout, which is the root, or lies in it or in its derivatives.
_HOMES: dict[Layout, str] = {"table": "betas_csv", "ica": "ICA-betas", "volume": "betas_vol"}
# What lies in it for a subject: the responses, then the metadata of trials and of voxels.
_ICA = "{0}/voxel-metadata/{0}_task-things_"
_FILES: dict[Layout, tuple[str, ...]] = {
    "table": ("{0}_ResponseData.h5", "{0}_StimulusMetadata.csv", "{0}_VoxelMetadata.csv"),
    "ica": (
        f"{_ICA}voxel-wise-responses.h5",
        f"{_ICA}stimulus-metadata.tsv",
        f"{_ICA}voxel-metadata.tsv",
    ),
    "volume": ("{0}/ses-things*/{0}_ses-things*_run-*_betas.nii.gz",),
}


class Files(NamedTuple):
    """What lies where for one subject."""

    layout: Layout
    subject: str
    responses: Path  # the .h5 file, or the folder of the sessions
    trials: Path
    voxels: Path
    mask: Path | None  # of the brain, for volumes


def locate(root: PathInput, subject: str | int, layout: AnyLayout) -> Files:
    """Find the files of one subject.

    Raises
    ------
    InvalidInputError
        No responses of the subject, or more than one kind of them; a file that the volumes need
        beside them and that is not there.
    """
    check_choice("layout", layout, get_args(AnyLayout))
    name = subject_name(subject, "sub-", SUBJECTS)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise InvalidInputError(f"{root}: no such folder; check the path")
    found = [
        (kind, base)
        for kind in _HOMES
        if layout in ("auto", kind)
        for base in _bases(folder, kind, name)
    ]
    if not found:
        looked = [f"{home}/{_FILES[kind][0].format(name)}" for kind, home in _HOMES.items()]
        raise InvalidInputError(
            f"{root}: holds no responses of {name} in layout {layout!r}; looked, there and in"
            f" derivatives, for {', '.join(looked)}"
        )
    if len(found) > 1:
        said = ", ".join(f"{kind!r} in {base}" for kind, base in found)
        raise InvalidInputError(
            f"{root}: holds the responses of {name} more than once ({said}); choose with layout=,"
            " or give the folder as root"
        )
    kind, base = found[0]
    if kind != "volume":
        responses, trials, voxels = (base / file.format(name) for file in _FILES[kind])
        return Files(kind, name, responses, trials, voxels, None)
    trials, voxels = (
        _companion(folder, _HOMES["table"], file.format(name)) for file in _FILES["table"][1:]
    )
    return Files(
        kind, name, base / name, trials, voxels,
        _companion(folder, "brainmasks", f"{name}_space-T1w_brainmask.nii.gz"),
    )  # fmt: skip


def _bases(root: Path, kind: Layout, name: str) -> list[Path]:
    """Folders that hold responses of a subject in one layout."""
    home = _HOMES[kind]
    return [
        base
        for base in (root, root / home, root / "derivatives" / home)
        if any(base.glob(_FILES[kind][0].format(name)))
    ]


def _companion(root: Path, home: str, file: str) -> Path:
    """A file that the volume layout needs beside its volumes."""
    looked = [base / file for base in (root / home, root / "derivatives" / home, root)]
    found = [path for path in looked if path.is_file()]
    if len(found) != 1:
        listed = ", ".join(map(str, found or looked))
        raise InvalidInputError(
            f"{root}: the volume layout needs one {home}/{file}, there"
            f" {'is none; looked for' if not found else 'are'} {listed}"
        )
    return found[0]
