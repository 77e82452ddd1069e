"""Null distributions of the pre-specified pairs."""

from __future__ import annotations

from functools import partial

import pandas as pd

from rsafast.plotting import method_name
from rsafast.study.networks import CONTROL
from rsafast.study.report import drawing
from rsafast.study.report.parts import Block, Row, Section, Table, p_cell, value_cell
from rsafast.study.report.sections.shared import Drawn, on_size
from rsafast.study.report.tables import Study
from rsafast.study.report.words import number


def section(study: Study, draw: Drawn) -> Section:
    """Null distributions and their tests, by resolution."""
    return Section(
        "nulls", "Null distributions",
        "Outlines count what relabelled stimuli give (one outline a seed, on a logarithmic scale,"
        " so that single relabellings in the tail are visible), vertical lines are the observed"
        " values of the seeds: a line right of its outline is related beyond chance for these"
        " networks, stimuli and subjects.",
        [_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _block(study: Study, size: int, draw: Drawn) -> Block:
    result, rows = study.permutation(size), study.pair_rows(size)
    rules = [c for c in study.conditions if not c.endswith(CONTROL)]
    said = []
    for (region, rule), own in rows.groupby(["region", "rule"], sort=False):
        if rule in rules:
            low, high = own["statistic"].min(), own["statistic"].max()
            said.append(f"{rule} in {region} observed {number(low)} to {number(high)}, null"
                        f" {number(own['null_mean'].mean())} with a standard deviation of"
                        f" {number(own['null_std'].mean())}")  # fmt: skip
    figure = draw(
        f"nulls-{size}", f"Null distributions of the pre-specified pairs{on_size(study, size)}:"
        f" {'; '.join(said)}.",
        "Each network against the mean RDM of the region. Controls are in the table only.",
        partial(drawing.draw_nulls, result, rows, list(study.pairs), rules),
    )  # fmt: skip
    order = {"region": list(study.pairs), "rule": study.conditions}
    ranked = rows.assign(**{k: pd.Categorical(rows[k], names) for k, names in order.items()})
    body = [
        Row([row["region"], row["layer"], row["rule"], str(row["seed"])], [
            value_cell(row["statistic"]), p_cell(row["p_value"]), p_cell(row["p_value_stepdown"]),
            value_cell(row["null_mean"]), value_cell(row["null_std"]),
        ], bool(row["p_value_stepdown"] <= study.alpha))
        for row in ranked.sort_values(["region", "rule", "seed"]).to_dict("records")
    ]  # fmt: skip
    table = Table(
        f"Permutation test of the pre-specified pairs{on_size(study, size)}; corrected over all"
        f" {len(study.table('permutation', size)):,} pairs of a network's layer and a region. Bold:"
        f" corrected p at most {study.alpha:g}",
        ["Region", "Layer", "Condition", "Seed", method_name(study.recipe.comparison.method), "p",
         "p, step-down max-T", "Null mean", "Null SD"],
        body,
    )  # fmt: skip
    return Block(size, [], [figure], [table])
