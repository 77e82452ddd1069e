"""Builds the page of a study: what its sections show, figures and tables, and the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rsafast_kernels.atomic import write_text

from rsafast.report.figures import Panel
from rsafast.report.html import template
from rsafast.study.report import beside, findings, methods
from rsafast.study.report.cautions import cautions
from rsafast.study.report.figures import FORMATS, panel, remove_others
from rsafast.study.report.sections import all_sections
from rsafast.study.report.sections.practices import practices
from rsafast.study.report.sections.shared import Drawn
from rsafast.study.report.tables import Study


def write_report(
    study: Study,
    root: Path,
    *,
    published: Study | None = None,
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Write ``report.html`` and ``figures/*`` of a finished study.

    The page loads nothing from anywhere: figures are inline SVG, and there are no fonts or scripts
    from outside. The same tables give the same bytes, but for times in the provenance.

    Parameters
    ----------
    study : finished.
    root : folder to write to.
    published : the same study as it was published, to be set beside it.
    formats : of the figures as files: "svg", "pdf", "png".

    Returns
    -------
    Path
        ``report.html`` in `root`.

    Raises
    ------
    InvalidInputError
        A table or a result of a stage is missing or is none.
    """
    figures = root / "figures"
    figures.mkdir(exist_ok=True)
    drawn: list[str] = []

    def draw(name: str, alt: str, caption: str, make: Callable[[], Figure]) -> Panel:
        drawn.append(name)
        return panel(make, name, alt, caption, figures, formats)

    page = render(study, draw, published)
    remove_others(figures, drawn)
    return write_text(root / "report.html", page)


def render(study: Study, draw: Drawn, published: Study | None = None) -> str:
    """Write the page; ``draw(name, alt, caption, make)`` makes a panel of each figure."""
    page = template("rsafast.study.report", "study.html.jinja")
    return str(page.render(**_content(study, draw, published)))


def _content(study: Study, draw: Drawn, published: Study | None) -> dict[str, Any]:
    recipe = study.recipe
    return {
        "title": recipe.title or recipe.name,
        "headline": findings.headline(study),
        "facts": _facts(study),
        "change": beside.what_changes(study, published) if published else None,
        "summary": findings.summary(study),
        "found": [
            (size, findings.differences(study, size), findings.permutation(study, size))
            for size in study.sizes
        ],
        "sizes": list(study.sizes),
        "sections": all_sections(study, draw, published),
        "methods": [text for text in methods.paragraphs(study) if text],
        "references": methods.references(study),
        "provenance": methods.provenance(study),
        "stages": methods.stages(study),
        "recipe": methods.recipe_text(recipe),
        "cautions": cautions(study),
        "published": [practices(study, size) for size in study.sizes]
        if study.recipe.inference.published
        else [],
    }


def _facts(study: Study) -> list[tuple[str, str]]:
    inference = study.recipe.inference
    return [
        ("rules trained", str(len(study.trained))),
        ("seeds a rule", str(len(study.recipe.networks.seeds))),
        ("stimuli", f"{study.permutation(study.sizes[0]).n_stimuli:,}"),
        ("subjects", " or ".join(map(str, sorted(set(study.n_subjects.values()))))),
        ("regions", str(len(study.pairs))),
        ("relabellings", f"{inference.permutations:,}"),
        ("resamples", f"{inference.resamples:,}"),
    ]
