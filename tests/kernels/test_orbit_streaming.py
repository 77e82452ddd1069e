"""Streamed orbits and units against products of relabelled matrices written out."""

from itertools import pairwise

import numpy as np
import pytest
from rsafast_kernels import threads
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.orbit import streaming
from rsafast_kernels.orbit.reference import orbit_products
from rsafast_kernels.orbit.units import MOST_UNITS, diagonal_orbits, overlap, unit_group
from rsafast_kernels.relabel import relabelings
from scipy.spatial.distance import squareform

# Primes, powers of 2 and of others, many divisors, none but itself and 2.
SIZES = [2, 3, 4, 5, 8, 9, 12, 24, 25, 49, 60, 92, 101, 120, 202]


def groups(n):
    found = [unit_group(n, least) for least in (1, 2, 4, 9, 20)]
    return [units for units in found if units is not None]


@pytest.mark.parametrize("n", [*SIZES, 720, 1000, 1854, 4096, 10_007, 73_000])
def test_units_form_a_group_without_minus_one(n):
    for units in groups(n):
        members = set(units.tolist())
        assert len(members) == len(units) <= MOST_UNITS
        assert units[0] == 1
        assert np.all(np.gcd(units, n) == 1)
        assert {int(u) * int(v) % n for u in units for v in units} == members
        assert n <= 2 or n - 1 not in members
        if len(units) > 1:
            assert overlap(n, units) <= 0.5


def test_sizes_of_nsd_and_things_have_units():
    assert [len(unit_group(n, 4)) for n in (720, 1854, 10_000, 73_000)] == [4, 6, 4, 4]
    assert unit_group(92, 2) is None
    assert unit_group(10_007, 2) is None  # its odd units come in thousands


@pytest.mark.parametrize("n", SIZES)
def test_every_diagonal_is_in_one_orbit(n):
    for units in groups(n):
        weight = np.zeros(n)
        for orbits in diagonal_orbits(n, units):
            for unit, moves in zip(units, orbits.moves, strict=True):
                assert np.array_equal(unit * orbits.residues % n, orbits.residues[moves])
            np.add.at(weight, orbits.residues, orbits.weight)
        # A diagonal d and its mirror n - d are the same pairs; n / 2 is its own mirror.
        both = weight[1:] + weight[1:][::-1]
        np.testing.assert_array_equal(both, 1.0)


def summed(vectors, relabeled, units, n, *, edges=None, share=None, dtype=np.float64):
    """Statistics (rows of a, rows of b, units, n) of condensed vectors under all shifts."""
    edges = edges or [0, n]
    chunks = streaming.chunks(n, units)
    rows = [len(v) * len(g) for v, g in zip(vectors, relabeled, strict=True)]
    sums = streaming.Sums(n, *rows, units)
    ones, zeros = [np.ones(r) for r in rows], [np.zeros(r) for r in rows]
    share = share or len(chunks)
    for start in range(0, len(chunks), share):
        part = chunks[start : start + share]
        residues = np.concatenate([c.residues for c in part])
        diagonals = streaming.stored_diagonals(residues, n)
        filled = []
        for side, drawn, row in zip(vectors, relabeled, rows, strict=True):
            out = np.full((row, len(diagonals), n), 0 if dtype == np.uint16 else np.nan, dtype)
            for first, last in pairwise(edges):
                begin, end = (k * n - k * (k + 1) // 2 for k in (first, last))
                for i, g in enumerate(drawn):
                    for m, vector in enumerate(side):
                        panel = vector[begin:end].astype(dtype)
                        to = out[i * len(side) + m]
                        streaming.fill(panel, first, last, g, diagonals, to)
            filled.append(out)
        for chunk in part:
            sums.add(chunk, *filled, diagonals, tuple(ones), tuple(zeros))
    return sums.statistics(0, rows[0])


def expected(vectors, relabeled, units, n):
    a, b = (np.array([squareform(v.astype(float)) for v in side]) for side in vectors)
    g, r = relabeled
    inverse = [pow(int(unit), -1, n) * np.arange(n) % n for unit in units]
    fixed = [[m[np.ix_(h[back], h[back])] / 2 for back in inverse] for h in r for m in b]
    out = np.empty((len(g) * len(a), len(r) * len(b), len(units), n))
    for i, (h, m) in enumerate((h, m) for h in g for m in a):
        # Rows and columns s to s + n of the relabelled matrix beside itself are its shift by s.
        wide = np.tile(m[np.ix_(h, h)], (2, 2))
        for s in range(n):
            out[i, ..., s] = np.tensordot(fixed, wide[s : s + n, s : s + n], 2)
    return out


@pytest.mark.parametrize("n", [2, 3, 8, 25])
def test_shifts_written_out_are_the_orbit(rng, n):
    pairs = n * (n - 1) // 2
    vectors = rng.standard_normal((2, pairs)), rng.standard_normal((3, pairs))
    g, r = relabeled = relabelings(0, 0, 0, 2, n), relabelings(0, 1, 0, 3, n)
    a, b = (np.array([squareform(v) for v in side]) for side in vectors)
    found = expected(vectors, relabeled, [1], n).reshape(2, 2, 3, 3, n)
    np.testing.assert_allclose(found, orbit_products(a, b, g, r), atol=1e-12 * n)


@pytest.mark.parametrize("n", SIZES)
def test_statistics_are_those_of_relabelled_matrices(rng, n):
    pairs = n * (n - 1) // 2
    vectors = rng.standard_normal((2, pairs)), rng.standard_normal((1, pairs))
    relabeled = relabelings(0, 0, 0, 2, n), relabelings(0, 1, 0, 3, n)
    for units in groups(n)[:3]:
        found = summed(vectors, relabeled, units, n)
        np.testing.assert_allclose(found, expected(vectors, relabeled, units, n), atol=1e-11 * n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_rows_and_diagonals_may_come_in_any_parts(rng, dtype):
    n, pairs = 60, 60 * 59 // 2
    vectors = rng.integers(0, 60_000, (1, pairs)), rng.integers(0, 60_000, (2, pairs))
    relabeled = relabelings(3, 0, 0, 3, n), relabelings(3, 1, 0, 1, n)
    units = unit_group(n, 2)
    whole = summed(vectors, relabeled, units, n)
    np.testing.assert_allclose(whole, expected(vectors, relabeled, units, n), rtol=1e-9)
    parted = summed(
        vectors, relabeled, units, n, edges=[0, 1, 17, 59, 60], share=1, dtype=dtype
    )  # fmt: skip
    np.testing.assert_array_equal(parted, whole)


def test_results_do_not_depend_on_threads_nor_beyond_rounding_on_the_rows(rng):
    n = 404
    vectors = rng.standard_normal((1, n * (n - 1) // 2)), rng.standard_normal((1, 81_406))
    relabeled, units = (relabelings(0, 0, 0, 5, n), relabelings(0, 1, 0, 3, n)), unit_group(n, 4)
    with threads(1):
        one = summed(vectors, relabeled, units, n)
    with threads(2):
        two = summed(vectors, relabeled, units, n)
    np.testing.assert_array_equal(one, two)
    alone = summed(vectors, (relabeled[0][3:4], relabeled[1][2:3]), units, n)
    np.testing.assert_allclose(alone[0, 0], one[3, 2], atol=1e-10)


def test_centre_and_scale_make_of_values_what_is_multiplied(rng):
    n, units = 30, unit_group(30, 1)
    values, g = rng.standard_normal(435), relabelings(0, 0, 0, 1, n)
    diagonals = np.arange(1, 16)
    out = np.empty((1, 15, n))
    streaming.fill(values, 0, n, g[0], diagonals, out[0])
    sums = streaming.Sums(n, 1, 1, units)
    for chunk in streaming.chunks(n, units):
        sums.add(chunk, out, out, diagonals, (np.array([2.0]), np.array([3.0])),
                 (np.array([0.5]), np.array([-0.25])))  # fmt: skip
    vectors = (values[None] - 0.5) * 2, (values[None] + 0.25) * 3
    np.testing.assert_allclose(sums.statistics(0), expected(vectors, (g, g), units, n), atol=1e-10)


def test_fill_refuses_what_does_not_fit():
    g, diagonals = np.arange(5, dtype=np.int32), np.array([1, 2])
    with pytest.raises(InvalidInputError, match="must be"):
        streaming.fill(np.zeros(10), 0, 5, g, diagonals, np.zeros((3, 5)))
    with pytest.raises(InvalidInputError, match="of float64, got"):
        streaming.fill(np.zeros(10), 0, 5, g, diagonals, np.zeros((2, 5), np.float32))
    with pytest.raises(InvalidInputError, match="rows 0 to 2"):
        streaming.fill(np.zeros(10), 0, 2, g, diagonals, np.zeros((2, 5)))
