"""Drawing of a searchlight: slices beside each other, what is significant outlined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsafast.plotting import DEFAULT_PALETTE, Palette, method_name, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsafast.inference.searchlight.result import SearchlightResult

_MOST_SLICES = 5


def draw_slices(
    ax: Axes,
    result: SearchlightResult,
    model: int,
    alpha: float,
    palette: Palette = DEFAULT_PALETTE,
) -> None:
    """Draw up to five slices of constant third index, the first index to the right."""
    import matplotlib
    from matplotlib.collections import LineCollection

    volume = result.to_volume("statistic", model)
    low = result.centres.min(axis=0)
    high = result.centres.max(axis=0) + 1
    chosen = _slices(result, model)
    inside = (slice(low[0], high[0]), slice(low[1], high[1]))
    step = int(high[0] - low[0]) + 1  # a column stays empty between slices
    mosaic = np.full((high[1] - low[1], step * len(chosen) - 1), np.nan)
    outlined = np.zeros(mosaic.shape, bool)
    for place, k in enumerate(chosen):
        columns = slice(place * step, place * step + step - 1)
        mosaic[:, columns] = volume[(*inside, k)].T
        if result.p_value_fwer is not None:
            p = result.to_volume("p_value_fwer", model)
            outlined[:, columns] = alpha >= p[(*inside, k)].T
        ax.text(
            place * step + (step - 2) / 2, mosaic.shape[0], f"k = {k}", ha="center", va="bottom",
            fontsize=8, color=palette.muted,
        )  # fmt: skip
    most = float(np.nanmax(np.abs(mosaic))) or 1.0
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#00000000")
    image = ax.imshow(
        mosaic, origin="lower", cmap=colours, vmin=-most, vmax=most, interpolation="none"
    )
    ax.add_collection(LineCollection(_borders(outlined), colors=palette.ink, linewidths=1.3))
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.7, pad=0.02)
    bar.set_label(method_name(result.method), fontsize=8.5, color=palette.ink)
    bar.ax.tick_params(labelsize=8, colors=palette.ink)
    tested = "" if result.p_value_fwer is None else f"; outlined: family-wise p ≤ {alpha:g}"
    ax.set_title(f"{shorten(result.model_names[model], 40)}{tested}", fontsize=9, pad=14)
    ax.set_axis_off()


def _slices(result: SearchlightResult, model: int) -> list[int]:
    """Third indices to draw: all, if they are few, else those with the largest statistics."""
    present = np.unique(result.centres[:, 2])
    if len(present) > _MOST_SLICES:
        peaks = [result.statistic[model, result.centres[:, 2] == k].max() for k in present]
        present = np.sort(present[np.argsort(peaks)[-_MOST_SLICES:]])
    return present.tolist()


def _borders(inside: NDArray[np.bool_]) -> list[list[tuple[float, float]]]:
    """Edges of pixels (x, y) between what is inside and what is not."""
    padded = np.pad(inside, 1)
    lines = []
    for y, x in np.argwhere(padded[1:, :] != padded[:-1, :]):
        lines.append([(x - 1.5, y - 0.5), (x - 0.5, y - 0.5)])
    for y, x in np.argwhere(padded[:, 1:] != padded[:, :-1]):
        lines.append([(x - 0.5, y - 1.5), (x - 0.5, y - 0.5)])
    return lines
