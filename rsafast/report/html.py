"""Builds the page: chooses what is shown, draws it, fills the template, writes the file at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rsafast_kernels.atomic import write_text

from rsafast.permutation.result import TAIL_NAMES, PermutationResult
from rsafast.plotting import (
    CORRECTION_NAMES,
    MAX_LABELLED_CELLS,
    MAX_SHOWN_STIMULI,
    draw_forest,
    draw_null,
    draw_p_matrix,
    draw_rdm,
    method_name,
    shorten,
)
from rsafast.report import text
from rsafast.report.figures import PAGE_PALETTE, Panel, render

if TYPE_CHECKING:
    from rsafast.rdms import RDMs

MAX_ROWS = 200
MAX_RDMS = 12
MAX_NULLS = 12
MAX_FOREST = 40
MAX_MATRIX_CELLS = 4_000


@dataclass(frozen=True, slots=True)
class Section:
    """Panels under one heading, and a note on what was left out (empty if nothing was)."""

    panels: list[Panel]
    note: str = ""


def write_report(
    path: str | Path,
    result: PermutationResult,
    models: RDMs | None = None,
    brain: RDMs | None = None,
    title: str = "Representational similarity: permutation test",
    about: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write a self-contained HTML report of a permutation test.

    The file loads nothing from anywhere: figures are inline SVG, and there are no fonts or scripts
    from outside. It follows the reader's light or dark mode and fits a phone.

    Parameters
    ----------
    path : the .html file; it appears only once it is complete.
    result : what :func:`rsafast.permutation_test` returned.
    models, brain : RDMs of the two sides, to be shown as heatmaps; left out if None.
    title : heading of the page.
    about : (heading, text) pairs on the data, shown before the results; plain text.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InvalidInputError
        The folder of `path` does not exist or cannot be written.
    """
    page = template("rsafast.report", "report.html.jinja")
    return write_text(path, page.render(**_content(result, models, brain, title, about)))


def template(package: str, name: str) -> Any:
    """Load a page of `package`, which may use the style and the parts that all pages share."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    packages = dict.fromkeys((package, "rsafast.report"))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(own, "templates") for own in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _content(
    result: PermutationResult,
    models: RDMs | None,
    brain: RDMs | None,
    title: str,
    about: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    return {
        "title": title,
        "about": list(about),
        "headline": text.headline(result),
        "facts": _facts(result),
        "statistic_name": method_name(result.method),
        "columns": _columns(result),
        "rows": _rows(result),
        "left_out": max(result.n_pairs - MAX_ROWS, 0),
        "forest": _forest(result),
        "nulls": _nulls(result),
        "matrices": _matrices(result),
        "rdms": [
            (side, _heatmaps(rdms, side))
            for side, rdms in (("Model", models), ("Brain", brain))
            if rdms is not None
        ],
        "meaning": text.meaning(result),
        "methods": text.methods(result),
        "references": text.references(result),
        "parameters": text.flatten(result.parameters),
        "provenance": text.flatten(result.provenance),
    }


def _facts(result: PermutationResult) -> list[tuple[str, str]]:
    return [
        ("stimuli", f"{result.n_stimuli:,}"),
        ("pairs tested", f"{result.n_pairs:,}"),
        ("relabellings", f"{result.n_permutations:,}"),
        ("smallest attainable p", text.scientific(result.smallest_p)),
        ("engine", f"{result.engine}, {result.device}"),
    ]


def _columns(result: PermutationResult) -> list[str]:
    columns = [
        "Model",
        "Brain",
        method_name(result.method),
        "p ± MC error",
        "Family-wise p (step-down)",
        "Family-wise p (single step)",
        "BH q",
    ]
    if result.p_tail is not None and result.tail is not None:
        columns.append(f"≈ p ({TAIL_NAMES.get(result.tail, result.tail)}, approximate)")
    return [*columns, "Null mean ± SD", "z"]


def _order(result: PermutationResult) -> list[tuple[int, int]]:
    """Pairs from the strongest evidence to the weakest; ties in p are broken by z."""
    z = np.nan_to_num(result.z.ravel())
    order = np.lexsort((-np.abs(z), result.p_value.ravel()))
    return [(int(k) // result.p_value.shape[1], int(k) % result.p_value.shape[1]) for k in order]


def _rows(result: PermutationResult) -> list[dict[str, Any]]:
    """One dict a pair: names, and (value, text) cells so that the page also holds exact numbers."""
    return [
        {
            "model": result.model_names[i],
            "brain": result.brain_names[j],
            "cells": _cells(result, i, j),
            "significant": bool(result.p_value_stepdown[i, j] <= text.ALPHA),
        }
        for i, j in _order(result)[:MAX_ROWS]
    ]


def _cells(result: PermutationResult, i: int, j: int) -> list[tuple[float, str]]:
    """Return (exact value, text) of every number of one pair, in the order of `_columns`."""
    statistic, z = float(result.statistic[i, j]), float(result.z[i, j])
    mean, sd = float(result.null_mean[i, j]), float(result.null_std[i, j])
    p = float(result.p_value[i, j])
    adjusted = [result.p_value_stepdown, result.p_value_fwer, result.q_value]
    if result.p_tail is not None and result.tail is not None:
        adjusted.append(result.p_tail)
    return [
        (statistic, text.signed(statistic, 4)),
        (p, text.pair_p(result, i, j)),
        *((float(values[i, j]), text.scientific(float(values[i, j]))) for values in adjusted),
        (mean, f"{text.signed(mean, 4)} ± {sd:.4f}"),
        (z, text.signed(z, 2)),
    ]


def _forest(result: PermutationResult) -> Section:
    chosen = set(_order(result)[:MAX_FOREST])
    pairs = [
        (i, j)
        for j in range(len(result.brain_names))
        for i in range(len(result.model_names))
        if (i, j) in chosen
    ]
    letters = 3 + sum(
        min(max(map(len, names)), most)
        for names, most in ((result.model_names, 20), (result.brain_names, 14))
    )
    panel = render(
        draw_forest,
        result,
        pairs,
        # No wider than its names ask for, so that with short ones it fits a phone.
        size=(2.4 + 0.075 * letters, 0.75 + 0.26 * len(pairs)),
        alt=f"Dot plot: observed {method_name(result.method)} of {len(pairs)} pairs over the "
        "central 95 percent of their null distributions; the values are in the table of pairs.",
        caption="Dots: observed value, filled where the family-wise p (step-down max-T) is at most "
        f"{text.ALPHA:g}. Bars: central 95 % of the null; tick: its mean.",
        key="forest",
        palette=PAGE_PALETTE,
    )
    return Section([panel], _left_out(len(pairs), result.n_pairs, "pairs of smallest p"))


def _nulls(result: PermutationResult) -> Section:
    shown = _order(result)[:MAX_NULLS]
    panels = []
    for index, (i, j) in enumerate(shown):
        name = text.pair_name(result, i, j)
        p = text.pair_p(result, i, j)
        panels.append(
            render(
                draw_null,
                result,
                i,
                j,
                size=(3.3, 2.15),
                alt=f"Null distribution of {name}: mean {result.null_mean[i, j]:.3g}, standard "
                f"deviation {result.null_std[i, j]:.3g}; observed {result.statistic[i, j]:.3g}, "
                f"p = {p}.",
                caption=f"{name}: p = {p}",
                key=f"null{index}",
                margins=(0.55, 0.45),
                palette=PAGE_PALETTE,
            )
        )
    return Section(panels, _left_out(len(shown), result.n_pairs, "pairs of smallest p"))


def _matrices(result: PermutationResult) -> Section:
    if result.n_pairs == 1:
        return Section([])
    if result.n_pairs > MAX_MATRIX_CELLS:
        return Section([], f"{result.n_pairs:,} pairs are too many for a legible matrix.")
    n_models, n_brain = result.p_value.shape
    # Three of them with short names stand beside each other at their own size.
    width = 0.6 + 0.075 * min(max(map(len, result.model_names)), 22) + 0.46 * n_brain
    panels = [
        render(
            draw_p_matrix,
            result,
            correction,
            size=(
                max(width, 2.4),
                0.75 + (0.3 if result.n_pairs <= MAX_LABELLED_CELLS else 0.18) * n_models,
            ),
            alt=f"Matrix of −log10 {CORRECTION_NAMES[correction]} for {n_models} models by "
            f"{n_brain} brain RDMs; the values are in the table of pairs.",
            caption=CORRECTION_NAMES[correction],
            key=f"matrix-{correction}",
            palette=PAGE_PALETTE,
        )
        for correction in ("p_value", "q_value", "p_value_stepdown")
    ]
    return Section(
        panels,
        "Colour: −log10 of the value, on one scale for the three; brighter is stronger evidence.",
    )


def _heatmaps(rdms: RDMs, side: str) -> Section:
    names = [str(name) for name in rdms.names]
    panels = [
        render(
            draw_rdm,
            rdms.vectors[k],
            rdms.n_stimuli,
            size=(2.2, 2.2),
            alt=f"{side} RDM {names[k]}: {rdms.n_stimuli} by {rdms.n_stimuli} stimuli, percentiles "
            "of dissimilarity, stimuli in the order given.",
            caption=shorten(names[k], 40),
            key=f"{side.lower()}-rdm{k}",
            margins=(0.0, 0.0),
        )
        for k in range(min(rdms.n_rdms, MAX_RDMS))
    ]
    note = _left_out(len(panels), rdms.n_rdms, "RDMs")
    if rdms.n_stimuli > MAX_SHOWN_STIMULI:
        note += (
            f" {MAX_SHOWN_STIMULI} of {rdms.n_stimuli:,} stimuli are drawn, evenly spaced in "
            "their order."
        )
    return Section(panels, note.strip())


def _left_out(shown: int, total: int, what: str) -> str:
    if shown >= total:
        return ""
    which = f"The {shown} {what}" if "smallest" in what else f"The first {shown} {what}"
    return f"{which} of {total:,} are shown."
