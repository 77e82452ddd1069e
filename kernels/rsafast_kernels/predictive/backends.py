"""Which module runs the element-wise passes: decided here, by where the data lives."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError

Backend = Literal["auto", "native", "torch", "triton"]
_MODULES = {"native": "cpu", "torch": "torch_", "triton": "triton_"}


def passes_for(x: Tensor, backend: Backend) -> ModuleType:
    """Module with `predict`, `gate`, `advance` and `step` for tensors like `x`.

    Raises
    ------
    BackendUnavailableError
        An explicit choice cannot run on such tensors; "auto" takes "torch" instead.
    """
    if backend == "auto":
        fitting = [name for name in ("native", "triton") if obstacle(name, x) is None]
        backend = "native" if "native" in fitting else "triton" if fitting else "torch"
    if backend not in _MODULES:
        raise InvalidInputError(
            f"backend must be 'auto', 'native', 'torch' or 'triton', got {backend!r}"
        )
    reason = obstacle(backend, x)
    if reason is not None:
        raise BackendUnavailableError(
            f"backend={backend!r} {reason}, got {x.dtype} on {x.device}; backend='auto' chooses"
        )
    return importlib.import_module(f"{__package__}.{_MODULES[backend]}")


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep cuDNN from rounding the operands of float32 convolutions to TF32, its default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def obstacle(backend: str, x: Tensor) -> str | None:
    """Return why a backend cannot take tensors like `x`, or None."""
    if backend == "native" and (x.device.type != "cpu" or x.dtype != torch.float32):
        return "takes float32 tensors on the CPU"
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "needs the package triton (pip install 'rsafast[gpu]')"
        triton = importlib.import_module("triton")
        on_device = x.device.type == "cuda" or triton.knobs.runtime.interpret
        if not on_device or x.dtype != torch.float32:
            return "takes float32 tensors on a CUDA device"
    return None
