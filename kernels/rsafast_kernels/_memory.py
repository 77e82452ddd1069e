"""Memory for the kernels' own buffers."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LINE = 64  # bytes of a cache line: a vector load that crosses one costs two


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """``np.empty`` that starts on a cache line."""
    itemsize = np.dtype(dtype).itemsize
    size = int(np.prod(shape, dtype=np.int64)) * itemsize
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(dtype).reshape(shape)
