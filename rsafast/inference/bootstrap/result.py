"""What a bootstrap returns."""

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

KIND: Literal["bootstrap_result"] = "bootstrap_result"

FloatArray = NDArray[np.float64]

INTERVAL_NAMES = {
    "percentile": "percentile intervals at levels expanded for few items (Hesterberg 2015)",
    "basic": "basic intervals, reflected on a scale without skewness (Hall 1992), at levels"
    " expanded for few items (Hesterberg 2015)",
    "bca": "BCa intervals at levels expanded for few items (Efron 1987, Hesterberg 2015)",
    "t": "Student's t intervals of the corrected standard error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapResult:
    """Result of :func:`rsafast.bootstrap`.

    Attributes
    ----------
    estimates : (n_rules, n_regions) mean score over seeds and subjects, on the data.
    standard_error : (n_rules, n_regions) corrected for the number of items of every factor.
    ci : (n_rules, n_regions, 2) confidence interval.
    p_zero : (n_rules, n_regions) one-sided p of "the alignment is not above 0" (t-test).
    p_zero_quantile : the same from the share of replicates at or below 0; matches `ci` where
        `interval` is "percentile".
    difference : (n_regions, n_rules, n_rules) row rule minus column rule.
    difference_standard_error, p_pairwise, p_pairwise_quantile : of the same shape; two-sided.
    difference_ci : (n_regions, n_rules, n_rules, 2)
    ceiling : (n_regions, 2) lower and upper noise ceiling of the data, or None.
    ceiling_standard_error : (n_regions, 2), or None.
    p_ceiling, p_ceiling_quantile : (n_rules, n_regions) two-sided p of "the alignment equals the
        lower noise ceiling", or None.
    dof : (n_rules, n_regions) degrees of freedom of the standard errors (Satterthwaite).
    difference_dof : (n_regions, n_rules, n_rules) those of differences; NaN on the diagonal.
    replicates : (n_replicates, n_rules, n_regions) estimates on the resamples, excluded ones left
        out; as drawn, before any correction.
    ceiling_replicates : (n_replicates, n_regions, 2), or None.
    raw_variance : (n_subsets, n_rules, n_regions) variance of the replicates with the factors of
        each of `subsets` resampled ("stimuli", "subjects", "stimuli+subjects", ...).
    scores : (n_rules, n_brain) mean score over the rule's seeds with every brain RDM.
    region_of, subject_names : (n_brain,) place of its region in `regions`, and its subject.
    n_seeds, n_subjects : (n_rules,) and (n_regions,)
    n_resamples, n_excluded : resamples drawn, and those of them left out because an RDM had no
        spread in them (fewer than 3 different stimuli, say).
    notes : what a reader should know of this run.
    parameters : arguments of the call that shape the result.
    provenance : versions, input hashes, seconds, machine.
    """

    estimates: FloatArray
    standard_error: FloatArray
    ci: FloatArray
    p_zero: FloatArray
    p_zero_quantile: FloatArray
    difference: FloatArray
    difference_standard_error: FloatArray
    difference_ci: FloatArray
    p_pairwise: FloatArray
    p_pairwise_quantile: FloatArray
    dof: FloatArray
    difference_dof: FloatArray
    replicates: FloatArray
    raw_variance: FloatArray
    subsets: tuple[str, ...]
    scores: FloatArray
    region_of: NDArray[np.int64]
    subject_names: tuple[str, ...]
    rules: tuple[str, ...]
    regions: tuple[str, ...]
    n_seeds: NDArray[np.int64]
    n_subjects: NDArray[np.int64]
    n_stimuli: int
    method: str
    resample: tuple[str, ...]
    interval: str
    level: float
    n_resamples: int
    n_excluded: int
    seed: int
    ceiling: FloatArray | None = None
    ceiling_standard_error: FloatArray | None = None
    ceiling_replicates: FloatArray | None = None
    p_ceiling: FloatArray | None = None
    p_ceiling_quantile: FloatArray | None = None
    notes: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a rule and region, rules varying slowest.

        Returns
        -------
        pandas.DataFrame
            Columns rule, region, n_seeds, n_subjects, estimate, standard_error, ci_low, ci_high,
            p_zero, p_zero_quantile and dof; with a ceiling also ceiling_lower, ceiling_upper,
            p_ceiling and p_ceiling_quantile.
        """
        import pandas as pd

        n_rules, n_regions = self.estimates.shape
        columns: dict[str, Any] = {
            "rule": np.repeat(np.array(self.rules, dtype=object), n_regions),
            "region": np.tile(np.array(self.regions, dtype=object), n_rules),
            "n_seeds": np.repeat(self.n_seeds, n_regions),
            "n_subjects": np.tile(self.n_subjects, n_rules),
            "estimate": self.estimates.ravel(),
            "standard_error": self.standard_error.ravel(),
            "ci_low": self.ci[..., 0].ravel(),
            "ci_high": self.ci[..., 1].ravel(),
            "p_zero": self.p_zero.ravel(),
            "p_zero_quantile": self.p_zero_quantile.ravel(),
            "dof": self.dof.ravel(),
        }
        if self.ceiling is not None:
            columns["ceiling_lower"] = np.tile(self.ceiling[:, 0], n_rules)
            columns["ceiling_upper"] = np.tile(self.ceiling[:, 1], n_rules)
        for name in ("p_ceiling", "p_ceiling_quantile"):
            if (values := getattr(self, name)) is not None:
                columns[name] = values.ravel()
        return pd.DataFrame(columns)

    def differences(self) -> pd.DataFrame:
        """Return one row a region and pair of rules: the first minus the second.

        Returns
        -------
        pandas.DataFrame
            Columns region, rule_a, rule_b, difference, standard_error, ci_low, ci_high, p_value
            and p_quantile (two-sided, not corrected for the number of pairs) and dof.
        """
        import pandas as pd

        a, b = np.triu_indices(len(self.rules), 1)
        names = np.array(self.rules, dtype=object)
        regions = len(self.regions)
        columns: dict[str, Any] = {
            "region": np.repeat(np.array(self.regions, dtype=object), len(a)),
            "rule_a": np.tile(names[a], regions),
            "rule_b": np.tile(names[b], regions),
            "difference": self.difference[:, a, b].ravel(),
            "standard_error": self.difference_standard_error[:, a, b].ravel(),
            "ci_low": self.difference_ci[:, a, b, 0].ravel(),
            "ci_high": self.difference_ci[:, a, b, 1].ravel(),
            "p_value": self.p_pairwise[:, a, b].ravel(),
            "p_quantile": self.p_pairwise_quantile[:, a, b].ravel(),
            "dof": self.difference_dof[:, a, b].ravel(),
        }
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Say in plain text what was estimated, to whom it generalises and what was left out."""
        best = np.unravel_index(int(np.argmax(self.estimates)), self.estimates.shape)
        low, high = self.ci[best]
        lines = [
            f"Alignment of {_count(len(self.rules), 'rule')} with "
            f"{_count(len(self.regions), 'region')}: mean {self.method} over the rule's seeds and "
            f"the region's subjects, {self.n_stimuli} stimuli.",
            f"{self.n_resamples:,} resamples of {' × '.join(self.resample)}, seed {self.seed}; "
            f"{INTERVAL_NAMES[self.interval]}.",
            self._generalises(),
            f"Largest estimate: {self.rules[best[0]]} in {self.regions[best[1]]}, "
            f"{self.estimates[best]:.4g}, {100 * self.level:g} % interval {low:.4g} to {high:.4g}.",
            "p-values: t-tests with the corrected standard error and "
            f"{_range(self.dof)} degrees of freedom, not corrected for the number of tests "
            "(rsafast.adjust_p does that), nor for having picked the largest estimate.",
        ]
        if self.n_excluded:
            lines.append(
                f"{self.n_excluded:,} of {self.n_resamples:,} resamples were left out, because "
                "they held fewer than 3 different stimuli or left an RDM without spread."
            )
        return "\n".join([*lines, *self.notes])

    def _generalises(self) -> str:
        held = [f for f in ("stimuli", "subjects", "seeds") if f not in self.resample]
        said = f"Generalises to new {_listed(self.resample)}"
        if not held:
            return f"{said} from the populations that these were drawn from."
        return f"{said}; speaks for these {_listed(held)} only."

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw a bar a rule with its interval, a dot a subject and the noise ceiling as a band.

        Parameters
        ----------
        ax : where to draw; by default a new pyplot figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from rsafast.inference.bootstrap.plot import draw_bars
        from rsafast.plotting import given_or_new

        ax = given_or_new(ax)
        draw_bars(ax, self)
        return ax

    def save(self, path: str | Path) -> None:
        """Write the result: everything to .h5 or .hdf5, the table of estimates to .csv.

        Raises
        ------
        InvalidInputError
            The ending of `path` is none of these, or the folder cannot be written.
        """
        save_result(self, path, KIND)

    @classmethod
    def load(cls, path: str | Path) -> BootstrapResult:
        """Read a result that :meth:`save` wrote to .h5; every array comes back bit for bit.

        Raises
        ------
        InvalidInputError
            The file is missing, no HDF5 file, or holds something else than a bootstrap result.
        """
        return load_result(cls, path, KIND)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _listed(words: tuple[str, ...] | list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _range(values: FloatArray) -> str:
    low, high = values.min(), values.max()
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
