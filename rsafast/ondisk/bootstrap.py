"""`bootstrap_files`: how sure is the alignment of RDMs that are too large for memory?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput
from rsafast_kernels.resample.streaming import (
    LANES,
    RankSums,
    ValueSums,
    working_bytes,
)

from rsafast._condensed import n_pairs
from rsafast.checks import check_integers
from rsafast.cluster import Cluster, connected, in_order, once
from rsafast.comparators import FloatArray
from rsafast.errors import UnsupportedCaseError
from rsafast.inference.bootstrap.api import MIN_RESAMPLES, bootstrap_of
from rsafast.inference.bootstrap.ceiling import check_subjects, pooled_by_region
from rsafast.inference.bootstrap.draws import Counts
from rsafast.inference.bootstrap.intervals import Interval, check_interval
from rsafast.inference.bootstrap.replicates import (
    BLOCK,
    Ceiling,
    ScoreBlock,
    Source,
    check_enough,
    check_factors,
    seeded_draws,
)
from rsafast.inference.bootstrap.resampled import MIN_DISTINCT
from rsafast.inference.bootstrap.result import BootstrapResult
from rsafast.inference.layout import Layout, study_layout
from rsafast.io.provenance import array_hash
from rsafast.memory import parse_bytes
from rsafast.ondisk.rows import Rows, check_bits, fingerprints, panels
from rsafast.ondisk.stack import Stack
from rsafast.ondisk.survey import (
    Large,
    Method,
    Survey,
    Values,
    fits,
    opened,
    survey_bytes,
    surveyed,
    together,
)
from rsafast.ondisk.work import Work, resumable_if_named
from rsafast.progress import Advance, Share

if TYPE_CHECKING:
    from distributed import Client

_PANEL = 2**19  # pairs at a time: 4 MB as float64
_STEPS = 65_535  # of ranks


def bootstrap_files(
    models: Large | Sequence[Large],
    brain: Large | Sequence[Large],
    *,
    method: Method = "spearman",
    resample: Sequence[str] = ("stimuli",),
    n_resamples: int = 1_000,
    seed: int = 0,
    rules: str | Sequence[Any] | None = None,
    seeds: str | Sequence[Any] | None = None,
    regions: str | Sequence[Any] | None = None,
    subjects: str | Sequence[Any] | None = None,
    interval: Interval = "percentile",
    level: float = 0.95,
    ceiling: bool = False,
    memory_budget: int | str | None = None,
    out: PathInput | None = None,
    resume: bool = True,
    cluster: Cluster | None = None,
    progress: bool = True,
) -> BootstrapResult:
    """Bootstrap RDMs that are too large for memory: :func:`rsafast.bootstrap`, read in rows.

    Estimates, intervals, hypotheses and what they generalise to are those of
    :func:`rsafast.bootstrap`, and so are the draws of a seed. Up to 256 resamples share a pass over
    the RDMs ("pearson", "cosine") or two ("spearman").

    Parameters
    ----------
    models, brain : RDM files, opened or not, or :func:`rsafast.lazy_rdm`, M and N of them
        All over the same stimuli in the same order: files are not reordered.
    method : {"spearman", "pearson", "cosine"}
        "spearman" ranks the values anew in every resample, after sorting them into 65,536 classes
        of as many ranks each: replicates are exact to 1e-7 up to 362 stimuli, and beyond move by at
        most 5.4e-5 (as a rule by less than 1e-6) because values of one class are tied.
    n_resamples : at least 100; each takes a few nanoseconds a pair and RDM
    rules, seeds, regions, subjects : one label an RDM, or a descriptor of all their files
        As of :func:`rsafast.bootstrap`. Models of one name are called after their files.
    resample, seed, interval, level : as of :func:`rsafast.bootstrap`
    ceiling : also resample the noise ceiling; for "pearson" and "cosine", whose pools are sums
    memory_budget : bytes or a size like "2GB", optional
        By default 2 GB, or a quarter of a small machine. Never changes a value.
    out : file for the result, .h5, optional
        While it is in the making, the resamples so far lie beside it, and a run that was killed
        goes on from there when it is called again with the same arguments.
    resume : False starts anew
    cluster : address, Client or "local", optional
        Dask cluster whose tasks are some resamples each, to the same bits; see docs/large.md.
    progress : show bars

    Returns
    -------
    BootstrapResult

    Raises
    ------
    InvalidInputError
        As :func:`rsafast.bootstrap` and :func:`rsafast.compare_files`.
    UnsupportedCaseError
        ``ceiling=True`` with "spearman": its pools would have to be ranked anew in every resample.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> x = np.random.default_rng(0).standard_normal((4, 100, 20)).astype(np.float32)
    >>> model = rf.lazy_rdm(x[0], name="model")
    >>> brain = [rf.lazy_rdm(x[0] + 2 * noise) for noise in x[1:]]
    >>> result = rf.bootstrap_files(model, brain, n_resamples=200)
    >>> in_memory = rf.bootstrap(
    ...     rf.compute_rdms({"model": x[0]}), rf.compute_rdms(x[0] + 2 * x[1:]), n_resamples=200)
    >>> bool(np.allclose(result.ci, in_memory.ci, atol=1e-6))
    True
    """
    factors = check_factors(resample)
    check_interval(interval, level)
    check_integers(whole_floats=True, n_resamples=(n_resamples, MIN_RESAMPLES), seed=(seed, 0))
    if ceiling and method == "spearman":
        raise UnsupportedCaseError(
            "ceiling=True takes pearson or cosine where RDMs are read in rows: pools of ranks would"
            " have to be ranked anew in every resample; noise_ceiling_files gives the ceiling of"
            " the data"
        )
    budget = parse_bytes(memory_budget)
    left, right = opened(models, brain, method, budget)
    layout = study_layout(
        Stack(left), Stack(right), rules=rules, seeds=seeds, regions=regions,
        subjects=subjects, match_subjects="subjects" in factors,
    )  # fmt: skip
    check_enough(layout, factors)
    if ceiling:
        check_subjects(layout)
    rdms = [*left, *right]
    _at_once(rdms, method, [rdm.working_bytes for rdm in rdms], budget)
    what = ("bootstrap", [rdm.identity for rdm in rdms], len(left), method, ceiling)
    with (
        resumable_if_named(out, what, resume=resume) as work,
        nullcontext() if cluster is None else connected(cluster) as client,
    ):
        found, values = surveyed(rdms, method, "uint16", budget, progress)
        working = [v.source.working_bytes for v in values]
        sampler = Sampler.of(values, found, method, len(left), ceiling=ceiling)
        study = StoredStudy(
            sampler=sampler,
            layout=layout,
            observed=_observed(sampler, found),
            agreement=found.similarity[len(left) :, len(left) :],
            at_once=_at_once(rdms, method, working, budget),
            work=work,
            client=client,
        )
        draws = seeded_draws(study, factors, int(n_resamples), int(seed))
        result = bootstrap_of(
            study, draws, interval_kind=interval, level=float(level), ceiling=ceiling,
            seed=int(seed), memory_budget=budget, progress=progress,
        )  # fmt: skip
        if work is not None:
            work.finish(result.save)
    return result


# ---------------------------------------------------------------- the study


@dataclass(frozen=True, slots=True)
class Sampler:
    """RDMs that are read in rows, and which of them are correlated on resamples.

    Attributes
    ----------
    values : the RDMs, models first; ranks in 65,536 steps for Spearman.
    centre, norm : (K,) of each on the data.
    method : how they are compared.
    models : how many of them are models.
    pairs : numbers of the RDMs that are correlated.
    """

    values: Sequence[Values]
    centre: FloatArray
    norm: FloatArray
    method: str
    models: int
    pairs: list[tuple[int, int]]

    @classmethod
    def of(
        cls, values: Sequence[Values], found: Survey, method: str, models: int, *, ceiling: bool
    ) -> Sampler:
        """Correlate all models with all brain RDMs, and for a ceiling these with each other."""
        brain = range(models, len(values))
        pairs = list(product(range(models), brain))
        if ceiling:
            pairs += combinations(brain, 2)
        return cls(values, found.centre, found.norm, method, models, pairs)

    def correlations(self, weights: Counts, done: Callable[[float], None]) -> FloatArray:
        """(R, pairs) on the resamples `weights` (R, n); `done` is told of shares of the work."""
        rdms = len(self.values)
        if self.method == "spearman":
            sums = RankSums(weights, rdms, self.pairs)
            for first, last, panel in self._read():
                sums.count(self._classes(panel), first, last)
                done(0.5 * len(panel[0]) / self.n_pairs)
            sums.rank()
            for first, last, panel in self._read():
                sums.multiply(self._classes(panel), first, last)
                done(0.5 * len(panel[0]) / self.n_pairs)
            return sums.correlations()
        values = ValueSums(weights, rdms, self.pairs, centred=self.method == "pearson")
        for first, last, panel in self._read():
            values.multiply(self._scaled(panel), first, last)
            done(len(panel[0]) / self.n_pairs)
        return values.correlations()

    @property
    def rdms(self) -> list[Rows]:
        """The RDMs that the values are made of."""
        return [values.rows for values in self.values]

    @property
    def n_pairs(self) -> int:
        """Pairs of stimuli."""
        return n_pairs(self.rdms[0].n_stimuli)

    def _read(self) -> Iterator[tuple[int, int, list[NDArray[Any]]]]:
        rdms = self.rdms
        parts = panels(rdms[0].n_stimuli, [rdm.step for rdm in rdms], _PANEL)
        return together(self.values, parts, rdms)

    def _classes(self, panel: list[NDArray[Any]]) -> NDArray[np.uint16]:
        out = np.empty((len(panel), len(panel[0])), np.uint16)
        step = _STEPS / max(self.n_pairs - 1, 1)
        for row, ranks in zip(out, panel, strict=True):
            # What is not in steps yet is a file of ranks.
            if ranks.dtype != np.uint16:
                ranks = np.rint(np.subtract(ranks, 1.0, dtype=np.float64) * step)
            row[:] = ranks
        return out

    def _scaled(self, panel: list[NDArray[Any]]) -> FloatArray:
        out = np.array(panel, np.float64)
        out -= self.centre[:, None]
        out /= self.norm[:, None]
        return out


def _observed(sampler: Sampler, found: Survey) -> FloatArray:
    """Scores (M, N) on the data."""
    models = sampler.models
    scores = np.ascontiguousarray(found.similarity[:models, models:])
    if sampler.method != "spearman":
        return scores
    # Steps of ranks are uneven by rounding, which ranking them anew removes, as in a resample.
    once_each = np.ones((1, sampler.rdms[0].n_stimuli), np.int64)
    return sampler.correlations(once_each, lambda share: None)[0].reshape(scores.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    """A study of RDMs that are read in rows; see `rsafast.inference.bootstrap.replicates`.

    Attributes
    ----------
    sampler : its RDMs.
    layout : their rules, seeds, regions and subjects.
    observed : (M, N) scores on the data.
    agreement : (N, N) similarities of the brain RDMs with each other on the data.
    at_once : resamples that are scored together.
    work : where those that are done are kept, or None.
    client : of the cluster that scores them, or None.
    """

    sampler: Sampler
    layout: Layout
    observed: FloatArray
    agreement: FloatArray
    at_once: int
    work: Work | None = None
    client: Client | None = None

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli n."""
        return self.sampler.rdms[0].n_stimuli

    @property
    def method(self) -> str:
        """Name of the comparator."""
        return self.sampler.method

    @property
    def described(self) -> dict[str, Any]:
        """Parameters of a result that speak of the data."""
        pairs, models = self.sampler.n_pairs, self.sampler.models
        sources = [rdm.identity for rdm in self.sampler.rdms]
        return {
            "pairs": pairs, "pairs_of": pairs,
            "models": sources[:models], "brain": sources[models:],
        }  # fmt: skip

    @property
    def hashes(self) -> dict[str, Any]:
        """Of data on disk there are none: `described` has their places, sizes and times."""
        return {}

    def scored(
        self, stimuli: Source, spans: Iterable[tuple[int, int]], advance: Advance
    ) -> Iterator[tuple[FloatArray, FloatArray | None]]:
        """Yield scores (R, M, N), and agreement, of draws start..stop of the stimuli."""
        spans = list(spans)
        known = [self._known(stimuli, span) for span in spans]
        missing = [span for span, values in zip(spans, known, strict=True) if values is None]
        found = self._correlated(stimuli, missing, advance)
        for span, values in zip(spans, known, strict=True):
            weights = stimuli(*span)
            if values is None:
                values = next(found)
                if self.work is not None:
                    self.work.keep(_name_of(weights), partial(np.save, arr=values))
            else:
                advance(len(weights))
            values[(weights > 0).sum(axis=1) < MIN_DISTINCT] = np.nan
            yield self._unfolded(values)

    def _known(self, stimuli: Source, span: tuple[int, int]) -> FloatArray | None:
        """What an earlier run found on these resamples."""
        if self.work is None or not self.work.done:
            return None
        file = self.work.beside(_name_of(stimuli(*span)))
        return np.asarray(np.load(file, allow_pickle=False)) if file.exists() else None

    def _correlated(
        self, stimuli: Source, spans: list[tuple[int, int]], advance: Advance
    ) -> Iterator[FloatArray]:
        if self.client is None:
            for start, stop in spans:
                yield self.sampler.correlations(stimuli(start, stop), Share(advance, stop - start))
            return
        sampler, expected = once(self.client, self.sampler), fingerprints(self.sampler.rdms)
        calls = ((sampler, once(self.client, _small(stimuli(*s))), expected) for s in spans)
        for (start, stop), values in zip(
            spans, in_order(self.client, _correlated_there, calls), strict=True
        ):
            advance(stop - start)
            yield values

    def _unfolded(self, values: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """Correlations (R, pairs) as scores (R, M, N) and, for a ceiling, agreement (R, N, N)."""
        shape = self.observed.shape
        scores, rest = np.split(values, [self.observed.size], axis=1)
        if not rest.size:
            return scores.reshape(-1, *shape), None
        agreement = np.ones((len(values), shape[1], shape[1]))
        a, b = np.triu_indices(shape[1], 1)
        agreement[:, a, b] = agreement[:, b, a] = rest
        return scores.reshape(-1, *shape), agreement

    def ceiling(self) -> Ceiling:
        """What gives its noise ceilings."""
        return _PooledCeiling(self.layout, self.agreement)


@dataclass(frozen=True, slots=True)
class _PooledCeiling:
    """Ceilings of pools that are sums, from similarities of the brain RDMs with each other."""

    layout: Layout
    agreement: FloatArray

    def __call__(
        self, block: ScoreBlock | None, brain: Sequence[Counts | None]
    ) -> list[FloatArray]:
        """Bounds on resamples: see `rsafast.inference.bootstrap.replicates.Ceiling`."""
        agreement = self.agreement[None] if block is None else block.agreement
        assert agreement is not None  # a study that has a ceiling makes it with the scores
        return [pooled_by_region(self.layout, agreement, counts) for counts in brain]


def _small(weights: Counts) -> NDArray[Any]:
    """Counts as they travel: a byte each as a rule."""
    return weights.astype(np.min_scalar_type(int(weights.max(initial=0))))


def _name_of(weights: Counts) -> str:
    """File of what is found on these resamples, whichever of a run they are."""
    return f"{array_hash(weights)}.npy"


def _correlated_there(
    sampler: Sampler, weights: NDArray[Any], expected: list[str]
) -> FloatArray:
    """The work of one task of a cluster."""
    check_bits(sampler.rdms, expected)
    return sampler.correlations(weights.astype(np.int64), lambda share: None)


# ---------------------------------------------------------------- arguments


def _at_once(rdms: Sequence[Rows], method: str, working: Sequence[int], budget: int) -> int:
    """Resamples that a budget of bytes holds beside the reading of RDMs.

    Raises
    ------
    InvalidInputError
        Where it does not even hold the lanes of one vector.
    """
    n, k = rdms[0].n_stimuli, len(rdms)
    # Counts of stimuli are drawn a block at a time, and copied for what is done with them.
    lanes = working_bytes(n, LANES, k, ranks=method == "spearman") + LANES * n * 24
    reading = survey_bytes(rdms) + sum(working) + BLOCK * n * 24
    fits(reading + lanes, budget, f"a bootstrap of {k} RDMs of {n:,} stimuli")
    return min(BLOCK, LANES * ((budget - reading) // lanes))
