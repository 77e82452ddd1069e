"""What a permutation test returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsafast.io.results import load_result, save_result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

KIND: Literal["permutation_result"] = "permutation_result"
TAIL_NAMES = {"gpd": "generalised-Pareto tail fit", "pearson3": "Pearson-III moment fit"}

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationResult:
    """Result of :func:`rsafast.permutation_test`; every array is (n_models, n_brain).

    Attributes
    ----------
    statistic : observed value of the comparator.
    exceedances : relabellings at least as extreme as the observed labelling, itself counted.
    p_value : ``exceedances / n_permutations``; exact, never 0.
    p_value_fwer : family-wise p over all pairs, single-step max-T (equals p_value for one pair).
    p_value_stepdown : family-wise p over all pairs, step-down max-T; never above p_value_fwer.
    q_value : Benjamini-Hochberg adjusted p_value over all pairs.
    p_standard_error : Monte Carlo standard error of p_value; 0 for the exact engine.
    null_mean, null_std : moments of the statistic over relabellings; exact where `moments` says so.
    null_skewness : third standardised moment, NaN where it is not known.
    tail, p_tail : the approximation asked for ("gpd", "pearson3" or None) and its p.
    histogram : (n_models, n_brain, n_bins) counts of the null.
    histogram_range : (n_models, n_brain, 2) its outer edges; the bins are of equal width.
    null : (n_models, n_brain, n_permutations) with keep_null, else None.
    n_permutations : relabellings evaluated, the identity among them.
    moments : "exact" or "sampled".
    parameters : arguments of the call that shape the result.
    provenance : versions, input hashes, engine details, seconds, machine.
    """

    statistic: FloatArray
    exceedances: NDArray[np.int64]
    p_value: FloatArray
    p_value_fwer: FloatArray
    p_value_stepdown: FloatArray
    q_value: FloatArray
    p_standard_error: FloatArray
    null_mean: FloatArray
    null_std: FloatArray
    null_skewness: FloatArray
    histogram: NDArray[np.int64]
    histogram_range: FloatArray
    n_permutations: int
    n_stimuli: int
    method: str
    alternative: str
    engine: str
    device: str
    seed: int
    moments: str
    model_names: tuple[str, ...]
    brain_names: tuple[str, ...]
    tail: str | None = None
    p_tail: FloatArray | None = None
    null: FloatArray | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def n_pairs(self) -> int:
        """Number of (model, brain) pairs, the family that the corrected p-values cover."""
        return self.statistic.size

    @property
    def smallest_p(self) -> float:
        """Smallest p-value that this run could have given: 1 / n_permutations."""
        return 1.0 / self.n_permutations

    @property
    def z(self) -> FloatArray:
        """Observed value in null standard deviations from the null mean, (n_models, n_brain).

        NaN where the null has no spread. A description, not a test: the null need not be normal.
        """
        spread = np.where(self.null_std > 0, self.null_std, np.nan)
        return (self.statistic - self.null_mean) / spread

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a pair, models varying slowest.

        Returns
        -------
        pandas.DataFrame
            Columns model, brain, statistic, p_value, p_standard_error, p_value_fwer,
            p_value_stepdown, q_value, null_mean, null_std, z, p_tail (only with a tail
            approximation) and n_permutations.
        """
        import pandas as pd

        columns: dict[str, Any] = {
            "model": np.repeat(np.array(self.model_names, dtype=object), len(self.brain_names)),
            "brain": np.tile(np.array(self.brain_names, dtype=object), len(self.model_names)),
        }
        for name in (
            "statistic",
            "p_value",
            "p_standard_error",
            "p_value_fwer",
            "p_value_stepdown",
            "q_value",
            "null_mean",
            "null_std",
            "z",
        ):
            columns[name] = getattr(self, name).ravel()
        if self.p_tail is not None:
            columns["p_tail"] = self.p_tail.ravel()
        columns["n_permutations"] = np.full(self.n_pairs, self.n_permutations, dtype=np.int64)
        return pd.DataFrame(columns)

    def save(self, path: str | Path) -> None:
        """Write the result: everything to .h5 or .hdf5, the table of pairs to .csv.

        The file appears under its name only once it is complete.

        Raises
        ------
        InvalidInputError
            The ending of `path` is none of these, or the folder cannot be written.
        """
        save_result(self, path, KIND)

    @classmethod
    def load(cls, path: str | Path) -> PermutationResult:
        """Read a result that :meth:`save` wrote to .h5; every array comes back bit for bit.

        Raises
        ------
        InvalidInputError
            The file is missing, no HDF5 file, or holds something else than a permutation result.
        """
        return load_result(cls, path, KIND)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the result.

        One pair: its null distribution (log-scaled counts) with the observed value marked.
        Several: a matrix of −log10 of the family-wise p-values.

        Parameters
        ----------
        ax : where to draw; by default a new pyplot figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from rsafast.plotting import draw_null, draw_p_matrix, given_or_new

        ax = given_or_new(ax)
        if self.n_pairs == 1:
            draw_null(ax, self, 0, 0)
            ax.set_title(f"{self.model_names[0]} × {self.brain_names[0]}", fontsize=9)
        else:
            draw_p_matrix(ax, self, "p_value_stepdown")
            ax.set_title("family-wise p (step-down max-T)", fontsize=9)
        return ax

    def summary(self) -> str:
        """Say in plain text what was tested, what came out and to whom it generalises."""
        best = int(np.argmin(self.p_value))
        i, j = np.unravel_index(best, self.statistic.shape)
        error = self.p_standard_error[i, j]
        lines = [
            f"{self.n_pairs} pair{'s' if self.n_pairs > 1 else ''} "
            f"({len(self.model_names)} model × {len(self.brain_names)} brain RDMs), "
            f"{self.n_stimuli} stimuli, comparator {self.method}, "
            f"alternative {self.alternative!r}.",
            "Null hypothesis: this model RDM and this brain RDM are unrelated, so that the stimuli "
            "are exchangeable.",
            "It speaks for these stimuli, subjects and seeds only, "
            "and never says whether two models are equal.",
            f"{self._sampling()} Smallest attainable p: {self.smallest_p:.3g}.",
            f"Smallest p: {self.p_value[i, j]:.3g} (Monte Carlo standard error {error:.1g}), "
            f"{self.model_names[i]} × {self.brain_names[j]}, "
            f"statistic {self.statistic[i, j]:.4g}.",
        ]
        if self.n_pairs > 1:
            significant = int((self.p_value_stepdown <= 0.05).sum())
            lines.append(
                "Family-wise p (step-down max-T) and Benjamini-Hochberg q run over all "
                f"{self.n_pairs} pairs; {significant} of them have a family-wise p of at most 0.05."
            )
        if self.tail is not None:
            lines.append(
                f"p_tail is an approximation ({TAIL_NAMES.get(self.tail, self.tail)}), "
                "not an exact p-value."
            )
        return "\n".join(lines)

    def _sampling(self) -> str:
        """Say which labelings the engine went through."""
        if self.engine == "exact":
            return f"Engine exact: all {self.n_permutations:,} relabellings, no sampling error."
        return (
            f"Engine {self.engine} on {self.device}: {self.n_permutations:,} relabellings, the "
            f"observed labelling among them, seed {self.seed}."
        )
