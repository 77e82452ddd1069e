"""How much less than independent relabellings those of orbits with units say.

Usage: ``python benchmarks/design_effect.py [--seeds 400] [--csv FILE]``

For fixed RDMs, the share of relabellings that reach a threshold varies from seed to seed. Its
variance, divided by that of as many independent relabellings, is the design effect: 1 where orbits
are as good, below 1 where they are better. Thresholds are exceeded by 50, 10 and 1 % of a million
independent relabellings' orbits. Also the ratio of the mean squared standard error that a test
states to the variance between seeds: 1 where it is right, above 1 where it is cautious.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from rsafast_kernels import orbit
from rsafast_kernels.orbit.units import unit_group
from rsafast_kernels.relabel import relabelings
from scipy.spatial.distance import pdist, squareform

from rsafast.permutation.engines import PERMUTED, fixed_relabelings

LEVELS = (0.5, 0.1, 0.01)
CASES = ((101, 5), (120, 2), (404, 5), (720, 4), (1000, 4))  # stimuli, units at least
COUNTS = (2, 2)  # relabellings of either side: the fewest that a test takes


def features(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Points whose order says all, something or nothing of where they are."""
    x = np.arange(n)[:, None]
    points = {
        "line": lambda: x + rng.normal(0, 0.01 * n, (n, 1)),
        "ring": lambda: np.hstack([np.cos(2 * np.pi * x / n), np.sin(2 * np.pi * x / n)])
        + rng.normal(0, 0.1, (n, 2)),
        "sorted clusters": lambda: 5 * np.eye(4)[x[:, 0] * 4 // n] + rng.normal(size=(n, 4)),
        "Gaussian": lambda: rng.normal(size=(n, 5)),
    }
    return points[kind]()


def rdm(points: np.ndarray) -> np.ndarray:
    """Square RDM, centred and of unit length."""
    values = pdist(points)
    values -= values.mean()
    return squareform(values / np.linalg.norm(values))


def statistics(a: np.ndarray, b: np.ndarray, units: np.ndarray, seed: int) -> np.ndarray:
    """Statistics of all relabellings of a test with this seed: (pairs of orders, each)."""
    n = len(a)
    g = relabelings(seed, PERMUTED, 0, COUNTS[0], n)
    r = fixed_relabelings(seed, range(COUNTS[1]), n)
    back = [pow(int(u), -1, n) * np.arange(n) % n for u in units]
    fixed = np.ascontiguousarray(r[:, np.array(back)].reshape(-1, n))
    left = orbit.spectra(a[None], g, side="permuted")
    right = orbit.spectra(b[None], fixed, side="fixed")
    return orbit.correlate(left, right, n).reshape(COUNTS[0] * COUNTS[1], -1)


def measure(kind: str, n: int, units: np.ndarray, related: bool, seeds: int) -> list[dict]:
    """Design effect and ratio of standard errors at every level."""
    rng = np.random.default_rng(n)
    points = features(kind, n, rng)
    a = rdm(points)
    b = rdm(points + rng.normal(0, points.std(), points.shape) if related
            else features(kind, n, rng)[rng.permutation(n)])  # fmt: skip
    one = np.ones(1, np.int64)
    drawn = range(10**6, 10**6 + 10**6 // n // 4)
    null = np.concatenate([statistics(a, b, one, seed).ravel() for seed in drawn])
    limits = np.quantile(null, [1 - level for level in LEVELS])
    shares = np.empty((seeds, len(LEVELS)))
    errors = np.empty((seeds, len(LEVELS)))
    for seed in range(seeds):
        found = statistics(a, b, units, seed)
        of_pair = (found[:, None, :] >= limits[:, None]).mean(axis=2)
        shares[seed] = of_pair.mean(axis=0)
        binomial = shares[seed] * (1 - shares[seed]) / found.size
        errors[seed] = np.maximum(binomial, of_pair.var(axis=0, ddof=1) / len(of_pair))
    p = np.array([(null >= limit).mean() for limit in limits])
    variance = ((shares - p) ** 2).mean(axis=0)
    return [
        {
            "rdms": kind,
            "related": related,
            "stimuli": n,
            "units": len(units),
            "p": level,
            "design_effect": variance[k] * found.size / (p[k] * (1 - p[k])),
            "stated_over_found": errors[:, k].mean() / variance[k],
        }
        for k, level in enumerate(LEVELS)
    ]


def main() -> None:
    """Measure all cases; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    rows = []
    for n, least in CASES:
        for units in (np.ones(1, np.int64), unit_group(n, least)):
            for kind in ("line", "ring", "sorted clusters", "Gaussian"):
                for related in (False, True):
                    rows += measure(kind, n, units, related, given.seeds)
    table = pd.DataFrame(rows)
    if given.csv:
        table.to_csv(given.csv, index=False, float_format="%.3f")
    print(table.groupby(["stimuli", "units", "p"])[["design_effect", "stated_over_found"]]
          .agg(["min", "mean", "max"]).round(2).to_string())  # fmt: skip


if __name__ == "__main__":
    main()
