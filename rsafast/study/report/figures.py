"""A figure of the report: drawn once, inline in the page and as files beside it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from rsafast_kernels.atomic import replacing

from rsafast.report.figures import Panel, inline

FORMATS = ("svg", "pdf", "png")
_DPI = 200
_LABELS = 20.0  # points left of the first panel, below which there are no labels
# What would make the same figure another file.
_DATELESS = {"pdf": {"CreationDate": None}, "png": {"Software": None}}


def panel(
    draw: Callable[[], Figure],
    name: str,
    alt: str,
    caption: str,
    folder: Path,
    formats: Sequence[str] = FORMATS,
) -> Panel:
    """Draw a figure, write it to `folder` as `name` in each format, and return it for the page."""
    # Names are shown as they are: a "$" in one begins no formula.
    with _settings(name):
        figure = draw()
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
        figure.set_layout_engine("none")  # it is laid out now
        for ending in formats:
            with replacing(folder / f"{name}.{ending}") as temporary:
                if ending == "svg":
                    temporary.write_text(buffer.getvalue(), encoding="utf-8", newline="\n")
                else:
                    figure.savefig(temporary, format=ending, dpi=_DPI, facecolor="white",
                                   metadata=_DATELESS[ending])  # fmt: skip
    svg = _with_labels(inline(buffer.getvalue(), alt, name), name, figure)
    return Panel(svg, caption, round(figure.get_figwidth() * 96))


def _with_labels(svg: str, name: str, figure: Figure) -> str:
    """Repeat the labels that all panels share, which stay in view where the drawing scrolls."""
    first, *others = figure.axes
    same = first.get_shared_y_axes()
    width, height = 72 * figure.get_size_inches()
    # A little less, so that the first letter of a panel's title is not cut off.
    labels = first.get_position().x0 * width - 2
    if labels < _LABELS or not others or not all(same.joined(first, ax) for ax in others):
        return svg
    head, body = svg.rstrip().removesuffix("</svg>").split(">", 1)
    return (
        f'{head}><g id="{name}-drawing">{body}</g></svg>'
        f'<svg class="labels" viewBox="0 0 {labels:.2f} {height:.2f}"'
        f' style="width: {100 * labels / width:.3f}%" aria-hidden="true">'
        f'<use href="#{name}-drawing"/></svg>'
    )


def _settings(name: str) -> AbstractContextManager[None]:
    return matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False,
         "axes.unicode_minus": True, "font.size": 9}
    )  # fmt: skip


def remove_others(folder: Path, kept: Sequence[str]) -> None:
    """Remove figures of earlier reports from `folder`: those that are not called as in `kept`."""
    for ending in FORMATS:
        for file in folder.glob(f"*.{ending}"):
            if file.stem not in kept:
                file.unlink()
