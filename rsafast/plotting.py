"""Drawings of RDMs and of permutation results, each on a Matplotlib axes that the caller owns.

Nothing here creates a figure or touches pyplot, so that the report can draw outside any global
state. Colours come from a `Palette`: the default suits a white page, and the report passes one
whose colours it replaces by CSS variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsafast.permutation.result import PermutationResult

FloatArray = NDArray[np.float64]
Correction = Literal["p_value", "q_value", "p_value_fwer", "p_value_stepdown"]

CORRECTION_NAMES: dict[str, str] = {
    "p_value": "uncorrected p",
    "q_value": "Benjamini–Hochberg q",
    "p_value_fwer": "family-wise p, max-T",
    "p_value_stepdown": "family-wise p, step-down max-T",
}
METHOD_NAMES: dict[str, str] = {
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
    "rho-a": "rho-a",
    "cosine": "cosine similarity",
    "corr_cov": "whitened Pearson r",
    "cosine_cov": "whitened cosine similarity",
    "kendall": "Kendall τ-b",
    "tau-a": "Kendall τ-a",
}
# Beyond this many rows a heatmap on a page shows no single stimulus any more.
MAX_SHOWN_STIMULI = 240
# A matrix of more cells than this is drawn without the values in them.
MAX_LABELLED_CELLS = 200


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a drawing, as Matplotlib colour strings."""

    ink: str = "#1b1f24"
    muted: str = "#59636e"
    fill: str = "#c5ced8"
    edge: str = "#6e7a87"
    accent: str = "#b5400a"


DEFAULT_PALETTE = Palette()


def method_name(method: str) -> str:
    """Return the comparator's name as a reader of a paper expects it."""
    return METHOD_NAMES.get(method, method)


def histogram_edges(result: PermutationResult, model: int, brain: int) -> FloatArray:
    """Bin edges, (n_bins + 1,), of the null distribution of one pair."""
    low, high = result.histogram_range[model, brain]
    return np.linspace(low, high, result.histogram.shape[-1] + 1)


def null_quantiles(
    result: PermutationResult, model: int, brain: int, levels: tuple[float, ...] = (0.025, 0.975)
) -> FloatArray:
    """Quantiles of the null of one pair, interpolated within the bins of its histogram.

    Returns NaN where nothing was counted (a constant null has a range of zero width).
    """
    counts = result.histogram[model, brain].astype(np.float64)
    total = counts.sum()
    if total == 0:
        return np.full(len(levels), np.nan)
    cumulative = np.concatenate([[0.0], np.cumsum(counts)]) / total
    # Empty bins repeat a cumulative value; interpolation needs the first of each run only.
    first = np.concatenate([[True], np.diff(cumulative) > 0])
    edges = histogram_edges(result, model, brain)
    return np.interp(levels, cumulative[first], edges[first])


def rank_percentiles(vector: FloatArray, n_stimuli: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Turn one RDM vector into a square of percentiles, at most 240 stimuli a side.

    Parameters
    ----------
    vector : (pairs,) dissimilarities in squareform order.
    n_stimuli : rows of the square RDM.

    Returns
    -------
    percentiles : (m, m) ranks of the shown pairs from 0 to 100, NaN on the diagonal.
    shown : (m,) indices of the stimuli shown; all of them where m == n_stimuli.
    """
    from scipy.stats import rankdata

    shown = np.arange(n_stimuli)
    if n_stimuli > MAX_SHOWN_STIMULI:
        shown = np.linspace(0, n_stimuli - 1, MAX_SHOWN_STIMULI).astype(np.int64)
    rows, columns = np.triu_indices(len(shown), 1)
    a, b = shown[rows], shown[columns]
    values = np.asarray(vector, dtype=np.float64)[a * (2 * n_stimuli - a - 1) // 2 + b - a - 1]
    ranks = rankdata(values, nan_policy="omit")
    n_finite = int(np.isfinite(values).sum())
    square = np.full((len(shown), len(shown)), np.nan)
    square[rows, columns] = square[columns, rows] = (ranks - 1) * (100 / max(n_finite - 1, 1))
    return square, shown


def given_or_new(ax: Axes | None) -> Axes:
    """Return `ax`, or the axes of a new pyplot figure where there is none."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def style_axes(ax: Axes, palette: Palette = DEFAULT_PALETTE) -> None:
    """Strip an axes to its left and bottom lines, in the palette's colours."""
    ax.set_facecolor("none")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(palette.edge)
        spine.set_linewidth(0.8)
    ax.tick_params(colors=palette.muted, labelcolor=palette.ink, width=0.8, length=3, labelsize=8)
    ax.xaxis.label.set(color=palette.ink, fontsize=8.5)
    ax.yaxis.label.set(color=palette.ink, fontsize=8.5)


def draw_rdm(ax: Axes, vector: FloatArray, n_stimuli: int) -> None:
    """Draw an RDM as percentiles of its dissimilarities (0 is the most similar pair)."""
    import matplotlib

    percentiles, _ = rank_percentiles(vector, n_stimuli)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="#00000000")
    ax.imshow(percentiles, cmap=colours, vmin=0, vmax=100, interpolation="none")
    ax.set_axis_off()


def draw_null(
    ax: Axes,
    result: PermutationResult,
    model: int,
    brain: int,
    palette: Palette = DEFAULT_PALETTE,
) -> None:
    """Draw the null distribution of one pair, log-scaled so that its tail shows.

    The observed value is the vertical line; the bar on the axis spans the mean ± 1 SD of the null.
    """
    from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

    counts = result.histogram[model, brain]
    edges = histogram_edges(result, model, brain)
    observed = float(result.statistic[model, brain])
    mean, sd = float(result.null_mean[model, brain]), float(result.null_std[model, brain])
    top = max(float(counts.max(initial=1)), 1.0) * 4
    # Every bin starts below one permutation, so that a single one in the tail is still visible.
    floor = 0.5
    ax.stairs(np.maximum(counts, floor), edges, baseline=floor, fill=True, color=palette.fill)
    ax.stairs(np.maximum(counts, floor), edges, baseline=floor, color=palette.edge, linewidth=0.9)
    ax.plot([mean - sd, mean + sd], [floor * 1.35] * 2, color=palette.ink, linewidth=2.2)
    ax.plot([mean], [floor * 1.35], marker="o", markersize=4, color=palette.ink)
    ax.axvline(observed, color=palette.accent, linewidth=1.8)
    ax.set_yscale("log")
    ax.set_ylim(floor, top)
    low, high = min(edges[0], observed), max(edges[-1], observed)
    margin = 0.04 * (high - low) or 0.1
    ax.set_xlim(low - margin, high + margin)
    to_the_left = observed > (low + high) / 2
    ax.annotate(
        f"observed {observed:.3g}",
        (observed, top),
        xytext=(-4 if to_the_left else 4, -3),
        textcoords="offset points",
        ha="right" if to_the_left else "left",
        va="top",
        fontsize=8,
        color=palette.accent,
    )
    ax.yaxis.set_major_locator(LogLocator(base=10, numticks=5))
    ax.yaxis.set_minor_locator(NullLocator())
    if top < 40:
        ax.yaxis.set_major_locator(FixedLocator([1, 10]))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel(method_name(result.method))
    ax.set_ylabel("relabellings")
    style_axes(ax, palette)


def draw_p_matrix(
    ax: Axes,
    result: PermutationResult,
    correction: Correction = "p_value_fwer",
    palette: Palette = DEFAULT_PALETTE,
) -> None:
    """Draw −log10 of a p-value for every pair, with the value written where cells allow."""
    import matplotlib

    if correction not in CORRECTION_NAMES:
        raise InvalidInputError(
            f"correction must be one of {', '.join(CORRECTION_NAMES)}; got {correction!r}"
        )
    p = getattr(result, correction)
    # One scale for all corrections of a result, so that panels beside each other compare.
    top = max(-np.log10(result.p_value.min()), 2.0)
    depth = -np.log10(p)
    image = ax.imshow(depth, cmap="cividis", vmin=0, vmax=top, interpolation="none", aspect="auto")
    if p.size <= MAX_LABELLED_CELLS:
        for (row, column), value in np.ndenumerate(p):
            red, green, blue, _ = matplotlib.colormaps["cividis"](image.norm(depth[row, column]))
            bright = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18
            ax.text(
                column,
                row,
                short_p(float(value)),
                ha="center",
                va="center",
                fontsize=7.5,
                color="#000000" if bright else "#ffffff",
            )
    ax.set_xticks(range(p.shape[1]), [shorten(name, 16) for name in result.brain_names])
    ax.set_yticks(range(p.shape[0]), [shorten(name, 22) for name in result.model_names])
    turn = p.shape[1] > 1 and max(len(shorten(name, 16)) for name in result.brain_names) > 7
    style_axes(ax, palette)
    ax.tick_params(axis="x", labelrotation=45 if turn else 0)
    if turn:
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0)


def draw_forest(
    ax: Axes,
    result: PermutationResult,
    pairs: list[tuple[int, int]],
    palette: Palette = DEFAULT_PALETTE,
    alpha: float = 0.05,
) -> None:
    """Draw the observed value of each pair over the central 95 % of its null.

    Filled dots are significant family-wise (step-down max-T) at `alpha`; hollow ones are not.
    """
    heights = np.arange(len(pairs))[::-1]
    for height, (i, j) in zip(heights, pairs, strict=True):
        low, high = null_quantiles(result, i, j)
        ax.plot(
            [low, high], [height, height], color=palette.fill, linewidth=7, solid_capstyle="butt"
        )
        ax.plot([result.null_mean[i, j]] * 2, [height - 0.28, height + 0.28], color=palette.edge)
        filled = result.p_value_stepdown[i, j] <= alpha
        ax.plot(
            result.statistic[i, j],
            height,
            marker="o",
            markersize=6.5,
            color=palette.accent,
            markerfacecolor=palette.accent if filled else "none",
            markeredgewidth=1.4,
        )
        if height < len(pairs) - 1 and j != pairs[len(pairs) - 2 - height][1]:
            ax.axhline(height + 0.5, color=palette.fill, linewidth=0.7, zorder=0)
    names = [
        f"{shorten(result.model_names[i], 20)} × {shorten(result.brain_names[j], 14)}"
        for i, j in pairs
    ]
    ax.set_yticks(heights, names)
    ax.set_ylim(-0.7, len(pairs) - 0.3)
    ax.axvline(0, color=palette.edge, linewidth=0.7, dashes=(3, 3), zorder=0)
    ax.set_xlabel(method_name(result.method))
    style_axes(ax, palette)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(labelsize=9)


def shorten(name: str, width: int) -> str:
    """Cut a name to `width` characters with an ellipsis in its middle."""
    if len(name) <= width:
        return name
    keep = width - 1
    return f"{name[: keep - keep // 2]}…{name[len(name) - keep // 2 :]}"


def short_p(p: float) -> str:
    """Write a p-value in a few characters: 0.31, 0.004, 2e-6."""
    if p >= 0.0995:
        return f"{p:.2f}"
    if p >= 0.001:
        return f"{p:.3f}"
    mantissa, exponent = f"{p:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"
