"""What a page of a study is made of: sections of blocks with texts, figures and tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsafast.report.figures import Panel
from rsafast.study.report.words import interval, number, p_text

Cell = tuple[float | None, str]
# Letters of a cell from which on it is set as a sentence: more than an interval has.
_SENTENCE = 30
# What tells neighbouring rows apart, most of all first.
_KEYS = ("Difference", "Condition", "Rule", "Practice", "Layer")


@dataclass(frozen=True)
class Row:
    """A row: names that head it, and cells with the exact value and its text."""

    names: list[str]
    cells: list[Cell]
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; `names` of its columns head the rows."""

    caption: str
    columns: list[str]
    rows: list[Row]

    @property
    def names(self) -> int:
        """Columns that head the rows."""
        return len(self.rows[0].names) if self.rows else 0

    @property
    def key(self) -> int:
        """Column of names that stays in view where a table scrolls."""
        heads = self.columns[: self.names]
        return next((heads.index(name) for name in _KEYS if name in heads), 0)

    @property
    def kinds(self) -> list[str]:
        """How each column is set: "key" or "name", "said" if it holds sentences, or "number"."""
        names = ["key" if k == self.key else "name" for k in range(self.names)]
        longest = [max(len(text) for _, text in column)
                   for column in zip(*(row.cells for row in self.rows), strict=True)]  # fmt: skip
        return names + ["said" if letters > _SENTENCE else "number" for letters in longest]


@dataclass(frozen=True)
class Block:
    """Part of a section, of one resolution or (None) of all."""

    size: int | None
    texts: list[str] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A heading, one sentence on how to read what follows, and that."""

    key: str
    title: str
    reading: str
    blocks: list[Block]


def value_cell(value: Any, shown: str | None = None) -> Cell:
    """Cell of a number, with its exact value unless there is none."""
    exact = float(value)
    return (None if np.isnan(exact) else exact, number(exact) if shown is None else shown)


def p_cell(value: Any) -> Cell:
    """Cell of a p-value."""
    return value_cell(value, p_text(float(value)))


def interval_cell(low: Any, high: Any) -> Cell:
    """Cell of an interval."""
    return (None, interval(float(low), float(high)))
