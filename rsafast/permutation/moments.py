"""Exact moments of ⟨A_π, B⟩ over all n! relabellings, without drawing one.

⟨A_π, B⟩^k is a sum over k pairs of stimuli. Its mean over π depends on A and B only through sums
over the graphs that k edges can form (Mantel 1967 for k = 2; Siemiatycki 1978 for k = 3): the sum
over all placements of the graph in A, times that in B, divided by the number of placements.
"""

from math import perm

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Graphs of 2 edges: double edge, path, two apart; of 3 edges: triple edge, double + adjacent,
# double + apart, triangle, path, star, path of two + apart, three apart. For each, its number of
# vertices and how often one placement appears in (sum over ordered pairs)^k.
_TWO = ((2, 2), (3, 4), (4, 1))
_THREE = ((2, 4), (3, 24), (4, 6), (3, 8), (4, 24), (4, 8), (5, 12), (6, 1))


def mean_and_std(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Exact mean and standard deviation over relabellings: two (M, N) arrays.

    Parameters
    ----------
    a, b : (M, n, n), (N, n, n) symmetric with zero diagonal.
    """
    left, right = ((x.sum(axis=2), np.einsum("mxy,mxy->m", x, x)) for x in (a, b))
    return mean_and_std_of_sums(left, right, a.shape[1])


def mean_and_std_of_sums(
    a: tuple[FloatArray, FloatArray], b: tuple[FloatArray, FloatArray], n: int
) -> tuple[FloatArray, FloatArray]:
    """As `mean_and_std`, from the row sums (M, n) and the sum of squares (M,) of every matrix."""
    totals = [rows.sum(axis=1) for rows, _ in (a, b)]
    mean = np.outer(*totals) / (2 * n * (n - 1))
    second = _raw_moment(_two_edges(*a), _two_edges(*b), _TWO, n) / 4
    return mean, np.sqrt(np.maximum(second - mean**2, 0.0))


def skewness(a: FloatArray, b: FloatArray) -> FloatArray:
    """Exact third standardised moment over relabellings, (M, N); NaN where nothing varies.

    Costs one matrix product (n³) an RDM, for the triangles.
    """
    n = a.shape[1]
    mean, std = mean_and_std(a, b)
    second = std**2 + mean**2
    third = _raw_moment(_three_edges(a), _three_edges(b), _THREE, n) / 8
    central = third - 3 * mean * second + 2 * mean**3
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(std > 0, central / std**3, np.nan)


def _raw_moment(
    a: FloatArray, b: FloatArray, graphs: tuple[tuple[int, int], ...], n: int
) -> FloatArray:
    total = np.zeros((a.shape[1], b.shape[1]))
    for (vertices, multiplicity), x, y in zip(graphs, a, b, strict=True):
        if vertices <= n:
            total += multiplicity * np.outer(x, y) / perm(n, vertices)
    return total


def _two_edges(rows: FloatArray, double: FloatArray) -> FloatArray:
    """Sums over ordered placements of the graphs of `_TWO`: (3, M)."""
    path = (rows**2).sum(axis=1) - double
    return np.stack([double, path, rows.sum(axis=1) ** 2 - 2 * double - 4 * path])


def _three_edges(a: FloatArray) -> FloatArray:
    """Sums over ordered placements of the graphs of `_THREE`: (8, M)."""
    rows, squares = a.sum(axis=2), np.einsum("mxy,mxy->mx", a, a)
    cubes = np.einsum("mxy,mxy,mxy->mx", a, a, a)
    total, q = rows.sum(axis=1), squares.sum(axis=1)
    triple = cubes.sum(axis=1)
    double_adjacent = (squares * rows).sum(axis=1) - triple
    double_apart = q * total - 4 * double_adjacent - 2 * triple
    triangle = np.array([np.einsum("xy,xy->", m @ m, m) for m in a])
    along = np.einsum("mx,mxy,my->m", rows, a, rows)
    path = along - 2 * (squares * rows).sum(axis=1) + triple - triangle
    star = (rows**3 - 3 * rows * squares + 2 * cubes).sum(axis=1)
    two_path = (rows**2 - squares).sum(axis=1)
    path_apart = two_path * total - 4 * path - 2 * star - 4 * double_adjacent - 2 * triangle
    apart = (
        total**3 - 4 * triple - 24 * double_adjacent - 6 * double_apart - 8 * triangle
        - 24 * path - 8 * star - 12 * path_apart
    )  # fmt: skip
    return np.stack(
        [triple, double_adjacent, double_apart, triangle, path, star, path_apart, apart]
    )
