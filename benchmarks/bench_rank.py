"""Average ranks beside SciPy.

Run: ``pytest benchmarks/bench_rank.py --benchmark-group-by=param:row``.
What is measured, and how it is checked first, is in ``rsafast/bench/kernels/rank.py``.
"""

import pytest
from timed import measure, providers


@pytest.mark.parametrize(("row", "provider"), providers("rank"))
def test_rank(benchmark, row, provider):
    measure(benchmark, row, provider)
