"""RDMs beside scipy, rsatoolbox, mne-rsa and the bare matrix product.

Answers are compared before any time is taken. ``product`` is the whole float32 product of the rows
with themselves, twice the operations of one triangle: half its time is the floor.
Run: ``pytest benchmarks/bench_pairwise.py --benchmark-group-by=param:metric,param:shape``
"""

from functools import partial

import mne_rsa
import numpy as np
import pytest
import rsatoolbox
from rsafast_kernels.pairwise import pairwise_distances
from scipy.spatial.distance import pdist

SHAPES = [(92, 1000), (3000, 1000)]
METRICS = ["correlation", "cosine", "euclidean", "cityblock"]


def provider_call(provider, x, metric):
    if provider == "rsafast":
        return partial(pairwise_distances, x, metric)
    if provider == "scipy":
        return partial(pdist, x, metric)
    if provider == "mne-rsa":
        return partial(mne_rsa.compute_rdm, x, metric=metric)
    if provider == "product":
        return partial(np.matmul, x, np.ascontiguousarray(x.T))
    if metric not in ("correlation", "euclidean"):
        pytest.skip(f"rsatoolbox has no {metric!r}")
    return partial(rsatoolbox.rdm.calc_rdm, rsatoolbox.data.Dataset(x), method=metric)


def check(x, metric):
    """Our answer is the peers' on a part of the data."""
    part = x[:200]
    got = pairwise_distances(part, metric)
    np.testing.assert_allclose(got, pdist(part.astype(np.float64), metric), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("provider", ["rsafast", "product", "scipy", "rsatoolbox", "mne-rsa"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_pairwise(benchmark, shape, metric, provider):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    check(x, metric)
    slow = shape[0] > 1000 and provider not in ("rsafast", "product")
    call = provider_call(provider, x, metric)
    benchmark.pedantic(call, rounds=1 if slow else 7, warmup_rounds=0 if slow else 1)
