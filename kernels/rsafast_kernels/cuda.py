"""Raw CUDA kernels: compiled once, launched on CuPy arrays.

Each operation's kernels stand in its `cuda.cu`. CMake compiles them to `cuda.fatbin` where nvcc
is there when rsafast is built; elsewhere, and for devices that the fat binary has no code for,
CuPy compiles the source when the first kernel of the operation is launched, and keeps the result.
"""

from __future__ import annotations

import importlib
import importlib.resources
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["launch", "source_of"]

_OPTIONS = ("-std=c++17",)


def launch(
    operation: str,
    kernel: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    *arguments: Any,
) -> None:
    """Launch a kernel on the current stream.

    Parameters
    ----------
    operation : folder of rsafast_kernels that holds the `cuda.cu`.
    kernel : name of an ``extern "C" __global__`` function in it.
    grid, block : blocks and threads a block, up to three dimensions each.
    arguments : contiguous CuPy arrays, NumPy scalars of exactly the kernel's types, and
        ``numpy.uint64(0)`` for a null pointer.
    """
    _module(operation, _device()).get_function(kernel)(grid, block, arguments)


def source_of(operation: str) -> Path:
    """Path of an operation's CUDA source."""
    return Path(__file__).parent / operation / "cuda.cu"


def _device() -> int:
    import cupy

    return cupy.cuda.Device().id


def _installed(operation: str) -> Path | None:
    """The fat binary, which an editable install has in another folder than the source."""
    package = importlib.import_module(f"rsafast_kernels.{operation}")
    found = importlib.resources.files(package) / "cuda.fatbin"
    return Path(str(found)) if found.is_file() else None


@cache
def _module(operation: str, device: int) -> Any:
    """The operation's kernels on a device, from the fat binary if it has code for it."""
    import cupy

    binary = _installed(operation)
    if binary is not None:
        module = cupy.RawModule(path=str(binary))
        try:
            module.compile()
        except cupy.cuda.driver.CUDADriverError:
            pass  # made for other devices, or by a newer nvcc than this driver knows
        else:
            return module
    source = source_of(operation)
    options = (*_OPTIONS, f"-I{source.parent}")  # whose includes are relative to its folder
    module = cupy.RawModule(code=source.read_text(), options=options)
    module.compile()
    return module
