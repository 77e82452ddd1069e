"""The compiled kernels, built once per instruction set; the best one that runs here is `native`.

``RSAFAST_ISA`` (``cpu``, ``cpu_avx2``, ``cpu_avx512``) forces one, for tests and for measurements.
"""

import importlib
import os
from types import ModuleType

from rsafast_kernels.errors import BackendUnavailableError

INSTRUCTION_SETS = ("cpu_avx512", "cpu_avx2", "cpu")


def available() -> list[str]:
    """Names of the compiled variants that this processor runs, best first."""
    baseline = importlib.import_module(f"{__name__}.cpu")
    return [isa for isa in INSTRUCTION_SETS if baseline.supports(isa)]


def _select() -> tuple[str, ModuleType]:
    wanted = os.environ.get("RSAFAST_ISA")
    runnable = available()
    if wanted is not None and wanted not in runnable:
        raise BackendUnavailableError(
            f"RSAFAST_ISA={wanted!r} does not run here; choose one of {', '.join(runnable)}"
        )
    isa = wanted or runnable[0]
    return isa, importlib.import_module(f"{__name__}.{isa}")


isa, native = _select()
