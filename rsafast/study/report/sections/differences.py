"""The forest of differences between conditions, and every test of them."""

from __future__ import annotations

from functools import partial

from rsafast.plotting import method_name
from rsafast.study.report import drawing
from rsafast.study.report.parts import Block, Row, Section, Table, interval_cell, p_cell, value_cell
from rsafast.study.report.sections.shared import Drawn, level, on_size, row_panels
from rsafast.study.report.tables import Study
from rsafast.study.report.words import CORRECTIONS, counted, interval, number


def section(study: Study, draw: Drawn) -> Section:
    """Forest and tests, by resolution."""
    word = CORRECTIONS[study.recipe.inference.adjust]
    return Section(
        "differences", "Differences between conditions",
        f"A point right of zero says that the first condition is closer to the region than the"
        f" second; a filled point has a p-value of at most {study.alpha:g} after {word} over all"
        f" comparisons and regions of a resolution; the {level(study)} intervals are not"
        " corrected, so that one may leave out zero beside a hollow point.",
        [_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _block(study: Study, size: int, draw: Drawn) -> Block:
    every = _rung_table(study, size)
    rung, table = study.rung(size), study.differences(size)
    if rung is None or table.empty:
        return Block(size, ["No test of differences could be made; the table gives the reasons."],
                     [], [every])  # fmt: skip
    labels, panels = row_panels(study, table, ("estimate", "ci_low", "ci_high"))
    said = [
        f"{row['rule_a']} minus {row['rule_b']} in {row['region']} {number(row['estimate'])}"
        f" ({interval(row['ci_low'], row['ci_high'])})"
        for row in table.to_dict("records")
    ]
    first = table[table["p_value"].notna()].iloc[0]
    figure = draw(
        f"differences-{size}",
        f"Forest plot of differences in alignment with intervals{on_size(study, size)}:"
        f" {'; '.join(said)}.",
        f"Test: “{rung}” ({first['test']}), which speaks for {first['generalises_to']};"
        f" {CORRECTIONS[str(first['adjusted_by'])]} over"
        f" {counted(int(table['p_value'].notna().sum()), 'test')}.",
        partial(drawing.draw_rows, labels, panels,
                f"difference in {method_name(study.recipe.comparison.method)}"),
    )  # fmt: skip
    return Block(size, [], [figure], [every])


def _rung_table(study: Study, size: int) -> Table:
    rows = [
        Row([f"{row['rule_a']} − {row['rule_b']}", row["region"], row["rung"]], [
            value_cell(row["estimate"]), interval_cell(row["ci_low"], row["ci_high"]),
            p_cell(row["p_value"]), p_cell(row["p_adjusted"]), p_cell(row["floor"]),
            (None, f"not run: {row['not_run']}" if row["not_run"] else row["generalises_to"]),
        ], bool(row["p_adjusted"] <= study.alpha))
        for row in study.table("differences", size).to_dict("records")
    ]  # fmt: skip
    return Table(
        f"Every test of every difference{on_size(study, size)}. Floor: the smallest p that the test"
        " can give; tests without one are t-tests. Bold: significant after correction",
        ["Difference", "Region", "Test", "Estimate", f"{level(study)} interval", "p",
         f"p, {study.recipe.inference.adjust}", "Floor", "Speaks for"],
        rows,
    )  # fmt: skip
