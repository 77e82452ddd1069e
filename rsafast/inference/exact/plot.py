"""Drawing of exact tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsafast.plotting import DEFAULT_PALETTE, Palette, given_or_new, shorten, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsafast.inference.exact.result import ExactTestResult


def draw_exact(
    result: ExactTestResult, ax: Axes | None = None, palette: Palette = DEFAULT_PALETTE
) -> Axes:
    """Draw one estimate a column, first on top; filled where family-wise p is at most 0.05."""
    ax = given_or_new(ax)
    heights = np.arange(len(result.names))[::-1]
    for i, height in enumerate(heights):
        if result.interval is not None and np.isfinite(result.interval[i]).all():
            ax.plot(result.interval[i], [height, height], color=palette.edge, linewidth=2)
        filled = result.p_value_stepdown[i] <= 0.05
        ax.plot(
            result.estimate[i], height, marker="o", color=palette.accent,
            markerfacecolor=palette.accent if filled else "none", markeredgewidth=1.4,
        )  # fmt: skip
    ax.axvline(0, color=palette.edge, linewidth=0.7, dashes=(3, 3), zorder=0)
    ax.set_yticks(heights, [shorten(name, 22) for name in result.names])
    ax.set_ylim(-0.7, len(heights) - 0.3)
    ax.set_xlabel(f"{result.test}: estimate")
    style_axes(ax, palette)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax
