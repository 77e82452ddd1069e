"""Drawing of time courses with their clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from rsafast.plotting import DEFAULT_PALETTE, Palette, method_name, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsafast.inference.time.clusters import ClusterResult


def draw_courses(
    ax: Axes, result: ClusterResult, alpha: float, palette: Palette = DEFAULT_PALETTE
) -> None:
    """Draw every course as a line, and under all of them a bar for each cluster of p <= alpha."""
    colours = matplotlib.colormaps["tab10"]
    low, high = float(result.values.min()), float(result.values.max())
    step = 0.05 * (high - low if high > low else 1.0)
    half = float(np.diff(result.times).min()) / 2
    lines = list(np.ndindex(result.values.shape[:2]))
    ax.axhline(0, color=palette.edge, linewidth=0.8)
    for k, (m, c) in enumerate(lines):
        name = result.model_names[m]
        label = name if len(result.courses) == 1 else f"{name} × {result.courses[c]}"
        colour = palette.accent if len(lines) == 1 else colours(k % colours.N)
        ax.plot(result.times, result.values[m, c], color=colour, linewidth=1.4, label=label)
        level = min(low, 0.0) - (k + 1) * step
        for cluster in result.clusters:
            mine = (cluster.model, cluster.course) == (name, result.courses[c])
            if mine and cluster.p_value <= alpha:
                ends = [cluster.start - half, cluster.stop + half]
                ax.plot(ends, [level, level], color=colour, linewidth=3, solid_capstyle="butt")
    if len(lines) > 1:
        ax.legend(fontsize=7.5, frameon=False, labelcolor=palette.ink)
    ax.set_xlabel("time")
    ax.set_ylabel("similarity" if result.method is None else method_name(result.method))
    ax.set_title(f"bars: clusters with family-wise p ≤ {alpha:g}", fontsize=9)
    style_axes(ax, palette)
