"""Ranks by counting against ranks by sorting: any ISA, threads, blocks, ties, signs and binades."""

import importlib
import tracemalloc

import numpy as np
import pytest
from rsafast_kernels import threads
from rsafast_kernels._native import available
from rsafast_kernels.errors import InvalidInputError
from rsafast_kernels.rank import counting, reference
from rsafast_kernels.rank.counting import Ranker

VALUES = {
    # In few binades, each of which takes 64 MB of counters and ranks.
    "both signs": lambda rng, n: rng.choice([-1, 1], n) * rng.uniform(1, 3, n),
    "correlation distances": lambda rng, n: 1 - rng.uniform(-0.6, 0.6, n),
    "heavy ties": lambda rng, n: rng.integers(-3, 4, n) / 4,
    "one value": lambda rng, n: np.full(n, 0.3),
    "every binade": lambda rng, n: rng.choice([-1, 1], n) * 2.0 ** rng.integers(-149, 128, n),
    "zeros of both signs": lambda rng, n: rng.choice([0.0, -0.0, 1e-45, -1e-45], n),
    "extremes": lambda rng, n: rng.choice([np.finfo(np.float32).max, np.finfo(np.float32).min], n),
}


@pytest.fixture(params=available())
def any_isa(request, monkeypatch):
    module = importlib.import_module(f"rsafast_kernels._native.{request.param}")
    monkeypatch.setattr(counting, "native", module)


def ranks(values, dtype, blocks):
    ranker = Ranker()
    for block in np.array_split(values, blocks):
        ranker.scan(block)
    ranker.allocate()
    for block in np.array_split(values, blocks + 1):
        ranker.count(block)
    ranker.finish(dtype)
    return np.concatenate([ranker.ranks(block) for block in np.array_split(values, blocks + 2)])


@pytest.mark.usefixtures("any_isa")
@pytest.mark.parametrize("n", [1, 2, 3, 31, 33, 127, 70_000])
@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_counted_ranks_are_sorted_ranks(make, n):
    values = make(np.random.default_rng(n), n).astype(np.float32)
    expected = reference.average_ranks(values)
    np.testing.assert_array_equal(ranks(values, "float32", 3), expected.astype(np.float32))
    steps = (expected - 1) / max(n - 1, 1) * 65535
    np.testing.assert_array_equal(ranks(values, "uint16", 1), np.rint(steps))


def test_threads_make_no_difference():
    values = np.random.default_rng(0).integers(0, 40, 300_000).astype(np.float32)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(ranks(values, "float32", 1))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_strided_values_and_what_tables_take():
    values = np.arange(20, dtype=np.float32)[::-2]
    ranker = Ranker()
    ranker.scan(values)
    assert ranker.total == 10
    # 1, 3, ..., 19: one upper half each.
    assert ranker.table_bytes == 10 * 65536 * 8


def test_a_finished_ranker_holds_no_more_than_it_says():
    values = np.linspace(1, 2, 500, dtype=np.float32)
    tracemalloc.start()
    try:
        ranker = Ranker()
        ranker.scan(values)
        ranker.allocate()
        ranker.count(values)
        ranker.finish("float32")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < ranker.nbytes + 2**21


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite(bad):
    with pytest.raises(InvalidInputError, match="finite"):
        Ranker().scan(np.array([1.0, bad], np.float32))


def test_refuses_other_values_than_it_scanned():
    ranker = Ranker()
    ranker.scan(np.array([1.0, 2.0], np.float32))
    ranker.allocate()
    ranker.count(np.array([1.0], np.float32))
    with pytest.raises(InvalidInputError, match="other values"):
        ranker.finish("float32")
