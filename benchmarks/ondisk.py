"""RDMs larger than memory: seconds, memory and disk of computing and ranking one, by stimuli.

Usage: ``python benchmarks/ondisk.py [--stimuli 92 720 ... 73000] [--folder DIR] [--json]``. Each
size runs in a process of its own, whose largest resident size is taken. Values are checked against
those in memory where these fit.
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
CHECKED = 5_000  # stimuli up to which the values are compared with those in memory
BUDGET = "2GB"


def measure(n: int, folder: Path) -> dict[str, float]:
    """Figures of one size, in this process."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, CHANNELS), np.float32)
    before = peak_bytes()
    started = time.perf_counter()
    rdm = rf.compute_rdm_file(features, folder / "rdm.h5", memory_budget=BUDGET, progress=False)
    computed = time.perf_counter()
    ranks = rf.rank_rdm_file(rdm, folder / "ranks.h5", memory_budget=BUDGET, progress=False)
    ended = time.perf_counter()
    pairs = n * (n - 1) // 2
    figures = {
        "stimuli": n,
        "pairs": pairs,
        "seconds_rdm": computed - started,
        "seconds_ranks": ended - computed,
        "peak_bytes": peak_bytes(),
        "features_bytes": before,
        "disk_bytes": sum((folder / name).stat().st_size for name in ("rdm.h5", "ranks.h5")),
    }
    if n <= CHECKED:
        whole = rf.compute_rdms(features).vectors[0].astype(np.float32)
        assert np.array_equal(rdm.values, whole)
        assert np.array_equal(ranks.values, rankdata(whole).astype(np.float32))
    return figures


def main() -> None:
    """Measure every size in a process of its own; print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stimuli", type=int, nargs="+", default=SIZES)
    parser.add_argument("--folder", type=Path, help="where the files are written, and removed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            print(json.dumps(measure(given.stimuli[0], Path(folder))))
        return
    rows = []
    for n in given.stimuli:
        command = [sys.executable, __file__, "--here", "--stimuli", str(n)]
        command += ["--folder", str(given.folder)] if given.folder else []
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(ended.stdout))
        if not given.json:
            print(line(rows[-1]), flush=True)
    if given.json:
        print(json.dumps(rows, indent=1))


def line(row: dict[str, float]) -> str:
    """One size as a row of a Markdown table."""
    memory, disk = row["peak_bytes"] - row["features_bytes"], row["disk_bytes"]
    seconds = f"{row['seconds_rdm']:.2f} s | {row['seconds_ranks']:.2f} s"
    sizes = f"{format_bytes(memory)} | {format_bytes(disk)}"
    return f"| {row['stimuli']:,} | {row['pairs']:,} | {seconds} | {sizes} |"


if __name__ == "__main__":
    main()
