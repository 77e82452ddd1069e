"""What is installed here, which backends run, and how fast: the facts behind ``rsafast doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

REQUIRED = (
    "numpy",
    "scipy",
    "h5py",
    "pandas",
    "matplotlib",
    "scikit-learn",
    "threadpoolctl",
    "jinja2",
    "typer",
    "rich",
)
# Extra -> distributions, as in pyproject.toml.
OPTIONAL = {
    "gpu": ("cupy-cuda12x", "triton"),
    "training": ("torch", "safetensors", "pillow"),
    "cluster": ("dask",),
    "bench": ("rsatoolbox", "scikit-bio", "mne-rsa", "spikingjelly"),
}
ORBIT_SIZES = (92, 720)


def diagnose(measure: bool = True) -> dict[str, Any]:
    """Collect versions, backends and speeds.

    Parameters
    ----------
    measure : also time the kernels, which takes under 5 seconds on a laptop.

    Returns
    -------
    dict
        ``system``, ``required``, ``optional``, ``backends`` and, if measured, ``speed``. A package
        that is missing has the version None.
    """
    from rsafast.io.provenance import provenance

    here = provenance()
    facts: dict[str, Any] = {
        "system": {key: here[key] for key in ("rsafast", "python", "platform", "processor")},
        "required": {name: version(name) for name in REQUIRED},
        "optional": {
            extra: {name: version(name) for name in names} for extra, names in OPTIONAL.items()
        },
        "backends": backends(),
    }
    if measure:
        facts["speed"] = speeds()
    return facts


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def backends() -> dict[str, Any]:
    """Say which compiled variants run, with how many threads, and whether CUDA does."""
    from rsafast_kernels import _native, num_threads

    usable, why = cuda()
    return {
        "instruction_sets": _native.available(),
        "instruction_set_in_use": _native.isa,
        "threads": num_threads(),
        "processors": os.cpu_count(),
        "cuda": usable,
        "cuda_reason": why,
    }


def cuda() -> tuple[bool, str]:
    """Return whether CUDA can be used from here, and in words by what, or why not."""
    from rsafast_kernels.device import cuda_missing

    why = cuda_missing()
    if why is not None:
        return False, why
    uses = {
        "permutation tests and bootstraps (CuPy)": cuda_missing("cupy"),
        "RDMs and training (torch, Triton)": cuda_missing("torch", "triton"),
    }
    words = [f"{what}: {reason or 'yes'}" for what, reason in uses.items()]
    return None in uses.values(), "; ".join(words)


def speeds() -> dict[str, float]:
    """Time matrix product, ranking and permutation tests; each the best of a few short runs.

    Returns
    -------
    dict
        ``gemm_float32_gflops``, ``rank_mvalues_per_second`` and, for n = 92 and 720 stimuli,
        ``permutations_per_second_n<n>``.
    """
    found = {"gemm_float32_gflops": _gemm(), "rank_mvalues_per_second": _rank()}
    for n in ORBIT_SIZES:
        found[f"permutations_per_second_n{n}"] = _permutations(n)
    return found


def _best(run: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest run within a time budget; the first run warms up."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        stop = time.perf_counter()
        best = min(best, stop - start)
        if stop > end:
            return best


def _gemm(n: int = 1024) -> float:
    a = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    return 2 * n**3 / _best(lambda: a @ a, 0.3) / 1e9


def _rank(n_values: int = 500_000) -> float:
    from rsafast_kernels.rank import average_ranks

    values = np.random.default_rng(0).standard_normal((1, n_values), dtype=np.float32)
    return n_values / _best(lambda: average_ranks(values), 0.3) / 1e6


def _permutations(n: int) -> float:
    """Permutations a second of one pair of random RDMs, everything of a test included."""
    from rsafast.permutation.api import permutation_test

    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, n * (n - 1) // 2))

    def seconds(n_permutations: int) -> float:
        start = time.perf_counter()
        permutation_test(
            a, b, n_permutations=n_permutations, engine="orbit", device="cpu", progress=False
        )
        return time.perf_counter() - start

    # Long enough that the set-up hardly counts, short enough for an interactive command.
    n_permutations, target, spent = 20_000, 0.4, 0.0
    seconds(n_permutations)
    while True:
        took = seconds(n_permutations)
        spent += took
        if took >= target or spent >= 1.5 or n_permutations >= 10**9:
            return n_permutations / took
        n_permutations = int(n_permutations * min(10.0, max(2.0, 1.2 * target / max(took, 1e-3))))
