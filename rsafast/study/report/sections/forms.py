"""The study as published beside the corrected one."""

from __future__ import annotations

from functools import partial

from rsafast.study.report import beside, drawing
from rsafast.study.report.parts import Block, Section
from rsafast.study.report.sections.shared import Drawn, level, on_size
from rsafast.study.report.tables import Study


def section(study: Study, published: Study, draw: Drawn) -> Section:
    """Both forms at the resolutions that both have."""
    sizes = [size for size in study.sizes if size in published.sizes]
    return Section(
        "beside", "As published, and corrected",
        "Arrows lead from the difference between a rule and the untrained network as it was"
        " published (diamond) to that from the matched control here, with its"
        f" {level(study)} interval; filled where it is significant after correction. The report of"
        " the study as published, with its own warnings, is in the folder “published”.",
        [_block(study, published, size, draw) for size in sizes],
    )  # fmt: skip


def _block(study: Study, published: Study, size: int, draw: Drawn) -> Block:
    labels, panels, said = beside.rows_of_figure(study, published, size)
    figure = draw(
        f"beside-{size}",
        f"Differences as published and as corrected{on_size(study, size)}: {said}.",
        "Difference in alignment from the network before learning.",
        partial(drawing.draw_rows, labels, panels, "difference in alignment"),
    )  # fmt: skip
    return Block(size, [], [figure], beside.tables(study, published, size))
