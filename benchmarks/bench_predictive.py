"""A step of predictive coding beside backpropagation and an autograd prototype.

Run: ``pytest benchmarks/bench_predictive.py --benchmark-group-by=param:row``.
What is measured, and how it is checked first, is in ``rsafast/bench/kernels/predictive.py``.
"""

import pytest
from timed import measure, providers


@pytest.mark.parametrize(("row", "provider"), providers("predictive"))
def test_predictive(benchmark, row, provider):
    measure(benchmark, row, provider)
