"""Where a result comes from: versions, machine, time, and short hashes of the inputs."""

from __future__ import annotations

import hashlib
import platform
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels import num_threads
from rsafast_kernels._native import isa


def provenance() -> dict[str, Any]:
    """Versions, platform, processor, kernel threads, instruction set and UTC time."""
    return {
        "rsafast": _version("rsafast"),
        "numpy": _version("numpy"),
        "scipy": _version("scipy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": num_threads(),
        "isa": isa,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def array_hash(a: NDArray[Any]) -> str:
    """First 16 hex digits of the SHA-256 of shape, dtype and bytes (C order) of `a`."""
    array = np.ascontiguousarray(a)
    digest = hashlib.sha256(f"{np.shape(a)}{array.dtype.str}".encode())
    if array.size:
        digest.update(array.data.cast("B"))
    return digest.hexdigest()[:16]


def input_hashes(**inputs: NDArray[Any]) -> dict[str, str]:
    """Return the hash of every input, under "sha256_" and its name."""
    return {f"sha256_{name}": array_hash(values) for name, values in inputs.items()}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@cache
def _processor() -> str:
    """Model name of the processor; platform.processor() is empty on most Linux systems."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
