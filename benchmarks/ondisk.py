"""RDMs larger than memory: time, memory and disk by stimuli, and of streamed tests by shuffles.

Usage::

    python benchmarks/ondisk.py [--stimuli 92 720 ... 73000] [--folder DIR] [--json]
    python benchmarks/ondisk.py --shuffles 1e3 1e4 ... 1e9 [--stimuli 2000] [--json]

The first computes and ranks the RDMs of both sides and tests them with 10^5 relabellings; the
second tests RDMs of one size with more and more relabellings. Every case runs in a process of its
own, whose largest resident size is taken. RDMs and ranks are checked against those in memory where
these fit, and p-values against those of the engine in memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import rankdata
from trajectory_study import peak_bytes

import rsafast as rf
from rsafast.memory import format_bytes

SIZES = (92, 720, 2_000, 5_000, 10_000, 20_000, 40_000, 73_000)
CHANNELS = 512
CHECKED = 5_000  # stimuli up to which everything is compared with what is found in memory
SHUFFLES = 100_000
LARGE = 30_000  # stimuli from which RDMs are removed once they are ranked


def features_of(n: int, side: int) -> np.ndarray:
    """Channels of one side: a little of them is common to both."""
    shared = np.random.default_rng(0).standard_normal((n, 16), np.float32)
    rng = np.random.default_rng(1 + side)
    noise = rng.standard_normal((n, CHANNELS), np.float32)
    return shared @ rng.standard_normal((16, CHANNELS), np.float32) + np.float32(20) * noise


def measure(n: int, folder: Path, budget: str) -> dict[str, object]:
    """Figures of one size, in this process."""
    seconds = {"rdm": 0.0, "ranks": 0.0}
    ranked, whole, disk = [], [], 0
    for side in range(2):
        features = features_of(n, side)
        started = time.perf_counter()
        rdm = rf.compute_rdm_file(features, folder / f"{side}.h5", memory_budget=budget)
        computed = time.perf_counter()
        ranks = rf.rank_rdm_file(rdm, folder / f"{side}-ranks.h5", memory_budget=budget)
        seconds["rdm"] += computed - started
        seconds["ranks"] += time.perf_counter() - computed
        ranked.append(ranks)
        if n <= CHECKED:
            whole.append(rf.compute_rdms(features))
            expected = whole[-1].vectors[0].astype(np.float32)
            assert np.array_equal(rdm.values, expected)
            assert np.array_equal(ranks.values, rankdata(expected).astype(np.float32))
        disk = max(disk, sum(file.stat().st_size for file in folder.iterdir()))
        if n >= LARGE:
            rdm.path.unlink()
    result, figures = tested(ranked[0], ranked[1], SHUFFLES, budget)
    if n <= CHECKED:
        in_memory = rf.permutation_test(whole[0], whole[1], n_permutations=SHUFFLES)
        agree(result, in_memory)
    return {
        "stimuli": n,
        "pairs": n * (n - 1) // 2,
        "seconds_two_rdms": seconds["rdm"],
        "seconds_two_ranks": seconds["ranks"],
        "disk_bytes": disk,
        "features_bytes": 4 * n * CHANNELS,
        **figures,
    }


def tested(
    a: rf.StoredRDM, b: rf.StoredRDM, shuffles: int, budget: str
) -> tuple[rf.PermutationResult, dict[str, object]]:
    """Result and figures of a streamed test."""
    started = time.perf_counter()
    result = rf.permutation_test_files(a, b, n_permutations=shuffles, memory_budget=budget)
    return result, {
        "relabellings": result.n_permutations,
        "seconds_test": time.perf_counter() - started,
        "stages": result.provenance["stages"],
        "relabelings": result.provenance["relabelings"],
        "units": len(result.provenance["units"]),
        "statistic": float(result.statistic[0, 0]),
        "p_value": float(result.p_value[0, 0]),
        "p_standard_error": float(result.p_standard_error[0, 0]),
        "memory_budget": budget,
        "peak_bytes": peak_bytes(),
    }


def agree(result: rf.PermutationResult, other: rf.PermutationResult) -> None:
    """Check a streamed test against one in memory."""
    assert abs(result.statistic - other.statistic) < 1e-6
    errors = [max(r.p_standard_error[0, 0], 1 / r.n_permutations) for r in (result, other)]
    assert abs(result.p_value - other.p_value) < 5 * np.hypot(*errors)


def measure_shuffles(n: int, shuffles: int, folder: Path, budget: str) -> dict[str, object]:
    """Figures of a test of one size, in this process."""
    a, b = (
        rf.rank_rdm_file(rf.compute_rdm_file(features_of(n, side), folder / f"{side}.h5"),
                         folder / f"{side}-ranks.h5")
        for side in range(2)
    )  # fmt: skip
    return {"stimuli": n, "shuffles": shuffles, **tested(a, b, shuffles, budget)[1]}


def main() -> None:
    """Measure everything in processes of their own; print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stimuli", type=int, nargs="+")
    parser.add_argument("--shuffles", type=float, nargs="+")
    parser.add_argument("--budget", default="2GB", help="memory; 12GB was used for 73,000 stimuli")
    parser.add_argument("--folder", type=Path, help="where the files are written, and removed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = given.stimuli or ([2_000] if given.shuffles else list(SIZES))
    cases = [(n, int(k)) for n in sizes for k in given.shuffles or [0]]
    if given.here:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            (n, k), folder = cases[0], Path(name)
            figures = (
                measure_shuffles(n, k, folder, given.budget)
                if k
                else measure(n, folder, given.budget)
            )
            print(json.dumps(figures))
        return
    rows = []
    for n, k in cases:
        command = [sys.executable, __file__, "--here", "--stimuli", str(n)]
        command += ["--budget", given.budget]
        command += ["--shuffles", str(k)] if k else []
        command += ["--folder", str(given.folder)] if given.folder else []
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(ended.stdout))
        print(line(rows[-1]), file=sys.stderr if given.json else sys.stdout, flush=True)
    if given.json:
        print(json.dumps(rows, indent=1))


def line(row: dict[str, object]) -> str:
    """One case as a row of a Markdown table."""
    cells = [f"{row['stimuli']:,}", f"{row['relabellings']:,}"]
    cells += [f"{row[k]:.3g} s" for k in ("seconds_two_rdms", "seconds_two_ranks") if k in row]
    cells += [f"{row['seconds_test']:.3g} s"]
    cells += [f"{name} {seconds:.3g} s" for name, seconds in dict(row["stages"]).items()]  # type: ignore[call-overload]
    cells += [format_bytes(row[k]) for k in ("peak_bytes", "disk_bytes") if k in row]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
