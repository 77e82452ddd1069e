"""Draw the figures of the training pages.

Usage: ``python docs/make_training_figures.py [docs/images]``
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rsafast_kernels.stdp import STDP, stdp_linear

# Text stays text, and a figure drawn twice is the same file.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rsafast", "font.size": 9})

RULE = STDP(a_plus=1.0, a_minus=0.6, tau_plus=4.0, tau_minus=8.0, ties="ltp")
LAGS = range(-20, 21)


def change(pre: list[int], post: list[int], rule: STDP, steps: int = 41) -> float:
    """Weight change of one synapse whose two neurons spike at these steps."""
    trains = torch.zeros(2, steps, 1, 1)
    trains[0, pre] = 1
    trains[1, post] = 1
    return stdp_linear(trains[0], trains[1], torch.zeros(1, 1), rule).item()


def draw_pair(ax: Axes) -> None:
    """One pair of spikes: the window itself, for both forms of decay."""
    for decay, style in (("exp", "o-"), ("euler", "s--")):
        rule = replace(RULE, decay=decay)
        values = [change([max(0, -dt)], [max(0, dt)], rule) for dt in LAGS]
        ax.plot(LAGS, values, style, markersize=2.5, linewidth=1, label=f'decay="{decay}"')
    ax.set_title("one pre, one post spike")


def draw_pairings(ax: Axes) -> None:
    """Two input spikes, 6 steps apart, and one output spike: which of them count."""
    for pairing, style in (("all", "o-"), ("nearest", "s--")):
        rule = replace(RULE, pairing=pairing)
        values = [change([17, 23], [20 + dt], rule) for dt in LAGS]
        ax.plot(LAGS, values, style, markersize=2.5, linewidth=1, label=f'pairing="{pairing}"')
    for spike in (-3, 3):
        ax.axvline(spike, color="0.6", linewidth=0.8, linestyle=":")
    ax.set_title("two pre spikes (dotted), one post spike")


def stdp_window() -> Figure:
    """Weight change against the time of the output spike."""
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    draw_pair(axes[0])
    draw_pairings(axes[1])
    axes[0].set_ylabel("weight change")
    for ax in axes:
        ax.axhline(0, color="0.6", linewidth=0.8)
        ax.set_xlabel("post − pre (steps)" if ax is axes[0] else "post spike (steps)")
        ax.legend(frameon=False)
    return figure


def main(folder: Path) -> None:
    """Draw all figures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    stdp_window().savefig(folder / "stdp-window.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
