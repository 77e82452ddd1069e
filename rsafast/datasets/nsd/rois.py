"""Regions of the Natural Scenes Dataset: from the names that users say to masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsafast.datasets.nsd.layout import Layout
from rsafast.datasets.selection import Rois, region_members
from rsafast.errors import InvalidInputError
from rsafast.io.files import checked_file
from rsafast.io.images import read_image

Masks: TypeAlias = "tuple[NDArray[np.bool_], ...]"  # flat, one a part of the space

GROUPS = {
    **{f"V{i}": (f"prf-visualrois/V{i}v", f"prf-visualrois/V{i}d") for i in (1, 2, 3)},
    "hV4": ("prf-visualrois/hV4",),
}
_HEMISPHERES = ("lh.", "rh.")
_RETINOTOPIC = ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4")


def _numbered(*names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names, 1)}


# For files without a .ctab: the numbers as public code that reads the published files lists them.
_DOCUMENTED = {
    "nsdgeneral": _numbered("nsdgeneral"),
    "prf-visualrois": _numbered(*_RETINOTOPIC),
    "prf-eccrois": _numbered("ecc0pt5", "ecc1", "ecc2", "ecc4", "ecc4+"),
    "floc-faces": _numbered("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    "floc-bodies": _numbered("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
    "floc-places": _numbered("OPA", "PPA", "RSC"),
    "floc-words": _numbered("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
    "streams": _numbered(
        "early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal"
    ),
    "Kastner2015": _numbered(
        *_RETINOTOPIC, "VO1", "VO2", "PHC1", "PHC2", "TO2", "TO1", "LO2", "LO1", "V3b", "V3a",
        *(f"IPS{i}" for i in range(6)), "SPL1", "FEF",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions of one subject over their channels: the voxels or vertices that any of them holds.

    Attributes
    ----------
    shapes : of every part of the space: (x, y, z) of a volume, (vertices,) of each hemisphere.
    channels : for every part the flat places of the channels, ascending. The first axis of the
        shape runs fastest, as in the beta files.
    masks : region to (channels,) bool, the parts one after another.
    named_by : file of regions to where the names of its labels come from.
    """

    shapes: tuple[tuple[int, ...], ...]
    channels: tuple[NDArray[np.int64], ...]
    masks: dict[str, NDArray[np.bool_]]
    named_by: dict[str, str]


def read_regions(layout: Layout, rois: Rois) -> Regions:
    """Read the regions that `rois` names: see `read_nsd`.

    Raises
    ------
    InvalidInputError
        A region, file or label that does not exist; files of different shapes or without labels;
        regions that are all empty in this subject.
    """
    files = _Files(layout)
    named = region_members(rois, _expanded)
    masks = {name: files.union(members) for name, members in named.items()}
    channels = tuple(
        np.flatnonzero(np.logical_or.reduce(of_part))
        for of_part in zip(*masks.values(), strict=True)
    )
    if not any(map(len, channels)):
        raise InvalidInputError(
            f"{layout.subject}: {', '.join(masks)} hold no channel in {layout.space}; ask for"
            " another region"
        )
    over_channels = {
        name: np.concatenate([mask[own] for mask, own in zip(parts, channels, strict=True)])
        for name, parts in masks.items()
    }
    return Regions(files.shapes, channels, over_channels, files.named_by)


@dataclass(slots=True)
class _Files:
    """The files of regions of one subject, each read once."""

    layout: Layout
    shapes: tuple[tuple[int, ...], ...] = ()
    named_by: dict[str, str] = field(default_factory=dict)
    _labels: dict[str, tuple[NDArray[np.int32], ...]] = field(default_factory=dict)
    _names: dict[str, dict[str, int]] = field(default_factory=dict)

    def union(self, members: Sequence[str]) -> Masks:
        """Mask, for every part, of what any of the members holds."""
        masks = [self._mask(member) for member in members]
        return tuple(np.logical_or.reduce(part) for part in zip(*masks, strict=True))

    def _mask(self, member: str) -> Masks:
        file, _, label = member.partition("/")
        labels = self._labels_of(file)
        if not label:
            # 0 is cortex without a label, and in volumes -1 is no cortex.
            return tuple(part > 0 for part in labels)
        number = self._number(file, label)
        return tuple(part == number for part in labels)

    def _labels_of(self, name: str) -> tuple[NDArray[np.int32], ...]:
        """Labels of a file such as "prf-visualrois" or "lh.prf-visualrois", flat, by part."""
        if name not in self._labels:
            hemisphere, file = _split(name)
            if self.layout.kind.is_volume:
                parts = [self._read(name)]
            else:
                parts = [self._read(prefix + file) for prefix in self.layout.kind.parts]
            shapes = tuple(part.shape for part in parts)
            if self.shapes and shapes != self.shapes:
                raise InvalidInputError(
                    f"{self.layout.roi_folder}: region {name!r} is of shape {shapes}, those before"
                    f" it of {self.shapes}; fetch them again"
                )
            self.shapes = shapes
            if hemisphere and not self.layout.kind.is_volume:
                other = 1 - self.layout.kind.parts.index(hemisphere)
                parts[other] = np.zeros_like(parts[other])
            self._labels[name] = tuple(part.ravel(order="F") for part in parts)
        return self._labels[name]

    def _read(self, name: str) -> NDArray[np.int32]:
        folder, suffix = self.layout.roi_folder, self.layout.kind.rois
        path = folder / f"{name}{suffix}"
        if not path.exists():
            found = {_split(p.name.removesuffix(suffix))[1] for p in folder.glob(f"*{suffix}")}
            raise InvalidInputError(
                f"{path}: no such file; {folder} has {', '.join(sorted(found)) or 'no regions'}."
                " A region is a file ('nsdgeneral'), a label of one ('prf-visualrois/V1v'), or one"
                f" of {', '.join(GROUPS)}"
            )
        values = read_image(path)
        labels = np.nan_to_num(values, nan=0.5).astype(np.int32)
        if values.ndim not in (1, 3) or not np.array_equal(labels, values):
            raise InvalidInputError(
                f"{path}: is no file of regions: shape {values.shape}, or labels that are not whole"
            )
        return labels

    def _number(self, name: str, label: str) -> int:
        """The number that stands for a label: by its name, or the number itself."""
        file = _split(name)[1]
        if file not in self._names:
            self._names[file], self.named_by[file] = self._names_of(file)
        names = self._names[file]
        if label in names:
            return names[label]
        if label.isdecimal() and int(label) > 0:
            return int(label)
        raise InvalidInputError(
            f"{file}: has no label {label!r}; {self.named_by[file]}: {', '.join(names) or 'none'}"
        )

    def _names_of(self, file: str) -> tuple[dict[str, int], str]:
        for folder in self.layout.label_folders:
            table = folder / f"{file}.mgz.ctab"
            if table.exists():
                return _read_ctab(table), f"names from {table}"
        if file in _DOCUMENTED:
            return _DOCUMENTED[file], "names as documented, no .ctab found"
        return {}, "no .ctab found and none documented, numbers only"


def _expanded(entry: str) -> list[str]:
    hemisphere, name = _split(entry)
    return [hemisphere + member for member in GROUPS.get(name, (name,))]


def _split(name: str) -> tuple[str, str]:
    """Hemisphere ("lh.", "rh." or "") and the rest."""
    hemisphere = name[:3] if name[:3] in _HEMISPHERES else ""
    return hemisphere, name[len(hemisphere) :]


def _read_ctab(path: Path) -> dict[str, int]:
    """Label to number, of the lines "number name"; numbers below 1 are no region."""
    names: dict[str, int] = {}
    text = checked_file(path).read_text(encoding="utf-8", errors="replace")
    for place, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2 or not words[0].lstrip("-").isdecimal() or words[1] in names:
            raise InvalidInputError(
                f"{path}: line {place} is {line!r}, expected a number and a name of its own"
            )
        if int(words[0]) > 0:
            names[words[1]] = int(words[0])
    return names
