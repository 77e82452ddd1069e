"""Units of Z_n: more relabellings out of the same transforms.

The maps x → u·x + s (mod n), with u in a group U of units and s any shift, form a group, so an
orbit under all of them is as exact as one under the shifts alone, and m = |U| times as long. A unit
carries the circulant diagonal d to u·d: the diagonals fall into orbits of U, and whoever sums over
them needs only those of one orbit at a time.

Two elements that agree on many stimuli count as less than two, and one that undoes itself
(x → s - x) doubles the variance of a product of matrices that resemble each other. So -1 is in no
group given here, and `unit_group` avoids units that are close to 1 or -1 on a large part of the
stimuli.
"""

from dataclasses import dataclass
from itertools import product
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

Units = NDArray[np.int64]

MOST_UNITS = 256  # of a group: all their diagonals of an orbit are in memory at once
_MOST_OVERLAP = 0.5  # in relabellings: what shared stimuli may add to the variance of a mean


@dataclass(frozen=True, slots=True)
class DiagonalOrbits:
    """Orbits of circulant diagonals that a group of units acts on alike.

    Attributes
    ----------
    residues : (L, D) int64; column j is an orbit of L diagonals d, 0 < d < n.
    moves : (m, L) int32; unit u carries the diagonal of row w to row ``moves[u, w]``, for every j.
    weight : 1/2 where an orbit holds d and n - d, which are the same pairs; else 1.
    """

    residues: NDArray[np.int64]
    moves: NDArray[np.int32]
    weight: float


def unit_group(n: int, least: int) -> Units | None:
    """Smallest suitable group of at least `least` units of Z_n, the unit 1 first.

    None where there is none of at most `MOST_UNITS`.
    """
    if least <= 1:
        return np.ones(1, np.int64)
    best: Units | None = None
    for generators in _subgroups(n):
        size = prod(order for _, order in generators)
        if least <= size <= MOST_UNITS and (best is None or size < len(best)):
            units = _generated(n, generators)
            if overlap(n, units) <= _MOST_OVERLAP:
                best = units
    return best


def overlap(n: int, units: Units) -> float:
    """How many relabellings' worth the units of a group share: 0 for none."""
    shared = sum(gcd(int(u) - 1, n) for u in units if u != 1)
    return float(shared + sum(gcd(int(u) + 1, n) for u in units)) / n


def diagonal_orbits(n: int, units: Units) -> list[DiagonalOrbits]:
    """All circulant diagonals of n stimuli as orbits of a group of units.

    Of every pair d, n - d one is listed, or both with a weight of 1/2.
    """
    return [_orbits_of(n, n // g, g, units) for g in range(1, n // 2 + 1) if n % g == 0]


def frequency_order(n: int, units: Units) -> NDArray[np.int32]:
    """Frequencies 0..n // 2, those that units carry into each other next to each other."""
    k = np.arange(n // 2 + 1, dtype=np.int64)
    first = k.copy()
    for u in units:
        met = u * k % n
        np.minimum(first, np.minimum(met, n - met), out=first)
    return np.lexsort((k, first)).astype(np.int32)


def _orbits_of(n: int, size: int, g: int, units: Units) -> DiagonalOrbits:
    """Diagonals d with gcd(d, n) = g: g times the units of Z_size."""
    acting, inverse = np.unique(units % size, return_inverse=True)
    # The unit 1 comes first, also among those that act differently.
    rank = np.argsort(np.concatenate([np.flatnonzero(acting == 1 % size),
                                      np.flatnonzero(acting != 1 % size)]))  # fmt: skip
    acting = acting[np.argsort(rank)]
    inverse = rank[inverse]
    mirrored = bool(((size - acting) % size == 1 % size).any())
    members = np.arange(1, size, dtype=np.int64) if size > 2 else np.ones(1, np.int64)
    members = members[np.gcd(members, size) == 1]
    least = members.copy()
    for u in acting:
        met = u * members % size
        np.minimum(least, met, out=least)
        if not mirrored:
            np.minimum(least, size - met, out=least)
    first = members[least == members]
    table = np.full(size, -1, np.int32)
    table[acting] = np.arange(len(acting))
    return DiagonalOrbits(
        residues=g * (acting[:, None] * first % size),
        moves=table[acting[inverse][:, None] * acting % size],
        weight=0.5 if mirrored else 1.0,
    )


def _subgroups(n: int) -> list[list[tuple[int, int]]]:
    """Groups of units without -1, as (generator, its order): products of cyclic ones."""
    cyclic = _components(n)
    choices = [[order // p**k for k in range(_power(order, p) + 1)] for _, order, p in cyclic]
    found = []
    for sizes in product(*choices):
        chosen = [
            (pow(generator, order // size, n), size)
            for (generator, order, _), size in zip(cyclic, sizes, strict=True)
            if size > 1
        ]
        if not _holds_minus_one(n, chosen):
            found.append(chosen)
    return found


def _holds_minus_one(n: int, generators: list[tuple[int, int]]) -> bool:
    """Whether a product of involutions of the generators is -1; others cannot be."""
    involutions = [(1, pow(g, order // 2, n)) for g, order in generators if order % 2 == 0]
    return any(prod(part) % n == n - 1 for part in product(*involutions))


def _components(n: int) -> list[tuple[int, int, int]]:
    """The units of Z_n as a product of cyclic groups: (generator, order a power of p, p)."""
    found = []
    for q, power in _factors(n):
        for generator, order in _cyclic(q, power):
            rest = n // q**power
            # The unit of Z_n that is `generator` modulo this prime power and 1 modulo the rest.
            lifted = (1 + rest * ((generator - 1) * pow(rest, -1, q**power) % q**power)) % n
            for p, k in _factors(order):
                found.append((pow(lifted, order // p**k, n), p**k, p))
    return found


def _cyclic(q: int, power: int) -> list[tuple[int, int]]:
    """Generators and orders of the cyclic factors of the units modulo q ** power, q prime."""
    if q == 2:
        if power == 1:
            return []
        # -1 comes with 5: 3 generates as many as 5 does without it.
        return [(3, 2)] if power == 2 else [(2**power - 1, 2), (5, 2 ** (power - 2))]
    order = (q - 1) * q ** (power - 1)
    generator = next(
        g for g in range(2, q**power)
        if g % q and all(pow(g, order // p, q**power) != 1 for p, _ in _factors(order))
    )  # fmt: skip
    return [(generator, order)]


def _generated(n: int, generators: list[tuple[int, int]]) -> Units:
    units = np.ones(1, np.int64)
    for generator, order in generators:
        powers = np.array([pow(generator, k, n) for k in range(order)], np.int64)
        units = (units[:, None] * powers % n).ravel()
    return units


def _factors(n: int) -> list[tuple[int, int]]:
    """Primes and their powers."""
    found, p = [], 2
    while p * p <= n:
        power = 0
        while n % p == 0:
            n, power = n // p, power + 1
        if power:
            found.append((p, power))
        p += 1
    return [*found, (n, 1)] if n > 1 else found


def _power(order: int, p: int) -> int:
    return next(k for k in range(64) if p**k >= order)
