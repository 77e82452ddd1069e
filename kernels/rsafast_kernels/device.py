"""Where a computation runs: where its data lives, or where `device=` says.

NumPy arrays are worked on by the CPU, CuPy arrays and torch CUDA tensors by the GPU that holds
them. Data on the host goes to a GPU where the caller's `device` resolves to "cuda". This is the
one place that decides; operations ask `on_gpu` and `resolve`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError, RsafastError

__all__ = [
    "Device",
    "check",
    "cuda_missing",
    "fall_back",
    "free_bytes",
    "namespace",
    "on_gpu",
    "resolve",
    "room_for",
    "to_gpu",
    "to_host",
]

Device = Literal["auto", "cpu", "cuda"]


def check(device: str) -> None:
    """Raise InvalidInputError unless `device` is one of auto, cpu, cuda."""
    if device not in get_args(Device):
        raise InvalidInputError(f"device must be one of auto, cpu, cuda, got {device!r}")


def resolve(device: str, *libraries: str) -> Literal["cpu", "cuda"]:
    """Where to run what needs these libraries on a GPU.

    Parameters
    ----------
    device : "cpu", "cuda", or "auto": the GPU where one is usable, else the CPU.
    libraries : what the GPU path imports, such as "cupy" or "torch" and "triton".

    Raises
    ------
    BackendUnavailableError
        For "cuda" where it cannot run, with the reason: an explicit choice never falls back.
    InvalidInputError
        For any other name.
    """
    check(device)
    if device == "cpu":
        return "cpu"
    why = cuda_missing(*libraries)
    if why is None:
        return "cuda"
    if device == "cuda":
        raise BackendUnavailableError(f"device='cuda' cannot run here: {why}; use device='cpu'")
    return "cpu"


def fall_back(device: str, what: str) -> None:
    """Say once that `what` has no GPU kernel and runs on the CPU; raise if "cuda" was asked for.

    Call it where `resolve` said "cuda".
    """
    message = f"{what} has no GPU kernel"
    if device == "cuda":
        raise BackendUnavailableError(f"{message}; use device='cpu' or 'auto'")
    _warn_once(f"{message} and runs on the CPU")


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)


@cache
def cuda_missing(*libraries: str) -> str | None:
    """Why no GPU can be used from here through these libraries; None where one can."""
    count = _device_count()
    if isinstance(count, str):
        return count
    absent = [name for name in libraries if importlib.util.find_spec(name) is None]
    if absent:
        return f"{' and '.join(absent)} not installed (pip install 'rsafast[gpu]')"
    if "torch" in libraries and not importlib.import_module("torch").cuda.is_available():
        return "the installed torch was built without CUDA"
    return None


def _device_count() -> int | str:
    """Number of visible NVIDIA devices, or in words why there is none."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"no NVIDIA driver here ({name} not found)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return "an NVIDIA driver is installed but does not start; see nvidia-smi"
    if count.value == 0:
        return "an NVIDIA driver is installed but no device is visible"
    return count.value


def on_gpu(*arrays: Any) -> bool:
    """Whether the arrays live on a GPU.

    Raises InvalidInputError where some do and some do not: nothing is moved unasked.
    """
    there = [_is_gpu_array(a) for a in arrays]
    if any(there) and not all(there):
        raise InvalidInputError(
            "some arrays are on the GPU and some on the CPU; move them to one side first"
        )
    return any(there)


def _is_gpu_array(x: Any) -> bool:
    cupy, torch = sys.modules.get("cupy"), sys.modules.get("torch")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return True
    return torch is not None and isinstance(x, torch.Tensor) and x.is_cuda


def namespace(x: Any) -> Any:
    """NumPy or CuPy, whichever made the array; their functions have the same names."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np


def free_bytes() -> int:
    """Memory of the current GPU that nobody uses."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    return int(cupy.cuda.Device().mem_info[0])


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Say what CuPy found no room for, and the way out, where it raises for want of memory."""
    import cupy

    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise RsafastError(
            f"the GPU has no room for {what} ({error}); free its memory, or use device='cpu'"
        ) from None


def to_gpu(x: Any) -> Any:
    """A CuPy array of `x` on the current device; torch CUDA tensors are shared, not copied."""
    import cupy

    if isinstance(x, cupy.ndarray) or not hasattr(x, "__dlpack__") or isinstance(x, np.ndarray):
        return cupy.asarray(x)
    return cupy.from_dlpack(x)


def to_host(x: Any) -> NDArray[Any]:
    """A NumPy array of `x`, copied from the GPU if it lives there."""
    if _is_gpu_array(x):
        return x.get() if hasattr(x, "get") else x.cpu().numpy()
    return np.asarray(x)
