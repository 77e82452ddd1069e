"""Similarities on bootstrap resamples beside rsatoolbox's subsample_pattern and compare.

`rate` is (model, brain RDM, resample) similarities a second. The answers are compared before any
time is taken. Run: ``pytest benchmarks/bench_resample.py``; with RSAFAST_BENCH_LARGE=1 in the
environment there is the size of a whole study too (800 models, 18 brain RDMs, 720 stimuli).
"""

import os

import numpy as np
import pytest
from rsatoolbox.rdm import RDMs as PeerRDMs
from rsatoolbox.rdm import compare as peer_compare

from rsafast.comparators import get_comparator
from rsafast.inference.bootstrap.draws import draw_counts
from rsafast.inference.bootstrap.resampled import ResampledComparison
from rsafast.rdms import RDMs

METHODS = {"spearman": "spearman", "pearson": "corr", "cosine": "cosine", "corr_cov": "corr_cov"}
# stimuli, models, brain RDMs, resamples of ours, resamples of the peer
SIZES = {"92": (92, 10, 20, 10_000, 20), "720": (720, 32, 18, 160, 1)}
if os.environ.get("RSAFAST_BENCH_LARGE"):
    SIZES["study"] = (720, 800, 18, 160, 0)


def stacks(n, models, brains):
    rng = np.random.default_rng(0)
    pairs = n * (n - 1) // 2
    shared = rng.random(pairs)
    return [shared + 2 * rng.random((count, pairs)) for count in (models, brains)]


def peer(a, b, weights, method):
    """What rsatoolbox's bootstrap does in every resample."""
    out = []
    for row in weights:
        drawn = np.repeat(np.arange(len(row)), row)
        sampled = [
            PeerRDMs(v, pattern_descriptors={"index": np.arange(len(row))}).subsample_pattern(
                "index", drawn
            )
            for v in (a, b)
        ]
        out.append(peer_compare(*sampled, method=METHODS[method]))
    return np.stack(out)


def ours(a, b, method):
    comparator = get_comparator(method)
    return ResampledComparison(comparator, RDMs.from_vectors(a), RDMs.from_vectors(b))


@pytest.mark.parametrize("provider", ["rsafast", "rsatoolbox"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_resample(benchmark, size, method, provider):
    n, models, brains, count, peer_count = SIZES[size]
    if provider == "rsatoolbox" and (not peer_count or (method == "corr_cov" and n > 92)):
        pytest.skip("rsatoolbox would take hours")
    a, b = stacks(n, models, brains)
    weights = draw_counts(0, 0, n, 0, count if provider == "rsafast" else peer_count)
    if provider == "rsafast":
        small = [v[:3] for v in stacks(40, 3, 3)]
        few = draw_counts(1, 0, 40, 0, 3)
        np.testing.assert_allclose(
            ours(*small, method).scores(few), peer(*small, few, method), atol=1e-9
        )
        comparison = ours(a, b, method)
        benchmark.pedantic(comparison.scores, (weights,), rounds=3, warmup_rounds=1)
    else:
        benchmark.pedantic(peer, (a, b, weights, method), rounds=2, warmup_rounds=0)
    products = len(weights) * models * brains
    benchmark.extra_info |= {"rate": products / benchmark.stats.stats.median, "n": n}
