"""The stage that makes the brains' side: one RDM a region and subject, and which pairs count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsafast.datasets.responses import Responses
from rsafast.datasets.selection import listed
from rsafast.errors import InvalidInputError
from rsafast.features import Metric
from rsafast.inference.structure.design import run_mask
from rsafast.io.readers import read_rdms
from rsafast.rdms import RDMs
from rsafast.study.embedded import simulated_brain
from rsafast.study.networks import Images, read_images
from rsafast.study.recipe import (
    Nsd,
    RdmFiles,
    RdmFolder,
    Recipe,
    SimulatedBrain,
    ThingsFmri,
)
from rsafast.study.stage import Cost, Stage, file_hash, located

BRAIN, MASK = "brain.h5", "mask.npy"


def brain_stage(recipe: Recipe, base: Path, images: Images) -> Stage:
    """RDMs of every region and subject, with descriptors ``region`` and ``subject``.

    It runs before any training: what does not fit the images or the regions asked for shows here.
    """
    asked, comparison = recipe.brain, recipe.comparison

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        rdms, measured = _read(asked, base, comparison.metric)
        missing = sorted(set(comparison.pairs) - set(rdms.descriptors["region"].tolist()))
        if missing:
            raise InvalidInputError(
                f"comparison.pairs names the region {missing[0]!r}; the brain has"
                f" {', '.join(dict.fromkeys(rdms.descriptors['region'].tolist()))}"
            )
        _check_stimuli(rdms, read_images(recipe, base, folder).labels)
        rdms.save(folder / BRAIN)
        if comparison.mask == "cross-run":
            mask = run_mask([subject.seen for subject in measured], labels=measured[0].stimuli)
            np.save(folder / MASK, mask.mask)

    settings = {
        "brain": asked.model_dump(mode="json", exclude={"path", "files"}),
        "files": _hashes(asked, base), "metric": comparison.metric, "mask": comparison.mask,
        "regions": sorted(comparison.pairs), "images": images.hash,
    }  # fmt: skip
    return Stage("brain", work, settings, cost=Cost(10.0, 2e9, 1e8))


def _check_stimuli(rdms: RDMs, images: Sequence[str]) -> None:
    """RDMs without labels are taken to be in the order of the images, and must be as many."""
    if rdms.labels is None:
        if rdms.n_stimuli != len(images):
            raise InvalidInputError(
                f"the brain's RDMs have {rdms.n_stimuli} stimuli and no labels, the images are"
                f" {len(images)}; choose the images, and their order, with stimuli.order"
            )
        return
    brain, seen = set(map(str, rdms.labels)), set(images)
    unseen, unmeasured = sorted(brain - seen), sorted(seen - brain)
    if unseen or unmeasured:
        raise InvalidInputError(
            f"{len(unseen)} stimuli of the brain have no image ({listed(unseen)}), and"
            f" {len(unmeasured)} images no brain ({listed(unmeasured)}); choose with stimuli.order"
        )


def brain_of(needs: Mapping[str, Path]) -> tuple[RDMs, NDArray[np.bool_] | None]:
    """The RDMs of the brain stage, and which pairs count (None: all)."""
    mask = needs["brain"] / MASK
    return RDMs.load(needs["brain"] / BRAIN), np.load(mask) if mask.is_file() else None


def _hashes(asked: Any, base: Path) -> Any:
    """What identifies the measured data: contents of RDM files, names and sizes of large sets."""
    if isinstance(asked, SimulatedBrain):
        return None
    if isinstance(asked, RdmFiles):
        return {region: [file_hash(_file(spec, base)[0]), _file(spec, base)[1]]
                for region, spec in asked.files.items()}  # fmt: skip
    root = located(base, asked.path)
    if not root.exists():
        raise InvalidInputError(
            f"{root}: no such folder; `rsafast data list` says what {asked.source} is and where it"
            f" comes from, `rsafast data verify` whether it is complete"
        )
    if isinstance(asked, RdmFolder):
        return file_hash(root)
    # Hundreds of gigabytes: reading them for a hash would take longer than the study.
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return [[str(path.relative_to(root)), path.stat().st_size] for path in files]


def _read(asked: Any, base: Path, metric: Metric) -> tuple[RDMs, list[Responses]]:
    """RDMs, and the responses they are made of where the source has responses."""
    if isinstance(asked, SimulatedBrain):
        return simulated_brain(asked.seed), []
    if isinstance(asked, RdmFiles):
        parts = [_described(region, *_file(spec, base)) for region, spec in asked.files.items()]
        return RDMs.concat(parts), []
    if isinstance(asked, RdmFolder):
        from rsafast.datasets.folders import read_rdm_folder

        rdms = read_rdm_folder(located(base, asked.path), asked.pattern, order=asked.order)
        return rdms.with_descriptors({"region": rdms.descriptors["roi"].tolist()}), []
    read = _things if isinstance(asked, ThingsFmri) else _nsd
    measured = [read(asked, base, subject) for subject in _subjects(asked, base)]
    rdms = RDMs.concat([responses.rdms(metric=metric) for responses in measured])
    return rdms.with_descriptors({"region": rdms.descriptors["roi"].tolist()}), measured


def _file(spec: str, base: Path) -> tuple[Path, str | None]:
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


def _subjects(asked: ThingsFmri | Nsd, base: Path) -> Sequence[str]:
    if asked.subjects is not None:
        return asked.subjects
    word = "sub-" if isinstance(asked, ThingsFmri) else "subj"
    root = located(base, asked.path)
    names = {part for path in root.rglob(f"{word}*") for part in path.relative_to(root).parts}
    found = sorted({name[: len(word) + 2] for name in names if name.startswith(word)})
    if not found:
        raise InvalidInputError(f"{root}: holds nothing of a subject ({word}...)")
    return found


def _things(asked: ThingsFmri, base: Path, subject: str) -> Responses:
    from rsafast.datasets.things_fmri import read_things_fmri

    z_score: Any = None if asked.z_score == "none" else asked.z_score
    stimuli = asked.stimuli if asked.trials == "train" else None
    return read_things_fmri(
        located(base, asked.path), subject, asked.regions, trials=asked.trials, stimuli=stimuli,
        z_score=z_score,
    )  # fmt: skip


def _nsd(asked: Nsd, base: Path, subject: str) -> Responses:
    from rsafast.datasets.nsd import read_nsd

    return read_nsd(
        located(base, asked.path), subject, asked.regions, stimuli=asked.stimuli, space=asked.space,
        betas=asked.betas, min_repeats=asked.min_repeats,
    )  # fmt: skip


