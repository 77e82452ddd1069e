"""Compile CUDA sources for the CPU and launch their kernels on host memory: see the header."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from rsafast_kernels.cuda import source_of

HEADER = Path(__file__).with_name("cuda_on_cpu.hpp")
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)')


@cache
def library(operation: str, *flags: str) -> ctypes.CDLL:
    """The kernels of an operation, compiled with g++; built once for every state of the source."""
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler, "no C++ compiler here, which building rsafast needs too"
    source = source_of(operation)
    names = KERNEL.findall(source.read_text())
    assert names, f"{source} holds no kernel"
    text = f'#include "{source}"\n' + "\n".join(
        f'extern "C" void run_{name}(const unsigned* g, void** arguments) {{\n'
        f"    emulation::launch({name}, {{g[0], g[1], g[2]}}, {{g[3], g[4], g[5]}}, arguments);\n"
        "}\n"
        f'extern "C" int describe_{name}(int* out) {{ return emulation::describe({name}, out); }}'
        for name in names
    )
    read = [source, *source.parent.parent.glob("*.cuh"), HEADER]
    state = hashlib.sha256(
        "\0".join([text, *(path.read_text() for path in read), *flags]).encode()
    ).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / "rsafast-cuda-on-cpu"
    folder.mkdir(exist_ok=True)
    path = folder / f"{operation}-{state}.so"
    if not path.exists():
        unfinished = Path(tempfile.mkdtemp(dir=folder)) / path.name
        command = [
            compiler, "-x", "c++", "-std=c++20", "-O1", "-fPIC", "-shared", "-fno-strict-aliasing",
            "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas", *flags, "-include", str(HEADER),
            "-o", str(unfinished), "-",
        ]  # fmt: skip
        subprocess.run(command, input=text, text=True, check=True)
        unfinished.replace(path)  # another worker may be building the same
        unfinished.parent.rmdir()
    return ctypes.CDLL(str(path))


class Module:
    """Stands in for the RawModule of an operation, stricter than a GPU about types and sizes."""

    def __init__(self, operation: str) -> None:
        self.operation = operation

    def get_function(self, kernel: str) -> Any:
        """A kernel, to be called as CuPy's are: ``(grid, block, arguments)``."""
        return partial(_run, self.operation, kernel)


def _run(
    operation: str,
    kernel: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    arguments: tuple[Any, ...],
) -> None:
    sizes = [*_three(grid), *_three(block)]
    limits = [2**31 - 1, 65535, 65535, 1024, 1024, 64]
    assert all(1 <= s <= m for s, m in zip(sizes, limits, strict=True)), (kernel, grid, block)
    assert np.prod(sizes[3:]) <= 1024, (kernel, block)
    shared = library(operation)
    wanted = (ctypes.c_int * 64)()
    count = getattr(shared, f"describe_{kernel}")(wanted)
    assert count == len(arguments), f"{kernel} takes {count} arguments, got {len(arguments)}"
    values = [
        _argument(a, want, f"argument {k} of {kernel}")
        for k, (a, want) in enumerate(zip(arguments, wanted[:count], strict=True))
    ]
    pointers = (ctypes.c_void_p * count)(*(ctypes.addressof(v) for v in values))
    getattr(shared, f"run_{kernel}")((ctypes.c_uint * 6)(*sizes), pointers)


def _three(size: tuple[int, ...]) -> list[int]:
    return [*size, 1, 1][:3]


def _argument(value: Any, want: int, what: str) -> Any:
    """C value of an argument; `want` is its size, or minus that of what it points to."""
    if want < 0 and isinstance(value, np.uint64) and value == 0:
        return ctypes.c_void_p(None)
    if want < 0:
        host = value.data_on_host
        assert host.flags.c_contiguous, f"{what} is not contiguous"
        # A complex number may be passed as two real ones.
        assert host.dtype.itemsize == -want, f"{what} is {host.dtype}, not of {-want} bytes"
        return ctypes.c_void_p(host.ctypes.data)
    assert isinstance(value, np.generic), f"{what} is {type(value)}, and must be a NumPy scalar"
    assert value.itemsize == want, f"{what} is {value.dtype}, not of {want} bytes"
    return (ctypes.c_char * want).from_buffer_copy(value.tobytes())
