"""Products of RDMs on bootstrap resamples of the stimuli, without writing the resamples out.

A resample that draws stimulus x w_x times has, between different stimuli, w_x·w_y copies of the
dissimilarity of the pair (x, y); copies of one stimulus have none. So every sum over the pairs of
the resample is a sum over the pairs of the data with weights w_x·w_y, and three things follow:

ranks      The order of the pairs never changes: sort once. The average rank in a resample is the
           running sum of the weights over that order, at the middle of the pair's own copies.
whitening  V, the covariance of dissimilarities, acts on F(x, y) of the resample as
           2F + S_x + S_y with S_x = Σ_z w_z F(x, z), so that with row sums f_x = Σ_z w_z f(x, z)
           and c_x = w_x / (2 + n - 2 w_x):
           ⟨f, V⁻¹ g⟩ = ½ [ Σ w_x w_y f g - Σ c_x f_x g_x + (Σ c_x f_x)(Σ c_x g_x) / (1 + Σ c_x) ].
products   One matrix product over pairs a resample serves all models and all brain RDMs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast_kernels.errors import InvalidInputError

__all__ = ["Products", "Resampler", "weighted_ranks"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Products:
    """What similarities on R resamples are made of.

    Attributes
    ----------
    products : (R, M, N) inner products of the prepared vectors of `a` and `b`.
    squares_a, squares_b : (R, M) and (R, N) inner products of each vector with itself; exactly 0
        where an RDM has no spread in the resample (less than 1e-12 of its length).
    pairs : (R,) pairs of different stimuli that the resample holds, copies counted.
    """

    products: FloatArray
    squares_a: FloatArray
    squares_b: FloatArray
    pairs: FloatArray


class Resampler:
    """RDMs of two sides, prepared once for any number of resamples.

    Parameters
    ----------
    a, b : (M, pairs) and (N, pairs) float64 dissimilarities in squareform order
    n : stimuli
    ranks : replace values by their average ranks in the resample
    centred : subtract the mean over the pairs of the resample
    whitened : multiply by V^(-1/2) of the resample (without a mask only)
    keep : (pairs,) bool, optional
        Pairs that count; values elsewhere are never read and may be NaN.
    """

    def __init__(
        self,
        a: ArrayLike,
        b: ArrayLike,
        n: int,
        *,
        ranks: bool = False,
        centred: bool = False,
        whitened: bool = False,
        keep: NDArray[np.bool_] | None = None,
    ) -> None:
        self._n = n
        pairs = n * (n - 1) // 2
        self._keep = np.ones(pairs, bool) if keep is None else np.asarray(keep)
        if whitened and not self._keep.all():
            raise InvalidInputError("whitened products are not defined under a mask")
        self._ranks, self._centred, self._whitened = ranks, centred, whitened
        self._x, self._y = np.triu_indices(n, 1)
        self._sides = [np.where(self._keep, np.asarray(v, np.float64), 0.0) for v in (a, b)]
        self._orders = [_orders(v) if ranks else None for v in self._sides]

    def __call__(self, weights: ArrayLike) -> Products:
        """Products on the resamples `weights`, (R, n) counts of every stimulus."""
        rows = np.asarray(weights)
        out = Products(
            np.empty((len(rows), len(self._sides[0]), len(self._sides[1]))),
            np.empty((len(rows), len(self._sides[0]))),
            np.empty((len(rows), len(self._sides[1]))),
            np.empty(len(rows)),
        )
        for r, w in enumerate(rows.astype(np.float64)):
            out.pairs[r] = (w[self._x] * w[self._y] * self._keep).sum()
            (out.products[r], out.squares_a[r], out.squares_b[r]) = self._one(w)
        return out

    def ranks(self, weights: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Average ranks (M, pairs) and (N, pairs) in one resample (n,); 0 for absent pairs."""
        w = np.asarray(weights, np.float64)
        ww = w[self._x] * w[self._y] * self._keep
        a, b = (np.where(ww > 0, _ranked(v, ww), 0.0) for v in self._sides)
        return a, b

    def _one(self, w: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        ww = w[self._x] * w[self._y] * self._keep
        total = ww.sum()
        if total == 0:
            m, k = (len(v) for v in self._sides)
            return np.zeros((m, k)), np.zeros(m), np.zeros(k)
        a, b = (
            _ranked(v, ww, o) if o is not None else v
            for v, o in zip(self._sides, self._orders, strict=True)
        )
        floors = [1e-24 * ((v * v) @ ww) for v in (a, b)]
        if self._centred:
            a, b = (v - (v @ ww / total)[:, None] for v in (a, b))
        products, aa, bb = (a * ww) @ b.T, (a * a) @ ww, (b * b) @ ww
        if not self._whitened:
            return products, *_without_noise((aa, bb), floors)
        fa, fb = (self._row_sums(v, w) for v in (a, b))
        aa = (aa - _additive(fa, fa, w, outer=False)) / 2
        bb = (bb - _additive(fb, fb, w, outer=False)) / 2
        products = (products - _additive(fa, fb, w, outer=True)) / 2
        return products, *_without_noise((aa, bb), floors)

    def _row_sums(self, v: FloatArray, w: FloatArray) -> FloatArray:
        return np.stack(
            [
                np.bincount(self._x, row * w[self._y], self._n)
                + np.bincount(self._y, row * w[self._x], self._n)
                for row in v
            ]
        )


def weighted_ranks(values: ArrayLike, weights: ArrayLike) -> FloatArray:
    """Average ranks (K, P) of values (K, P) that occur `weights` (P,) times each."""
    return _ranked(np.atleast_2d(np.asarray(values, np.float64)), np.asarray(weights, np.float64))


def _additive(f: FloatArray, g: FloatArray, w: FloatArray, *, outer: bool) -> FloatArray:
    """Σ c f g - (Σ c f)(Σ c g) / (1 + Σ c) of every f with every g (outer) or row by row.

    The stimulus drawn most often is taken out of the sums, because its c is infinite where it
    fills n/2 + 1 of the n places.
    """
    most, n = int(np.argmax(w)), w.sum()
    others = np.delete(np.arange(len(w)), most)
    c = w[others] / (2 + n - 2 * w[others])
    inverse, total = (2 + n - 2 * w[most]) / w[most], 1 + c.sum()
    rest_f, rest_g = f[:, others] @ c, g[:, others] @ c
    at_f, at_g = f[:, most], g[:, most]
    if outer:
        rest_f, at_f = rest_f[:, None], at_f[:, None]
        within = (f[:, others] * c) @ g[:, others].T
    else:
        within = (f[:, others] * g[:, others]) @ c
    one = at_f * at_g * total - at_f * rest_g - at_g * rest_f - inverse * rest_f * rest_g
    return within + one / (inverse * total + 1)


def _without_noise(
    squares: tuple[FloatArray, FloatArray], floors: list[FloatArray]
) -> tuple[FloatArray, FloatArray]:
    a, b = (np.where(s > floor, s, 0.0) for s, floor in zip(squares, floors, strict=True))
    return a, b


def _orders(values: FloatArray) -> NDArray[np.int64]:
    return np.argsort(values, axis=1, kind="stable")


def _ranked(
    values: FloatArray, ww: FloatArray, orders: NDArray[np.int64] | None = None
) -> FloatArray:
    out = np.empty_like(values)
    orders = _orders(values) if orders is None else orders
    for row, v, order in zip(out, values, orders, strict=True):
        ends = np.flatnonzero(np.append(np.diff(v[order]) != 0, True)) + 1
        above = np.concatenate([[0.0], np.cumsum(ww[order])[ends - 1]])
        row[order] = np.repeat((above[:-1] + above[1:] + 1) / 2, np.diff(np.append(0, ends)))
    return out
