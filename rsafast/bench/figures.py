"""Drawings of a result: rates against size, the roofline, ratios to peers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsafast.bench.words import si, times
from rsafast.plotting import DEFAULT_PALETTE, shorten, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Result = dict[str, Any]
Points = dict[str, dict[int, float]]

_OURS = "rsafast"
# Apart for the colour-blind as well (Okabe & Ito).
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#8A6D00", "#444444")
_LINE = 0.28  # inches of a row in the figure of ratios


def draw(result: Result, folder: Path) -> list[Path]:
    """Write rates.svg, roofline.svg and, where there are peers, peers.svg; return their paths."""
    drawings: list[tuple[str, Callable[[Result], Figure | None]]] = [
        ("rates.svg", rates_figure), ("roofline.svg", roofline_figure), ("peers.svg", peers_figure)
    ]  # fmt: skip
    written = []
    for name, make in drawings:
        figure = make(result)
        if figure is not None:
            figure.savefig(folder / name, metadata={"Date": None})
            written.append(folder / name)
    return written


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _right(result: Result) -> list[Result]:
    """Rows whose answers were right."""
    return [row for row in result["rows"] if row["wrong"] is None]


def _series(rows: list[Result]) -> Points:
    """Provider -> size -> its best rate on that size."""
    found: Points = {}
    for row in rows:
        where = "" if row["device"] == "cpu" else " (GPU)"
        rates = [(_OURS, row["rate"])]
        rates += [
            (p["name"], p["rate"])
            for p in row["peers"] if p["role"] == "peer" and p["wrong"] is None
        ]  # fmt: skip
        for name, rate in rates:
            points = found.setdefault(name + where, {})
            points[row["size"]] = max(points.get(row["size"], 0.0), rate)
    return found


def rates_figure(result: Result) -> Figure | None:
    """One panel a kernel: items a second against size, ours and the peers'."""
    rows = _right(result)
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    if not kernels:
        return None
    columns = min(3, len(kernels))
    lines = -(-len(kernels) // columns)
    figure = _figure(3.2 * columns, 2.6 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, kernel in zip(panels, kernels, strict=False):
        chosen = [row for row in rows if row["kernel"] == kernel]
        _draw_rates(ax, _series(chosen))
        ax.set_title(kernel, fontsize=9.5, loc="left", color=DEFAULT_PALETTE.ink)
        ax.set_ylabel(f"{chosen[0]['unit']} / s")
    for ax in panels[len(kernels) :]:
        ax.set_axis_off()
    figure.supxlabel(
        "size: stimuli, entries, images or neurons", fontsize=8.5, color=DEFAULT_PALETTE.ink
    )
    return figure


def _draw_rates(ax: Axes, series: Points) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    others = iter(_COLOURS * 3)
    for name, points in series.items():
        ours = name.startswith(_OURS)
        colour = DEFAULT_PALETTE.accent if ours else next(others)
        sizes = sorted(points)
        ax.plot(
            sizes, [points[s] for s in sizes], marker="o" if ours else "s", markersize=4,
            color=colour, linewidth=1.8 if ours else 1.1, linestyle="-" if ours else "--",
            label=name,
        )  # fmt: skip
    values = [rate for points in series.values() for rate in points.values()]
    sizes = sorted({size for points in series.values() for size in points})
    ax.set(xscale="log", yscale="log")
    # Room for one size alone, and for the names above the highest point.
    ax.set_xlim(sizes[0] / 1.8, sizes[-1] * 1.8)
    ax.set_ylim(min(values) / 3, max(values) * 10 ** (0.5 + 0.35 * len(series)))
    shown = sizes[:1]
    for size in sizes[1:]:  # names of sizes closer than this would overlap
        if np.log(size / shown[-1]) > 0.12 * np.log(sizes[-1] / sizes[0]):
            shown.append(size)
    ax.set_xticks(shown, [si(size) for size in shown])
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())
    if len(series) > 1:
        ax.legend(fontsize=6.5, frameon=False, loc="upper left", handlelength=1.6, borderpad=0.1)
    style_axes(ax)


def roofline_figure(result: Result) -> Figure | None:
    """Operations a second against operations a byte, under the limits of the machine."""
    rows = _right(result)
    devices = list(dict.fromkeys(row["device"] for row in rows))
    if not devices:
        return None
    figure = _figure(6.4 * len(devices), 4.2)
    for ax, device in zip(figure.subplots(1, len(devices), squeeze=False)[0], devices, strict=True):
        chosen = [row for row in rows if row["device"] == device]
        _draw_roofline(ax, chosen, result["limits"][device])
        ax.set_title(
            result["machine"]["processor" if device == "cpu" else "gpu"], fontsize=9.5, loc="left",
            color=DEFAULT_PALETTE.ink,
        )  # fmt: skip
    return figure


def _draw_roofline(ax: Axes, rows: list[Result], limits: Result) -> None:
    palette = DEFAULT_PALETTE
    intensities = np.array([row["operations"] / row["bytes"] for row in rows])
    achieved = np.array([row["operations"] / row["seconds"]["median"] for row in rows])
    low, high = min(intensities.min(), 0.3) / 2, max(intensities.max(), 100.0) * 6
    x = np.geomspace(low, high, 200)
    top = max(limits["operations"].values())
    for (size, rate), style in zip(
        (limits["bandwidth"][-1], limits["bandwidth"][0]), ("-", ":"), strict=True
    ):
        ax.plot(
            x, np.minimum(rate * x, top), style, color=palette.edge, linewidth=1.3,
            label=f"{si(rate, 'B')}/s over {si(size, 'B')}",
        )  # fmt: skip
    for dtype, rate in limits["operations"].items():
        ax.axhline(rate, color=palette.edge, linewidth=0.9, dashes=(4, 3))
        ax.annotate(
            f"{dtype} product, {si(rate)} op/s", (high, rate), xytext=(-2, 2), ha="right",
            textcoords="offset points", fontsize=7.5, color=palette.muted,
        )  # fmt: skip
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    colours = dict(zip(kernels, (palette.accent, *_COLOURS) * 3, strict=False))
    markers = dict(zip(kernels, "oooooossssss", strict=False))
    for kernel in kernels:
        mine = [k for k, row in enumerate(rows) if row["kernel"] == kernel]
        ax.plot(
            intensities[mine], achieved[mine], markers[kernel], color=colours[kernel], markersize=5,
            alpha=0.85, markeredgewidth=0, label=kernel,
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(achieved.min() / 3, top * 3))
    ax.set_xlabel("operations per byte that must move")
    ax.set_ylabel("operations / s")
    ax.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    style_axes(ax)


def peers_figure(result: Result) -> Figure | None:
    """Ratio of rates to those of each peer; hollow marks are yardsticks, which do other work."""
    rows = [(row, [p for p in row["peers"] if p["wrong"] is None]) for row in _right(result)]
    rows = [(row, peers) for row, peers in rows if peers]
    if not rows:
        return None
    figure = _figure(8.2, 1.0 + _LINE * len(rows))
    ax = figure.subplots()
    heights = np.arange(len(rows))[::-1]
    for height, (_, peers) in zip(heights, rows, strict=True):
        _draw_ratios(ax, height, peers)
    names = [f"{row['kernel']}: {shorten(row['name'], 52)}" for row, _ in rows]
    gpu = [" (GPU)" if row["device"] == "cuda" else "" for row, _ in rows]
    ax.set_yticks(heights, [n + g for n, g in zip(names, gpu, strict=True)])
    ax.axvline(1, color=DEFAULT_PALETTE.edge, linewidth=0.9, dashes=(4, 3), zorder=0)
    ratios = [p["ratio"] for _, peers in rows for p in peers]
    ax.set(xscale="log", xlim=(min(*ratios, 0.5) / 2, max(ratios) * 400))
    ax.set_ylim(-0.8, len(rows) - 0.2)
    ax.set_xlabel("rate of rsafast over that of the peer")
    style_axes(ax)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color=DEFAULT_PALETTE.fill, linewidth=0.5)
    return figure


def _draw_ratios(ax: Axes, height: float, peers: list[Result]) -> None:
    palette = DEFAULT_PALETTE
    for peer in peers:
        rival = peer["role"] == "peer"
        ax.plot(
            peer["ratio"], height, "o", markersize=5.5, markeredgewidth=1.2,
            color=palette.accent if rival else palette.edge,
            markerfacecolor=palette.accent if rival else "white",
        )  # fmt: skip
    rivals = [p for p in peers if p["role"] == "peer"] or peers
    fastest = min(rivals, key=lambda p: p["ratio"])
    ax.annotate(
        f"{fastest['name']} {times(fastest['ratio'])}",
        (max(p["ratio"] for p in peers), height), xytext=(7, 0), textcoords="offset points",
        va="center", fontsize=7.5, color=palette.muted,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip
