"""Sections of the page of a study, a module each, in their order on the page."""

from __future__ import annotations

from rsafast.study.report.parts import Section
from rsafast.study.report.sections import (
    alignment,
    differences,
    effects,
    elsewhere,
    forms,
    learning,
    nulls,
    partial,
    rdms,
    trajectories,
)
from rsafast.study.report.sections.shared import Drawn
from rsafast.study.report.tables import Study


def all_sections(study: Study, draw: Drawn, published: Study | None) -> list[Section]:
    """Every section; that of the two forms only where the study as published is at hand."""
    shown = (
        alignment, trajectories, differences, partial, effects, nulls, rdms, learning,
    )  # fmt: skip
    return [
        *([forms.section(study, published, draw)] if published else []),
        *(module.section(study, draw) for module in shown),
        *elsewhere.sections(study, draw),
    ]
