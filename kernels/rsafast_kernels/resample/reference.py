"""Products of RDMs on resamples of the stimuli, by writing every resample out."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def resampled_products(
    a: FloatArray,
    b: FloatArray,
    weights: NDArray[np.integer],
    keep: NDArray[np.bool_],
    *,
    ranks: bool,
    centred: bool,
    whitened: bool,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Products (R, M, N), squares (R, M) and (R, N) and pairs (R,) of the resamples `weights`."""
    n = weights.shape[1]
    products = np.zeros((len(weights), len(a), len(b)))
    squares_a, squares_b = np.zeros((len(weights), len(a))), np.zeros((len(weights), len(b)))
    pairs = np.zeros(len(weights))
    for r, row in enumerate(weights):
        drawn = np.repeat(np.arange(n), row)
        first, second = np.triu_indices(len(drawn), 1)
        x, y = drawn[first], drawn[second]
        place = np.minimum(x, y) * n - np.minimum(x, y) * (np.minimum(x, y) + 1) // 2
        place += np.abs(x - y) - 1
        there = x != y  # a stimulus has no dissimilarity to its own copy
        there[there] = keep[place[there]]
        pairs[r] = there.sum()
        if not there.any():
            continue
        left, right = (
            np.stack([_prepared(v[place[there]], ranks, centred) for v in side]) for side in (a, b)
        )
        solved = right.T
        if whitened:
            share = [first[there], second[there]]
            same = sum((p[:, None] == q[None]).astype(float) for p in share for q in share)
            solved = np.linalg.solve(same + 2 * np.eye(len(same)), right.T)
            squares_a[r] = np.einsum(
                "mp,pm->m", left, np.linalg.solve(same + 2 * np.eye(len(same)), left.T)
            )
        else:
            squares_a[r] = (left**2).sum(axis=1)
        squares_b[r] = np.einsum("np,pn->n", right, solved)
        products[r] = left @ solved
    return products, squares_a, squares_b, pairs


def _prepared(values: FloatArray, ranks: bool, centred: bool) -> FloatArray:
    if ranks:
        below = (values[:, None] > values[None]).sum(axis=1)
        values = below + ((values[:, None] == values[None]).sum(axis=1) + 1) / 2
    return values - values.mean() if centred else values
