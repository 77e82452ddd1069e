"""Run every benchmark beside its peers, store the result, draw the figure and the README's table.

Usage: ``python benchmarks/run.py`` (about ten minutes on two cores; stop other work first), or
``python benchmarks/run.py --only-report`` to draw again from the newest stored result.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
FIGURE = HERE.parent / "docs" / "images" / "speed.svg"
MODULES = ("bench_permutation.py", "bench_rank.py", "bench_pairwise.py")
PACKAGES = ("rsafast", "numpy", "scipy", "scikit-bio", "rsatoolbox", "mne-rsa", "numba")

Row = dict[str, Any]


def run() -> Path:
    """Measure, and store what was measured with the machine and the versions."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    raw = RESULTS / "raw.json"
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, f"--rootdir={HERE}", "-q",
               f"--benchmark-json={raw}", *(str(HERE / m) for m in MODULES)]  # fmt: skip
    subprocess.run(command, check=True, env=os.environ | {"RSAFAST_BENCH_LARGE": "1"})
    measured = json.loads(raw.read_text())
    raw.unlink()
    rows = [
        {
            "name": b["name"],
            "seconds": {k: b["stats"][k] for k in ("min", "median", "max", "rounds")},
            **b["extra_info"],
        }
        for b in measured["benchmarks"]
    ]
    path = RESULTS / f"{stamp}-{platform.machine()}-{os.cpu_count()}cores.json"
    stored = {
        "date": stamp,
        "processor": measured["machine_info"]["cpu"].get("brand_raw", platform.processor()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in PACKAGES},
        "benchmarks": rows,
    }
    path.write_text(json.dumps(stored, indent=1) + "\n")
    return path


def newest() -> Path:
    """Return the result stored last."""
    return max(RESULTS.glob("*cores.json"))


def seconds(rows: list[Row], name: str) -> float:
    """Median seconds of a benchmark."""
    return float(next(r for r in rows if r["name"] == name)["seconds"]["median"])


def rates(rows: list[Row], prefix: str) -> dict[int, float]:
    """Best rate for each number of stimuli among the benchmarks whose name starts so."""
    best: dict[int, float] = {}
    for row in rows:
        if row["name"].startswith(prefix):
            best[row["n"]] = max(best.get(row["n"], 0.0), row["rate"])
    return best


def table(stored: dict[str, Any]) -> str:
    """Markdown table of the ratios, every one measured in this run."""
    rows = stored["benchmarks"]
    lines = [
        f"Medians on {stored['cores']} cores of an {stored['processor']} ({stored['date']}; Python"
        f" {stored['python']}, scikit-bio {stored['versions']['scikit-bio']}, SciPy"
        f" {stored['versions']['scipy']}, rsatoolbox {stored['versions']['rsatoolbox']}, mne-rsa"
        f" {stored['versions']['mne-rsa']}), peers at their fastest setting in the same run:",
        "",
        "| what | rsafast | fastest peer | ratio |",
        "|---|---|---|---|",
    ]
    peers = rates(rows, "test_permutation_scikit_bio")
    for row in rows:
        if row["name"].startswith("test_permutation_rsafast"):
            count = int(row["name"].rstrip("]").split("-")[-1])
            peer = peers[row["n"]]
            lines.append(
                f"| {count:,} shuffles of {row['n']} stimuli | {row['rate'] / 1e6:.1f} M/s"
                f" ({row['seconds']['median']:.2f} s) | scikit-bio {peer:,.0f}/s |"
                f" {row['rate'] / peer:,.0f}× |"
            )
    joint = next(r for r in rows if r["name"] == "test_joint_family")
    lines.append(
        f"| 200 models × 18 brain RDMs, 720 stimuli, 100,000 joint shuffles |"
        f" {joint['seconds']['median']:.1f} s | – | – |"
    )
    for size, label in ((1_700_000, "1.7 M"), (50_000_000, "50 M")):
        ours = seconds(rows, f"test_rank[{size}-uniform-rsafast]")
        theirs = seconds(rows, f"test_rank[{size}-uniform-scipy]")
        ratio = f"{theirs / ours:.0f}×"
        lines.append(f"| ranks of {label} values | {ours:.3f} s | SciPy {theirs:.2f} s | {ratio} |")
    for metric in ("correlation", "euclidean", "cityblock"):
        named = {
            r["name"].rstrip("]").split(f"{metric}-")[-1]: float(r["seconds"]["median"])
            for r in rows
            if r["name"].startswith(f"test_pairwise[3000x1000-{metric}-")
        }
        ours, floor = named.pop("rsafast"), named.pop("product") / 2
        peer = min(named, key=lambda k: named[k])
        note = "" if metric == "cityblock" else f" ({100 * floor / ours:.0f} % of the product rate)"
        lines.append(
            f"| {metric} RDM, 3000 × 1000 float32 | {ours * 1e3:.0f} ms{note} |"
            f" {peer} {named[peer]:.2f} s | {named[peer] / ours:.0f}× |"
        )
    return "\n".join(lines)


def draw(stored: dict[str, Any]) -> None:
    """Shuffles a second against the number of stimuli, ours and the peer's."""
    rows = stored["benchmarks"]
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    series = (
        ("rsafast", "test_permutation_rsafast", "#0072B2", "o-"),
        ("scikit-bio, cython", "test_permutation_scikit_bio[", "#D55E00", "s--"),
    )
    for label, prefix, colour, style in series:
        points = rates(rows, prefix)
        axes.loglog(list(points), list(points.values()), style, color=colour, lw=2)
        n, rate = max(points.items())
        name = "scikit-bio (faster engine)" if "scikit" in label else label
        axes.annotate(name, (n, rate), xytext=(0, 10), textcoords="offset points",
                      ha="right", color=colour)  # fmt: skip
    axes.set_xticks(sorted(rates(rows, "test_permutation_rsafast")))
    axes.get_xaxis().set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.set_xlabel("stimuli")
    axes.set_ylabel("label shuffles per second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(f"One pair of RDMs, {stored['cores']} cores, {stored['processor']}", fontsize=10)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})


def fill_readme(text: str) -> None:
    """Put the table between the markers of the README."""
    start, end = "<!-- speed:start -->", "<!-- speed:end -->"
    readme = README.read_text()
    before, rest = readme.split(start)
    README.write_text(f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}")


def main() -> None:
    """Measure unless told not to, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-report", action="store_true")
    path = newest() if parser.parse_args().only_report else run()
    stored = json.loads(path.read_text())
    draw(stored)
    fill_readme(table(stored))
    sys.stdout.write(table(stored) + "\n")


if __name__ == "__main__":
    main()
