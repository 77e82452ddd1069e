"""RDMs larger than memory: time, memory and disk by stimuli, and of streamed tests by shuffles.

Usage::

    python benchmarks/ondisk.py [--stimuli 92 720 ... 73000] [--folder DIR] [--json]
    python benchmarks/ondisk.py --shuffles 1e3 1e4 ... 1e9 [--stimuli 2000] [--json]
    python benchmarks/ondisk.py --bootstrap 1000 [--stimuli 2000 10000] [--json]
    python benchmarks/ondisk.py --mantel 20 [--stimuli 10000] [--json]

The first computes and ranks the RDMs of both sides and tests them with 10^5 relabellings; the
second tests RDMs of one size with more and more relabellings; the third draws resamples of the
stimuli; the fourth sets a million relabellings beside some permutations of scikit-bio's `mantel`.
Every case runs in a process of its own, whose largest resident size is taken. RDMs and ranks are
checked against those in memory where these fit, p-values against those of the engine in memory, and
so are bootstraps.
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


def rdm_files(n: int, folder: Path) -> list[rf.StoredRDM]:
    """RDMs of both sides."""
    return [rf.compute_rdm_file(features_of(n, side), folder / f"{side}.h5") for side in range(2)]


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
        rf.rank_rdm_file(rdm, folder / f"{side}-ranks.h5")
        for side, rdm in enumerate(rdm_files(n, folder))
    )
    return {"stimuli": n, "shuffles": shuffles, **tested(a, b, shuffles, budget)[1]}


def measure_bootstrap(n: int, resamples: int, folder: Path, budget: str) -> dict[str, object]:
    """Figures of bootstraps of one size, in this process."""
    files = rdm_files(n, folder)
    figures: dict[str, object] = {"stimuli": n, "resamples": resamples, "memory_budget": budget}
    found = {}
    for method in ("pearson", "spearman"):
        started = time.perf_counter()
        found[method] = rf.bootstrap_files(
            *files, method=method, n_resamples=resamples, memory_budget=budget
        )
        figures[f"seconds_{method}"] = time.perf_counter() - started
        figures["peak_bytes"] = peak_bytes()
    if n <= CHECKED:
        whole = [rf.RDMs.load(file.path) for file in files]
        for method, result in found.items():
            started = time.perf_counter()
            in_memory = rf.bootstrap(*whole, method=method, n_resamples=resamples)
            figures[f"seconds_{method}_in_memory"] = time.perf_counter() - started
            assert np.abs(result.replicates - in_memory.replicates).max() < 1e-6
        figures["peak_bytes_in_memory"] = peak_bytes()
    return figures


def measure_mantel(n: int, permutations: int, folder: Path, budget: str) -> dict[str, object]:
    """A permutation of scikit-bio's `mantel` beside a relabelling of ours, in this process."""
    from scipy.spatial.distance import squareform
    from skbio.stats.distance import DistanceMatrix, mantel

    files = rdm_files(n, folder)
    started = time.perf_counter()
    result = rf.permutation_test_files(*files, n_permutations=10**6, memory_budget=budget)
    ours = time.perf_counter() - started
    theirs = [DistanceMatrix(squareform(file.values.astype(np.float64))) for file in files]
    seconds = {}
    for count in (1, 1 + permutations):
        started = time.perf_counter()
        r, _, _ = mantel(*theirs, method="spearman", permutations=count, alternative="greater")
        seconds[count] = time.perf_counter() - started
        assert abs(r - result.statistic[0, 0]) < 1e-6
    each = (seconds[1 + permutations] - seconds[1]) / permutations
    return {
        "stimuli": n,
        "relabellings": result.n_permutations,
        "seconds_test_with_ranks": ours,
        "mantel_permutations": permutations,
        "mantel_seconds_a_permutation": each,
        "mantel_seconds_of_ranks_and_one": seconds[1],
        "ratio": each / (ours / result.n_permutations),
    }


MEASURED = {  # option: what it measures, and of which stimuli
    "shuffles": (measure_shuffles, (2_000,)),
    "bootstrap": (measure_bootstrap, (2_000, 10_000)),
    "mantel": (measure_mantel, (10_000,)),
}


def main() -> None:
    """Measure everything in processes of their own; print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stimuli", type=int, nargs="+")
    what = parser.add_mutually_exclusive_group()
    for option in MEASURED:
        what.add_argument(f"--{option}", type=float, nargs="+")
    parser.add_argument("--budget", default="2GB", help="memory; 12GB was used for 73,000 stimuli")
    parser.add_argument("--folder", type=Path, help="where the files are written, and removed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    option, counts = next(
        ((name, counts) for name in MEASURED if (counts := getattr(given, name))), (None, [0])
    )
    sizes = given.stimuli or (SIZES if option is None else MEASURED[option][1])
    cases = [(n, int(k)) for n in sizes for k in counts]
    if given.here:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            (n, k), folder = cases[0], Path(name)
            figures = (
                measure(n, folder, given.budget)
                if option is None
                else MEASURED[option][0](n, k, folder, given.budget)
            )
            print(json.dumps(figures))
        return
    rows = []
    for n, k in cases:
        command = [sys.executable, __file__, "--here", "--stimuli", str(n)]
        command += ["--budget", given.budget]
        command += [f"--{option}", str(k)] if option else []
        command += ["--folder", str(given.folder)] if given.folder else []
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(ended.stdout))
        print(line(rows[-1]), file=sys.stderr if given.json else sys.stdout, flush=True)
    if given.json:
        print(json.dumps(rows, indent=1))


def line(row: dict[str, object]) -> str:
    """One case as a row of a Markdown table."""
    if "stages" not in row:
        return "| " + " | ".join(f"{name} {value}" for name, value in row.items()) + " |"
    cells = [f"{row['stimuli']:,}", f"{row['relabellings']:,}"]
    cells += [f"{row[k]:.3g} s" for k in ("seconds_two_rdms", "seconds_two_ranks") if k in row]
    cells += [f"{row['seconds_test']:.3g} s"]
    cells += [f"{name} {seconds:.3g} s" for name, seconds in dict(row["stages"]).items()]  # type: ignore[call-overload]
    cells += [format_bytes(row[k]) for k in ("peak_bytes", "disk_bytes") if k in row]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
