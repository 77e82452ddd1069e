"""What this machine can do at most: arithmetic and traffic, measured in the same run as the rows.

Arithmetic is the rate of a large matrix product with all threads, the most that any code here
reaches. Traffic depends on where the data lie, so it is measured for working sets from the caches
to the memory, and a row is held to that of a working set no larger than its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from rsafast_kernels import num_threads
from threadpoolctl import threadpool_limits

from rsafast.bench.row import Device, Work

Bound = Literal["arithmetic", "bytes"]

_SIZES = tuple(2**k for k in range(17, 29, 2))  # 128 kB to 128 MB
_LARGEST = 2**30
# Rows of the matrix product: the smaller one is within some per cent of the rate of the larger.
_PRODUCT, _QUICK_PRODUCT = 2048, 1536


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates that no kernel passes.

    Attributes
    ----------
    operations : dtype -> operations a second.
    bandwidth : (working set in bytes, bytes a second), from small to large, never rising.
    """

    operations: dict[str, float]
    bandwidth: tuple[tuple[int, float], ...]

    def bound(self, work: Work) -> tuple[Bound, float]:
        """What limits this work, and the seconds that it takes at least."""
        fits = [rate for size, rate in self.bandwidth if size <= work.bytes]
        traffic = work.bytes / (fits[-1] if fits else self.bandwidth[0][1])
        arithmetic = work.operations / self.operations[work.dtype]
        if arithmetic >= traffic:
            return "arithmetic", arithmetic
        return "bytes", traffic

    def best(self, other: Limits) -> Limits:
        """The higher of two measurements: other work on the machine only lowers them."""
        pairs = zip(self.bandwidth, other.bandwidth, strict=True)
        return _limits(
            {name: max(rate, other.operations[name]) for name, rate in self.operations.items()},
            [(size, max(rate, again)) for (size, rate), (_, again) in pairs],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _limits(operations: dict[str, float], bandwidth: list[tuple[int, float]]) -> Limits:
    """Limits whose bandwidth does not rise with the working set: a smaller one may take more."""
    rates = np.maximum.accumulate([rate for _, rate in bandwidth][::-1])[::-1]
    sizes = [size for size, _ in bandwidth]
    return Limits(operations, tuple(zip(sizes, rates.tolist(), strict=True)))


def measure_limits(device: Device, *, quick: bool = False) -> Limits:
    """Measure in some 5 seconds, or two if `quick`, on a machine that does nothing else."""
    seconds = 0.1 if quick else 0.3
    sizes = _SIZES if quick else (*_SIZES, _LARGEST)
    rows = _QUICK_PRODUCT if quick else _PRODUCT
    if device == "cuda":
        return _cuda_limits(seconds, sizes)
    return _limits(
        {name: _cpu_product(name, rows, seconds) for name in ("float32", "float64")},
        [(size, _cpu_bandwidth(size, seconds / 4)) for size in sizes],
    )


def _fastest(run: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of several runs; at least three after one that warms up."""
    run()
    best, end, done = float("inf"), time.perf_counter() + seconds, 0
    while done < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        done += 1
    return best


def _cpu_product(dtype: str, n: int, seconds: float) -> float:
    """By BLAS's own threads, or by as many products of one thread each, which may be faster."""
    a = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    threads, strip = num_threads(), -(-n // num_threads())
    parts = [a[k : k + strip] for k in range(0, n, strip)]
    outs = [np.empty((len(p), n), dtype) for p in parts]
    together = _fastest(lambda: a @ a, seconds)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        apart = _fastest(
            lambda: list(pool.map(lambda p, o: np.matmul(p, a, out=o), parts, outs)), seconds
        )
    return 2.0 * n**3 / min(together, apart)


def _cpu_bandwidth(size: int, seconds: float) -> float:
    """Of copies, sums of two arrays and reads by all threads, the fastest; `size` bytes in all."""
    threads = num_threads()
    count = max(1, size // (4 * 3 * threads))  # float32 values in each of three arrays a thread
    parts = [tuple(np.ones((3, count), np.float32)) for _ in range(threads)]
    # Small sets are gone through several times, so that starting a thread no longer counts.
    turns = max(1, 2**24 // size)
    kinds: tuple[tuple[Callable[..., object], int], ...] = (
        (lambda a, b, c: np.copyto(c, a), 2),
        (lambda a, b, c: np.add(a, b, out=c), 3),
        (lambda a, b, c: np.dot(a, b), 2),
    )
    best = 0.0
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        for kind, arrays in kinds:

            def run(part: tuple[Any, ...], kind: Callable[..., object] = kind) -> None:
                for _ in range(turns):
                    kind(*part)

            took = _fastest(lambda run=run: list(pool.map(run, parts)), seconds)  # type: ignore[misc]
            best = max(best, 4.0 * arrays * count * threads * turns / took)
    return best


def _cuda_limits(seconds: float, sizes: tuple[int, ...]) -> Limits:
    import cupy

    def fastest(run: Callable[[], object]) -> float:
        def synchronised() -> None:
            run()
            cupy.cuda.Device().synchronize()

        return _fastest(synchronised, seconds)

    def product(dtype: str, n: int = 8192) -> float:
        a = cupy.ones((n, n), dtype)
        return 2.0 * n**3 / fastest(lambda: a @ a)

    def bandwidth(size: int) -> float:
        a, b = cupy.ones((2, size // 8), cupy.float32)
        turns = max(1, 2**28 // size)
        return size * turns / fastest(lambda: [cupy.copyto(b, a) for _ in range(turns)])

    # Three products in half precision carry what one in float32 does.
    single = max(product("float32"), product("float16") / 3)
    return _limits(
        {"float32": single, "float64": product("float64")},
        [(size, bandwidth(size)) for size in sizes],
    )
