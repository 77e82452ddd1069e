"""The stage that makes the brains' side: one RDM a region and subject, and which pairs count."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsafast.datasets.responses import Responses
from rsafast.errors import InvalidInputError
from rsafast.inference.structure.design import run_mask
from rsafast.rdms import RDMs
from rsafast.study.recipe import Measured, Recipe
from rsafast.study.sources import measured_responses, source_hash, source_rdms
from rsafast.study.stage import Cost, Stage
from rsafast.study.stimuli import Images, read_order

BRAIN, MASK = "brain.h5", "mask.npy"


def brain_stage(recipe: Recipe, base: Path, images: Images) -> Stage:
    """RDMs of every region and subject, with descriptors ``region`` and ``subject``.

    It runs before any training: regions that are not there show here.
    """
    asked, comparison = recipe.brain, recipe.comparison

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        measured: list[Responses] = []
        if isinstance(asked, Measured):
            measured = measured_responses(asked, base, read_order(needs))
            rdms = RDMs.concat([subject.rdms(metric=comparison.metric) for subject in measured])
            rdms = rdms.with_descriptors({"region": rdms.descriptors["roi"].tolist()})
        else:
            rdms = source_rdms(asked, base)
        missing = sorted(set(comparison.pairs) - set(rdms.descriptors["region"].tolist()))
        if missing:
            raise InvalidInputError(
                f"comparison.pairs names the region {missing[0]!r}; the brain has"
                f" {', '.join(dict.fromkeys(rdms.descriptors['region'].tolist()))}"
            )
        rdms.save(folder / BRAIN)
        if comparison.mask == "cross-run":
            mask = run_mask([subject.seen for subject in measured], labels=measured[0].stimuli)
            np.save(folder / MASK, mask.mask)

    settings = {
        "brain": asked.model_dump(mode="json", exclude={"path", "files"}),
        # Files of RDMs are in the key of the stage that orders the stimuli.
        "files": source_hash(asked, base) if isinstance(asked, Measured) else None,
        "metric": comparison.metric, "mask": comparison.mask, "regions": sorted(comparison.pairs),
    }  # fmt: skip
    return Stage("brain", work, settings, (images.stage,), cost=Cost(10.0, 2e9, 1e8))


def brain_of(needs: Mapping[str, Path]) -> tuple[RDMs, NDArray[np.bool_] | None]:
    """The RDMs of the brain stage, and which pairs count (None: all)."""
    mask = needs["brain"] / MASK
    return RDMs.load(needs["brain"] / BRAIN), np.load(mask) if mask.is_file() else None
