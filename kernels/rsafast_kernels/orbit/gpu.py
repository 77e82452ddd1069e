"""Orbit products on a GPU: a gather and a change of order in CUDA, cuFFT and cuBLAS between them.

    diagonals (row, d, x)  --rfft-->  (row, d, k)  --transpose-->  panel (k, row, d)
    of the fixed side (d, row, x), and so                          panel (k, d, row)
    panels of both sides   --product over d, for every k-->  (k, row a, row b)
                           --transpose-->  (row a, row b, k)  --irfft-->  T (row a, row b, shift)

The product takes 2n operations a permutation, in batches of n / 2 + 1 complex matrix products; the
other steps move some 48 bytes a permutation in float64 (24 in float32). So on a card that makes 60
TFLOP/s and moves 4.8 TB/s the bound at n = 720 is 4e10 permutations a second, set by the products.
Transforms of relabelled matrices serve many permutations each, and are made a few at a time.
"""

from typing import Any, Literal

import numpy as np

from rsafast_kernels.cuda import launch
from rsafast_kernels.device import namespace

_THREADS = 128
_TRANSFORM_BYTES = 2**28  # diagonals of so many relabelled matrices are transformed at a time
_SUFFIX = {4: "f32", 8: "f64"}
_COMPLEX = {4: np.dtype(np.complex64), 8: np.dtype(np.complex128)}


def spectra_bytes(n: int, itemsize: int) -> int:
    """Bytes that the spectrum of one relabelled (n, n) matrix takes."""
    return (n // 2 + 1) * (n // 2) * 2 * itemsize


def transform_bytes(rows: int, n: int, itemsize: int) -> int:
    """Bytes that `spectra` of so many relabelled matrices takes beside its result."""
    one = 3 * spectra_bytes(n, itemsize)  # diagonals, their transform, cuFFT's work
    return min(rows * one, max(one, 3 * _TRANSFORM_BYTES))


def scratch_bytes(rows_a: int, rows_b: int, n: int, itemsize: int) -> int:
    """Bytes that `correlate` takes: products in either order, cuFFT's work, and the result."""
    return rows_a * rows_b * itemsize * (3 * 2 * (n // 2 + 1) + n)


def spectra(stack: Any, relabelings: Any, side: Literal["permuted", "fixed"]) -> Any:
    """Spectra of the circulant diagonals, complex.

    (n // 2 + 1, K * M, n // 2) of the permuted side and (n // 2 + 1, n // 2, K * M) of the fixed
    one: so cuBLAS takes both as they are, where CuPy would copy a transposed view.
    See `rsafast_kernels.orbit.spectra`; `stack` (M, n, n) float32 or float64 and `relabelings`
    (K, n) int32 are CuPy arrays.
    """
    xp = namespace(stack)
    matrices, n = len(stack), stack.shape[1]
    half, itemsize = n // 2, stack.dtype.itemsize
    step = max(1, min(_TRANSFORM_BYTES // (half * n * itemsize), 65535) // matrices)
    fixed, all_rows = side == "fixed", len(relabelings) * matrices
    shape = (half, all_rows) if fixed else (all_rows, half)
    panel = xp.empty((half + 1, *shape), _COMPLEX[itemsize])
    for first in range(0, len(relabelings), step):
        part = relabelings[first : first + step]
        rows = len(part) * matrices
        diagonals = xp.empty((rows, half, n), stack.dtype)
        launch(
            "orbit", f"orbit_diagonals_{_SUFFIX[itemsize]}",
            (-(-n // _THREADS), half, rows), (_THREADS,),
            stack, part, diagonals,
            np.int32(n), np.int32(matrices), np.int32(fixed),
        )  # fmt: skip
        values = transposed(xp.fft.rfft(diagonals, axis=2).reshape(rows * half, half + 1))
        at = slice(first * matrices, first * matrices + rows)
        if fixed:
            panel[:, :, at] = values.reshape(half + 1, half, rows).conj()
        else:
            panel[:, at] = values.reshape(half + 1, rows, half)
    return panel


def correlate(a: Any, b: Any, n: int) -> Any:
    """T (rows of a, rows of b, n) from the panels of both sides; see `orbit.correlate`."""
    xp = namespace(a)
    rows_a, rows_b = a.shape[1], b.shape[2]
    products = xp.matmul(a, b).reshape(len(a), rows_a * rows_b)
    products = transposed(products).reshape(rows_a, rows_b, len(a))
    return xp.fft.irfft(products, n, axis=2)


def transposed(values: Any) -> Any:
    """A complex matrix with its rows along its columns, in new memory."""
    rows, columns = values.shape
    out = namespace(values).empty((columns, rows), values.dtype)
    launch(
        "orbit", f"orbit_transpose_c{8 * values.dtype.itemsize}",
        (-(-rows // 32), -(-columns // 32)), (32, 8),
        values, out, np.int64(rows), np.int64(columns),
    )  # fmt: skip
    return out
