"""Drawing of cross-validated scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsafast.plotting import DEFAULT_PALETTE, Palette, method_name, shorten, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsafast.inference.models.crossvalidation import CrossValidationResult


def draw_scores(
    ax: Axes, result: CrossValidationResult, palette: Palette = DEFAULT_PALETTE
) -> None:
    """One row a region and model: its subjects, their mean, and the region's noise ceiling."""
    style_axes(ax, palette)
    region, means = np.array(result.region), result.means
    labels, row = [], 0
    for g, name in enumerate(result.region_names):
        lower, upper = result.ceilings[:, g]
        m = len(result.model_names)
        ax.fill_betweenx([row - 0.4, row + m - 0.6], lower, upper, color=palette.fill, lw=0)
        for i, model in enumerate(result.model_names):
            points = result.rdm_means[i, region == name]
            ax.plot(points, np.full(len(points), row), "|", color=palette.edge, ms=9)
            ax.plot(means[i, g], row, "o", color=palette.accent, ms=6)
            many = len(result.region_names) > 1
            labels.append(shorten(f"{name} · {model}" if many else model, 30))
            row += 1
    ax.axvline(0, color=palette.muted, lw=0.8)
    ax.set_yticks(range(row), labels)
    ax.invert_yaxis()
    ax.set_xlabel(f"{method_name(result.method)}, cross-validated (band: noise ceiling)")
