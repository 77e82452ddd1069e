"""Compiled kernels of rsafast: one folder an operation, each with a plain float64 reference."""

from rsafast_kernels._threads import num_threads, threads

__all__ = ["num_threads", "threads"]
