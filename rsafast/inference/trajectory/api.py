"""`trajectory`: how the alignment of networks with brains changes over training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from rsafast.checks import check_integers
from rsafast.comparators import get_comparator
from rsafast.errors import InvalidInputError
from rsafast.inference.bootstrap.resampled import ResampledComparison
from rsafast.inference.trajectory.best_layer import choose
from rsafast.inference.trajectory.design import Design, Incomplete, Labels, make_design
from rsafast.inference.trajectory.resample import check_enough, checked_factors, scores_of
from rsafast.inference.trajectory.resample import resample as draw_resamples
from rsafast.inference.trajectory.result import Trajectory
from rsafast.io.provenance import input_hashes, provenance
from rsafast.mask import as_pair_mask
from rsafast.memory import parse_bytes
from rsafast.progress import track
from rsafast.rdms import align, as_rdms

_SPLITS = 20  # halves of the stimuli for the cross-validated best layer


def trajectory(
    models: Any,
    brain: Any,
    *,
    rules: Labels = None,
    seeds: Labels = None,
    epochs: Labels = None,
    layers: Labels = None,
    regions: Labels = None,
    subjects: Labels = None,
    method: str = "spearman",
    resample: str | Sequence[str] = ("stimuli", "seeds"),
    n_resamples: int = 10_000,
    n_permutations: int = 0,
    level: float = 0.95,
    baseline: float | None = None,
    mask: ArrayLike | None = None,
    incomplete: Incomplete = "error",
    seed: int = 0,
    memory_budget: int | str | None = None,
    progress: bool = True,
) -> Trajectory:
    """Alignment of networks with brains over checkpoints, with bands that hold for whole curves.

    The alignment of a (rule, epoch, layer, region) is the mean, over seeds and subjects, of the
    similarity between one network's RDM and one subject's RDM. All curves share the same
    resamples, so that every difference between them is paired; the seeds of a rule are drawn for
    each rule by itself, the same seeds for all its epochs, layers and regions.

    Parameters
    ----------
    models : RDMs
        One RDM a (rule, seed, epoch, layer), in any order.
    brain : RDMs
        One RDM a (region, subject), in any order; matched to the models by stimulus label.
    rules, seeds, epochs, layers : name of a descriptor of `models`, or one label an RDM
        By default the descriptors "rule", "seed", "epoch" and "layer"; without one all models are
        of one rule, seed or layer. Epochs are numbers, and needed.
    regions, subjects : name of a descriptor of `brain`, or one label an RDM
        By default the descriptors "region" and "subject"; without them one region, and every RDM
        a subject of its own.
    method : comparator, see `compare`
    resample : one or more of "stimuli", "subjects", "seeds"
        What the intervals generalise to. Factors left out are taken as they are: the result
        speaks for these subjects only where subjects are not resampled.
    n_resamples : joint resamples.
    n_permutations : int
        Relabellings of the stimuli that test the best layer of every rule, epoch and region, the
        choice inside the statistic (`best_layer`, whose result is in ``best_layer``); 0 for none.
    level : of intervals and bands.
    baseline : epoch that changes are measured from; the first by default.
    mask : (n, n) or (pairs,) bool, optional
        True where a pair counts.
    incomplete : {"error", "drop"}
        What to do where cells of the design are missing, or rules have unequal numbers of seeds:
        raise an error that names them, or leave out whole checkpoints, layers, seeds or subjects
        and list each in ``excluded``.
    seed : int
        The same seed gives the same resamples whatever the memory budget and the order of RDMs.
    memory_budget : bytes or a size like "4GB", for working arrays (2 GB by default).
    progress : show a bar on stderr after a second.

    Returns
    -------
    Trajectory

    Raises
    ------
    InvalidInputError
        Missing cells, unequal seeds, two RDMs in one cell, a factor with a single item, fewer
        than 2 checkpoints, a baseline that is no checkpoint, or bad RDMs.

    References
    ----------
    Schütt et al. (2023) for the bootstrap of several factors; Efron (1982) for the jackknife;
    Westfall & Young (1993) for max-T.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> rng = np.random.default_rng(0)
    >>> brain_points = rng.normal(size=(3, 20, 6))
    >>> noise = rng.normal(size=(4, 3, 20, 6))
    >>> points = [brain_points[0] + noise[s, e] / (1 + e) for s in range(4) for e in range(3)]
    >>> models = rf.RDMs(
    ...     rf.compute_rdms(np.stack(points)).vectors,
    ...     descriptors={"seed": np.repeat(range(4), 3), "epoch": np.tile([0, 1, 10], 4)},
    ... )
    >>> curves = rf.trajectory(models, rf.compute_rdms(brain_points[:1]), n_resamples=200)
    >>> curves.alignment[0, :, 0, 0].round(2)
    array([0.44, 0.77, 0.89])
    """
    started = time.perf_counter()
    comparator = get_comparator(method)
    factors = _checked(resample, n_resamples, n_permutations, level, seed)
    budget = parse_bytes(memory_budget)
    a, b = align(as_rdms(models, "models"), as_rdms(brain, "brain"))
    keep = as_pair_mask(mask, a, b)
    design = make_design(
        a, b, rules=rules, seeds=seeds, epochs=epochs, layers=layers, regions=regions,
        subjects=subjects, incomplete=incomplete,
    )  # fmt: skip
    start = _check_design(design, factors, baseline)
    scores = scores_of(design, comparator, keep)
    groups = None if "subjects" in factors else design.region_of
    comparison = ResampledComparison(comparator, design.models, design.brain, keep, groups)
    with track(int(n_resamples), "resamples", progress) as advance:
        drawn = draw_resamples(
            design, comparison, scores,
            factors=factors, n_resamples=int(n_resamples), seed=int(seed), budget=budget,
            advance=advance,
        )  # fmt: skip
    choice = None
    if n_permutations:
        choice = choose(
            design, comparator, keep, scores, select="stimuli", n_permutations=int(n_permutations),
            n_splits=_SPLITS, factors=factors, n_resamples=0, level=float(level), seed=int(seed),
            budget=budget, progress=progress,
        )  # fmt: skip
    return Trajectory(
        scores=scores, deviations=drawn.deviations, covariances=drawn.covariances,
        jackknife=drawn.jackknife,
        rules=design.rules, seeds=design.seeds, epochs=design.epochs, layers=design.layers,
        regions=design.regions, subjects=design.subjects, baseline=start,
        method=comparator.name, resample=factors, n_stimuli=a.n_stimuli,
        n_resamples=int(n_resamples), lost=drawn.lost, level=float(level), seed=int(seed),
        excluded=design.excluded, best_layer=choice,
        parameters={"pairs": int(keep.sum()), "pairs_of": keep.size, "incomplete": incomplete},
        provenance=_provenance(design, started),
    )  # fmt: skip


def _provenance(design: Design, started: float) -> dict[str, Any]:
    return (
        provenance()
        | {"seconds": time.perf_counter() - started}
        | input_hashes(models=design.models.vectors, brain=design.brain.vectors)
    )


def _checked(
    resample: str | Sequence[str], n_resamples: Any, n_permutations: Any, level: Any, seed: Any
) -> tuple[str, ...]:
    """The factors in their standard order, after checks of the other numbers."""
    check_integers(
        n_resamples=(n_resamples, 20), n_permutations=(n_permutations, 0), seed=(seed, 0)
    )
    if not isinstance(level, int | float) or not 0.5 <= level < 1:
        raise InvalidInputError(f"level must lie from 0.5 to 1, got {level!r}")
    return checked_factors(resample)


def _check_design(design: Design, factors: tuple[str, ...], baseline: float | None) -> float:
    """The baseline, after checks of what the design must hold."""
    check_enough(design, factors)
    if len(design.epochs) < 2:
        raise InvalidInputError(
            f"epochs: a trajectory needs at least 2 checkpoints, got {len(design.epochs)}"
        )
    if baseline is None:
        return design.epochs[0]
    if baseline not in design.epochs:
        raise InvalidInputError(
            f"baseline={baseline!r} is none of the epochs"
            f" {', '.join(f'{epoch:g}' for epoch in design.epochs)}"
        )
    return float(baseline)


