"""The core of a trajectory: all its curves on every resample, contracted block by block.

Scores (draws, networks, subjects) exist for one block of stimulus draws at a time. What is kept are
the (rule, epoch, layer, region) means under the joint draws of all factors, and one covariance
matrix for every set of factors resampled alone, from which the variance of any contrast follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsafast.comparators import Comparator, FloatArray
from rsafast.comparison import compare
from rsafast.errors import InvalidInputError
from rsafast.inference.bootstrap.draws import (
    SEEDS,
    STIMULI,
    SUBJECTS,
    blocks,
    draw_counts,
    jackknife_counts,
)
from rsafast.inference.bootstrap.resampled import ResampledComparison
from rsafast.inference.trajectory.design import Design

FACTORS = ("stimuli", "subjects", "seeds")
_RULE_STREAMS = 1_000  # the rules draw their seeds from streams SEEDS + 1000, 1001, ...
_MOST_LOST = 0.5  # share of undefined resamples beyond which nothing is reported
_BLOCK = 128  # draws a block: 15 MB of scores for 800 networks and 18 brain RDMs


@dataclass(frozen=True, slots=True, kw_only=True)
class Resamples:
    """Curves on resamples; C = rules·epochs·layers·regions cells, in that order.

    Attributes
    ----------
    deviations : (C, R) joint replicates minus their mean.
    covariances : (2^K - 1, C, C) of the replicates where only a set of factors is resampled; set
        number b (from 0) holds factor k where b + 1 has bit k. The part of the stimuli is that of
        the jackknife: see `rsafast.inference.bootstrap.variance.with_leverage`.
    jackknife : (C, groups) cells with each stimulus left out (of more than 128 stimuli, each of
        128 groups), minus their mean; (C, 0) where stimuli are not resampled.
    lost : resamples in which a similarity is undefined; they are left out of everything.
    """

    deviations: FloatArray
    covariances: FloatArray
    jackknife: FloatArray
    lost: int


def checked_factors(resample: str | Sequence[str]) -> tuple[str, ...]:
    """The factors to resample, in their standard order."""
    wanted = (resample,) if isinstance(resample, str) else tuple(resample)
    if not wanted or any(factor not in FACTORS for factor in wanted):
        raise InvalidInputError(
            f"resample must name one or more of {', '.join(FACTORS)}, got {resample!r}"
        )
    return tuple(factor for factor in FACTORS if factor in wanted)


def check_enough(design: Design, factors: tuple[str, ...]) -> None:
    """Raise where a factor to resample has a single item."""
    for factor, n, where in (
        ("seeds", len(design.seeds[0]), "each rule"), ("subjects", len(design.subjects), "brain"),
    ):  # fmt: skip
        if factor in factors and n < 2:
            raise InvalidInputError(
                f"resample holds {factor!r}, but {where} has a single one; leave {factor!r} out, or"
                f" say with {factor}= which RDM belongs to which"
            )


def scores_of(design: Design, comparator: Comparator, keep: NDArray[np.bool_]) -> FloatArray:
    """Similarities (G, S, E, L, Q, P) of the data, rule by rule to spare memory."""
    each = design.models.n_rdms // len(design.rules)
    mask = None if keep.all() else keep
    rows = [
        compare(
            design.models.subset(np.arange(rule * each, (rule + 1) * each)), design.brain,
            comparator.name, mask=mask,
        )
        for rule in range(len(design.rules))
    ]  # fmt: skip
    return np.concatenate(rows).reshape(design.shape)


def cell_means(scores: FloatArray) -> FloatArray:
    """Mean over seeds and subjects: (rules, epochs, layers, regions)."""
    return scores.mean(axis=(1, 5))


def factor_sets(factors: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All sets of factors but the empty one, by their bits; the last holds all."""
    return [
        tuple(f for k, f in enumerate(factors) if bits >> k & 1)
        for bits in range(1, 2 ** len(factors))
    ]


def resample(
    design: Design,
    comparison: ResampledComparison,
    scores: FloatArray,
    *,
    factors: tuple[str, ...],
    n_resamples: int,
    seed: int,
    budget: int,
    advance: Callable[[int], None],
) -> Resamples:
    """Draw all resamples of `factors`; `scores` (G, S, E, L, Q, P) are those of the data."""
    draws = Draws(design, comparison, scores, factors, seed)
    centre = cell_means(scores).ravel()
    _check_budget(design, centre.size, len(draws.sets), n_resamples, budget)
    joint = np.empty((centre.size, n_resamples))
    moments = [_Moments(centre) for _ in draws.sets]
    kept = 0
    for start in range(0, n_resamples, _BLOCK):
        stop = min(start + _BLOCK, n_resamples)
        curves = draws(start, stop)
        whole = np.isfinite(curves[-1]).all(axis=1)
        for moment, values in zip(moments, curves, strict=True):
            moment.add(values[whole])
        count = int(whole.sum())
        joint[:, kept : kept + count] = curves[-1][whole].T
        kept += count
        advance(stop - start)
    lost = n_resamples - kept
    if lost > _MOST_LOST * n_resamples or kept < 2:
        raise InvalidInputError(
            f"{lost} of {n_resamples} resamples leave some RDM without spread (fewer than 3"
            " distinct stimuli, or all dissimilarities equal); use more stimuli, or leave"
            " 'stimuli' out of resample="
        )
    joint = joint[:, :kept]
    joint -= joint.mean(axis=1, keepdims=True)
    covariances = np.stack([moment.covariance() for moment in moments])
    left_out = draws.without_each_stimulus()
    if "stimuli" in factors:
        _use_jackknife(covariances, left_out, draws.sets, design.models.n_stimuli)
    return Resamples(
        deviations=joint, covariances=covariances, jackknife=left_out, lost=lost
    )


def _use_jackknife(
    covariances: FloatArray, left_out: FloatArray, sets: list[tuple[str, ...]], n: int
) -> None:
    """Replace the stimuli's part of all covariances, in place, by that of the jackknife.

    A few influential stimuli pull a correlation towards themselves in the data and again in every
    resample; and where nothing is related, resampling triples the noise of single pairs.
    """
    groups = left_out.shape[1]
    # A bootstrap of n items gives 1 - 1/n of the variance; later steps divide by that.
    wanted = (1 - 1 / n) * (1 - 1 / groups) * (left_out @ left_out.T)
    more = wanted - covariances[sets.index(("stimuli",))]
    for covariance, chosen in zip(covariances, sets, strict=True):
        if "stimuli" in chosen:
            covariance += more


def _check_budget(design: Design, cells: int, sets: int, n_resamples: int, budget: int) -> None:
    # Scores are held thrice at once: as they come, their squares, and under weighted seeds.
    scores = 3 * 8 * _BLOCK * design.models.n_rdms * design.brain.n_rdms
    needed = 8 * cells * (n_resamples + 2 * sets * cells) + scores
    if needed > budget:
        raise InvalidInputError(
            f"memory_budget ({budget:.3g} bytes) is too small: {cells} cells (rule, epoch, layer,"
            f" region) with {n_resamples} resamples need {needed:.3g}; raise it, ask for fewer"
            " resamples, or run layers or regions apart"
        )


class Draws:
    """Curves under every set of factors, on any range of resamples."""

    def __init__(
        self,
        design: Design,
        comparison: ResampledComparison,
        scores: FloatArray,
        factors: tuple[str, ...],
        seed: int,
    ) -> None:
        self.sets = factor_sets(factors)
        self._comparison, self._scores, self._seed = comparison, scores, seed
        self._factors, self._n = factors, design.models.n_stimuli
        # By the rank of a rule's name, so that the order of the RDMs changes nothing.
        ranks = np.argsort(np.argsort([str(rule) for rule in design.rules], kind="stable"))
        self._streams = [SEEDS + _RULE_STREAMS + int(rank) for rank in ranks]

    def __call__(self, start: int, stop: int) -> list[FloatArray]:
        """(draws, C) curves of resamples `start` to `stop`, one array a set of factors."""
        seeds, subjects = self.seed_weights(start, stop), self.subject_weights(start, stop)
        fixed = self._scores[None]
        drawn = self._on_drawn_stimuli(start, stop) if "stimuli" in self._factors else fixed
        out = []
        for chosen in self.sets:
            values = drawn if "stimuli" in chosen else fixed
            curves = weighted_means(
                values,
                seeds if "seeds" in chosen else None,
                subjects if "subjects" in chosen else None,
            )
            out.append(curves.reshape(len(curves), -1))
        return out

    def without_each_stimulus(self) -> FloatArray:
        """(C, groups) cells with each group of stimuli left out, minus their mean."""
        cells = cell_means(self._scores).size
        if "stimuli" not in self._factors:
            return np.empty((cells, 0))
        counts = jackknife_counts(self._seed, self._n)
        out = np.empty((cells, len(counts)))
        for start, stop in blocks(len(counts), _BLOCK):
            scores = weighted_means(self._scores_on(counts[start:stop]), None, None)
            out[:, start:stop] = scores.reshape(stop - start, -1).T
        if not np.isfinite(out).all():
            group = int(np.argwhere(~np.isfinite(out))[0, 1])
            raise InvalidInputError(
                f"without stimulus number {np.flatnonzero(counts[group] == 0)[0]} some RDM has no"
                " spread: its similarities rest on that stimulus; leave 'stimuli' out of"
                " resample=, or the RDM out"
            )
        return out - out.mean(axis=1, keepdims=True)

    def _on_drawn_stimuli(self, start: int, stop: int) -> FloatArray:
        return self._scores_on(draw_counts(self._seed, STIMULI, self._n, start, stop))

    def _scores_on(self, weights: NDArray[np.int64]) -> FloatArray:
        """(draws, G, S, E, L, Q, P); of a comparison with groups of subjects, P = 1 mean."""
        scores = self._comparison.scores(weights)
        return scores.reshape(len(weights), *self._scores.shape[:5], -1)

    def seed_weights(self, start: int, stop: int) -> FloatArray:
        """(draws, G, S) weights of every rule's seeds, which sum to 1."""
        n = self._scores.shape[1]
        drawn = [draw_counts(self._seed, stream, n, start, stop) for stream in self._streams]
        return np.stack(drawn, axis=1) / n

    def subject_weights(self, start: int, stop: int) -> FloatArray:
        """(draws, P) weights of the subjects, which sum to 1."""
        n = self._scores.shape[5]
        return draw_counts(self._seed, SUBJECTS, n, start, stop) / n


def weighted_means(
    scores: FloatArray, seeds: FloatArray | None, subjects: FloatArray | None
) -> FloatArray:
    """Means (R, G, E, L, Q) of scores (R or 1, G, S, E, L, Q, P) under weights that sum to 1.

    Parameters
    ----------
    seeds : (R, G, S), or None for equal weights.
    subjects : (R, P), or None for equal weights.
    """
    if subjects is None:
        means = scores.mean(axis=6)
    else:
        means = np.einsum("rgselqp,rp->rgselq", scores, subjects)
    if seeds is None:
        return means.mean(axis=2)
    return (means * seeds[:, :, :, None, None, None]).sum(axis=2)


class _Moments:
    """Running covariance around a centre that is near the mean."""

    def __init__(self, centre: FloatArray) -> None:
        self._centre = centre
        self._sum = np.zeros(len(centre))
        self._products = np.zeros((len(centre), len(centre)))
        self._count = 0

    def add(self, values: FloatArray) -> None:
        apart = values - self._centre
        self._sum += apart.sum(axis=0)
        self._products += apart.T @ apart
        self._count += len(values)

    def covariance(self) -> FloatArray:
        mean = self._sum / self._count
        return (self._products - self._count * np.outer(mean, mean)) / (self._count - 1)
