"""Numbers and names in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsafast.report.text import scientific, signed
from rsafast.study.networks import CONTROL, UNTRAINED

CORRECTIONS = {
    "holm": "Holm correction",
    "bonferroni": "Bonferroni correction",
    "bh": "Benjamini–Hochberg correction",
    "by": "Benjamini–Yekutieli correction",
}


def listed(names: Sequence[Any]) -> str:
    """Join names as a sentence does: a; a and b; a, b and c."""
    words = [str(name) for name in names]
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def number(value: float) -> str:
    """Write an alignment or a difference: three decimals, or two digits where it is small."""
    if not 5e-7 <= abs(value) < 0.0095:
        return "0" if abs(value) < 5e-7 else signed(value, 3)
    return signed(value, min(1 - int(np.floor(np.log10(abs(value)))), 6))


def p_text(value: float) -> str:
    """Write a p-value; a dash where there is none."""
    if 0.995 <= value < 1:
        return "> 0.99"
    return "1" if value == 1 else "–" if not np.isfinite(value) else scientific(value)


def interval(low: float, high: float) -> str:
    """Write an interval, or that there is none."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return "none"
    return f"{number(low)} to {number(high)}"


def pixels(size: int) -> str:
    """Name a resolution."""
    return f"{size} × {size} pixels"


def seen_as(step: Mapping[str, Any]) -> str:
    """Say what was done to images before a network saw them, of a `Preprocess`."""
    if step["crop"] == "none":
        return f"squeezed into {pixels(step['size'])}"
    edge, size = step["resize"] or step["size"], pixels(step["size"])
    return f"resized to a shorter edge of {edge} pixels and cut to the middle {size}"


def counted(count: int, one: str, many: str = "") -> str:
    """Write a count with its noun: 1 seed, 2 seeds."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def baseline(name: str) -> str:
    """Name the other side of a difference in words."""
    if name == UNTRAINED:
        return "the untrained network"
    return "its matched untrained control" if name.endswith(CONTROL) else name


def speaks_for(generalises_to: str) -> str:
    """Say to whom a test speaks and what it takes as given."""
    wide, _, given = generalises_to.partition("; ")
    return f"It speaks for {wide}" + (f" and takes {given} as given." if given else ".")
