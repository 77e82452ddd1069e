"""The section of published networks, layer by layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from rsafast.plotting import method_name
from rsafast.report.figures import Panel
from rsafast.study.report import drawing
from rsafast.study.report.parts import Block, Row, Section, Table, interval_cell, p_cell, value_cell
from rsafast.study.report.sections.shared import Drawn
from rsafast.study.report.tables import Study
from rsafast.study.report.words import number


def sections(study: Study, draw: Drawn) -> list[Section]:
    """No section, or one of all published networks."""
    table = study.others
    if table is None:
        return []
    resampled = str(table["resample"].iloc[0]).replace("+", " and ")
    return [Section(
        "elsewhere", "Published networks",
        "How similar each layer of a published network is to a region, from the images to the"
        f" output: means over subjects with {100 * study.recipe.inference.level:g} % intervals"
        f" (resampling {resampled}), not corrected for the number of layers; filled points have a"
        f" step-down max-T p of at most {study.alpha:g}. These networks have no seeds and no"
        " epochs, and take no part in the trajectories and the tests of differences above.",
        [Block(None, [], [_figure(study, table, draw)], [_table(study, table)])],
    )]  # fmt: skip


def _figure(study: Study, table: pd.DataFrame, draw: Drawn) -> Panel:
    panels: list[dict[str, Any]] = []
    said = []
    for (network, region), own in table.groupby(["network", "region"], sort=False):
        bounds = [float(own[f"ceiling_{end}"].iloc[0]) for end in ("lower", "upper")]
        first, last, best = own.iloc[0], own.iloc[-1], own.loc[own["estimate"].idxmax()]
        panels.append({
            "title": f"{region}, {network}", "layers": own["layer"].tolist(),
            **{name: own[name].to_numpy(float) for name in ("estimate", "low", "high")},
            "filled": own["p_value_stepdown"].to_numpy(float) <= study.alpha,
            "lower": bounds[0], "upper": bounds[1],
        })  # fmt: skip
        said.append(
            f"{network} in {region} from {number(first['estimate'])} in {first['layer']} to"
            f" {number(last['estimate'])} in {last['layer']}, highest {number(best['estimate'])} in"
            f" {best['layer']}, noise ceiling {number(bounds[0])} to {number(bounds[1])}"
        )
    return draw(
        "elsewhere", f"Alignment by layer of published networks: {'; '.join(said)}.",
        "Layers from the images to the output. Band: noise ceiling by the rank-average definition.",
        partial(drawing.draw_depth, panels, study.recipe.comparison.method),
    )  # fmt: skip


def _table(study: Study, table: pd.DataFrame) -> Table:
    rows = [
        Row([row["network"], row["layer"], row["region"]], [
            value_cell(row["estimate"]), interval_cell(row["low"], row["high"]),
            value_cell(row["statistic"]), p_cell(row["p_value"]), p_cell(row["p_value_stepdown"]),
            interval_cell(row["ceiling_lower"], row["ceiling_upper"]),
        ], bool(row["p_value_stepdown"] <= study.alpha))
        for row in table.to_dict("records")
    ]  # fmt: skip
    n = int(table["n_permutations"].max())
    return Table(
        f"Alignment of published networks; p of the alignment with the mean RDM of the"
        f" subjects, by {n:,} relabellings, corrected over all {len(table):,} pairs of a layer and"
        f" a region. Bold: corrected p at most {study.alpha:g}",
        ["Network", "Layer", "Region", method_name(study.recipe.comparison.method),
         f"{100 * study.recipe.inference.level:g} % interval", "With the mean RDM", "p",
         "p, step-down max-T", "Noise ceiling"],
        rows,
    )  # fmt: skip
