"""Fits of flexible models from inner products alone.

A model predicts Σ θ_k x_k. Its mean similarity to subjects y_i is, for every comparator that is a
cosine of prepared vectors (pearson, cosine and their whitened kin),

    mean_i cos(Σ θ_k x_k, y_i) = ⟨Σ θ_k x_k, t⟩ / ‖Σ θ_k x_k‖,   t = mean_i y_i / ‖y_i‖,

since the prediction's norm does not depend on i. So the best θ is the one whose prediction has the
largest cosine with the single vector t, which is least squares up to the length of θ: over a cone,
the cosine with t is largest at the projection of t onto it. All of it needs the products ⟨x_k, x_l⟩
and ⟨x_k, t⟩ only, never a matrix of pairs by components.

Rank methods rank the prediction, which is not linear in θ. What is fitted there is the Pearson
correlation of the prediction with the subjects' ranks; what is scored is the rank method.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.resample import Resampler, weighted_ranks
from scipy.optimize import nnls

from rsafast.comparators import Comparator, FloatArray, whiten_with, whitener_of
from rsafast.inference.bootstrap.resampled import ResampledComparison
from rsafast.rdms import RDMs

# Components whose Gram matrix, scaled to a unit diagonal, has eigenvalues below this are collinear.
_COLLINEAR = 1e-12
# A prediction whose parts cancel to this share of their length has no spread.
_CANCELLED = 1e-10
_BLOCK = 64  # parts of the stimuli handed to the kernel at once


@dataclass(frozen=True, slots=True)
class Criterion:
    """What a fit maximises, for K components.

    Attributes
    ----------
    gram : (K, K) products ⟨x_k, x_l⟩; a row of zeros for a component without spread.
    target : (K,) products ⟨x_k, t⟩ with the pooled training subjects.
    single : (K,) mean similarity of every component alone, by the comparator itself; NaN where it
        is undefined.
    """

    gram: FloatArray
    target: FloatArray
    single: FloatArray

    def part(self, components: slice) -> Criterion:
        """The criterion of some of the components."""
        return Criterion(
            self.gram[components, components], self.target[components], self.single[components]
        )


def criterion_of(sums: LinearSums | RankSums, weights: FloatArray) -> Criterion:
    """The criterion of training subjects that count `weights` (N,), those of 0 left out."""
    rows = np.flatnonzero(weights)
    share = weights[rows] / weights[rows].sum()
    return Criterion(sums.gram, sums.targets[:, rows] @ share, sums.singles[:, rows] @ share)


def best_single(single: FloatArray) -> FloatArray:
    """Weights (K,) that select the component of the highest similarity, the first of equals."""
    if np.isnan(single).all():
        return np.full(len(single), np.nan)
    return np.eye(len(single))[int(np.nanargmax(single))]


def best_weights(criterion: Criterion, nonnegative: bool) -> FloatArray:
    """Weights (K,) of unit norm whose sum has the largest cosine with the target.

    Where no weighted sum has a positive cosine, the maximum over the cone is at one of its edges:
    the component with the highest. Among collinear components the weights are those of least
    norm (after scaling the components to one length).
    """
    length = np.sqrt(np.diag(criterion.gram))
    usable = length > 0
    theta = np.zeros(len(length))
    if not usable.any() or not np.isfinite(criterion.target).all():
        return np.full(len(length), np.nan)
    scale = length[usable]
    correlations = criterion.target[usable] / scale
    gram = criterion.gram[np.ix_(usable, usable)] / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(gram)
    kept = values > _COLLINEAR * values[-1]
    root = np.sqrt(values[kept])
    components = vectors[:, kept].T @ correlations
    if nonnegative:
        solution = nnls(root[:, None] * vectors[:, kept].T, components / root)[0]
    else:
        solution = vectors[:, kept] @ (components / values[kept])
    if not solution.any():
        solution = np.eye(len(scale))[int(np.argmax(correlations))]
    theta[usable] = solution / scale
    return theta / np.sqrt(theta @ theta)


def best_segment(criterion: Criterion) -> FloatArray:
    """Weights (K,) of two neighbours, at least 0 and of sum 1, that maximise the cosine.

    On a segment the maximum is at an end or where the least-squares weights of its two ends are
    both positive.
    """
    gram, target = criterion.gram, criterion.target
    k = len(target)
    if not np.isfinite(target).all() or not gram.any():
        return np.full(k, np.nan)
    square = np.diag(gram)
    left, right, cross = square[:-1], square[1:], np.diag(gram, 1)
    a, b = target[:-1], target[1:]
    first, second = right * a - cross * b, left * b - cross * a
    inside = (first > 0) & (second > 0) & (left * right - cross**2 > _COLLINEAR * left * right)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.where(square > 0, target / np.sqrt(square), -np.inf)
        norm = np.sqrt(first**2 * left + 2 * first * second * cross + second**2 * right)
        middle = np.where(inside, (first * a + second * b) / norm, -np.inf)
    theta = np.zeros(k)
    at = int(np.argmax(middle))
    if middle[at] > ends.max():
        theta[at : at + 2] = np.array([first[at], second[at]]) / (first[at] + second[at])
    else:
        theta[int(np.argmax(ends))] = 1.0
    return theta


# ---------------------------------------------------------------- products on parts of the stimuli


class StimulusProducts:
    """Products of components and brain RDMs on any stimuli, each counted any number of times.

    Parameters
    ----------
    comparator : see `rsafast.comparators`.
    components, brain : aligned RDMs, K and N of them.
    keep : (pairs,) bool, pairs that count.
    noise : (n, n) covariance of the conditions, optional; then no stimulus counts twice.
    """

    def __init__(
        self,
        comparator: Comparator,
        components: RDMs,
        brain: RDMs,
        keep: NDArray[np.bool_],
        noise: FloatArray | None = None,
    ) -> None:
        self._comparator, self._noise, self._keep = comparator, noise, keep
        self._n, self._k = components.n_stimuli, components.n_rdms
        self._x, self._y = np.triu_indices(self._n, 1)
        self._brain = brain
        self._stack = np.concatenate(
            [_within_range(np.where(keep, r.vectors, 0.0)) for r in (components, brain)]
        )

    def each(self, weights: NDArray[np.integer]) -> Iterator[LinearSums | RankSums]:
        """Sums on each of the rows of `weights` (R, n), counts of every stimulus."""
        if self._comparator.ranks or self._comparator.concordance:
            yield from (self._ranked(row) for row in weights)
        elif self._noise is not None:
            yield from (self._whitened(row) for row in weights)
        else:
            resampler = Resampler(
                self._stack, self._stack, self._n, centred=self._comparator.centred,
                whitened=self._comparator.whitened, keep=self._keep,
            )  # fmt: skip
            for start in range(0, len(weights), _BLOCK):
                got = resampler(weights[start : start + _BLOCK])
                for products, squares in zip(got.products, got.squares_a, strict=True):
                    yield LinearSums(products, squares, self._k)

    def _whitened(self, counts: NDArray[np.integer]) -> LinearSums:
        """One part of the stimuli under unequal noise, its covariance being that of the part."""
        assert self._noise is not None
        here = np.flatnonzero(counts)
        inside = (counts[self._x] > 0) & (counts[self._y] > 0)
        vectors = self._stack[:, inside]
        floor = 1e-24 * np.einsum("tp,tp->t", vectors, vectors)
        if self._comparator.centred:
            vectors = vectors - vectors.mean(axis=1, keepdims=True)
        spread = np.einsum("tp,tp->t", vectors, vectors) > floor
        white = whiten_with(vectors, whitener_of(self._noise[np.ix_(here, here)]))
        products = white @ white.T
        return LinearSums(products, np.where(spread, np.diag(products), 0.0), self._k)

    def _ranked(self, counts: NDArray[np.integer]) -> RankSums:
        ww = counts[self._x] * counts[self._y] * self._keep
        inside = np.flatnonzero(ww)
        return RankSums(
            self._comparator, self._stack[:, inside], ww[inside].astype(np.float64), self._k,
            _WrittenOut(self._comparator, self._stack, self._brain, self._keep, counts),
        )  # fmt: skip


class LinearSums:
    """Everything that fits, scores and ceilings need, for comparators linear in the prediction.

    Parameters
    ----------
    products : (K + N, K + N) of components, then brain RDMs.
    squares : (K + N,) its diagonal, exactly 0 where an RDM has no spread.
    """

    def __init__(self, products: FloatArray, squares: FloatArray, k: int) -> None:
        spread = squares > 0
        products = np.where(np.outer(spread, spread), products, 0.0)
        products[np.diag_indices_from(products)] = squares
        length = np.where(spread, np.sqrt(squares), np.nan)
        self.gram = products[:k, :k]
        self.targets = products[:k, k:] / length[k:]
        self.singles = self.targets / length[:k, None]
        self._cosines = products[k:, k:] / np.outer(length[k:], length[k:])

    def score(self, thetas: FloatArray) -> FloatArray:
        """Similarity (Q, N) of the predictions of weights (Q, K) with every brain RDM."""
        return _cosine(thetas, self.gram, self.targets)

    def pooled(self, pools: FloatArray) -> FloatArray:
        """Similarity (P, N) of pooled brain RDMs, weights (P, N), with every brain RDM."""
        return _cosine(pools, np.nan_to_num(self._cosines), self._cosines)


class RankSums:
    """The same for rank methods: fitted to ranks by Pearson, scored by rank.

    Parameters
    ----------
    stack : (K + N, pairs) components and brain RDMs, on the pairs that are there.
    ww : (pairs,) how often each pair is there.
    written_out : the slow way, for Kendall's tau.
    """

    def __init__(
        self, comparator: Comparator, stack: FloatArray, ww: FloatArray, k: int,
        written_out: _WrittenOut,
    ) -> None:  # fmt: skip
        self._comparator, self._ww, self._written_out = comparator, ww, written_out
        self._components = stack[:k]
        self._ranks = weighted_ranks(stack[k:], ww)
        raw, squares = self._centred(self._components)
        ranks, ranked = self._centred(self._ranks)
        self._brain = ranks / np.where(ranked > 0, np.sqrt(ranked), np.nan)[:, None]
        self.gram = raw @ raw.T
        self.gram[np.diag_indices_from(self.gram)] = squares
        self.targets = raw @ self._brain.T
        self._scale = np.sqrt(ranked)

    @cached_property
    def singles(self) -> FloatArray:
        """Similarity (K, N) of every component alone with every brain RDM."""
        return self.score(np.eye(len(self._components)))

    def score(self, thetas: FloatArray) -> FloatArray:
        """Similarity (Q, N) of the predictions of weights (Q, K) with every brain RDM."""
        known = np.isfinite(thetas).all(axis=1)
        out = np.full((len(thetas), len(self._brain)), np.nan)
        if not known.any():
            return out
        if self._comparator.concordance:
            out[known] = self._written_out.of_components(thetas[known])
        else:
            out[known] = self._ranked(_sums(thetas[known], self._components))
        return out

    def pooled(self, pools: FloatArray) -> FloatArray:
        """Similarity (P, N) of mean ranks, weights (P, N), with every brain RDM."""
        if self._comparator.concordance:
            return self._written_out.of_pools(pools)
        return self._ranked(_sums(pools, self._ranks))

    def _ranked(self, vectors: FloatArray) -> FloatArray:
        ranks, squares = self._centred(weighted_ranks(vectors, self._ww))
        if self._comparator.normalised:
            return ranks @ self._brain.T / np.where(squares > 0, np.sqrt(squares), np.nan)[:, None]
        pairs = self._ww.sum()
        spread = np.where(squares > 0, 1.0, np.nan)[:, None]
        return ranks @ self._brain.T * self._scale * spread * 12.0 / (pairs**3 - pairs)

    def _centred(self, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Vectors whose plain products are weighted and centred, and their squares."""
        mean = vectors @ self._ww / self._ww.sum()
        floor = 1e-24 * ((vectors * vectors) @ self._ww)
        centred = (vectors - mean[:, None]) * np.sqrt(self._ww)
        squares = np.einsum("kp,kp->k", centred, centred)
        flat = squares <= floor
        centred[flat] = 0.0
        return centred, np.where(flat, 0.0, squares)


@dataclass(frozen=True, slots=True)
class _WrittenOut:
    """Similarities by counting pairs of pairs on one resample."""

    comparator: Comparator
    stack: FloatArray
    brain: RDMs
    keep: NDArray[np.bool_]
    counts: NDArray[np.integer]

    def of_components(self, thetas: FloatArray) -> FloatArray:
        return self._of(_sums(thetas, self.stack[: thetas.shape[1]]))

    def of_pools(self, pools: FloatArray) -> FloatArray:
        x, y = np.triu_indices(len(self.counts), 1)
        ww = (self.counts[x] * self.counts[y] * self.keep).astype(np.float64)
        return self._of(_sums(pools, weighted_ranks(self.stack[-self.brain.n_rdms :], ww)))

    def _of(self, vectors: FloatArray) -> FloatArray:
        rows = [
            ResampledComparison(
                self.comparator, RDMs.from_vectors(row[None]), self.brain, self.keep
            ).scores(self.counts[None])[0, 0]
            for row in vectors
        ]
        return np.stack(rows)


def _within_range(vectors: FloatArray) -> FloatArray:
    """Vectors over one power of two, so that squares of any float64 have a float64.

    A power of two leaves every ratio and every tie as it is, and a factor leaves every fit.
    """
    return np.ldexp(vectors, -int(np.frexp(np.abs(vectors).max())[1]))


def _sums(weights: FloatArray, vectors: FloatArray) -> FloatArray:
    """Weighted sums of vectors, those of several to 13 digits, so that equal sums are ties."""
    sums = weights @ vectors
    several = (weights != 0).sum(axis=1) > 1
    sums[several] = _rounded(sums[several])
    return sums


def _rounded(vectors: FloatArray) -> FloatArray:
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    largest[largest == 0] = 1.0
    return np.round(vectors / largest, 13) * largest


def _cosine(weights: FloatArray, gram: FloatArray, products: FloatArray) -> FloatArray:
    squares = np.einsum("qk,kl,ql->q", weights, gram, weights)
    parts = (np.abs(weights) @ np.sqrt(np.diag(gram))) ** 2
    length = np.where(squares > _CANCELLED * parts, np.sqrt(np.maximum(squares, 0.0)), np.nan)
    return weights @ products / length[:, None]
