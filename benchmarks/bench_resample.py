"""Similarities on bootstrap resamples beside rsatoolbox.

Run: ``pytest benchmarks/bench_resample.py --benchmark-group-by=param:row``.
What is measured, and how it is checked first, is in ``rsafast/bench/kernels/resample.py``.
"""

import pytest
from timed import measure, providers


@pytest.mark.parametrize(("row", "provider"), providers("resample"))
def test_resample(benchmark, row, provider):
    measure(benchmark, row, provider)
