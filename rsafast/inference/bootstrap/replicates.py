"""Scores on bootstrap resamples of a whole study: what every bootstrap of rules is made of.

Resampling stimuli changes the scores, and costs one pass over the pairs of the RDMs. Resampling
subjects or seeds only changes how often a score counts. So one pass over the stimulus draws serves
the bootstraps of every subset of factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast.comparators import Comparator, FloatArray, get_comparator
from rsafast.comparison import compare
from rsafast.errors import InvalidInputError
from rsafast.inference.bootstrap.ceiling import ResampledCeiling
from rsafast.inference.bootstrap.draws import SEEDS, STIMULI, SUBJECTS, Counts, blocks, draw_counts
from rsafast.inference.bootstrap.resampled import (
    ResampledComparison,
    has_gpu_kernel,
    where_to_run,
)
from rsafast.inference.layout import Layout, study_layout
from rsafast.io.provenance import input_hashes
from rsafast.mask import as_pair_mask
from rsafast.memory import parse_bytes
from rsafast.progress import Advance
from rsafast.rdms import RDMs, align, as_rdms

FACTORS = ("stimuli", "subjects", "seeds")
Source = Callable[[int, int], Counts]  # counts of draws number start to stop
BLOCK = 256  # resamples at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Where the counts of every resample come from; None for a factor that is not resampled.

    Attributes
    ----------
    n_resamples : how many there are.
    stimuli : counts (R, stimuli).
    models : counts (R, M) of every model RDM, those of its seed in its rule.
    brain : counts (R, N) of every brain RDM, those of its subject.
    """

    n_resamples: int
    stimuli: Source | None = None
    models: Source | None = None
    brain: Source | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreBlock:
    """Scores of resamples `start` to `stop`.

    Attributes
    ----------
    scores : (R, M, N) on the stimuli drawn; (1, M, N) where stimuli are not resampled. NaN where
        a resample leaves an RDM without spread.
    agreement : (R, N, N) similarities of the brain RDMs with each other on the stimuli drawn, where
        the study makes them along with the scores.
    stimulus_counts, model_counts, brain_counts : (R, n), (R, M) and (R, N) int64, how often each
        was drawn; None for a factor that is not resampled.
    """

    start: int
    stop: int
    scores: FloatArray
    agreement: FloatArray | None
    stimulus_counts: Counts | None
    model_counts: Counts | None
    brain_counts: Counts | None


class Ceiling(Protocol):
    """Noise ceilings of every region of a study, on resamples."""

    def __call__(
        self, block: ScoreBlock | None, brain: Sequence[Counts | None]
    ) -> list[FloatArray]:
        """Lower and upper bounds (R, regions, 2), one array for each counts of the brain RDMs.

        Parameters
        ----------
        block : whose stimuli are drawn, or None for the stimuli of the data
        brain : (R, N) counts of the brain RDMs, or None for each once; several, because they share
            the work on the stimuli

        NaN where a resample leaves an RDM without spread, or holds a single subject of a region.
        """
        ...


class Resampled(Protocol):
    """A study whose RDMs are in memory or not, as far as a bootstrap asks."""

    @property
    def layout(self) -> Layout:
        """Rules, seeds, regions and subjects of its RDMs."""
        ...

    @property
    def observed(self) -> FloatArray:
        """(M, N) scores on the data."""
        ...

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli n."""
        ...

    @property
    def method(self) -> str:
        """Name of the comparator."""
        ...

    @property
    def described(self) -> dict[str, Any]:
        """Parameters of a result that speak of the data."""
        ...

    @property
    def hashes(self) -> dict[str, Any]:
        """Provenance of the data."""
        ...

    @property
    def at_once(self) -> int:
        """Resamples that are scored together, at most."""
        ...

    def scored(
        self, stimuli: Source, spans: Iterable[tuple[int, int]], advance: Advance
    ) -> Iterator[tuple[FloatArray, FloatArray | None]]:
        """Yield scores (R, M, N), and agreement, of draws start..stop of the stimuli."""
        ...

    def ceiling(self) -> Ceiling:
        """What gives its noise ceilings."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Models and brain RDMs, aligned and checked, with what is needed to compare resamples.

    Attributes
    ----------
    models, brain : aligned RDMs, M and N of them.
    comparator : how they are compared.
    layout : their rules, seeds, regions and subjects.
    keep : (pairs,) pairs that count.
    observed : (M, N) scores on the data.
    comparison : scores on resamples of the stimuli.
    device, gpu_budget : as asked for, see `prepare_study`.
    hashed : gives the provenance of the data; computed once for all bootstraps of a study.
    """

    models: RDMs
    brain: RDMs
    comparator: Comparator
    layout: Layout
    keep: NDArray[np.bool_]
    observed: FloatArray
    comparison: ResampledComparison
    device: str
    gpu_budget: int | None
    hashed: Callable[[], dict[str, Any]]

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli n."""
        return self.models.n_stimuli

    @property
    def method(self) -> str:
        """Name of the comparator."""
        return self.comparator.name

    @property
    def described(self) -> dict[str, Any]:
        """Parameters of a result that speak of the data."""
        return {
            "pairs": int(self.keep.sum()),
            "pairs_of": self.keep.size,
            "device": self.comparison.device,
        }

    @property
    def hashes(self) -> dict[str, Any]:
        """Provenance of the data."""
        return self.hashed()

    @property
    def at_once(self) -> int:
        """Resamples that are scored together, at most."""
        return BLOCK

    def scored(
        self, stimuli: Source, spans: Iterable[tuple[int, int]], advance: Advance
    ) -> Iterator[tuple[FloatArray, FloatArray | None]]:
        """Yield scores (R, M, N) of draws start..stop of the stimuli."""
        for start, stop in spans:
            yield self.comparison.scores(stimuli(start, stop)), None
            advance(stop - start)

    def ceiling(self) -> Ceiling:
        """What gives its noise ceilings."""
        return ResampledCeiling(
            self.comparator, self.layout, self.brain.vectors, self.brain.n_stimuli, self.keep,
            device=self.device, gpu_budget=self.gpu_budget,
        )  # fmt: skip


def prepare_study(
    models: Any,
    brain: Any,
    *,
    method: str = "spearman",
    rules: str | Sequence[Any] | None = None,
    seeds: str | Sequence[Any] | None = None,
    regions: str | Sequence[Any] | None = None,
    subjects: str | Sequence[Any] | None = None,
    mask: ArrayLike | None = None,
    match_subjects: bool = False,
    device: str = "cpu",
    gpu_budget: int | None = None,
) -> Study:
    """Align, check and score the data of a study.

    The arguments are those of `bootstrap`; `gpu_budget` are bytes of GPU memory for working arrays,
    by default most of what is free.
    """
    comparator = get_comparator(method)
    place = where_to_run(
        device, f"the bootstrap of {comparator.name}", has_kernel=has_gpu_kernel(comparator)
    )
    a, b = align(as_rdms(models, "models"), as_rdms(brain, "brain"))
    layout = study_layout(
        a, b, rules=rules, seeds=seeds, regions=regions, subjects=subjects,
        match_subjects=match_subjects,
    )  # fmt: skip
    keep = as_pair_mask(mask, a, b)
    observed = compare(a, b, comparator.name, mask=None if mask is None else keep)
    return Study(
        models=a, brain=b, comparator=comparator, layout=layout, keep=keep, observed=observed,
        comparison=ResampledComparison(
            comparator, a, b, keep, device=place, gpu_budget=gpu_budget
        ),
        device=device, gpu_budget=gpu_budget,
        hashed=cache(lambda: input_hashes(models=a.vectors, brain=b.vectors, mask=keep)),
    )  # fmt: skip


def seeded_draws(
    study: Resampled, resample: Sequence[str], n_resamples: int, seed: int
) -> Draws:
    """Draws of the factors in `resample`; every rule's seeds have a stream of their own.

    Raises
    ------
    InvalidInputError
        An unknown factor, none at all, or a factor with a single item to draw from.
    """
    factors, layout = check_factors(resample), study.layout
    check_enough(layout, factors)
    return Draws(
        n_resamples=n_resamples,
        stimuli=_stream(seed, STIMULI, study.n_stimuli) if "stimuli" in factors else None,
        models=_models(layout, seed) if "seeds" in factors else None,
        brain=_brain(layout, _stream(seed, SUBJECTS, len(layout.subjects)))
        if "subjects" in factors
        else None,
    )


def given_draws(
    study: Resampled,
    *,
    stimuli: ArrayLike | None = None,
    subjects: ArrayLike | None = None,
    seeds: Sequence[ArrayLike] | None = None,
) -> Draws:
    """Draws that were made elsewhere, as counts.

    Parameters
    ----------
    stimuli, subjects : (R, stimuli) and (R, subjects) counts
    seeds : one (R, seeds of the rule) array of counts a rule
    """
    layout = study.layout
    tables = [np.asarray(t) for t in (stimuli, subjects, *(seeds or ())) if t is not None]
    total = len(tables[0])
    by_rule = None if seeds is None else [_table(np.asarray(t)) for t in seeds]
    return Draws(
        n_resamples=total,
        stimuli=None if stimuli is None else _table(np.asarray(stimuli)),
        models=None if by_rule is None else _by_rule(layout, by_rule),
        brain=None if subjects is None else _brain(layout, _table(np.asarray(subjects))),
    )


def replicate_scores(
    study: Resampled,
    draws: Draws,
    *,
    memory_budget: int | str | None = None,
    advance: Advance = lambda items, note="": None,
) -> Iterator[ScoreBlock]:
    """Scores of every (model, brain RDM) pair on every resample, block by block.

    Each stimulus draw is scored once for all pairs. Means by rule and region of any subset of the
    factors that were drawn follow from a block without another pass:
    ``study.layout.means(block.scores, block.model_counts, block.brain_counts)``; leave counts out
    (None), or put ``study.observed[None]`` for the scores, for factors that are to stay as they
    are.

    Parameters
    ----------
    study : see `prepare_study`.
    draws : see `seeded_draws`.
    memory_budget : what the scores of one block may take; never changes the values.
    advance : is told of resamples that are done.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> from rsafast.inference.bootstrap.replicates import (
    ...     prepare_study, replicate_scores, seeded_draws)
    >>> points = np.random.default_rng(0).normal(size=(6, 12, 5))
    >>> models, brain = rf.compute_rdms(points[:2]), rf.compute_rdms(points[2:])
    >>> study = prepare_study(models, brain)
    >>> draws = seeded_draws(study, ("stimuli", "subjects"), 500, seed=1)
    >>> [study.layout.means(b.scores, None, b.brain_counts).shape
    ...  for b in replicate_scores(study, draws)]
    [(256, 2, 1), (244, 2, 1)]
    """
    each = 4 * 8 * study.observed.size
    size = max(1, min(study.at_once, parse_bytes(memory_budget) // each))
    spans = list(blocks(draws.n_resamples, size))
    for (start, stop), (scores, agreement) in zip(
        spans, _scored(study, draws.stimuli, spans, advance), strict=True
    ):
        stimuli, models, brain = (
            None if source is None else source(start, stop)
            for source in (draws.stimuli, draws.models, draws.brain)
        )
        yield ScoreBlock(
            start=start,
            stop=stop,
            scores=scores,
            agreement=agreement,
            stimulus_counts=stimuli,
            model_counts=models,
            brain_counts=brain,
        )


def _scored(
    study: Resampled, stimuli: Source | None, spans: list[tuple[int, int]], advance: Advance
) -> Iterator[tuple[FloatArray, FloatArray | None]]:
    if stimuli is not None:
        yield from study.scored(stimuli, spans, advance)
        return
    for start, stop in spans:
        yield study.observed[None], None
        advance(stop - start)


def check_factors(resample: Sequence[str]) -> tuple[str, ...]:
    """Return the factors in their standard order, or raise."""
    wanted = (resample,) if isinstance(resample, str) else tuple(resample)
    unknown = [factor for factor in wanted if factor not in FACTORS]
    if unknown or not wanted:
        raise InvalidInputError(
            f"resample must name at least one of {', '.join(FACTORS)}, got {resample!r}"
        )
    return tuple(factor for factor in FACTORS if factor in wanted)


def check_enough(layout: Layout, factors: tuple[str, ...]) -> None:
    """Raise where a factor has a single item to draw from."""
    for factor, numbers, names, what in (
        ("subjects", layout.n_subjects, layout.regions, "region"),
        ("seeds", layout.n_seeds, layout.rules, "rule"),
    ):
        if factor in factors and numbers.min() < 2:
            name = names[int(np.argmin(numbers))]
            raise InvalidInputError(
                f"resample={factor!r} needs at least 2 {factor} in every {what}, and {what}"
                f" {name!r} has 1; leave {factor!r} out of resample, or say with {what}s= which"
                " RDMs belong together"
            )


def _stream(seed: int, stream: int, items: int) -> Source:
    return lambda start, stop: draw_counts(seed, stream, items, start, stop)


def _table(counts: Counts) -> Source:
    return lambda start, stop: counts[start:stop]


def _brain(layout: Layout, subjects: Source) -> Source:
    return lambda start, stop: subjects(start, stop)[:, layout.subject_of]


def _models(layout: Layout, seed: int) -> Source:
    by_rule = [_stream(seed, SEEDS + rule, int(k)) for rule, k in enumerate(layout.n_seeds)]
    return _by_rule(layout, by_rule)


def _by_rule(layout: Layout, sources: list[Source]) -> Source:
    def counts(start: int, stop: int) -> Counts:
        out = np.empty((stop - start, len(layout.rule_of)), np.int64)
        for rule, source in enumerate(sources):
            out[:, layout.rule_of == rule] = source(start, stop)
        return out

    return counts
