"""Raw CUDA kernels: compiled once, launched on CuPy arrays.

Each operation's kernels stand in its `cuda.cu`. CMake compiles them to `cuda.fatbin` where nvcc
is there when rsafast is built; elsewhere, and for devices that the fat binary has no code for,
CuPy compiles the source when the first kernel of the operation is launched, and keeps the result.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["OPTIONS", "launch", "source_of"]

OPTIONS = ("-std=c++17",)


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


@cache
def _module(operation: str, device: int) -> Any:
    """The operation's kernels on a device, from the fat binary if it has code for it."""
    import cupy

    binary = source_of(operation).with_suffix(".fatbin")
    if binary.exists():
        module = cupy.RawModule(path=str(binary))
        try:
            module.compile()
        except cupy.cuda.driver.CUDADriverError:
            pass  # made for other devices, or by a newer nvcc than this driver knows
        else:
            return module
    source = source_of(operation)
    include = f"-I{source.parent.parent}"
    module = cupy.RawModule(code=source.read_text(), options=(*OPTIONS, include))
    module.compile()
    return module
