"""A CuPy whose arrays live in host memory, to run what is written for CuPy without a GPU.

As strict as CuPy where it matters: an array is never turned into a NumPy one unasked, and the two
do not mix. Functions are NumPy's of the same name. New arrays are poisoned, and what is allocated
is counted against a limit that tests may set.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class OutOfMemoryError(MemoryError):
    """What CuPy raises where the device has no room."""


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array "on the device"."""

    __slots__ = ("data_on_host",)

    def __init__(self, host: np.ndarray) -> None:
        self.data_on_host = host

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to"
            " construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return on_device(getattr(ufunc, method), *inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return on_device(function, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.data_on_host, name)
        if callable(found) and not isinstance(found, np.generic):
            return lambda *args, **kwargs: on_device(found, *args, **kwargs)
        return wrapped(found)

    def get(self) -> np.ndarray:
        """Copy to the host."""
        return self.data_on_host.copy()

    def __getitem__(self, key: Any) -> Any:
        return wrapped(np.asanyarray(self.data_on_host[unwrapped(key)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.data_on_host[unwrapped(key)] = unwrapped(value)

    def __len__(self) -> int:
        return len(self.data_on_host)

    def __bool__(self) -> bool:
        return bool(self.data_on_host)

    def __int__(self) -> int:
        return int(self.data_on_host)

    def __float__(self) -> float:
        return float(self.data_on_host)

    def __index__(self) -> int:
        return self.data_on_host.__index__()


def wrapped(value: Any) -> Any:
    """Arrays as device arrays, also in tuples and lists; a reduction gives an array, as in CuPy."""
    if isinstance(value, np.ndarray):
        return ndarray(value)
    if isinstance(value, np.generic):
        return ndarray(np.asarray(value))
    if type(value) in (tuple, list):
        return type(value)(wrapped(v) for v in value)
    return value


def unwrapped(value: Any) -> Any:
    """Host memory of device arrays; a NumPy array among them is refused, as CuPy does."""
    if isinstance(value, ndarray):
        return value.data_on_host
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError(f"Unsupported type {type(value)}")
    if type(value) in (tuple, list):
        return type(value)(unwrapped(v) for v in value)
    if isinstance(value, slice):
        return value
    return value


def on_device(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a NumPy function on device arrays."""
    args = unwrapped(args)
    kwargs = {key: unwrapped(value) for key, value in kwargs.items()}
    return wrapped(function(*args, **kwargs))


class Emulated(ModuleType):
    """The module that stands in for cupy."""

    ndarray = ndarray

    def __init__(self, name: str, numpy: Any) -> None:
        super().__init__(name)
        self.__dict__["_numpy"] = numpy

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["_numpy"], name)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *args, **kwargs: on_device(found, *args, **kwargs)


def emulated_cupy() -> Emulated:
    """A new module to put in place of cupy; `limit` bytes can be allocated at a time."""
    cupy = Emulated("cupy", np)
    cupy.__dict__.update(__spec__=SimpleNamespace(name="cupy"), limit=2**40, largest=0)

    def count(size: int) -> None:
        cupy.__dict__["largest"] = max(cupy.__dict__["largest"], size)
        if size > cupy.__dict__["limit"]:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")

    def empty(shape: Any, dtype: Any = float) -> ndarray:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        count(size)
        host = np.empty(shape, dtype)
        host.view(np.uint8).fill(0xFF) if host.size and host.ndim else None
        return ndarray(host)

    def asarray(values: Any, dtype: Any = None) -> ndarray:
        if isinstance(values, ndarray):
            same = dtype is None or values.data_on_host.dtype == dtype
            return values if same else ndarray(values.data_on_host.astype(dtype))
        host = np.array(values, dtype)
        count(host.nbytes)
        return ndarray(host)

    def matmul(a: ndarray, b: ndarray, out: ndarray | None = None) -> ndarray:
        shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        count(int(np.prod([*shape, a.shape[-2], b.shape[-1]])) * a.dtype.itemsize)
        return on_device(np.matmul, a, b, **({} if out is None else {"out": out}))

    pool = SimpleNamespace(free_all_blocks=lambda: None)
    cuda = ModuleType("cupy.cuda")
    cuda.__dict__.update(
        Device=lambda: SimpleNamespace(
            id=0,
            mem_info=(cupy.__dict__["limit"], cupy.__dict__["limit"]),
            attributes={"SingleToDoublePrecisionPerfRatio": cupy.__dict__.get("ratio", 2)},
            synchronize=lambda: None,
        ),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    )
    cupy.__dict__.update(
        empty=empty,
        asarray=asarray,
        array=lambda values, dtype=None: ndarray(np.array(unwrapped(values), dtype)),
        asnumpy=lambda values: values.get() if isinstance(values, ndarray) else np.asarray(values),
        matmul=matmul,
        get_default_memory_pool=lambda: pool,
        cuda=cuda,
        fft=Emulated("cupy.fft", np.fft),
    )
    return cupy


def install(monkeypatch: Any) -> Emulated:
    """Let rsafast find a GPU: CuPy on host memory, and CUDA kernels run on the CPU."""
    from emulation import cuda_on_cpu
    from rsafast_kernels import cuda, device

    cupy = emulated_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cupy.cuda)
    monkeypatch.setattr(cuda, "_module", lambda operation, _: cuda_on_cpu.Module(operation))
    monkeypatch.setattr(device, "cuda_missing", lambda *libraries: None)
    return cupy
