"""Noise ceilings of RDMs that are read in rows.

A pool is a weighted sum of RDMs. For pearson and cosine all its similarities follow from those
among the RDMs, which one pass gives. For spearman it has to be ranked: it is summed wherever its
values are needed, and ranked by counting, as many pools at a time as memory holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.rank.counting import Ranker

from rsafast._condensed import n_pairs
from rsafast.comparators import FloatArray, get_comparator
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.inference.ceilings.api import (
    ALL,
    THE_OTHERS,
    Bounds,
    Definition,
    Members,
    NoiseCeiling,
    ceiling_of,
    check_definition,
    members_of,
)
from rsafast.inference.groups import By, brain_groups
from rsafast.memory import parse_bytes
from rsafast.ondisk.rows import Rows, Source, panel_bytes, panels
from rsafast.ondisk.stack import Stack
from rsafast.ondisk.survey import (
    Large,
    Method,
    Survey,
    Values,
    check_method,
    check_same_stimuli,
    fits,
    is_ranked,
    opened_all,
    survey_bytes,
    surveyed,
    together,
)
from rsafast.progress import Advance, track

_PANEL = 2**20  # pairs of some rows of every RDM that are read at a time, about
_CHUNK = 2**17  # pairs that are summed at a time: 1 MB as float64
# Of a pool beside its tables: its sums and ranks of a chunk, and which upper halves of keys occur.
_POOL_BYTES = 24 * _CHUNK + 12 * 2**16
_FLAT = 1e-10  # variance of a pool, over that of as many equal RDMs, that is rounding


def noise_ceiling_files(
    brain: Large | Sequence[Large],
    method: Method = "spearman",
    definition: Definition = "rank-average",
    *,
    regions: By | None = None,
    subjects: By | None = None,
    memory_budget: int | str | None = None,
    progress: bool = True,
) -> NoiseCeiling:
    """Noise ceiling of RDMs that stay on disk: that of :func:`rsafast.noise_ceiling`.

    Parameters
    ----------
    brain : RDM files, opened or not, or :func:`rsafast.lazy_rdm`
        One RDM a subject and region, all over the same stimuli in the same order; several of one
        subject where `subjects` says so. Of a file that holds several RDMs, all.
    method : {"spearman", "pearson", "cosine"}
        "spearman" ranks float32 and float16 values on the fly; files of ranks save that.
    definition : {"rank-average", "average", "squared", "leave-one-out"}
        As of :func:`rsafast.noise_ceiling`. All but "rank-average" take means of the values in the
        files, so that files of ranks and of dissimilarities do not go together there.
    regions, subjects : one label an RDM, in the order of the files, optional
        By default all RDMs are of one region and each is a subject. All RDMs of a subject are left
        out together. The name of a descriptor will do where all RDMs come from files that hold it.
    memory_budget : bytes or a size like "2GB", optional
        By default 2 GB, or a quarter of a small machine. Regions are worked on one after another.
        "spearman" takes up to 34 MB an RDM, and 67 MB a pool, for every factor of 2 between
        smallest and largest value (67 MB in all for a pool of "rank-average"). Pools that do not
        fit together are ranked in turns, and each turn reads the RDMs twice more.
    progress : show bars

    Returns
    -------
    NoiseCeiling
        For pearson and cosine to some 1e-12 what :func:`rsafast.noise_ceiling` gives. For spearman
        sums of RDMs are rounded to float32 before they are ranked: equal ones stay equal, and those
        that differ by less than 1.2e-7 of themselves may be tied. Where no more than m of P pairs
        are tied together by that, a similarity moves by about m / P at most, and by less than 1e-8
        as a rule, as such errors are unrelated to the other RDM. Sums of ranks are exact where
        RDMs times pairs are at most 2**22. Values that would be equal but for rounding errors, such
        as distances of binary features, are tied by it and may move a similarity by 1e-3.

    Raises
    ------
    InvalidInputError
        As :func:`rsafast.noise_ceiling` and :func:`rsafast.compare_files`: for fewer than two
        subjects in a region, other stimuli or another order of them, an RDM or a mean of RDMs
        without spread, and a budget that is too small.
    UnsupportedCaseError
        For "split-half", which takes the mean RDMs of hundreds of halves.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> rng = np.random.default_rng(0)
    >>> shared = rng.standard_normal((100, 20))
    >>> features = [shared + rng.standard_normal((100, 20)) for _ in range(4)]
    >>> ceiling = rf.noise_ceiling_files([rf.lazy_rdm(x.astype(np.float32)) for x in features])
    >>> in_memory = rf.noise_ceiling(rf.RDMs.concat([rf.compute_rdms(x) for x in features]))
    >>> bool(abs(ceiling.lower[0] - in_memory.lower[0]) < 1e-5)
    True
    """
    check_definition(definition)
    check_method(method)
    if definition == "split-half":
        raise UnsupportedCaseError(
            "definition='split-half' takes the mean RDMs of many halves, for which RDMs must fit in"
            " memory; use noise_ceiling, or another definition"
        )
    budget = parse_bytes(memory_budget)
    rdms = opened_all(brain, "brain")
    check_same_stimuli(rdms)
    notes = _check_alike(rdms, definition)
    groups = brain_groups(Stack(rdms), regions, subjects)
    members = members_of(groups)
    todo = [_Region([rdms[i] for i in m.places], m, method, definition, budget) for m in members]
    for region in todo:
        region.check_budget()
    bounds = [region.bounds(progress) for region in todo]
    pairs = n_pairs(rdms[0].n_stimuli)
    return ceiling_of(
        get_comparator(method), definition, members, bounds,
        n_stimuli=rdms[0].n_stimuli, pairs=pairs, pairs_of=pairs, notes=groups.notes + notes,
    )  # fmt: skip


def _check_alike(rdms: Sequence[Rows], definition: str) -> tuple[str, ...]:
    """Notes on RDMs whose values are averaged as they are; raise where these are of two kinds."""
    if definition == "rank-average":
        return ()
    first = rdms[0]
    for rdm in rdms[1:]:
        if _kind(rdm) != _kind(first):
            raise InvalidInputError(
                f"definition={definition!r} takes means of values as they are, but {first.where}"
                f" holds {_kind(first)} and {rdm.where} {_kind(rdm)}; give files of one kind, or"
                " use definition='rank-average'"
            )
    if not is_ranked(first):
        return ()
    return ("The RDMs are ranks already: means of RDMs as they are, are means of ranks.",)


def _kind(rdm: Rows) -> str:
    if not is_ranked(rdm):
        return "dissimilarities"
    return "ranks in 65,536 steps" if rdm.dtype == np.uint16 else "ranks"


# ---------------------------------------------------------------- one region


@dataclass(frozen=True, slots=True)
class _Region:
    """K RDMs of one region, and what is asked of them."""

    rdms: Sequence[Rows]
    members: Members
    method: Method
    definition: str
    budget: int

    @property
    def _raw(self) -> bool:
        """Whether values are averaged as they are."""
        return self.definition != "rank-average"

    def check_budget(self) -> None:
        """Raise where the budget is too small, as far as that is known before RDMs are read."""
        what = f"a pass over the {len(self.rdms)} RDMs of region {self.members.region!r}"
        needed = survey_bytes(self.rdms)
        if self.method == "spearman":
            needed = max(needed, self._pooling_bytes())
        fits(needed, self.budget, what)

    def bounds(self, progress: bool) -> Bounds:
        """Similarity of every RDM with the pool of the others, and of all, put together."""
        k = len(self.rdms)
        found, values = surveyed(self.rdms, self.method, "float32", self.budget, progress)
        pools = self._pools()
        if self.method == "spearman":
            similarity, variance = self._ranked(pools, values, found, progress)
        else:
            weights = pools * (found.norm if self._raw else np.ones(k))
            similarity, variance = _of_gram(weights, found.similarity)
        self._check_spread(variance)
        lower = similarity[self.members.subject_of, np.arange(k)]
        has_upper = len(pools) > len(self.members.subjects)
        upper = similarity[-1] if has_upper else np.full(k, np.nan)
        return Bounds.of_rdms(self.definition, self.members, lower, upper)

    def _pools(self) -> NDArray[np.bool_]:
        """Which RDMs are in every pool: those of all subjects but one, then those of all."""
        others = self.members.others()
        if self.definition == "leave-one-out":
            return others
        return np.vstack([others, np.ones(len(self.rdms), bool)])

    def _check_spread(self, variance: FloatArray) -> None:
        flat = np.flatnonzero(~(variance > _FLAT))
        if flat.size:
            s, subjects = int(flat[0]), self.members.subjects
            what = f"{THE_OTHERS} (without {subjects[s]!r})" if s < len(subjects) else ALL
            raise InvalidInputError(
                f"{what} in region {self.members.region!r} has no spread: the RDMs cancel each"
                " other out, and no similarity to their mean is defined"
            )

    # ------------------------------------------------------------ pools that are ranked

    def _pooling_bytes(self) -> int:
        """Most bytes for ranked pools, but for their tables and those of the RDMs."""
        sources = len(self.rdms) * (2 if self._raw else 1)
        reading = 3 * panel_bytes(self.rdms[0].n_stimuli, self.rdms, _PANEL) // 2 + 8 * _PANEL
        return sources * (reading + 16 * _CHUNK) + len(self._pools()) * _POOL_BYTES

    def _ranked(
        self, pools: NDArray[np.bool_], values: Sequence[Values], found: Survey, progress: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Similarity (pools, K) of ranked pools with ranked RDMs, and variance (pools,) of these.

        The variance is that of the pools' ranks, over that of ranks without ties.
        """
        base = self._pooling_bytes() + sum(v.source.working_bytes for v in values)
        sums = self._sums(pools, values)
        total = 3 * len(pools) * n_pairs(self.rdms[0].n_stimuli)
        what = f"pools of region {self.members.region}"
        with track(total, what, progress) as advance:
            rankers = deque(sums.scanned(advance))
            largest = max(ranker.table_bytes for ranker in rankers)
            name = f"ranking a pool of the RDMs of region {self.members.region!r}"
            fits(base + largest, self.budget, name)
            rows: list[tuple[FloatArray, FloatArray]] = []
            while rankers:
                batch, room = [rankers.popleft()], self.budget - base
                room -= batch[0].table_bytes
                while rankers and rankers[0].table_bytes <= room:
                    room -= rankers[0].table_bytes
                    batch.append(rankers.popleft())
                at = slice(len(rows), len(rows) + len(batch))
                rows += zip(*sums[at].similarity(batch, values, found, advance), strict=True)
        similarity, variance = zip(*rows, strict=True)
        return np.array(similarity), np.array(variance)

    def _sums(self, pools: NDArray[np.bool_], values: Sequence[Values]) -> _Sums:
        """What the pools are sums of: the RDMs as they are, or their ranks."""
        k = len(values)
        if self._raw:
            # A power of two keeps sums exact, and none is larger than the largest value.
            halved = np.where(pools, 0.5 ** k.bit_length(), 0.0)
            return _Sums(self.rdms, self.rdms, halved, np.zeros(len(pools)))
        most = n_pairs(self.rdms[0].n_stimuli) - 1
        steps = np.array([65535 if v.dtype == np.uint16 else most for v in values], np.float64)
        weights = np.where(pools, steps[0] / steps, 0.0)
        # Sums of ranks lie between r and r times the number of pairs. With as much added their
        # largest is no more than twice their smallest, and the tables to count them are small.
        return _Sums(values, self.rdms, weights, weights @ (steps + 1))


def _of_gram(weights: FloatArray, gram: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Similarity (pools, K) of weighted sums of RDMs of unit length with each of these.

    And their variance (pools,), over what it were if all RDMs were equal.
    """
    products = weights @ gram
    squares = np.einsum("pk,pk->p", products, weights)
    variance = squares / weights.sum(axis=1) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):  # of pools that the caller refuses
        return products / np.sqrt(squares)[:, None], variance


@dataclass(frozen=True, slots=True)
class _Sums:
    """Weighted sums of RDMs that are computed as rows are read.

    Attributes
    ----------
    sources : K, what is summed.
    rdms : K that they are made of.
    weights : (pools, K).
    shifts : (pools,) added to every sum.
    """

    sources: Sequence[Source]
    rdms: Sequence[Rows]
    weights: FloatArray
    shifts: FloatArray

    def __getitem__(self, pools: slice) -> _Sums:
        return _Sums(self.sources, self.rdms, self.weights[pools], self.shifts[pools])

    def chunks(
        self, beside: Sequence[Source] = ()
    ) -> Generator[tuple[FloatArray, NDArray[np.float32]]]:
        """Yield the values read (K, c) and the sums (pools, c) of some pairs, then of the next.

        Values of `beside`, of the same RDMs, are read too where there are any, and yielded instead.
        """
        k = len(self.rdms)
        parts = panels(self.rdms[0].n_stimuli, [rdm.step for rdm in self.rdms], _PANEL)
        sources = [*self.sources, *beside]
        for _, _, listed in together(sources, parts, [*self.rdms, *self.rdms[: len(beside)]]):
            for start in range(0, len(listed[0]), _CHUNK):
                read = np.array([x[start : start + _CHUNK] for x in listed], np.float64)
                sums = self.weights @ read[:k] + self.shifts[:, None]
                yield read[-k:], sums.astype(np.float32)
            listed.clear()  # before the next ones are read

    def scanned(self, advance: Advance) -> list[Ranker]:
        """One ranker a pool, after the first of three passes."""
        rankers = [Ranker() for _ in self.weights]
        for _, sums in self.chunks():
            for ranker, pool in zip(rankers, sums, strict=True):
                ranker.scan(pool)
            advance(sums.size)
        return rankers

    def similarity(
        self, rankers: Sequence[Ranker], values: Sequence[Values], found: Survey, advance: Advance
    ) -> tuple[FloatArray, FloatArray]:
        """Similarity (pools, K) of the ranked sums with ranked RDMs, and variance (pools,)."""
        for ranker in rankers:
            ranker.allocate()
        for _, sums in self.chunks():
            for ranker, pool in zip(rankers, sums, strict=True):
                ranker.count(pool)
            advance(sums.size)
        for ranker in rankers:
            ranker.finish("float32")
        pairs = rankers[0].total
        products, total = np.zeros(self.weights.shape), np.zeros(len(rankers))
        squares = np.zeros(len(rankers))
        beside = () if self.sources is values else values  # ranks are what is summed, or not
        for read, sums in self.chunks(beside):
            listed = [ranker.ranks(pool) for ranker, pool in zip(rankers, sums, strict=True)]
            ranks = np.array(listed, np.float64) - (pairs + 1) / 2
            products += np.einsum("pc,kc->pk", ranks, read)  # BLAS rounds by its threads
            total += ranks.sum(axis=1)
            squares += np.einsum("pc,pc->p", ranks, ranks)
            advance(sums.size)
        products -= np.outer(total, found.centre)
        squares -= total**2 / pairs
        with np.errstate(divide="ignore", invalid="ignore"):  # of pools that the caller refuses
            similarity = products / np.outer(np.sqrt(squares), found.norm)
        return similarity, 12 * squares / (float(pairs) ** 3 - pairs)
