"""What the networks learned: accuracy and drift."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from rsafast.study.networks import UNTRAINED
from rsafast.study.report import drawing
from rsafast.study.report.parts import Block, Row, Section, Table, value_cell
from rsafast.study.report.sections.shared import Drawn
from rsafast.study.report.tables import Study


def section(study: Study, draw: Drawn) -> Section:
    """Accuracy over epochs, drift by layer."""
    table = study.drift
    parts = parts_of([c for c in table.columns if c.startswith("drift/")])
    # Between checkpoints, accuracy is not measured.
    tested = table[table["test_accuracy"].notna()]
    accuracy = {r: tested[tested["rule"] == r].groupby("epoch")["test_accuracy"].mean()
                for r in study.recipe.networks.rules}  # fmt: skip
    last = table[table["epoch"] == table.groupby("rule")["epoch"].transform("max")]
    drift, rows, said = {}, [], []
    for rule in study.recipe.networks.rules:
        own = last[last["rule"] == rule]
        means = {part: float(own[columns].mean().mean()) for part, columns in parts.items()}
        if rule != UNTRAINED:
            drift[rule] = means
        final = own["test_accuracy"]
        seen = spread = "not known"
        if final.notna().any():
            seen = _percent(final.mean())
            spread = f"{_percent(final.min())} to {_percent(final.max())}"
        rows.append(Row([rule], [
            value_cell(final.mean(), seen), (None, spread),
            *(value_cell(mean, _percent(mean)) for mean in means.values()),
        ]))  # fmt: skip
        moved = ", ".join(f"{part} {_percent(mean)}" for part, mean in means.items())
        said.append(f"{rule}: accuracy {seen}, drift {moved}")
    figure = draw(
        "learning", f"Test accuracy over epochs and weight drift by layer. {'. '.join(said)}.",
        "Means over seeds. Dashed: 1 %. A drift of zero has no place on the logarithmic axis.",
        partial(drawing.draw_learning, accuracy, drift, list(study.recipe.networks.rules)),
    )  # fmt: skip
    layers = [f"Drift, {part}" for part in parts]
    texts = []
    if tested.empty:
        texts.append("The networks were trained elsewhere: their accuracy is not known.")
    if any(len(columns) > 1 for columns in parts.values()):
        texts.append("Drift of a stage of the network is the mean over its layers.")
    return Section(
        "learning", "What the networks learned",
        "Accuracy on test images says whether a rule solved its task; weight drift is the norm of"
        " the change since initialisation over that of the initial weights, so that a layer near"
        " zero is still the untrained one.",
        [Block(None, texts, [figure], [Table(
            "Test accuracy and weight drift after the last epoch, means over seeds",
            ["Rule", "Accuracy", "Range over seeds", *layers], rows,
        )])],
    )  # fmt: skip


def parts_of(columns: Sequence[str]) -> dict[str, list[str]]:
    """Columns of drift by layer, those of many layers by the stage that they are part of."""
    parts: dict[str, list[str]] = {}
    for column in columns:
        parts.setdefault(column.removeprefix("drift/").partition(".")[0], []).append(column)
    return parts


def _percent(share: float) -> str:
    return "–" if not np.isfinite(share) else f"{100 * share:.3g} %"
