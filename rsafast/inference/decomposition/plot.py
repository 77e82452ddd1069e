"""Drawing of a variance partition: bars, and below them dots that name the models of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsafast.plotting import DEFAULT_PALETTE, Palette, shorten, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsafast.inference.decomposition.partition import VariancePartition

_DOTS = 0.075  # height of a row of dots, as a share of the axes


def draw_partition(
    ax: Axes, result: VariancePartition, region: int, palette: Palette = DEFAULT_PALETTE
) -> None:
    """Draw the parts of one region: unique ones in the accent colour, shared ones grey."""
    values = result.components[region]
    places = np.arange(len(values))
    unique = np.array([len(part) == 1 for part in result.parts])
    colours = np.where(unique, palette.accent, palette.fill)
    ax.bar(places, values, 0.7, color=colours, edgecolor=palette.edge)
    if result.component_interval is not None:
        for x, (low, high) in zip(places, result.component_interval[region], strict=True):
            ax.plot([x, x], [low, high], color=palette.ink, linewidth=1.4)
    ax.axhline(0, color=palette.edge, linewidth=0.8)
    ax.set_xlim(-0.6, len(values) - 0.4)
    ax.set_xticks([])
    ax.set_ylabel("part of the variance")
    ax.set_title(
        f"{result.regions[region]}: total R² {result.r_squared[region, -1]:.3f}", fontsize=9
    )
    style_axes(ax, palette)
    _draw_dots(ax, result, palette)


def _draw_dots(ax: Axes, result: VariancePartition, palette: Palette) -> None:
    """One row a model, one column a part: a filled dot where the model belongs to the part."""
    count = len(result.model_names)
    below = ax.inset_axes((0.0, -_DOTS * count - 0.03, 1.0, _DOTS * count))
    for x, part in enumerate(result.parts):
        for k in range(count):
            colour = palette.ink if k in part else palette.fill
            below.plot(x, k, "o", color=colour, markersize=5)
        below.plot([x, x], [part[0], part[-1]], color=palette.ink, linewidth=1.2)
    below.set_xlim(ax.get_xlim())
    below.set_ylim(count - 0.4, -0.6)
    below.set_xticks([])
    below.set_yticks(range(count), [shorten(name, 18) for name in result.model_names])
    style_axes(below, palette)
    for spine in below.spines.values():
        spine.set_visible(False)
    below.tick_params(length=0)
