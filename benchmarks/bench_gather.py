"""Direct permutation beside NumPy.

Run: ``pytest benchmarks/bench_gather.py --benchmark-group-by=param:row``.
What is measured, and how it is checked first, is in ``rsafast/bench/kernels/gather.py``.
"""

import pytest
from timed import measure, providers


@pytest.mark.parametrize(("row", "provider"), providers("gather"))
def test_gather(benchmark, row, provider):
    measure(benchmark, row, provider)
