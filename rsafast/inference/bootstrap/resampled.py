"""Similarities on resamples of the stimuli: what every bootstrap is made of."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.device import fall_back, resolve, room_for, to_gpu
from rsafast_kernels.resample import Products, Resampler
from rsafast_kernels.resample.gpu import ValueProducts
from rsafast_kernels.resample.streaming import MAX_COUNT, ValueSums

from rsafast.comparators import Comparator, FloatArray
from rsafast.comparison import compare
from rsafast.errors import InvalidInputError
from rsafast.inference.bootstrap.draws import blocks
from rsafast.mask import check_complete
from rsafast.rdms import RDMs

MIN_DISTINCT = 3  # stimuli a resample must hold to have any spread of dissimilarities
# Products of two RDMs an RDM, up to which those of all pairs of stimuli cost less; on a GPU by the
# bounds in rsafast_kernels.resample.gpu, not measured.
_FEW, _FEW_ON_GPU = 10, 50
_TOGETHER = 256  # resamples whose sums stay in a cache
_SHARE = 1e-4  # of the squares that must be left by centring: errors of 1e-11 at most


def where_to_run(device: str, what: str, *, has_kernel: bool) -> Literal["cpu", "cuda"]:
    """Where `device` has `what` computed, which has a GPU kernel or not.

    Said once where it has none and "auto" would take the GPU; raised for "cuda".
    """
    place = resolve(device, "cupy")
    if place == "cuda" and not has_kernel:
        fall_back(device, what)
        return "cpu"
    return place


def has_gpu_kernel(comparator: Comparator) -> bool:
    """Whether similarities on resamples can be computed on a GPU."""
    return not (comparator.whitened or comparator.concordance)


def resampler_on(
    place: Literal["cpu", "cuda"], a: FloatArray, b: FloatArray, **options: Any
) -> Resampler:
    """A Resampler of RDMs in host memory, which for "cuda" are taken to the GPU."""
    if place == "cpu":
        return Resampler(a, b, **options)
    with room_for("the RDMs"):
        return Resampler(to_gpu(a), to_gpu(b), **options)


class ResampledComparison:
    """The comparison of two stacks of aligned RDMs, prepared once for any number of resamples.

    Parameters
    ----------
    comparator : see `rsafast.comparators`.
    a, b : aligned RDMs, M and N of them.
    keep : (pairs,) bool, pairs that count.
    groups : (N,) group of every RDM of `b`, counted from 0 and in this order; for the mean
        similarity to each group, which is cheaper than the similarities that it is the mean of.
    device : where similarities are computed; "cuda" for comparators that have a GPU kernel.
    gpu_budget : bytes of GPU memory for working arrays, by default most of what is free.
    """

    def __init__(
        self,
        comparator: Comparator,
        a: RDMs,
        b: RDMs,
        keep: NDArray[np.bool_] | None = None,
        groups: NDArray[np.int64] | None = None,
        *,
        device: Literal["cpu", "cuda"] = "cpu",
        gpu_budget: int | None = None,
    ) -> None:
        self._comparator, self._a, self._b = comparator, a, b
        keep = np.ones(a.vectors.shape[1], bool) if keep is None else keep
        check_complete(a, keep, "models")
        check_complete(b, keep, "brain")
        if comparator.whitened and not keep.all():
            raise InvalidInputError(f"{comparator.name} takes no mask; use pearson or spearman")
        self._keep, self._groups = keep, groups
        self.device, self._gpu_budget = device, gpu_budget
        # Only of vectors of one length is the product with their sum that with their mean.
        self._summed = groups is not None and comparator.normalised and not comparator.concordance
        plain = comparator.normalised and not (
            comparator.ranks or comparator.whitened or comparator.concordance
        )
        most = _FEW_ON_GPU if device == "cuda" else _FEW
        few = a.n_rdms * b.n_rdms <= most * (a.n_rdms + b.n_rdms)
        sums = plain and few and groups is None and bool(keep.all())
        self._pairs = list(product(range(a.n_rdms), range(a.n_rdms, a.n_rdms + b.n_rdms)))
        self._values = self._scaled() if sums else None
        self._products = None
        if self._values is not None and device == "cuda":
            with room_for("the RDMs"):
                self._products = ValueProducts(
                    to_gpu(self._values), a.n_stimuli, self._pairs, gpu_budget
                )
        self._resampler = None if sums or comparator.concordance else self._prepared()

    def _prepared(self) -> Resampler:
        comparator = self._comparator
        return resampler_on(
            self.device, self._a.vectors, self._b.vectors, n=self._a.n_stimuli,
            ranks=comparator.ranks, centred=comparator.centred, whitened=comparator.whitened,
            keep=self._keep, groups=self._groups if self._summed else None,
            budget=self._gpu_budget,
        )  # fmt: skip

    def _scaled(self) -> FloatArray:
        """All values, models first, of length 1 about 0: what little is lost by one pass then."""
        values = np.concatenate([self._a.vectors, self._b.vectors])
        if self._comparator.centred:
            values -= values.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(values, axis=1, keepdims=True)
        return np.divide(values, norm, out=values, where=norm > 0)

    def scores(self, weights: NDArray[np.integer]) -> FloatArray:
        """Similarity (R, M, N), or (R, M, groups), on the resamples `weights` (R, n).

        NaN where the resample leaves an RDM without spread, and in all of a resample of fewer
        than 3 distinct stimuli: the caller counts and reports them.
        """
        if self._comparator.concordance:
            scores = np.stack([self._written_out(row) for row in weights])
        elif self._values is not None and weights.max(initial=0) <= MAX_COUNT:
            scores = self._of_few(self._values, weights)
        else:
            scores = self._exactly(weights)
        if self._groups is not None and not self._summed:
            member = self._groups[:, None] == np.arange(self._groups[-1] + 1)
            scores = scores @ (member / member.sum(axis=0))
        scores[(weights > 0).sum(axis=1) < MIN_DISTINCT] = np.nan
        return scores

    def _of_few(self, values: FloatArray, weights: NDArray[np.integer]) -> FloatArray:
        """Similarity from sums over all pairs of stimuli, and what these do not tell from more."""
        models, brains = self._a.n_rdms, self._b.n_rdms
        scores = np.empty((len(weights), models, brains))
        for first, last in blocks(len(weights), _TOGETHER):
            some = weights[first:last]
            sums = ValueSums(some, len(values), self._pairs, centred=self._comparator.centred)
            if self._products is None:
                sums.multiply(values, 0, weights.shape[1])
            else:
                sums.add(self._products(some))
            found = sums.correlations().reshape(-1, models, brains)
            cancelled = sums.smallest_share() < _SHARE
            if cancelled.any():
                found[cancelled] = self._exactly(some[cancelled])
            scores[first:last] = found
        return scores

    def _exactly(self, weights: NDArray[np.integer]) -> FloatArray:
        """Similarity from the pairs that each resample holds, written side by side."""
        if self._resampler is None:
            self._resampler = self._prepared()
        return self._scored(self._resampler(weights))

    def _scored(self, got: Products) -> FloatArray:
        if not self._comparator.normalised:
            pairs = got.pairs[:, None, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray(got.products * 12.0 / (pairs**3 - pairs))
        squares_b = got.squares_b
        if self._groups is not None:
            sizes = np.bincount(self._groups)
            starts = np.cumsum(sizes) - sizes
            squares_b = np.where(np.minimum.reduceat(squares_b, starts, axis=1) > 0, sizes**2, 0)
        scale = np.sqrt(got.squares_a[:, :, None] * squares_b[:, None, :])
        scores = np.full(scale.shape, np.nan)
        np.divide(got.products, scale, out=scores, where=scale > 0)
        return scores

    def _written_out(self, weights: NDArray[np.integer]) -> FloatArray:
        """One resample with its copies as stimuli of their own: for Kendall's tau."""
        drawn = np.repeat(np.arange(len(weights)), weights)
        x, y = np.triu_indices(len(drawn), 1)
        n = len(weights)
        square = np.zeros((n, n), bool)
        rows, columns = np.triu_indices(n, 1)
        square[rows, columns] = square[columns, rows] = self._keep
        keep = square[drawn[x], drawn[y]]
        low, high = np.minimum(drawn[x], drawn[y]), np.maximum(drawn[x], drawn[y])
        place = np.where(low < high, low * n - low * (low + 1) // 2 + high - low - 1, 0)
        a, b = (
            RDMs.from_vectors(r.vectors[:, place], missing="allow") for r in (self._a, self._b)
        )
        try:
            return compare(a, b, self._comparator.name, mask=keep)
        except InvalidInputError:  # an RDM without spread, or too few pairs
            return np.full((self._a.n_rdms, self._b.n_rdms), np.nan)
