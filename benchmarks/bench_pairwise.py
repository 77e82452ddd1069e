"""RDMs beside SciPy, rsatoolbox, mne-rsa, torch.cdist and the bare matrix product.

Run: ``pytest benchmarks/bench_pairwise.py --benchmark-group-by=param:row``.
What is measured, and how it is checked first, is in ``rsafast/bench/kernels/pairwise.py``.
"""

import pytest
from timed import measure, providers


@pytest.mark.parametrize(("row", "provider"), providers("pairwise"))
def test_pairwise(benchmark, row, provider):
    measure(benchmark, row, provider)
