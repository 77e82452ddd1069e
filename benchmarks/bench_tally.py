"""Counting of permuted statistics.

Run: ``pytest benchmarks/bench_tally.py --benchmark-group-by=param:row``.
What is measured, and how it is checked first, is in ``rsafast/bench/kernels/tally.py``.
"""

import pytest
from timed import measure, providers


@pytest.mark.parametrize(("row", "provider"), providers("tally"))
def test_tally(benchmark, row, provider):
    measure(benchmark, row, provider)
