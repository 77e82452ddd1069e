"""Leaky integrate-and-fire layers beside SpikingJelly.

Run: ``pytest benchmarks/bench_lif.py --benchmark-group-by=param:row``.
What is measured, and how it is checked first, is in ``rsafast/bench/kernels/lif.py``.
"""

import pytest
from timed import measure, providers


@pytest.mark.parametrize(("row", "provider"), providers("lif"))
def test_lif(benchmark, row, provider):
    measure(benchmark, row, provider)
