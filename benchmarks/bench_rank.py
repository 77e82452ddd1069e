"""Average ranks beside scipy.stats.rankdata; the answers are compared before any time is taken.

Run: ``pytest benchmarks/bench_rank.py --benchmark-group-by=param:n``. With
RSAFAST_BENCH_LARGE=1 in the environment there is one more size: 50 million values,
where rankdata alone takes 20 s a round.
"""

import os

import numpy as np
import pytest
from rsafast_kernels.rank import average_ranks
from scipy.stats import rankdata

SIZES = [20_000, 1_700_000]
if os.environ.get("RSAFAST_BENCH_LARGE"):
    SIZES.append(50_000_000)
VALUES = {
    "uniform": lambda rng, n: rng.random(n),
    "ties": lambda rng, n: rng.integers(0, n // 3, n).astype(float),
    "cauchy": lambda rng, n: rng.standard_cauchy(n),
}


@pytest.mark.parametrize("provider", ["rsafast", "scipy"])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("n", SIZES)
def test_rank(benchmark, n, values, provider):
    x = VALUES[values](np.random.default_rng(0), n)
    if provider == "rsafast":
        small = x[: min(n, 200_000)]
        np.testing.assert_array_equal(average_ranks(small), rankdata(small))
    rank = average_ranks if provider == "rsafast" else rankdata
    slow = provider == "scipy" and n > 10_000_000
    benchmark.pedantic(rank, (x,), rounds=1 if slow else 5, warmup_rounds=0 if slow else 1)


@pytest.mark.parametrize("provider", ["rsafast", "scipy"])
def test_rank_many_small_rdms(benchmark, provider):
    x = np.random.default_rng(0).random((500, 4186))
    np.testing.assert_array_equal(average_ranks(x[:9]), rankdata(x[:9], axis=-1))
    rank = average_ranks if provider == "rsafast" else lambda v: rankdata(v, axis=-1)
    benchmark.pedantic(rank, (x,), rounds=5, warmup_rounds=1)
