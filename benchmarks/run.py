"""Run benchmarks beside their peers, store the results, draw the figures and the README's tables.

Usage: ``python benchmarks/run.py`` (kernels about ten minutes on two cores, inference half an hour;
stop other work first), ``--suite inference`` for one of them, and ``--only-report`` to draw again
from the newest stored results. The suite "kernels" is ``rsafast bench --compare``.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rsafast.bench import figures, measure, results, rows
from rsafast.bench.words import duration, si, times
from rsafast.io.provenance import provenance

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
IMAGES = HERE.parent / "docs" / "images" / "bench"
# The pytest-benchmark module of a suite; the kernels are measured by rsafast.bench.
SUITES = {"kernels": None, "inference": "bench_inference.py", "training": "bench_training.py"}


def run(suite: str) -> Path:
    """Measure, and store what was measured with the machine and the versions."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    path = RESULTS / f"{suite}-{stamp}-{platform.machine()}-{os.cpu_count()}cores.json"
    if suite == "kernels":
        results.save(measure.run(rows(scale="default"), compare=True), path)
        return path
    raw = RESULTS / "raw.json"
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, f"--rootdir={HERE}", "-q",
               f"--benchmark-json={raw}", str(HERE / str(SUITES[suite]))]  # fmt: skip
    subprocess.run(command, check=True, env=os.environ | {"RSAFAST_BENCH_LARGE": "1"})
    measured = json.loads(raw.read_text())
    raw.unlink()
    path.write_text(json.dumps(shortened(measured, stamp), indent=1) + "\n")
    return path


def shortened(measured: dict[str, Any], stamp: str) -> dict[str, Any]:
    """The report of pytest-benchmark, as far as the tables need it."""
    return {
        "date": stamp,
        "processor": measured["machine_info"]["cpu"].get("brand_raw", platform.processor()),
        "instruction_set": provenance()["isa"],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": results.versions(),
        "benchmarks": [
            {
                "name": b["name"],
                "seconds": {k: b["stats"][k] for k in ("min", "median", "max", "rounds")},
                **b["extra_info"],
            }
            for b in measured["benchmarks"]
        ],
    }


def newest(suite: str) -> Path:
    """Return the result of a suite that was stored last."""
    stored = sorted(RESULTS.glob(f"{suite}-*cores.json"))
    if not stored:
        sys.exit(f"no stored result of {suite}: run this without --only-report first")
    return stored[-1]


def kernel_table(stored: dict[str, Any]) -> str:
    """Markdown table of every row that has a peer, beside the fastest one."""
    machine, versions, date = stored["machine"], stored["versions"], stored["date"][:10]
    peers = ("scikit-bio", "SciPy", "rsatoolbox", "mne-rsa", "torch", "SpikingJelly")
    told = ", ".join(f"{name} {versions[name.lower()]}" for name in peers)
    lines = [
        f"Medians, {machine['threads']} threads of an {machine['processor']} ({date};"
        f" Python {versions['python']}, {told}), peers at their fastest setting in the same run:",
        "",
        "| what | rsafast | of the machine's limit | fastest peer | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in stored["rows"]:
        peers = [p for p in row["peers"] if p["role"] == "peer" and p["wrong"] is None]
        if row["wrong"] is None and peers:
            fastest = max(peers, key=lambda peer: peer["rate"])
            lines.append(
                f"| {row['kernel']}: {row['name']} | {duration(row['seconds']['median'])},"
                f" {si(row['rate'])} {row['unit']}/s | {100 * row['fraction']:.2g} % |"
                f" {fastest['name']}, {si(fastest['rate'])}/s | {times(fastest['ratio'])} |"
            )
    return "\n".join(lines)


def inference_table(stored: dict[str, Any]) -> str:
    """Markdown table of the bootstraps beside rsatoolbox's, and of the inference of a study."""
    rows = {row["name"]: row for row in stored["benchmarks"]}
    vectors = stored["instruction_set"].removeprefix("cpu_").upper()
    lines = [
        f"Medians on {stored['cores']} cores of an {stored['processor']}"
        f" ({vectors}, {stored['date']}), after a check that the same draws give the"
        " same similarities:",
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
    lines = [
        f"Medians on {stored['cores']} cores of an {stored['processor']} ({stored['date']}; torch"
        f" {stored['versions']['torch']}), answers compared first:",
        "",
        "| what | rsafast | beside it | ratio |",
        "|---|---|---|---|",
    ]
    named = {row["name"]: row for row in stored["benchmarks"]}
    for size, n in ((32, 128), (8, 128)):
        row = named[f"test_feedback_alignment_step[{size}-{n}]"]
        fa, bp = (f"{1e3 * row[f'{rule}_seconds']:.0f} ms" for rule in ("fa", "bp"))
        lines.append(
            f"| feedback alignment, cnn3, {n} images of {size} × {size} | {fa} |"
            f" backpropagation {bp} | {row['ratio']:.2f} of its time |"
        )
    for size, n in ((32, 128), (8, 128), (8, 32)):
        row = named[f"test_five_seeds_stacked[{size}-{n}]"]
        lines.append(
            f"| five seeds stacked, cnn3, {n} images of {size} × {size} |"
            f" {1e3 * row['stacked_seconds']:.0f} ms | one by one {1e3 * row['alone_seconds']:.0f}"
            f" ms | {row['ratio']:.2f}× |"
        )
    return "\n".join(lines)


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
    """Draw the figures and fill the table of one suite."""
    tables = {
        "kernels": (kernel_table, "speed"),
        "inference": (inference_table, "inference-speed"),
        "training": (training_table, "training-speed"),
    }
    make, marker = tables[suite]
    if suite == "kernels":
        figures.draw(stored, IMAGES)
    text = make(stored)
    fill_readme(text, marker)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
