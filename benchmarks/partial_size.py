"""How often partial RSA rejects a true null, by scheme and by strength of the covariate.

Model and brain RDM are mixtures of the covariate RDM and of an RDM of their own; nothing else is
shared. `r2` is the share of the covariate in the variance of both. Every scheme, method and `r2`
sees the same simulated stimuli and the same relabellings.
Usage: ``python benchmarks/partial_size.py`` (four minutes on two cores), or with
``--only-report`` to write the tables again from the stored result.
"""

import argparse
import csv
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from textwrap import fill

import numpy as np
from rsafast_kernels import threads
from rsafast_kernels.relabel import relabelings

import rsafast as rf
from rsafast.comparators import get_comparator
from rsafast.permutation.statistics import build_statistic

HERE = Path(__file__).parent
TABLE = HERE / "results" / "partial_size.csv"
REPORT = TABLE.with_suffix(".md")
METHODS_PAGE = HERE.parent / "docs" / "methods.md"
MARKERS = ("<!-- partial-size:start -->", "<!-- partial-size:end -->")

SIMULATIONS = {12: 5000, 30: 3000, 92: 2000}  # for each number of stimuli
R2 = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
METHODS = ("pearson", "spearman")
SCHEMES = ("freedman-lane", "raw")
ALPHAS = (0.05, 0.01)
RELABELINGS = 499  # and the observed one: alpha * 500 is whole
FEATURES = 10
COLUMNS = ("method", "n", "r2", "scheme", "alpha", "size", "standard_error", "simulations")
CHUNK = 50


def mixtures(n, rng):
    """Covariate RDM, and model and brain RDMs for every `r2` (squared distances add up)."""
    features = rng.standard_normal((3, n, FEATURES))
    parts = rf.compute_rdms(features, "sqeuclidean").vectors
    z, own_model, own_brain = parts / parts.std(axis=1, keepdims=True)
    shared, rest = np.sqrt(R2)[:, None] * z, np.sqrt(1 - R2)[:, None]
    return tuple(
        map(rf.RDMs.from_vectors, (z[None], shared + rest * own_model, shared + rest * own_brain))
    )


def p_values(n, seed):
    """P-values of one simulation, (methods, schemes, r2)."""
    z, models, brain = mixtures(n, np.random.default_rng([n, seed]))
    identity = np.arange(n, dtype=np.int32)[None]
    permutations = np.concatenate([identity, relabelings(seed, n, 0, RELABELINGS, n)])
    out = np.empty((len(METHODS), len(SCHEMES), len(R2)))
    for (i, method), (j, scheme) in product(enumerate(METHODS), enumerate(SCHEMES)):
        statistic = build_statistic(
            get_comparator(method), models, brain, covariates=z, scheme=scheme, rerank=False,
            keep=np.ones(models.vectors.shape[1], dtype=bool),
        )  # fmt: skip
        values = np.einsum("iip->ip", statistic.evaluate(permutations))
        out[i, j] = (values >= values[:, :1] - 1e-11).mean(axis=1)
    return out


def rejections(n, start):
    """Rejections in one chunk of simulations, (methods, schemes, r2, alphas)."""
    with threads(1):
        p = np.array([p_values(n, seed) for seed in range(start, start + CHUNK)])
    return (p[..., None] <= np.array(ALPHAS) + 1e-12).sum(axis=0)


def simulate():
    """Rows of the table."""
    rows = []
    with ProcessPoolExecutor(2) as pool:
        for n, total in SIMULATIONS.items():
            starts = range(0, total, CHUNK)
            counts = sum(pool.map(rejections, [n] * len(starts), starts))
            for index in np.ndindex(counts.shape):
                i, j, k, m = index
                size = counts[index] / total
                error = np.sqrt(size * (1 - size) / total)
                rows.append((METHODS[i], n, R2[k], SCHEMES[j], ALPHAS[m], f"{size:.5f}",
                             f"{error:.5f}", total))  # fmt: skip
    return sorted(rows, key=lambda row: METHODS.index(row[0]))


def markdown(rows):
    """One table for each method: rows n and r2, columns alpha and scheme."""
    size = {(r["method"], r["n"], r["r2"], r["scheme"], r["alpha"]): r["size"] for r in rows}
    columns = list(product(map(str, ALPHAS), SCHEMES))
    names = " | ".join(f"{scheme}, α = {alpha}" for alpha, scheme in columns)
    counts = ", ".join(f"{total:,} at n = {n}" for n, total in SIMULATIONS.items())
    head = (
        "Share of false rejections where the covariate is all that model and brain have in common,"
        " as r² of the variance of each. Squared distances of independent normal features;"
        f" {counts} simulations, {RELABELINGS + 1} relabellings, one-sided"
        " (`benchmarks/partial_size.py`):"
    )
    lines = [fill(head, 100)]
    for method in METHODS:
        lines += ["", f"| {method}: n | r² | {names} |", "|---" * (2 + len(columns)) + "|"]
        for n, r2 in product(map(str, SIMULATIONS), map(str, R2)):
            cells = (f"{float(size[method, n, r2, s, a]):.3f}" for a, s in columns)
            lines.append(f"| {n} | {r2} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", fill(CONCLUSION, 100), ""])


CONCLUSION = (
    "With Pearson both schemes stay near α, and Freedman and Lane's, the default, is the closer:"
    " a covariate that adds linearly cannot move it (at most 0.055 and 0.012, raw 0.059 and 0.016)."
    " With Spearman neither holds once the covariate matters, because the ranks of a sum are not"
    " linear in the ranks of its parts and some of the covariate survives (up to 0.122 and 0.041);"
    " where dissimilarities add, as squared distances do, take Pearson for partial tests."
)


def write_report():
    """Write the tables beside the result, and into the methods page."""
    with TABLE.open(newline="") as file:
        report = markdown(list(csv.DictReader(file)))
    REPORT.write_text(report)
    before, rest = METHODS_PAGE.read_text().split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    METHODS_PAGE.write_text(f"{before}{MARKERS[0]}\n{report}{MARKERS[1]}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-report", action="store_true")
    if not parser.parse_args().only_report:
        rows = simulate()
        with TABLE.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    write_report()
