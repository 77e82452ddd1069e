"""Permutation tests beside scikit-bio's Mantel test, both engines, both at their own best setting.

Every row's `rate` is relabellings a second for one pair of RDMs, of a whole call: transforms,
counting, provenance and all. The answers are compared before any time is taken.
Run: ``pytest benchmarks/bench_permutation.py``
"""

import subprocess
import sys

import numpy as np
import pytest
from skbio.stats.distance import DistanceMatrix, mantel

import rsafast as rf

# Relabellings a call: enough that what a call costs besides them no longer matters.
OURS = [(92, 10**6), (92, 10**7), (720, 10**6), (720, 10**7), (1854, 10**6), (1854, 10**7)]
PEER = {92: 50_000, 720: 5_000, 1854: 1_000}
PEER_ENGINES = ["cython", "numba"]


def rdms(n, count=2):
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((n, 5))
    noise = [2.5 * rng.standard_normal((n, 5)) for _ in range(count)]
    return rf.compute_rdms(np.stack([shared + e for e in noise]), "euclidean")


def check(a, b, n):
    ours = rf.permutation_test(a, b, method="pearson", n_permutations=100_000)
    r, p, _ = mantel(*(DistanceMatrix(m) for m in (a.matrices()[0], b.matrices()[0])),
                     permutations=999, alternative="greater", seed=1)  # fmt: skip
    assert abs(r - ours.statistic[0, 0]) < 1e-12
    assert abs(p - ours.p_value[0, 0]) < 5 * np.sqrt(p * (1 - p) / 999) + 2e-3


@pytest.mark.parametrize(("n", "count"), OURS)
def test_permutation_rsafast(benchmark, n, count):
    a, b = rdms(n)
    check(a, b, n)
    options = {"method": "pearson", "n_permutations": count, "progress": False}
    result = benchmark.pedantic(rf.permutation_test, (a, b), options, rounds=5, warmup_rounds=1)
    benchmark.extra_info |= {"rate": result.n_permutations / benchmark.stats.stats.median, "n": n}


@pytest.mark.parametrize("engine", PEER_ENGINES)
@pytest.mark.parametrize("n", PEER)
def test_permutation_scikit_bio(benchmark, n, engine):
    a, b = (DistanceMatrix(m) for m in rdms(n).matrices())
    benchmark.pedantic(
        mantel, (a, b),
        {"permutations": PEER[n], "alternative": "greater", "seed": 1, "engine": engine},
        rounds=3, warmup_rounds=1,
    )  # fmt: skip
    benchmark.extra_info |= {"rate": PEER[n] / benchmark.stats.stats.median, "n": n}


def test_joint_family(benchmark):
    """200 models x 18 brain RDMs, 720 stimuli, 100,000 shuffles shared by all 3,600 pairs."""
    stack = rdms(720, 218)
    models, brain = stack[:200], stack[200:]
    result = benchmark.pedantic(
        rf.permutation_test, (models, brain), {"n_permutations": 100_000, "progress": False},
        rounds=2, warmup_rounds=0,
    )  # fmt: skip
    assert (result.p_value_stepdown <= result.p_value_fwer + 1e-12).all()
    assert (result.p_value <= result.p_value_fwer + 1e-12).all()
    benchmark.extra_info |= {
        "rate": 3600 * result.n_permutations / benchmark.stats.stats.median,
        "n": 720,
    }


def test_peak_memory(benchmark):
    """A million shuffles at n = 720 in a process of their own: peak resident size."""
    code = (
        "import numpy as np, rsafast as rf; rng = np.random.default_rng(0);"
        "r = rf.compute_rdms(rng.standard_normal((2, 720, 5)), 'euclidean');"
        "rf.permutation_test(r[:1], r[1:], n_permutations=10**6, progress=False);"
        "print(next(s for s in open('/proc/self/status') if s.startswith('VmHWM')).split()[1])"
    )
    command = [sys.executable, "-c", code]
    done = benchmark.pedantic(
        subprocess.run, (command,), {"check": True, "capture_output": True}, rounds=1
    )
    peak = int(done.stdout) * 1024
    assert peak < 2e9
    benchmark.extra_info |= {"peak_bytes": peak}
