"""What the comparison of two rules returns: one rung a test, from the narrowest to the broadest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One test of "rule A is closer to the region than rule B"; arrays are (regions,).

    Attributes
    ----------
    key : short name: labels, seeds-paired, seeds, subjects, stimuli, and joined by "+".
    test : what is done.
    generalises_to : to whom the answer speaks.
    null : the null hypothesis.
    statistic, statistic_name : what the p-value judges.
    p_value : two-sided.
    p_value_fwer : family-wise over regions (step-down max-T); NaN where there is none: use
        `adjust_p`.
    floor : smallest p that is possible, NaN where there is none (a t-test).
    ci : (regions, 2) interval of the difference; NaN where the test has none, infinite where no
        interval of this level exists.
    standard_error : of the difference, NaN where the test has none.
    lift : what would lower the floor.
    reason : why the test could not be made (all arrays are then NaN), else None.
    notes : what else a reader must know.
    """

    key: str
    test: str
    generalises_to: str
    null: str
    statistic_name: str
    statistic: FloatArray
    p_value: FloatArray
    p_value_fwer: FloatArray
    floor: float
    ci: FloatArray
    standard_error: FloatArray
    lift: str = ""
    reason: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleComparison:
    """Result of `compare_rules`: every test of the difference of two rules, side by side.

    Attributes
    ----------
    rule_a, rule_b : names of the rules.
    regions : names of the regions.
    estimate : (regions,) alignment of rule A minus that of rule B, the same for every rung.
    alignment_a, alignment_b : (regions,) mean similarity over seeds and subjects.
    rungs : the tests, from the one that generalises least to the one that generalises most.
    n_seeds : of rule A and of rule B.
    n_subjects : (regions,).
    """

    rule_a: str
    rule_b: str
    regions: tuple[str, ...]
    estimate: FloatArray
    alignment_a: FloatArray
    alignment_b: FloatArray
    rungs: tuple[Rung, ...]
    n_seeds: tuple[int, int]
    n_subjects: NDArray[np.int64]
    n_stimuli: int
    method: str
    level: float
    n_resamples: int
    seed: int
    parameters: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def rung(self, key: str) -> Rung:
        """Return the rung called `key`."""
        found = next((r for r in self.rungs if r.key == key), None)
        if found is None:
            from rsafast.errors import InvalidInputError

            known = ", ".join(r.key for r in self.rungs)
            raise InvalidInputError(f"there is no rung {key!r}; there are {known}")
        return found

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a region and rung, rungs that could not run included."""
        import pandas as pd

        rows = [
            {
                "region": region,
                "rung": rung.key,
                "test": rung.test,
                "generalises_to": rung.generalises_to,
                "estimate": self.estimate[i],
                "statistic": rung.statistic[i],
                "statistic_name": rung.statistic_name,
                "p_value": rung.p_value[i],
                "p_value_fwer": rung.p_value_fwer[i],
                "floor": rung.floor,
                "ci_low": rung.ci[i, 0],
                "ci_high": rung.ci[i, 1],
                "standard_error": rung.standard_error[i],
                "not_run": rung.reason or "",
            }
            for i, region in enumerate(self.regions)
            for rung in self.rungs
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Say, region by region, what each test finds and to whom it speaks."""
        a, b = self.n_seeds
        subjects = sorted(set(self.n_subjects.tolist()))
        lines = [
            f"Is {self.rule_a} closer to the region than {self.rule_b}? {self.method}, "
            f"{self.n_stimuli} stimuli, {a} and {b} seeds, "
            f"{' or '.join(map(str, subjects))} subjects; two-sided, {100 * self.level:g} % "
            "intervals.",
        ]
        for i, region in enumerate(self.regions):
            lines += [
                "",
                f"{region}: {self.rule_a} {self.alignment_a[i]:.4f}, "
                f"{self.rule_b} {self.alignment_b[i]:.4f}, difference {self.estimate[i]:+.4f}",
                *(_line(rung, i) for rung in self.rungs),
            ]
        lines += ["", "Every row answers another question; none is the corrected form of another:"]
        lines += [f"  {r.key}: {r.null}" for r in self.rungs if r.reason is None]
        lifts = [f"  {r.key}: {r.lift}." for r in self.rungs if r.lift]
        if lifts:
            lines += ["What would lower the floor of p:", *lifts]
        notes = [f"  {r.key}: {note}" for r in self.rungs for note in r.notes]
        return "\n".join([*lines, *(["Notes:", *notes] if notes else [])])

    def plot(self, ax: Axes | None = None, region: str | int = 0) -> Axes:
        """Draw the rungs of one region as a forest: estimate, interval and p of each test.

        Parameters
        ----------
        ax : where to draw; by default a new pyplot figure.
        region : name or position.
        """
        from rsafast.inference.ladder.plot import draw_ladder

        return draw_ladder(self, region, ax)


def _line(rung: Rung, i: int) -> str:
    head = f"  {rung.key:<22} {rung.generalises_to:<55}"
    if rung.reason is not None:
        return f"{head} not run: {rung.reason}"
    floor = "" if np.isnan(rung.floor) else f" (floor {rung.floor:.2g})"
    low, high = rung.ci[i]
    if np.isnan(low):
        interval = ""
    elif np.isinf(low):
        interval = ", no interval at this level"
    else:
        interval = f", {low:+.4f} to {high:+.4f}"
    return f"{head} p = {rung.p_value[i]:.3g}{floor}{interval}"
