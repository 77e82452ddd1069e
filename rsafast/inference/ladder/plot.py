"""Forest of the rungs of a comparison of two rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsafast.errors import InvalidInputError
from rsafast.plotting import DEFAULT_PALETTE, Palette, given_or_new, short_p, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsafast.inference.ladder.result import RuleComparison


def draw_ladder(
    result: RuleComparison,
    region: str | int = 0,
    ax: Axes | None = None,
    palette: Palette = DEFAULT_PALETTE,
) -> Axes:
    """Draw one rung a row, the narrowest on top; filled where p is at most 0.05."""
    place = result.regions.index(region) if region in result.regions else region
    if not isinstance(place, int) or not 0 <= place < len(result.regions):
        raise InvalidInputError(
            f"region must be one of {', '.join(result.regions)} or its position, got {region!r}"
        )
    ax = given_or_new(ax)
    heights = np.arange(len(result.rungs))[::-1]
    estimate = result.estimate[place]
    for rung, height in zip(result.rungs, heights, strict=True):
        note = f"p {short_p(float(rung.p_value[place]))}"
        if rung.reason is not None:
            note = "not run"
        elif np.isfinite(rung.ci[place]).all():
            ax.plot(rung.ci[place], [height, height], color=palette.edge, linewidth=2)
        if rung.reason is None:
            filled = rung.p_value[place] <= 0.05
            ax.plot(
                estimate, height, marker="o", color=palette.accent,
                markerfacecolor=palette.accent if filled else "none", markeredgewidth=1.4,
            )  # fmt: skip
        ax.annotate(
            note, (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=8,
            color=palette.muted if rung.reason else palette.ink,
        )  # fmt: skip
    ax.axvline(0, color=palette.edge, linewidth=0.7, dashes=(3, 3), zorder=0)
    ax.set_yticks(heights, [rung.key for rung in result.rungs])
    ax.set_ylim(-0.7, len(heights) - 0.3)
    ax.set_xlabel(f"{result.rule_a} − {result.rule_b}, {result.regions[place]}")
    style_axes(ax, palette)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax
