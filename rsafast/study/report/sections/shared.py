"""What several sections have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from rsafast.report.figures import Panel
from rsafast.study.report.tables import Study
from rsafast.study.report.words import pixels

Drawn = Callable[..., Panel]


def titled(study: Study, region: str) -> str:
    """A region with the layer chosen for it."""
    return f"{region} ({study.pairs[region]})"


def on_size(study: Study, size: int) -> str:
    """Which resolution, for captions, where there are several."""
    return f", images of {pixels(size)}" if len(study.sizes) > 1 else ""


def level(study: Study) -> str:
    """Level of the intervals, in per cent."""
    return f"{100 * study.recipe.inference.level:g} %"


def _pairs_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(table[["rule_a", "rule_b"]].itertuples(index=False, name=None)))


def row_panels(
    study: Study, table: pd.DataFrame, columns: tuple[str, str, str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Labels and panels of a forest: rows are pairs of conditions, panels are regions."""
    estimate, low, high = columns
    pairs, panels = _pairs_of(table), []
    for region in study.pairs:
        own = table[table["region"] == region].set_index(["rule_a", "rule_b"])
        rows = [
            {
                "estimate": float(own.loc[pair, estimate]), "low": float(own.loc[pair, low]),
                "high": float(own.loc[pair, high]),
                "filled": bool(own.loc[pair, "p_adjusted"] <= study.alpha),
            }
            if pair in own.index
            else None
            for pair in pairs
        ]  # fmt: skip
        panels.append({"title": titled(study, region), "rows": rows})
    return [f"{a} − {b}" for a, b in pairs], panels
