"""Drawing of noise ceilings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rsafast.plotting import DEFAULT_PALETTE, Palette, method_name, shorten, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsafast.inference.ceilings.api import NoiseCeiling


def draw_ceilings(
    ax: Axes, ceilings: Sequence[NoiseCeiling], palette: Palette = DEFAULT_PALETTE
) -> None:
    """Draw a bar from lower to upper for every ceiling and region, the definition written on it.

    A ceiling without an upper bound is a line; what unrelated RDMs would give as upper bound is
    dotted.
    """
    names: list[str] = []
    for c in ceilings:
        for r, region in enumerate(c.regions):
            x = len(names)
            low, high, chance = c.lower[r], c.upper[r], c.upper_unrelated[r]
            top = low if np.isnan(high) else high
            ax.bar(x, top - low, 0.6, bottom=low, color=palette.fill, edgecolor=palette.edge)
            ax.plot([x - 0.3, x + 0.3], [low, low], color=palette.accent, linewidth=1.8)
            if not np.isnan(chance):
                ax.plot([x - 0.3, x + 0.3], [chance] * 2, color=palette.ink, linestyle=":")
            values = c.lower_by_subject[r]
            ax.plot(np.full(len(values), x), values, ".", color=palette.muted, markersize=3)
            names.append(f"{shorten(region, 14)}\n{c.definition}")
    ax.axhline(0, color=palette.edge, linewidth=0.7)
    ax.set_xticks(range(len(names)), names, rotation=30 if len(names) > 4 else 0)
    methods = dict.fromkeys(method_name(c.method) for c in ceilings)
    ax.set_ylabel(", ".join(methods))
    style_axes(ax, palette)
