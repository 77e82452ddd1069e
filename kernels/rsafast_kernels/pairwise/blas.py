"""One BLAS thread for products, so that they are rounded alike wherever they are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

from threadpoolctl import OpenBLASController, ThreadpoolController

# From 3.8 on threadpoolctl silently ignores limits of a thread while another one's are in force.
_clear = getattr(OpenBLASController, "clear_controlling_thread", None)
_turn = Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread; Python threads that ask for it take turns. Decorates functions too.

    Most BLAS have one limit for the whole process: the first of two threads to leave would restore
    it under the other. Each uses all processors, and loses nothing by waiting.
    """
    with _turn:
        if _clear is not None:
            _clear(force=True)
        with _blas().limit(limits=1, user_api="blas"):
            yield


@contextmanager
def one_blas_thread_here() -> Iterator[None]:
    """The same for a thread that works inside the block of another: some BLAS limit each thread."""
    with _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas() -> ThreadpoolController:
    # Looking for the loaded libraries takes milliseconds: once.
    return ThreadpoolController()
