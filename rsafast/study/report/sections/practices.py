"""What practices that mislead would have reported, below the cautions."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rsafast.study.report.parts import Block, Row, Table, interval_cell, p_cell, value_cell
from rsafast.study.report.sections.shared import on_size
from rsafast.study.report.tables import Study


def practices(study: Study, size: int) -> Block:
    """What practices that are known to mislead would have reported."""
    rows = [
        Row(
            [row["practice"], _who(row), row["region"], _text(row["layer"])],
            [
                value_cell(row["estimate"]), interval_cell(row["low"], row["high"]),
                p_cell(row["p_value"]), (None, row["wrong"]),
            ],
        )
        for row in study.table("published", size).to_dict("records")
    ]  # fmt: skip
    columns = ["Practice", "Of", "Region", "Layer", "Estimate", "Interval", "p", "What is wrong"]
    caption = "What practices that mislead would have reported of the same RDMs"
    return Block(size, [], [], [Table(f"{caption}{on_size(study, size)}", columns, rows)])


def _who(row: dict[str, Any]) -> str:
    other = _text(row["rule_b"])
    return f"{row['rule_a']} − {other}" if other else str(row["rule_a"])


def _text(cell: Any) -> str:
    """Name in a cell, which may be empty."""
    return "" if pd.isna(cell) else str(cell)
