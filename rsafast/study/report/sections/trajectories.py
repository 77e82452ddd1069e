"""Alignment over training, its change, and the gap to the controls."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from rsafast.study.networks import CONTROL, UNTRAINED
from rsafast.study.report import drawing
from rsafast.study.report.parts import (
    Block,
    Cell,
    Row,
    Section,
    Table,
    interval_cell,
    p_cell,
    value_cell,
)
from rsafast.study.report.sections.shared import Drawn, level, on_size, titled
from rsafast.study.report.tables import Study
from rsafast.study.report.words import listed, number


def section(study: Study, draw: Drawn) -> Section:
    """Curves, changes and gaps, by resolution."""
    limits = _limits(study)
    resampled = listed(study.recipe.inference.resample)
    return Section(
        "trajectories", "Alignment over training",
        f"Lines are alignment at each checkpoint (controls dashed and hollow), vertical bars are"
        f" {level(study)} bands that hold for all checkpoints of a curve at once (resampling"
        f" {resampled}); conditions are shifted a little so that bars do not overlap.",
        [_block(study, size, limits, draw) for size in study.sizes],
    )  # fmt: skip


def _curves(study: Study, size: int, region: str) -> dict[str, pd.DataFrame]:
    table = study.table("trajectory", size)
    own = table[(table["region"] == region) & (table["layer"] == study.pairs[region])]
    return {c: own[own["rule"] == c].sort_values("epoch") for c in study.conditions
            if (own["rule"] == c).any()}  # fmt: skip


def _limits(study: Study) -> dict[str, tuple[float, float] | None]:
    """Of the vertical axis of each region: the same at all resolutions."""
    found: dict[str, tuple[float, float] | None] = {}
    for region in study.pairs:
        tables = [c for size in study.sizes for c in _curves(study, size, region).values()]
        columns = ["estimate", "band_low", "band_high"]
        reach = np.concatenate([t[columns].to_numpy(float).ravel() for t in tables])
        reach = reach[np.isfinite(reach)]
        if not reach.size:
            found[region] = None
            continue
        low, high = min(reach.min(), 0.0), max(reach.max(), 0.0)
        margin = 0.06 * (high - low) or 0.1
        found[region] = (low - margin, high + margin)
    return found


def _block(study: Study, size: int, limits: dict[str, Any], draw: Drawn) -> Block:
    panels, said = [], []
    for region in study.pairs:
        curves = _curves(study, size, region)
        panels.append({"title": titled(study, region), "curves": curves,
                       "limits": limits[region]})  # fmt: skip
        ends = [
            f"{c} from {number(float(t['estimate'].iloc[0]))} to"
            f" {number(float(t['estimate'].iloc[-1]))}"
            for c, t in curves.items()
        ]
        said.append(f"{titled(study, region)}: {', '.join(ends)}")
    name = study.recipe.comparison.method
    shown = [c for c in study.conditions if c != UNTRAINED]
    figure = draw(
        f"trajectories-{size}",
        f"Alignment over epochs, first to last{on_size(study, size)}. {'. '.join(said)}.",
        "Panels of a region have the same vertical axis at all resolutions.",
        partial(drawing.draw_trajectories, panels, shown, name),
    )  # fmt: skip
    return Block(size, [], [figure], [_change_table(study, size), _gap_table(study, size)])


def _change_table(study: Study, size: int) -> Table:
    change, onset = study.table("change", size), study.table("onset", size)
    rows = []
    for region, layer in study.pairs.items():
        own = change[(change["region"] == region) & (change["layer"] == layer)]
        for rule, curve in own.groupby("rule", sort=False):
            last = curve.loc[curve["epoch"].idxmax()]
            begun = onset[(onset["rule"] == rule) & (onset["region"] == region)
                          & (onset["layer"] == layer)]  # fmt: skip
            rows.append(Row([region, layer, str(rule)], [
                value_cell(last["estimate"]), interval_cell(last["band_low"], last["band_high"]),
                p_cell(last["p_value_fwer"]), _onset(begun),
            ], bool(last["p_value_fwer"] <= study.alpha)))  # fmt: skip
    return Table(
        f"Change from before training to the last epoch{on_size(study, size)}; p over the epochs of"
        " a curve, not over curves. Onset: the first checkpoint from which the change is shown",
        ["Region", "Layer", "Condition", "Change", "Simultaneous band", "p, all epochs", "Onset"],
        rows,
    )  # fmt: skip


def _onset(rows: pd.DataFrame) -> Cell:
    epoch = float(rows["epoch"].iloc[0]) if len(rows) else np.nan
    return (None, f"epoch {epoch:g}") if np.isfinite(epoch) else (None, "not shown")


def _gap_table(study: Study, size: int) -> Table:
    """Rule minus control after the last epoch, from the joint bootstrap of the curves."""
    table, rows = study.table("rules", size), []
    for region, layer in study.pairs.items():
        own = table[(table["region"] == region) & (table["layer"] == layer)]
        for rule in study.trained:
            curve = own[own["rules"] == f"{rule} - {rule}{CONTROL}"]
            if len(curve):
                last = curve.loc[curve["epoch"].idxmax()]
                rows.append(Row([region, layer, f"{rule} − {rule}{CONTROL}"], [
                    value_cell(last["estimate"]),
                    interval_cell(last["band_low"], last["band_high"]),
                    p_cell(last["p_value_fwer"]),
                ], bool(last["p_value_fwer"] <= study.alpha)))  # fmt: skip
    return Table(
        f"Rule minus matched control after the last epoch{on_size(study, size)}; p over the epochs"
        " of a curve, not over curves",
        ["Region", "Layer", "Difference", "Estimate", "Simultaneous band", "p, all epochs"], rows,
    )  # fmt: skip
