"""Kendall's tau under relabelling beside SciPy.

Run: ``pytest benchmarks/bench_kendall.py --benchmark-group-by=param:row``.
What is measured, and how it is checked first, is in ``rsafast/bench/kernels/kendall.py``.
"""

import pytest
from timed import measure, providers


@pytest.mark.parametrize(("row", "provider"), providers("kendall"))
def test_kendall(benchmark, row, provider):
    measure(benchmark, row, provider)
