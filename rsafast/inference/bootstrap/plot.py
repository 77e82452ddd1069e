"""The bar plot of a bootstrap: rules within regions, intervals, subjects and noise ceilings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsafast.plotting import DEFAULT_PALETTE, Palette, method_name, shorten, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsafast.inference.bootstrap.result import BootstrapResult

_WIDTH = 0.72  # of a bar, in places of bars
_GAP = 0.8  # between regions


def draw_bars(ax: Axes, result: BootstrapResult, palette: Palette = DEFAULT_PALETTE) -> None:
    """Draw the estimates region by region; a hollow bar does not differ from 0 (p_zero > 0.05)."""
    rules, regions = len(result.rules), len(result.regions)
    ticks, names = [], []
    for region in range(regions):
        start = region * (rules + _GAP)
        if result.ceiling is not None:
            low, high = result.ceiling[region]
            ax.fill_between(
                [start - 0.5, start + rules - 0.5], low, high, color=palette.fill, alpha=0.6, lw=0,
                label="noise ceiling" if region == 0 else None, zorder=0,
            )  # fmt: skip
        for rule in range(rules):
            _draw_one(ax, result, rule, region, start + rule, palette)
            ticks.append(start + rule)
            names.append(shorten(result.rules[rule], 16))
        if regions > 1:
            ax.text(
                start + (rules - 1) / 2, 1.01, shorten(result.regions[region], 18), ha="center",
                va="bottom", fontsize=9, color=palette.ink, transform=ax.get_xaxis_transform(),
            )  # fmt: skip
    ax.axhline(0, color=palette.edge, linewidth=0.8)
    turn = max(map(len, names)) * len(names) > 60
    ax.set_xticks(ticks, names, rotation=45 if turn else 0, ha="right" if turn else "center")
    ax.set_xlim(-0.7, ticks[-1] + 0.7)
    ax.set_ylabel(f"{method_name(result.method)}, mean over subjects")
    style_axes(ax, palette)
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(axis="x", length=0)


def _draw_one(
    ax: Axes, result: BootstrapResult, rule: int, region: int, x: float, palette: Palette
) -> None:
    estimate = result.estimates[rule, region]
    low, high = result.ci[rule, region]
    clear = result.p_zero[rule, region] <= 0.05
    ax.bar(
        x, estimate, _WIDTH, color=palette.fill if clear else "none", edgecolor=palette.edge,
        linewidth=0.9, zorder=1,
    )  # fmt: skip
    scores = result.scores[rule, result.region_of == region]
    spread = np.linspace(-0.25, 0.25, len(scores)) * _WIDTH if len(scores) > 1 else np.zeros(1)
    ax.plot(x + spread, scores, "o", markersize=2.5, color=palette.muted, alpha=0.6, zorder=2)
    ax.plot([x, x], [low, high], color=palette.accent, linewidth=1.6, zorder=3)
