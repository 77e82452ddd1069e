"""All (or random) sign flips, relabellings and orders of a few units, and how many are extreme.

Each statistic here is a sum that a group acts on: Σ sᵢxᵢ over signs s, Σ_{i in A} xᵢ over subsets A
of one size, Σ c_t x_{π(t)} over orders π. The sums of the last units are computed once and shifted
by those of the first ones, so that a pattern costs one addition and no pattern is ever stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations, permutations
from math import comb, factorial

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.tally import Alternative

FloatArray = NDArray[np.float64]

# Statistics come in units of their null standard deviation; what lies this little (times the
# observed value, where that is above 1) below it counts as equal to it: rounding of the sums.
TOLERANCE = 1e-11
_SIGN = {"greater": 1.0, "less": -1.0}
_BLOCK = 2**18  # values worked on at a time: 2 MB, which stays in the cache
_CHUNK = 256  # random patterns that share a generator
SIGNS, SUBSETS, ORDERS = 101, 102, 103  # streams of the seed's random numbers


@dataclass(frozen=True, slots=True)
class Orbit:
    """Sums under every pattern, in blocks (k, P).

    Attributes
    ----------
    size : patterns that the blocks stand for, the identity among them.
    weight : patterns that each value stands for.
    exact : whether these are all patterns.
    """

    blocks: Iterable[FloatArray]
    size: int
    weight: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Extremes:
    """How many patterns reach the observed value, (k,) each: alone, and by a maximum (max-T)."""

    each: NDArray[np.int64]
    single_step: NDArray[np.int64]
    step_down: NDArray[np.int64]


def scores(values: FloatArray, alternative: Alternative) -> FloatArray:
    """Statistic turned so that larger is more extreme; a new array."""
    return np.abs(values) if alternative == "two-sided" else values * _SIGN[alternative]


def count_extremes(
    orbit: Orbit,
    observed: FloatArray,
    alternative: Alternative,
    advance: Callable[[int], None] = lambda _: None,
) -> Extremes:
    """Count the patterns at least as extreme as `observed` (k,), of one scale over columns."""
    thresholds = scores(observed, alternative) - TOLERANCE * np.maximum(1.0, np.abs(observed))
    order = np.argsort(thresholds, kind="stable")
    rising = thresholds[order]
    each, down = np.zeros_like(order), np.zeros_like(order)
    passed = np.zeros(len(order) + 1, np.int64)  # maxima by how many thresholds they reach
    for block in orbit.blocks:
        # The running maximum over columns not yet passed (step-down); in the end it is over all.
        top = np.full(block.shape[1], -np.inf)
        for i, column in enumerate(order):
            values = scores(block[column], alternative)
            each[i] += np.count_nonzero(values >= rising[i])
            np.maximum(top, values, out=top)
            down[i] += np.count_nonzero(top >= rising[i])
        passed += np.bincount(np.searchsorted(rising, top, "right"), minlength=len(passed))
        advance(block.shape[1] * orbit.weight)
    single = passed[::-1].cumsum()[-2::-1]
    counts = np.empty((3, len(order)), np.int64)
    counts[:, order] = np.stack([each, single, down]) * orbit.weight
    return Extremes(*counts)


def step_down_p(
    extremes: Extremes, observed: FloatArray, orbit: Orbit, alternative: Alternative
) -> FloatArray:
    """Step-down max-T p-values, made monotone in the observed score (Westfall & Young 1993)."""
    falling = np.argsort(scores(observed, alternative), kind="stable")[::-1]
    p = np.asarray(extremes.step_down / orbit.size)
    p[falling] = np.maximum.accumulate(p[falling])
    return p


# ---------------------------------------------------------------- sign flips


def sign_orbit(
    x: FloatArray, two_sided: bool, n_samples: int, seed: int, max_exact: int
) -> Orbit:
    """Sums of x (k, n) under sign flips of the n units."""
    n = x.shape[1]
    if 2**n > max_exact:
        return Orbit(_random_signs(x, n_samples, seed), n_samples, 1, False)
    # A pattern and its opposite give opposite sums, so that half of them will do.
    half = _half_of_signs(x)
    if two_sided:
        return Orbit(half, 2**n, 2, True)
    return Orbit(chain.from_iterable((block, -block) for block in half), 2**n, 1, True)


def _half_of_signs(x: FloatArray) -> Iterator[FloatArray]:
    k, n = x.shape
    tail = min(n - 1, max(0, int(np.log2(_BLOCK / k))))
    sums = all_sums(x[:, n - tail :], (1.0, -1.0))
    head = x[:, 1 : n - tail]
    for pattern in range(2 ** head.shape[1]):
        signs = 1.0 - 2.0 * ((pattern >> np.arange(head.shape[1])) & 1)
        yield sums + (x[:, 0] + head @ signs)[:, None]


def all_sums(x: FloatArray, factors: tuple[float, float]) -> FloatArray:
    """Σ fᵢxᵢ for all ways to choose fᵢ from two factors: (k, 2ⁿ), all of the first kind first."""
    sums = np.zeros((len(x), 1))
    for column in x.T[:, :, None]:
        sums = np.concatenate([sums + f * column for f in factors], axis=1)
    return sums


def _random_signs(x: FloatArray, n_samples: int, seed: int) -> Iterator[FloatArray]:
    for flipped in _random_flips(x.shape[1], n_samples, seed):
        yield x @ (1.0 - 2.0 * flipped).T


def _random_flips(n: int, n_samples: int, seed: int) -> Iterator[FloatArray]:
    """Who is flipped (P, n), as 0 and 1; nobody in the first, the identity."""
    for chunk, size, rng in _chunks(n_samples, seed, SIGNS, n):
        flipped = rng.integers(0, 2, (_CHUNK, n)).astype(np.float64)
        if chunk == 0:
            flipped[0] = 0.0
        yield flipped[:size]


# ---------------------------------------------------------------- relabellings of two groups


def subset_orbit(
    x: FloatArray, chosen: int, n_samples: int, seed: int, max_exact: int
) -> Orbit:
    """Sums of x (k, N) over subsets of `chosen` units; the first ones are the identity."""
    total = comb(x.shape[1], chosen)
    if total > max_exact:
        return Orbit(_random_subsets(x, chosen, n_samples, seed), n_samples, 1, False)
    if 2 * chosen <= x.shape[1]:
        return Orbit(_all_subsets(x, chosen), total, 1, True)
    # Fewer units to choose by choosing those left out.
    everything = x.sum(axis=1, keepdims=True)
    left_out = x.shape[1] - chosen
    return Orbit((everything - block for block in _all_subsets(x, left_out)), total, 1, True)


def _all_subsets(x: FloatArray, chosen: int) -> Iterator[FloatArray]:
    k, n = x.shape
    limit = max(64, _BLOCK // k)

    @lru_cache(maxsize=32)
    def last(start: int, size: int) -> FloatArray:
        """Sums over the subsets of `size` among the units from `start` on."""
        flat = chain.from_iterable(combinations(range(start, n), size))
        index = np.fromiter(flat, np.int32).reshape(-1, size)
        sums = np.zeros((k, len(index)))
        for column in index.T:
            sums += x[:, column]
        return sums

    # A stack, not a recursion: 2 of 5,000 units go 5,000 deep.
    waiting: list[tuple[int, int, FloatArray]] = [(0, chosen, np.zeros((k, 1)))]
    while waiting:
        start, size, base = waiting.pop()
        if size == 1:
            for first in range(start, n, limit):
                yield base + x[:, first : first + limit]
        elif comb(n - start, size) <= limit:
            yield base + last(start, size)
        else:
            waiting.append((start + 1, size, base))
            waiting.append((start + 1, size - 1, base + x[:, start : start + 1]))


def _random_subsets(
    x: FloatArray, chosen: int, n_samples: int, seed: int
) -> Iterator[FloatArray]:
    n = x.shape[1]
    for chunk, size, rng in _chunks(n_samples, seed, SUBSETS, n):
        member = rng.permuted(np.tile(np.arange(n) < chosen, (_CHUNK, 1)), axis=1)
        if chunk == 0:
            member[0] = np.arange(n) < chosen
        yield x @ member[:size].T.astype(np.float64)


# ---------------------------------------------------------------- orders


def order_orbit(
    weights: FloatArray, x: FloatArray, n_samples: int, seed: int, max_exact: int
) -> Orbit:
    """Sums Σ_t weights_t x_{π(t)} of x (k, T) over the orders π of T checkpoints."""
    total = factorial(len(weights))
    if total > max_exact:
        return Orbit(_random_orders(weights, x, n_samples, seed), n_samples, 1, False)
    return Orbit(_all_orders(weights, x), total, 1, True)


def _all_orders(weights: FloatArray, x: FloatArray) -> Iterator[FloatArray]:
    k, n = x.shape
    tail = min(n, 4)
    while tail < min(n, 8) and factorial(tail + 1) * k <= _BLOCK:
        tail += 1
    orders = np.array(list(permutations(range(tail))))
    placed = np.zeros(orders.shape)  # the weight that each of the last values gets
    np.put_along_axis(placed, orders, weights[n - tail :][None], axis=1)
    for first in permutations(range(n), n - tail):
        rest = [i for i in range(n) if i not in first]
        base = x[:, list(first)] @ weights[: n - tail]
        yield x[:, rest] @ placed.T + base[:, None]


def _random_orders(
    weights: FloatArray, x: FloatArray, n_samples: int, seed: int
) -> Iterator[FloatArray]:
    for chunk, size, rng in _chunks(n_samples, seed, ORDERS, len(weights)):
        shuffled = rng.permuted(np.tile(weights, (_CHUNK, 1)), axis=1)
        if chunk == 0:
            shuffled[0] = weights
        yield x @ shuffled[:size].T


def _chunks(
    n_samples: int, seed: int, stream: int, items: int
) -> Iterator[tuple[int, int, np.random.Generator]]:
    """Number, size and generator of each chunk of random patterns, the same on any machine."""
    for chunk in range((n_samples + _CHUNK - 1) // _CHUNK):
        keys = np.random.SeedSequence([seed, stream, items, chunk])
        size = min(_CHUNK, n_samples - chunk * _CHUNK)
        yield chunk, size, np.random.Generator(np.random.Philox(keys))


# ---------------------------------------------------------------- interval


def flip_interval(
    x: FloatArray, level: float, n_samples: int, seed: int, max_exact: int
) -> FloatArray:
    """Interval of the centre of symmetry of each column of x (k, n): sign-flip test inverted.

    A centre θ is kept where the two-sided test of x - θ has p > 1 - level. Its one-sided p is
    (1 + the number of non-empty subsets with a mean of at most θ) / 2ⁿ, so that the limits are
    order statistics of the subset means (Hartigan 1969). (k, 2); infinite where 2ⁿ patterns are
    too few for this level.
    """
    n = x.shape[1]
    if 2**n <= max_exact:
        sizes = all_sums(np.ones((1, n)), (0.0, 1.0))[0, 1:]
        total, always = 2**n, 1  # the empty subset (the identity) counts at every θ
    else:
        chosen = np.concatenate(list(_random_flips(n, n_samples, seed)))
        sizes = chosen.sum(axis=1)
        total, always = n_samples, int((sizes == 0).sum())
        chosen, sizes = chosen[sizes > 0], sizes[sizes > 0]
    # 1e-9: a level like 0.9375 must find its order statistic in spite of rounding.
    place = int(np.floor((1.0 - level) / 2 * total + 1e-9)) - always
    limits = np.array([[-np.inf, np.inf]] * len(x))
    if place < 0:
        return limits
    for row, limit in zip(x, limits, strict=True):
        sums = all_sums(row[None], (0.0, 1.0))[0, 1:] if 2**n <= max_exact else chosen @ row
        means = sums / sizes
        low, high = place, len(means) - 1 - place
        parts = np.partition(means, [low, high])
        limit[:] = parts[low], parts[high]
    return limits
