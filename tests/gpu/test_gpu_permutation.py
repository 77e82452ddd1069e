"""Permutation tests on a device: the counts of the CPU, at the sizes of studies. pytest -m gpu."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rsafast_kernels.device import cuda_missing
from rsafast_kernels.relabel import relabelings, relabelings_on_gpu

import rsafast as rf
from rsafast.permutation import gpu

REASON = cuda_missing("cupy")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None, reason=f"needs a GPU: {REASON}"),
]
KERNEL_TESTS = Path(__file__).parents[1] / "kernels" / "test_permutation_gpu.py"


def made(n, seed=0):
    """Two related RDMs and a categorical one, whose pairs nearly all tie: (3, pairs)."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((n, 20))
    group = np.repeat(np.arange(4), -(-n // 4))[:n, None].astype(float)
    noisy = points + 4 * rng.standard_normal((n, 20))
    found = [
        rf.compute_rdms(x, "euclidean", device="cpu").vectors
        for x in (points, noisy, group + np.zeros(3))
    ]
    return np.concatenate([*found[:2], found[2] > 0])


def assert_same_counts(got, wanted):
    assert (got.device, wanted.device) == ("cuda", "cpu")
    for name in ("exceedances", "p_value_fwer", "p_value_stepdown", "p_standard_error"):
        assert np.array_equal(getattr(got, name), getattr(wanted, name)), name


@pytest.mark.parametrize("method", ["spearman", "pearson"])
@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
@pytest.mark.parametrize(
    ("n", "count"), [(92, 10**7), (720, 10**7), (1854, 10**6), (10_000, 10**6)]
)
def test_counts_are_those_of_the_cpu(n, count, single, method, monkeypatch):
    monkeypatch.setattr(gpu, "prefers_float32", lambda: single)
    rdms = made(n)
    given = {"method": method, "n_permutations": count, "seed": 5, "progress": False}
    got, wanted = (
        rf.permutation_test(rdms[[0, 2]], rdms[1:2], device=d, memory_budget=m, **given)
        for d, m in (("cuda", None), ("cpu", "8GB"))
    )
    assert_same_counts(got, wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"covariates": made(92, 2)[:1], "method": "pearson"},
        {"blocks": np.arange(92) % 4, "n_permutations": 20_000},
        {"engine": "direct", "n_permutations": 20_000},
    ],
    ids=["partial", "blocks", "direct"],
)
def test_other_statistics_and_engines(options):
    rdms = made(92)
    given = {"n_permutations": 10**6, "progress": False} | options
    assert_same_counts(
        *(rf.permutation_test(rdms[:1], rdms[1:], device=d, **given) for d in ("cuda", "cpu"))
    )


@pytest.mark.parametrize("groups", [None, np.arange(720) % 7])
def test_relabellings_are_those_of_the_cpu(groups):
    got = relabelings_on_gpu(9, 2, 10**6, 3000, 720, groups).get()
    assert np.array_equal(got, relabelings(9, 2, 10**6, 3000, 720, groups))


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    command = [
        sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", "-q",
        "-x", "-p", "no:cacheprovider", str(KERNEL_TESTS),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=os.environ | {"RSAFAST_REAL_GPU": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
