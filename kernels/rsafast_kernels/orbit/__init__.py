"""Orbit sampling: the products ⟨A_π, B⟩ for n relabellings π at the price of one FFT.

For relabellings g of A and r of B and the cyclic shift c: x → x + 1 (mod n), every permutation
π = g ∘ c^s ∘ r⁻¹ of the orbit is evaluated at once::

    T[g, r, s] = Σ_{x<y} A[π(x), π(y)] B[x, y]
               = Σ_{d=1}^{⌊n/2⌋} w_d Σ_x A[g(x+s), g(x+s+d)] B[r(x), r(x+d)]

with w_d = 1, but ½ for d = n / 2, a diagonal that is met twice.

The inner sum is a circular cross-correlation along the d-th circulant diagonal: transform the
diagonals of each side once (`spectra`), multiply and sum over d per frequency, transform back
(`correlate`). Cost per permutation: about 2n floating-point operations in the products, where a
direct evaluation takes n² gathered ones. We are not aware of a published use for RDM statistics.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsafast_kernels._memory import aligned_empty
from rsafast_kernels._native import native
from rsafast_kernels._threads import threads_for
from rsafast_kernels.device import on_gpu
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.orbit import gpu
from rsafast_kernels.orbit.reference import permutation

__all__ = ["Workspace", "correlate", "permutation", "scratch_bytes", "spectra", "spectra_bytes"]

_LANES = 8  # chunks are padded to the widest vector of any instruction set
_CHUNK = 128  # diagonals that one pass of the product reads, at most


def _chunks(n: int) -> tuple[int, int]:
    """How the n // 2 circulant diagonals are stored: (number of chunks, diagonals in each)."""
    count = -(-(n // 2) // _CHUNK)
    return count, -(-(n // 2) // (count * _LANES)) * _LANES


def spectra_bytes(n: int, itemsize: int = 8) -> int:
    """Bytes that the spectrum of one relabelled (n, n) matrix takes."""
    chunks, chunk = _chunks(n)
    return (n // 2 + 1) * 2 * chunks * chunk * itemsize


def scratch_bytes(rows_a: int, rows_b: int, n: int, itemsize: int = 8) -> int:
    """Bytes that `correlate` takes for products and result of ``rows_a x rows_b`` pairs."""
    lanes = -(-rows_b // _LANES) * _LANES
    return rows_a * itemsize * ((n // 2 + 1) * 2 * lanes + rows_b * n)


def spectra(
    stack: Any,
    relabelings: Any,
    *,
    side: Literal["permuted", "fixed"],
    out: NDArray[np.float64] | None = None,
) -> Any:
    """Spectra of the circulant diagonals of every matrix under every relabelling.

    Parameters
    ----------
    stack : (M, n, n) float64, symmetric with zero diagonal, n >= 2.
    relabelings : (K, n) int32, each row a permutation of 0..n-1.
    side : which factor of ⟨A_π, B⟩ this is; the fixed one carries the constant factors.
        Both arrays are NumPy's, or CuPy's on one GPU, where the stack may be float32.
    out : flat buffer to write to, of `spectra_bytes` for every row; the result is a view of it.

    Returns
    -------
    (n // 2 + 1, chunks, K * M, 2 * chunk) array: [frequency, chunk, relabelling * M + matrix,
    re | im of the diagonals d = 1..n // 2 in this chunk], padded with zeros. On a GPU a
    complex array that `correlate` takes (gpu.py).
    """
    if stack.ndim != 3 or stack.shape[1] != stack.shape[2] or stack.shape[1] < 2:
        raise InvalidInputError(f"stack must be (matrices, n, n) with n >= 2, got {stack.shape}")
    n = stack.shape[1]
    if relabelings.ndim != 2 or relabelings.shape[1] != n:
        raise InvalidInputError(f"relabelings must be (count, {n}), got {relabelings.shape}")
    if on_gpu(stack, relabelings):
        return gpu.spectra(stack, relabelings, side)
    chunks, chunk = _chunks(n)
    shape = (n // 2 + 1, chunks, len(relabelings) * len(stack), 2 * chunk)
    size = int(np.prod(shape))
    panel = (aligned_empty((size,)) if out is None else out[:size]).reshape(shape)
    native.orbit_spectra(
        np.ascontiguousarray(stack),
        np.ascontiguousarray(relabelings, dtype=np.int32),
        side == "fixed",
        panel,
        threads_for(20.0 * shape[2] * n * n),
    )
    return panel


@dataclass(frozen=True, slots=True)
class Workspace:
    """Buffers of `correlate`, for use in call after call: touching new pages takes time."""

    products: NDArray[np.float64]
    out: NDArray[np.float64]

    @classmethod
    def empty(cls, rows_a: int, rows_b: int, n: int) -> "Workspace":
        """Buffers for up to ``rows_a x rows_b`` pairs of rows."""
        lanes = -(-rows_b // _LANES) * _LANES
        return cls(
            products=aligned_empty((rows_a * (n // 2 + 1) * 2 * lanes,)),
            out=aligned_empty((rows_a * rows_b * n,)),
        )


def correlate(
    a: Any,
    b: Any,
    n: int,
    *,
    rows_a: range | None = None,
    rows_b: range | None = None,
    workspace: Workspace | None = None,
) -> Any:
    """Products of rows of panel `a` with rows of panel `b`, at all n shifts.

    Parameters
    ----------
    a, b : panels of `spectra` of the permuted and of the fixed side, for the same n.
    n : number of stimuli.
    rows_a, rows_b : the rows to multiply, contiguous; all of them by default, and on a GPU.
    workspace : buffers to work in, on the CPU; the result is then a view of them, valid until the
        next call.

    Returns
    -------
    (rows of a, rows of b, n) array of T[g, r, s].
    """
    if on_gpu(a, b):
        return gpu.correlate(a, b, n)
    rows_a = range(a.shape[2]) if rows_a is None else rows_a
    rows_b = range(b.shape[2]) if rows_b is None else rows_b
    workspace = workspace or Workspace.empty(len(rows_a), len(rows_b), n)
    out = workspace.out[: len(rows_a) * len(rows_b) * n].reshape(len(rows_a), len(rows_b), n)
    native.orbit_correlate(
        a,
        rows_a.start,
        len(rows_a),
        b,
        rows_b.start,
        len(rows_b),
        n,
        workspace.products,
        out,
        threads_for(2.0 * out.size * n),
    )
    return out
