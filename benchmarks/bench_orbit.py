"""Permutation tests beside scikit-bio's engines.

Run: ``pytest benchmarks/bench_orbit.py --benchmark-group-by=param:row``.
What is measured, and how it is checked first, is in ``rsafast/bench/kernels/orbit.py``.
"""

import pytest
from timed import measure, providers


@pytest.mark.parametrize(("row", "provider"), providers("orbit"))
def test_orbit(benchmark, row, provider):
    measure(benchmark, row, provider)
