"""Results of a run: where they come from, files, and one run beside an earlier one."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rsafast_kernels import num_threads

from rsafast.doctor import version
from rsafast.errors import InvalidInputError
from rsafast.io.provenance import provenance

SCHEMA = 1
PACKAGES = ("rsafast", "numpy", "scipy", "scikit-bio", "rsatoolbox", "mne-rsa", "numba", "torch",
            "triton", "spikingjelly", "cupy-cuda12x")  # fmt: skip


def machine(devices: Iterable[str]) -> dict[str, Any]:
    """What the figures depend on, and neither host nor user names."""
    here = provenance()
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": here["processor"],
        "processors": os.cpu_count(),
        "threads": num_threads(),
        "instruction_set": here["isa"],
        "gpu": _gpu() if "cuda" in devices else None,
    }


def _gpu() -> str:
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


def versions() -> dict[str, str | None]:
    """Versions of everything that is measured, None where it is not installed."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def key(row: dict[str, Any]) -> str:
    """Name of a stored row among all; `Row.key` of the row it was measured from."""
    return f"{row['kernel']}: {row['name']}, {row['device']}"


def save(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", "utf-8")


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises
    ------
    InvalidInputError
        For a file that is missing, is no JSON, or holds no result of this schema.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} is no result of rsafast bench: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InvalidInputError(
            f"{path} is no result of rsafast bench of schema {SCHEMA}; measure again with this"
            " version"
        )
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """One row then and now.

    Attributes
    ----------
    name : the row.
    ratio : median time now over then; below 1 is faster.
    lowest, highest : of the ratio, from the fastest and slowest repeats of both.
    """

    name: str
    ratio: float
    lowest: float
    highest: float

    @property
    def beyond_noise(self) -> bool:
        """Whether every repeat of one run is faster than every repeat of the other."""
        return self.lowest > 1 or self.highest < 1


def check_machine(here: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Raise InvalidInputError where the earlier result is not of the machine `here`."""
    there = earlier["machine"]
    differing = [name for name in here if here[name] != there.get(name)]
    if differing:
        told = "; ".join(f"{name}: {here[name]}, then {there.get(name)}" for name in differing)
        raise InvalidInputError(
            f"the earlier result is of another machine ({told}); compare all the same with"
            " --other-machine"
        )


def changes(new: dict[str, Any], old: dict[str, Any]) -> list[Change]:
    """Ratios of the rows that both results hold.

    Raises
    ------
    InvalidInputError
        Where there are none.
    """
    then = {key(row): row["seconds"] for row in old["rows"] if row["wrong"] is None}
    found = []
    for row in new["rows"]:
        if row["wrong"] is None and key(row) in then:
            a, b = row["seconds"], then[key(row)]
            found.append(
                Change(
                    key(row), a["median"] / b["median"], a["min"] / b["max"], a["max"] / b["min"]
                )
            )
    if not found:
        raise InvalidInputError("the earlier result has none of these rows; name the same kernels")
    return found
