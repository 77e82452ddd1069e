"""A study as it was published beside the same study as it should be: what changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rsafast.study.networks import CONTROL, UNTRAINED
from rsafast.study.recipe import Recipe
from rsafast.study.report.parts import Row, Table, interval_cell, p_cell, value_cell
from rsafast.study.report.tables import Study
from rsafast.study.report.words import CORRECTIONS, counted, listed, number, pixels

_NONE = {"estimate": np.nan, "p_value": np.nan, "p_adjusted": np.nan, "ci_low": np.nan,
         "ci_high": np.nan}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A rule in a region, against the network before learning.

    Attributes
    ----------
    published : difference from the untrained network as published: RDM entries shuffled.
    tested : the same networks, tested as this report tests.
    corrected, control : networks of the corrected study against the untrained one, and against the
        matched control.
    """

    region: str
    layer: str
    rule: str
    published: dict[str, Any]
    tested: dict[str, Any]
    corrected: dict[str, Any]
    control: dict[str, Any]


def claims(study: Study, published: Study, size: int) -> list[Claim]:
    """Every rule and region that both forms of the study have."""
    entries = published.entry_tests(size)
    tested, own = published.differences(size), study.differences(size)
    return [
        Claim(
            region, layer, rule,
            _row(entries, rule, UNTRAINED, region), _row(tested, rule, UNTRAINED, region),
            _row(own, rule, UNTRAINED, region), _row(own, rule, f"{rule}{CONTROL}", region),
        )
        for region, layer in study.pairs.items() if region in published.pairs
        for rule in study.trained if rule in published.trained
    ]  # fmt: skip


def _row(table: pd.DataFrame, a: str, b: str, region: str) -> dict[str, Any]:
    found = table[(table["rule_a"] == a) & (table["rule_b"] == b) & (table["region"] == region)]
    return _NONE | (dict(found.iloc[0]) if len(found) else {})


def what_changes(study: Study, published: Study) -> str:
    """Say in a paragraph what was concluded as published, and what is left of it."""
    sizes = [size for size in study.sizes if size in published.sizes]
    if not sizes:
        return "The study as published has no resolution in common with this one."
    said = [_at(study, published, size) for size in sizes]
    if len(study.sizes) > 1:
        said = [f"At {pixels(size)}: {text}" for size, text in zip(sizes, said, strict=True)]
    return " ".join([*said, f"The two forms differ in {listed(_changes(study, published))}."])


def _at(study: Study, published: Study, size: int) -> str:
    every, alpha = claims(study, published, size), study.alpha
    if not every:
        return "no rule and region are in both forms."
    p = np.array([claim.published["p_adjusted"] for claim in every], float)
    adjust = study.recipe.inference.adjust
    zeros = int((p == 0).sum())
    with_zero = f" ({zeros} of them with p = 0)" if zeros else ""
    sentences = [
        f"as published, {int((p <= alpha).sum())} of {counted(len(every), 'difference')} between a"
        f" trained rule and the untrained network would have been called significant{with_zero}:"
        " shuffled RDM entries, Benjamini–Hochberg correction.",
        f"The same networks, judged by “{published.rung(size)}” with {CORRECTIONS[adjust]}:"
        f" {_count(every, 'tested', alpha)}.",
        f"Networks as corrected: {_count(every, 'corrected', alpha)}, and against the control with"
        f" matched batch-norm statistics {_count(every, 'control', alpha)}.",
        *_signs(every, alpha),
        *_trends(study, published, size),
    ]
    text = " ".join(sentences)
    return text if len(study.sizes) > 1 else text[0].upper() + text[1:]


def _count(every: list[Claim], what: str, alpha: float) -> str:
    p = np.array([getattr(claim, what)["p_adjusted"] for claim in every], float)
    made = int(np.isfinite(p).sum())
    return f"{int((p <= alpha).sum())} of {made}" if made else "none could be tested"


def _signs(every: list[Claim], alpha: float) -> Iterator[str]:
    """Where the corrected study, against the fair control, points away from what was published."""
    turned = [
        f"{claim.rule} in {claim.region} ({number(claim.published['estimate'])}, now"
        f" {number(_fair(claim)['estimate'])})"
        for claim in every
        if claim.published["p_adjusted"] <= alpha
        and claim.published["estimate"] * _fair(claim)["estimate"] < 0
    ]
    if turned:
        yield f"Of the published ones, the direction turned for {listed(turned)}."


def _fair(claim: Claim) -> dict[str, Any]:
    """The corrected difference from the matched control, where there is one."""
    return claim.control if np.isfinite(claim.control["estimate"]) else claim.corrected


def _trends(study: Study, published: Study, size: int) -> Iterator[str]:
    """What was said of curves over training."""
    table = published.table("published", size)
    table = table[table["rule_a"].isin(published.trained)]
    trends = table[table["practice"] == "best layer, asymptotic trend"]["p_value"].dropna()
    if trends.empty:
        return
    zeros = int((trends < 1e-12).sum())
    with_zero = f" ({zeros} with p = 0)" if zeros else ""
    change = study.table("change", size)
    own = change[change["layer"] == change["region"].map(study.pairs)]
    own = own[own["rule"].isin(study.trained) & (own["epoch"] == own["epoch"].max())]
    shown = int((own["p_value_fwer"] <= study.alpha).sum())
    yield (
        f"Of {counted(len(trends), 'curve')} of the best layer,"
        f" {int((trends <= study.alpha).sum())} would have been called trends{with_zero}; of"
        f" {counted(len(own), 'curve')} of the layers named beforehand, {shown} change from before"
        " training to the last epoch."
    )


def _changes(study: Study, published: Study) -> list[str]:
    """Settings in which the forms differ, as published and as corrected."""
    return [
        f"{key} ({_text(before)}, here {_text(now)})"
        for key, before, now in _differing(published.recipe, study.recipe)
        if key not in ("title", "inference.published")
    ] + ["what counts as evidence"]


def _differing(published: Recipe, corrected: Recipe) -> Iterator[tuple[str, Any, Any]]:
    before, now = (dict(_flat(r.model_dump(mode="json"))) for r in (published, corrected))
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            yield key, before.get(key), now.get(key)


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return listed(value)
    return "not set" if value is None else str(value)


def rows_of_figure(
    study: Study, published: Study, size: int
) -> tuple[list[str], list[dict[str, Any]], str]:
    """Labels and panels for `drawing.draw_rows`, and what they show in words."""
    every = claims(study, published, size)
    rules = list(dict.fromkeys(claim.rule for claim in every))
    panels = []
    for region in dict.fromkeys(claim.region for claim in every):
        own = {claim.rule: claim for claim in every if claim.region == region}
        layer = next(iter(own.values())).layer
        rows = [_drawn(own[rule], study.alpha) if rule in own else None for rule in rules]
        panels.append({"title": f"{region} ({layer})", "rows": rows})
    said = [
        f"{claim.rule} in {claim.region} {number(claim.published['estimate'])}, corrected"
        f" {number(_fair(claim)['estimate'])}"
        for claim in every
    ]
    return rules, panels, "; ".join(said)


def _drawn(claim: Claim, alpha: float) -> dict[str, Any]:
    fair, before = _fair(claim), claim.published["estimate"]
    return {
        "estimate": fair["estimate"], "low": fair["ci_low"], "high": fair["ci_high"],
        "filled": bool(fair["p_adjusted"] <= alpha), "before": before if before == before else None,
    }  # fmt: skip


def tables(study: Study, published: Study, size: int) -> list[Table]:
    """Tables of one resolution."""
    return [_claims_table(study, published, size), _training_table(study, published, size)]


def _claims_table(study: Study, published: Study, size: int) -> Table:
    columns = [
        "Region (layer)", "Rule", "As published: rule − untrained", "p, entries shuffled, BH",
        "Same networks, tested here", "corrected p", "Corrected: rule − untrained", "corrected p",
        "Corrected: rule − matched control", "interval", "corrected p",
    ]  # fmt: skip
    rows = [
        Row([f"{claim.region} ({claim.layer})", claim.rule], [
            value_cell(claim.published["estimate"]), p_cell(claim.published["p_adjusted"]),
            value_cell(claim.tested["estimate"]), p_cell(claim.tested["p_adjusted"]),
            value_cell(claim.corrected["estimate"]), p_cell(claim.corrected["p_adjusted"]),
            value_cell(claim.control["estimate"]),
            interval_cell(claim.control["ci_low"], claim.control["ci_high"]),
            p_cell(claim.control["p_adjusted"]),
        ], bool(claim.control["p_adjusted"] <= study.alpha))
        for claim in claims(study, published, size)
    ]  # fmt: skip
    return Table(
        f"Differences after the last epoch, images of {pixels(size)}. As published: with the mean"
        " RDM of the subjects", columns, rows,
    )  # fmt: skip


def _training_table(study: Study, published: Study, size: int) -> Table:
    """Change over training: of the best layer as published, of the named layer here."""
    table, change = published.table("published", size), study.table("change", size)
    flips = table[table["practice"] == "best layer, sign flips"]
    trends = table[table["practice"] == "best layer, asymptotic trend"]
    rows = []
    for region, layer in study.pairs.items():
        for rule in study.trained:
            best, trend = (
                t[(t["rule_a"] == rule) & (t["region"] == region)] for t in (flips, trends)
            )
            own = change[(change["rule"] == rule) & (change["region"] == region)
                         & (change["layer"] == layer)]  # fmt: skip
            if best.empty or own.empty:
                continue
            last = own.loc[own["epoch"].idxmax()]
            flip = best.iloc[0]
            p_trend = trend["p_value"].iloc[0] if len(trend) else np.nan
            rows.append(Row([region, rule], [
                (None, str(flip["layer"])), value_cell(flip["estimate"]), p_cell(flip["p_value"]),
                p_cell(p_trend), (None, layer), value_cell(last["estimate"]),
                interval_cell(last["band_low"], last["band_high"]), p_cell(last["p_value_fwer"]),
            ], bool(last["p_value_fwer"] <= study.alpha)))  # fmt: skip
    columns = [
        "Region", "Rule", "As published: best layer", "change", "p, sign flips over seeds",
        "p, trend", "Corrected: layer", "change", "simultaneous band", "p, all epochs",
    ]  # fmt: skip
    return Table(
        f"Change from before training to the last epoch, images of {pixels(size)}", columns, rows
    )
