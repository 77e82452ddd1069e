"""Learning curves: what a run learned, and how far every layer moved to learn it."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DRIFT = "drift/"


def learning_curves(table: pd.DataFrame) -> Figure:
    """Accuracy and drift of weights over epochs, one thin line a seed and their mean.

    Parameters
    ----------
    table : of one run, as :func:`rsafast_training.checkpoints.metrics_table` gives it

    Returns
    -------
    Figure
        Left, accuracy on test images at checkpoints and, dashed, on the training batches as they
        were learned from. Right, the change of every layer's weights since initialisation.
    """
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, table, "train_accuracy", "training batches", _COLOURS[1], "--")
    _lines(left, table, "test_accuracy", "test images", _COLOURS[0], "o-")
    left.set(ylabel="accuracy", ylim=(0, 1))
    layers = [c for c in table.columns if c.startswith(_DRIFT) and table[c].notna().any()]
    for column, colour in zip(layers, _COLOURS * len(layers), strict=False):
        _lines(right, table, column, column.removeprefix(_DRIFT), colour, "-")
    right.set(ylabel="drift of weights", ylim=(0, None))
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    runs = ", ".join(table["run"].unique())
    figure.suptitle(f"{runs}: {table['seed'].nunique()} seeds", fontsize=10)
    return figure


def _lines(
    axes: Axes, table: pd.DataFrame, column: str, label: str, colour: str, style: str
) -> None:
    if column not in table or not table[column].notna().any():
        return
    for _, seed in table.dropna(subset=[column]).groupby("seed"):
        axes.plot(seed["epoch"], seed[column], color=colour, lw=0.6, alpha=0.5)
    mean = table.dropna(subset=[column]).groupby("epoch")[column].mean()
    axes.plot(mean.index, mean, style, color=colour, lw=2, ms=4, label=label)
