"""Statistics of the permutation test: lists of bilinear forms and a `combine`.

A statistic is written as products ⟨A_π, B⟩ of a permuted and a fixed matrix (`groups`), which any
engine evaluates for many π at once, and `combine`, which turns those products into the statistic.
Adding one is a small class with `groups` and `combine`. What is no function of such products
(Kendall's tau, ranks taken anew inside a mask) only has `evaluate`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.gather import gather_products
from rsafast_kernels.kendall import concordance
from rsafast_kernels.rank import average_ranks

from rsafast._condensed import expand
from rsafast.comparators import (
    Comparator,
    FloatArray,
    get_comparator,
    prepare,
    require_plain,
)
from rsafast.comparison import tau_scale
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.mask import check_complete
from rsafast.projection import orthonormal, residuals
from rsafast.rdms import RDMs

Index = NDArray[np.int32]
Group = tuple[FloatArray, FloatArray]  # (M, n, n) permuted, (N, n, n) fixed
CovariateScheme = Literal["freedman-lane", "raw"]


class Statistic(Protocol):
    """A statistic of every model and brain RDM under a relabelling of the models' stimuli."""

    bilinear: ClassVar[bool]

    def evaluate(self, permutations: Index) -> FloatArray:
        """Value under each of (P, n) permutations: (M, N, P) float64."""
        ...

    @property
    def conditioning(self) -> FloatArray:
        """How many times rounding grows between products and statistic, (M, 1); 1 is none."""
        ...


class BilinearStatistic(Statistic, Protocol):
    """A statistic that is a function of products ⟨A_π, B⟩."""

    @property
    def groups(self) -> list[Group]:
        """Stacks whose products are all needed: every permuted with every fixed matrix."""
        ...

    def combine(self, forms: list[FloatArray]) -> FloatArray:
        """Statistic (I, M, J, N, S) from the products of each group, (I, M_g, J, N_g, S)."""
        ...


def evaluate_forms(statistic: BilinearStatistic, permutations: Index) -> FloatArray:
    """Evaluate a bilinear statistic by the direct kernel: (M, N, P)."""
    forms = [gather_products(a, b, permutations) for a, b in statistic.groups]
    return statistic.combine([f[None, :, None, :, :] for f in forms])[0, :, 0, :, :]


@dataclass(frozen=True, slots=True)
class Product:
    """⟨A_π, B⟩ of prepared RDMs: pearson, spearman, rho-a, cosine and the whitened comparators."""

    models: FloatArray
    brain: FloatArray
    bilinear: ClassVar[bool] = True

    @property
    def groups(self) -> list[Group]:
        """One group, and its products are the statistic."""
        return [(self.models, self.brain)]

    def combine(self, forms: list[FloatArray]) -> FloatArray:
        """Return the products."""
        return forms[0]

    def evaluate(self, permutations: Index) -> FloatArray:
        """See `Statistic`."""
        return evaluate_forms(self, permutations)

    @property
    def conditioning(self) -> FloatArray:
        """See `Statistic`."""
        return np.ones((len(self.models), 1))


@dataclass(frozen=True, slots=True)
class Projected:
    """Correlation of A_π and B given covariates, over the pairs of a mask.

    With Q an orthonormal basis of the covariates (and the constant) on the pairs that count, and
    B' the unit residual of B given Q::

        T(π) = ⟨A_π, B'⟩ / sqrt(⟨A_π², W⟩ - Σ_q ⟨A_π, Q_q⟩²)

    which is the partial correlation of A_π with B. Without a mask, ⟨A_π², W⟩ is constant.
    """

    models: FloatArray
    brain: FloatArray
    basis: FloatArray
    weights: FloatArray | None  # (1, n, n) 0/1, None where every pair counts
    bilinear: ClassVar[bool] = True

    @property
    def groups(self) -> list[Group]:
        """Products with brain and basis; with a mask also those of squares and weights."""
        groups = [(self.models, np.concatenate([self.brain, self.basis]))]
        if self.weights is not None:
            groups.append((self.models**2, self.weights))
        return groups

    def combine(self, forms: list[FloatArray]) -> FloatArray:
        """Divide by the length of A_π's residual; 0 where A_π has none on the pairs that count."""
        left = self._left(forms)
        defined = left > 1e-12
        scale = np.where(defined, 1.0 / np.sqrt(np.where(defined, left, 1.0)), 0.0)
        return forms[0][..., : len(self.brain), :] * scale

    def _left(self, forms: list[FloatArray]) -> FloatArray:
        """Squared length of A_π's residual on the pairs that count, (I, M, J, 1, S)."""
        on_basis = forms[0][..., len(self.brain) :, :]
        explained = np.einsum("imjqs,imjqs->imjs", on_basis, on_basis)[:, :, :, None, :]
        return (1.0 if self.weights is None else forms[1]) - explained

    def evaluate(self, permutations: Index) -> FloatArray:
        """See `Statistic`."""
        return evaluate_forms(self, permutations)

    @property
    def conditioning(self) -> FloatArray:
        """See `Statistic`: one over what is left of the model as it stands."""
        identity = np.arange(self.models.shape[1], dtype=np.int32)[None]
        forms = [gather_products(a, b, identity)[None, :, None] for a, b in self.groups]
        return 1.0 / np.maximum(self._left(forms)[0, :, 0, :, 0], 1e-300)


@dataclass(frozen=True, slots=True)
class Reranked:
    """Spearman inside a mask as rank correlation is usually meant: A_π is ranked anew each time."""

    models: FloatArray  # (M, n, n) dissimilarities
    brain: FloatArray  # (N, pairs that count), centred ranks of unit norm
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
    bilinear: ClassVar[bool] = False

    def evaluate(self, permutations: Index) -> FloatArray:
        """See `Statistic`."""
        x, y = self.pairs
        out = np.empty((len(self.models), len(self.brain), len(permutations)))
        for p, pi in enumerate(permutations):
            ranks = average_ranks(self.models[:, pi[x], pi[y]])
            ranks -= ranks.mean(axis=1, keepdims=True)
            norms = np.linalg.norm(ranks, axis=1, keepdims=True)
            out[:, :, p] = np.divide(ranks, norms, out=ranks, where=norms > 0) @ self.brain.T
        return out

    @property
    def conditioning(self) -> FloatArray:
        """See `Statistic`."""
        return np.ones((len(self.models), 1))


@dataclass(frozen=True, slots=True)
class Concordance:
    """Kendall's tau: the counts change with π, what they are divided by does not."""

    models: FloatArray
    brain: FloatArray
    scale: FloatArray
    bilinear: ClassVar[bool] = False

    def evaluate(self, permutations: Index) -> FloatArray:
        """See `Statistic`."""
        return concordance(self.models, self.brain, permutations) / self.scale[:, :, None]

    @property
    def conditioning(self) -> FloatArray:
        """See `Statistic`."""
        return np.ones((len(self.models), 1))


def build_statistic(
    comparator: Comparator,
    models: RDMs,
    brain: RDMs,
    *,
    covariates: RDMs | None,
    keep: NDArray[np.bool_],
    scheme: CovariateScheme,
    rerank: bool,
) -> Statistic:
    """Statistic for aligned RDMs; `keep` is (pairs,) bool, `rerank` ranks anew inside the mask."""
    n, masked = models.n_stimuli, not keep.all()
    check_complete(models, np.ones_like(keep), "models")
    check_complete(brain, keep, "brain")
    if comparator.concordance:
        if masked or covariates is not None:
            raise UnsupportedCaseError(
                f"method {comparator.name!r} takes neither mask nor covariates; use spearman"
            )
        scale = tau_scale(comparator, models, brain, keep)
        return Concordance(models.matrices(), brain.matrices(), scale)
    if covariates is None and not masked:
        return Product(
            *(expand(prepare(comparator, r.vectors, n, r.names), n) for r in (models, brain))
        )
    require_plain(comparator, "a mask" if masked else "covariates")
    fixed = prepare(comparator, brain.vectors[:, keep], n, brain.names)
    if rerank and comparator.ranks and masked and covariates is None:
        x, y = np.triu_indices(n, 1)
        return Reranked(models.matrices(), fixed, (x[keep], y[keep]))
    return _projected(comparator, models, brain.names, fixed, covariates, keep, scheme)


def _projected(
    comparator: Comparator,
    models: RDMs,
    brain_names: tuple[str, ...],
    fixed: FloatArray,
    covariates: RDMs | None,
    keep: NDArray[np.bool_],
    scheme: CovariateScheme,
) -> Projected:
    n, masked = models.n_stimuli, not keep.all()
    moved = prepare(comparator, models.vectors, n, models.names)
    basis = np.ones((1, int(keep.sum()))) if comparator.centred else np.empty((0, int(keep.sum())))
    if covariates is not None:
        check_complete(covariates, np.ones_like(keep), "covariates")
        if not comparator.centred:
            raise UnsupportedCaseError("covariates need method pearson or spearman, got cosine")
        inside = prepare(comparator, covariates.vectors[:, keep], n, covariates.names)
        basis = np.concatenate([basis, inside])
        if scheme == "freedman-lane":
            everywhere = _extended(comparator, covariates.vectors, keep)
            everywhere = prepare(_LINEAR, everywhere, n, covariates.names)
            moved = residuals(moved, orthonormal(everywhere, covariates.names), models.names)
    basis = orthonormal(basis, covariates.names if covariates is not None else ())
    fixed = residuals(fixed, basis, brain_names)
    if not masked and comparator.centred:
        basis = basis[1:]  # the permuted side sums to zero whatever π is
    statistic = Projected(
        models=expand(moved, n),
        brain=expand(_spread(fixed, keep), n),
        basis=expand(_spread(basis, keep), n),
        weights=expand(keep[None].astype(np.float64), n) if masked else None,
    )
    lost = np.flatnonzero(statistic.conditioning > _WORST)
    if lost.size:
        raise InvalidInputError(
            f"nothing is left to test of RDM {models.names[int(lost[0])]!r}: on the pairs that"
            " count it is constant or a linear function of the covariates (or a value outside the"
            " mask is so large that it drowns them: set it to one like the others)"
        )
    return statistic


_LINEAR = get_comparator("pearson")
_WORST = 1e9  # beyond this conditioning the statistic is rounding


def _extended(comparator: Comparator, vectors: FloatArray, keep: NDArray[np.bool_]) -> FloatArray:
    """Covariates over all pairs, equal on the pairs that count to what they are there.

    Ranks are those among the pairs that count, for the other pairs too: so the residuals of the
    model differ from the model, on the pairs that count, by a function of the covariates only.
    """
    if not comparator.ranks:
        return vectors
    out = np.empty_like(vectors)
    for row, values in zip(out, vectors, strict=True):
        inside = np.sort(values[keep])
        below = np.searchsorted(inside, values, "left")
        row[:] = (below + np.searchsorted(inside, values, "right") + 1) / 2
    return out


def _spread(vectors: FloatArray, keep: NDArray[np.bool_]) -> FloatArray:
    """Vectors over the pairs that count, as vectors over all pairs with zeros elsewhere."""
    full = np.zeros((len(vectors), len(keep)))
    full[:, keep] = vectors
    return full
