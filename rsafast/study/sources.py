"""Where the brains' side comes from: RDMs, or measured responses and the stimuli they are to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, assert_never

import numpy as np

from rsafast.datasets.responses import Responses
from rsafast.errors import InvalidInputError
from rsafast.io.readers import read_rdms
from rsafast.rdms import RDMs
from rsafast.study.embedded import simulated_brain
from rsafast.study.recipe import (
    Algonauts2023,
    Nsd,
    RdmFiles,
    RdmFolder,
    SimulatedBrain,
    ThingsEeg,
    ThingsFmri,
)
from rsafast.study.stage import file_hash, located

MeasuredSource: TypeAlias = ThingsFmri | Nsd | ThingsEeg | Algonauts2023
RdmSource: TypeAlias = SimulatedBrain | RdmFiles | RdmFolder

_SUBJECTS = {"things-fmri": "sub-", "things-eeg": "sub-", "nsd": "subj", "algonauts-2023": "subj"}
_ROUNDING = 1e-6  # seconds


def source_hash(asked: MeasuredSource | RdmSource, base: Path) -> Any:
    """What identifies the content of the files of a source."""
    if isinstance(asked, SimulatedBrain):
        return None
    if isinstance(asked, RdmFiles):
        files = {region: rdm_file(spec, base) for region, spec in asked.files.items()}
        return {region: [file_hash(path), key] for region, (path, key) in files.items()}
    return file_hash(located(base, asked.path))


# ---------------------------------------------------------------- RDMs


def source_rdms(asked: RdmSource, base: Path) -> RDMs:
    """One RDM a region and subject, with these descriptors; labels, if there are any, are str."""
    if isinstance(asked, SimulatedBrain):
        return simulated_brain(asked.seed)
    if isinstance(asked, RdmFiles):
        parts = [_described(region, *rdm_file(spec, base)) for region, spec in asked.files.items()]
        return _with_text(RDMs.concat(parts))
    from rsafast.datasets.folders import read_rdm_folder

    rdms = read_rdm_folder(located(base, asked.path), asked.pattern, order=asked.order)
    return _with_text(rdms.with_descriptors({"region": rdms.descriptors["roi"].tolist()}))


def rdm_file(spec: str, base: Path) -> tuple[Path, str | None]:
    """A path, and the variable behind a colon; a path with a colon in it needs no variable."""
    whole = located(base, spec)
    if whole.exists() or ":" not in spec:
        return whole, None
    path, _, key = spec.rpartition(":")
    return located(base, path), key


def _described(region: str, path: Path, key: str | None) -> RDMs:
    rdms = read_rdms(path, key=key)
    subjects = [f"subject {number}" for number in range(1, rdms.n_rdms + 1)]
    names = [f"{region}, {subject}" for subject in subjects]
    return RDMs.from_vectors(
        rdms.vectors, labels=rdms.labels, names=names, measure=rdms.measure,
        descriptors={"region": [region] * len(names), "subject": subjects},
    )  # fmt: skip


def _with_text(rdms: RDMs) -> RDMs:
    """Labels as str: those of images are text, and 7 would match no "7"."""
    if rdms.labels is None or isinstance(rdms.labels[0], str):
        return rdms
    return RDMs.from_vectors(
        rdms.vectors, labels=[str(label) for label in rdms.labels], names=rdms.names,
        measure=rdms.measure, descriptors=rdms.descriptors, missing=rdms.missing,
    )  # fmt: skip


# ---------------------------------------------------------------- measured responses


def measured_stimuli(asked: MeasuredSource, base: Path) -> tuple[str, ...]:
    """Ids of the stimuli of a study, in the order of its first subject; responses are not read.

    Raises
    ------
    InvalidInputError
        Subjects who saw different stimuli, unless those that they share are asked for.
    """
    seen = {subject: _stimuli(asked, base, subject) for subject in _subjects(asked, base)}
    first, *others = seen
    common = set(seen[first]).intersection(*seen.values())
    if isinstance(asked, Algonauts2023) and asked.stimuli == "shared":
        if not common:
            raise InvalidInputError(
                f"{located(base, asked.path)}: {', '.join(seen)} share none of their {asked.split}"
                " images; choose other subjects"
            )
        return tuple(stimulus for stimulus in seen[first] if stimulus in common)
    for subject in others:
        if set(seen[subject]) != set(seen[first]):
            instead = {"nsd": "stimuli = 'shared515'", "algonauts-2023": "stimuli = 'shared'"}
            raise InvalidInputError(
                f"{located(base, asked.path)}: {first} saw {len(seen[first])} stimuli, {subject}"
                f" {len(seen[subject])}, and all subjects share {len(common)}; in [brain], choose"
                f" {instead.get(asked.source, 'other stimuli')}, or one subject"
            )
    return seen[first]


def measured_responses(
    asked: MeasuredSource, base: Path, stimuli: Sequence[str]
) -> list[Responses]:
    """Responses of every subject, in the order of the stimuli."""
    return [_responses(asked, base, subject, stimuli) for subject in _subjects(asked, base)]


def _subjects(asked: MeasuredSource, base: Path) -> Sequence[str]:
    if asked.subjects is not None:
        return asked.subjects
    root, word = located(base, asked.path), _SUBJECTS[asked.source]
    names = {part for path in root.rglob(f"{word}*") for part in path.relative_to(root).parts}
    matches = [re.match(rf"{word}\d\d", name) for name in names]
    found = sorted({match[0] for match in matches if match})
    if not found:
        raise InvalidInputError(f"{root}: holds nothing of a subject ({word}...)")
    return found


def _stimuli(asked: MeasuredSource, base: Path, subject: str) -> tuple[str, ...]:
    """What the design, the metadata or the names of the images say of one subject."""
    root = located(base, asked.path)
    match asked:
        case ThingsFmri():
            from rsafast.datasets.things_fmri.reader import things_fmri_stimuli

            first = asked.trials == "train" and asked.stimuli == "first"
            return things_fmri_stimuli(
                root, subject, trials=asked.trials, stimuli="first" if first else None
            )
        case Nsd():
            from rsafast.datasets.nsd.reader import nsd_stimuli

            return nsd_stimuli(
                root, subject, space=asked.space, betas=asked.betas, stimuli=asked.stimuli,
                min_repeats=asked.min_repeats,
            )  # fmt: skip
        case ThingsEeg():
            from rsafast.datasets.things_eeg import things_eeg_stimuli

            return things_eeg_stimuli(root, part=asked.part)
        case Algonauts2023():
            from rsafast.datasets.algonauts import algonauts_2023_stimuli

            return algonauts_2023_stimuli(root, subject, split=asked.split)
    assert_never(asked)


def _responses(
    asked: MeasuredSource, base: Path, subject: str, stimuli: Sequence[str]
) -> Responses:
    root = located(base, asked.path)
    match asked:
        case ThingsFmri():
            from rsafast.datasets.things_fmri import read_things_fmri

            return read_things_fmri(
                root, subject, asked.regions, trials=asked.trials, stimuli=stimuli,
                z_score=None if asked.z_score == "none" else asked.z_score,
            )  # fmt: skip
        case Nsd():
            from rsafast.datasets.nsd import read_nsd

            return read_nsd(
                root, subject, asked.regions, stimuli=stimuli, space=asked.space,
                betas=asked.betas, min_repeats=asked.min_repeats,
            )  # fmt: skip
        case ThingsEeg():
            from rsafast.datasets.things_eeg import read_things_eeg

            first, last = zip(*asked.times.values(), strict=True)
            over_time = read_things_eeg(
                root, subject, part=asked.part, channels=asked.channels, stimuli=stimuli,
                times=(min(first), max(last)),
            )  # fmt: skip
            return _in_windows(over_time, asked)
        case Algonauts2023():
            from rsafast.datasets.algonauts import read_algonauts_2023

            return read_algonauts_2023(
                root, subject, asked.regions, stimuli=stimuli, split=asked.split
            )
    assert_never(asked)


def _in_windows(over_time: Responses, asked: ThingsEeg) -> Responses:
    """Responses over time with every window as a region of its own channels."""
    when, values = over_time.times, over_time.values
    assert when is not None
    parts = []
    for name, (first, last) in asked.times.items():
        inside = np.flatnonzero((when >= first - _ROUNDING) & (when <= last + _ROUNDING))
        if not len(inside):
            raise InvalidInputError(
                f"{over_time.subject}: there is no sample in the window {name!r}, {first} to {last}"
                " s; make it longer"
            )
        own = values[:, :, inside]
        if asked.window_as == "mean":
            own = own.mean(axis=2, keepdims=True, dtype=np.float64).astype(np.float32)
        parts.append(own.reshape(len(values), -1))
    window = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
    each = [part.shape[1] // len(over_time.channels) for part in parts]
    channels = [np.repeat(over_time.channels, samples) for samples in each]
    return replace(
        over_time, values=np.concatenate(parts, axis=1), times=None,
        channels=np.concatenate(channels),
        rois={name: window == number for number, name in enumerate(asked.times)},
    )  # fmt: skip
