"""The sentences of a report, generated from the fields of a result; plain text, escaped later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rsafast.permutation.result import TAIL_NAMES, PermutationResult
from rsafast.plotting import method_name

ALPHA = 0.05
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_DIRECTIONS = {
    "greater": "at least as large as",
    "less": "at most as large as",
    "two-sided": "at least as far from zero as",
}
REFERENCES = {
    "mantel": "Mantel N (1967). The detection of disease clustering and a generalized regression "
    "approach. Cancer Research 27, 209–220.",
    "kriegeskorte": "Kriegeskorte N, Mur M, Bandettini P (2008). Representational similarity "
    "analysis – connecting the branches of systems neuroscience. Frontiers in Systems "
    "Neuroscience 2, 4.",
    "hemerik": "Hemerik J, Goeman J (2018). Exact testing with random permutations. TEST 27, "
    "811–825.",
    "westfall": "Westfall PH, Young SS (1993). Resampling-Based Multiple Testing. Wiley.",
    "benjamini": "Benjamini Y, Hochberg Y (1995). Controlling the false discovery rate. Journal "
    "of the Royal Statistical Society B 57, 289–300.",
    "knijnenburg": "Knijnenburg TA, Wessels LFA, Reinders MJT, Shmulevich I (2009). Fewer "
    "permutations, more accurate P-values. Bioinformatics 25, i161–i168.",
}


def scientific(value: float, digits: int = 2) -> str:
    """Write a positive number for readers: 0.31, 0.0042, 1.8 × 10⁻⁶."""
    if value == 0 or not np.isfinite(value):
        return "0" if value == 0 else "–"
    if abs(value) >= 0.001:
        return f"{value:#.{digits}g}".rstrip(".")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    # No-break spaces keep the number on one line.
    return f"{mantissa}\u00a0×\u00a010{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def signed(value: float, decimals: int) -> str:
    """Write a number with a true minus sign; NaN is a dash, and zero has no sign."""
    if not np.isfinite(value):
        return "–"
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def p_with_error(p: float, error: float) -> str:
    """Write p to the digit that its Monte Carlo standard error leaves it: 0.6125 ± 0.0005."""
    if not (p > 0 and error > 0 and np.isfinite(error)):
        return scientific(p)
    last = int(np.floor(np.log10(error)))  # power of ten of the error's first digit
    if p >= 0.001:
        decimals = max(-last, 2)
        return f"{p:.{decimals}f} ± {error:.{decimals}f}"
    power = int(np.floor(np.log10(p)))
    decimals = max(power - last, 0)
    mantissa, deviation = p / 10.0**power, error / 10.0**power
    exponent = str(power).translate(_SUPERSCRIPTS)
    return f"({mantissa:.{decimals}f} ± {deviation:.{decimals}f})\u00a0×\u00a010{exponent}"


def pair_p(result: PermutationResult, i: int, j: int) -> str:
    """Write the p of one pair; at the floor of the run an error estimate would say nothing."""
    p = float(result.p_value[i, j])
    if result.exceedances[i, j] <= 1:
        return scientific(p)
    return p_with_error(p, float(result.p_standard_error[i, j]))


def pair_name(result: PermutationResult, i: int, j: int) -> str:
    """Name one pair as model × brain."""
    return f"{result.model_names[i]} × {result.brain_names[j]}"


def headline(result: PermutationResult) -> str:
    """Say in one or two sentences what was found."""
    i, j = np.unravel_index(int(np.argmin(result.p_value)), result.statistic.shape)
    # Of the pairs that share the smallest p, name the one furthest into its null.
    tied = np.flatnonzero(result.p_value.ravel() == result.p_value[i, j])
    best = tied[int(np.argmax(np.nan_to_num(np.abs(result.z.ravel()[tied]))))]
    i, j = np.unravel_index(int(best), result.statistic.shape)
    name, value = pair_name(result, int(i), int(j)), f"{result.statistic[i, j]:.3g}"
    what = f"{method_name(result.method)} = {value}"
    p = pair_p(result, int(i), int(j))
    if result.n_pairs == 1:
        related = "are related" if result.p_value[i, j] <= ALPHA else "are not shown to be related"
        return (
            f"Model {result.model_names[0]} and brain {result.brain_names[0]} {related} "
            f"beyond what relabelled stimuli give ({what}, p = {p})."
        )
    count = int((result.p_value_stepdown <= ALPHA).sum())
    first = (
        f"{_count_word(count, result.n_pairs)} of {result.n_pairs} model–brain pairs "
        f"{'is' if count == 1 else 'are'} related beyond what relabelled stimuli give "
        f"(family-wise p ≤ {ALPHA:g})."
    )
    return f"{first} Strongest evidence: {name} ({what}, p = {p})."


def _count_word(count: int, total: int) -> str:
    return "None" if count == 0 else "All" if count == total else f"{count:,}"


def meaning(result: PermutationResult) -> list[tuple[str, str]]:
    """Return (heading, text) items that say what the p-values mean and what they do not."""
    items = [
        (
            "Null hypothesis",
            "This model RDM and this brain RDM are unrelated: the stimuli are exchangeable, so "
            "that any assignment of the stimulus labels would have been as likely.",
        ),
        (
            "Generalises to",
            "These stimuli, subjects and seeds. Other stimuli call for a bootstrap or a "
            "cross-validation over stimuli, other subjects or network seeds for a test across "
            "them.",
        ),
        (
            "Not tested",
            "Whether two models are equal. A pair with a small p beside one with a large p does "
            "not make the first model better; a bootstrap over the difference answers that.",
        ),
        ("Resolution", _resolution(result)),
    ]
    if result.n_pairs > 1:
        items.append(
            (
                "Many pairs",
                f"The family-wise p-values (max-T) hold over all {result.n_pairs} pairs at once, "
                "because every pair was relabelled by the same relabellings; they stay valid where "
                "the best pair, layer or region is picked afterwards. The step-down ones never "
                "exceed the single-step ones; headline and marks go by them. The q-values control "
                "the expected share of false discoveries among the pairs called significant.",
            )
        )
    if result.p_tail is not None and result.tail is not None:
        items.append(
            (
                "Approximation",
                f"The column p_tail is a {TAIL_NAMES.get(result.tail, result.tail)}, an "
                "extrapolation below what was counted. It is no exact p-value; report it only "
                "beside the counted one and by its name.",
            )
        )
    return items


def _resolution(result: PermutationResult) -> str:
    floor = scientific(result.smallest_p)
    if result.engine == "exact":
        return (
            f"All {result.n_permutations:,} relabellings were evaluated: the p-values carry no "
            f"Monte Carlo error, and none can be below {floor}."
        )
    at_floor = int((result.exceedances <= 1).sum())
    reached = (
        f" {at_floor} of {result.n_pairs} pairs lie at that floor; more permutations could lower "
        "them."
        if at_floor
        else ""
    )
    return (
        f"p counts the observed labelling among {result.n_permutations:,} relabellings, so none "
        f"can be below {floor}.{reached} The value after ± is the Monte Carlo standard error of p: "
        "another seed would move p by about that much."
    )


def methods(result: PermutationResult) -> str:
    """Return a methods paragraph for a paper, with author–year citations."""
    engines = {
        "orbit": "drawn as random double-sided orbits of the cyclic shift, with the identity "
        "included",
        "exact": "enumerated completely",
        "direct": "drawn independently at random, with the identity included",
    }
    sentences = [
        "Model and brain representational dissimilarity matrices (RDMs; Kriegeskorte et al., "
        f"2008) of {result.n_stimuli} stimuli were compared by {method_name(result.method)} over "
        f"the {result.n_stimuli * (result.n_stimuli - 1) // 2:,} pairs of stimuli.",
        f"The null hypothesis of unrelated RDMs was tested by relabelling the stimuli of whole "
        f"matrices (Mantel, 1967) with {result.n_permutations:,} relabellings, "
        f"{engines.get(result.engine, f'from the {result.engine} engine')}"
        f"{'' if result.engine == 'exact' else f' (seed {result.seed})'}.",
        f"p is the share of relabellings whose statistic was "
        f"{_DIRECTIONS.get(result.alternative, result.alternative)} the observed one, the observed "
        "labelling counted (Hemerik & Goeman, 2018).",
    ]
    for name, phrase in (
        ("covariates", "Covariate RDMs were partialled out."),
        ("mask", "Pairs of stimuli outside a mask were left out."),
        ("blocks", "Stimuli were relabelled within blocks only."),
    ):
        if result.parameters.get(name) not in (None, "", "None", False, []):
            sentences.append(phrase)
    if result.n_pairs > 1:
        sentences.append(
            f"Family-wise error over the {result.n_pairs} pairs was controlled by the maximum "
            + ("standardised " if result.moments == "exact" else "")
            + "statistic, single-step and step-down (Westfall & Young, 1993), the false discovery "
            "rate by the step-up procedure (Benjamini & Hochberg, 1995)."
        )
    if result.tail is not None:
        cite = " (Knijnenburg et al., 2009)" if result.tail == "gpd" else ""
        sentences.append(
            f"Tail probabilities below the counted resolution were approximated by a "
            f"{TAIL_NAMES.get(result.tail, result.tail)}{cite}."
        )
    return " ".join(sentences)


def references(result: PermutationResult) -> list[str]:
    """Return the works that `methods` cites, in alphabetical order."""
    keys = ["mantel", "kriegeskorte", "hemerik"]
    if result.n_pairs > 1:
        keys += ["westfall", "benjamini"]
    if result.tail == "gpd":
        keys.append("knijnenburg")
    return sorted(REFERENCES[key] for key in keys)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """List nested provenance as (dotted name, text) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(map(str, value))))
        else:
            rows.append((name, "none" if value is None else str(value)))
    return rows
