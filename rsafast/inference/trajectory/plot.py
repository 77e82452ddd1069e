"""Drawing of trajectories: curves over log(1 + epoch) with their simultaneous bands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsafast.errors import InvalidInputError
from rsafast.plotting import DEFAULT_PALETTE, method_name, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rsafast.inference.trajectory.result import Trajectory

# Okabe & Ito's colours, told apart by most readers with colour blindness.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8a8a00",
)  # fmt: skip
_MARKERS = "osD^vP*X"


def draw_trajectory(trajectory: Trajectory, layers: list[int], quantity: str) -> Figure:
    """Draw a panel a region (`layers` holds the place of its layer), a colour a rule."""
    import matplotlib.pyplot as plt

    if quantity not in ("alignment", "change"):
        raise InvalidInputError(f"quantity must be 'alignment' or 'change', got {quantity!r}")
    shown = trajectory.estimates() if quantity == "alignment" else trajectory.change()
    epochs = np.array(shown.coords[1], np.float64)
    panels = len(trajectory.regions)
    figure, axes = plt.subplots(
        1, panels, figsize=(2.4 + 2.2 * panels, 3.0), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for q, (ax, region) in enumerate(zip(axes[0], trajectory.regions, strict=True)):
        for g, rule in enumerate(trajectory.rules):
            at = (g, slice(None), layers[q], q)
            colour = _COLOURS[g % len(_COLOURS)]
            x = np.log1p(epochs)
            ax.fill_between(
                x, shown.band_low[at], shown.band_high[at], color=colour, alpha=0.15, linewidth=0
            )
            ax.plot(
                x, shown.estimate[at], color=colour, marker=_MARKERS[g % len(_MARKERS)],
                markersize=4, linewidth=1.4, label=str(rule),
            )  # fmt: skip
        ax.axhline(0, color=DEFAULT_PALETTE.edge, linewidth=0.7, dashes=(3, 3), zorder=0)
        ax.set_xticks(np.log1p(epochs), [f"{epoch:g}" for epoch in epochs])
        ax.set_title(f"{region} ({trajectory.layers[layers[q]]})", fontsize=9)
        ax.set_xlabel("epoch, log(1 + epoch)")
        style_axes(ax)
    axes[0, 0].set_ylabel(
        method_name(trajectory.method) if quantity == "alignment" else shown.what
    )
    if len(trajectory.rules) > 1:
        axes[0, -1].legend(frameon=False, fontsize=8)
    return figure
