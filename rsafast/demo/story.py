"""What the demo simulated and what the test made of it, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsafast.demo import ALPHA, COVARIATE
from rsafast.demo.brain import N_SUBJECTS, N_VOXELS, REGIONS

if TYPE_CHECKING:
    from rsafast.demo.brain import Brain
    from rsafast.permutation.result import PermutationResult


def role(model: str, region_index: int) -> str:
    """Say how a model stands to a region: source, correlated with the sources, or unrelated."""
    sources = REGIONS[region_index].sources
    return "source" if model in sources else "correlated" if sources else "unrelated"


def data() -> str:
    """Say what the stimuli, the models and the subjects are."""
    return (
        "720 handwritten digits that scikit-learn ships, 72 of each class; six models of them: "
        "pixels, Gabor energy, three layers of an untrained CNN, and the digits' labels; "
        f"{N_SUBJECTS} simulated subjects with {N_VOXELS} voxels a region, each with voxel weights "
        "and noise of their own. Tested is the mean RDM of the subjects."
    )


def leak() -> str:
    """Say which pairs the test should find, and why not only the sources."""
    return (
        "Every model in early, late and faint, not only the sources: the models correlate with "
        "each other, and the test asks whether two RDMs are unrelated, not which model generated "
        "the data. In null, none."
    )


def recovery(brain: Brain, result: PermutationResult) -> str:
    """Count what was found among the related and the unrelated pairs."""
    related, found = brain.truth != 0, result.p_value_stepdown <= ALPHA
    hits, total = int((related & found).sum()), int(related.sum())
    false, unrelated = int((~related & found).sum()), int((~related).sum())
    missed = [
        f"{result.model_names[i]} × {result.brain_names[j]}"
        for i, j in np.argwhere(related & ~found)
    ]
    text = (
        f"{hits} of {total} related pairs, and {false} of {unrelated} unrelated ones, at a "
        f"family-wise p of at most {ALPHA:g} (step-down max-T over all {related.size} pairs)."
    )
    if missed:
        text += f" Missed, for lack of power: {', '.join(missed)}."
    return text


def partial_recovery(partial: PermutationResult) -> str:
    """Say what remains of each region once the Gabor energy is held constant."""
    found = partial.p_value_stepdown <= ALPHA
    counts = ", ".join(
        f"{int(found[:, j].sum())} of {len(found)} in {name}"
        for j, name in enumerate(partial.brain_names)
    )
    return (
        f"With {COVARIATE} held constant, the models that remain related are: {counts}. "
        f"{COVARIATE} alone generated early, so nothing should remain there; it is no source of "
        "late, so labels and conv3, and what correlates with them, should. Pearson, because the "
        "simulated distances are linear in those of the sources; ranks would bend that line and "
        "leave a remainder. p-values of partial tests are exact only approximately."
    )


def about(
    brain: Brain,
    single: NDArray[np.float64],
    result: PermutationResult,
    partial: PermutationResult,
) -> list[tuple[str, str]]:
    """Headings and texts of the report's account of the simulation."""
    regions = []
    for j, region in enumerate(REGIONS):
        text = f"{region.description[0].upper()}{region.description[1:]}."
        if region.sources:
            low, high = single[:, j].min(), single[:, j].max()
            text += f" Single subjects correlate with the models at ρ = {low:.3f} to {high:.3f}."
        regions.append((f"Region “{region.name}”", text))
    return [
        ("Data", data()),
        *regions,
        ("Should be found", leak()),
        ("Found", recovery(brain, result)),
        ("Partial test", partial_recovery(partial)),
    ]
