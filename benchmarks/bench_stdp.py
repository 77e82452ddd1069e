"""STDP of a convolution beside SpikingJelly and one weight gradient of torch.

Run: ``pytest benchmarks/bench_stdp.py --benchmark-group-by=param:row``.
What is measured, and how it is checked first, is in ``rsafast/bench/kernels/stdp.py``.
"""

import pytest
from timed import measure, providers


@pytest.mark.parametrize(("row", "provider"), providers("stdp"))
def test_stdp(benchmark, row, provider):
    measure(benchmark, row, provider)
