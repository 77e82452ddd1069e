"""Run benchmarks beside their peers, store the result, draw the figure and the README's tables.

Usage: ``python benchmarks/run.py`` (kernels about ten minutes on two cores, inference half an hour;
stop other work first), ``--suite inference`` for one of them, and ``--only-report`` to draw again
from the newest stored results.
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
# Modules of a suite, and what the names of its stored results start with.
SUITES = {
    "kernels": (("bench_permutation.py", "bench_rank.py", "bench_pairwise.py"), ""),
    "inference": (("bench_inference.py",), "inference-"),
    "training": (("bench_stdp.py", "bench_predictive.py", "bench_training.py"), "training-"),
}
PACKAGES = ("rsafast", "numpy", "scipy", "scikit-bio", "rsatoolbox", "mne-rsa", "numba", "torch",
            "spikingjelly")  # fmt: skip

Row = dict[str, Any]


def run(suite: str) -> Path:
    """Measure, and store what was measured with the machine and the versions."""
    modules, _ = SUITES[suite]
    raw = RESULTS / "raw.json"
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, f"--rootdir={HERE}", "-q",
               f"--benchmark-json={raw}", *(str(HERE / m) for m in modules)]  # fmt: skip
    subprocess.run(command, check=True, env=os.environ | {"RSAFAST_BENCH_LARGE": "1"})
    measured = json.loads(raw.read_text())
    raw.unlink()
    return store(suite, measured)


def store(suite: str, measured: dict[str, Any]) -> Path:
    """Store the report of pytest-benchmark, shortened to what the tables need."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    rows = [
        {
            "name": b["name"],
            "seconds": {k: b["stats"][k] for k in ("min", "median", "max", "rounds")},
            **b["extra_info"],
        }
        for b in measured["benchmarks"]
    ]
    prefix = SUITES[suite][1]
    path = RESULTS / f"{prefix}{stamp}-{platform.machine()}-{os.cpu_count()}cores.json"
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


def newest(suite: str) -> Path:
    """Return the result of a suite that was stored last."""
    return max(RESULTS.glob(f"{SUITES[suite][1]}2*cores.json"))


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


def inference_table(stored: dict[str, Any]) -> str:
    """Markdown table of the bootstraps beside rsatoolbox's, and of the inference of a study."""
    rows = {row["name"]: row for row in stored["benchmarks"]}
    lines = [
        f"Medians on {stored['cores']} cores of an {stored['processor']} ({stored['date']}), after"
        " a check that the same draws give the same similarities:",
        "",
        "| what | rsafast, a resample | rsatoolbox | ratio |",
        "|---|---|---|---|",
    ]
    what = {
        "test_stimulus_bootstrap[{}]": "stimuli, Spearman, 720 stimuli, 10 models × 8 subjects",
        "test_dual_bootstrap[pearson-{}]": "stimuli × subjects with noise ceiling, Pearson, 92"
        " stimuli, 10 models × 20 subjects",
        "test_dual_bootstrap[cosine_cov-{}]": "the same, whitened cosine",
    }
    for name, label in what.items():
        ours, theirs = (rows[name.format(s)]["per_resample"] for s in ("rsafast", "rsatoolbox"))
        lines.append(f"| {label} | {ours * 1e3:.2g} ms | {theirs:.2g} s | {theirs / ours:,.0f}× |")
    study = rows.get("test_trajectory_study")
    if study is not None:
        lines += [
            "",
            "A study of 5 rules × 5 seeds × 8 checkpoints × 4 layers against 18 brain RDMs, 720"
            f" stimuli, Spearman: {study['shuffles']:,} joint shuffles in"
            f" {study['seconds_shuffles'] / 60:.1f} minutes, {study['resamples']:,} resamples of"
            f" stimuli and seeds in {study['seconds_bootstrap'] / 60:.1f} minutes, at most"
            f" {study['peak_bytes'] / 1e9:.1f} GB.",
        ]
    return "\n".join(lines)


def training_table(stored: dict[str, Any]) -> str:
    """Markdown table of the steps of learning rules beside their peers."""
    rows, versions = stored["benchmarks"], stored["versions"]
    lines = [
        f"Medians on {stored['cores']} cores of an {stored['processor']} ({stored['date']}; torch"
        f" {versions['torch']}, SpikingJelly {versions['spikingjelly']}), answers compared first:",
        "",
        "| what | rsafast | beside it | ratio |",
        "|---|---|---|---|",
    ]
    for layer, channels in (("3-32, 32x32", "3→32"), ("32-64, 16x16", "32→64"),
                            ("64-128, 8x8", "64→128")):  # fmt: skip
        ours, theirs = (
            seconds(rows, f"test_stdp_conv2d[{layer}-0.1-{p}]") for p in ("auto", "spikingjelly")
        )
        side = layer.split(", ")[1].replace("x", " × ")
        lines.append(
            f"| STDP of a convolution, {channels}, {side}, 10 steps, 16 images, 10 % spikes |"
            f" {1e3 * ours:.1f} ms | SpikingJelly {1e3 * theirs:,.0f} ms | {theirs / ours:.0f}× |"
        )
    named = {row["name"]: row for row in rows}
    for size, n in ((32, 128), (8, 128)):
        row = named[f"test_feedback_alignment_step[{size}-{n}]"]
        fa, bp = (f"{1e3 * row[f'{rule}_seconds']:.0f} ms" for rule in ("fa", "bp"))
        lines.append(
            f"| feedback alignment, cnn3, {n} images of {size} × {size} | {fa} |"
            f" backpropagation {bp} | {row['ratio']:.2f} of its time |"
        )
    pc, plain, last, prototype = (
        seconds(rows, f"test_predictive_step[{p}-gradients]")
        for p in ("rsafast", "bp", "bp_channels_last", "autograd")
    )
    bp = min(plain, last)  # the faster of its two memory layouts
    lines.append(
        f"| predictive coding, 7 steps, cnn3, 128 images of 32 × 32 | {1e3 * pc:.0f} ms |"
        f" backpropagation {1e3 * bp:.0f} ms, autograd prototype {1e3 * prototype:.0f} ms |"
        f" {pc / bp:.2f} of backpropagation's time; {prototype / pc:.1f}× the prototype |"
    )
    for size, n in ((32, 128), (8, 128), (8, 32)):
        row = named[f"test_five_seeds_stacked[{size}-{n}]"]
        lines.append(
            f"| five seeds stacked, cnn3, {n} images of {size} × {size} |"
            f" {1e3 * row['stacked_seconds']:.0f} ms | one by one {1e3 * row['alone_seconds']:.0f}"
            f" ms | {row['ratio']:.2f}× |"
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


def fill_readme(text: str, marker: str) -> None:
    """Put a table between its markers in the README."""
    start, end = f"<!-- {marker}:start -->", f"<!-- {marker}:end -->"
    readme = README.read_text()
    before, rest = readme.split(start)
    README.write_text(f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}")


def main() -> None:
    """Measure unless told not to, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-report", action="store_true")
    parser.add_argument("--suite", choices=SUITES, help="by default all of them")
    given = parser.parse_args()
    for suite in [given.suite] if given.suite else SUITES:
        path = newest(suite) if given.only_report else run(suite)
        report(suite, json.loads(path.read_text()))


def report(suite: str, stored: dict[str, Any]) -> None:
    """Draw the figure and fill the table of one suite."""
    tables = {
        "kernels": (table, "speed"),
        "inference": (inference_table, "inference-speed"),
        "training": (training_table, "training-speed"),
    }
    make, marker = tables[suite]
    text = make(stored)
    if suite == "kernels":
        draw(stored)
    fill_readme(text, marker)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
