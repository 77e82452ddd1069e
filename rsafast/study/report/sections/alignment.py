"""Alignment after the last epoch, with ceilings and subjects."""

from __future__ import annotations

from functools import partial

from rsafast.plotting import method_name
from rsafast.study.report import drawing
from rsafast.study.report.parts import Block, Row, Section, Table, interval_cell, value_cell
from rsafast.study.report.sections.shared import Drawn, level, on_size, titled
from rsafast.study.report.tables import Study
from rsafast.study.report.words import listed, number


def section(study: Study, draw: Drawn) -> Section:
    """Means with intervals, subjects and ceilings, by resolution."""
    resampled = listed(study.recipe.inference.resample)
    return Section(
        "alignment", "Alignment after the last epoch",
        f"How similar the RDM of a condition is to that of a region on the layer chosen for it"
        f" beforehand: large points are means over seeds and subjects with {level(study)}"
        f" intervals (resampling {resampled}), small points are subjects; compare each rule with"
        " its hollow control beside it, which has untrained weights and batch-norm statistics of"
        " the same images.",
        [_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _block(study: Study, size: int, draw: Drawn) -> Block:
    points, panels, rows, said = study.last_by_subject(size), [], [], []
    for region in study.pairs:
        intervals = {c: study.alignment(size, c, region) for c in study.conditions}
        ceiling = study.ceiling(region)
        panels.append({
            "title": titled(study, region), "conditions": study.conditions,
            "points": {c: points.loc[(points["rule"] == c) & (points["region"] == region),
                                     "similarity"] for c in study.conditions},
            "intervals": intervals, "lower": ceiling["lower"], "upper": ceiling["upper"],
        })  # fmt: skip
        rows += [
            Row([region, study.pairs[region], c],
                [value_cell(i.estimate), interval_cell(i.low, i.high)])
            for c, i in intervals.items()
        ]  # fmt: skip
        values = ", ".join(f"{c} {number(i.estimate)}" for c, i in intervals.items())
        said.append(f"{titled(study, region)}: {values}; noise ceiling"
                    f" {number(ceiling['lower'])} to {number(ceiling['upper'])}")  # fmt: skip
    name = method_name(study.recipe.comparison.method)
    caption = (
        "Band: noise ceiling by the rank-average definition (lower bound: each subject with the"
        " mean of the others; upper bound: with the mean of all, itself among them)."
    )
    left_out = ", ".join(f"{region} {number(study.ceiling(region)['left_out'])}"
                         for region in study.pairs)  # fmt: skip
    texts = [f"Lower bounds by the leave-one-out definition: {left_out}."]
    if any(row.cells[1][1] == "none" for row in rows):
        texts.append("A condition without an interval has no trajectory that it could be taken"
                     " from.")  # fmt: skip
    figure = draw(
        f"alignment-{size}", f"Alignment ({name}) by condition{on_size(study, size)}."
        f" {'. '.join(said)}.", caption,
        partial(drawing.draw_alignment, panels, study.recipe.comparison.method),
    )  # fmt: skip
    columns = ["Region", "Layer", "Condition", name, f"{level(study)} interval"]
    table = Table(f"Alignment after the last epoch{on_size(study, size)}", columns, rows)
    return Block(size, texts, [figure], [table])
