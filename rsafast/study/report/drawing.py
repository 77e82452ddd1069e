"""The drawings of a study, each a Matplotlib figure of its own, and a name for each condition.

A rule is told from others by its marker and its dashes as well as by its colour; controls are
hollow and dashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from rsafast.permutation.result import PermutationResult
from rsafast.plotting import (
    DEFAULT_PALETTE,
    draw_rdm,
    histogram_edges,
    method_name,
    shorten,
    style_axes,
)
from rsafast.study.networks import CONTROL, UNTRAINED

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_INK, _MUTED, _BAND = DEFAULT_PALETTE.ink, DEFAULT_PALETTE.muted, "#e3e8ee"
_SUBJECT = 0.8  # opacity of a subject's point: a contrast of 3 on the band of the noise ceiling
WIDTH = 10.4  # inches of the widest figure: what a page of 66 rem holds
# Of the colours of Okabe and Ito, darkened until each has a contrast of 4.5 with white.
_STYLES = {
    UNTRAINED: ("#4d565f", "D"), "bp": ("#0068a8", "o"), "fa": ("#b84a00", "s"),
    "pc": ("#00745a", "^"), "stdp": ("#9c3a7b", "v"),
}  # fmt: skip
_OTHERS = (("#6b5a00", "P"), ("#7a1f1f", "X"), ("#3d3d8f", "<"), ("#245c24", ">"))


@dataclass(frozen=True)
class Look:
    """How a condition is drawn."""

    colour: str
    marker: str
    control: bool

    @property
    def dashes(self) -> Literal["-", "--"]:
        """Style of its lines."""
        return "--" if self.control else "-"

    def point(self, **more: Any) -> dict[str, Any]:
        """Options of a marker."""
        face = "white" if self.control else self.colour
        return {
            "color": self.colour, "marker": self.marker, "markerfacecolor": face,
            "markeredgecolor": self.colour, "markersize": 6, "markeredgewidth": 1.4,
        } | more  # fmt: skip


def look_of(condition: str, conditions: Sequence[str]) -> Look:
    """Colour and marker of a condition, a control's those of its rule."""
    rule = condition.removesuffix(CONTROL)
    rules = dict.fromkeys(name.removesuffix(CONTROL) for name in conditions)
    others = [name for name in rules if name not in _STYLES]
    style = _STYLES[rule] if rule in _STYLES else _OTHERS[others.index(rule) % len(_OTHERS)]
    return Look(*style, control=condition.endswith(CONTROL))


def grid(
    n: int, columns: int, width: float, height: float, *, across: float = 0.0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `n` panels of so many inches in rows of `columns`; `across` is added."""
    columns = min(n, columns)
    rows = -(-n // columns)
    size = (min(across + width * columns, WIDTH), height * rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for spare in panels[n:]:
        spare.remove()
    return figure, panels[:n]


def _style(ax: Axes, title: str = "") -> None:
    style_axes(ax)
    ax.tick_params(labelsize=9)
    ax.xaxis.label.set_fontsize(9)
    ax.yaxis.label.set_fontsize(9)
    if title:
        ax.set_title(title, fontsize=9.5, color=_INK, loc="left", fontweight="bold")


def _legend(
    figure: Figure, conditions: Sequence[str], more: Sequence[Any] = (), *, lines: bool = True
) -> None:
    handles = []
    for name in conditions:
        look = look_of(name, conditions)
        handle = Line2D([], [], linewidth=1.4, label=name, **look.point())
        handle.set_linestyle(look.dashes if lines else "")
        handles.append(handle)
    handles += list(more)
    columns = min(max(int(figure.get_figwidth() // 1.3), 1), len(handles))
    # Matplotlib fills columns; names are read along rows.
    handles = [handles[i] for c in range(columns) for i in range(c, len(handles), columns)]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, frameon=False,
        fontsize=9, labelcolor=_INK, handlelength=2.4, columnspacing=1.4,
    )  # fmt: skip


def draw_alignment(panels: Sequence[dict[str, Any]], method: str) -> Figure:
    """Draw alignment by condition, a panel a region.

    Each panel: title, conditions, points (condition to one value a subject), intervals (condition
    to an `Interval`), lower and upper (noise ceiling).
    """
    rules = list(dict.fromkeys(c.removesuffix(CONTROL) for c in panels[0]["conditions"]))
    columns = min(len(panels), 4 if len(rules) <= 5 else 2)
    figure, axes = grid(len(panels), columns, max(WIDTH / columns, 2.6), 3.0)
    for ax, panel in zip(axes, panels, strict=True):
        _draw_conditions(ax, panel, rules)
        _style(ax, panel["title"])
    for ax in axes[::columns]:
        ax.set_ylabel(method_name(method))
    subject = Line2D([], [], linestyle="", marker="o", markersize=3.5, color=_MUTED, alpha=_SUBJECT,
                     label="one subject")  # fmt: skip
    ceiling = Line2D([], [], linewidth=8, color=_BAND, label="noise ceiling")
    _legend(figure, panels[0]["conditions"], [subject, ceiling])
    return figure


def _draw_conditions(ax: Axes, panel: dict[str, Any], rules: list[str]) -> None:
    reach = []
    for name in panel["conditions"]:
        look = look_of(name, panel["conditions"])
        rule = name.removesuffix(CONTROL)
        paired = f"{rule}{CONTROL}" in panel["conditions"]
        at = rules.index(rule) + (0.22 if look.control else -0.22 if paired else 0.0)
        points = np.asarray(panel["points"][name], float)
        spread = np.linspace(-0.09, 0.09, len(points)) if len(points) > 1 else np.zeros(1)
        ax.plot(at + spread, points, linestyle="", marker="o", markersize=3.2, color=_MUTED,
                alpha=_SUBJECT, markeredgewidth=0)  # fmt: skip
        own = panel["intervals"][name]
        if np.isfinite(own.low):
            ax.plot([at, at], [own.low, own.high], color=look.colour, linewidth=1.8,
                    linestyle=look.dashes)  # fmt: skip
        ax.plot([at], [own.estimate], linestyle="", **look.point(zorder=3))
        reach += [*points, own.estimate, own.low, own.high]
    low, high = np.nanmin([*reach, 0.0]), np.nanmax([*reach, panel["lower"], 0.0])
    margin = 0.08 * (high - low) or 0.1
    ax.set_ylim(low - margin, high + 2 * margin)
    _draw_ceiling(ax, panel["lower"], panel["upper"])
    ax.axhline(0, color=_MUTED, linewidth=0.7, dashes=(3, 3), zorder=0)
    ax.set_xlim(-0.6, len(rules) - 0.4)
    turn = len(rules) > 3
    ax.set_xticks(range(len(rules)), [shorten(rule, 12) for rule in rules],
                  rotation=35 if turn else 0, ha="right" if turn else "center",
                  rotation_mode="anchor")  # fmt: skip


def _draw_ceiling(ax: Axes, lower: float, upper: float) -> None:
    """Draw the band as far as the axis goes, and say where it ends beyond that."""
    if not np.isfinite(lower):
        return
    top = ax.get_ylim()[1]
    end = upper if np.isfinite(upper) else lower
    ax.axhspan(lower, min(end, top), color=_BAND, zorder=-2, linewidth=0)
    ax.axhline(lower, color=DEFAULT_PALETTE.edge, linewidth=0.8, zorder=-1)
    if end > top:
        ax.annotate(f"ceiling up to {end:.2f}", (1, 1), xycoords="axes fraction", xytext=(-3, -3),
                    textcoords="offset points", ha="right", va="top", fontsize=8.5,
                    color=_INK)  # fmt: skip


def draw_trajectories(
    panels: Sequence[dict[str, Any]], conditions: Sequence[str], method: str
) -> Figure:
    """Draw alignment over training with simultaneous bands, a panel a region.

    Each panel: title, curves (condition to a table with epoch, estimate, band_low, band_high),
    limits (of the vertical axis, or None).
    """
    columns = min(len(panels), 2)
    figure, axes = grid(len(panels), columns, WIDTH / 2, 3.0)
    for ax, panel in zip(axes, panels, strict=True):
        _draw_curves(ax, panel["curves"], conditions)
        if panel["limits"] is not None:
            ax.set_ylim(*panel["limits"])
        _style(ax, panel["title"])
        ax.set_xlabel("epoch (log scale from 1)")
    for ax in axes[::columns]:
        ax.set_ylabel(method_name(method))
    _legend(figure, conditions)
    return figure


def _draw_curves(ax: Axes, curves: dict[str, Any], conditions: Sequence[str]) -> None:
    epochs = sorted({float(e) for curve in curves.values() for e in curve["epoch"]})
    for number, (name, curve) in enumerate(curves.items()):
        look = look_of(name, conditions)
        # Side by side, so that bands over the same checkpoint do not hide one another.
        shift = 0.014 * (number - (len(curves) - 1) / 2)
        at = _log_epoch(curve["epoch"].to_numpy(float)) + shift * _log_epoch(np.array(epochs[-1]))
        low, high = curve["band_low"].to_numpy(float), curve["band_high"].to_numpy(float)
        ax.vlines(at, low, high, color=look.colour, linewidth=1.1, linestyles=look.dashes,
                  alpha=0.75)  # fmt: skip
        ax.plot(at, curve["estimate"], linestyle=look.dashes, linewidth=1.4,
                **look.point(markersize=4.5, markeredgewidth=1.1))  # fmt: skip
    ax.axhline(0, color=_MUTED, linewidth=0.7, dashes=(3, 3), zorder=0)
    ax.set_xticks(_log_epoch(np.array(epochs)), [f"{epoch:g}" for epoch in epochs])


def _log_epoch(epoch: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place of an epoch on an axis that is logarithmic from 1 on, with 0 one step before it."""
    return np.where(epoch < 1, epoch, 1 + np.log2(np.maximum(epoch, 1)) / 1.5)


def draw_rows(
    labels: Sequence[str], panels: Sequence[dict[str, Any]], xlabel: str, *, far: bool = False
) -> Figure:
    """Draw estimates with intervals, rows shared by all panels (one a region).

    Each panel: title, rows (one dict a label or None: estimate, low, high, filled, before).
    ``before`` is a hollow diamond that an arrow leads from. ``far`` bends a wide axis.
    """
    columns = min(len(panels), 4)
    label_width = 0.075 * max(map(len, labels)) + 0.2
    width = min((WIDTH - label_width) / columns, 4.2)
    figure, axes = grid(len(panels), columns, width, 0.95 + 0.27 * len(labels),
                        across=label_width, sharey=True)  # fmt: skip
    heights = np.arange(len(labels))[::-1]
    for ax, panel in zip(axes, panels, strict=True):
        if far:
            ax.set_xscale("symlog", linthresh=1)
        for height, row in zip(heights, panel["rows"], strict=True):
            _draw_row(ax, height, row)
        ax.axvline(0, color=_MUTED, linewidth=0.7, dashes=(3, 3), zorder=0)
        ax.set_yticks(heights, labels)
        ax.set_ylim(-0.7, len(labels) - 0.3)
        _style(ax, panel["title"])
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        if far:
            _sparse_ticks(ax)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
        ax.set_xlabel(xlabel)
    return figure


def _draw_row(ax: Axes, height: float, row: dict[str, Any] | None) -> None:
    if row is None or not np.isfinite(row["estimate"]):
        ax.annotate("not available", (0.5, height), xycoords=("axes fraction", "data"),
                    ha="center", va="center", fontsize=8.5, color=_MUTED,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        return
    colour = DEFAULT_PALETTE.accent if row["filled"] else DEFAULT_PALETTE.edge
    if np.isfinite(row["low"]) and np.isfinite(row["high"]):
        ax.plot([row["low"], row["high"]], [height, height], color=colour, linewidth=1.8)
    if row.get("before") is not None:
        arrow = {"arrowstyle": "->", "color": _MUTED, "lw": 1, "shrinkB": 3}
        ax.annotate("", (row["estimate"], height), (row["before"], height), arrowprops=arrow)
        ax.plot([row["before"]], [height], marker="D", markersize=5, color=_MUTED,
                markerfacecolor="white", markeredgewidth=1.3)  # fmt: skip
    ax.plot([row["estimate"]], [height], marker="o", markersize=6.5, color=colour,
            markerfacecolor=colour if row["filled"] else "white", markeredgewidth=1.4)  # fmt: skip


def _sparse_ticks(ax: Axes) -> None:
    """Ticks of an axis that is linear to 1 and logarithmic beyond: 0, 1, 10, ... on each side."""
    low, high = ax.get_xlim()
    ticks = [t for k in range(0, 9, 1 if max(-low, high) < 200 else 2)
             for t in (-(10.0**k), 10.0**k)]  # fmt: skip
    ax.xaxis.set_major_locator(FixedLocator([0.0, *(t for t in sorted(ticks) if low <= t <= high)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def draw_nulls(
    result: PermutationResult, rows: Any, regions: Sequence[str], rules: Sequence[str]
) -> Figure:
    """Draw the nulls of the pre-specified pairs: a row a region, a column a rule, a line a seed.

    `rows` is the table of those pairs, whose index numbers all pairs of `result`.
    """
    figure, axes = grid(
        len(regions) * len(rules), len(rules), max(min(WIDTH / len(rules), 3.2), 1.7), 1.75,
        sharex="row", sharey=True,
    )  # fmt: skip
    cells = [(region, rule) for region in regions for rule in rules]
    for number, (ax, (region, rule)) in enumerate(zip(axes, cells, strict=True)):
        look = look_of(rule, rules)
        own = rows[(rows["region"] == region) & (rows["rule"] == rule)]
        for index in own.index:
            model, brain = divmod(int(index), len(result.brain_names))
            counts = np.maximum(result.histogram[model, brain], 0.5)
            edges = histogram_edges(result, model, brain)
            ax.stairs(counts, edges, baseline=0.5, fill=True, color=DEFAULT_PALETTE.fill, alpha=0.6)
            ax.stairs(counts, edges, baseline=0.5, color=DEFAULT_PALETTE.edge, linewidth=0.7)
            ax.axvline(result.statistic[model, brain], color=look.colour, linewidth=1.6)
        ax.set_yscale("log")
        _style(ax, f"{shorten(region, 12)}, {shorten(rule, 11)}")
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
        if number // len(rules) == len(regions) - 1:
            ax.set_xlabel(method_name(result.method))
        if number % len(rules) == 0:
            ax.set_ylabel("relabellings")
    return figure


def draw_rdms(rows: Sequence[tuple[str, Sequence[tuple[str, NDArray[np.float64]]]]], n: int) -> Any:
    """Draw RDMs as percentiles, a row a heading; each row: (heading, [(name, vector), ...])."""
    columns = min(max(len(row) for _, row in rows), 9)
    lines = [(heading if start == 0 else "", row[start : start + columns])
             for heading, row in rows for start in range(0, len(row), columns)]  # fmt: skip
    side = min(1.5, (WIDTH - 0.9) / columns)
    figure = Figure(figsize=(0.9 + side * columns, (side + 0.3) * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, (heading, row) in zip(axes, lines, strict=True):
        for ax, cell in zip(line, [*row, *[None] * (columns - len(row))], strict=True):
            if cell is None:
                ax.remove()
                continue
            draw_rdm(ax, cell[1], n)
            ax.set_title(shorten(cell[0], 14), fontsize=8.5, color=_INK)
        line[0].annotate(heading, (-0.12, 0.5), xycoords="axes fraction", ha="right", va="center",
                         fontsize=9.5, fontweight="bold", color=_INK)  # fmt: skip
    return figure


def draw_map(
    regions: dict[str, NDArray[np.float64]],
    networks: dict[str, dict[str, NDArray[np.float64]]],
    conditions: Sequence[str],
) -> Figure:
    """Draw points of a plane: regions as stars with names, networks by layer, a panel a layer."""
    columns = min(len(networks), 3)
    figure, axes = grid(len(networks), columns, WIDTH / 3 if columns > 1 else 5.2, 3.5,
                        sharex=True, sharey=True)  # fmt: skip
    everything = np.array([*regions.values(), *(p for own in networks.values()
                                                for p in own.values())])  # fmt: skip
    span = np.ptp(everything, axis=0).max() or 1.0
    middle = (everything.max(0) + everything.min(0)) / 2
    for ax, (layer, own) in zip(axes, networks.items(), strict=True):
        for other in networks.values():
            for point in other.values():
                ax.plot(*point, marker=".", markersize=4, color="#828c97")
        for name, point in own.items():
            look = look_of(name, conditions)
            face = "none" if look.control else look.colour
            ax.plot(*point, **look.point(markersize=7, markerfacecolor=face))
        _draw_regions(ax, regions, 0.06 * span, right=middle[0] + 0.3 * span)
        ax.set_xlim(middle[0] - 0.66 * span, middle[0] + 0.66 * span)
        ax.set_ylim(middle[1] - 0.6 * span, middle[1] + 0.6 * span)
        ax.set_aspect("equal")
        ax.set_xticks([])
        ax.set_yticks([])
        _style(ax, layer)
        for spine in ax.spines.values():
            spine.set(visible=True, color=DEFAULT_PALETTE.fill)
    _legend(figure, conditions, lines=False)
    return figure


def _draw_regions(
    ax: Axes, regions: dict[str, NDArray[np.float64]], gap: float, right: float
) -> None:
    """Draw stars, and names that keep a distance from each other and, past `right`, are inside."""
    below = -np.inf
    for name, point in sorted(regions.items(), key=lambda item: float(item[1][1])):
        height = max(float(point[1]), below + gap)
        below = height
        ax.plot(*point, marker="*", markersize=11, color=_INK, markeredgecolor="white")
        side = -gap if point[0] > right else gap
        ax.plot([point[0], point[0] + 0.8 * side], [point[1], height], color=_MUTED, linewidth=0.6)
        ax.annotate(shorten(name, 14), (point[0] + side, height), va="center", fontsize=9,
                    ha="right" if side < 0 else "left", color=_INK)  # fmt: skip


def draw_learning(
    accuracy: dict[str, Any], drift: dict[str, dict[str, float]], rules: Sequence[str]
) -> Figure:
    """Draw accuracy over epochs (rule to a series) and drift by layer (rule to layer to share)."""
    figure = Figure(figsize=(WIDTH * 0.85, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = sorted({float(e) for series in accuracy.values() for e in series.index})
    for rule, series in accuracy.items():
        left.plot(_log_epoch(series.index.to_numpy(float)), 100 * series.to_numpy(float),
                  linewidth=1.4, **look_of(rule, rules).point(markersize=5))  # fmt: skip
    left.set_xticks(_log_epoch(np.array(epochs)), [f"{epoch:g}" for epoch in epochs])
    if not epochs:
        left.set_yticks([])
        left.text(0.5, 0.5, "not known", ha="center", va="center", transform=left.transAxes,
                  fontsize=9, color=_MUTED)  # fmt: skip
    left.set_xlabel("epoch (log scale from 1)")
    left.set_ylabel("test accuracy, %")
    _style(left, "Accuracy")
    layers = list(dict.fromkeys(layer for own in drift.values() for layer in own))
    for number, (rule, own) in enumerate(drift.items()):
        shift = 0.12 * (number - (len(drift) - 1) / 2)
        known = [(layers.index(layer) + shift, 100 * value) for layer, value in own.items()
                 if value > 0]  # fmt: skip
        if known:
            right.plot(*zip(*known, strict=True), linestyle="", **look_of(rule, rules).point())
    if any(value > 0 for own in drift.values() for value in own.values()):
        right.set_yscale("log")
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.axhline(1, color=_MUTED, linewidth=0.9, dashes=(3, 3))
    right.set_xticks(range(len(layers)), layers)
    right.set_ylabel("weight drift, %")
    _style(right, "Drift after the last epoch")
    _legend(figure, rules)
    return figure


def draw_depth(panels: Sequence[dict[str, Any]], method: str) -> Figure:
    """Draw alignment by layer, a panel a network and region.

    Each panel: title, layers, estimate, low, high, filled (one a layer), lower and upper (noise
    ceiling).
    """
    columns = min(len(panels), 2)
    figure, axes = grid(len(panels), columns, WIDTH / 2, 3.4)
    for ax, panel in zip(axes, panels, strict=True):
        _draw_layers(ax, panel)
        _style(ax, panel["title"])
    for ax in axes[::columns]:
        ax.set_ylabel(method_name(method))
    _legend(figure, [], [Line2D([], [], linewidth=8, color=_BAND, label="noise ceiling")])
    return figure


def _draw_layers(ax: Axes, panel: dict[str, Any]) -> None:
    at, estimate = np.arange(len(panel["layers"])), panel["estimate"]
    ax.plot(at, estimate, color=DEFAULT_PALETTE.edge, linewidth=0.9)
    for filled, colour in ((True, DEFAULT_PALETTE.accent), (False, DEFAULT_PALETTE.edge)):
        own = panel["filled"] == filled
        ax.vlines(at[own], panel["low"][own], panel["high"][own], color=colour, linewidth=1.6)
        ax.plot(at[own], estimate[own], linestyle="", marker="o", markersize=5.5, color=colour,
                markerfacecolor=colour if filled else "white", markeredgewidth=1.3)  # fmt: skip
    reach = [*estimate, *panel["low"], *panel["high"], panel["lower"], 0.0]
    low, high = np.nanmin(reach), np.nanmax(reach)
    margin = 0.08 * (high - low) or 0.1
    ax.set_ylim(low - margin, high + 2 * margin)
    _draw_ceiling(ax, panel["lower"], panel["upper"])
    ax.axhline(0, color=_MUTED, linewidth=0.7, dashes=(3, 3), zorder=0)
    ax.set_xticks(at, [shorten(layer, 14) for layer in panel["layers"]], rotation=90)
