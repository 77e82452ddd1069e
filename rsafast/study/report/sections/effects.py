"""Cohen's d over seeds."""

from __future__ import annotations

from functools import partial

from rsafast.study.report import drawing
from rsafast.study.report.parts import Block, Row, Section, Table, interval_cell, value_cell
from rsafast.study.report.sections.shared import Drawn, level, on_size, row_panels
from rsafast.study.report.tables import Study
from rsafast.study.report.words import number


def section(study: Study, draw: Drawn) -> Section:
    """Effect sizes, by resolution."""
    return Section(
        "effects", "Effect sizes over seeds",
        "Cohen’s d is a difference in units of its spread between seeds, and says nothing about"
        " subjects or stimuli: networks that hardly differ between seeds give a large d for a"
        f" difference of no size. Bars are {level(study)} intervals, filled points are those of"
        " the forest plot above.",
        [_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _block(study: Study, size: int, draw: Drawn) -> Block:
    table = study.table("differences", size)
    rung = study.rung(size) or table["rung"].iloc[0]
    table = table[table["rung"] == rung]
    known = table[table["cohens_d"].notna()]
    if known.empty:
        return Block(size, ["No effect size could be computed: d needs two seeds or more of each"
                            " rule, and a spread between them."])  # fmt: skip
    labels, panels = row_panels(study, table, ("cohens_d", "d_low", "d_high"))
    far = bool(known[["d_low", "d_high"]].abs().max().max() > 6)
    said = [
        f"{row['rule_a']} minus {row['rule_b']} in {row['region']} {number(row['cohens_d'])}"
        for row in known.to_dict("records")
    ]
    figure = draw(
        f"effects-{size}", f"Cohen's d over seeds{on_size(study, size)}: {'; '.join(said)}.",
        "The axis is linear to 1 and logarithmic beyond." if far else
        "Paired over seeds where both conditions have the same ones.",
        partial(drawing.draw_rows, labels, panels, "Cohen’s d over seeds", far=far),
    )  # fmt: skip
    rows = [
        Row([f"{row['rule_a']} − {row['rule_b']}", row["region"]],
            [value_cell(row["cohens_d"]), interval_cell(row["d_low"], row["d_high"])])
        for row in table.to_dict("records")
    ]  # fmt: skip
    columns = ["Difference", "Region", "Cohen’s d", f"{level(study)} interval"]
    table_of_d = Table(f"Cohen’s d over seeds{on_size(study, size)}", columns, rows)
    return Block(size, [], [figure], [table_of_d])
