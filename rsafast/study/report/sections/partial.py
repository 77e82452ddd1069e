"""Alignment with the pixels of the images held constant."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rsafast.plotting import method_name
from rsafast.study.report import drawing
from rsafast.study.report.parts import Block, Row, Section, Table, p_cell, value_cell
from rsafast.study.report.sections.shared import Drawn, on_size, titled
from rsafast.study.report.tables import Study
from rsafast.study.report.words import number


def section(study: Study, draw: Drawn) -> Section:
    """Partial alignment by resolution, or that it was not asked for."""
    if not study.recipe.inference.partial:
        return Section(
            "partial", "With the pixels held constant",
            "Partial RSA was not asked for (inference.partial = false): whether alignment is more"
            " than a similarity of pixels is not answered.",
            [],
        )  # fmt: skip
    return Section(
        "partial", "With the pixels held constant",
        "An arrow leads from the alignment of a condition (diamond) to what is left of it when the"
        " similarity of the images' own pixels is held constant; what the arrow takes away could be"
        " had from the pixels. Filled: step-down max-T p of the partial alignment at most"
        f" {study.alpha:g}.",
        [_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _block(study: Study, size: int, draw: Drawn) -> Block:
    table, panels, rows, said = study.table("partial", size), [], [], []
    for region, layer in study.pairs.items():
        own = table[(table["region"] == region) & (table["layer"] == layer)].set_index("rule")
        drawn: list[dict[str, Any] | None] = []
        for c in study.conditions:
            if c not in own.index:
                drawn.append(None)
                continue
            row = own.loc[c]
            strong = bool(row["p_value_stepdown"] <= study.alpha)
            drawn.append({"estimate": float(row["partial"]), "before": float(row["similarity"]),
                          "low": np.nan, "high": np.nan, "filled": strong})  # fmt: skip
            rows.append(Row([region, layer, c], [
                value_cell(row["similarity"]), value_cell(row["partial"]), p_cell(row["p_value"]),
                p_cell(row["p_value_stepdown"]),
            ], strong))  # fmt: skip
            said.append(f"{c} in {region} from {number(row['similarity'])} to"
                        f" {number(row['partial'])}")  # fmt: skip
        panels.append({"title": titled(study, region), "rows": drawn})
    name = method_name(study.recipe.comparison.method)
    figure = draw(
        f"partial-{size}",
        f"Alignment before and after the pixels are held constant{on_size(study, size)}:"
        f" {'; '.join(said)}.",
        "Of the mean RDM of a condition's networks with the mean RDM of the subjects, which is"
        " larger than the mean similarity of single networks and subjects.",
        partial(drawing.draw_rows, study.conditions, panels, name),
    )  # fmt: skip
    n = int(table["n_permutations"].max())
    return Block(size, [], [figure], [Table(
        f"Alignment and partial alignment{on_size(study, size)}; {n:,} relabellings, corrected over"
        f" all {len(table):,} pairs of a layer and a region",
        ["Region", "Layer", "Condition", name, "Partial", "p", "p, step-down max-T"], rows,
    )])  # fmt: skip
