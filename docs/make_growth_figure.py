"""Draw how time, memory and disk grow with stimuli and with shuffles, from stored measurements.

Usage: ``python docs/make_growth_figure.py benchmarks/results/ondisk-DATE.json [docs/images]``

Prints the exponent of every stage between its two largest sizes.
"""

from __future__ import annotations

import json
import sys
from math import log
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rsafast", "font.size": 8})

Curves = dict[str, list[tuple[float, float]]]
STAGES = {
    "RDMs": "seconds_two_rdms",
    "ranks": "seconds_two_ranks",
    "survey and score": "survey",
    "reading, filling": "reading and filling",
    "transforms, products": "transforms and products",
}


def stage_curves(rows: list[dict[str, Any]], x: str) -> Curves:
    """Seconds of every stage against `x`."""
    curves: Curves = {}
    for name, key in STAGES.items():
        points = [(row[x], row[key] if key in row else row["stages"].get(key)) for row in rows]
        if found := [(a, b) for a, b in points if b is not None and (key in rows[0] or a)]:
            curves[name] = found
    return curves


def draw(ax: Axes, curves: Curves, xlabel: str, ylabel: str) -> None:
    """Curves on logarithmic axes, each with its name."""
    for name, points in curves.items():
        ax.loglog(*zip(*points, strict=True), marker="o", markersize=2.5, linewidth=1, label=name)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(visible=True, which="major", linewidth=0.3)


def reference(ax: Axes, sizes: list[float], at_largest: float, power: float, name: str) -> None:
    """A dashed line of a power law through a floor at the largest size."""
    x = np.array([sizes[0], sizes[-1]])
    ax.loglog(x, at_largest * (x / x[-1]) ** power, "--", color="0.5", linewidth=0.8, label=name)


def exponents(curves: Curves) -> dict[str, float]:
    """Slope between the last two points of every curve."""
    return {
        name: log(points[-1][1] / points[-2][1]) / log(points[-1][0] / points[-2][0])
        for name, points in curves.items()
        if len(points) > 1 and points[-2][1] > 0
    }


def main(results: Path, folder: Path) -> None:
    """Read, draw, print."""
    stored = json.loads(results.read_text())
    sizes, shuffles = stored["sizes"], stored["shuffles"]
    figure = Figure(figsize=(9.0, 3.0), layout="constrained")
    time, space, growth = figure.subplots(1, 3)

    by_size = stage_curves(sizes, "stimuli")
    draw(time, by_size, "stimuli", "seconds")
    n = [row["stimuli"] for row in sizes]
    reference(time, n, stored["floors"]["products_73000_seconds"], 2, "floor of the products")
    time.set_title("time, 10⁵ relabellings", fontsize=8)

    bytes_of: Curves = {
        "disk": [(row["stimuli"], row["disk_bytes"] / 1e9) for row in sizes],
        "memory, peak": [(row["stimuli"], row["peak_bytes"] / 1e9) for row in sizes],
        "features": [(row["stimuli"], 2 * row["features_bytes"] / 1e9) for row in sizes],
    }
    draw(space, bytes_of, "stimuli", "GB")
    space.set_title("disk and memory", fontsize=8)

    by_shuffles = stage_curves(shuffles, "relabellings")
    by_shuffles["in all"] = [(row["relabellings"], row["seconds_test"]) for row in shuffles]
    draw(growth, by_shuffles, "relabellings", "seconds")
    reference(
        growth,
        [row["relabellings"] for row in shuffles],
        stored["floors"]["shuffles_seconds"],
        1,
        "floor of the products",
    )
    growth.set_title(f"time, {shuffles[0]['stimuli']:,} stimuli", fontsize=8)
    for ax in (time, space, growth):
        ax.legend(fontsize=6, frameon=False)
    figure.savefig(folder / "growth.svg", metadata={"Date": None})
    for title, curves in (("stimuli", by_size), ("relabellings", by_shuffles), ("GB", bytes_of)):
        for name, power in exponents(curves).items():
            print(f"{title}: {name} grows with exponent {power:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images"))
