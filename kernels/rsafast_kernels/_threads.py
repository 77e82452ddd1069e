"""How many threads the CPU kernels use: one number, set in one place."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rsafast_kernels._native import native
from rsafast_kernels.errors import InvalidInputError


def _default() -> int:
    """Return the processors this process may use, or fewer if OMP_NUM_THREADS says so."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, native.default_threads()))


_threads = _default()


def num_threads() -> int:
    """Threads that the next kernel call uses."""
    return _threads


# Operations below which a kernel runs in the calling thread: some 0.1 ms, and waking others on a
# busy machine takes longer.
_SMALL = 200_000


def threads_for(operations: float) -> int:
    """Threads for a call of this many operations."""
    return 1 if operations < _SMALL else _threads


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use `n` threads inside the ``with`` block. No result depends on it."""
    global _threads
    if n < 1:
        raise InvalidInputError(f"threads must be at least 1, got {n}")
    before, _threads = _threads, n
    try:
        yield
    finally:
        _threads = before
