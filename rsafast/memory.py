"""Memory budgets: how much a computation may take for its working arrays."""

import os
import re
from numbers import Real

from rsafast.errors import InvalidInputError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_DEFAULT = 2 * 10**9


def parse_bytes(budget: int | float | str | None) -> int:
    """Bytes of "2GB", "500 MiB" or a number; by default 2 GB, or a quarter of a small machine.

    Raises
    ------
    InvalidInputError
        Not a size, or not positive.
    """
    if budget is None:
        return min(_DEFAULT, _physical_memory() // 4)
    if not isinstance(budget, str | Real) or isinstance(budget, bool):
        raise InvalidInputError(f"memory budget must be bytes or a size like '2GB', got {budget!r}")
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", budget)
        if match is None or match[2].upper() not in _UNITS:
            raise InvalidInputError(
                f"memory budget {budget!r} is not a size; write it like '2GB' or '500MB'"
            )
        budget = float(match[1]) * _UNITS[match[2].upper()]
    if not budget > 0 or budget == float("inf"):
        raise InvalidInputError(f"memory budget must be a positive number of bytes, got {budget}")
    return int(budget)


def format_bytes(size: float) -> str:
    """Size as a person reads it: 3.1 GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 4 * _DEFAULT
