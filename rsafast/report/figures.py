"""Matplotlib drawings as inline SVG that follows the colours and the width of the page.

Each figure is drawn in marker colours, which become CSS variables in the SVG text, so that one
figure is legible in light and in dark mode. Text stays text, in the font of the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

from rsafast.plotting import Palette

# Colours that no colormap in use contains; each becomes the CSS variable beside it.
PAGE_PALETTE = Palette(
    ink="#010203", muted="#010204", fill="#010205", edge="#010206", accent="#010207"
)
_VARIABLES = {
    PAGE_PALETTE.ink: "var(--ink)",
    PAGE_PALETTE.muted: "var(--muted)",
    PAGE_PALETTE.fill: "var(--fill)",
    PAGE_PALETTE.edge: "var(--edge)",
    PAGE_PALETTE.accent: "var(--accent)",
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure of the page: its SVG, a caption, and its natural width in CSS pixels."""

    svg: str
    caption: str
    width: int


def render(
    draw: Callable[..., None],
    *args: object,
    size: tuple[float, float],
    alt: str,
    caption: str,
    key: str,
    margins: tuple[float, float] | None = None,
    **options: object,
) -> Panel:
    """Draw on a fresh figure and return it as inline SVG.

    Parameters
    ----------
    draw : called as ``draw(ax, *args, **options)``.
    size : width and height in inches (96 CSS pixels each).
    alt : what the figure shows, for readers who do not see it.
    caption : text under the figure.
    key : prefix of the ids inside the SVG; unique on the page.
    margins : inches left of and below the axes, so that panels of a grid align; by default the
        layout fits the labels, which is slower.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure = Figure(figsize=size, layout="constrained" if margins is None else None)
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        if margins is not None:
            left, bottom = margins[0] / size[0], margins[1] / size[1]
            figure.subplots_adjust(left, bottom, 1 - min(left, 0.03), 1 - min(bottom, 0.03))
        draw(axes, *args, **options)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return Panel(inline(buffer.getvalue(), alt, key), caption, round(size[0] * 96))


def inline(svg: str, alt: str, key: str) -> str:
    """Cut an SVG document down to an element that can stand inside HTML."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    # Only ids that something refers to are kept, and made unique to the page.
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', body))
    body = re.sub(
        r' id="([^"]*)"',
        lambda match: f' id="{key}-{match[1]}"' if match[1] in used else "",
        body,
    )
    body = re.sub(r'(href="#|url\(#)([\w-]+)', rf"\g<1>{key}-\g<2>", body)
    body = body.replace("xlink:href", "href")
    # The page chooses the font; its size and anchor stay those of the drawing.
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    for marker, variable in _VARIABLES.items():
        body = body.replace(marker, variable)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{_escape(alt)}">{body}'


def _escape(text: str) -> str:
    for plain, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(plain, entity)
    return text
