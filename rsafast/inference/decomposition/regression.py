"""Multiple regression of brain RDMs on model RDMs, tested by relabelling stimuli.

Each predictor is tested by double semi-partialling (Dekker, Krackhardt & Snijders 2007): its
residual given the other predictors is relabelled, the regression fitted anew, and the t statistics
compared. With the other predictors in the model t is a monotone function of the partial
correlation, so that the `Projected` statistic of the permutation engine is that test.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.gather import gather_products
from rsafast_kernels.rank import average_ranks
from rsafast_kernels.tally import ALTERNATIVES, Alternative

from rsafast._condensed import expand
from rsafast.comparators import Comparator, FloatArray, get_comparator, prepare
from rsafast.comparison import require_correlation
from rsafast.errors import InvalidInputError
from rsafast.mask import as_pair_mask, check_complete
from rsafast.memory import parse_bytes
from rsafast.permutation.api import permutation_test, run_test
from rsafast.permutation.result import PermutationResult
from rsafast.permutation.setup import Engine
from rsafast.permutation.statistics import Group, Index, evaluate_forms
from rsafast.projection import orthonormal
from rsafast.rdms import RDMs, align, as_rdms

if TYPE_CHECKING:
    import pandas as pd

_PERFECT = 1e-14  # unexplained share below which a fit is exact and t has no value


@dataclass(frozen=True, slots=True, kw_only=True)
class RDMRegression:
    """Result of :func:`rsafast.rdm_regression`; arrays are (predictors, brain) or (brain,).

    Attributes
    ----------
    coefficients : dissimilarity of the brain for one unit of the predictor, the others constant; of
        ranks for spearman. Take these, or `standardised`, as one value a subject for a group test.
    standardised : the same with all RDMs z-scored.
    intercept : (brain,) of the unstandardised fit.
    t : coefficient over its standard error as if pairs were independent, which they are not: what
        the test permutes, not to be looked up in a table.
    partial_correlation : of predictor and brain given the other predictors.
    variance_inflation : (predictors,) 1 / (1 - R² of this predictor on the others).
    p_value, p_value_fwer : by relabelling; family-wise over the brain RDMs (step-down max-T), for
        each predictor on its own.
    p_standard_error : Monte Carlo standard error of p_value.
    r_squared, adjusted_r_squared : (brain,); the adjustment counts pairs as if they were
        independent, so it corrects too little.
    r_squared_p, r_squared_p_fwer : (brain,) test of all predictors together.
    predictor_tests : the permutation test of each predictor; () where none was asked for.
    model_test : that of R², or None.
    pairs, degrees_of_freedom : pairs that count, and pairs - predictors - 1.
    """

    coefficients: FloatArray
    standardised: FloatArray
    intercept: FloatArray
    t: FloatArray
    partial_correlation: FloatArray
    variance_inflation: FloatArray
    p_value: FloatArray
    p_value_fwer: FloatArray
    p_standard_error: FloatArray
    r_squared: FloatArray
    adjusted_r_squared: FloatArray
    r_squared_p: FloatArray
    r_squared_p_fwer: FloatArray
    predictor_names: tuple[str, ...]
    brain_names: tuple[str, ...]
    method: str
    alternative: str
    seed: int
    n_stimuli: int
    pairs: int
    degrees_of_freedom: int
    predictor_tests: tuple[PermutationResult, ...]
    model_test: PermutationResult | None

    def to_dataframe(self) -> pd.DataFrame:
        """One row a predictor and brain RDM, predictors varying slowest."""
        import pandas as pd

        k, n = self.coefficients.shape
        columns: dict[str, Any] = {
            "predictor": np.repeat(np.array(self.predictor_names, dtype=object), n),
            "brain": np.tile(np.array(self.brain_names, dtype=object), k),
        }
        fitted = ("coefficients", "standardised", "t", "partial_correlation")
        names = (*fitted, "p_value", "p_standard_error", "p_value_fwer")
        columns |= {name: getattr(self, name).ravel() for name in names}
        columns["variance_inflation"] = np.repeat(self.variance_inflation, n)
        return pd.DataFrame(columns)

    def fit_dataframe(self) -> pd.DataFrame:
        """One row a brain RDM: R², adjusted R² and the test of all predictors together."""
        import pandas as pd

        names = ("r_squared", "adjusted_r_squared", "r_squared_p", "r_squared_p_fwer", "intercept")
        return pd.DataFrame(
            {"brain": np.array(self.brain_names, dtype=object)}
            | {name: getattr(self, name) for name in names}
        )

    def summary(self) -> str:
        """Say in plain text what was fitted and tested, and to whom it generalises."""
        k, n = self.coefficients.shape
        what = "ranks of the RDMs" if self.method == "spearman" else "RDMs"
        lines = [
            f"Regression of {n} brain RDM{'s' * (n > 1)} on {k} predictor{'s' * (k > 1)} "
            f"({', '.join(self.predictor_names)}), {what}, {self.n_stimuli} stimuli, "
            f"{self.pairs:,} pairs.",
            f"R² from {self.r_squared.min():.4f} to {self.r_squared.max():.4f}; largest variance "
            f"inflation {self.variance_inflation.max():.3g}.",
        ]
        if self.model_test is None:
            return "\n".join([*lines, "Nothing was tested (n_permutations=0)."])
        test = self.predictor_tests[0]
        lines += [
            "Null hypothesis, predictor by predictor: given the other predictors, this one and the "
            "brain RDM are unrelated. Double semi-partialling: residuals of the predictor "
            "relabelled, t compared; exact only approximately.",
            "It speaks for these stimuli and these RDMs; whether coefficients differ from 0 in "
            "other subjects is for a test over subjects.",
            f"{test.n_permutations:,} relabellings ({test.engine}), alternative "
            f"{self.alternative!r}, seed {self.seed}. Smallest attainable p: "
            f"{test.smallest_p:.3g}; more relabellings lower it.",
        ]
        for name, p in zip(self.predictor_names, self.p_value_fwer, strict=True):
            lines.append(f"{name}: {int((p <= 0.05).sum())} of {n} brain RDMs at family-wise 0.05.")
        return "\n".join(lines)


def rdm_regression(
    predictors: Any,
    brain: Any,
    *,
    method: Literal["pearson", "spearman"] = "pearson",
    n_permutations: int = 10_000,
    alternative: Alternative = "two-sided",
    mask: ArrayLike | None = None,
    engine: Engine = "auto",
    seed: int = 0,
    memory_budget: int | str | None = None,
    progress: bool = True,
) -> RDMRegression:
    """Regress every brain RDM on all predictor RDMs at once, and test by relabelling stimuli.

    The null hypothesis of a predictor is that, given the other predictors, it and the brain RDM are
    unrelated. Its residual given the others is relabelled and t compared (double semi-partialling).
    The test of R² relabels the brain RDM; its null is that no predictor is related to it. Both
    concern these stimuli and these RDMs, not other stimuli or subjects. As in `permutation_test`
    with covariates, the test of a predictor is exact only approximately, and ranks of a sum are not
    linear in the ranks of its parts: with "spearman", what a strong predictor shares with another
    is not removed entirely. Prefer "pearson", and RDMs of squared distances, which add.

    Parameters
    ----------
    predictors, brain : RDMs, arrays or rsatoolbox RDMs
        Matched by label where both sides have labels. Predictors must be complete and linearly
        independent; brain RDMs may miss pairs that `mask` leaves out.
    method : {"pearson", "spearman"}
        Fit dissimilarities, or their average ranks among the pairs that count.
    n_permutations : int
        Relabellings of each test; 0 fits without testing (p are NaN).
    alternative : {"two-sided", "greater", "less"}
        For the coefficients; R² is always tested upwards.
    mask : (pairs,) or (n, n) bool, optional
        True where a pair of the brain side counts. The tests of "spearman" keep the ranks of all
        pairs on the predictors' side, as `permutation_test` does.
    engine, seed, memory_budget, progress : see `permutation_test`

    Returns
    -------
    RDMRegression
        `coefficients` equal mne-rsa 1.0's metric "regression" (pearson). For inference over
        subjects take them as one value a subject to a test over subjects.

    Raises
    ------
    InvalidInputError
        Collinear predictors, a constant RDM, missing pairs, fewer pairs than coefficients.
    UnsupportedCaseError
        Another method than pearson and spearman.

    References
    ----------
    Dekker, Krackhardt & Snijders (2007), Psychometrika 72:563, section 4 (double semi-partialling);
    Legendre, Lapointe & Casgrain (1994), Evolution 48:1487, for regression on distance matrices.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> x = np.random.default_rng(0).normal(size=(2, 20, 4))
    >>> predictors = rf.compute_rdms(x, "sqeuclidean")
    >>> brain = rf.RDMs([3 * predictors.vectors[0] + predictors.vectors[1] + 2])
    >>> fit = rf.rdm_regression(predictors, brain, n_permutations=999)
    >>> fit.coefficients[:, 0].round(6).tolist(), fit.intercept.round(6).tolist()
    ([3.0, 1.0], [2.0])
    """
    started = time.perf_counter()
    comparator = get_comparator(method)
    require_correlation(comparator, "regressions")
    if alternative not in ALTERNATIVES:
        raise InvalidInputError(
            f"alternative must be one of {', '.join(ALTERNATIVES)}, got {alternative!r}"
        )
    whole = not isinstance(n_permutations, bool) and int(n_permutations) == n_permutations
    if not whole or n_permutations < 0:
        raise InvalidInputError(f"n_permutations must be 0 or more, got {n_permutations!r}")
    x, y = align(as_rdms(predictors, "predictors"), as_rdms(brain, "brain"))
    keep = as_pair_mask(mask, x, y)
    check_complete(x, np.ones_like(keep), "predictors")
    check_complete(y, keep, "brain")
    fit = _fit(comparator, x, y, keep)
    tests: tuple[PermutationResult, ...] = ()
    model_test = None
    if n_permutations:
        common: dict[str, Any] = {
            "n_permutations": int(n_permutations), "engine": engine, "seed": seed,
            "progress": progress,
        }  # fmt: skip
        tests = tuple(
            permutation_test(
                x[k], y, method=comparator.name, alternative=alternative, mask=keep,
                covariates=_all_but(x, k), memory_budget=memory_budget, **common,
            )
            for k in range(x.n_rdms)
        )  # fmt: skip
        model_test = run_test(
            explained_statistic(comparator, x, y, keep), ("all predictors",), y.names, x.n_stimuli,
            method=comparator.name, alternative="greater", budget=parse_bytes(memory_budget),
            started=started, parameters={"statistic": "R²", "predictors": list(x.names)},
            inputs={"predictors": x.vectors, "brain": y.vectors, "mask": keep}, **common,
        )  # fmt: skip
    return RDMRegression(
        **fit,
        **_p_values(tests, model_test, fit["coefficients"].shape),
        predictor_names=x.names,
        brain_names=y.names,
        method=comparator.name,
        alternative=alternative,
        seed=seed,
        n_stimuli=x.n_stimuli,
        predictor_tests=tests,
        model_test=model_test,
    )


def _all_but(rdms: RDMs, k: int) -> RDMs | None:
    others = [i for i in range(rdms.n_rdms) if i != k]
    return rdms.subset(others) if others else None


def _p_values(
    tests: tuple[PermutationResult, ...], model_test: PermutationResult | None, shape: Any
) -> dict[str, Any]:
    if model_test is None:
        names = ("p_value", "p_value_fwer", "p_standard_error")
        return {name: np.full(shape, np.nan) for name in names} | {
            name: np.full(shape[1], np.nan) for name in ("r_squared_p", "r_squared_p_fwer")
        }
    return {
        "p_value": np.concatenate([test.p_value for test in tests]),
        "p_value_fwer": np.concatenate([test.p_value_stepdown for test in tests]),
        "p_standard_error": np.concatenate([test.p_standard_error for test in tests]),
        "r_squared_p": model_test.p_value[0],
        "r_squared_p_fwer": model_test.p_value_stepdown[0],
    }


def _fit(comparator: Comparator, x: RDMs, y: RDMs, keep: NDArray[np.bool_]) -> dict[str, Any]:
    """Least squares on the pairs that count."""
    pairs, k = int(keep.sum()), x.n_rdms
    freedom = pairs - k - 1
    if freedom < 1:
        raise InvalidInputError(
            f"{k} predictors and a constant are too many for {pairs} pairs of stimuli; leave some"
            " out"
        )
    unit_x, unit_y = (
        prepare(comparator, rdms.vectors[:, keep], rdms.n_stimuli, rdms.names) for rdms in (x, y)
    )
    orthonormal(unit_x, x.names, "predictor")  # raises where they are collinear
    q, r = np.linalg.qr(unit_x.T)
    scores = q.T @ unit_y.T
    standardised = np.linalg.solve(r, scores)
    inverse = np.linalg.inv(r)
    inflation = np.einsum("kj,kj->k", inverse, inverse)
    explained = np.minimum(np.einsum("kn,kn->n", scores, scores), 1.0)
    left = np.maximum(1.0 - explained, 0.0)
    with np.errstate(divide="ignore"):
        unexplained = np.where(left > _PERFECT, left, 0.0)
        t = standardised * np.sqrt(freedom / (unexplained * inflation[:, None]))
    means_x, spread_x = _moments(comparator, x.vectors[:, keep])
    means_y, spread_y = _moments(comparator, y.vectors[:, keep])
    coefficients = standardised * spread_y / spread_x[:, None]
    own = standardised**2 / inflation[:, None]  # what R² loses without this predictor
    partial = np.sqrt(np.divide(own, own + left, out=np.zeros_like(own), where=own + left > 0))
    return {
        "coefficients": coefficients,
        "standardised": standardised,
        "intercept": means_y - means_x @ coefficients,
        "t": t,
        "partial_correlation": np.sign(standardised) * partial,
        "variance_inflation": inflation,
        "r_squared": explained,
        "adjusted_r_squared": 1.0 - left * (pairs - 1) / freedom,
        "pairs": pairs,
        "degrees_of_freedom": freedom,
    }


def _moments(comparator: Comparator, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    values = average_ranks(vectors) if comparator.ranks else vectors
    return values.mean(axis=1), values.std(axis=1)


# ---------------------------------------------------------------- the test of R²


@dataclass(frozen=True, slots=True)
class Explained:
    """R² of every brain RDM on all predictors together, these relabelled jointly.

    Without a mask the predictors are an orthonormal basis of their span, which every relabelling
    keeps orthonormal: R² = Σ_k ⟨Q_k,π, B'⟩². With a mask, B' is centred and of unit length on the
    pairs that count, and the Gram matrix of the relabelled predictors there is formed anew::

        R²(π) = c' G⁻¹ c,   c_k = ⟨X_k,π, B'⟩,   G_kl = ⟨X_k,π X_l,π, W⟩ - ⟨X_k,π, W⟩⟨X_l,π, W⟩ / m
    """

    predictors: FloatArray  # (K, n, n)
    brain: FloatArray  # (N, n, n)
    weights: FloatArray | None  # (1, n, n) 0/1, None where every pair counts
    bilinear: ClassVar[bool] = True

    @property
    def groups(self) -> list[Group]:
        """Predictors with brain; with a mask also with the weights, and their products too."""
        if self.weights is None:
            return [(self.predictors, self.brain)]
        first, second = np.triu_indices(len(self.predictors))
        products = self.predictors[first] * self.predictors[second]
        return [
            (self.predictors, np.concatenate([self.brain, self.weights])),
            (products, self.weights),
        ]

    def combine(self, forms: list[FloatArray]) -> FloatArray:
        """R² (I, 1, J, N, S)."""
        if self.weights is None:
            return np.einsum("ikjns,ikjns->ijns", forms[0], forms[0])[:, None]
        n = len(self.brain)
        cross = np.moveaxis(forms[0][..., :n, :], (1, 3), (3, 4))  # (I, J, S, K, N)
        weights = np.linalg.pinv(self._gram(forms), rcond=1e-9, hermitian=True) @ cross
        explained = np.einsum("ijskn,ijskn->ijns", cross, weights)
        return explained[:, None]

    def _gram(self, forms: list[FloatArray]) -> FloatArray:
        """Gram matrix of the centred predictors on the pairs that count, (I, J, S, K, K)."""
        k, n = len(self.predictors), len(self.brain)
        assert self.weights is not None
        sums = np.moveaxis(forms[0][:, :, :, n, :], 1, -1)
        squares = np.moveaxis(forms[1][:, :, :, 0, :], 1, -1)
        gram = np.empty((*sums.shape, k))
        first, second = np.triu_indices(k)
        gram[..., first, second] = gram[..., second, first] = squares
        pairs = self.weights.sum() / 2
        return gram - sums[..., :, None] * sums[..., None, :] / pairs

    def evaluate(self, permutations: Index) -> FloatArray:
        """Value under each permutation, (1, N, P)."""
        return evaluate_forms(self, permutations)

    @property
    def conditioning(self) -> FloatArray:
        """One over the least independent part of the predictors as they stand, (1, 1)."""
        if self.weights is None:
            return np.ones((1, 1))
        identity = np.arange(self.predictors.shape[1], dtype=np.int32)[None]
        forms = [gather_products(a, b, identity)[None, :, None] for a, b in self.groups]
        least = np.linalg.eigvalsh(self._gram(forms)[0, 0, 0])[0]
        return np.full((1, 1), 1.0 / max(float(least), 1e-300))


def explained_statistic(
    comparator: Comparator, x: RDMs, y: RDMs, keep: NDArray[np.bool_]
) -> Explained:
    """R² of aligned brain RDMs on predictor RDMs, as a statistic of the permutation engine."""
    n = x.n_stimuli
    moved = prepare(comparator, x.vectors, n, x.names)
    fixed = np.zeros(y.vectors.shape)
    fixed[:, keep] = prepare(comparator, y.vectors[:, keep], n, y.names)
    masked = not keep.all()
    basis = orthonormal(moved, x.names, "predictor")
    return Explained(
        predictors=expand(moved if masked else basis, n),
        brain=expand(fixed, n),
        weights=expand(keep[None].astype(np.float64), n) if masked else None,
    )
